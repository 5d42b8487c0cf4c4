//! Log-probabilities of wanted tokens.

use bytemuck::{Pod, Zeroable};

use super::{Grid, KernelSet, Op};
use crate::gpu::{Buffer, Gpu, Variant};

/// The uniform of `log_probs.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct LogProbsParams {
    pub vocab: u32,
    pub stride: u32,
}

/// The variant of a set.
pub(crate) fn log_probs_variant(set: KernelSet, subgroup: u32) -> Variant {
    match set {
        KernelSet::Software => set.with_vocabulary_reduce(Variant::of("log_probs")),
        _ => set.with_reduce(Variant::of("log_probs"), subgroup),
    }
}

/// `log_probs[row]` of each row's target token.
pub(crate) fn log_probs(
    gpu: &Gpu,
    set: KernelSet,
    params: LogProbsParams,
    [rows, logits, log_probs]: [&Buffer; 3],
) -> Op {
    let kernel = gpu.kernel(&log_probs_variant(set, gpu.summary().fixed_subgroup().unwrap_or(0)));
    let params = gpu.uniform("log_probs", &params);
    let bind_group = gpu.bind(&kernel, &[&params, rows, logits, log_probs]);
    Op::single(kernel, bind_group, Grid::LogitRows { x: 1 })
}
