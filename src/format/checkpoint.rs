//! A checkpoint: configuration, tokenizer and tensors, whatever files they lie in.
//!
//! Opening reads configuration and headers only; tensors and tokenizer are read when asked for.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use super::config::ModelConfig;
use super::files::{Files, read_exact};
use super::hash::hash_files;
use super::layouts::{self, Opened};
use super::safetensors::{SkippedTensor, TensorInfo};
use super::spec::Role;
use super::tensors::Tensors;
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};

/// An opened checkpoint.
#[derive(Debug)]
pub struct Checkpoint<'f, F: Files> {
    files: &'f F,
    config: ModelConfig,
    stated_by: &'static str,
    has_tokenizer: bool,
    tensors: Tensors<'f, F>,
    head_files: Vec<(HeadKind, &'static str)>,
    deciding: Vec<String>,
    notes: Vec<String>,
    contradiction: Option<Error>,
}

impl<'f, F: Files> Checkpoint<'f, F> {
    /// Reads the configuration and the headers of all files with tensors.
    ///
    /// Fails, naming the file, when one is missing, broken or not supported. A missing tokenizer is no failure here.
    pub async fn open(files: &'f F) -> Result<Self> {
        let Opened { config, tensors, stated_by, has_tokenizer, head_files, deciding, notes, contradiction } =
            layouts::open(files).await?;
        Ok(Self { files, config, stated_by, has_tokenizer, tensors, head_files, deciding, notes, contradiction })
    }

    /// What a user should know about the files.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The configuration of the model: what it computes.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The files that it lies in.
    pub fn files(&self) -> &'f F {
        self.files
    }

    /// The folder or URL, for messages.
    pub fn describe(&self) -> String {
        self.files.describe()
    }

    /// Whether there is a tokenizer. Without one, prompts can still be given as token ids.
    pub fn has_tokenizer(&self) -> bool {
        self.has_tokenizer
    }

    /// Reads and builds the tokenizer. Fails when there is none, or it is broken or not supported.
    pub async fn tokenizer(&self) -> Result<Tokenizer> {
        layouts::tokenizer(self.files).await
    }

    /// A hash of everything that decides what the model computes: the names, lengths and content of its files. It tells whether
    /// a model is the same, not whether somebody forged it.
    pub async fn identity(&self) -> Result<String> {
        let mut names: BTreeSet<String> = self.deciding.iter().cloned().collect();
        names.extend(self.tensors().map(|info| info.file.clone()));
        hash_files(self.files, names).await
    }

    /// Where the tensor of `role` lies, and the name under which it does; rows of some are those of several roles
    /// ([`Place`](super::layouts::Place)).
    pub fn tensor_of(&self, role: Role) -> Option<&TensorInfo> {
        self.tensors.get(&self.config.name_of(role))
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
        self.tensors.require(name, shape, self.stated_by)
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
        if info.interleaved.is_some() {
            let (start, end) = (range.start as usize, range.end as usize);
            return Ok(self.read(info).await?[start..end].to_vec().into());
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
            } else if layouts::heads::kind_of(name, &self.tensors, &self.config).is_some() {
                &mut account.heads
            } else {
                &mut account.unknown
            };
            list.push(name.clone());
        }
        account.missing = expected.into_keys().filter(|name| !self.tensors.contains(name)).collect();
        account
    }

    /// Fails on the first tensor that the model needs and that is missing or has another shape or element type, and on the first
    /// that a block has and the family's blocks have not: it would be left out of what the model computes. Also where a buffer
    /// that follows from the configuration is there and says otherwise.
    pub fn check(&self) -> Result<()> {
        self.config.expected_tensors().iter().try_for_each(|(name, shape)| self.require(name, shape).map(|_| ()))?;
        match self.account().unknown.iter().find(|name| self.config.is_in_block(name)) {
            None => self.contradiction.clone().map_or(Ok(()), Err),
            Some(name) => Err(Error::unsupported(format!(
                "{}: tensor \"{name}\": the blocks of a {} model have none like it, so it would compute something else",
                self.files.describe(),
                self.config.model_type
            ))),
        }
    }

    /// Heads that predict more than one token ahead: found, or announced and missing. Kinds without a trace are left out.
    pub fn multi_token_heads(&self) -> Vec<FoundHeads> {
        layouts::heads::find(&self.tensors, &self.config, self.stated_by, &self.head_files)
    }
}

/// The use of a checkpoint's tensors, each list sorted by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TensorAccount {
    /// The model reads them.
    pub used: Vec<String>,
    /// Known and not needed: buffers that follow from the configuration, a tied LM head.
    pub ignored: Vec<String>,
    /// Parts of multi-token heads.
    pub heads: Vec<String>,
    /// Tensors of which nothing is known.
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
    /// A note on what was found, for people.
    pub note: String,
}
