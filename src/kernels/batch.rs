//! The structs that every kernel reads: the rows of a step and the state of a session. Mirrors
//! `shaders/lib/batch.wgsl`.

use bytemuck::{Pod, Zeroable};

/// One row of a step: a token at a position that sees the committed cache and its ancestors in the batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Row {
    pub token: u32,
    pub position: u32,
    /// Bit i: row i is an ancestor; the row's own bit is set. 0: every earlier row is one, which is prefill.
    pub mask: u32,
    /// The token whose log-probability `log_probs` reports.
    pub target_token: u32,
    /// 1: the adapters of a gated LoRA act on this row.
    pub adapter: u32,
}

/// The state of a session that lives on the GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct State {
    /// Tokens whose keys and values are in the cache.
    pub committed: u32,
    /// Tokens of the text, the last one not yet through the model.
    pub length: u32,
    /// The text ends at this length.
    pub limit: u32,
    /// 0 while running, [`DONE_END_TOKEN`], [`DONE_LIMIT`] or [`DONE_NOT_FINITE`] after the end.
    pub done: u32,
    /// Rows of this step.
    pub num_rows: u32,
    /// The first row whose logits are wanted.
    pub logit_row: u32,
    /// Ids emitted in this submit.
    pub emitted: u32,
    /// Rounds of this submit that have ended.
    pub rounds: u32,
}

/// [`State::done`] after an end token.
pub(crate) const DONE_END_TOKEN: u32 = 1;

/// [`State::done`] when the limit is reached.
pub(crate) const DONE_LIMIT: u32 = 2;

/// [`State::done`] when a row has no next token, because its logits are not finite.
pub(crate) const DONE_NOT_FINITE: u32 = 3;
