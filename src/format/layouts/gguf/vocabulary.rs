//! The tokenizer of another layout as metadata: what [`tokenizer`](super::tokenizer) reads, said by a `tokenizer.json`.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use super::tokenizer::{self, CONTROL, MERGES, MODEL, PRE, SCORES, Split, TOKENS, TYPES, UNKNOWN, USER_DEFINED};
use crate::error::{Error, Result};
use crate::format::config::ModelConfig;
use crate::format::gguf::Gguf;
use crate::format::gguf::write::Head;
use crate::format::layouts::hugging_face::TokenizerFiles;
use crate::format::tokenizer::Tokenizer;

/// Types of tokens beside those that reading tells apart.
const NORMAL: u64 = 1;
const UNUSED: u64 = 5;
const BYTE: u64 = 6;

/// The score of a token that no merge makes.
const NEVER: f32 = -1e9;

/// Texts by which a tokenizer is compared with what was written of it. None begins with a space: before such a text, files of
/// SentencePiece's put no other.
const TEXTS: [&str; 7] = [
    "The quick brown fox, don't you think? It's 12,345.67!",
    "two  spaces\n\n\tand a tab \r\n end ",
    "def f(x):\n    return x ** 2  # fn",
    "Grüße aus Köln: 東京 и Москва, مرحبا",
    "👩‍👩‍👧‍👦 👍🏽 € ½ ² Ⅷ",
    "HTTPServer foo_bar I'LL we've",
    "a\u{a0}b\u{2003}c\u{200b}d",
];

/// Writes the tokenizer; gives notes on what metadata cannot say of it.
pub(super) fn describe(files: &TokenizerFiles, config: &ModelConfig, head: &mut Head) -> Result<Vec<String>> {
    let json = &files.tokenizer;
    let model = &json["model"];
    let refuse = |what: &str| Error::unsupported(format!("tokenizer.json: {what} cannot be written to a GGUF file"));
    if model["type"].as_str().is_some_and(|kind| kind != "BPE") {
        return Err(refuse(&format!("a model of type {}", model["type"])));
    }
    let mut notes = Vec::new();
    let vocabulary = Vocabulary::read(json, config.vocab_size)?;
    let sentencepiece = model["byte_fallback"] == true;
    let merges = merges(model).ok_or_else(|| refuse("a list of merges that are no pairs of tokens"))?;
    if sentencepiece {
        let prefix = space_prefix(json).ok_or_else(|| refuse("this normalizer with this pre_tokenizer"))?;
        head.set_text(MODEL, "llama");
        head.set_text(PRE, "default");
        head.set_flag("tokenizer.ggml.add_space_prefix", prefix);
        head.set_numbers(SCORES, &vocabulary.scores(&merges));
    } else {
        match (&json["normalizer"], json["normalizer"]["type"].as_str()) {
            (Value::Null, _) => {}
            (_, Some("NFC")) => notes.push(
                "texts that are not in Unicode's form NFC get other ids: GGUF files cannot say that they are put in it first"
                    .to_owned(),
            ),
            _ => return Err(refuse("its normalizer")),
        }
        let split = Split::name_of(&json["pre_tokenizer"], model["ignore_merges"] == true);
        head.set_text(MODEL, "gpt2");
        head.set_text(PRE, split.ok_or_else(|| refuse("its pre_tokenizer (with `ignore_merges` as it is)"))?);
    }
    if merges.iter().any(|[left, right]| left.contains(' ') || right.contains(' ')) {
        return Err(refuse("a merge of tokens with spaces"));
    }
    let lines: Vec<String> = merges.iter().map(|[left, right]| format!("{left} {right}")).collect();
    head.set_texts(MERGES, lines.iter().map(String::as_str));
    head.set_texts(TOKENS, vocabulary.tokens.iter().map(String::as_str));
    head.set_wholes(TYPES, &vocabulary.types(model, sentencepiece));
    describe_special(files, config, &vocabulary, head)?;
    if let Some(template) = &files.template {
        head.set_text("tokenizer.chat_template", template);
    }
    let spaced = |token: &&Value| ["lstrip", "rstrip", "single_word"].iter().any(|key| token[*key] == true);
    if let Some(token) = added(json).iter().find(spaced) {
        notes.push(format!(
            "the token {} takes in spaces around it, or stands as a word of its own, which GGUF files cannot say",
            token["content"]
        ));
    }
    Ok(notes)
}

/// Fails unless a tokenizer read from what was written gives the ids of the one that it was written from.
pub(super) fn check(gguf: &Gguf, meant: &Tokenizer) -> Result<()> {
    let said = tokenizer::build(gguf)?;
    // A vocabulary without some bytes has it for them, where files leave them out.
    let unknown = gguf.whole("tokenizer.ggml.unknown_token_id")?;
    for text in TEXTS {
        let ids = |tokenizer: &Tokenizer| {
            let mut ids = tokenizer.encode(text, true)?;
            ids.retain(|id| Some(u64::from(*id)) != unknown);
            Ok::<_, Error>(ids)
        };
        let (said, meant) = (ids(&said)?, ids(meant)?);
        if said != meant {
            let message = format!(
                "tokenizer.json: its ids of {text:?} are {meant:?}, but those of what a GGUF file can say of it {said:?}: such a \
                 tokenizer cannot be written"
            );
            return Err(Error::unsupported(message));
        }
    }
    Ok(())
}

fn added(json: &Value) -> &[Value] {
    json["added_tokens"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The tokens of a `tokenizer.json`, one for each row of the embedding.
struct Vocabulary {
    tokens: Vec<String>,
    ids: HashMap<String, usize>,
    /// Added tokens by id, and whether they are special.
    added: BTreeMap<usize, bool>,
    /// Ids that no token has.
    unused: Vec<bool>,
}

impl Vocabulary {
    fn read(json: &Value, rows: usize) -> Result<Self> {
        let mut ids: HashMap<String, usize> = HashMap::new();
        let mut tokens = vec![None; rows];
        let stated = json["model"]["vocab"].as_object().into_iter().flatten();
        let stated = stated.filter_map(|(token, id)| Some((token.as_str(), id.as_u64()?)));
        let more = added(json).iter().filter_map(|token| Some((token["content"].as_str()?, token["id"].as_u64()?)));
        for (token, id) in stated.chain(more) {
            let place = usize::try_from(id).ok().and_then(|id| tokens.get_mut(id));
            let Some(place) = place else {
                let message = format!("token {token:?} has the id {id}, but the embedding {rows} rows");
                let advice = "a GGUF file has a row for each token: make the embedding larger, or take the token out";
                return Err(Error::unsupported(format!("tokenizer.json: {message}; {advice}")));
            };
            *place = Some(token.to_owned());
            ids.insert(token.to_owned(), id as usize);
        }
        let unused: Vec<bool> = tokens.iter().map(Option::is_none).collect();
        let named = |(id, token): (usize, Option<String>)| token.unwrap_or_else(|| format!("[PAD{id}]"));
        let tokens = tokens.into_iter().enumerate().map(named).collect();
        let added =
            added(json).iter().filter_map(|token| Some((token["id"].as_u64()? as usize, token["special"] == true)));
        Ok(Self { tokens, ids, added: added.collect(), unused })
    }

    fn types(&self, model: &Value, sentencepiece: bool) -> Vec<i32> {
        let unknown = model["unk_token"].as_str().filter(|_| sentencepiece);
        let kind = |(id, token): (usize, &String)| match self.added.get(&id) {
            _ if self.unused[id] => UNUSED,
            _ if Some(token.as_str()) == unknown => UNKNOWN,
            Some(true) => CONTROL,
            Some(false) => USER_DEFINED,
            None if sentencepiece && is_byte(token) => BYTE,
            None => NORMAL,
        };
        self.tokens.iter().enumerate().map(kind).map(|kind| kind as i32).collect()
    }

    /// Scores by which what merges make comes in their order.
    fn scores(&self, merges: &[[&str; 2]]) -> Vec<f32> {
        let mut scores = vec![NEVER; self.tokens.len()];
        for (rank, [left, right]) in merges.iter().enumerate().rev() {
            if let Some(&id) = self.ids.get(&format!("{left}{right}")) {
                scores[id] = -(rank as f32);
            }
        }
        scores
    }
}

fn is_byte(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

/// The merges of either spelling; `None` where one is no pair.
fn merges(model: &Value) -> Option<Vec<[&str; 2]>> {
    let list = model["merges"].as_array()?;
    list.iter()
        .map(|merge| match merge {
            Value::String(line) => line.split_once(' ').map(|(left, right)| [left, right]),
            Value::Array(pair) => match &pair[..] {
                [left, right] => Some([left.as_str()?, right.as_str()?]),
                _ => None,
            },
            _ => None,
        })
        .collect()
}

/// Whether a space is put before a text; `None` where spaces are treated as no file can say.
fn space_prefix(json: &Value) -> Option<bool> {
    let replaces =
        |part: &Value| part["type"] == "Replace" && part["pattern"]["String"] == " " && part["content"] == "▁";
    let (normalizer, before) = (&json["normalizer"], &json["pre_tokenizer"]);
    let parts = normalizer["normalizers"].as_array().map(Vec::as_slice).unwrap_or_default();
    match (before["type"].as_str(), parts) {
        (Some("Metaspace"), _) if normalizer.is_null() && before["replacement"] == "▁" && before["split"] != true => {
            Some(before["prepend_scheme"] != "never")
        }
        (None, [prefix, replace]) if prefix["type"] == "Prepend" && prefix["prepend"] == "▁" && replaces(replace) => {
            Some(true)
        }
        // After the replacement there are no spaces to split at.
        (None, _) if replaces(normalizer) => Some(false),
        (Some("Split"), _) if replaces(normalizer) && before["pattern"]["String"] == " " => Some(false),
        _ => None,
    }
}

/// Writes the tokens that begin and end texts, the unknown one and padding.
fn describe_special(
    files: &TokenizerFiles,
    config: &ModelConfig,
    vocabulary: &Vocabulary,
    head: &mut Head,
) -> Result<()> {
    let stated = |key: &str| {
        let value = files.config.get(key)?;
        let text = value.as_str().or_else(|| value["content"].as_str())?;
        vocabulary.ids.get(text).copied()
    };
    let unknown = files.tokenizer["model"]["unk_token"].as_str().and_then(|text| vocabulary.ids.get(text).copied());
    let [before, after] = around(&files.tokenizer)?;
    let first = before.or_else(|| config.bos_token_id.map(|id| id as usize)).or_else(|| stated("bos_token"));
    let last = after.or_else(|| config.eos_token_ids.first().map(|&id| id as usize)).or_else(|| stated("eos_token"));
    if let (Some(after), false) = (after, config.eos_token_ids.is_empty())
        && !config.eos_token_ids.contains(&(after as u32))
    {
        let message = format!("tokenizer.json: it puts token {after} after texts, which does not end them");
        return Err(Error::unsupported(format!("{message}: a GGUF file cannot say so")));
    }
    let ids = [("bos", first), ("eos", last), ("unknown", unknown), ("padding", stated("pad_token"))];
    for (key, id) in ids {
        if let Some(id) = id {
            head.set_whole(&format!("tokenizer.ggml.{key}_token_id"), id as u32);
        }
    }
    head.set_flag("tokenizer.ggml.add_bos_token", before.is_some());
    head.set_flag("tokenizer.ggml.add_eos_token", after.is_some());
    Ok(())
}

/// The tokens that a tokenizer puts before and after a text.
fn around(json: &Value) -> Result<[Option<usize>; 2]> {
    let processor = &json["post_processor"];
    let processors = processor["processors"].as_array().map_or(std::slice::from_ref(processor), Vec::as_slice);
    let Some(template) = processors.iter().find(|processor| processor["type"] == "TemplateProcessing") else {
        return Ok([None; 2]);
    };
    let items = template["single"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = items.iter().position(|item| item.get("Sequence").is_some()).unwrap_or(items.len());
    let ids = |item: &Value| {
        let name = item["SpecialToken"]["id"].as_str()?;
        template["special_tokens"][name]["ids"].as_array().map(|ids| ids.iter().filter_map(Value::as_u64).collect())
    };
    let one = |items: &[Value]| {
        let ids: Vec<u64> = items.iter().filter_map(ids).flat_map(|ids: Vec<u64>| ids).collect();
        match ids[..] {
            [] => Ok(None),
            [only] => Ok(Some(only as usize)),
            _ => {
                let message =
                    format!("tokenizer.json: it puts the tokens {ids:?} beside texts, and a GGUF file can say one");
                Err(Error::unsupported(message))
            }
        }
    };
    Ok([one(&items[..text])?, one(items.get(text + 1..).unwrap_or_default())?])
}
