//! The buffers of a session, made once.

use super::head_plan::HeadBuffers;
use super::heads::HeadWeights;
use super::sizes::{Sizes, attention_shape};
use crate::format::spec::{BlockSpec, ModelSpec};
use crate::gpu::{AdapterSummary, Buffer, Gpu};
use crate::kernels::{MAX_BATCH_ROWS, MAX_CHUNK_ROWS, Row, SampleParams, State};

/// What the forward pass of a session keeps on the GPU.
pub(crate) struct Buffers {
    pub state: Buffer,
    pub rows: Buffer,
    /// The residual stream, `[rows, hidden]`.
    pub x: Buffer,
    /// Normalised activations before attention and, apart, before the MLP: a parallel residual needs both.
    pub attention_in: Buffer,
    pub mlp_in: Buffer,
    /// What a product gives of queries, keys and values where heads are normalised after it, else empty.
    pub projected: Buffer,
    /// Queries, keys and values that attention takes.
    pub qkv: Buffer,
    pub attention_out: Buffer,
    pub intermediate: Buffer,
    pub scores: Buffer,
    pub inverse_sums: Buffer,
    /// Keys and values of each layer.
    pub cache: Vec<(Buffer, Buffer)>,
    pub logits: Buffer,
    /// `exp(logit - highest)` of the rows last sampled, not normalised.
    pub probabilities: Buffer,
    pub counts: Buffer,
    pub sampled: Buffer,
    pub log_probs: Buffer,
    pub sample_params: Buffer,
    /// The text by position, `[context + 1]`.
    pub text: Buffer,
    /// What may follow the text, `[depth, rank]`: heads read it too.
    pub candidates: Buffer,
    /// Those of the model's heads.
    pub heads: Option<HeadBuffers>,
}

impl Buffers {
    /// Those of a session of a model like `spec`, with heads.
    pub fn new(gpu: &Gpu, spec: &ModelSpec, sizes: &Sizes, heads: Option<&HeadWeights>) -> Self {
        let rows = |label: &str, width: u32| gpu.storage(label, sizes.rows_bytes(width));
        let cache = |block: &BlockSpec| {
            let bytes = attention_shape(block.attention(), sizes.context).cache_bytes();
            (gpu.storage("keys", bytes), gpu.storage("values", bytes))
        };
        Self {
            state: gpu.storage("state", size_of::<State>() as u64),
            rows: gpu.storage("rows", (MAX_CHUNK_ROWS * size_of::<Row>()) as u64),
            x: rows("x", sizes.hidden),
            attention_in: rows("attention_in", sizes.hidden),
            mlp_in: rows("mlp_in", sizes.hidden),
            projected: gpu.storage("projected", sizes.projected_bytes()),
            qkv: rows("qkv", sizes.qkv),
            attention_out: rows("attention_out", sizes.attention_out),
            intermediate: rows("intermediate", sizes.intermediate),
            scores: gpu.storage("scores", sizes.scores_bytes()),
            inverse_sums: rows("inverse_sums", sizes.heads),
            cache: spec.blocks.iter().map(cache).collect(),
            logits: gpu.storage("logits", sizes.logits_bytes()),
            probabilities: gpu.storage("probabilities", sizes.logits_bytes()),
            counts: gpu.storage("counts", 4 * u64::from(sizes.vocab)),
            sampled: gpu.storage("sampled", 4 * MAX_BATCH_ROWS as u64),
            log_probs: gpu.storage("log_probs", 4 * MAX_BATCH_ROWS as u64),
            sample_params: gpu.uniform("sample", &<SampleParams as bytemuck::Zeroable>::zeroed()),
            text: gpu.storage("text", 4 * (u64::from(sizes.context) + 1)),
            candidates: gpu.storage("candidates", 4 * (MAX_BATCH_ROWS * MAX_BATCH_ROWS) as u64),
            heads: heads.map(|heads| HeadBuffers::new(gpu, spec, heads, sizes)),
        }
    }

    /// Bytes of everything beside the cache that the forward pass of a model like `spec` needs, without heads.
    pub fn work_bytes(spec: &ModelSpec, sizes: &Sizes) -> u64 {
        let gpu = Gpu::dry(&AdapterSummary::unlimited());
        Self::new(&gpu, spec, sizes, None);
        gpu.counts().buffer_bytes.saturating_sub(sizes.cache_bytes)
    }
}
