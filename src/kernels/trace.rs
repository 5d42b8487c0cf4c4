//! What the target thought of each draft.

use bytemuck::{Pod, Zeroable};

use super::declared::{Declared, layout};
use super::{EMITTED_TRACE, Grid, KernelSet, MAX_BATCH_ROWS, Op};
use crate::gpu::{Buffer, Gpu, Variant};

/// What is declared here, for the table of `kernels`.
pub(in crate::kernels) const KERNELS: &[Declared] =
    &[Declared::new(|set| vec![trace_variant(set)]).params(layout!(TraceParams: vocab, stride))];

/// Rounds of a submit that can be traced.
pub(crate) const MAX_TRACED_ROUNDS: usize = 16;

/// Words of the trace, which is the end of what a submit brings back.
pub(crate) const TRACE_WORDS: usize = 4 * MAX_TRACED_ROUNDS * MAX_BATCH_ROWS;

/// The uniform of `trace.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct TraceParams {
    pub vocab: u32,
    pub stride: u32,
}

/// The buffers of `trace`.
#[derive(Clone, Copy)]
pub(crate) struct TraceIo<'a> {
    pub state: &'a Buffer,
    pub rows: &'a Buffer,
    pub logits: &'a Buffer,
    pub sampled: &'a Buffer,
    /// What the submit brings back.
    pub emitted: &'a Buffer,
}

/// The variant of a set.
pub(crate) fn trace_variant(set: KernelSet) -> Variant {
    set.with_vocabulary_reduce(Variant::of("trace"))
        .constant("EMITTED_TRACE", EMITTED_TRACE as u32)
        .constant("MAX_TRACED_ROUNDS", MAX_TRACED_ROUNDS as u32)
}

/// To what the submit brings back, for each draft of the round: token, probability, rank, and what was sampled in its place.
pub(crate) fn trace(gpu: &Gpu, set: KernelSet, (vocab, stride): (u32, u32), io: TraceIo<'_>) -> Op {
    let params = gpu.uniform("trace", &TraceParams { vocab, stride });
    let kernel = gpu.kernel(&trace_variant(set));
    let bind_group = gpu.bind(&kernel, &[&params, io.state, io.rows, io.logits, io.sampled, io.emitted]);
    Op::single(kernel, bind_group, Grid::LogitRows { x: 1 })
}

/// What the target thought of one draft.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct TracedDraft {
    pub token: u32,
    pub p: f32,
    pub rank: u32,
    pub target: u32,
}

impl TracedDraft {
    /// Reads the draft of a row.
    pub fn of(trace: &[u32], round: usize, row: usize) -> Self {
        let at = 4 * (round * MAX_BATCH_ROWS + row);
        Self { token: trace[at], p: f32::from_bits(trace[at + 1]), rank: trace[at + 2], target: trace[at + 3] }
    }
}
