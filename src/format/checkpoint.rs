//! A checkpoint in Hugging Face's layout: configuration, tokenizer and tensors, whatever files they lie in.
//!
//! Opening reads configuration and headers only; tensors and tokenizer are read when asked for.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use super::config::ModelConfig;
use super::files::{Files, read_exact, read_whole};
use super::safetensors::{Header, Index, SkippedTensor, TensorInfo};
use super::tensors::{Tensors, read_header};
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result, counted};

const CONFIG: &str = "config.json";
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

/// An opened checkpoint.
#[derive(Debug)]
pub struct Checkpoint<'f, F: Files> {
    files: &'f F,
    config: ModelConfig,
    has_tokenizer: bool,
    tensors: Tensors<'f, F>,
    head_files: Vec<(HeadKind, &'static str)>,
}

impl<'f, F: Files> Checkpoint<'f, F> {
    /// Reads `config.json`, `generation_config.json` where there is one, and the header of `model.safetensors` or of every
    /// shard that `model.safetensors.index.json` names.
    ///
    /// Fails, naming the file, when one is missing, broken or not supported. A missing tokenizer is no failure here.
    pub async fn open(files: &'f F) -> Result<Self> {
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
        Ok(Self { files, config, has_tokenizer, tensors, head_files })
    }

    /// What the model computes.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where it lies.
    pub fn files(&self) -> &'f F {
        self.files
    }

    /// The folder or URL, for messages.
    pub fn describe(&self) -> String {
        self.files.describe()
    }

    /// Whether there is a `tokenizer.json`. Without one, prompts can still be given as token ids.
    pub fn has_tokenizer(&self) -> bool {
        self.has_tokenizer
    }

    /// Reads and builds the tokenizer. Fails when there is none, or it is broken or not supported.
    pub async fn tokenizer(&self) -> Result<Tokenizer> {
        match read_whole(self.files, TOKENIZER, MAX_TOKENIZER_BYTES).await? {
            Some(json) => Tokenizer::from_json(&json).map_err(|error| error.within(self.files.describe())),
            None => Err(missing(self.files, TOKENIZER, "without it there are token ids, but no text")),
        }
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// All tensors.
    pub fn all(&self) -> &Tensors<'f, F> {
        &self.tensors
    }

    /// The tensors that can be used, by name.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.tensors.usable().values()
    }

    /// The names of the tensors that can be used, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.usable().keys().map(String::as_str)
    }

    /// Tensors of element types that the engine does not compute with, by name.
    pub fn skipped(&self) -> &BTreeMap<String, SkippedTensor> {
        self.tensors.skipped()
    }

    /// The tensor called `name`, if it has `shape`; else an error with the name, what was expected and what was found.
    pub fn require(&self, name: &str, shape: &[usize]) -> Result<&TensorInfo> {
        self.tensors.require(name, shape, CONFIG)
    }

    /// The bytes of a tensor: elements in row-major order, little endian.
    pub async fn read(&self, info: &TensorInfo) -> Result<Cow<'f, [u8]>> {
        self.tensors.read(info).await
    }

    /// Some bytes of a tensor; `range` counts from the tensor's start. Fails when it exceeds the tensor.
    pub async fn read_range(&self, info: &TensorInfo, range: Range<u64>) -> Result<Cow<'f, [u8]>> {
        if range.start > range.end || range.end > info.byte_len() {
            let (TensorInfo { name, file, .. }, len) = (info, info.byte_len());
            return Err(Error::input(format!("{file}: tensor \"{name}\" has {len} bytes, asked for {range:?}")));
        }
        let start = info.range.start;
        read_exact(self.files, &info.file, start + range.start..start + range.end).await
    }

    /// Every tensor of the checkpoint and every tensor that the model needs, sorted into what becomes of them.
    pub fn account(&self) -> TensorAccount {
        let mut account = TensorAccount::default();
        let expected: BTreeMap<_, _> = self.config.expected_tensors().into_iter().collect();
        for name in self.tensors.names() {
            let list = if expected.contains_key(name) {
                &mut account.used
            } else if self.config.is_known_buffer(name) {
                &mut account.ignored
            } else if self.head_kind(name).is_some() {
                &mut account.heads
            } else {
                &mut account.unknown
            };
            list.push(name.clone());
        }
        account.missing = expected.into_keys().filter(|name| !self.tensors.contains(name)).collect();
        account
    }

    /// Fails on the first tensor that the model needs and that is missing or has another shape or element type.
    pub fn check(&self) -> Result<()> {
        self.config.expected_tensors().iter().try_for_each(|(name, shape)| self.require(name, shape).map(|_| ()))
    }

    /// Heads that predict more than one token ahead: found, or announced and missing. Kinds without a trace are left out.
    pub fn multi_token_heads(&self) -> Vec<FoundHeads> {
        let mut found: BTreeMap<HeadKind, Vec<String>> = BTreeMap::new();
        for name in self.tensors.names() {
            if let Some(kind) = self.head_kind(name) {
                found.entry(kind).or_default().push(name.clone());
            }
        }
        if self.config.num_nextn_predict_layers > 0 {
            found.entry(HeadKind::DeepSeek).or_default();
        }
        for (kind, _) in &self.head_files {
            found.entry(*kind).or_default();
        }
        found.into_iter().map(|(kind, tensors)| FoundHeads { kind, note: self.note(kind, &tensors), tensors }).collect()
    }

    /// The kind of head that a tensor of this name belongs to. Names that the model itself needs are no heads.
    fn head_kind(&self, name: &str) -> Option<HeadKind> {
        if self.extra_layer(name).is_some() {
            return Some(HeadKind::DeepSeek);
        }
        let eagle = ["fc.", "midlayer.", "d2t", "t2d"].iter().any(|prefix| name.starts_with(prefix));
        match name {
            _ if name.starts_with("mtp.") => Some(HeadKind::Qwen),
            _ if name.starts_with("model.mtp_layers.") => Some(HeadKind::MiMo),
            _ if eagle => Some(HeadKind::Eagle3),
            _ => None,
        }
    }

    /// The layer that `name` belongs to, where that comes after the backbone's last and is a head: announced, or with the
    /// projection that only heads have. Other layers too many are a sign of a wrong configuration.
    fn extra_layer(&self, name: &str) -> Option<usize> {
        let (number, _) = name.strip_prefix("model.layers.")?.split_once('.')?;
        let layer = number.parse().ok().filter(|&layer: &usize| layer >= self.config.num_hidden_layers)?;
        let announced = self.config.num_nextn_predict_layers > 0;
        let head = announced || self.tensors.get(&format!("model.layers.{number}.eh_proj.weight")).is_some();
        head.then_some(layer)
    }

    fn note(&self, kind: HeadKind, tensors: &[String]) -> String {
        if let Some((_, file)) = self.head_files.iter().find(|(file_kind, _)| *file_kind == kind) {
            return format!("{file} is there");
        }
        if kind != HeadKind::DeepSeek {
            return counted(tensors.len(), "tensor");
        }
        let mut layers: Vec<_> = tensors.iter().filter_map(|name| self.extra_layer(name)).collect();
        layers.sort_unstable();
        layers.dedup();
        let (announced, found) = (self.config.num_nextn_predict_layers, layers.len());
        format!("{CONFIG} announces {announced} extra layers (num_nextn_predict_layers), the tensors hold {found}")
    }
}

/// What becomes of a checkpoint's tensors, each list sorted by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TensorAccount {
    /// The model reads them.
    pub used: Vec<String>,
    /// Known and not needed: buffers that follow from the configuration, a tied LM head.
    pub ignored: Vec<String>,
    /// Parts of multi-token heads.
    pub heads: Vec<String>,
    /// Nothing is known about them.
    pub unknown: Vec<String>,
    /// The model needs them, and the checkpoint does not have them.
    pub missing: Vec<String>,
}

/// The known layouts of multi-token heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HeadKind {
    /// Layers after the backbone's last (DeepSeek-V3).
    DeepSeek,
    /// Tensors under `mtp.` (Qwen3-Next and later).
    Qwen,
    /// Tensors under `model.mtp_layers.` (MiMo).
    MiMo,
    /// A file `medusa_lm_head.safetensors`.
    Medusa,
    /// `fc`, `midlayer`, `d2t`, `t2d` (EAGLE-3).
    Eagle3,
    /// A file `mtp_config.json`: this project's own layout.
    Foretoken,
}

impl fmt::Display for HeadKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HeadKind::DeepSeek => "DeepSeek-V3",
            HeadKind::Qwen => "Qwen MTP",
            HeadKind::MiMo => "MiMo",
            HeadKind::Medusa => "Medusa",
            HeadKind::Eagle3 => "EAGLE-3",
            HeadKind::Foretoken => "foretoken",
        })
    }
}

/// Multi-token heads that a checkpoint holds or announces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundHeads {
    /// Their layout.
    pub kind: HeadKind,
    /// Their tensors in the checkpoint's own files; empty where they have a file of their own, or are missing.
    pub tensors: Vec<String>,
    /// What was found, for people.
    pub note: String,
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
pub(super) async fn find_headers<F: Files>(files: &F) -> Result<Option<Header>> {
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
