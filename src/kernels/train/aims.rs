//! Losses against soft labels, and their gradient, without anything of the vocabulary's size.
//!
//! The loss of logits against labels q is log-sum-exp less the mean of the logits under q. Logits are products of a row y with
//! the columns W_v of one LM head, so that mean is (sum_v q_v W_v) . y, and what it sends back to y is sum_v q_v W_v. This
//! mean of the LM head's columns is all that a row needs to know of its labels: its *aim*. What labels are made of (`loss_inputs`
//! without a target, then `matmul_inputs`) is what the softmax sends back too, so where both have the same logits the
//! gradient is 0 exactly.

use bytemuck::{Pod, Zeroable};

use super::super::{Grid, KernelSet, Op};
use super::rows_grid;
use super::spread::spread;
use crate::gpu::{Gpu, Variant};

/// The uniform of `aim_scores.wgsl` and `aim_inputs.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct AimParams {
    pub picked: u32,
    pub width4: u32,
    pub slot: u32,
}

/// The variant of `aim_scores` of a set.
pub(crate) fn aim_scores_variant(set: KernelSet, subgroup: u32) -> Variant {
    set.with_many_rows(Variant::of("aim_scores"), subgroup)
}

/// The one variant of `aim_inputs`.
pub(crate) fn aim_inputs_variant() -> Variant {
    Variant::of("aim_inputs")
}

/// `peaks[4 * p + 3] = aims[picks[p]] . x[p]`, 0 where the pick is [`NO_ROW`](super::NO_ROW). Rows are `width4` blocks of four.
pub(crate) fn aim_scores(
    gpu: &Gpu,
    set: KernelSet,
    [picked, width4]: [u32; 2],
    [picks, aims, x]: [&wgpu::Buffer; 3],
    peaks: &wgpu::Buffer,
) -> Op {
    let uniform = gpu.uniform("aim scores", &AimParams { picked, width4, slot: 0 });
    let kernel = gpu.kernel(&aim_scores_variant(set, gpu.summary().fixed_subgroup().unwrap_or(0)));
    let bind_group = gpu.bind(&kernel, &[&uniform, picks, aims, x, peaks]);
    Op::single(kernel, bind_group, Grid::Fixed(rows_grid(1, picked.div_ceil(set.many_rows()))))
}

/// `dx[p] = (dx[p] - aims[picks[p]]) * factors[slot]`, 0 where the pick is [`NO_ROW`](super::NO_ROW).
pub(crate) fn aim_inputs(
    gpu: &Gpu,
    [picked, width4]: [u32; 2],
    slot: u32,
    [picks, aims, factors]: [&wgpu::Buffer; 3],
    dx: &wgpu::Buffer,
) -> Op {
    let uniform = gpu.uniform("aim inputs", &AimParams { picked, width4, slot });
    let kernel = gpu.kernel(&aim_inputs_variant());
    let bind_group = gpu.bind(&kernel, &[&uniform, picks, aims, factors, dx]);
    Op::single(kernel, bind_group, spread(picked * width4))
}
