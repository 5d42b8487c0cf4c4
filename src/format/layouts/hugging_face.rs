//! Hugging Face's folders: `config.json`, `tokenizer.json`, and `model.safetensors` or an index of shards.

use super::{Layout, Opened};
use crate::error::{Error, Result};
use crate::format::checkpoint::HeadKind;
use crate::format::config::ModelConfig;
use crate::format::files::{Files, read_whole};
use crate::format::safetensors::{Header, Index};
use crate::format::tensors::{Tensors, read_header};
use crate::format::tokenizer::Tokenizer;

/// The configuration of a model.
pub(in crate::format) const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const TOKENIZER: &str = "tokenizer.json";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const MEDUSA: &str = "medusa_lm_head.safetensors";
const OWN_HEADS: &str = "mtp_config.json";

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
        let config = read_config(files).await?;
        let mut tensors = Tensors::new(files, read_headers(files).await?);
        // transformers 5 also writes GPT-NeoX's LM head under the name that other families use.
        tensors.rename("lm_head.weight", &config.lm_head_name());
        let has_tokenizer = exists(files, TOKENIZER).await?;
        let mut head_files = Vec::new();
        for (kind, name) in [(HeadKind::Medusa, MEDUSA), (HeadKind::Foretoken, OWN_HEADS)] {
            if exists(files, name).await? {
                head_files.push((kind, name));
            }
        }
        // The end token may come from the second.
        let deciding = [CONFIG, GENERATION_CONFIG, TOKENIZER].map(str::to_owned).into();
        Ok(Opened { config, tensors, stated_by: CONFIG, has_tokenizer, head_files, deciding })
    }

    async fn tokenizer<F: Files>(files: &F) -> Result<Tokenizer> {
        match read_whole(files, TOKENIZER, MAX_TOKENIZER_BYTES).await? {
            Some(json) => Tokenizer::from_json(&json).map_err(|error| error.within(files.describe())),
            None => Err(missing(files, TOKENIZER, "without it there are token ids, but no text")),
        }
    }
}

async fn exists<F: Files>(files: &F, name: &str) -> Result<bool> {
    Ok(files.len(name).await?.is_some())
}

fn missing<F: Files>(files: &F, name: &str, advice: &str) -> Error {
    Error::io(format!("{name} not found in {}; {advice}", files.describe()))
}

async fn read_config<F: Files>(files: &F) -> Result<ModelConfig> {
    let advice = "expected a checkpoint in Hugging Face's layout";
    let config = read_whole(files, CONFIG, MAX_CONFIG_BYTES).await?.ok_or_else(|| missing(files, CONFIG, advice))?;
    let generation = read_whole(files, GENERATION_CONFIG, MAX_CONFIG_BYTES).await?;
    ModelConfig::parse(&config, generation.as_deref()).map_err(|error| error.within(files.describe()))
}

async fn read_headers<F: Files>(files: &F) -> Result<Header> {
    match find_headers(files).await? {
        Some(header) => Ok(header),
        None => {
            let advice = format!("nor {INDEX}; weights in other formats must be converted to safetensors first");
            Err(missing(files, SINGLE, &advice))
        }
    }
}

/// The tensors of a folder's checkpoint, in one file or several; `None` without either.
pub(in crate::format) async fn find_headers<F: Files>(files: &F) -> Result<Option<Header>> {
    if let Some(header) = read_header(files, SINGLE).await? {
        return Ok(Some(header));
    }
    let Some(json) = read_whole(files, INDEX, MAX_INDEX_BYTES).await? else { return Ok(None) };
    let index = Index::parse(INDEX, &json).map_err(|error| error.within(files.describe()))?;
    read_shards(files, &index).await.map(Some)
}

/// The tensors of all shards together. Each must lie where the index says, and in one shard only.
async fn read_shards<F: Files>(files: &F, index: &Index) -> Result<Header> {
    let place = |error: Error| error.within(files.describe());
    let mut all = Header::default();
    for shard in index.shards() {
        let advice = format!("{INDEX} names it; download it too");
        let header = read_header(files, shard).await?.ok_or_else(|| missing(files, shard, &advice))?;
        check_shard(index, shard, &header).map_err(place)?;
        all.tensors.extend(header.tensors);
        all.skipped.extend(header.skipped);
    }
    for (name, shard) in &index.weight_map {
        if !all.tensors.contains_key(name) && !all.skipped.contains_key(name) {
            let message = format!("{shard}: tensor \"{name}\" is missing, but {INDEX} says that it is here");
            return Err(place(Error::format(message)));
        }
    }
    Ok(all)
}

/// Fails on a tensor that the index does not place in this shard: so no two shards can hold the same name.
fn check_shard(index: &Index, shard: &str, header: &Header) -> Result<()> {
    let stray = header.tensors.keys().chain(header.skipped.keys()).find(|name| {
        let stated = index.weight_map.get(*name);
        stated.is_none_or(|stated| stated != shard)
    });
    match stray {
        Some(name) => Err(Error::format(format!(
            "{shard}: tensor \"{name}\" is here, but {INDEX} places it {}; are the files of one checkpoint?",
            index.weight_map.get(name).map_or("nowhere", String::as_str)
        ))),
        None => Ok(()),
    }
}

/// The configuration and the files with tensors, as far as they are there.
pub(in crate::format) async fn files<F: Files>(files: &F) -> Result<Vec<String>> {
    let headers = find_headers(files).await?.unwrap_or_default();
    let tensors = headers.tensors.into_values().map(|info| info.file);
    Ok(tensors.chain([CONFIG.to_owned()]).collect())
}
