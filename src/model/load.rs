//! Loading: a checkpoint becomes a model on the GPU.

use std::sync::Arc;

use futures_util::future::try_join;

use super::buffers::Buffers;
use super::checks::{check_kernels, working_widths};
use super::formats;
use super::heads::{self, HeadWeights};
use super::lora::Changes;
use super::sizes::{self, Sizes, attention_shape, delta_shape};
use super::state::kept_shape;
use super::upload::Matrix;
use super::weights::{self, Layer, Weights};
use crate::analysis::HeadFacts;
use crate::error::counted;
use crate::format::checkpoint::{Checkpoint, HeadKind};
use crate::format::config::ModelConfig;
use crate::format::files::Files;
use crate::format::mtp::HeadSet;
use crate::format::rope::Rope;
use crate::format::safetensors::TensorInfo;
use crate::format::spec::{BlockSpec, Mixer, ModelSpec};
use crate::format::tokenizer::Tokenizer;
use crate::gpu::{Buffer, Gpu};
use crate::kernels::{AttentionShape, CacheType, KernelSet, MAX_END_TOKENS, Widths};
use crate::options::setters;
use crate::self_test::InjectedFault;
use crate::{Error, ErrorKind, Result, WeightFormat};

/// Options to load a model with.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EngineOptions {
    /// Tokens a text may have. Default: the model's maximum, at most 4096. The cache grows with the text.
    pub context: Option<usize>,
    /// The kernel set. Default: [`KernelSet::default_for`] the adapter.
    pub kernels: Option<KernelSet>,
    /// Run the fast self-test, and refuse to load where a kernel computes wrong results. It runs once a device for each kernel
    /// set and type of weights: what it found is remembered.
    pub self_test: bool,
    /// Use the multi-token heads that the checkpoint brings, with their LoRA. Without, it is loaded as if it had none.
    pub heads: bool,
    /// Pack every matrix in this format as it is loaded; norms and biases stay what they are. Default: as they are stored.
    pub quantize: Option<WeightFormat>,
    /// The type in which sessions keep keys and values. Every guarantee holds within one type; between them texts may
    /// differ.
    pub cache: CacheType,
    /// The checkpoint's tokenizer, where the caller has read it already. Default: it is read from the files.
    pub tokenizer: Option<Arc<Tokenizer>>,
}

setters!(EngineOptions {
    self_test: bool, heads: bool, cache: CacheType;
    or none context: usize, kernels: KernelSet, quantize: WeightFormat, tokenizer: Arc<Tokenizer>
});

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            context: None,
            kernels: None,
            self_test: true,
            heads: true,
            quantize: None,
            cache: CacheType::F32,
            tokenizer: None,
        }
    }
}

/// The progress of loading, or of reading a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Weights on their way to the GPU.
    Weights {
        /// Bytes sent.
        bytes: u64,
        /// Bytes in all.
        total: u64,
    },
    /// Pipelines compiled; then, counted anew, ops that the driver has made ready.
    Pipelines {
        /// Pipelines or ops done.
        done: usize,
        /// Pipelines or ops in all.
        total: usize,
    },
    /// The prompt on its way through the model.
    Prefill {
        /// Tokens done.
        tokens: usize,
        /// Tokens in all.
        total: usize,
    },
    /// Branches of a marginal summed up. Offset 3 counts twice: first tokens whose successors are known, then paths.
    Branches {
        /// Branches done.
        done: usize,
        /// Branches in all.
        total: usize,
    },
    /// Positions of a text that are known.
    Positions {
        /// Positions done.
        done: usize,
        /// Positions in all.
        total: usize,
    },
}

/// The part of an engine that sessions share.
#[derive(Clone)]
pub(crate) struct Model {
    pub gpu: Gpu,
    pub config: ModelConfig,
    pub tokenizer: Option<Arc<Tokenizer>>,
    pub kernels: KernelSet,
    pub widths: Widths,
    /// Rows do not feel each other on this device, so that drafts cannot change the text.
    pub width_invariant: bool,
    pub sizes: Sizes,
    pub weights: Weights,
    /// `[context, rotary_dim / 2]` of (cos, sin) for each rotary embedding that a block has.
    pub rotations: Vec<(Rope, Buffer)>,
    /// The uniform with the soft cap of the logits, where they have one.
    pub softcap: Option<Buffer>,
    /// Multi-token heads.
    pub heads: Option<HeadWeights>,
    /// Seconds from the end of a submit to when the host knows of it.
    pub sync_seconds: f64,
}

impl Model {
    /// The same model on a dry device: the ops that are made of it there tell what they would take.
    pub fn dry(&self) -> Self {
        Self { gpu: Gpu::dry(self.gpu.summary()), ..self.clone() }
    }

    /// Weights that each row of a prompt is multiplied with.
    pub fn block_weights(&self) -> u64 {
        self.weights.block_matrices().map(Matrix::weights).sum()
    }

    /// Bytes of weights and cache that a step of `rows` rows reads when each sees `keys` keys: weights once for as many
    /// rows as a product takes at a time.
    pub fn read_bytes(&self, rows: usize, keys: usize) -> u64 {
        let Self { weights, sizes, widths, .. } = self;
        let head = weights.lm_head.as_ref().unwrap_or(&weights.embedding);
        let matrices: u64 = weights.block_matrices().chain([head]).map(Matrix::bytes).sum();
        let passes = rows.div_ceil(widths.rows().last().map_or(1, |&widest| widest as usize)) as u64;
        let read_of_block = |block: &BlockSpec| match &block.mixer {
            Mixer::Attention(attention) => {
                let shape = kept_shape(attention, sizes.context, sizes.cache);
                rows as u64 * 2 * shape.slot_bytes() * keys.min(shape.window_or_all() as usize) as u64
            }
            // Once for all rows, and again when they are committed.
            Mixer::DeltaNet(delta) => 2 * delta_shape(delta).state_bytes(),
        };
        passes * matrices + self.config.spec.blocks.iter().map(read_of_block).sum::<u64>()
    }

    /// The multi-token heads in use, nearest first: wiring and cost.
    pub fn head_facts(&self) -> Vec<HeadFacts> {
        let Some(heads) = &self.heads else { return Vec::new() };
        let step = self.read_bytes(1, 0) as f64;
        // Whoever drafts first lets drafting rows go through the blocks below.
        let first = heads.heads.iter().position(|head| !heads.is_base(head));
        let below = |at| if Some(at) == first { heads.adapted_bytes(&self.weights) } else { 0 };
        let facts = |(at, head): (usize, &heads::Head)| HeadFacts {
            offset: head.offset,
            ahead: head.ahead,
            backbone: matches!(head.body, heads::Body::LastLayer),
            layers: head.layers().len(),
            mix: match &heads.sources[head.source] {
                heads::Source::Mix(mix) => Some(mix.weights.clone()),
                _ => None,
            },
            draft_over_step: (head.read_bytes(&self.weights) + below(at)) as f64 / step,
        };
        heads.heads.iter().enumerate().map(facts).collect()
    }

    /// The sizes that the kernels of a layer's attention share.
    pub fn attention_shape(&self, layer: &Layer) -> AttentionShape {
        attention_shape(layer.attention(), self.sizes.context)
    }

    /// The rotations of one of the model's rotary embeddings.
    pub fn rotation(&self, rope: &Rope) -> &Buffer {
        let found = self.rotations.iter().find(|(known, _)| known == rope);
        &found.expect("there is a table for the rope of every block").1
    }
}

/// A model that was loaded, and what the user should know of it.
pub(crate) struct Loaded {
    pub model: Model,
    /// Tensors that were ignored, fallbacks that were taken.
    pub notes: Vec<String>,
    /// A summary of the multi-token heads in use, for people; `None` without any.
    pub heads_summary: Option<String>,
    /// Their weights, with their LoRA.
    pub head_parameters: u64,
}

/// Loads the checkpoint in `files`, tensor by tensor; with a `fault` for tests to provoke.
///
/// # Errors
/// As [`Engine::load`](crate::Engine::load).
pub(crate) async fn load<F: Files>(
    gpu: &Gpu,
    files: &F,
    options: &EngineOptions,
    progress: &mut (dyn FnMut(Progress) + Send),
    fault: Option<InjectedFault>,
) -> Result<Loaded> {
    let checkpoint = open(files).await?;
    let mut notes = Vec::new();
    let set = if options.heads { heads_of(&checkpoint, &mut notes).await? } else { None };
    note_tensors(&checkpoint, set.as_ref().map(|set| set.kind), &mut notes);
    load_parts(gpu, &checkpoint, set.as_ref(), options, progress, fault, notes).await
}

/// [`load`] with the multi-token heads in a folder of their own, whatever heads the checkpoint brings.
///
/// # Errors
/// As [`load`]; also where the folder has no heads, or they do not fit the model.
pub(crate) async fn load_with_heads<F: Files, H: Files>(
    gpu: &Gpu,
    files: &F,
    heads: &H,
    options: &EngineOptions,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Loaded> {
    let checkpoint = open(files).await?;
    let set = HeadSet::open(heads, checkpoint.config()).await?;
    let mut notes = Vec::new();
    note_tensors(&checkpoint, None, &mut notes);
    load_parts(gpu, &checkpoint, Some(&set), options, progress, None, notes).await
}

async fn load_parts<F: Files, H: Files>(
    gpu: &Gpu,
    checkpoint: &Checkpoint<'_, F>,
    set: Option<&HeadSet<'_, H>>,
    options: &EngineOptions,
    progress: &mut (dyn FnMut(Progress) + Send),
    fault: Option<InjectedFault>,
    mut notes: Vec<String>,
) -> Result<Loaded> {
    let config = checkpoint.config().clone();
    let context = sizes::context(&config, options.context)?;
    let sizes = Sizes::new(&config.spec, context, options.cache, gpu.summary().max_binding_bytes)?;
    check_end_tokens(&config)?;
    let kernels = options.kernels.unwrap_or_else(|| KernelSet::default_for(gpu.summary()));
    kernels.check(gpu.summary())?;
    kernels.check_context(context)?;
    if let Some(set) = set {
        sizes.check_history(gpu.summary().max_binding_bytes)?;
        note_heads(set, &mut notes);
    }
    let quantize = options.quantize;
    formats::check_packing(checkpoint, set, quantize)?;
    let in_use = formats::in_use(checkpoint, set, quantize);
    let testing = async {
        if !options.self_test {
            // A fault that nobody looks for counts as found.
            return Ok(fault.map_or(Some(Widths::Each), InjectedFault::working));
        }
        let cache = options.cache;
        check_kernels(gpu, kernels, &in_use, cache, config.spec.is_recurrent()).await?;
        working_widths(gpu, kernels, (&in_use, cache), fault, &mut notes).await
    };
    let total = expected_bytes(checkpoint) + set.map_or(0, |set| set.byte_len(&config));
    let need = formats::backbone_bytes(checkpoint, quantize)
        + set.map_or(0, |set| formats::heads_bytes(checkpoint, set, quantize));
    let mut bytes = 0;
    let mut on_bytes = |more: u64| {
        bytes += more;
        progress(Progress::Weights { bytes, total });
    };
    let loading = async {
        let tokenizer = match &options.tokenizer {
            Some(known) => Some(Arc::clone(known)),
            None if checkpoint.has_tokenizer() => Some(Arc::new(checkpoint.tokenizer().await?)),
            None => None,
        };
        let changes = match set {
            Some(set) => Changes::read(set, &config).await?,
            None => Changes::default(),
        };
        let weights = weights::load(gpu, checkpoint, &changes, (usize::MAX, quantize), &mut on_bytes).await?;
        let heads = match set {
            Some(set) => Some(heads::load(gpu, &config, set, false, quantize, &mut on_bytes).await?),
            None => None,
        };
        Ok((tokenizer, weights, heads))
    };
    // A browser compiles the self-test's kernels while files come; natively one follows the other.
    let (widths, (tokenizer, weights, heads)) =
        try_join(testing, loading).await.map_err(|error| with_need(error, need, &config.spec, &sizes))?;
    let rotations = rotations(gpu, &config.spec, context);
    let softcap = config.spec.logit_softcap.map(|cap| gpu.uniform("softcap", &cap));
    let model = Model {
        gpu: gpu.clone(),
        config,
        tokenizer,
        kernels,
        widths: widths.unwrap_or(Widths::Fixed),
        width_invariant: widths.is_some(),
        sizes,
        weights,
        rotations,
        softcap,
        heads,
        // Nothing runs on a dry device.
        sync_seconds: if gpu.is_dry() { 0.0 } else { gpu.time_readback().await? },
    };
    let head_parameters = set.map_or(0, |set| set.parameters(&model.config));
    Ok(Loaded { model, notes, heads_summary: set.map(HeadSet::summary), head_parameters })
}

fn check_end_tokens(config: &ModelConfig) -> Result<()> {
    let count = config.eos_token_ids.len();
    if count > MAX_END_TOKENS {
        return Err(Error::unsupported(format!("{count} eos_token_ids: at most {MAX_END_TOKENS} are supported")));
    }
    Ok(())
}

pub(super) async fn open<F: Files>(files: &F) -> Result<Checkpoint<'_, F>> {
    let checkpoint = Checkpoint::open(files).await?;
    checkpoint.check()?;
    Ok(checkpoint)
}

/// The heads that the checkpoint brings. Those of a layout that is not implemented are noted and left out.
async fn heads_of<'f, F: Files>(
    checkpoint: &Checkpoint<'f, F>,
    notes: &mut Vec<String>,
) -> Result<Option<HeadSet<'f, F>>> {
    match HeadSet::of_checkpoint(checkpoint).await {
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            notes.push(format!("multi-token heads are not used: {error}"));
            Ok(None)
        }
        found => found.map_err(|error| error.within("multi-token heads")),
    }
}

fn note_heads<H: Files>(set: &HeadSet<'_, H>, notes: &mut Vec<String>) {
    if !set.unused.is_empty() {
        let (count, names) = (set.unused.len(), some(&set.unused));
        notes.push(format!("multi-token heads: {} not used: {names}", counted(count, "tensor")));
    }
    if let Some(lora) = &set.lora {
        let done = if lora.gated { "acts on drafting rows only" } else { "was merged into the model" };
        notes.push(format!("the LoRA of rank {} that the multi-token heads bring {done}", lora.rank));
    }
}

fn note_tensors<F: Files>(checkpoint: &Checkpoint<'_, F>, used: Option<HeadKind>, notes: &mut Vec<String>) {
    notes.extend(checkpoint.notes().iter().cloned());
    let unknown = checkpoint.account().unknown;
    if !unknown.is_empty() {
        notes.push(format!(
            "ignored {} that this model does not have: {}",
            counted(unknown.len(), "tensor"),
            some(&unknown)
        ));
    }
    for heads in checkpoint.multi_token_heads().iter().filter(|heads| Some(heads.kind) != used) {
        notes.push(format!("multi-token heads ({}) were found and are not used: {}", heads.kind, heads.note));
    }
}

/// The first few names.
fn some(names: &[String]) -> String {
    let mut text = names.iter().take(4).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > 4 {
        text.push_str(", ...");
    }
    text
}

/// Bytes of the backbone's tensors in their files.
pub(super) fn expected_bytes<F: Files>(checkpoint: &Checkpoint<'_, F>) -> u64 {
    formats::of_backbone(checkpoint).map(TensorInfo::byte_len).sum()
}

/// Adds what would have been needed to an out-of-memory error.
pub(super) fn with_need(error: Error, weights_bytes: u64, spec: &ModelSpec, sizes: &Sizes) -> Error {
    if error.kind() != ErrorKind::OutOfMemory {
        return error;
    }
    error.within(format!(
        "the model needs {weights_bytes} bytes for weights, {} for the cache of a full context and {} to work",
        sizes.cache_bytes,
        Buffers::work_bytes(spec, sizes)
    ))
}

/// A table for each rotary embedding of the blocks: rotations of every position.
pub(super) fn rotations(gpu: &Gpu, spec: &ModelSpec, context: usize) -> Vec<(Rope, Buffer)> {
    let mut tables: Vec<(Rope, Buffer)> = Vec::new();
    for rope in spec.attentions().map(|attention| &attention.rope) {
        if !tables.iter().any(|(known, _)| known == rope) {
            tables.push((rope.clone(), gpu.storage_with("rotation", &rotation_table(rope, context))));
        }
    }
    tables
}

/// Empty for a rope that rotates nothing. Made in f64: shaders' sine and cosine are too coarse for large angles.
fn rotation_table(rope: &Rope, context: usize) -> Vec<[f32; 2]> {
    let frequencies = rope.inv_freq();
    let at = |position: usize, frequency: &f64| {
        let (sin, cos) = (position as f64 * frequency).sin_cos();
        [(rope.amplitude * cos) as f32, (rope.amplitude * sin) as f32]
    };
    (0..context).flat_map(|position| frequencies.iter().map(move |frequency| at(position, frequency))).collect()
}
