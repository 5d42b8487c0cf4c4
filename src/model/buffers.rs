//! The buffers of a session, made once.

use super::head_plan::HeadBuffers;
use super::heads::HeadWeights;
use super::load::Model;
use super::sizes::Sizes;
use super::state::LayerState;
use crate::format::spec::{BlockSpec, ModelSpec};
use crate::gpu::{AdapterSummary, Buffer, Copies, Gpu};
use crate::kernels::{MAX_BATCH_ROWS, MAX_CHUNK_ROWS, Row, SampleParams, State};

/// The buffers that the forward pass of a session keeps on the GPU.
pub(crate) struct Buffers {
    pub state: Buffer,
    pub rows: Buffer,
    /// The residual stream, `[rows, hidden]`.
    pub x: Buffer,
    /// Normalised activations before attention and, apart, before the MLP: a parallel residual needs both.
    pub attention_in: Buffer,
    pub mlp_in: Buffer,
    /// What a block is about to add to the stream, where that is normalised; else empty.
    pub added: Buffer,
    /// Queries, keys and values as a product or a convolution gives them, where heads are normalised after it; else empty.
    pub projected: Buffer,
    /// Queries, keys and values that attention takes.
    pub qkv: Buffer,
    pub attention_out: Buffer,
    pub intermediate: Buffer,
    pub scores: Buffer,
    pub inverse_sums: Buffer,
    /// The state of each layer: what it keeps of the text.
    pub layers: Vec<LayerState>,
    /// Positions that scores, the layers' states and what heads keep have room for; see [`Self::grow`].
    pub capacity: u32,
    pub logits: Buffer,
    /// `exp(logit - highest)` of the rows last sampled, not normalised.
    pub probabilities: Buffer,
    pub counts: Buffer,
    pub sampled: Buffer,
    pub log_probs: Buffer,
    pub sample_params: Buffer,
    /// The text by position, `[context + 1]`.
    pub text: Buffer,
    /// The number of rows that the last batch committed, then which, ascending.
    pub path: Buffer,
    /// Candidates that may follow the text, `[depth, rank]`: heads read them too.
    pub candidates: Buffer,
    /// The buffers of the model's heads.
    pub heads: Option<HeadBuffers>,
}

impl Buffers {
    /// The buffers of a session of a model like `spec`, with heads, at first for a text of `capacity` tokens.
    pub fn new(gpu: &Gpu, spec: &ModelSpec, sizes: &Sizes, capacity: u32, heads: Option<&HeadWeights>) -> Self {
        let rows = |label: &str, width: u32| gpu.storage(label, sizes.rows_bytes(width));
        let layer = |block: &BlockSpec| LayerState::new(gpu, &block.mixer, capacity, sizes.cache);
        Self {
            state: gpu.storage("state", size_of::<State>() as u64),
            rows: gpu.storage("rows", (MAX_CHUNK_ROWS * size_of::<Row>()) as u64),
            x: rows("x", sizes.hidden),
            attention_in: rows("attention_in", sizes.hidden),
            mlp_in: rows("mlp_in", sizes.hidden),
            added: gpu.storage("added", sizes.added_bytes()),
            projected: gpu.storage("projected", sizes.projected_bytes()),
            qkv: rows("qkv", sizes.qkv),
            attention_out: rows("attention_out", sizes.attention_out),
            intermediate: rows("intermediate", sizes.intermediate),
            scores: gpu.storage("scores", sizes.within(capacity).scores_bytes()),
            inverse_sums: rows("inverse_sums", sizes.heads),
            layers: spec.blocks.iter().map(layer).collect(),
            capacity,
            logits: gpu.storage("logits", sizes.logits_bytes()),
            probabilities: gpu.storage("probabilities", sizes.logits_bytes()),
            counts: gpu.storage("counts", 4 * u64::from(sizes.vocab)),
            sampled: gpu.storage("sampled", 4 * MAX_BATCH_ROWS as u64),
            log_probs: gpu.storage("log_probs", 4 * MAX_BATCH_ROWS as u64),
            sample_params: gpu.uniform("sample", &<SampleParams as bytemuck::Zeroable>::zeroed()),
            text: gpu.storage("text", 4 * (u64::from(sizes.context) + 1)),
            path: gpu.storage("path", 4 * (1 + MAX_CHUNK_ROWS as u64)),
            candidates: gpu.storage("candidates", 4 * (MAX_BATCH_ROWS * MAX_BATCH_ROWS) as u64),
            heads: heads.map(|heads| HeadBuffers::new(gpu, spec, heads, &sizes.within(capacity))),
        }
    }

    /// Bytes of everything beside the cache that the forward pass of a model like `spec` needs for a full context, without heads.
    pub fn work_bytes(spec: &ModelSpec, sizes: &Sizes) -> u64 {
        let gpu = Gpu::dry(&AdapterSummary::unlimited());
        Self::new(&gpu, spec, sizes, sizes.context, None);
        gpu.counts().buffer_bytes.saturating_sub(sizes.cache_bytes)
    }

    /// Makes room for `capacity` positions, more than before. What was kept of the text stays; a plan over these buffers has
    /// to be made anew.
    pub fn grow(&mut self, model: &Model, capacity: u32) {
        let (gpu, sizes) = (&model.gpu, model.sizes.within(capacity));
        let mut copies = Copies::default();
        self.scores = gpu.storage("scores", sizes.scores_bytes());
        self.layers.iter_mut().for_each(|layer| layer.grow(gpu, capacity, &mut copies));
        if let Some(heads) = &mut self.heads {
            heads.grow(gpu, &sizes, &mut copies);
        }
        self.capacity = capacity;
        gpu.copy(&copies);
    }

    /// Takes over what `other`, of the same model and capacity, keeps of its text.
    pub fn copy_text(&self, gpu: &Gpu, other: &Self) {
        let mut copies = Copies::default();
        self.layers.iter().zip(&other.layers).for_each(|(layer, other)| other.copy_to(layer, &mut copies));
        if let (Some(heads), Some(others)) = (&self.heads, &other.heads) {
            heads.copy_text(others, &mut copies);
        }
        copies.add((&other.text, 0), (&self.text, 0), self.text.size());
        gpu.copy(&copies);
    }
}
