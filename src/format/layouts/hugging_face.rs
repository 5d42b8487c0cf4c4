//! Hugging Face's folders: `config.json`, `tokenizer.json`, and `model.safetensors` or an index of shards.

mod derived;
mod names;

use std::collections::BTreeSet;

#[cfg(feature = "gguf")]
use serde_json::{Map, Value};

use super::{Derived, Layout, Opened, heads};
use crate::error::{Error, Result};
use crate::format::checkpoint::HeadKind;
use crate::format::config::ModelConfig;
#[cfg(feature = "gguf")]
use crate::format::fields::parse_object;
use crate::format::files::{Files, read_whole};
use crate::format::foreign;
use crate::format::safetensors::{Header, Index};
use crate::format::tensors::{Tensors, read_header};
use crate::format::tokenizer::Tokenizer;

/// The configuration of a model.
pub(in crate::format) const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const TOKENIZER: &str = "tokenizer.json";
#[cfg(feature = "gguf")]
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
#[cfg(feature = "gguf")]
const TEMPLATE: &str = "chat_template.jinja";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The LM head as most families call it.
const LM_HEAD: &str = "lm_head.weight";
/// Files of tensors that are no model's.
const OTHERS: [&str; 3] = ["adapter_model.safetensors", heads::MEDUSA, heads::TENSORS];

/// Real configurations have a few kilobytes.
const MAX_CONFIG_BYTES: u64 = 16 << 20;
/// The largest real vocabularies make about 30 MB.
const MAX_TOKENIZER_BYTES: u64 = 256 << 20;
/// An index has about 100 bytes a tensor.
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// The layout of transformers' `save_pretrained`.
pub(in crate::format) struct HuggingFace;

impl Layout for HuggingFace {
    const EXPECTED: &'static str = "config.json, tokenizer.json and model.safetensors";

    async fn open<'f, F: Files>(files: &'f F) -> Result<Opened<'f, F>> {
        let mut config = read_config(files).await?;
        let mut tensors = Tensors::new(files, read_headers(files, &config).await?);
        names::unwrap(&mut tensors, &config);
        let mut notes = Vec::new();
        let Derived { other_head, contradiction } = derived::compare(&tensors, &config).await?;
        if let Some(head) = other_head {
            notes.push(format!(
                "{CONFIG} ties the LM head to the embedding, but the file has another \"{head}\": that one is used"
            ));
            config.untie();
        }
        // transformers 5 also writes GPT-NeoX's LM head under the name that other families use.
        tensors.rename(LM_HEAD, &config.lm_head_name());
        let has_tokenizer = exists(files, TOKENIZER).await?;
        let mut head_files = Vec::new();
        for (kind, name) in [(HeadKind::Medusa, heads::MEDUSA), (HeadKind::Foretoken, heads::CONFIG)] {
            if exists(files, name).await? {
                head_files.push((kind, name));
            }
        }
        // The end token may come from the second.
        let deciding = [CONFIG, GENERATION_CONFIG, TOKENIZER].map(str::to_owned).into();
        Ok(Opened { config, tensors, stated_by: CONFIG, has_tokenizer, head_files, deciding, notes, contradiction })
    }

    async fn tokenizer<F: Files>(files: &F) -> Result<Tokenizer> {
        match read_whole(files, TOKENIZER, MAX_TOKENIZER_BYTES).await? {
            Some(json) => Tokenizer::from_json(&json).map_err(|error| error.within(files.describe())),
            None => Err(missing(files, TOKENIZER, "without it there are token ids, but no text")),
        }
    }
}

/// What the files of a tokenizer say.
#[cfg(feature = "gguf")]
pub(super) struct TokenizerFiles {
    /// `tokenizer.json`.
    pub tokenizer: Value,
    /// `tokenizer_config.json`, where it is there.
    pub config: Map<String, Value>,
    /// The template of chats.
    pub template: Option<String>,
}

#[cfg(feature = "gguf")]
impl TokenizerFiles {
    /// Reads them.
    pub(super) async fn read<F: Files>(files: &F) -> Result<Self> {
        let advice = "a GGUF file holds its tokenizer: put the model's own beside its weights";
        let json = read_whole(files, TOKENIZER, MAX_TOKENIZER_BYTES).await?;
        let json = json.ok_or_else(|| missing(files, TOKENIZER, advice))?;
        let place = |error: Error| error.within(files.describe());
        let tokenizer = Value::Object(parse_object(TOKENIZER, &json).map_err(place)?);
        let config = match read_whole(files, TOKENIZER_CONFIG, MAX_CONFIG_BYTES).await? {
            Some(json) => parse_object(TOKENIZER_CONFIG, &json).map_err(place)?,
            None => Map::new(),
        };
        let template = match read_whole(files, TEMPLATE, MAX_CONFIG_BYTES).await? {
            Some(text) => Some(String::from_utf8_lossy(&text).into_owned()),
            None => config.get("chat_template").and_then(default_template).map(str::to_owned),
        };
        Ok(Self { tokenizer, config, template })
    }
}

/// The template that is used unless another is asked for.
#[cfg(feature = "gguf")]
fn default_template(stated: &Value) -> Option<&str> {
    match stated {
        Value::Array(list) => list.iter().find(|entry| entry["name"] == "default")?["template"].as_str(),
        one => one.as_str(),
    }
}

async fn exists<F: Files>(files: &F, name: &str) -> Result<bool> {
    Ok(files.len(name).await?.is_some())
}

fn missing<F: Files>(files: &F, name: &str, advice: &str) -> Error {
    Error::io(format!("{name} not found in {}; {advice}", files.describe()))
}

async fn read_config<F: Files>(files: &F) -> Result<ModelConfig> {
    let Some(config) = read_whole(files, CONFIG, MAX_CONFIG_BYTES).await? else {
        let usual = "expected a checkpoint in Hugging Face's layout";
        return Err(missing(files, CONFIG, &foreign::of_files(files).await?.unwrap_or(usual.to_owned())));
    };
    let generation = read_whole(files, GENERATION_CONFIG, MAX_CONFIG_BYTES).await?;
    ModelConfig::parse(&config, generation.as_deref()).map_err(|error| error.within(files.describe()))
}

async fn read_headers<F: Files>(files: &F, config: &ModelConfig) -> Result<Header> {
    let needed = config.expected_tensors().into_iter().map(|(name, _)| name).collect();
    match headers(files, Some(&needed)).await? {
        Some(header) => Ok(header),
        None => {
            let advice = match &tensor_files(&files.names())[..] {
                [] => foreign::of_files(files).await?.unwrap_or_else(|| NO_WEIGHTS.to_owned()),
                found => format!("{} are there, and nothing says which of them are the model", some(found)),
            };
            Err(missing(files, SINGLE, &format!("nor {INDEX}; {advice}")))
        }
    }
}

const NO_WEIGHTS: &str =
    "no weights are there; if they have other formats, convert them to safetensors, else download them";

/// The first few names.
fn some(names: &[&String]) -> String {
    const SHOWN: usize = 4;
    let shown: Vec<&str> = names.iter().take(SHOWN).map(|name| name.as_str()).collect();
    format!("{}{}", shown.join(", "), if names.len() > SHOWN { ", ..." } else { "" })
}

/// The tensors of a folder's checkpoint, in one file or several; `None` without either.
pub(in crate::format) async fn find_headers<F: Files>(files: &F) -> Result<Option<Header>> {
    headers(files, None).await
}

/// [`find_headers`], but of an index only the shards with `needed` tensors must be there; `None`: all of them.
async fn headers<F: Files>(files: &F, needed: Option<&BTreeSet<String>>) -> Result<Option<Header>> {
    if let Some(header) = read_header(files, SINGLE).await? {
        return Ok(Some(header));
    }
    let Some(json) = read_whole(files, INDEX, MAX_INDEX_BYTES).await? else { return without_index(files).await };
    let index = Index::parse(INDEX, &json).map_err(|error| error.within(files.describe()))?;
    read_shards(files, &index, needed).await.map(Some)
}

/// The tensors of all shards together: those that the index places there, and those of which it knows nothing.
async fn read_shards<F: Files>(files: &F, index: &Index, needed: Option<&BTreeSet<String>>) -> Result<Header> {
    let mut all = Header::default();
    for shard in index.shards() {
        let Some(header) = read_header(files, shard).await? else {
            let is_needed = |name: &String| needed.is_none_or(|needed| needed.contains(name));
            if index.weight_map.iter().any(|(name, place)| place == shard && is_needed(name)) {
                return Err(missing(files, shard, &format!("{INDEX} names it; download it too")));
            }
            continue;
        };
        let elsewhere = |name: &String| index.weight_map.get(name).is_some_and(|place| place != shard);
        add(files, &mut all, header, shard, elsewhere)?;
    }
    Ok(all)
}

/// Adds the tensors of a file but for those that are left out. None may come twice.
pub(super) fn add<F: Files>(
    files: &F,
    all: &mut Header,
    header: Header,
    file: &str,
    left_out: impl Fn(&String) -> bool,
) -> Result<()> {
    let names = header.tensors.keys().chain(header.skipped.keys()).filter(|name| !left_out(name));
    if let Some(name) =
        names.into_iter().find(|name| all.tensors.contains_key(*name) || all.skipped.contains_key(*name))
    {
        let message = format!("{file}: tensor \"{name}\" is in another file too; are the files of one checkpoint?");
        return Err(Error::format(message).within(files.describe()));
    }
    all.tensors.extend(header.tensors.into_iter().filter(|(name, _)| !left_out(name)));
    all.skipped.extend(header.skipped.into_iter().filter(|(name, _)| !left_out(name)));
    Ok(())
}

/// The tensors of shards that no index names, where all of them are there, or of the only file of tensors.
async fn without_index<F: Files>(files: &F) -> Result<Option<Header>> {
    let names = files.names();
    let found = tensor_files(&names);
    let shards = match files.len("model-00001-of-00001.safetensors").await? {
        // A server does not tell what it has.
        Some(_) if found.is_empty() => vec!["model-00001-of-00001.safetensors".to_owned()],
        _ => match (shards_of(&found), &found[..]) {
            (Some(shards), _) => shards,
            (None, [only]) => vec![(*only).clone()],
            (None, _) => return Ok(None),
        },
    };
    let mut all = Header::default();
    for shard in &shards {
        let advice = "nor an index that tells of what is in it; download it too";
        let header = read_header(files, shard).await?.ok_or_else(|| missing(files, shard, advice))?;
        add(files, &mut all, header, shard, |_| false)?;
    }
    Ok(Some(all))
}

/// The files with tensors of a model, as far as names tell.
fn tensor_files(names: &[String]) -> Vec<&String> {
    names.iter().filter(|name| name.ends_with(".safetensors") && !OTHERS.contains(&name.as_str())).collect()
}

/// The shards of which the first is there, if that is so of one checkpoint alone.
fn shards_of(found: &[&String]) -> Option<Vec<String>> {
    let first = |name: &&String| {
        let (begin, count) = name.strip_suffix(".safetensors")?.split_once("-00001-of-")?;
        Some((begin.to_owned(), count.parse::<usize>().ok().filter(|&count| count > 0)?))
    };
    let mut firsts = found.iter().filter_map(first);
    let (begin, count) = firsts.next().filter(|_| firsts.next().is_none())?;
    // One that is missing is named; so many more cannot be there.
    let named = |index| format!("{begin}-{index:05}-of-{count:05}.safetensors");
    Some((1..=count.min(found.len() + 1)).map(named).collect())
}

/// The configuration and the files with tensors, as far as they are there.
pub(in crate::format) async fn files<F: Files>(files: &F) -> Result<Vec<String>> {
    let headers = headers(files, Some(&BTreeSet::new())).await?.unwrap_or_default();
    let tensors = headers.tensors.into_values().map(|info| info.file);
    Ok(tensors.chain([CONFIG.to_owned()]).collect())
}
