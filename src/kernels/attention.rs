//! Attention of rows over the cache, in three kernels: scores, softmax, values.
//!
//! A key counts by its position, so a row's sums do not depend on where the cache keeps its ancestors.

use bytemuck::{Pod, Zeroable};

use super::{Grid, KernelSet, Op};
use crate::gpu::{Gpu, Variant};

/// Sizes that the attention kernels share. `head_dim` is padded to a multiple of four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AttentionShape {
    pub heads: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    /// Slots of the cache.
    pub context: u32,
    /// Positions that a position sees, itself included; `None`: all before it.
    pub window: Option<u32>,
}

impl AttentionShape {
    /// Values of a row of queries, keys and values.
    pub fn qkv_stride(self) -> u32 {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Values of a row of attention output.
    pub fn out_stride(self) -> u32 {
        self.heads * self.head_dim
    }

    /// The window as kernels take it.
    pub fn window_or_all(self) -> u32 {
        self.window.unwrap_or(u32::MAX)
    }

    /// Bytes of the keys, or of the values, of one layer.
    pub fn cache_bytes(self) -> u64 {
        4 * u64::from(self.kv_heads) * u64::from(self.head_dim) * u64::from(self.context)
    }
}

impl std::fmt::Display for AttentionShape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { heads, kv_heads, head_dim, context, window } = self;
        write!(f, "{heads} heads, {kv_heads} of keys, of {head_dim}, context {context}")?;
        window.map_or(Ok(()), |window| write!(f, ", window {window}"))
    }
}

/// The uniform of `attention_scores.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct ScoresParams {
    pub heads: u32,
    pub kv_heads: u32,
    pub head_dim4: u32,
    pub stride4: u32,
    pub context: u32,
    pub window: u32,
    pub scale: f32,
}

/// The uniform of `attention_softmax.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct SoftmaxParams {
    pub heads: u32,
    pub context: u32,
    pub window: u32,
}

/// The uniform of `attention_values.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct ValuesParams {
    pub heads: u32,
    pub kv_heads: u32,
    pub head_dim4: u32,
    pub context: u32,
    pub window: u32,
    pub stride4: u32,
}

/// The one variant of `attention_scores`.
pub(crate) fn scores_variant() -> Variant {
    Variant::of("attention_scores")
}

/// The variant of `attention_softmax` of a set.
pub(crate) fn softmax_variant(set: KernelSet, subgroup: u32) -> Variant {
    set.with_reduce(Variant::of("attention_softmax"), subgroup)
}

/// The variant of `attention_values` of a set.
pub(crate) fn values_variant(set: KernelSet) -> Variant {
    KernelSet::with_split(Variant::of("attention_values"), set.values_shape())
}

/// `scores[rows, heads, context]` of the queries in `qkv`, scaled by `scale`.
pub(crate) fn attention_scores(
    gpu: &Gpu,
    shape: AttentionShape,
    scale: f32,
    [state, rows, qkv, keys, scores]: [&wgpu::Buffer; 5],
) -> Op {
    let params = ScoresParams {
        heads: shape.heads,
        kv_heads: shape.kv_heads,
        head_dim4: shape.head_dim / 4,
        stride4: shape.qkv_stride() / 4,
        context: shape.context,
        window: shape.window_or_all(),
        scale,
    };
    let params = gpu.uniform("attention_scores", &params);
    let kernel = gpu.kernel(&scores_variant());
    let bind_group = gpu.bind(&kernel, &[&params, state, rows, qkv, keys, scores]);
    Op::single(kernel, bind_group, Grid::Keys { heads: shape.heads })
}

/// Scores to `exp(score - max)` in place, and `1 / sum` to `inverse_sums[rows, heads]`.
pub(crate) fn attention_softmax(
    gpu: &Gpu,
    set: KernelSet,
    shape: AttentionShape,
    [state, rows, scores, inverse_sums]: [&wgpu::Buffer; 4],
) -> Op {
    let params = SoftmaxParams { heads: shape.heads, context: shape.context, window: shape.window_or_all() };
    let params = gpu.uniform("attention_softmax", &params);
    let kernel = gpu.kernel(&softmax_variant(set, gpu.summary().fixed_subgroup().unwrap_or(0)));
    let bind_group = gpu.bind(&kernel, &[&params, state, rows, scores, inverse_sums]);
    Op::single(kernel, bind_group, Grid::Rows { x: shape.heads })
}

/// `out[rows, heads, head_dim]`: the values weighted by what `attention_softmax` left.
pub(crate) fn attention_values(
    gpu: &Gpu,
    set: KernelSet,
    shape: AttentionShape,
    [state, rows, scores, inverse_sums, values, out]: [&wgpu::Buffer; 6],
) -> Op {
    let params = ValuesParams {
        heads: shape.heads,
        kv_heads: shape.kv_heads,
        head_dim4: shape.head_dim / 4,
        context: shape.context,
        window: shape.window_or_all(),
        stride4: shape.out_stride() / 4,
    };
    let params = gpu.uniform("attention_values", &params);
    let kernel = gpu.kernel(&values_variant(set));
    let bind_group = gpu.bind(&kernel, &[&params, state, rows, scores, inverse_sums, values, out]);
    let (lanes, _) = set.values_shape();
    Op::single(kernel, bind_group, Grid::Heads { x: (shape.head_dim / 4).div_ceil(lanes), y: shape.heads })
}
