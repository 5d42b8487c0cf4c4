//! The rows that targets are asked of, taken out and put back.

use bytemuck::{Pod, Zeroable};

use super::super::Op;
use super::spread::spread;
use crate::gpu::{Buffer, Gpu, Variant};
use crate::kernels::declared::{Declared, layout};

/// What is declared here, for the table of `kernels`.
pub(in crate::kernels) const KERNELS: &[Declared] =
    &[Declared::new(|_| vec![gather_rows_variant(), scatter_rows_variant()])
        .params(layout!(PickParams: picked, width4))];

/// The uniform of `gather_rows.wgsl` and `scatter_rows.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct PickParams {
    pub picked: u32,
    pub width4: u32,
}

/// A pick that takes no row.
pub(crate) const NO_ROW: u32 = u32::MAX;

/// The one variant of `gather_rows`.
pub(crate) fn gather_rows_variant() -> Variant {
    Variant::of("gather_rows")
}

/// The one variant of `scatter_rows`.
pub(crate) fn scatter_rows_variant() -> Variant {
    Variant::of("scatter_rows")
}

/// The buffers of `gather_rows` and `scatter_rows`.
#[derive(Clone, Copy)]
pub(crate) struct PickIo<'a> {
    /// Rows of the whole; [`NO_ROW`] takes none.
    pub picks: &'a Buffer,
    pub x: &'a Buffer,
    pub y: &'a Buffer,
}

/// `y[p] = x[picks[p]]`, zeros where the pick is [`NO_ROW`]. Rows are `width4` blocks of four.
pub(crate) fn gather_rows(gpu: &Gpu, picked: u32, width4: u32, io: PickIo<'_>) -> Op {
    pick(gpu, &gather_rows_variant(), PickParams { picked, width4 }, io)
}

/// `y[picks[p]] += x[p]`, nothing where the pick is [`NO_ROW`]. No row may be picked twice.
pub(crate) fn scatter_rows(gpu: &Gpu, picked: u32, width4: u32, io: PickIo<'_>) -> Op {
    pick(gpu, &scatter_rows_variant(), PickParams { picked, width4 }, io)
}

fn pick(gpu: &Gpu, variant: &Variant, params: PickParams, io: PickIo<'_>) -> Op {
    let uniform = gpu.uniform("pick", &params);
    let kernel = gpu.kernel(variant);
    let bind_group = gpu.bind(&kernel, &[&uniform, io.picks, io.x, io.y]);
    Op::single(kernel, bind_group, spread(params.picked * params.width4))
}
