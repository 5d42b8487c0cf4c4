//! Log-probabilities of wanted tokens.

use bytemuck::{Pod, Zeroable};

use super::declared::{Declared, SUBGROUPS, layout};
use super::{Grid, KernelSet, Op};
use crate::gpu::{Buffer, Gpu, Variant};

/// What is declared here, for the table of `kernels`.
pub(in crate::kernels) const KERNELS: &[Declared] =
    &[Declared::new(|set| SUBGROUPS.map(|subgroup| log_probs_variant(set, subgroup)).into())
        .params(layout!(LogProbsParams: vocab, stride))];

/// The uniform of `log_probs.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct LogProbsParams {
    pub vocab: u32,
    pub stride: u32,
}

/// The buffers of `log_probs`.
#[derive(Clone, Copy)]
pub(crate) struct LogProbsIo<'a> {
    pub rows: &'a Buffer,
    pub logits: &'a Buffer,
    pub log_probs: &'a Buffer,
}

/// The variant of a set.
pub(crate) fn log_probs_variant(set: KernelSet, subgroup: u32) -> Variant {
    match set {
        KernelSet::Software => set.with_vocabulary_reduce(Variant::of("log_probs")),
        _ => set.with_reduce(Variant::of("log_probs"), subgroup),
    }
}

/// `log_probs[row]` of each row's target token.
pub(crate) fn log_probs(gpu: &Gpu, set: KernelSet, params: LogProbsParams, io: LogProbsIo<'_>) -> Op {
    let kernel = gpu.kernel(&log_probs_variant(set, gpu.summary().fixed_subgroup().unwrap_or(0)));
    let params = gpu.uniform("log_probs", &params);
    let bind_group = gpu.bind(&kernel, &[&params, io.rows, io.logits, io.log_probs]);
    Op::single(kernel, bind_group, Grid::LogitRows { x: 1 })
}
