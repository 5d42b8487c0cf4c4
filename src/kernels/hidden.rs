//! Hidden states on their way from the residual stream to a history and back.
//!
//! A history is a cache like keys and values: the state of row i of a batch goes to slot `committed + i`, going back is
//! setting a length, and after a tree the rows on the path move together.

use bytemuck::{Pod, Zeroable};

use super::declared::{Declared, layout};
use super::{Grid, Op, Over, Store};
use crate::gpu::{Buffer, Gpu, Variant};

/// The declarations of this file's kernels, for the table of `kernels`.
pub(in crate::kernels) const KERNELS: &[Declared] = &[
    Declared::new(|_| vec![copy_hidden_variant()])
        .params(layout!(CopyHiddenParams: width4, slots, x_place, y_place, accumulate, weight)),
    Declared::new(|_| vec![compact_hidden_variant()]).params(layout!(CompactHiddenParams: width4, slots)),
];

/// The uniform of `copy_hidden.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct CopyHiddenParams {
    pub width4: u32,
    pub slots: u32,
    pub x_place: u32,
    pub y_place: u32,
    pub accumulate: u32,
    pub weight: f32,
}

/// The uniform of `compact_hidden.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct CompactHiddenParams {
    pub width4: u32,
    pub slots: u32,
}

/// The rows of a buffer that take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Rows from the first on: an activation.
    Rows,
    /// Rows from the committed length on: a history.
    Committed,
    /// Rows of a history from the first row of the batch whose logits are wanted on. Takes as many as those.
    Wanted,
    /// The slot of a history at the committed length, read for every row: siblings.
    Same,
}

/// The one variant of `copy_hidden`.
pub(crate) fn copy_hidden_variant() -> Variant {
    Variant::of("copy_hidden")
}

/// The one variant of `compact_hidden`.
pub(crate) fn compact_hidden_variant() -> Variant {
    Variant::of("compact_hidden")
}

/// The buffers of `copy_hidden`, and what it does with the rows of `x`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CopyHidden<'a> {
    pub x: (&'a Buffer, Place),
    pub y: (&'a Buffer, Place),
    pub weight: f32,
    pub store: Store,
    /// The rows of the step, or only as many as logits are wanted of.
    pub over: Over,
}

/// `y = weight * x`, or added to it, for rows of `width` values; histories have `slots` of them.
pub(crate) fn copy_hidden(gpu: &Gpu, width: u32, slots: u32, state: &Buffer, io: CopyHidden<'_>) -> Op {
    assert!(width.is_multiple_of(4), "copy_hidden: {width} values");
    let params = CopyHiddenParams {
        width4: width / 4,
        slots,
        x_place: io.x.1 as u32,
        y_place: io.y.1 as u32,
        accumulate: (io.store == Store::Add).into(),
        weight: io.weight,
    };
    let params = gpu.uniform("copy_hidden", &params);
    let kernel = gpu.kernel(&copy_hidden_variant());
    let bind_group = gpu.bind(&kernel, &[&params, state, io.x.0, io.y.0]);
    let x = (width / 4).div_ceil(64);
    Op::single(kernel, bind_group, Grid::rows(x, io.over))
}

/// The buffers of `compact_hidden`.
#[derive(Clone, Copy)]
pub(crate) struct CompactHiddenIo<'a> {
    pub state: &'a Buffer,
    /// The number of rows that were committed, then which.
    pub path: &'a Buffer,
    pub history: &'a Buffer,
}

/// Moves the states of the rows on the committed path together; `width` values each, `slots` of them.
pub(crate) fn compact_hidden(gpu: &Gpu, width: u32, slots: u32, io: CompactHiddenIo<'_>) -> Op {
    assert!(width.is_multiple_of(4), "compact_hidden: {width} values");
    let params = gpu.uniform("compact_hidden", &CompactHiddenParams { width4: width / 4, slots });
    let kernel = gpu.kernel(&compact_hidden_variant());
    let bind_group = gpu.bind(&kernel, &[&params, io.state, io.path, io.history]);
    Op::single(kernel, bind_group, Grid::Columns { x: (width / 4).div_ceil(64) })
}
