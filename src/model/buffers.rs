//! The buffers of a session, made once.

use super::head_plan::HeadBuffers;
use super::heads::HeadWeights;
use super::sizes::{Sizes, attention_shape};
use crate::format::spec::{BlockSpec, ModelSpec};
use crate::gpu::Gpu;
use crate::kernels::{EMITTED_WORDS, MAX_BATCH_ROWS, MAX_CHUNK_ROWS, RECORDED_RANKS, Row, SampleParams, State, Tree};

/// Everything a session keeps on the GPU.
pub(crate) struct Buffers {
    pub state: wgpu::Buffer,
    pub rows: wgpu::Buffer,
    /// The residual stream, `[rows, hidden]`.
    pub x: wgpu::Buffer,
    /// Normalised activations before attention and, apart, before the MLP: a parallel residual needs both.
    pub attention_in: wgpu::Buffer,
    pub mlp_in: wgpu::Buffer,
    /// What a product gives of queries, keys and values where heads are normalised after it, else empty.
    pub projected: wgpu::Buffer,
    /// Queries, keys and values that attention takes.
    pub qkv: wgpu::Buffer,
    pub attention_out: wgpu::Buffer,
    pub intermediate: wgpu::Buffer,
    pub scores: wgpu::Buffer,
    pub inverse_sums: wgpu::Buffer,
    /// Keys and values of each layer.
    pub cache: Vec<(wgpu::Buffer, wgpu::Buffer)>,
    pub logits: wgpu::Buffer,
    /// `exp(logit - highest)` of the rows last sampled, not normalised.
    pub probabilities: wgpu::Buffer,
    pub counts: wgpu::Buffer,
    pub sampled: wgpu::Buffer,
    pub log_probs: wgpu::Buffer,
    pub sample_params: wgpu::Buffer,
    /// What a submit brings back: ids, the reason of the end, drafted and accepted tokens of each round, and if wanted
    /// what the target thought of each draft.
    pub emitted: wgpu::Buffer,
    /// The text by position, `[context + 1]`.
    pub text: wgpu::Buffer,
    /// How many rows the last batch committed, then which, ascending.
    pub path: wgpu::Buffer,
    /// The tree of a round.
    pub tree: wgpu::Buffer,
    /// Drafted tokens, `[depth, rank]`.
    pub candidates: wgpu::Buffer,
    /// Drafts written down beforehand, `[context + 1, RECORDED_RANKS]`.
    pub recorded: wgpu::Buffer,
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
            emitted: gpu.storage("emitted", 4 * EMITTED_WORDS as u64),
            text: gpu.storage("text", 4 * (u64::from(sizes.context) + 1)),
            path: gpu.storage("path", 4 * (1 + MAX_CHUNK_ROWS as u64)),
            tree: gpu.uniform("tree", &<Tree as bytemuck::Zeroable>::zeroed()),
            candidates: gpu.storage("candidates", 4 * (MAX_BATCH_ROWS * MAX_BATCH_ROWS) as u64),
            recorded: gpu.storage("recorded", 4 * RECORDED_RANKS as u64 * (u64::from(sizes.context) + 1)),
            heads: heads.map(|heads| HeadBuffers::new(gpu, spec, heads, sizes)),
        }
    }
}
