//! Branches as the batch under way.

use bytemuck::{Pod, Zeroable};

use super::{Grid, Op};
use crate::gpu::{Gpu, Variant};

/// The uniform of `star.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct StarParams {
    pub context: u32,
}

/// Where in its branches a star is. Mirrors `shaders/lib/star.wgsl`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Cursor {
    /// Which of the nuclei.
    pub nucleus: u32,
    /// The branch that the next chunk begins with.
    pub first: u32,
    /// The chunk under way. 0 makes `mixture` begin anew.
    pub chunk: u32,
    /// Rows a chunk may have, at most [`MAX_BATCH_ROWS`](super::MAX_BATCH_ROWS).
    pub most: u32,
    /// 1: each chunk moves `first` on; 0: the first branches again and again.
    pub advance: u32,
    pub pad: [u32; 3],
}

/// The buffers of `star`.
#[derive(Clone, Copy)]
pub(crate) struct StarIo<'a> {
    pub cursor: &'a wgpu::Buffer,
    pub nuclei: &'a wgpu::Buffer,
    pub branches: &'a wgpu::Buffer,
    pub state: &'a wgpu::Buffer,
    pub rows: &'a wgpu::Buffer,
    /// The probability of each row's branch.
    pub row_weights: &'a wgpu::Buffer,
}

/// The one variant.
pub(crate) fn star_variant() -> Variant {
    Variant::of("star")
}

/// Writes rows and state for the next [`Cursor::most`] branches.
pub(crate) fn star(gpu: &Gpu, context: u32, io: StarIo<'_>) -> Op {
    let kernel = gpu.kernel(&star_variant());
    let params = gpu.uniform("star", &StarParams { context });
    let bind_group =
        gpu.bind(&kernel, &[&params, io.cursor, io.nuclei, io.branches, io.state, io.rows, io.row_weights]);
    Op::single(kernel, bind_group, Grid::One)
}
