//! What a `tokenizer.json` must look like before the tokenizers crate may build it.
//!
//! The crate trusts its files: some merges, templates and decoders make it panic, sampled merges make it random, and
//! added tokens get other ids than the file states. Here such files become errors, and components that no supported
//! model family uses are refused by name.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use serde::Deserialize;
use serde_json::Value;

use super::oniguruma::translate;
use super::tokenizer_parts::{Engine, byte_letter};
use crate::error::{Error, Result};

/// The facts that the rules learn on the way.
pub(super) struct Facts {
    /// The ids of all tokens that the file marks as special.
    pub(super) special: HashSet<u32>,
    /// One more than the highest id.
    pub(super) vocab_size: usize,
    /// Tokens `<0x00>` to `<0xFF>` by id, where the decoder turns runs of them into characters.
    pub(super) byte_tokens: HashSet<u32>,
    /// The added tokens, which must get the stated ids.
    pub(super) added: Vec<AddedToken>,
    /// Added tokens that are text, not spelled in the letters that stand for bytes.
    pub(super) literal: HashSet<u32>,
    /// Whether the decoder takes letters for bytes.
    pub(super) byte_level: bool,
}

/// An entry of `added_tokens`.
#[derive(Deserialize)]
pub(super) struct AddedToken {
    pub(super) id: u32,
    pub(super) content: String,
    #[serde(default)]
    special: bool,
}

/// The file without its vocabulary.
#[derive(Deserialize)]
struct Frame {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    decoder: Option<Value>,
    model: ModelFrame,
}

#[derive(Deserialize)]
struct ModelFrame {
    #[serde(rename = "type")]
    kind: Option<String>,
    dropout: Option<f64>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_fallback: Option<bool>,
}

#[derive(Deserialize)]
struct VocabularyFile<'a> {
    #[serde(borrow)]
    model: Vocabulary<'a>,
}

#[derive(Deserialize)]
struct Vocabulary<'a> {
    #[serde(borrow)]
    vocab: HashMap<Cow<'a, str>, u32>,
    merges: Vec<Merge>,
}

/// Both spellings of a merge: `["a", "b"]` and `"a b"`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Line(String),
}

impl Merge {
    fn parts(&self) -> Option<(&str, &str)> {
        match self {
            Merge::Pair(left, right) => Some((left, right)),
            Merge::Line(line) => line.split_once(' ').filter(|(_, right)| !right.contains(' ')),
        }
    }
}

/// A field that holds one component, or a sequence of them.
struct Slot {
    field: &'static str,
    /// Where a `Sequence` of this field keeps its parts.
    parts: &'static str,
    known: &'static [&'static str],
}

const NORMALIZER: Slot = Slot {
    field: "normalizer",
    parts: "normalizers",
    known: &["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Prepend", "Replace", "Strip", "StripAccents"],
};
const PRE_TOKENIZER: Slot = Slot {
    field: "pre_tokenizer",
    parts: "pretokenizers",
    known: &["ByteLevel", "Digits", "Metaspace", "Punctuation", "Split", "Whitespace", "WhitespaceSplit"],
};
const POST_PROCESSOR: Slot =
    Slot { field: "post_processor", parts: "processors", known: &["ByteLevel", "TemplateProcessing"] };
const DECODER: Slot = Slot {
    field: "decoder",
    parts: "decoders",
    known: &["ByteFallback", "ByteLevel", "Fuse", "Metaspace", "Replace", "Strip"],
};

/// Checks a whole file. Fails with the field, what was expected and what was found.
pub(super) fn check(json: &[u8]) -> Result<Facts> {
    let frame: Frame = parse(json)?;
    check_model(&frame.model)?;
    let (mut byte_fallback, mut byte_level, mut byte_letters) = (false, false, false);
    NORMALIZER.check(frame.normalizer.as_ref(), &mut check_regex)?;
    PRE_TOKENIZER.check(frame.pre_tokenizer.as_ref(), &mut |kind, part| {
        byte_letters |= kind == "ByteLevel";
        check_regex(kind, part)
    })?;
    POST_PROCESSOR.check(frame.post_processor.as_ref(), &mut check_template)?;
    DECODER.check(frame.decoder.as_ref(), &mut |kind, part| {
        byte_fallback |= kind == "ByteFallback";
        byte_level |= kind == "ByteLevel";
        check_decoder(kind, part)
    })?;
    let Vocabulary { vocab, merges } = parse::<VocabularyFile<'_>>(json)?.model;
    // No character is unknown where each of its bytes is known.
    let all_bytes = |spelled: fn(u8) -> String| (0..=u8::MAX).all(|byte| vocab.contains_key(spelled(byte).as_str()));
    let known = frame.model.byte_fallback == Some(true) && all_bytes(|byte| format!("<0x{byte:02X}>"))
        || byte_letters && all_bytes(|byte| byte_letter(byte).to_string());
    check_vocabulary(&vocab, &merges, frame.model.unk_token.as_deref().filter(|_| !known))?;
    let added = frame.added_tokens;
    let literal = if byte_level { literal(&added, &vocab, &merges) } else { HashSet::new() };
    let model_tokens = vocab.iter().map(|(text, &id)| (text.as_ref(), id));
    let tokens = || model_tokens.clone().chain(added.iter().map(|token| (token.content.as_str(), token.id)));
    Ok(Facts {
        special: added.iter().filter(|token| token.special).map(|token| token.id).collect(),
        vocab_size: tokens().map(|(_, id)| (id as usize).saturating_add(1)).max().unwrap_or(0),
        byte_tokens: tokens().filter(|(text, _)| byte_fallback && is_byte_token(text)).map(|(_, id)| id).collect(),
        added,
        literal,
        byte_level,
    })
}

/// The added tokens that the merges never make: they stand for themselves.
fn literal(added: &[AddedToken], vocab: &HashMap<Cow<'_, str>, u32>, merges: &[Merge]) -> HashSet<u32> {
    let mut own: HashSet<u32> = added.iter().map(|token| token.id).collect();
    let made = merges.iter().filter_map(Merge::parts).map(|(left, right)| format!("{left}{right}"));
    let letters = (0..=u8::MAX).map(|byte| byte_letter(byte).to_string());
    for spelled in made.chain(letters) {
        if let Some(id) = vocab.get(spelled.as_str()) {
            own.remove(id);
        }
    }
    own
}

fn parse<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T> {
    serde_json::from_slice(json).map_err(|error| broken(&error).caused_by(error))
}

pub(super) fn broken(message: impl std::fmt::Display) -> Error {
    Error::format(format!("tokenizer.json: {message}"))
}

fn unsupported(message: impl std::fmt::Display) -> Error {
    Error::unsupported(format!("tokenizer.json: {message}"))
}

fn check_model(model: &ModelFrame) -> Result<()> {
    // Files older than the field `type` hold BPE too, if they have merges.
    if let Some(kind) = model.kind.as_deref().filter(|kind| *kind != "BPE") {
        return Err(unsupported(format!("model \"{kind}\" is not supported; BPE is")));
    }
    if let Some(dropout) = model.dropout.filter(|dropout| *dropout != 0.0) {
        return Err(unsupported(format!("merge dropout {dropout} would make token ids random; expected 0 or null")));
    }
    let affixes = [
        ("continuing_subword_prefix", &model.continuing_subword_prefix),
        ("end_of_word_suffix", &model.end_of_word_suffix),
    ];
    for (key, affix) in affixes {
        if let Some(affix) = affix.as_deref().filter(|affix| !affix.is_empty()) {
            return Err(unsupported(format!("`{key}` \"{affix}\" is not supported; expected none")));
        }
    }
    Ok(())
}

impl Slot {
    /// Checks a component and, where it is a sequence, those inside: that their types are known, and each with `rule`.
    /// Recursion is bounded by the depth that serde_json accepts.
    fn check(&self, component: Option<&Value>, rule: &mut dyn FnMut(&str, &Value) -> Result<()>) -> Result<()> {
        let Some(component) = component else { return Ok(()) };
        let Self { field, parts, known } = self;
        let Some(kind) = component["type"].as_str() else {
            return Err(broken(format!("`{field}`: expected an object with a `type`")));
        };
        if kind == "Sequence" {
            let Some(parts) = component[parts].as_array() else {
                return Err(broken(format!("`{field}`: expected a list `{parts}` in the sequence")));
            };
            return parts.iter().try_for_each(|part| self.check(Some(part), rule));
        }
        if !known.contains(&kind) {
            let known = known.join(", ");
            return Err(unsupported(format!(
                "`{field}` \"{kind}\" is not supported; {known} and sequences of them are"
            )));
        }
        rule(kind, component).map_err(|error| error.within(format!("`{field}`")))
    }
}

/// An empty pattern matches everywhere, which the crate's replacement does not expect.
fn check_pattern(kind: &str, part: &Value) -> Result<()> {
    let pattern = &part["pattern"];
    let empty = |key: &str| pattern[key].as_str() == Some("");
    if empty("String") || empty("Regex") {
        return Err(broken(format!("{kind}: the pattern is empty")));
    }
    Ok(())
}

/// A regular expression must be one that the engine here reads as Oniguruma does.
fn check_regex(kind: &str, part: &Value) -> Result<()> {
    check_pattern(kind, part)?;
    let Some(pattern) = part["pattern"]["Regex"].as_str() else { return Ok(()) };
    Engine::new(pattern).map(|_| ()).map_err(|error| {
        unsupported(format!("{kind}: the regular expression {pattern:?} cannot be run as its makers run it: {error}"))
    })
}

/// Decoders are the crate's, which knows no errors of a regular expression: there it can only be plain text.
fn check_decoder_regex(kind: &str, part: &Value) -> Result<()> {
    let Some(pattern) = part["pattern"]["Regex"].as_str() else { return Ok(()) };
    translate(pattern).map_err(|error| broken(format!("{kind}: the regular expression {pattern:?}: {error}")))?;
    if pattern.contains(|c: char| "\\.[]{}()*+?^$|".contains(c)) {
        return Err(unsupported(format!(
            "{kind}: the regular expression {pattern:?} is not supported in a decoder; plain text is"
        )));
    }
    Ok(())
}

fn check_template(kind: &str, part: &Value) -> Result<()> {
    if kind != "TemplateProcessing" {
        return Ok(());
    }
    let pieces = part["single"].as_array().ok_or_else(|| broken("TemplateProcessing: expected a list `single`"))?;
    for piece in pieces {
        if let Some(id) = piece["SpecialToken"]["id"].as_str()
            && part["special_tokens"].get(id).is_none()
        {
            return Err(broken(format!("TemplateProcessing: the token \"{id}\" is used, but not in `special_tokens`")));
        }
        if piece["Sequence"]["id"].as_str() == Some("B") {
            return Err(broken("TemplateProcessing: `single` asks for a second text"));
        }
    }
    Ok(())
}

fn check_decoder(kind: &str, part: &Value) -> Result<()> {
    check_pattern(kind, part)?;
    check_decoder_regex(kind, part)?;
    // Only the one space that sentencepiece puts before a text: more could not be streamed.
    let stripped = |key: &str| part[key].as_u64().unwrap_or(0);
    if kind == "Strip" && (stripped("start") > 1 || stripped("stop") > 0) {
        return Err(unsupported("Strip: expected `start` 0 or 1 and `stop` 0"));
    }
    Ok(())
}

fn check_vocabulary(vocab: &HashMap<Cow<'_, str>, u32>, merges: &[Merge], unk_token: Option<&str>) -> Result<()> {
    let ids: HashSet<u32> = vocab.values().copied().collect();
    if ids.len() != vocab.len() {
        return Err(broken(format!("{} tokens share {} ids; expected one id each", vocab.len(), ids.len())));
    }
    if let Some(unk) = unk_token.filter(|unk| !vocab.contains_key(*unk)) {
        return Err(broken(format!("the unknown token \"{unk}\" is not in the vocabulary")));
    }
    let mut whole = String::new();
    for (rank, merge) in merges.iter().enumerate() {
        if matches!(merge, Merge::Line(line) if line.starts_with("#version")) {
            continue;
        }
        let Some((left, right)) = merge.parts() else {
            return Err(broken(format!("merge {rank}: expected two tokens")));
        };
        whole.clear();
        whole.extend([left, right]);
        if let Some(unknown) = [left, right, &whole].into_iter().find(|token| !vocab.contains_key(*token)) {
            return Err(broken(format!("merge {rank}: token \"{unknown}\" is not in the vocabulary")));
        }
    }
    Ok(())
}

fn is_byte_token(text: &str) -> bool {
    let digits = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}
