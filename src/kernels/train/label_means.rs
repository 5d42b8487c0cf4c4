//! Losses against soft labels, and their gradient, without anything of the vocabulary's size.
//!
//! The loss of logits against labels q is log-sum-exp less the mean of the logits under q. Logits are products of a row y with
//! the columns W_v of one LM head, so that mean is (sum_v q_v W_v) . y, and what it sends back to y is sum_v q_v W_v. This
//! mean of the LM head's columns is all that a row needs to know of its labels: its *label mean*. What labels are made of (`loss_inputs`
//! without a target, then `matmul_inputs`) is what the softmax sends back too, so where both have the same logits the
//! gradient is 0 exactly. Of labels that are a short list `label_mean_columns` makes the sum itself.

use bytemuck::{Pod, Zeroable};

use super::super::{Grid, KernelSet, Op, Store, WeightFormat};
use super::loss::LossShape;
use super::rows_grid;
use super::spread::spread;
use crate::gpu::{Buffer, Gpu, Variant};
use crate::kernels::declared::{Declared, SUBGROUPS, layout};

/// The declarations of this file's kernels, for the table of `kernels`.
pub(in crate::kernels) const KERNELS: &[Declared] = &[
    Declared::new(|_| {
        let of = |format| Store::OF_SUMS.map(|store| label_mean_columns_variant(format, store));
        WeightFormat::all().flat_map(of).collect()
    })
    .params(layout!(LabelMeanColumnsParams: picked, width4, top, first, count, columns4)),
    Declared::new(|set| {
        let scores = SUBGROUPS.map(|subgroup| label_mean_scores_variant(set, subgroup));
        scores.into_iter().chain([label_mean_inputs_variant()]).collect()
    })
    .params(layout!(LabelMeanParams: picked, width4, slot)),
];

/// The uniform of `label_mean_scores.wgsl` and `label_mean_inputs.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct LabelMeanParams {
    pub picked: u32,
    pub width4: u32,
    pub slot: u32,
}

/// The uniform of `label_mean_columns.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct LabelMeanColumnsParams {
    pub picked: u32,
    pub width4: u32,
    pub top: u32,
    pub first: u32,
    pub count: u32,
    pub columns4: u32,
}

/// The buffers of `label_mean_columns`.
#[derive(Clone, Copy)]
pub(crate) struct LabelMeanColumnsIo<'a> {
    /// `[picked, top, 2]`: tokens, and the bits of their weights.
    pub entries: &'a Buffer,
    /// This chunk of the LM head, packed as for `matmul`.
    pub matrix: &'a Buffer,
    /// `[picked, width]`
    pub means: &'a Buffer,
}

/// The buffers of `label_mean_scores`.
#[derive(Clone, Copy)]
pub(crate) struct LabelMeanScoresIo<'a> {
    /// The index of each row's label mean.
    pub picks: &'a Buffer,
    pub means: &'a Buffer,
    pub x: &'a Buffer,
    /// The partials of `loss_scan`.
    pub partials: &'a Buffer,
}

/// The buffers of `label_mean_inputs`.
#[derive(Clone, Copy)]
pub(crate) struct LabelMeanInputsIo<'a> {
    /// The index of each row's label mean.
    pub picks: &'a Buffer,
    pub means: &'a Buffer,
    pub factors: &'a Buffer,
    pub dx: &'a Buffer,
}

/// The variant for weights of a format.
pub(crate) fn label_mean_columns_variant(format: WeightFormat, store: Store) -> Variant {
    format.bound(Variant::of("label_mean_columns")).piece("store", store.piece())
}

/// `label_means[p]`, set or added to: the sum of weight times column of the LM head over the `top` entries of each of `picked` rows
/// that lie in this chunk of the vocabulary.
pub(crate) fn label_mean_columns(
    gpu: &Gpu,
    (format, store): (WeightFormat, Store),
    width4: u32,
    top: u32,
    shape: LossShape,
    io: LabelMeanColumnsIo<'_>,
) -> Op {
    let LossShape { picked, first, count, stride } = shape;
    let params = LabelMeanColumnsParams { picked, width4, top, first, count, columns4: stride / 4 };
    let kernel = gpu.kernel(&label_mean_columns_variant(format, store));
    let bind_group = gpu.bind(&kernel, &[&gpu.uniform("label mean columns", &params), io.entries, io.matrix, io.means]);
    Op::single(kernel, bind_group, spread(picked * width4))
}

/// The variant of `label_mean_scores` of a set.
pub(crate) fn label_mean_scores_variant(set: KernelSet, subgroup: u32) -> Variant {
    set.with_many_rows(Variant::of("label_mean_scores"), subgroup)
}

/// The one variant of `label_mean_inputs`.
pub(crate) fn label_mean_inputs_variant() -> Variant {
    Variant::of("label_mean_inputs")
}

/// `partials[4 * p + 3] = label_means[picks[p]] . x[p]`, 0 where the pick is [`NO_ROW`](super::NO_ROW). Rows are `width4` blocks of four.
pub(crate) fn label_mean_scores(
    gpu: &Gpu,
    set: KernelSet,
    [picked, width4]: [u32; 2],
    io: LabelMeanScoresIo<'_>,
) -> Op {
    let uniform = gpu.uniform("label mean scores", &LabelMeanParams { picked, width4, slot: 0 });
    let kernel = gpu.kernel(&label_mean_scores_variant(set, gpu.summary().fixed_subgroup().unwrap_or(0)));
    let bind_group = gpu.bind(&kernel, &[&uniform, io.picks, io.means, io.x, io.partials]);
    Op::single(kernel, bind_group, Grid::Fixed(rows_grid(1, picked.div_ceil(set.many_rows()))))
}

/// `dx[p] = (dx[p] - label_means[picks[p]]) * factors[slot]`, 0 where the pick is [`NO_ROW`](super::NO_ROW).
pub(crate) fn label_mean_inputs(gpu: &Gpu, [picked, width4]: [u32; 2], slot: u32, io: LabelMeanInputsIo<'_>) -> Op {
    let uniform = gpu.uniform("label mean inputs", &LabelMeanParams { picked, width4, slot });
    let kernel = gpu.kernel(&label_mean_inputs_variant());
    let bind_group = gpu.bind(&kernel, &[&uniform, io.picks, io.means, io.factors, io.dx]);
    Op::single(kernel, bind_group, spread(picked * width4))
}
