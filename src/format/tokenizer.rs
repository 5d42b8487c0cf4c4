//! `tokenizer.json`: text to token ids and back.
//!
//! The work is done by the tokenizers crate at one exact version, on files that were checked first: the crate trusts them.

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

use tokenizers::Decoder;

use super::json;
use super::tokenizer_parts::{Parts, byte_letter};
use super::tokenizer_rules::{self as rules, AddedToken, Facts};
use crate::error::{Error, Result};

/// A tokenizer. Encoding does not depend on earlier calls.
#[derive(Debug)]
pub struct Tokenizer {
    inner: Parts,
    /// The same, but blind to special tokens; made when first needed.
    blind: OnceLock<Parts>,
    /// Added tokens that a byte-level decoder would take for bytes, as it spells their text.
    spelled: HashMap<u32, String>,
    special: HashSet<u32>,
    byte_tokens: HashSet<u32>,
    vocab_size: usize,
}

impl Tokenizer {
    /// Builds the tokenizer from the bytes of a `tokenizer.json`. Truncation and padding stored in the file are dropped:
    /// a prompt is used whole.
    ///
    /// Fails, naming the field, when the file is broken or uses a component that is not supported.
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        let bytes = &json::plain(bytes)[..];
        let Facts { special, vocab_size, byte_tokens, added, literal } = rules::check(bytes)?;
        let mut inner: Parts = serde_json::from_slice(bytes).map_err(|error| rules::broken(&error).caused_by(error))?;
        check_added_ids(&inner, &added)?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| rules::broken(&error).caused_by(error))?;
        let letters = |text: String| text.bytes().map(byte_letter).collect();
        let spelled = literal.iter().filter_map(|&id| Some((id, letters(inner.id_to_token(id)?)))).collect();
        Ok(Self { inner, blind: OnceLock::new(), spelled, special, byte_tokens, vocab_size })
    }

    /// The ids of `text`, with the tokens that the file puts around a text (such as a first `<s>`) if `add_special`.
    ///
    /// This is the tokenizer's own encode, as a raw prompt expects: where the text spells a special token, such as
    /// `</s>`, it becomes that token. Text that must not be able to do so goes through
    /// [`encode_as_text`](Self::encode_as_text).
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        encode(&self.inner, text, add_special)
    }

    /// The ids of `text` without any special token, whatever it spells: for text from users inside a template.
    pub fn encode_as_text(&self, text: &str) -> Result<Vec<u32>> {
        let blind = self.blind.get_or_init(|| {
            let mut blind = self.inner.clone();
            blind.set_encode_special_tokens(true);
            blind
        });
        encode(blind, text, false)
    }

    /// The text of `ids`, without special tokens if `skip_special`. Ids outside the vocabulary are left out; bytes that are
    /// not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let shown = ids.iter().filter(|id| !(skip_special && self.is_special(**id)));
        let token = |id: &u32| self.spelled.get(id).cloned().or_else(|| self.inner.id_to_token(*id));
        let tokens: Vec<String> = shown.filter_map(token).collect();
        match self.inner.get_decoder() {
            Some(decoder) => decoder
                .decode(tokens)
                .map_err(|error| Error::format(format!("cannot decode token ids: {error}")).caused_by(error)),
            None => Ok(tokens.join(" ")),
        }
    }

    /// One more than the highest token id. A model's `vocab_size` may be larger (padding), or smaller (tokens added later).
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// How the vocabulary spells the token, such as `Ġthe` or `<0x0A>`; `None` for an id that it does not have.
    pub fn token_text(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Whether the file marks the token as special.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    /// Whether the token stands for one byte, and a run of such tokens for characters.
    pub(super) fn is_byte(&self, id: u32) -> bool {
        self.byte_tokens.contains(&id)
    }

    /// Whether decoding takes the id into account.
    pub(super) fn is_visible(&self, id: u32, skip_special: bool) -> bool {
        let skipped = skip_special && self.is_special(id);
        !skipped && self.inner.id_to_token(id).is_some()
    }
}

fn encode(tokenizer: &Parts, text: &str, add_special: bool) -> Result<Vec<u32>> {
    match tokenizer.encode(text, add_special) {
        Ok(encoding) => Ok(encoding.get_ids().to_vec()),
        Err(error) => Err(Error::format(format!("cannot turn the text into token ids: {error}"))),
    }
}

/// The crate numbers added tokens itself and only warns when a file states other ids.
fn check_added_ids(tokenizer: &Parts, added: &[AddedToken]) -> Result<()> {
    for AddedToken { id, content, .. } in added {
        let got = tokenizer.token_to_id(content);
        if got != Some(*id) {
            let got = got.map_or("no id".to_owned(), |got| format!("id {got}"));
            return Err(rules::broken(format!("added token \"{content}\": expected id {id}, but it gets {got}")));
        }
    }
    Ok(())
}
