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
    /// The same tokenizer, but blind to special tokens; made when first needed.
    blind: OnceLock<Parts>,
    /// The tokens that the file puts before and after a text; found out when first needed.
    around: OnceLock<[Vec<u32>; 2]>,
    /// Added tokens that a byte-level decoder would take for bytes, as it spells their text.
    spelled: HashMap<u32, String>,
    special: HashSet<u32>,
    byte_tokens: HashSet<u32>,
    /// Whether the decoder takes letters for bytes.
    byte_level: bool,
    vocab_size: usize,
}

impl Tokenizer {
    /// Builds the tokenizer from the bytes of a `tokenizer.json`. Truncation and padding stored in the file are dropped:
    /// a prompt is used whole.
    ///
    /// Fails, naming the field, when the file is broken or uses a component that is not supported.
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        let bytes = &json::plain(bytes)[..];
        let Facts { special, vocab_size, byte_tokens, added, literal, byte_level } = rules::check(bytes)?;
        let mut inner: Parts = serde_json::from_slice(bytes).map_err(|error| rules::broken(&error).caused_by(error))?;
        check_added_ids(&inner, &added)?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| rules::broken(&error).caused_by(error))?;
        let letters = |text: String| text.bytes().map(byte_letter).collect();
        let spelled = literal.iter().filter_map(|&id| Some((id, letters(inner.id_to_token(id)?)))).collect();
        Ok(Self {
            inner,
            blind: OnceLock::new(),
            around: OnceLock::new(),
            spelled,
            special,
            byte_tokens,
            byte_level,
            vocab_size,
        })
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
        self.decode_but(ids, |id| skip_special && self.is_special(id))
    }

    /// The text of `ids` without those that are to be left out.
    pub(super) fn decode_but(&self, ids: &[u32], left_out: impl Fn(u32) -> bool) -> Result<String> {
        let shown = ids.iter().filter(|id| !left_out(**id));
        let token = |id: &u32| self.spelled.get(id).cloned().or_else(|| self.inner.id_to_token(*id));
        let tokens: Vec<String> = shown.filter_map(token).collect();
        match self.inner.get_decoder() {
            Some(decoder) => decoder
                .decode(tokens)
                .map_err(|error| Error::format(format!("cannot decode token ids: {error}")).caused_by(error)),
            None => Ok(tokens.join(" ")),
        }
    }

    /// Notes on the special tokens around `ids`, which [`encode`](Self::encode) made of a text: two start tokens at its beginning, or
    /// an end token at its end. They are those of transformers all the same.
    pub fn notes(&self, ids: &[u32]) -> Vec<String> {
        let [before, after] = self.around();
        let spelled = |tokens: &[u32]| tokens.iter().filter_map(|&id| self.token_text(id)).collect::<String>();
        let mut notes = Vec::new();
        if !before.is_empty() && ids.strip_prefix(&before[..]).is_some_and(|rest| rest.starts_with(before)) {
            let start = spelled(before);
            notes.push(format!(
                "the text begins with \"{start}\", which the tokenizer puts there too: now it is there twice"
            ));
        }
        if !after.is_empty() && ids.ends_with(after) {
            notes
                .push(format!("the tokenizer puts \"{}\" after every text: the token ids end with it", spelled(after)));
        }
        notes
    }

    /// The tokens before and after a text.
    fn around(&self) -> &[Vec<u32>; 2] {
        self.around.get_or_init(|| {
            let [with, text] = [true, false].map(|special| self.encode("a", special).unwrap_or_default());
            let begins = |&at: &usize| with[at..].starts_with(&text);
            let at = (0..=with.len().saturating_sub(text.len())).find(begins).filter(|_| !text.is_empty());
            at.map_or_else(Default::default, |at| [with[..at].to_vec(), with[at + text.len()..].to_vec()])
        })
    }

    /// How many bytes of a text the token stands for; special tokens for none.
    pub fn byte_len(&self, id: u32) -> usize {
        match self.token_text(id) {
            _ if self.is_special(id) => 0,
            None => 0,
            Some(_) if self.is_byte(id) => 1,
            Some(text) if self.byte_level && !self.spelled.contains_key(&id) => text.chars().count(),
            Some(_) => self.decode(&[id], true).map_or(0, |text| text.len()),
        }
    }

    /// How many of a text's `bytes` the tokens after the first stand for: of the first nobody knows a probability, as nothing comes
    /// before it. `ids` are the text's with the tokens around it.
    pub fn bytes_after_first(&self, ids: &[u32], bytes: usize) -> usize {
        bytes.saturating_sub(ids.first().map_or(0, |&first| self.byte_len(first)))
    }

    /// Special tokens that can be a part of one of these texts.
    pub(crate) fn special_in(&self, texts: &[String]) -> HashSet<u32> {
        let touch = |token: &str, text: &str| {
            let overlap = |a: &str, b: &str| a.char_indices().any(|(at, _)| b.starts_with(&a[at..]));
            text.contains(token) || token.contains(text) || overlap(token, text) || overlap(text, token)
        };
        let part = |id: &u32| {
            let token = self.decode(&[*id], false).unwrap_or_default();
            !token.is_empty() && texts.iter().any(|text| touch(&token, text))
        };
        self.special.iter().copied().filter(part).collect()
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

    /// Whether there is a token of this id.
    pub(super) fn has(&self, id: u32) -> bool {
        self.inner.id_to_token(id).is_some()
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
