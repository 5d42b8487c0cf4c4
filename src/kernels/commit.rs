//! The end of a round.

use bytemuck::{Pod, Zeroable};

use super::declared::{Declared, layout};
use super::{Grid, MAX_CHUNK_ROWS, Op, TRACE_WORDS, TracedDraft};
use crate::gpu::{Buffer, Gpu, Variant};

/// The declarations of this file's kernels, for the table of `kernels`.
pub(in crate::kernels) const KERNELS: &[Declared] =
    &[Declared::new(|_| vec![commit_variant()])
        .params(layout!(CommitParams: num_end_tokens, vocab, context, end_tokens))];

/// The most end tokens that a generation can have.
pub(crate) const MAX_END_TOKENS: usize = 32;

/// The ids that one submit can bring back.
pub(crate) const MAX_EMITTED: usize = 256;

/// The rounds of one submit.
pub(crate) const MAX_ROUNDS: usize = 64;

/// Where the trace begins in what a submit brings back: after a header of four words, the ids, and two numbers a round.
pub(crate) const EMITTED_TRACE: usize = 4 + MAX_EMITTED + 2 * MAX_ROUNDS;

/// Words that a submit brings back.
pub(crate) const EMITTED_WORDS: usize = EMITTED_TRACE + TRACE_WORDS;

/// The uniform of `commit.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct CommitParams {
    pub num_end_tokens: u32,
    pub vocab: u32,
    /// Slots of the cache.
    pub context: u32,
    pub pad: u32,
    pub end_tokens: [u32; MAX_END_TOKENS],
}

/// The buffers of `commit`.
#[derive(Clone, Copy)]
pub(crate) struct CommitIo<'a> {
    pub state: &'a Buffer,
    pub rows: &'a Buffer,
    pub sampled: &'a Buffer,
    pub counts: &'a Buffer,
    pub emitted: &'a Buffer,
    /// The tokens of the text by position.
    pub text: &'a Buffer,
    /// The number of rows that were committed, then which.
    pub path: &'a Buffer,
}

/// The one variant.
pub(crate) fn commit_variant() -> Variant {
    Variant::of("commit").constant("MAX_IDS", MAX_EMITTED as u32).constant("LANES", MAX_CHUNK_ROWS as u32)
}

/// Walks the tree of rows along what the target sampled, and appends that to the text.
pub(crate) fn commit(gpu: &Gpu, params: &CommitParams, io: CommitIo<'_>) -> Op {
    let kernel = gpu.kernel(&commit_variant());
    let params = gpu.uniform("commit", params);
    let buffers = [&params, io.state, io.rows, io.sampled, io.counts, io.emitted, io.text, io.path];
    let bind_group = gpu.bind(&kernel, &buffers);
    Op::single(kernel, bind_group, Grid::One)
}

/// The results that a submit has brought back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Emitted {
    pub ids: Vec<u32>,
    /// [`super::State::done`].
    pub done: u32,
    /// Drafted and accepted tokens of each round.
    pub rounds: Vec<[u32; 2]>,
    trace: Vec<u32>,
}

impl Emitted {
    /// Reads what a submit has brought back.
    pub fn of(words: &[u32]) -> Self {
        let (words, trace) = words.split_at(EMITTED_TRACE);
        let (header, rest) = words.split_at(4);
        let (ids, rounds) = rest.split_at(MAX_EMITTED);
        let (emitted, count) = ((header[0] as usize).min(MAX_EMITTED), (header[2] as usize).min(MAX_ROUNDS));
        let rounds = rounds.as_chunks().0.iter().take(count).copied().collect();
        Self { ids: ids[..emitted].to_vec(), done: header[1], rounds, trace: trace.to_vec() }
    }

    /// The target's opinion of the draft in `row` of `round`, if that was traced.
    pub fn traced(&self, round: usize, row: usize) -> TracedDraft {
        TracedDraft::of(&self.trace, round, row)
    }
}
