//! The end of a step.

use bytemuck::{Pod, Zeroable};

use super::{Grid, Op};
use crate::gpu::{Gpu, Variant};

/// How many end tokens a generation can have.
pub(crate) const MAX_END_TOKENS: usize = 32;

/// The uniform of `commit.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct CommitParams {
    pub num_end_tokens: u32,
    pub vocab: u32,
    pub pad: [u32; 2],
    pub end_tokens: [u32; MAX_END_TOKENS],
}

/// The one variant.
pub(crate) fn commit_variant() -> Variant {
    Variant::of("commit")
}

/// Commits the rows, appends the sampled token and prepares the next step's row.
pub(crate) fn commit(gpu: &Gpu, params: &CommitParams, [state, rows, sampled, counts, ring]: [&wgpu::Buffer; 5]) -> Op {
    let kernel = gpu.kernel(&commit_variant());
    let params = gpu.uniform("commit", params);
    let bind_group = gpu.bind(&kernel, &[&params, state, rows, sampled, counts, ring]);
    Op::single(kernel, bind_group, Grid::One)
}
