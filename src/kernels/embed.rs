//! Embedding rows by token.

use bytemuck::{Pod, Zeroable};

use super::declared::{Declared, layout};
use super::weights::WeightFormat;
use super::{Grid, Op};
use crate::gpu::{Buffer, Gpu, Variant};

/// The declarations of this file's kernels, for the table of `kernels`.
pub(in crate::kernels) const KERNELS: &[Declared] =
    &[Declared::new(|_| WeightFormat::all().map(embed_variant).collect())
        .params(layout!(EmbedParams: width, stride, first, count, scale))];

/// The uniform of `embed.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct EmbedParams {
    pub width: u32,
    pub stride: u32,
    pub first: u32,
    pub count: u32,
    pub scale: f32,
}

/// The buffers of `embed`.
#[derive(Clone, Copy)]
pub(crate) struct EmbedIo<'a> {
    pub rows: &'a Buffer,
    /// A shard of it.
    pub table: &'a Buffer,
    pub x: &'a Buffer,
}

/// The variant for a table of `format`.
pub(crate) fn embed_variant(format: WeightFormat) -> Variant {
    format.bound(Variant::of("embed"))
}

/// Writes `x[row]`, scaled, for the rows whose token lies in this shard of the table.
pub(crate) fn embed(gpu: &Gpu, format: WeightFormat, params: EmbedParams, io: EmbedIo<'_>) -> Op {
    let kernel = gpu.kernel(&embed_variant(format));
    let uniform = gpu.uniform("embed", &params);
    let bind_group = gpu.bind(&kernel, &[&uniform, io.rows, io.table, io.x]);
    Op::single(kernel, bind_group, Grid::Rows { x: params.width.div_ceil(64) })
}
