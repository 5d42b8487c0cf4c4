//! Cross-entropy over vocabularies whose logits do not fit at once, and its gradient.
//!
//! Logits come in chunks of columns. A first pass over the chunks leaves in `partials` what the softmax of a row needs
//! (`loss_scan`), from which the losses follow; a second pass makes each chunk again and turns it into its gradient
//! (`loss_inputs`).

use bytemuck::{Pod, Zeroable};

use super::super::{Grid, KernelSet, Op, Store};
use super::rows_grid;
use crate::gpu::{Buffer, Gpu, Variant};
use crate::kernels::declared::{Declared, SUBGROUPS, layout};

/// What is declared here, for the table of `kernels`.
pub(in crate::kernels) const KERNELS: &[Declared] = &[
    Declared::new(|set| {
        let scans = SUBGROUPS.map(|subgroup| loss_scan_variant(set, subgroup));
        scans.into_iter().chain([loss_inputs_variant()]).collect()
    })
    .params(layout!(LossParams: picked, first, count, stride4, choice)),
    Declared::new(|set| vec![loss_summary_variant(set)]).params(layout!(LossSummaryParams: picked, slot, labels)),
    Declared::new(|_| vec![loss_factors_variant()]).params(layout!(LossFactorsParams: heads, balance, weight)),
];

/// A chunk of the vocabulary for some rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LossShape {
    /// Rows, with targets or without.
    pub picked: u32,
    /// The token of the first column.
    pub first: u32,
    /// Columns that stand for tokens.
    pub count: u32,
    /// Values of a row of logits, a multiple of four.
    pub stride: u32,
}

/// The uniform of `loss_scan.wgsl` and `loss_inputs.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct LossParams {
    pub picked: u32,
    pub first: u32,
    pub count: u32,
    pub stride4: u32,
    /// `loss_scan`: 1 for the first chunk. `loss_inputs`: the factor's index.
    pub choice: u32,
}

/// The uniform of `loss_summary.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct LossSummaryParams {
    pub picked: u32,
    pub slot: u32,
    pub labels: u32,
}

/// The uniform of `loss_factors.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct LossFactorsParams {
    pub heads: u32,
    pub balance: u32,
    pub weight: f32,
}

/// The target of a row that does not count.
pub(crate) const NO_TARGET: u32 = u32::MAX;

/// Of a row that counts, but is held against no token: `loss_inputs` makes its softmax of it.
pub(crate) const ANY_TARGET: u32 = u32::MAX - 1;

/// Blocks of four that a thread of `loss_inputs` turns.
const BLOCKS_OF_A_THREAD: u32 = 16;

/// The most heads that losses can be weighed of.
const MAX_HEADS: u32 = 32;

/// What losses are held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Against {
    Targets,
    /// Soft labels, whose scores `label_mean_scores` has left in the partials.
    Labels,
}

/// How the losses of heads weigh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weighing {
    Alike,
    /// Each is scaled so that its root mean square is that of head 0's.
    Balanced,
}

/// The buffers of `loss_scan`.
#[derive(Clone, Copy)]
pub(crate) struct LossScanIo<'a> {
    pub targets: &'a Buffer,
    pub logits: &'a Buffer,
    /// `[picked, 4]`: the highest logit, the sum of exp(logit - highest), the target's logit, 0.
    pub partials: &'a Buffer,
}

/// The buffers of `loss_summary`.
#[derive(Clone, Copy)]
pub(crate) struct LossSummaryIo<'a> {
    pub targets: &'a Buffer,
    /// As `loss_scan` left them.
    pub partials: &'a Buffer,
    /// `[picked]`
    pub losses: &'a Buffer,
    /// `[heads, 4]`: of each the sum of its losses, that of their squares, how many count, 0.
    pub report: &'a Buffer,
}

/// The buffers of `loss_inputs`.
#[derive(Clone, Copy)]
pub(crate) struct LossInputsIo<'a> {
    pub targets: &'a Buffer,
    pub partials: &'a Buffer,
    /// Of each head.
    pub factors: &'a Buffer,
    /// A chunk, which becomes its gradient.
    pub logits: &'a Buffer,
}

/// The variant of `loss_scan` of a set.
pub(crate) fn loss_scan_variant(set: KernelSet, subgroup: u32) -> Variant {
    set.with_many_rows(Variant::of("loss_scan"), subgroup)
}

/// The variant of `loss_summary` of a set.
pub(crate) fn loss_summary_variant(set: KernelSet) -> Variant {
    set.with_vocabulary_reduce(Variant::of("loss_summary"))
}

/// The one variant of `loss_factors`.
pub(crate) fn loss_factors_variant() -> Variant {
    Variant::of("loss_factors")
}

/// The one variant of `loss_inputs`.
pub(crate) fn loss_inputs_variant() -> Variant {
    Variant::of("loss_inputs").constant("BLOCKS", BLOCKS_OF_A_THREAD)
}

/// Takes a chunk into the partials; the first one, with `store`, sets them.
pub(crate) fn loss_scan(gpu: &Gpu, set: KernelSet, shape: LossShape, store: Store, io: LossScanIo<'_>) -> Op {
    let uniform = gpu.uniform("loss_scan", &loss_params(shape, (store == Store::Set).into()));
    let kernel = gpu.kernel(&loss_scan_variant(set, gpu.summary().fixed_subgroup().unwrap_or(0)));
    let bind_group = gpu.bind(&kernel, &[&uniform, io.targets, io.logits, io.partials]);
    let groups = shape.picked.div_ceil(set.many_rows());
    Op::single(kernel, bind_group, Grid::Fixed(rows_grid(1, groups)))
}

/// The losses of `picked` rows, and of all of them together to slot `slot` of the report.
pub(crate) fn loss_summary(
    gpu: &Gpu,
    set: KernelSet,
    picked: u32,
    slot: u32,
    against: Against,
    io: LossSummaryIo<'_>,
) -> Op {
    let labels = (against == Against::Labels).into();
    let uniform = gpu.uniform("loss_summary", &LossSummaryParams { picked, slot, labels });
    let kernel = gpu.kernel(&loss_summary_variant(set));
    let bind_group = gpu.bind(&kernel, &[&uniform, io.targets, io.partials, io.losses, io.report]);
    Op::single(kernel, bind_group, Grid::One)
}

/// `factors[heads]`: what the gradients of each head's losses are multiplied with. They take the mean, times `weight`;
/// and if balanced, times the root mean square of head 0's losses over that of the head's own.
pub(crate) fn loss_factors(
    gpu: &Gpu,
    heads: u32,
    weighing: Weighing,
    weight: f32,
    report: &Buffer,
    factors: &Buffer,
) -> Op {
    let balance = (weighing == Weighing::Balanced).into();
    assert!(heads <= MAX_HEADS, "loss_factors: {heads} heads");
    let uniform = gpu.uniform("loss_factors", &LossFactorsParams { heads, balance, weight });
    let kernel = gpu.kernel(&loss_factors_variant());
    let bind_group = gpu.bind(&kernel, &[&uniform, report, factors]);
    Op::single(kernel, bind_group, Grid::One)
}

/// Turns a chunk of logits into its gradient, times `factors[slot]`. Rows without target and columns that stand for no
/// token become 0.
pub(crate) fn loss_inputs(gpu: &Gpu, shape: LossShape, slot: u32, io: LossInputsIo<'_>) -> Op {
    let uniform = gpu.uniform("loss_inputs", &loss_params(shape, slot));
    let kernel = gpu.kernel(&loss_inputs_variant());
    let bind_group = gpu.bind(&kernel, &[&uniform, io.targets, io.partials, io.factors, io.logits]);
    let blocks = (shape.stride / 4).div_ceil(64 * BLOCKS_OF_A_THREAD);
    Op::single(kernel, bind_group, Grid::Fixed(rows_grid(blocks, shape.picked)))
}

fn loss_params(shape: LossShape, choice: u32) -> LossParams {
    let LossShape { picked, first, count, stride } = shape;
    assert!(stride.is_multiple_of(4) && count <= stride, "loss: {shape:?}");
    LossParams { picked, first, count, stride4: stride / 4, choice }
}
