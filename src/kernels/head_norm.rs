//! The RMSNorm of each query head and each key head.

use bytemuck::{Pod, Zeroable};

use super::declared::{Declared, layout};
use super::{AttentionShape, Grid, Op};
use crate::gpu::{Buffer, Gpu, Variant};

/// The declarations of this file's kernels, for the table of `kernels`.
pub(in crate::kernels) const KERNELS: &[Declared] = &[Declared::new(|_| vec![head_norm_variant()])
    .params(layout!(HeadNormParams: heads, kv_heads, others, width, head_dim4, eps))];

/// The uniform of `head_norm.wgsl`, and of `head_norm_inputs.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct HeadNormParams {
    pub heads: u32,
    pub kv_heads: u32,
    /// Heads behind those of keys, which stay as they are.
    pub others: u32,
    /// Elements of a head, without padding.
    pub width: u32,
    pub head_dim4: u32,
    pub eps: f32,
}

impl HeadNormParams {
    /// The parameters for heads of `shape` with `width` elements each.
    pub fn new(shape: AttentionShape, width: u32, eps: f32) -> Self {
        assert!(width.next_multiple_of(4) == shape.head_dim, "head_norm: {width} of {shape:?}");
        let (heads, kv_heads, head_dim4) = (shape.heads, shape.kv_heads, shape.head_dim / 4);
        Self { heads, kv_heads, others: kv_heads, width, head_dim4, eps }
    }

    /// Workgroups for all heads of a row.
    pub fn groups(self) -> u32 {
        (self.heads + self.kv_heads + self.others).div_ceil(64)
    }
}

/// The buffers of `head_norm`.
#[derive(Clone, Copy)]
pub(crate) struct HeadNormIo<'a> {
    /// `[rows, heads + kv_heads + others, head_dim]`: queries, keys, values.
    pub x: &'a Buffer,
    /// `[2, head_dim]`: the scales of queries and of keys.
    pub scale: &'a Buffer,
    /// The normalised heads, laid out as `x`.
    pub y: &'a Buffer,
}

/// The one variant.
pub(crate) fn head_norm_variant() -> Variant {
    Variant::of("head_norm")
}

/// `y = x` with queries and keys normalised head by head.
pub(crate) fn head_norm(gpu: &Gpu, params: HeadNormParams, io: HeadNormIo<'_>) -> Op {
    let uniform = gpu.uniform("head_norm", &params);
    let kernel = gpu.kernel(&head_norm_variant());
    let bind_group = gpu.bind(&kernel, &[&uniform, io.x, io.scale, io.y]);
    Op::single(kernel, bind_group, Grid::Rows { x: params.groups() })
}
