//! The rows that targets are asked of, taken out and put back.

use bytemuck::{Pod, Zeroable};

use super::super::Op;
use super::spread::spread;
use crate::gpu::{Buffer, Gpu, Variant};

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

/// `y[p] = x[picks[p]]`, zeros where the pick is [`NO_ROW`]. Rows are `width4` blocks of four.
pub(crate) fn gather_rows(
    gpu: &Gpu,
    picked: u32,
    width4: u32,
    picks: &Buffer,
    x: &Buffer,
    y: &Buffer,
) -> Op {
    pick(gpu, &gather_rows_variant(), PickParams { picked, width4 }, [picks, x, y])
}

/// `y[picks[p]] += x[p]`, nothing where the pick is [`NO_ROW`]. No row may be picked twice.
pub(crate) fn scatter_rows(
    gpu: &Gpu,
    picked: u32,
    width4: u32,
    picks: &Buffer,
    x: &Buffer,
    y: &Buffer,
) -> Op {
    pick(gpu, &scatter_rows_variant(), PickParams { picked, width4 }, [picks, x, y])
}

fn pick(gpu: &Gpu, variant: &Variant, params: PickParams, [picks, x, y]: [&Buffer; 3]) -> Op {
    let uniform = gpu.uniform("pick", &params);
    let kernel = gpu.kernel(variant);
    let bind_group = gpu.bind(&kernel, &[&uniform, picks, x, y]);
    Op::single(kernel, bind_group, spread(params.picked * params.width4))
}
