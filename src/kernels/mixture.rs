//! Weighted softmaxes of rows, and their sum.

use bytemuck::{Pod, Zeroable};

use super::declared::{Declared, layout};
use super::{Grid, KernelSet, Op};
use crate::gpu::{Buffer, Gpu, Variant};

/// What is declared here, for the table of `kernels`.
pub(in crate::kernels) const KERNELS: &[Declared] = &[
    Declared::new(|set| vec![normalizer_variant(set)]).params(layout!(NormalizerParams: stride)),
    Declared::new(|_| vec![mixture_variant()]).params(layout!(MixtureParams: stride4)),
];

/// The uniform of `normalizer.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct NormalizerParams {
    /// Softmax partials of a row.
    pub stride: u32,
}

/// The uniform of `mixture.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct MixtureParams {
    pub stride4: u32,
}

/// The variant of a set.
pub(crate) fn normalizer_variant(set: KernelSet) -> Variant {
    set.with_vocabulary_reduce(Variant::of("normalizer"))
}

/// The buffers of `normalizer`.
#[derive(Clone, Copy)]
pub(crate) struct NormalizerIo<'a> {
    /// Of each row in the mixture.
    pub row_weights: &'a Buffer,
    /// Softmax partials of each row.
    pub partials: &'a Buffer,
    pub normalizers: &'a Buffer,
}

/// `normalizers[row]` from the row's partials, `stride` of them, and its weight.
pub(crate) fn normalizer(gpu: &Gpu, set: KernelSet, stride: u32, io: NormalizerIo<'_>) -> Op {
    let kernel = gpu.kernel(&normalizer_variant(set));
    let params = gpu.uniform("normalizer", &NormalizerParams { stride });
    let bind_group = gpu.bind(&kernel, &[&params, io.row_weights, io.partials, io.normalizers]);
    Op::single(kernel, bind_group, Grid::LogitRows { x: 1 })
}

/// The buffers of `mixture`.
#[derive(Clone, Copy)]
pub(crate) struct MixtureIo<'a> {
    pub state: &'a Buffer,
    pub cursor: &'a Buffer,
    pub normalizers: &'a Buffer,
    pub logits: &'a Buffer,
    /// Two values a token, between chunks.
    pub parts: &'a Buffer,
    pub mixture: &'a Buffer,
}

/// The one variant.
pub(crate) fn mixture_variant() -> Variant {
    Variant::of("mixture")
}

/// Adds the rows of the batch under way to the mixture. `stride` is that of the logits, a multiple of four.
pub(crate) fn mixture(gpu: &Gpu, stride: u32, io: MixtureIo<'_>) -> Op {
    let kernel = gpu.kernel(&mixture_variant());
    let stride4 = stride / 4;
    let params = gpu.uniform("mixture", &MixtureParams { stride4 });
    let buffers = [&params, io.state, io.cursor, io.normalizers, io.logits, io.parts, io.mixture];
    let bind_group = gpu.bind(&kernel, &buffers);
    Op::single(kernel, bind_group, Grid::Columns { x: stride4.div_ceil(64) })
}
