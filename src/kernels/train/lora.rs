//! The gradients of an adapter, `y += B t`, for rows that all want it.

use bytemuck::{Pod, Zeroable};

use super::{Op, fixed};
use crate::gpu::{Buffer, Gpu, Variant};
use crate::kernels::LoraParams;
use crate::kernels::declared::{Declared, layout};

/// What is declared here, for the table of `kernels`.
pub(in crate::kernels) const KERNELS: &[Declared] = &[
    Declared::new(|_| vec![lora_inputs_variant()]).params(layout!(LoraParams: columns4, rank, t_stride)),
    Declared::new(|_| vec![lora_weights_variant()]).params(layout!(LoraWeightsParams: columns4, rank, t_stride, rows)),
];

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

/// The buffers of `lora_inputs`; `b` and `starts` as for `lora`.
#[derive(Clone, Copy)]
pub(crate) struct LoraInputsIo<'a> {
    pub dy: &'a Buffer,
    pub b: &'a Buffer,
    pub starts: &'a Buffer,
    pub dt: &'a Buffer,
}

/// The buffers of `lora_weights`.
#[derive(Clone, Copy)]
pub(crate) struct LoraWeightsIo<'a> {
    pub t: &'a Buffer,
    pub dy: &'a Buffer,
    pub starts: &'a Buffer,
    pub db: &'a Buffer,
}

/// `dt = dy B`, all `t_stride` values of a row set.
pub(crate) fn lora_inputs(gpu: &Gpu, rows: u32, params: LoraParams, io: LoraInputsIo<'_>) -> Op {
    let kernel = gpu.kernel(&lora_inputs_variant());
    let bind_group = gpu.bind(&kernel, &[&gpu.uniform("lora inputs", &params), io.dy, io.b, io.starts, io.dt]);
    Op::single(kernel, bind_group, fixed([params.t_stride.div_ceil(64), rows, 1]))
}

/// `db[k, c] += sum over r of t[r, starts[c] + k] dy[r, c]`, nothing where no adapter changes the columns.
pub(crate) fn lora_weights(gpu: &Gpu, rows: u32, params: LoraParams, io: LoraWeightsIo<'_>) -> Op {
    let kernel = gpu.kernel(&lora_weights_variant());
    let LoraParams { columns4, rank, t_stride } = params;
    let uniform = gpu.uniform("lora weights", &LoraWeightsParams { columns4, rank, t_stride, rows });
    let bind_group = gpu.bind(&kernel, &[&uniform, io.t, io.dy, io.starts, io.db]);
    Op::single(kernel, bind_group, fixed([columns4.div_ceil(64), rank, 1]))
}
