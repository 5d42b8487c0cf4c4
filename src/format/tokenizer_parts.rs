//! The parts of a tokenizer that run patterns, in the place of the tokenizers crate's.
//!
//! The crate takes an engine's error for the end of the matches, and hands the engine patterns that were written for another one.
//! Here patterns are [translated](super::oniguruma) when the file is read, and an error of the engine is an error of the call.

use std::error::Error as StdError;
use std::sync::{Arc, LazyLock};

use fancy_regex::RegexBuilder;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tokenizers::pattern::{Invert, Pattern};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    DecoderWrapper, ModelWrapper, NormalizedString, Normalizer, NormalizerWrapper, Offsets, PostProcessorWrapper,
    PreTokenizedString, PreTokenizer, PreTokenizerWrapper, SplitDelimiterBehavior, TokenizerImpl,
};

use super::oniguruma;

/// The crate's tokenizer with these parts.
pub(super) type Parts = TokenizerImpl<ModelWrapper, Normalizing, PreTokenizing, PostProcessorWrapper, DecoderWrapper>;

/// The letter that stands for a byte in byte-level vocabularies: of what can be seen the character itself, of the others those from
/// U+0100 on, in order.
pub(super) fn byte_letter(byte: u8) -> char {
    let visible = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if visible(&byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|other| !visible(other)).count();
    char::from_u32(0x100 + before as u32).unwrap_or(char::REPLACEMENT_CHARACTER)
}

type Cause = Box<dyn StdError + Send + Sync>;

/// What GPT-2 splits texts with, and whoever asks for `ByteLevel` without a pattern of his own.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

static GPT2_ENGINE: LazyLock<Result<Engine, String>> = LazyLock::new(|| Engine::new(GPT2));

/// Steps back that a match may take. Oniguruma allows ten million too.
const MOST_STEPS: usize = 10_000_000;

/// A pattern, ready to be matched.
#[derive(Clone, Debug)]
pub(super) struct Engine(Arc<fancy_regex::Regex>);

impl Engine {
    /// Compiles a pattern as tokenizers write it.
    pub(super) fn new(pattern: &str) -> Result<Self, String> {
        let translated = oniguruma::translate(pattern)?;
        let regex = RegexBuilder::new(&translated).backtrack_limit(MOST_STEPS).build();
        regex.map(|regex| Self(Arc::new(regex))).map_err(|error| error.to_string())
    }
}

impl Pattern for &Engine {
    fn find_matches(&self, inside: &str) -> Result<Vec<(Offsets, bool)>, Cause> {
        if inside.is_empty() {
            return Ok(vec![((0, 0), false)]);
        }
        let (mut all, mut end) = (Vec::new(), 0);
        for found in self.0.find_iter(inside) {
            let found = found.map_err(|error| gave_up(&error, inside.len(), end))?;
            if end != found.start() {
                all.push(((end, found.start()), false));
            }
            end = found.end();
            all.push(((found.start(), end), true));
        }
        if end != inside.len() {
            all.push(((end, inside.len()), false));
        }
        Ok(all)
    }
}

fn gave_up(error: &fancy_regex::Error, length: usize, at: usize) -> String {
    format!(
        "the regex engine gave up on the split pattern at byte {at} of {length} ({error}): is there a run of a million spaces or \
         letters? Take it out of the text"
    )
}

/// The engine of a component's pattern where that is a regular expression; `None` where it is plain text.
fn engine(component: &Value) -> Result<Option<Engine>, String> {
    component["pattern"]["Regex"].as_str().map(Engine::new).transpose()
}

fn list(component: &Value, name: &str) -> Vec<Value> {
    component[name].as_array().cloned().unwrap_or_default()
}

fn crate_part<T: for<'a> Deserialize<'a>>(component: Value) -> Result<T, String> {
    serde_json::from_value(component).map_err(|error| error.to_string())
}

/// The component `pre_tokenizer`.
#[derive(Clone, Debug)]
pub(super) enum PreTokenizing {
    Sequence(Vec<Self>),
    Split {
        engine: Engine,
        behavior: SplitDelimiterBehavior,
        invert: bool,
    },
    /// With GPT-2's pattern.
    ByteLevel {
        engine: Engine,
        prefix: bool,
    },
    Crates(PreTokenizerWrapper),
}

impl PreTokenizing {
    fn new(component: Value) -> Result<Self, String> {
        match component["type"].as_str() {
            Some("Sequence") => list(&component, "pretokenizers")
                .into_iter()
                .map(Self::new)
                .collect::<Result<_, _>>()
                .map(Self::Sequence),
            Some("Split") => match engine(&component)? {
                Some(engine) => Ok(Self::Split {
                    engine,
                    behavior: crate_part(component["behavior"].clone())?,
                    invert: crate_part(component["invert"].clone())?,
                }),
                None => crate_part(component).map(Self::Crates),
            },
            Some("ByteLevel") => {
                let ByteLevel { add_prefix_space, use_regex, .. } = crate_part(component.clone())?;
                match use_regex {
                    true => Ok(Self::ByteLevel { engine: GPT2_ENGINE.clone()?, prefix: add_prefix_space }),
                    false => crate_part(component).map(Self::Crates),
                }
            }
            _ => crate_part(component).map(Self::Crates),
        }
    }
}

impl<'de> Deserialize<'de> for PreTokenizing {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(Value::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl PreTokenizer for PreTokenizing {
    fn pre_tokenize(&self, text: &mut PreTokenizedString) -> Result<(), Cause> {
        match self {
            Self::Sequence(parts) => parts.iter().try_for_each(|part| part.pre_tokenize(text)),
            Self::Split { engine, behavior, invert: true } => {
                text.split(|_, part| part.split(Invert(engine), *behavior))
            }
            Self::Split { engine, behavior, invert: false } => text.split(|_, part| part.split(engine, *behavior)),
            Self::ByteLevel { engine, prefix } => {
                text.split(|_, mut part| {
                    if *prefix && !part.get().starts_with(' ') {
                        part.prepend(" ");
                    }
                    part.split(engine, SplitDelimiterBehavior::Isolated)
                })?;
                ByteLevel::new(false, true, false).pre_tokenize(text)
            }
            Self::Crates(part) => part.pre_tokenize(text),
        }
    }
}

/// The component `normalizer`.
#[derive(Clone, Debug)]
pub(super) enum Normalizing {
    Sequence(Vec<Self>),
    Replace { engine: Engine, content: String },
    Crates(NormalizerWrapper),
}

impl Normalizing {
    fn new(component: Value) -> Result<Self, String> {
        match component["type"].as_str() {
            Some("Sequence") => {
                list(&component, "normalizers").into_iter().map(Self::new).collect::<Result<_, _>>().map(Self::Sequence)
            }
            Some("Replace") => match engine(&component)? {
                Some(engine) => Ok(Self::Replace { engine, content: crate_part(component["content"].clone())? }),
                None => crate_part(component).map(Self::Crates),
            },
            _ => crate_part(component).map(Self::Crates),
        }
    }
}

impl<'de> Deserialize<'de> for Normalizing {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(Value::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl Normalizer for Normalizing {
    fn normalize(&self, text: &mut NormalizedString) -> Result<(), Cause> {
        match self {
            Self::Sequence(parts) => parts.iter().try_for_each(|part| part.normalize(text)),
            Self::Replace { engine, content } => text.replace(engine, content),
            Self::Crates(part) => part.normalize(text),
        }
    }
}
