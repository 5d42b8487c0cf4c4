//! The rows that a head goes over: which positions, and which tokens.

use bytemuck::{Pod, Zeroable};

use super::declared::{Declared, layout};
use super::{Grid, MAX_CHUNK_ROWS, Op};
use crate::gpu::{Buffer, Gpu, Variant};

/// What is declared here, for the table of `kernels`.
pub(in crate::kernels) const KERNELS: &[Declared] = &[
    Declared::new(|_| vec![stage_window_variant()]).params(layout!(StageWindowParams: num_rows, context, adapter)),
    Declared::new(|_| vec![shift_tokens_variant()]).params(layout!(ShiftTokensParams: ahead, vocab)),
];

/// The uniform of `stage_window.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct StageWindowParams {
    pub num_rows: u32,
    pub context: u32,
    /// Whether the adapters of a gated LoRA act on the rows.
    pub adapter: u32,
}

/// The uniform of `shift_tokens.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct ShiftTokensParams {
    pub ahead: u32,
    pub vocab: u32,
}

/// The buffers of `stage_window`.
#[derive(Clone, Copy)]
pub(crate) struct StageWindowIo<'a> {
    pub state: &'a Buffer,
    pub rows: &'a Buffer,
}

/// The buffers of `shift_tokens`.
#[derive(Clone, Copy)]
pub(crate) struct ShiftTokensIo<'a> {
    pub state: &'a Buffer,
    pub rows: &'a Buffer,
    pub text: &'a Buffer,
    /// What follows the text, `[depth, rank]`.
    pub candidates: &'a Buffer,
}

/// The one variant of `stage_window`.
pub(crate) fn stage_window_variant() -> Variant {
    Variant::of("stage_window")
}

/// The one variant of `shift_tokens`.
pub(crate) fn shift_tokens_variant() -> Variant {
    Variant::of("shift_tokens")
}

/// Stages the last `params.num_rows` positions that have been through the model.
pub(crate) fn stage_window(gpu: &Gpu, params: StageWindowParams, io: StageWindowIo<'_>) -> Op {
    assert!(params.num_rows as usize <= MAX_CHUNK_ROWS, "stage_window: {} rows", params.num_rows);
    let kernel = gpu.kernel(&stage_window_variant());
    let params = gpu.uniform("stage_window", &params);
    let bind_group = gpu.bind(&kernel, &[&params, io.state, io.rows]);
    Op::single(kernel, bind_group, Grid::One)
}

/// Gives the staged rows the tokens `params.ahead` places after their positions.
pub(crate) fn shift_tokens(gpu: &Gpu, params: ShiftTokensParams, io: ShiftTokensIo<'_>) -> Op {
    let kernel = gpu.kernel(&shift_tokens_variant());
    let params = gpu.uniform("shift_tokens", &params);
    let bind_group = gpu.bind(&kernel, &[&params, io.state, io.rows, io.text, io.candidates]);
    Op::single(kernel, bind_group, Grid::One)
}
