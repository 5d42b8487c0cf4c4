//! An engine: a model on a GPU, shared by the sessions that it starts.

use std::sync::Arc;

use tracing::{Instrument, Span, info_span};

use super::rounds::RoundPlan;
use super::sampling::Sampling;
use super::session::Session;
use crate::analysis::HeadFacts;
use crate::format::config::ModelConfig;
use crate::format::files::Files;
use crate::format::tokenizer::Tokenizer;
use crate::gpu::Gpu;
use crate::kernels::{CacheType, KernelSet};
use crate::model::{Buffers, EngineOptions, Loaded, Model, Plan, Progress, Sizes, capacity, load, load_with_heads};
use crate::self_test::InjectedFault;
use crate::{Error, Result};

/// A model on a GPU. Clones share it; [`Engine::session`] starts a text.
#[derive(Clone)]
pub struct Engine {
    model: Arc<Model>,
    notes: Arc<[String]>,
    heads_summary: Option<Arc<str>>,
    head_parameters: u64,
}

impl Engine {
    /// Loads the checkpoint in `files`, tensor by tensor.
    ///
    /// # Errors
    /// Everything that can be wrong with a checkpoint, by file, tensor and value; an adapter too small for the model;
    /// [`ErrorKind::SelfTest`](crate::ErrorKind::SelfTest) where a kernel computes wrong results on this adapter.
    pub async fn load<F: Files>(
        gpu: &Gpu,
        files: &F,
        options: &EngineOptions,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Self> {
        Self::load_with_fault(gpu, files, options, progress, None).await
    }

    /// [`Engine::load`] with the multi-token heads in a folder of their own, whatever heads the checkpoint brings.
    ///
    /// # Errors
    /// As [`Engine::load`]; also where the folder has no heads, or they do not fit the model.
    pub async fn load_with_heads<F: Files, H: Files>(
        gpu: &Gpu,
        files: &F,
        heads: &H,
        options: &EngineOptions,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Self> {
        let loading = async {
            let loaded = load_with_heads(gpu, files, heads, options, progress).await?;
            Self::of(loaded, progress).await
        };
        loading.instrument(load_span(gpu, files)).await
    }

    /// [`Engine::load`], with a fault for tests to provoke.
    pub(crate) async fn load_with_fault<F: Files>(
        gpu: &Gpu,
        files: &F,
        options: &EngineOptions,
        progress: &mut (dyn FnMut(Progress) + Send),
        fault: Option<InjectedFault>,
    ) -> Result<Self> {
        let loading = async {
            let loaded = load(gpu, files, options, progress, fault).await?;
            Self::of(loaded, progress).await
        };
        loading.instrument(load_span(gpu, files)).await
    }

    /// Makes a loaded model ready for sessions.
    async fn of(loaded: Loaded, progress: &mut (dyn FnMut(Progress) + Send)) -> Result<Self> {
        let Loaded { model, notes, heads_summary, head_parameters } = loaded;
        compile(&model, progress)?;
        warm_up(&model, progress).await?;
        let heads_summary = heads_summary.map(Arc::from);
        Ok(Self { model: Arc::new(model), notes: notes.into(), heads_summary, head_parameters })
    }

    /// The configuration of the model.
    pub fn config(&self) -> &ModelConfig {
        &self.model.config
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) if the checkpoint has none.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.model.tokenizer.as_deref().ok_or_else(|| {
            Error::io("the checkpoint has no tokenizer.json, without which there are token ids, but no text")
        })
    }

    /// The device this model is on.
    pub fn gpu(&self) -> &Gpu {
        &self.model.gpu
    }

    /// The kernel set in use.
    pub fn kernels(&self) -> KernelSet {
        self.model.kernels
    }

    /// Tokens a session holds.
    pub fn context(&self) -> usize {
        self.model.sizes.context as usize
    }

    /// Whether a row's result is the same, bit for bit, whichever rows are computed beside it on this device. Where it is
    /// not, drafts would change the text and stay off.
    pub fn width_invariant(&self) -> bool {
        self.model.width_invariant
    }

    /// The type in which sessions keep keys and values.
    pub fn cache(&self) -> CacheType {
        self.model.sizes.cache
    }

    /// A summary of the multi-token heads in use, for people; `None` without any.
    pub fn heads_summary(&self) -> Option<&str> {
        self.heads_summary.as_deref()
    }

    /// Weights of the multi-token heads in use, with their LoRA.
    pub fn head_parameters(&self) -> u64 {
        self.head_parameters
    }

    /// The multi-token heads in use, nearest first: wiring and cost.
    pub fn head_facts(&self) -> Vec<HeadFacts> {
        self.model.head_facts()
    }

    /// Weights that each row of a prompt is multiplied with.
    pub(crate) fn block_weights(&self) -> u64 {
        self.model.block_weights()
    }

    /// Bytes of weights and cache that a step of one row reads when it sees `keys` keys.
    pub(crate) fn step_bytes(&self, keys: usize) -> u64 {
        self.model.read_bytes(1, keys)
    }

    /// Notes for the user: tensors that were ignored, fallbacks that were taken.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Starts an empty text with a cache of its own, which grows as the text does.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory) if the cache does not fit the GPU.
    pub fn session(&self) -> Result<Session> {
        let SessionParts { buffers, plan, rounds } = SessionParts::new(&self.model, &self.model.sizes);
        self.model.gpu.check()?;
        Ok(Session::new(Arc::clone(&self.model), buffers, plan, rounds))
    }
}

/// The buffers and ops of a session on the GPU.
struct SessionParts {
    buffers: Buffers,
    plan: Plan,
    rounds: RoundPlan,
}

impl SessionParts {
    /// The parts of a session of `model` with buffers of `sizes`, for a text that is empty.
    fn new(model: &Model, sizes: &Sizes) -> Self {
        let capacity = capacity(1, sizes.context);
        let buffers = Buffers::new(&model.gpu, &model.config.spec, sizes, capacity, model.heads.as_ref());
        let (plan, rounds) = (Plan::new(model, &buffers), RoundPlan::new(model, &buffers, sizes));
        Self { buffers, plan, rounds }
    }
}

/// The span of a load.
fn load_span<F: Files>(gpu: &Gpu, files: &F) -> Span {
    info_span!("load", model = files.describe(), adapter = gpu.summary().name)
}

/// Compiles every pipeline a session uses, so that none is compiled while text is generated.
fn compile(model: &Model, progress: &mut (dyn FnMut(Progress) + Send)) -> Result<()> {
    // What a session takes, from the code that makes it.
    let dry = model.dry();
    SessionParts::new(&dry, &dry.sizes);
    let variants = dry.gpu.variants();
    for (done, variant) in variants.iter().enumerate() {
        progress(Progress::Pipelines { done, total: variants.len() });
        model.gpu.kernel(variant);
    }
    progress(Progress::Pipelines { done: variants.len(), total: variants.len() });
    model.gpu.check()
}

/// Dispatches every form of every op once, over no workgroups. Nothing is computed, but lavapipe makes machine code when a
/// pipeline first meets the values of a uniform that bounds its loops, and that should not be while a prompt is read.
async fn warm_up(model: &Model, progress: &mut (dyn FnMut(Progress) + Send)) -> Result<()> {
    const OPS_A_SUBMIT: usize = 8;
    let small = Sizes { context: 4, chunk_rows: 1, vocab: 4, ..model.sizes };
    let SessionParts { buffers, plan, rounds } = SessionParts::new(model, &small);
    let sampling = Sampling::default().params(model.sizes.vocab, model.sizes.vocab_stride());
    model.gpu.write(&buffers.sample_params, 0, &[sampling]);
    let ops: Vec<_> = plan.ops().chain(rounds.ops()).collect();
    for (done, ops_of_submit) in ops.chunks(OPS_A_SUBMIT).enumerate() {
        progress(Progress::Pipelines { done: done * OPS_A_SUBMIT, total: ops.len() });
        let submission =
            model.gpu.submit(None, |recorder| ops_of_submit.iter().for_each(|op| op.warm_up(recorder)), None);
        model.gpu.finished(submission).await?;
    }
    progress(Progress::Pipelines { done: ops.len(), total: ops.len() });
    model.gpu.check()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::decode::head_tests::golden;
    use crate::gpu::AdapterSummary;
    use crate::kernels::declared::all_variants;

    /// Backbones, and heads for them.
    const MODELS: [(&str, Option<&str>); 11] = [
        ("llama-gqa", None),
        ("llama-odd-f16", None),
        ("neox-sequential", None),
        ("qwen3-bias", None),
        ("gemma2", None),
        ("gemma3", None),
        ("mistral-window", None),
        ("llama-gqa", Some("heads-parallel")),
        ("llama-sharded", Some("heads-whs")),
        ("mistral", Some("heads-medusa")),
        ("neox-parallel", Some("heads-sequential")),
    ];

    /// A session of a model, made without any device.
    fn dry(gpu: &Gpu, (base, heads): (&str, Option<&str>), kernels: KernelSet) -> Model {
        let options = EngineOptions { kernels: Some(kernels), self_test: false, ..EngineOptions::default() };
        let base = golden(base);
        let loaded = match heads {
            Some(heads) => pollster::block_on(load_with_heads(gpu, &base, &golden(heads), &options, &mut |_| {})),
            None => pollster::block_on(load(gpu, &base, &options, &mut |_| {}, None)),
        };
        loaded.expect("it loads").model
    }

    #[test]
    fn sessions_are_planned_without_a_device_and_ask_for_declared_kernels_only() {
        let declared = all_variants();
        for subgroup in [None, Some((32, 32))] {
            let gpu = Gpu::dry(&AdapterSummary { subgroup, ..AdapterSummary::unlimited() });
            for (kernels, of) in
                KernelSet::available(gpu.summary()).into_iter().flat_map(|set| MODELS.map(|of| (set, of)))
            {
                let model = dry(&gpu, of, kernels);
                let planned = model.dry();
                SessionParts::new(&planned, &planned.sizes);
                let variants = planned.gpu.variants();
                let unknown: Vec<_> = variants.iter().filter(|variant| !declared.contains(*variant)).collect();
                assert!(unknown.is_empty(), "{of:?}, {kernels}: no file of kernels declares {unknown:?}");
                let shaders: BTreeSet<&str> = variants.iter().map(|variant| variant.shader).collect();
                // Norms after a part copy what they have normalised onto the hidden states, drafts or none.
                let copies = of.0.starts_with("gemma");
                let draft = ["draft_top", "stage_window", "compact_hidden", "copy_hidden"];
                let draft = &draft[..if copies { 3 } else { 4 }];
                assert!(shaders.contains("matmul") && shaders.contains("commit"), "{of:?}: {shaders:?}");
                assert_eq!(
                    draft.iter().filter(|shader| shaders.contains(*shader)).count() > 0,
                    of.1.is_some(),
                    "{of:?}"
                );
                let made = planned.gpu.counts();
                assert!(made.bind_groups > 0 && (made.pipelines, made.submits) == (0, 0), "{of:?}: {made:?}");
                assert!(made.buffer_bytes > model.sizes.cache_bytes, "{of:?}: {made:?}");
            }
        }
    }
}
