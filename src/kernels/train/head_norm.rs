//! The gradients of the norms of query and key heads.

use bytemuck::{Pod, Zeroable};

use super::{Op, fixed};
use crate::gpu::{Buffer, Gpu, Variant};
use crate::kernels::HeadNormParams;
use crate::kernels::declared::{Declared, layout};

/// The declarations of this file's kernels, for the table of `kernels`.
pub(in crate::kernels) const KERNELS: &[Declared] = &[
    Declared::new(|_| vec![head_norm_inputs_variant()])
        .params(layout!(HeadNormParams: heads, kv_heads, others, width, head_dim4, eps)),
    Declared::new(|_| vec![head_norm_weights_variant()])
        .params(layout!(HeadNormWeightsParams: rows, heads, kv_heads, head_dim)),
];

/// The uniform of `head_norm_weights.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct HeadNormWeightsParams {
    pub rows: u32,
    pub heads: u32,
    pub kv_heads: u32,
    /// Padded to a multiple of four.
    pub head_dim: u32,
}

/// The buffers of `head_norm_inputs`; all but `scale` and `inverses` are `[rows, heads + 2 * kv_heads, head_dim]`.
#[derive(Clone, Copy)]
pub(crate) struct HeadNormInputsIo<'a> {
    /// The input of the norm.
    pub x: &'a Buffer,
    /// The gradient of what it writes.
    pub dy: &'a Buffer,
    /// `[2, head_dim]`
    pub scale: &'a Buffer,
    /// The gradient of `x`.
    pub dx: &'a Buffer,
    /// `[rows, heads + 2 * kv_heads]`: one over the root mean square of each head, written for `head_norm_weights`.
    pub inverses: &'a Buffer,
}

/// The buffers of `head_norm_weights`, as `head_norm_inputs` has them.
#[derive(Clone, Copy)]
pub(crate) struct HeadNormWeightsIo<'a> {
    pub x: &'a Buffer,
    pub dy: &'a Buffer,
    pub inverses: &'a Buffer,
    /// `[2, head_dim]`, added to.
    pub dscale: &'a Buffer,
}

/// The one variant of `head_norm_inputs`.
pub(crate) fn head_norm_inputs_variant() -> Variant {
    Variant::of("head_norm_inputs")
}

/// The one variant of `head_norm_weights`.
pub(crate) fn head_norm_weights_variant() -> Variant {
    Variant::of("head_norm_weights")
}

/// `dx = ` the gradient of what `head_norm` reads.
pub(crate) fn head_norm_inputs(gpu: &Gpu, params: HeadNormParams, rows: u32, io: HeadNormInputsIo<'_>) -> Op {
    let kernel = gpu.kernel(&head_norm_inputs_variant());
    let uniform = gpu.uniform("head norm inputs", &params);
    let bind_group = gpu.bind(&kernel, &[&uniform, io.x, io.dy, io.scale, io.dx, io.inverses]);
    Op::single(kernel, bind_group, fixed([params.groups(), rows, 1]))
}

/// `dscale += ` the gradients of the scales of queries and of keys.
pub(crate) fn head_norm_weights(gpu: &Gpu, params: HeadNormParams, rows: u32, io: HeadNormWeightsIo<'_>) -> Op {
    let kernel = gpu.kernel(&head_norm_weights_variant());
    let head_dim = 4 * params.head_dim4;
    let HeadNormParams { heads, kv_heads, .. } = params;
    let uniform = gpu.uniform("head norm weights", &HeadNormWeightsParams { rows, heads, kv_heads, head_dim });
    let bind_group = gpu.bind(&kernel, &[&uniform, io.x, io.dy, io.inverses, io.dscale]);
    Op::single(kernel, bind_group, fixed([(2 * head_dim).div_ceil(64), 1, 1]))
}
