//! A description of what a checkpoint holds and needs, made without a GPU.

use std::collections::BTreeMap;

use super::buffers::Buffers;
use super::formats;
use super::sizes::{self, Sizes};
use super::state::whole_shape;
use crate::format::checkpoint::{Checkpoint, FoundHeads, HeadKind};
use crate::format::config::ModelConfig;
use crate::format::files::Files;
use crate::format::mtp::HeadSet;
use crate::format::spec::{Activation, ModelSpec, Norm};
use crate::kernels::{CacheType, WeightFormat};
use crate::{ErrorKind, Result};

/// The answer of [`inspect`]. Sizes under the names of `config.json`.
#[derive(Clone, Debug, serde::Serialize)]
#[non_exhaustive]
pub struct Inspection {
    /// The folder or URL.
    pub model: String,
    /// What a user should know about the files.
    pub notes: Vec<String>,
    /// `config.json`'s `model_type`.
    pub model_type: String,
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Whether query and key heads are normalised before they are rotated.
    pub qk_norm: bool,
    /// Positions that a position of each block sees, where that is not all before it; empty where no block has a window.
    pub windows: Vec<Option<usize>>,
    /// Blocks with a recurrent mixer, whose state has a fixed size, in place of attention.
    pub recurrent_layers: usize,
    /// The longest text the model was made for.
    pub max_position_embeddings: usize,
    /// `RMSNorm` or `LayerNorm`.
    pub norm: &'static str,
    /// `silu`, `gelu` or `gelu_tanh`.
    pub activation: &'static str,
    /// Whether the LM head is the embedding.
    pub tie_word_embeddings: bool,
    /// Tokens that end a text.
    pub eos_token_ids: Vec<u32>,
    /// Weights of the model.
    pub parameters: u64,
    /// Tensors by element type.
    pub dtypes: BTreeMap<String, usize>,
    /// Tensors the model reads.
    pub tensors_used: Vec<String>,
    /// Known tensors that no forward pass needs.
    pub ignored: Vec<String>,
    /// Tensors this version knows nothing of.
    pub unknown: Vec<String>,
    /// Tensors the model needs and the checkpoint lacks.
    pub missing: Vec<String>,
    /// Why loading would fail, if something is wrong with the tensors.
    pub problem: Option<String>,
    /// Multi-token heads: kind and what was found.
    pub heads: Vec<HeadsInfo>,
    /// Tokens of the context the sizes below are for.
    pub context: usize,
    /// Bytes of the weights on the GPU.
    pub weights_bytes: u64,
    /// The same bytes by the format that all matrices are packed in if that is asked for, where every one of them can
    /// be.
    pub quantized_bytes: BTreeMap<String, u64>,
    /// Bytes of what layers keep of a text that fills the context: keys and values in f32, of which f16 takes half, and the
    /// states of recurrent layers.
    pub cache_bytes: u64,
    /// Bytes of everything else on the GPU.
    pub work_bytes: u64,
}

/// Multi-token heads of a checkpoint.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct HeadsInfo {
    /// The layout.
    pub kind: String,
    /// Their tensors in the checkpoint's own files.
    pub tensors: Vec<String>,
    /// A note on what was found, and what the heads are.
    pub note: String,
    /// Whether they are loaded with the model.
    pub used: bool,
    /// The token that each head predicts: 1 is the next.
    pub offsets: Vec<usize>,
    /// Layers of each head; a head of the backbone's own last block has none.
    pub layers: Vec<usize>,
    /// Weights of the heads.
    pub parameters: u64,
    /// Tensors that no head needs.
    pub unused: Vec<String>,
    /// Bytes on the GPU: weights, caches and what heads read.
    pub bytes: u64,
}

/// Reads configuration and headers of the checkpoint in `files`.
///
/// # Errors
/// If a file is missing or broken, or the configuration asks for something that is not implemented. Wrong or missing
/// tensors are part of the answer.
pub async fn inspect<F: Files>(files: &F, context: Option<usize>) -> Result<Inspection> {
    examine(files, None::<&F>, context).await
}

/// [`inspect`] with the multi-token heads in a folder of their own, whatever heads the checkpoint brings.
///
/// # Errors
/// As [`inspect`]; also where the folder has no heads, or they do not fit the model.
pub async fn inspect_with_heads<F: Files, H: Files>(
    files: &F,
    heads: &H,
    context: Option<usize>,
) -> Result<Inspection> {
    examine(files, Some(heads), context).await
}

async fn examine<F: Files, H: Files>(files: &F, own: Option<&H>, context: Option<usize>) -> Result<Inspection> {
    let checkpoint = Checkpoint::open(files).await?;
    let config = checkpoint.config();
    let spec = &config.spec;
    let context = sizes::context(config, context)?;
    let sizes = Sizes::new(spec, context, CacheType::F32, u64::MAX)?;
    let account = checkpoint.account();
    let (heads, heads_problem) = match own {
        Some(files) => (apart(&checkpoint, files, &sizes).await?, None),
        None => heads(&checkpoint, &sizes).await,
    };
    let used: Vec<_> = account.used.iter().filter_map(|name| checkpoint.tensor(name)).collect();
    let mut dtypes = BTreeMap::new();
    for info in &used {
        *dtypes.entry(info.dtype.name().to_owned()).or_insert(0) += 1;
    }
    Ok(Inspection {
        model: checkpoint.describe(),
        notes: checkpoint.notes().to_vec(),
        model_type: config.model_type.clone(),
        vocab_size: config.vocab_size,
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        num_hidden_layers: config.num_hidden_layers,
        num_attention_heads: config.num_attention_heads,
        num_key_value_heads: config.num_key_value_heads,
        head_dim: config.head_dim,
        qk_norm: sizes.qk_norm,
        windows: windows(spec),
        recurrent_layers: spec.blocks.len() - spec.attentions().count(),
        max_position_embeddings: config.max_position_embeddings,
        norm: match spec.final_norm {
            Norm::Rms { .. } => "RMSNorm",
            Norm::Layer { .. } => "LayerNorm",
        },
        activation: match spec.last_block().mlp.activation {
            Activation::Silu => "silu",
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "gelu_tanh",
        },
        tie_word_embeddings: config.tie_word_embeddings,
        eos_token_ids: config.eos_token_ids.clone(),
        parameters: used.iter().map(|info| info.num_elements()).sum(),
        weights_bytes: used.iter().map(|info| info.byte_len()).sum(),
        quantized_bytes: quantized_bytes(&checkpoint),
        dtypes,
        problem: checkpoint.check().err().map(|error| error.to_string()).or(heads_problem),
        heads,
        tensors_used: account.used,
        ignored: account.ignored,
        unknown: account.unknown,
        missing: account.missing,
        context,
        cache_bytes: sizes.cache_bytes,
        work_bytes: Buffers::work_bytes(spec, &sizes),
    })
}

fn windows(spec: &ModelSpec) -> Vec<Option<usize>> {
    let windows: Vec<_> = spec.blocks.iter().map(|block| block.attention()?.window).collect();
    if windows.iter().all(Option::is_none) { Vec::new() } else { windows }
}

fn quantized_bytes<F: Files>(checkpoint: &Checkpoint<'_, F>) -> BTreeMap<String, u64> {
    let fits = |format: &WeightFormat| formats::check(formats::of_backbone(checkpoint), Some(*format)).is_ok();
    let bytes = |format: WeightFormat| (format.flag(), formats::backbone_bytes(checkpoint, Some(format)));
    WeightFormat::packed_at_load().filter(fits).map(bytes).collect()
}

/// The heads in a folder of their own first, then those of the checkpoint, which are not used.
async fn apart<H: Files>(checkpoint: &Checkpoint<'_, impl Files>, files: &H, sizes: &Sizes) -> Result<Vec<HeadsInfo>> {
    let set = HeadSet::open(files, checkpoint.config()).await?;
    let mut used = HeadsInfo { kind: format!("{:?}", set.kind), ..HeadsInfo::default() };
    describe(&set, checkpoint.config(), sizes, &mut used);
    let others = found(checkpoint).into_iter().map(|(_, heads)| HeadsInfo { note: heads.note + ", not used", ..heads });
    Ok(std::iter::once(used).chain(others).collect())
}

fn found(checkpoint: &Checkpoint<'_, impl Files>) -> Vec<(HeadKind, HeadsInfo)> {
    let named = |found: FoundHeads| {
        let (kind, tensors, note) = (format!("{:?}", found.kind), found.tensors, found.note);
        (found.kind, HeadsInfo { kind, tensors, note, ..HeadsInfo::default() })
    };
    checkpoint.multi_token_heads().into_iter().map(named).collect()
}

/// Every kind of heads that was found, and what is wrong with those that would be loaded.
async fn heads<F: Files>(checkpoint: &Checkpoint<'_, F>, sizes: &Sizes) -> (Vec<HeadsInfo>, Option<String>) {
    let mut all = found(checkpoint);
    let mut problem = None;
    match HeadSet::of_checkpoint(checkpoint).await {
        Ok(Some(set)) => {
            if let Some((_, heads)) = all.iter_mut().find(|(kind, _)| *kind == set.kind) {
                describe(&set, checkpoint.config(), sizes, heads);
            }
        }
        Ok(None) => {}
        Err(error) => {
            all.iter_mut().for_each(|(_, heads)| heads.note = format!("{}; not used: {error}", heads.note));
            problem = (error.kind() != ErrorKind::Unsupported).then(|| error.to_string());
        }
    }
    let unused = all.iter_mut().filter(|(_, heads)| !heads.used && !heads.note.contains("not used"));
    unused.for_each(|(_, heads)| heads.note += ", not used");
    (all.into_iter().map(|(_, heads)| heads).collect(), problem)
}

fn describe<F: Files>(set: &HeadSet<'_, F>, config: &ModelConfig, sizes: &Sizes, heads: &mut HeadsInfo) {
    heads.used = true;
    heads.note = set.summary();
    heads.offsets = set.heads.iter().map(|head| head.offset).collect();
    heads.layers = set.heads.iter().map(|head| head.layers.len()).collect();
    heads.parameters = set.parameters(config);
    heads.unused.clone_from(&set.unused);
    let layer = whole_shape(config.spec.last_attention(), sizes.context, sizes.cache).cache_bytes();
    let caches = heads.layers.iter().sum::<usize>() as u64 * 2 * layer;
    // At most: heads that read the same share it.
    heads.bytes = set.byte_len(config) + caches + set.heads.len() as u64 * sizes.history_bytes();
}
