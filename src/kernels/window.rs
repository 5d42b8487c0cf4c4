//! The rows that a head goes over: which positions, and which tokens.

use bytemuck::{Pod, Zeroable};

use super::{Grid, MAX_CHUNK_ROWS, Op};
use crate::gpu::{Gpu, Variant};

/// The uniform of `window.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct WindowParams {
    pub num_rows: u32,
    pub context: u32,
    /// Whether the adapters of a gated LoRA act on the rows.
    pub adapter: u32,
}

/// The uniform of `shift.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct ShiftParams {
    pub ahead: u32,
    pub vocab: u32,
}

/// The one variant of `window`.
pub(crate) fn window_variant() -> Variant {
    Variant::of("window")
}

/// The one variant of `shift`.
pub(crate) fn shift_variant() -> Variant {
    Variant::of("shift")
}

/// Stages the last `params.num_rows` positions that have been through the model.
pub(crate) fn window(gpu: &Gpu, params: WindowParams, [state, rows]: [&wgpu::Buffer; 2]) -> Op {
    assert!(params.num_rows as usize <= MAX_CHUNK_ROWS, "window: {} rows", params.num_rows);
    let kernel = gpu.kernel(&window_variant());
    let params = gpu.uniform("window", &params);
    let bind_group = gpu.bind(&kernel, &[&params, state, rows]);
    Op::single(kernel, bind_group, Grid::One)
}

/// Gives the staged rows the tokens `params.ahead` places after their positions.
pub(crate) fn shift(gpu: &Gpu, params: ShiftParams, [state, rows, text, candidates]: [&wgpu::Buffer; 4]) -> Op {
    let kernel = gpu.kernel(&shift_variant());
    let params = gpu.uniform("shift", &params);
    let bind_group = gpu.bind(&kernel, &[&params, state, rows, text, candidates]);
    Op::single(kernel, bind_group, Grid::One)
}
