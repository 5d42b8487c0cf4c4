//! Rotary positions and the key-value cache.

use bytemuck::{Pod, Zeroable};

use super::cache::{CacheType, kinds, with_cache};
use super::declared::{Declared, layout};
use super::{AttentionShape, Grid, Op};
use crate::gpu::{Buffer, Gpu, Variant};

/// What is declared here, for the table of `kernels`.
pub(in crate::kernels) const KERNELS: &[Declared] =
    &[Declared::new(|_| kinds().map(|(cache, ring)| rope_cache_variant(cache, ring)).collect())
        .params(layout!(RopeParams: heads, kv_heads, head_dim, rotary_dim, stride, context, slots))];

/// The uniform of `rope_cache.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct RopeParams {
    pub heads: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    pub rotary_dim: u32,
    pub stride: u32,
    pub context: u32,
    pub slots: u32,
}

/// The buffers of `rope_cache`.
#[derive(Clone, Copy)]
pub(crate) struct RopeIo<'a> {
    pub state: &'a Buffer,
    pub rows: &'a Buffer,
    pub qkv: &'a Buffer,
    /// `[context, rotary_dim / 2]` of (cos, sin).
    pub rotation: &'a Buffer,
    pub keys: &'a Buffer,
    pub values: &'a Buffer,
}

/// The variant for a kind of cache.
pub(crate) fn rope_cache_variant(cache: CacheType, ring: bool) -> Variant {
    with_cache(Variant::of("rope_cache"), cache, ring)
}

/// Rotates queries in place, and writes rotated keys and values to the rows' cache slots.
pub(crate) fn rope_cache(gpu: &Gpu, shape: AttentionShape, rotary_dim: u32, io: RopeIo<'_>) -> Op {
    let fits = shape.head_dim.is_multiple_of(4) && rotary_dim.is_multiple_of(2) && rotary_dim <= shape.head_dim;
    assert!(fits, "rope_cache: {rotary_dim} of {shape:?}");
    let params = gpu.uniform(
        "rope_cache",
        &RopeParams {
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            rotary_dim,
            stride: shape.qkv_stride(),
            context: shape.context,
            slots: shape.slots,
        },
    );
    let kernel = gpu.kernel(&rope_cache_variant(shape.cache, shape.ring()));
    let bind_group = gpu.bind(&kernel, &[&params, io.state, io.rows, io.qkv, io.rotation, io.keys, io.values]);
    let grid = Grid::Heads { x: (shape.head_dim / 2).div_ceil(64), y: shape.heads + 2 * shape.kv_heads };
    Op::single(kernel, bind_group, grid)
}
