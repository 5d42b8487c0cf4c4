//! The rows that a head goes over: which positions, and which tokens.

use bytemuck::{Pod, Zeroable};

use super::{Grid, MAX_CHUNK_ROWS, Op};
use crate::gpu::{Gpu, Variant};

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

/// The one variant of `stage_window`.
pub(crate) fn stage_window_variant() -> Variant {
    Variant::of("stage_window")
}

/// The one variant of `shift_tokens`.
pub(crate) fn shift_tokens_variant() -> Variant {
    Variant::of("shift_tokens")
}

/// Stages the last `params.num_rows` positions that have been through the model.
pub(crate) fn stage_window(gpu: &Gpu, params: StageWindowParams, [state, rows]: [&wgpu::Buffer; 2]) -> Op {
    assert!(params.num_rows as usize <= MAX_CHUNK_ROWS, "stage_window: {} rows", params.num_rows);
    let kernel = gpu.kernel(&stage_window_variant());
    let params = gpu.uniform("stage_window", &params);
    let bind_group = gpu.bind(&kernel, &[&params, state, rows]);
    Op::single(kernel, bind_group, Grid::One)
}

/// Gives the staged rows the tokens `params.ahead` places after their positions.
pub(crate) fn shift_tokens(
    gpu: &Gpu,
    params: ShiftTokensParams,
    [state, rows, text, candidates]: [&wgpu::Buffer; 4],
) -> Op {
    let kernel = gpu.kernel(&shift_tokens_variant());
    let params = gpu.uniform("shift_tokens", &params);
    let bind_group = gpu.bind(&kernel, &[&params, state, rows, text, candidates]);
    Op::single(kernel, bind_group, Grid::One)
}
