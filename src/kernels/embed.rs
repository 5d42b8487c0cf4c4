//! Embedding rows by token.

use bytemuck::{Pod, Zeroable};

use super::weights::WeightFormat;
use super::{Grid, Op};
use crate::gpu::{Buffer, Gpu, Variant};

/// The uniform of `embed.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct EmbedParams {
    pub width: u32,
    pub stride: u32,
    pub first: u32,
    pub count: u32,
}

/// The variant for a table of `format`.
pub(crate) fn embed_variant(format: WeightFormat) -> Variant {
    format.bound(Variant::of("embed"))
}

/// Writes `x[row]` for the rows whose token lies in this shard of the table.
pub(crate) fn embed(
    gpu: &Gpu,
    format: WeightFormat,
    params: EmbedParams,
    rows: &Buffer,
    table: &Buffer,
    x: &Buffer,
) -> Op {
    let kernel = gpu.kernel(&embed_variant(format));
    let uniform = gpu.uniform("embed", &params);
    let bind_group = gpu.bind(&kernel, &[&uniform, rows, table, x]);
    Op::single(kernel, bind_group, Grid::Rows { x: params.width.div_ceil(64) })
}
