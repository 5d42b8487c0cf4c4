//! Branches as the batch under way.

use bytemuck::{Pod, Zeroable};

use super::declared::{Declared, layout};
use super::{Grid, Op};
use crate::gpu::{Buffer, Gpu, Variant};

/// What is declared here, for the table of `kernels`.
pub(in crate::kernels) const KERNELS: &[Declared] =
    &[Declared::new(|_| vec![siblings_variant()]).params(layout!(SiblingsParams: context))];

/// The uniform of `siblings.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct SiblingsParams {
    pub context: u32,
}

/// Which branches are the next siblings. Mirrors `shaders/lib/branches.wgsl`.
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

/// The buffers of `siblings`.
#[derive(Clone, Copy)]
pub(crate) struct SiblingsIo<'a> {
    pub cursor: &'a Buffer,
    pub nuclei: &'a Buffer,
    pub branches: &'a Buffer,
    pub state: &'a Buffer,
    pub rows: &'a Buffer,
    /// The probability of each row's branch.
    pub row_weights: &'a Buffer,
}

/// The one variant.
pub(crate) fn siblings_variant() -> Variant {
    Variant::of("siblings")
}

/// Writes rows and state for the next [`Cursor::most`] branches.
pub(crate) fn siblings(gpu: &Gpu, context: u32, io: SiblingsIo<'_>) -> Op {
    let kernel = gpu.kernel(&siblings_variant());
    let params = gpu.uniform("siblings", &SiblingsParams { context });
    let bind_group =
        gpu.bind(&kernel, &[&params, io.cursor, io.nuclei, io.branches, io.state, io.rows, io.row_weights]);
    Op::single(kernel, bind_group, Grid::One)
}
