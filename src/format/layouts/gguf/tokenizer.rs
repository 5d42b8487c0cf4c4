//! The tokenizer that metadata describes, as the `tokenizer.json` that says the same.
//!
//! Ids are those of transformers' own reading of such files. Where that leaves out what the model's `tokenizer.json` has and llama.cpp
//! does, they are those of the latter two: digits one by one in `smollm`, whole words first and a start token in the kin of Llama 3, no
//! space before a text where the file says so, and control tokens that are not spelled in the letters for bytes.

mod merges;

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::error::{Error, Result, counted};
use crate::format::gguf::{Gguf, List};
use crate::format::tokenizer::Tokenizer;
use crate::format::tokenizer_parts::byte_letter;

pub(super) const MODEL: &str = "tokenizer.ggml.model";
pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
pub(super) const TYPES: &str = "tokenizer.ggml.token_type";
pub(super) const SCORES: &str = "tokenizer.ggml.scores";
pub(super) const MERGES: &str = "tokenizer.ggml.merges";
pub(super) const PRE: &str = "tokenizer.ggml.pre";

/// More tokens than any vocabulary has.
const MAX_TOKENS: usize = 1 << 22;

/// Types of tokens.
pub(super) const UNKNOWN: u64 = 2;
pub(super) const CONTROL: u64 = 3;
pub(super) const USER_DEFINED: u64 = 4;

/// Architectures whose vocabulary is Gemma's.
const GEMMAS: [&str; 3] = ["gemma", "gemma2", "gemma3"];

const CONTRACTIONS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const REST: &str = r"\s*[\r\n]+|\s+(?!\S)|\s+";

/// A way to split texts before their bytes are looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Split {
    Gpt2,
    /// Each digit alone, then as GPT-2.
    Digits,
    /// Digits by threes.
    Llama3 {
        whole_words: bool,
    },
    Qwen2,
    Qwen35,
    Tekken,
}

/// The names of splits in files.
const SPLITS: &[(&str, Split)] = &[
    ("default", Split::Gpt2),
    ("gpt-2", Split::Gpt2),
    ("smollm", Split::Digits),
    ("llama-bpe", Split::Llama3 { whole_words: true }),
    ("llama3", Split::Llama3 { whole_words: true }),
    ("llama-v3", Split::Llama3 { whole_words: true }),
    ("falcon3", Split::Llama3 { whole_words: true }),
    ("pixtral", Split::Llama3 { whole_words: true }),
    ("smaug-bpe", Split::Llama3 { whole_words: false }),
    ("dbrx", Split::Llama3 { whole_words: false }),
    ("qwen2", Split::Qwen2),
    ("deepseek-r1-qwen", Split::Qwen2),
    ("megrez", Split::Qwen2),
    ("qwen35", Split::Qwen35),
    ("tekken", Split::Tekken),
];

impl Split {
    fn of(gguf: &Gguf) -> Result<Self> {
        let name = gguf.text(PRE)?.unwrap_or("default");
        let known = SPLITS.iter().find(|(known, _)| *known == name).map(|(_, split)| *split);
        known.ok_or_else(|| {
            let known: Vec<&str> = SPLITS.iter().map(|(name, _)| *name).collect();
            let known = known.join(", ");
            Error::unsupported(format!("{}: `{PRE}` \"{name}\" is not supported; there are: {known}", gguf.file()))
        })
    }

    fn pattern(self) -> Option<String> {
        Some(match self {
            Self::Gpt2 | Self::Digits => return None,
            Self::Llama3 { .. } => {
                format!(
                    r"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{REST}"
                )
            }
            Self::Qwen2 => {
                format!(r"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{REST}")
            }
            Self::Qwen35 => format!(
                r"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{REST}"
            ),
            Self::Tekken => {
                let (upper, lower) = (r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}");
                let before = r"[^\r\n\p{L}\p{N}]?";
                format!(
                    r"{before}[{upper}]*[{lower}]+|{before}[{upper}]+[{lower}]*|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{REST}"
                )
            }
        })
    }

    fn pre_tokenizer(self) -> Value {
        let bytes = |splits: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": splits});
        let first = match self.pattern() {
            Some(pattern) => {
                json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
            }
            None if self == Self::Digits => json!({"type": "Digits", "individual_digits": true}),
            None => return bytes(true),
        };
        json!({"type": "Sequence", "pretokenizers": [first, bytes(self == Self::Digits)]})
    }

    /// The name in files of the split that a `pre_tokenizer` is, where whole words come first or not.
    pub(super) fn name_of(pre_tokenizer: &Value, whole_words: bool) -> Option<&'static str> {
        let wanted = essential(pre_tokenizer);
        let is_it =
            |split: &Self| split.takes_whole_words() == whole_words && essential(&split.pre_tokenizer()) == wanted;
        // Some programs warn of "default".
        let mut names = SPLITS.iter().filter(|(name, _)| *name != "default");
        names.find(|(_, split)| is_it(split)).map(|(name, _)| *name)
    }

    fn takes_whole_words(self) -> bool {
        self.is_llama3() || self == Self::Tekken
    }

    fn is_llama3(self) -> bool {
        self == Self::Llama3 { whole_words: true }
    }
}

/// A component with what ids depend on: offsets are not asked for, and older files leave out what is the rule.
fn essential(component: &Value) -> Value {
    let mut component = component.clone();
    if let Some(fields) = component.as_object_mut() {
        fields.remove("trim_offsets");
        if fields.get("type").is_some_and(|kind| kind == "ByteLevel") {
            fields.entry("use_regex").or_insert(true.into());
        }
    }
    if let Some(parts) = component.get_mut("pretokenizers").and_then(Value::as_array_mut) {
        parts.iter_mut().for_each(|part| *part = essential(part));
    }
    component
}

/// Whether the file has a tokenizer.
pub(super) fn is_in(gguf: &Gguf) -> bool {
    gguf.keys().any(|key| key == TOKENS)
}

/// Builds the tokenizer.
pub(super) fn build(gguf: &Gguf) -> Result<Tokenizer> {
    let json = match gguf.text(MODEL)? {
        None => {
            let message = format!("`{MODEL}` is missing; without a tokenizer there are token ids, but no text");
            return Err(Error::format(format!("{}: {message}", gguf.file())));
        }
        Some("gpt2") => byte_level(gguf)?,
        Some("llama") => sentencepiece(gguf)?,
        Some(other) => {
            let message = format!("`{MODEL}` \"{other}\" is not supported; there are: gpt2, llama");
            return Err(Error::unsupported(format!("{}: {message}", gguf.file())));
        }
    };
    Tokenizer::from_json(&json).map_err(|error| error.within(format!("{}: its tokenizer, read as", gguf.file())))
}

/// The vocabulary of a file.
struct Vocabulary<'a> {
    gguf: &'a Gguf,
    tokens: Vec<Cow<'a, str>>,
    types: Vec<u64>,
    /// Ids of tokens that the file names: those that begin and end texts, the unknown one, and padding.
    named: [Option<usize>; 4],
}

impl<'a> Vocabulary<'a> {
    fn read(gguf: &'a Gguf) -> Result<Self> {
        let missing = || gguf.broken(TOKENS, "expected a list of tokens, got nothing");
        let list = gguf.texts(TOKENS)?.ok_or_else(missing)?;
        if list.len() > MAX_TOKENS {
            return Err(
                gguf.broken(TOKENS, &format!("expected at most {}, got {}", counted(MAX_TOKENS, "token"), list.len()))
            );
        }
        let mut tokens = Vec::with_capacity(list.len());
        for (id, token) in list.texts().enumerate() {
            let text = str::from_utf8(token);
            tokens.push(Cow::Borrowed(text.map_err(|_| gguf.broken(TOKENS, &format!("token {id} is not UTF-8")))?));
        }
        let types = match numbers(gguf, TYPES, tokens.len())? {
            Some(list) => list.numbers().map(|number| number.as_u64().unwrap_or_default()).collect(),
            None => vec![0; tokens.len()],
        };
        let mut named = [None; 4];
        for (id, key) in named.iter_mut().zip(["bos_token_id", "eos_token_id", "unknown_token_id", "padding_token_id"])
        {
            let key = format!("tokenizer.ggml.{key}");
            *id = gguf.whole(&key)?.map(|id| id as usize);
            if let Some(id) = id.filter(|id| *id >= tokens.len()) {
                return Err(gguf.broken(&key, &format!("{id} lies outside the vocabulary of {} tokens", tokens.len())));
            }
        }
        Ok(Self { gguf, tokens, types, named })
    }

    /// Whether a token is found in texts before they are split, and whether it is special.
    fn added(&self, id: usize) -> Option<bool> {
        let special = matches!(self.types[id], CONTROL | UNKNOWN) || self.named.contains(&Some(id));
        (special || self.types[id] == USER_DEFINED).then_some(special)
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool> {
        Ok(self.gguf.flag(&format!("tokenizer.ggml.{key}"))?.unwrap_or(default))
    }

    /// The tokens around a text.
    fn template(&self, begins: bool) -> Result<Value> {
        let [bos, eos, ..] = self.named;
        let token = |id: usize| json!({"SpecialToken": {"id": self.tokens[id], "type_id": 0}});
        let before = bos.filter(|_| begins);
        let after = if self.flag("add_eos_token", false)? { eos } else { None };
        if before.or(after).is_none() {
            return Ok(Value::Null);
        }
        let mut tokens = serde_json::Map::new();
        for id in before.iter().chain(&after) {
            let text = &self.tokens[*id];
            tokens.insert(text.to_string(), json!({"id": text, "ids": [id], "tokens": [text]}));
        }
        let text = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
        let single: Vec<Value> = before.map(token).into_iter().chain([text("A")]).chain(after.map(token)).collect();
        Ok(
            json!({"type": "TemplateProcessing", "single": single, "pair": [text("A"), text("B")], "special_tokens": tokens}),
        )
    }

    /// The whole file: `parts` are those beside the vocabulary, `model` what the model has beside it.
    fn file(&self, parts: &Value, model: &Value, merges: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(merges.len() + 24 * self.tokens.len());
        let open = |out: &mut Vec<u8>, value: &Value| {
            let text = value.to_string();
            out.extend_from_slice(&text.as_bytes()[..text.len() - 1]);
        };
        open(&mut out, parts);
        out.extend_from_slice(b",\"added_tokens\":[");
        let mut first = true;
        for (id, text) in self.tokens.iter().enumerate() {
            let Some(special) = self.added(id) else { continue };
            let token = json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": special});
            separate(&mut out, &mut first);
            out.extend_from_slice(token.to_string().as_bytes());
        }
        out.extend_from_slice(b"],\"model\":");
        open(&mut out, model);
        out.extend_from_slice(b",\"vocab\":{");
        let mut first = true;
        for (id, text) in self.tokens.iter().enumerate() {
            separate(&mut out, &mut first);
            push_text(&mut out, text);
            out.extend_from_slice(format!(":{id}").as_bytes());
        }
        out.extend_from_slice(b"},\"merges\":[");
        out.extend_from_slice(merges);
        out.extend_from_slice(b"]}}");
        out
    }
}

fn separate(out: &mut Vec<u8>, first: &mut bool) {
    if !std::mem::take(first) {
        out.push(b',');
    }
}

/// Adds a string of JSON.
fn push_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(Value::from(text).to_string().as_bytes());
}

/// A list of numbers, one a token.
fn numbers<'a>(gguf: &'a Gguf, key: &str, tokens: usize) -> Result<Option<List<'a>>> {
    let list = gguf.numbers(key)?;
    match list.filter(|list| list.len() != tokens) {
        Some(list) => Err(gguf.broken(key, &format!("expected {tokens} numbers, one a token, got {}", list.len()))),
        None => Ok(list),
    }
}

/// The merges that the file lists, as items of JSON.
fn listed(list: List<'_>, gguf: &Gguf) -> Result<Vec<u8>> {
    let (mut out, mut first) = (Vec::new(), true);
    for (rank, merge) in list.texts().enumerate() {
        let text = str::from_utf8(merge).map_err(|_| gguf.broken(MERGES, &format!("merge {rank} is not UTF-8")))?;
        separate(&mut out, &mut first);
        push_text(&mut out, text);
    }
    Ok(out)
}

/// BPE over letters that stand for bytes.
fn byte_level(gguf: &Gguf) -> Result<Vec<u8>> {
    let mut vocabulary = Vocabulary::read(gguf)?;
    let split = Split::of(gguf)?;
    let letters: Vec<char> = (0..=u8::MAX).map(byte_letter).collect();
    for id in 0..vocabulary.tokens.len() {
        // What is found in texts as it is has to be spelled as it is.
        if vocabulary.added(id).is_some() || vocabulary.tokens[id].chars().all(|letter| letters.contains(&letter)) {
            continue;
        }
        let spelled: String = vocabulary.tokens[id].bytes().map(|byte| letters[usize::from(byte)]).collect();
        vocabulary.tokens[id] = spelled.into();
    }
    let merges = gguf.texts(MERGES)?.ok_or_else(|| gguf.broken(MERGES, "expected a list of merges, got nothing"))?;
    let begins = vocabulary.flag("add_bos_token", split.is_llama3())?;
    let parts = json!({
        "normalizer": null,
        "pre_tokenizer": split.pre_tokenizer(),
        "post_processor": vocabulary.template(begins)?,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
    });
    let whole_words = split.takes_whole_words();
    let model = json!({"type": "BPE", "fuse_unk": false, "byte_fallback": false, "ignore_merges": whole_words});
    Ok(vocabulary.file(&parts, &model, &listed(merges, gguf)?))
}

/// SentencePiece's BPE: spaces are `▁`, and bytes stand for what is in no token.
fn sentencepiece(gguf: &Gguf) -> Result<Vec<u8>> {
    let mut vocabulary = Vocabulary::read(gguf)?;
    let gemma = gguf.text("general.architecture")?.is_some_and(|name| GEMMAS.contains(&name));
    if gemma {
        respell_spaces(&mut vocabulary);
    }
    let merges = match gguf.texts(MERGES)? {
        Some(list) => listed(list, gguf)?,
        None => {
            let count = vocabulary.tokens.len();
            let scores: Vec<f64> = match numbers(gguf, SCORES, count)?.filter(|_| !gemma) {
                Some(list) => list.numbers().map(|score| score.as_f64().unwrap_or(f64::MIN)).collect(),
                // Gemma's scores do not follow the order of its merges; its tokens do.
                None if gemma => (0..count).map(|id| -(id as f64)).collect(),
                None => return Err(gguf.broken(SCORES, "expected a list of numbers, got nothing")),
            };
            merges::derive(&vocabulary.tokens, &scores).map_err(|message| gguf.broken(TOKENS, &message))?
        }
    };
    let prefix = vocabulary.flag("add_space_prefix", !gemma)?;
    let space = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
    let mut decoders = vec![space, json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
    if prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let (normalizer, pre_tokenizer) = match gemma && !prefix {
        true => (
            json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}),
            json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false}),
        ),
        false => {
            let scheme = if prefix { "first" } else { "never" };
            (Value::Null, json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false}))
        }
    };
    let parts = json!({
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": vocabulary.template(vocabulary.flag("add_bos_token", true)?)?,
        "decoder": {"type": "Sequence", "decoders": decoders},
    });
    let unknown = vocabulary.named[2].map(|id| vocabulary.tokens[id].clone());
    let model =
        json!({"type": "BPE", "unk_token": unknown, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false});
    Ok(vocabulary.file(&parts, &model, &merges))
}

/// Writes runs of spaces as merges make them: files of Gemma have them as spaces.
fn respell_spaces(vocabulary: &mut Vocabulary<'_>) {
    for (token, kind) in vocabulary.tokens.iter_mut().zip(&mut vocabulary.types) {
        if token.contains(' ') && token.trim().is_empty() {
            *token = "▁".repeat(token.chars().count()).into();
            // Texts have no such token before spaces are replaced.
            if *kind == USER_DEFINED {
                *kind = 0;
            }
        }
    }
}
