//! Attention of rows over the cache, in three kernels: scores, softmax, values.
//!
//! A key counts by its position, so a row's sums do not depend on where the cache keeps its ancestors.

use bytemuck::{Pod, Zeroable};

use super::cache::{CacheType, kinds, with_cache};
use super::declared::{Declared, SUBGROUPS, layout};
use super::{Grid, KernelSet, Op};
use crate::gpu::{Buffer, Gpu, Variant};

/// The declarations of this file's kernels, for the table of `kernels`.
pub(in crate::kernels) const KERNELS: &[Declared] = &[
    Declared::new(|_| {
        let capped = |(cache, ring)| [false, true].map(|capped| scores_variant(cache, ring, capped));
        kinds().flat_map(capped).collect()
    })
    .params(layout!(ScoresParams: heads, kv_heads, head_dim4, stride4, context, slots, window, scale, softcap)),
    Declared::new(|set| SUBGROUPS.map(|subgroup| softmax_variant(set, subgroup)).into())
        .params(layout!(SoftmaxParams: heads, context, window)),
    Declared::new(|set| kinds().map(|(cache, ring)| values_variant(set, cache, ring)).collect())
        .params(layout!(ValuesParams: heads, kv_heads, head_dim4, context, slots, window, stride4)),
];

/// Sizes that the attention kernels share. `head_dim` is padded to a multiple of four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AttentionShape {
    pub heads: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    /// Positions that rows may see, from the first on: a row of scores is as long.
    pub context: u32,
    /// Slots of the cache: what counts as position p lies in slot `p % slots`. Fewer than positions are enough for a window.
    pub slots: u32,
    /// Positions that a position sees, itself included; `None`: all before it.
    pub window: Option<u32>,
    /// The type in which keys and values are kept.
    pub cache: CacheType,
}

impl AttentionShape {
    /// Rows that see all before them, over a cache in f32 with a slot for each position.
    pub fn new(heads: u32, kv_heads: u32, head_dim: u32, context: u32) -> Self {
        Self { heads, kv_heads, head_dim, context, slots: context, window: None, cache: CacheType::F32 }
    }

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
        self.slot_bytes() * u64::from(self.slots)
    }

    /// Bytes of the key, or of the value, of one position.
    pub fn slot_bytes(self) -> u64 {
        self.cache.bytes() * u64::from(self.kv_heads) * u64::from(self.head_dim)
    }

    /// Whether slots are taken anew: a window's are, though in a short context nothing comes round.
    pub fn ring(self) -> bool {
        self.window.is_some()
    }
}

impl std::fmt::Display for AttentionShape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { heads, kv_heads, head_dim, context, slots, window, cache } = self;
        write!(f, "{heads} heads, {kv_heads} of keys in {cache}, of {head_dim}, context {context}")?;
        window.map_or(Ok(()), |window| write!(f, ", window {window} in {slots} slots"))
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
    pub slots: u32,
    pub window: u32,
    pub scale: f32,
    /// Not read by the variant without a cap.
    pub softcap: f32,
}

/// What becomes of the product of a query and a key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scoring {
    /// Its factor.
    pub scale: f32,
    /// The bound that the result is bent to.
    pub softcap: Option<f32>,
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
    pub slots: u32,
    pub window: u32,
    pub stride4: u32,
}

/// The buffers of attention, of which each of its kernels takes some.
#[derive(Clone, Copy)]
pub(crate) struct AttentionIo<'a> {
    pub state: &'a Buffer,
    pub rows: &'a Buffer,
    pub qkv: &'a Buffer,
    pub keys: &'a Buffer,
    pub values: &'a Buffer,
    /// `[rows, heads, context]`
    pub scores: &'a Buffer,
    /// `[rows, heads]`
    pub inverse_sums: &'a Buffer,
    /// `[rows, heads, head_dim]`
    pub out: &'a Buffer,
}

/// The variant of `attention_scores` for a kind of cache, with a soft cap or without.
pub(crate) fn scores_variant(cache: CacheType, ring: bool, capped: bool) -> Variant {
    let variant = with_cache(Variant::of("attention_scores"), cache, ring);
    variant.piece("softcap", if capped { "softcap_tanh" } else { "softcap_none" })
}

/// The variant of `attention_softmax` of a set.
pub(crate) fn softmax_variant(set: KernelSet, subgroup: u32) -> Variant {
    set.with_reduce(Variant::of("attention_softmax"), subgroup)
}

/// The variant of `attention_values` of a set for a kind of cache.
pub(crate) fn values_variant(set: KernelSet, cache: CacheType, ring: bool) -> Variant {
    with_cache(KernelSet::with_split(Variant::of("attention_values"), set.values_shape()), cache, ring)
}

/// `scores[rows, heads, context]` of the queries in `qkv`.
pub(crate) fn attention_scores(gpu: &Gpu, shape: AttentionShape, scoring: Scoring, io: AttentionIo<'_>) -> Op {
    let params = ScoresParams {
        heads: shape.heads,
        kv_heads: shape.kv_heads,
        head_dim4: shape.head_dim / 4,
        stride4: shape.qkv_stride() / 4,
        context: shape.context,
        slots: shape.slots,
        window: shape.window_or_all(),
        scale: scoring.scale,
        softcap: scoring.softcap.unwrap_or(0.0),
    };
    let params = gpu.uniform("attention_scores", &params);
    let kernel = gpu.kernel(&scores_variant(shape.cache, shape.ring(), scoring.softcap.is_some()));
    let bind_group = gpu.bind(&kernel, &[&params, io.state, io.rows, io.qkv, io.keys, io.scores]);
    Op::single(kernel, bind_group, Grid::Keys { heads: shape.heads })
}

/// Scores to `exp(score - max)` in place, and `1 / sum` to `inverse_sums[rows, heads]`.
pub(crate) fn attention_softmax(gpu: &Gpu, set: KernelSet, shape: AttentionShape, io: AttentionIo<'_>) -> Op {
    let params = SoftmaxParams { heads: shape.heads, context: shape.context, window: shape.window_or_all() };
    let params = gpu.uniform("attention_softmax", &params);
    let kernel = gpu.kernel(&softmax_variant(set, gpu.summary().fixed_subgroup().unwrap_or(0)));
    let bind_group = gpu.bind(&kernel, &[&params, io.state, io.rows, io.scores, io.inverse_sums]);
    Op::single(kernel, bind_group, Grid::Rows { x: shape.heads })
}

/// `out[rows, heads, head_dim]`: the values weighted by what `attention_softmax` left.
pub(crate) fn attention_values(gpu: &Gpu, set: KernelSet, shape: AttentionShape, io: AttentionIo<'_>) -> Op {
    let params = ValuesParams {
        heads: shape.heads,
        kv_heads: shape.kv_heads,
        head_dim4: shape.head_dim / 4,
        context: shape.context,
        slots: shape.slots,
        window: shape.window_or_all(),
        stride4: shape.out_stride() / 4,
    };
    let params = gpu.uniform("attention_values", &params);
    let kernel = gpu.kernel(&values_variant(set, shape.cache, shape.ring()));
    let buffers = [&params, io.state, io.rows, io.scores, io.inverse_sums, io.values, io.out];
    let bind_group = gpu.bind(&kernel, &buffers);
    let (lanes, _) = set.values_shape();
    Op::single(kernel, bind_group, Grid::Heads { x: (shape.head_dim / 4).div_ceil(lanes), y: shape.heads })
}
