//! Rotary positions of the rows of several sequences.

use bytemuck::{Pod, Zeroable};

use super::super::Op;
use super::SequenceShape;
use super::spread::spread;
use crate::gpu::{Buffer, Gpu, Variant};
use crate::kernels::declared::{Declared, layout};

/// What is declared here, for the table of `kernels`.
pub(in crate::kernels) const KERNELS: &[Declared] = &[Declared::new(|_| vec![rope_rows_variant()])
    .params(layout!(RopeRowsParams: rows, length, rotating, head_dim, half, stride, back))];

/// The uniform of `rope_rows.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct RopeRowsParams {
    pub rows: u32,
    pub length: u32,
    pub rotating: u32,
    pub head_dim: u32,
    pub half: u32,
    pub stride: u32,
    pub back: u32,
}

/// Which way rows are rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Forward,
    /// By the opposite angle: a rotation's transpose, so the gradient.
    Back,
}

/// The one variant.
pub(crate) fn rope_rows_variant() -> Variant {
    Variant::of("rope_rows")
}

/// Rotates queries and keys of every row in place by its position in its sequence.
pub(crate) fn rope_rows(
    gpu: &Gpu,
    shape: SequenceShape,
    rotary_dim: u32,
    turn: Turn,
    qkv: &Buffer,
    rotation: &Buffer,
) -> Op {
    let fits = shape.head_dim.is_multiple_of(4) && rotary_dim.is_multiple_of(2) && rotary_dim <= shape.head_dim;
    assert!(fits, "rope_rows: {rotary_dim} of {shape:?}");
    let params = RopeRowsParams {
        rows: shape.rows(),
        length: shape.length,
        rotating: shape.heads + shape.kv_heads,
        head_dim: shape.head_dim,
        half: rotary_dim / 2,
        stride: shape.qkv_stride(),
        back: (turn == Turn::Back).into(),
    };
    let uniform = gpu.uniform("rope_rows", &params);
    let kernel = gpu.kernel(&rope_rows_variant());
    let bind_group = gpu.bind(&kernel, &[&uniform, qkv, rotation]);
    Op::single(kernel, bind_group, spread(params.rows * params.half))
}
