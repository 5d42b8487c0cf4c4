//! A model to be trained: its heads in f32 and its LoRA apart, beside a backbone as it always is.

use super::checks::check_kernels;
use super::formats;
use super::heads;
use super::load::{Model, Progress, expected_bytes, open, rotations, with_need};
use super::lora::Changes;
use super::sizes::Sizes;
use super::weights;
use crate::format::checkpoint::Checkpoint;
use crate::format::config::ModelConfig;
use crate::format::files::Files;
use crate::format::mtp::HeadSet;
use crate::gpu::Gpu;
use crate::kernels::{CacheType, KernelSet, WeightFormat, Widths};
use crate::{Error, Result};

/// Loads on a dry device what [`load_for_training`] would load: nothing but headers is read.
///
/// # Errors
/// For files that are broken or do not fit each other, and a length that the model has not; [`crate::ErrorKind::Unsupported`] for
/// heads of a published layout, and a LoRA whose alpha is not its rank.
pub(crate) async fn dry_for_training<F: Files, H: Files>(
    gpu: &Gpu,
    files: &F,
    heads: &H,
    sizes: TrainedSizes,
) -> Result<Model> {
    let checkpoint = open(files).await?;
    check_backbone(checkpoint.config())?;
    let set = HeadSet::open(heads, checkpoint.config()).await?;
    check_heads(&set)?;
    formats::check(formats::of_backbone(&checkpoint), sizes.quantize)?;
    let (length, limit) = (sizes.length, checkpoint.config().max_position_embeddings);
    if length == 0 || length > limit {
        return Err(Error::input(format!(
            "sequences of {length} tokens: expected 1 to {limit}, the model's max_position_embeddings"
        )));
    }
    let kernels = KernelSet::default_for(gpu.summary());
    assemble(&Gpu::dry(gpu.summary()), &checkpoint, &set, kernels, sizes, &mut |_| {}).await
}

/// The sizes that decide how a model to be trained lies on the GPU.
#[derive(Clone, Copy)]
pub(crate) struct TrainedSizes {
    /// Tokens of a sequence.
    pub length: usize,
    /// Columns of a matrix over the vocabulary that a buffer has at most.
    pub vocab_chunk: usize,
    /// The format in which the backbone's matrices are packed.
    pub quantize: Option<WeightFormat>,
}

/// Loads the checkpoint in `files` with the `heads` that will be trained.
///
/// # Errors
/// As `Engine::load_with_heads`.
pub(crate) async fn load_for_training<F: Files, H: Files>(
    gpu: &Gpu,
    files: &F,
    heads: &H,
    kernels: Option<KernelSet>,
    sizes: TrainedSizes,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Model> {
    let checkpoint = open(files).await?;
    check_backbone(checkpoint.config())?;
    let set = HeadSet::open(heads, checkpoint.config()).await?;
    let kernels = kernels.unwrap_or_else(|| KernelSet::default_for(gpu.summary()));
    kernels.check(gpu.summary())?;
    formats::check(formats::of_backbone(&checkpoint), sizes.quantize)?;
    let mut in_use = formats::in_use(&checkpoint, None::<&HeadSet<'_, H>>, sizes.quantize);
    // Heads are trained in it, whatever they are stored in.
    in_use.insert(WeightFormat::F32);
    check_kernels(gpu, kernels, &in_use, CacheType::F32, false).await?;
    let total = expected_bytes(&checkpoint) + set.byte_len(checkpoint.config());
    let mut bytes = 0;
    let mut on_bytes = |more: u64| {
        bytes += more;
        progress(Progress::Weights { bytes, total });
    };
    assemble(gpu, &checkpoint, &set, kernels, sizes, &mut on_bytes).await
}

/// The model on `gpu`, which may be dry.
async fn assemble<F: Files, H: Files>(
    gpu: &Gpu,
    checkpoint: &Checkpoint<'_, F>,
    set: &HeadSet<'_, H>,
    kernels: KernelSet,
    TrainedSizes { length, vocab_chunk, quantize }: TrainedSizes,
    on_bytes: &mut (dyn FnMut(u64) + Send),
) -> Result<Model> {
    let config = checkpoint.config().clone();
    let sizes = Sizes::new(&config.spec, length, CacheType::F32, gpu.summary().max_binding_bytes)?;
    let need = formats::backbone_bytes(checkpoint, quantize) + 4 * set.parameters(&config);
    let need = |error| with_need(error, need, &config.spec, &sizes);
    let none = Changes::default();
    let weights = weights::load(gpu, checkpoint, &none, (vocab_chunk, quantize), on_bytes).await.map_err(need)?;
    let heads = heads::load(gpu, &config, set, true, None, on_bytes).await.map_err(need)?;
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
        // Models with one are not trained.
        softcap: None,
        heads: Some(heads),
        // No session waits for this model.
        sync_seconds: 0.0,
    })
}

/// Checks that training knows the way back through every part of the backbone, which heads are like.
fn check_backbone(config: &ModelConfig) -> Result<()> {
    match config.spec.untrained() {
        Some(what) => Err(Error::unsupported(format!("training is not supported for models with {what}"))),
        None => Ok(()),
    }
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
