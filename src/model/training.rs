//! A model to be trained: its heads in f32 and its LoRA apart, beside a backbone as it always is.

use super::checks::check_kernels;
use super::engine::{Model, Progress, expected_bytes, open, rotations, with_need};
use super::formats;
use super::heads;
use super::lora::Changes;
use super::sizes::Sizes;
use super::weights;
use crate::format::config::ModelConfig;
use crate::format::files::Files;
use crate::format::mtp::{Head, HeadSet, Lora};
use crate::gpu::Gpu;
use crate::kernels::{KernelSet, WeightFormat, Widths};
use crate::{Error, Result};

/// The sizes of a model to be trained.
pub(crate) struct Measured {
    pub config: ModelConfig,
    pub sizes: Sizes,
    pub heads: Vec<Head>,
    pub lora: Option<Lora>,
    /// Bytes of the backbone's weights.
    pub backbone_bytes: u64,
    /// Elements of the heads' tensors, those of their LoRA among them.
    pub head_elements: u64,
}

/// What [`load_for_training`] would load; to be called before it.
///
/// # Errors
/// For files that are broken or do not fit each other, and a length that the model has not; [`crate::ErrorKind::Unsupported`] for
/// heads of a published layout, and a LoRA whose alpha is not its rank.
pub(crate) async fn measure_for_training<F: Files, H: Files>(
    gpu: &Gpu,
    files: &F,
    heads: &H,
    (length, quantize): (usize, Option<WeightFormat>),
) -> Result<Measured> {
    let checkpoint = open(files).await?;
    let config = checkpoint.config().clone();
    let set = HeadSet::open(heads, &config).await?;
    check_heads(&set)?;
    formats::check(formats::of_backbone(&checkpoint), quantize)?;
    let limit = config.max_position_embeddings;
    if length == 0 || length > limit {
        return Err(Error::input(format!(
            "sequences of {length} tokens: expected 1 to {limit}, the model's max_position_embeddings"
        )));
    }
    let sizes = Sizes::new(&config.spec, length, gpu.summary().max_binding_bytes)?;
    let (backbone_bytes, head_elements) = (formats::backbone_bytes(&checkpoint, quantize), set.parameters(&config));
    let HeadSet { heads, lora, .. } = set;
    Ok(Measured { config, sizes, heads, lora, backbone_bytes, head_elements })
}

/// Loads the checkpoint in `files` for sequences of `length` tokens, with the `heads` that will be trained; no buffer has more than
/// `vocab_chunk` columns of a matrix over the vocabulary, and the backbone's matrices are packed in `quantize`.
///
/// # Errors
/// As `Engine::load_with_heads`.
pub(crate) async fn load_for_training<F: Files, H: Files>(
    gpu: &Gpu,
    files: &F,
    heads: &H,
    kernels: Option<KernelSet>,
    (length, vocab_chunk, quantize): (usize, usize, Option<WeightFormat>),
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Model> {
    let checkpoint = open(files).await?;
    let set = HeadSet::open(heads, checkpoint.config()).await?;
    let config = checkpoint.config().clone();
    let sizes = Sizes::new(&config.spec, length, gpu.summary().max_binding_bytes)?;
    let kernels = kernels.unwrap_or_else(|| KernelSet::default_for(gpu.summary()));
    kernels.check(gpu.summary())?;
    formats::check(formats::of_backbone(&checkpoint), quantize)?;
    let mut in_use = formats::in_use(&checkpoint, None::<&HeadSet<'_, H>>, quantize);
    // Heads are trained in it, whatever they are stored in.
    in_use.insert(WeightFormat::F32);
    check_kernels(gpu, kernels, &in_use).await?;
    let total = expected_bytes(&checkpoint) + set.byte_len(&config);
    let mut bytes = 0;
    let mut on_bytes = |more: u64| {
        bytes += more;
        progress(Progress::Weights { bytes, total });
    };
    let need = formats::backbone_bytes(&checkpoint, quantize) + 4 * set.parameters(&config);
    let need = |error| with_need(error, need, &sizes);
    let none = Changes::default();
    let weights = weights::load(gpu, &checkpoint, &none, (vocab_chunk, quantize), &mut on_bytes).await.map_err(need)?;
    let heads = heads::load(gpu, &config, &set, true, None, &mut on_bytes).await.map_err(need)?;
    let rotations = rotations(gpu, &config.spec, length);
    Ok(Model {
        gpu: gpu.clone(),
        config,
        tokenizer: None,
        kernels,
        widths: Widths::Each,
        width_invariant: true,
        sizes,
        weights,
        rotations,
        heads: Some(heads),
        // No session waits for this model.
        sync_seconds: 0.0,
    })
}

fn check_heads<H: Files>(set: &HeadSet<'_, H>) -> Result<()> {
    use crate::format::checkpoint::HeadKind;
    if set.kind != HeadKind::Foretoken {
        return Err(Error::unsupported(format!(
            "heads in the layout of {} are not trained; make ones of the own layout with init-heads",
            set.kind
        )));
    }
    match set.lora.as_ref().filter(|lora| lora.scale() != 1.0) {
        Some(lora) => Err(Error::unsupported(format!(
            "a LoRA with alpha {} and rank {} is not trained: they must be equal",
            lora.alpha, lora.rank
        ))),
        None => Ok(()),
    }
}
