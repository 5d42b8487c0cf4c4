//! Multi-token heads: what a folder's own layout (`docs/mtp-format.md`) or a published one says they compute.
//!
//! Every layout becomes the same plain data. A head predicts the token `offset` places after the one at its position,
//! from hidden states of the backbone; nothing that a layout says is ignored without a word.

mod init;
mod lora;
mod own;
mod published;

use std::collections::BTreeSet;

use super::checkpoint::{Checkpoint, HeadKind};
use super::config::ModelConfig;
use super::files::Files;
use super::hash::hash_files;
use super::layouts;
use super::layouts::heads::{self, MEDUSA, MODULES};
use super::layouts::tensor_name;
use super::spec::Part;
use super::tensors::Tensors;
use crate::error::{Error, Result};

pub use super::layouts::heads::{CONFIG, EXPECTED, FILES, TENSORS};
pub use init::{Init, InitOptions, InitSource, init_heads};
pub use lora::{LoraOptions, add_lora, halved, without_lora};
pub use own::{FORMAT, VERSION};

/// More heads than any checkpoint has.
pub const MAX_HEADS: usize = 32;

/// The farthest offset of a head.
pub const MAX_OFFSET: usize = 33;

/// The hidden state that a head reads.
#[derive(Clone, Debug, PartialEq)]
pub enum HeadSource {
    /// The residual stream after this many blocks of the backbone, before any norm.
    Layer(usize),
    /// `softmax(W / temperature)` of the streams after 1, 2, ... all but one of the blocks, `W` being this tensor.
    Mix {
        /// The tensor `W`.
        weights: String,
        /// The softmax's temperature.
        temperature: f64,
    },
    /// The output of the backbone's final norm.
    FinalNorm,
    /// The output of the final norm of an earlier head, by its index.
    Head(usize),
}

/// What a head does with it. Layers have the backbone's structure and a cache of their own; a final norm and an LM head
/// follow.
#[derive(Clone, Debug, PartialEq)]
pub enum Wiring {
    /// The backbone's own last block: the head has no tensors.
    LastLayer,
    /// Layers.
    Layers,
    /// `projection(norm(hidden), norm(embedding of the token before the predicted one))`, then layers.
    Sequential {
        /// The norm of the hidden state.
        hidden_norm: String,
        /// The norm of the embedding.
        embedding_norm: String,
        /// The matrix of both, `[hidden, 2 * hidden]`.
        projection: String,
        /// Whether the hidden state's half comes first.
        hidden_first: bool,
        /// An embedding of the head's own.
        embedding: Option<String>,
    },
    /// Blocks `x + silu(W x + b)` in place of layers, on the position alone.
    Residual {
        /// The blocks' names.
        blocks: Vec<String>,
    },
}

/// A hash of everything in `files` that decides what its heads compute, as [`Checkpoint::identity`].
///
/// # Errors
/// If a file cannot be read.
pub async fn identity<F: Files>(files: &F) -> Result<String> {
    let mut names: BTreeSet<String> = FILES.map(str::to_owned).into();
    names.extend(layouts::files(files).await?);
    hash_files(files, names).await
}

/// One head. Names are those of modules: `.weight` and `.bias` come behind.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// Places from the token at its position to the one that it predicts.
    pub offset: usize,
    /// The hidden state that it reads.
    pub source: HeadSource,
    /// The computation between its source and its final norm.
    pub wiring: Wiring,
    /// The beginning of the names of each of its layers' tensors.
    pub layers: Vec<String>,
    /// The head's final norm, where that is not the backbone's.
    pub final_norm: Option<String>,
    /// The head's LM head, where that is not the backbone's.
    pub lm_head: Option<String>,
    /// Whether its layers take the place of the backbone's last ones: what it predicts is what the model generates.
    pub target: bool,
}

/// A low-rank change of one product of the backbone: `W + alpha / rank * B A`.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraPart {
    /// The product it changes, by its name in the base model.
    pub linear: String,
    /// The product's outputs.
    pub outputs: usize,
    /// The tensor `A`, `[rank, hidden]`.
    pub a: String,
    /// The tensor `B`, `[outputs, rank]`.
    pub b: String,
}

/// The low-rank changes that heads bring for their backbone.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    /// Rows of every `A`.
    pub rank: usize,
    /// The numerator of the scale.
    pub alpha: f64,
    /// Whether they act on drafting rows only, so that the base model's own prediction stays as it is.
    pub gated: bool,
    /// The parts, by block.
    pub parts: Vec<LoraPart>,
}

impl Lora {
    /// The factor of `B A`.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }
}

/// Heads and the tensors they are made of, checked against a backbone.
#[derive(Debug)]
pub struct HeadSet<'f, F: Files> {
    /// The layout they were found in.
    pub kind: HeadKind,
    /// The heads, nearest first.
    pub heads: Vec<Head>,
    /// Low-rank changes of the backbone.
    pub lora: Option<Lora>,
    /// Whether the scales of the heads' norms are stored less one.
    pub norms_less_one: bool,
    /// Their tensors.
    pub tensors: Tensors<'f, F>,
    /// Tensors that no head needs.
    pub unused: Vec<String>,
}

/// What a folder without heads has that other programs draft with.
async fn other_drafter<F: Files>(files: &F) -> Result<Option<String>> {
    let Some(tensors) = Tensors::of_checkpoint(files).await? else { return super::foreign::of_files(files).await };
    if tensors.names().any(|name| heads::is_eagle3(name)) {
        return Ok(Some("heads in the EAGLE-3 layout are not implemented".to_owned()));
    }
    let drafters = "a whole model is there, and drafting with a second model is not implemented; give heads that were made for \
                    this model, or draft by lookup";
    Ok(heads::are_a_model(&tensors).then(|| drafters.to_owned()))
}

impl<'f, F: Files> HeadSet<'f, F> {
    /// The heads that a checkpoint brings itself, beside or among its own tensors; `None` without any.
    ///
    /// Fails with [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) where their layout is not implemented, and by
    /// name where one is broken or does not fit.
    pub async fn of_checkpoint(checkpoint: &Checkpoint<'f, F>) -> Result<Option<Self>> {
        let found = checkpoint.multi_token_heads();
        let kinds: BTreeSet<HeadKind> = found.iter().map(|found| found.kind).collect();
        let (config, files) = (checkpoint.config(), checkpoint.files());
        for kind in [HeadKind::Foretoken, HeadKind::Medusa].into_iter().chain(MODULES) {
            if !kinds.contains(&kind) {
                continue;
            }
            let set = match kind {
                HeadKind::Foretoken => own::open(files, config).await?,
                HeadKind::Medusa => published::medusa(files, config).await?,
                kind => published::in_checkpoint(kind, checkpoint.all().clone(), config)?,
            };
            if set.is_some() {
                return Ok(set);
            }
        }
        match found.into_iter().find(|found| found.kind == HeadKind::Eagle3) {
            Some(_) => Err(Error::unsupported("heads in the EAGLE-3 layout are not implemented")),
            None => Ok(None),
        }
    }

    /// The heads in a folder of their own, for the backbone that `config` describes.
    pub async fn open(files: &'f F, config: &ModelConfig) -> Result<Self> {
        if let Some(set) = own::open(files, config).await? {
            return Ok(set);
        }
        if let Some(set) = published::medusa(files, config).await? {
            return Ok(set);
        }
        if let Some(tensors) = Tensors::of_checkpoint(files).await? {
            for kind in MODULES {
                if let Some(set) = published::in_checkpoint(kind, tensors.clone(), config)? {
                    return Ok(set);
                }
            }
        }
        if let Some(what) = other_drafter(files).await? {
            return Err(Error::unsupported(format!("no multi-token heads in {}: {what}", files.describe())));
        }
        Err(Error::io(format!(
            "no multi-token heads in {}: expected {CONFIG}, {MEDUSA}, or a checkpoint with tensors under {}",
            files.describe(),
            heads::expected(config)
        )))
    }

    /// Checks that every tensor the heads need is there and fits, and notes those that they do not need.
    fn checked(mut self, config: &ModelConfig, stated_by: &str, mine: impl Fn(&str) -> bool) -> Result<Self> {
        if self.lora.is_some() && config.spec.is_recurrent() {
            let message = "heads with a LoRA are not supported for a model with recurrent layers";
            return Err(Error::unsupported(message).within(self.tensors.describe()));
        }
        if config.spec.logit_scale != 1.0 {
            let message = "multi-token heads on a model whose logits have a factor are not supported";
            return Err(Error::unsupported(message).within(self.tensors.describe()));
        }
        let expected = self.expected_tensors(config);
        for head in &self.heads {
            self.check_vocabulary(head, config)?;
        }
        for (name, shape) in &expected {
            self.tensors.require(name, shape, stated_by)?;
        }
        let expected: BTreeSet<&String> = expected.iter().map(|(name, _)| name).collect();
        let buffer = |name: &String| config.is_known_buffer(name);
        let left = |name: &&String| mine(name) && !expected.contains(name) && !buffer(name);
        let unused: Vec<String> = self.tensors.names().filter(left).cloned().collect();
        let layers = || self.heads.iter().flat_map(|head| &head.layers);
        let strange =
            |name: &&String| layers().any(|layer| name.strip_prefix(layer).is_some_and(|n| n.starts_with('.')));
        if let Some(name) = unused.iter().find(strange) {
            return Err(Error::unsupported(format!(
                "{}: heads with the tensor \"{name}\" are not implemented; the layers of this backbone have none like it",
                self.tensors.describe()
            )));
        }
        self.unused = unused;
        Ok(self)
    }

    fn check_vocabulary(&self, head: &Head, config: &ModelConfig) -> Result<()> {
        let Some(info) = head.lm_head.as_ref().and_then(|name| self.tensors.get(&tensor_name(name, Part::Weight)))
        else {
            return Ok(());
        };
        match info.shape.first() {
            Some(&vocab) if vocab != config.vocab_size => Err(Error::format(format!(
                "{}: tensor \"{}\": heads for a vocabulary of {vocab} tokens, the model has {}",
                self.tensors.describe(),
                info.name,
                config.vocab_size
            ))),
            _ => Ok(()),
        }
    }

    /// Every tensor of the heads, with its shape.
    pub fn expected_tensors(&self, config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
        let (hidden, vocab) = (config.hidden_size, config.vocab_size);
        let mut all = Vec::new();
        for head in &self.heads {
            if let HeadSource::Mix { weights, .. } = &head.source {
                all.push((weights.clone(), vec![config.num_hidden_layers - 1]));
            }
            match &head.wiring {
                Wiring::LastLayer | Wiring::Layers => {}
                Wiring::Sequential { hidden_norm, embedding_norm, projection, embedding, .. } => {
                    all.extend(config.norm_tensors(hidden_norm));
                    all.extend(config.norm_tensors(embedding_norm));
                    all.push((tensor_name(projection, Part::Weight), vec![hidden, 2 * hidden]));
                    all.extend(embedding.iter().map(|name| (tensor_name(name, Part::Weight), vec![vocab, hidden])));
                }
                Wiring::Residual { blocks } => {
                    for block in blocks {
                        all.push((tensor_name(block, Part::Weight), vec![hidden, hidden]));
                        all.push((tensor_name(block, Part::Bias), vec![hidden]));
                    }
                }
            }
            all.extend(head.layers.iter().flat_map(|layer| config.layer_tensors(layer)));
            all.extend(head.final_norm.iter().flat_map(|name| config.norm_tensors(name)));
            all.extend(head.lm_head.iter().map(|name| (tensor_name(name, Part::Weight), vec![vocab, hidden])));
        }
        for part in self.lora.iter().flat_map(|lora| &lora.parts) {
            let rank = self.lora.as_ref().map_or(0, |lora| lora.rank);
            all.push((part.a.clone(), vec![rank, hidden]));
            all.push((part.b.clone(), vec![part.outputs, rank]));
        }
        // Modules of one layout may share a tensor.
        all.sort();
        all.dedup();
        all
    }

    /// Elements of all tensors.
    pub fn parameters(&self, config: &ModelConfig) -> u64 {
        self.infos(config).iter().map(|info| info.num_elements()).sum()
    }

    /// Bytes of all tensors.
    pub fn byte_len(&self, config: &ModelConfig) -> u64 {
        self.infos(config).iter().map(|info| info.byte_len()).sum()
    }

    /// All tensors, as they lie in the files.
    pub(crate) fn infos(&self, config: &ModelConfig) -> Vec<&super::safetensors::TensorInfo> {
        self.expected_tensors(config).iter().filter_map(|(name, _)| self.tensors.get(name)).collect()
    }

    /// A summary for people: `2 parallel heads for tokens +1 and +2, 1 layer each, ...`.
    pub fn summary(&self) -> String {
        let count = self.heads.len();
        let kind = match self.heads.last().map(|head| &head.wiring) {
            Some(Wiring::Sequential { .. }) => "sequential",
            Some(Wiring::Residual { .. }) => "Medusa",
            _ => "parallel",
        };
        let heads = if count == 1 { "head" } else { "heads" };
        let each: Vec<String> = self.heads.iter().map(Head::summary).collect();
        let mut text = format!("{count} {kind} {heads}: {}", each.join("; "));
        if let Some(lora) = &self.lora {
            let gate = if lora.gated { "on drafting rows only" } else { "merged into the backbone" };
            text += &format!("; LoRA of rank {} on {} products, {gate}", lora.rank, lora.parts.len());
        }
        text
    }
}

impl Head {
    /// Whether its layers can take the place of the backbone's last ones.
    fn can_be_target(&self, config: &ModelConfig) -> bool {
        let follows = match &self.source {
            HeadSource::Layer(layer) => *layer + self.layers.len() == config.num_hidden_layers,
            HeadSource::Mix { .. } => self.layers.len() == 1,
            HeadSource::FinalNorm | HeadSource::Head(_) => false,
        };
        self.offset == 1 && self.wiring == Wiring::Layers && self.final_norm.is_none() && follows
    }

    /// The depth of the token that it reads beside the hidden state, as places after its position; 0 if it reads none.
    pub fn ahead(&self) -> usize {
        if matches!(self.wiring, Wiring::Sequential { .. }) { self.offset - 1 } else { 0 }
    }

    fn summary(&self) -> String {
        let source = match &self.source {
            HeadSource::Layer(layer) => format!("the stream after block {layer}"),
            HeadSource::Mix { .. } => "a mix of the streams after all blocks but the last".to_owned(),
            HeadSource::FinalNorm => "the final norm's output".to_owned(),
            HeadSource::Head(index) => format!("the output of head {}", index + 1),
        };
        let body = match &self.wiring {
            Wiring::LastLayer => return format!("+{} the backbone's last block", self.offset),
            _ if self.target => return format!("+{} in place of the backbone's last block", self.offset),
            Wiring::Residual { blocks } => format!("{} residual blocks", blocks.len()),
            _ if self.layers.len() == 1 => "1 layer".to_owned(),
            _ => format!("{} layers", self.layers.len()),
        };
        format!("+{} {body} on {source}", self.offset)
    }
}
