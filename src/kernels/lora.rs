//! The second half of a low-rank change, on the rows that want it.

use bytemuck::{Pod, Zeroable};

use super::declared::{Declared, layout};
use super::{Grid, Op};
use crate::gpu::{Buffer, Gpu, Variant};

/// What is declared here, for the table of `kernels`.
pub(in crate::kernels) const KERNELS: &[Declared] =
    &[Declared::new(|_| vec![lora_variant()]).params(layout!(LoraParams: columns4, rank, t_stride))];

/// The uniform of `lora.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct LoraParams {
    /// Columns of y, and of B, in blocks of four.
    pub columns4: u32,
    pub rank: u32,
    pub t_stride: u32,
}

/// The start of a block of columns that no adapter changes.
pub(crate) const NO_ADAPTER: u32 = u32::MAX;

/// The one variant.
pub(crate) fn lora_variant() -> Variant {
    Variant::of("lora")
}

/// The buffers of `lora`.
#[derive(Clone, Copy)]
pub(crate) struct LoraIo<'a> {
    pub state: &'a Buffer,
    pub rows: &'a Buffer,
    /// `[rows, t_stride]`
    pub t: &'a Buffer,
    /// `[rank, columns]`
    pub b: &'a Buffer,
    /// For each block of four columns where its values begin in a row of `t`, or [`NO_ADAPTER`].
    pub starts: &'a Buffer,
    pub y: &'a Buffer,
}

/// `y += B t` for the rows whose adapter is on.
pub(crate) fn lora(gpu: &Gpu, params: LoraParams, io: LoraIo<'_>) -> Op {
    let kernel = gpu.kernel(&lora_variant());
    let uniform = gpu.uniform("lora", &params);
    let bind_group = gpu.bind(&kernel, &[&uniform, io.state, io.rows, io.t, io.b, io.starts, io.y]);
    Op::single(kernel, bind_group, Grid::Rows { x: params.columns4.div_ceil(64) })
}
