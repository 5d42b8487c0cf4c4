//! The gradients of an adapter, `y += B t`, for rows that all want it.

use bytemuck::{Pod, Zeroable};

use super::{Op, fixed};
use crate::gpu::{Buffer, Gpu, Variant};
use crate::kernels::LoraParams;

/// The uniform of `lora_weights.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct LoraWeightsParams {
    pub columns4: u32,
    pub rank: u32,
    pub t_stride: u32,
    pub rows: u32,
}

/// The one variant.
pub(crate) fn lora_inputs_variant() -> Variant {
    Variant::of("lora_inputs")
}

/// The one variant.
pub(crate) fn lora_weights_variant() -> Variant {
    Variant::of("lora_weights")
}

/// `dt = dy B`, all `t_stride` values of a row set. `b` is `[rank, columns]`; `starts` as for `lora`.
pub(crate) fn lora_inputs(
    gpu: &Gpu,
    rows: u32,
    params: LoraParams,
    dy: &Buffer,
    b: &Buffer,
    starts: &Buffer,
    dt: &Buffer,
) -> Op {
    let kernel = gpu.kernel(&lora_inputs_variant());
    let bind_group = gpu.bind(&kernel, &[&gpu.uniform("lora inputs", &params), dy, b, starts, dt]);
    Op::single(kernel, bind_group, fixed([params.t_stride.div_ceil(64), rows, 1]))
}

/// `db[k, c] += sum over r of t[r, starts[c] + k] dy[r, c]`, nothing where no adapter changes the columns.
pub(crate) fn lora_weights(
    gpu: &Gpu,
    rows: u32,
    params: LoraParams,
    t: &Buffer,
    dy: &Buffer,
    starts: &Buffer,
    db: &Buffer,
) -> Op {
    let kernel = gpu.kernel(&lora_weights_variant());
    let LoraParams { columns4, rank, t_stride } = params;
    let uniform = gpu.uniform("lora weights", &LoraWeightsParams { columns4, rank, t_stride, rows });
    let bind_group = gpu.bind(&kernel, &[&uniform, t, dy, starts, db]);
    Op::single(kernel, bind_group, fixed([columns4.div_ceil(64), rank, 1]))
}
