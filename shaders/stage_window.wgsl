//! Stages the last positions that have been through the model, as rows of a chain, for a head to go over them. The row
//! whose logits are wanted is the last.
//! dispatch: [1, 1, 1]
//! use batch

struct Params {
    num_rows: u32,
    context: u32,
    // 1: the adapters of a gated LoRA act on the rows.
    adapter: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> state: State;
@group(0) @binding(2) var<storage, read_write> rows: array<Row>;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) i: u32) {
    // The text's last token has not been through the model yet.
    let known = max(state.length, 1u) - 1u;
    let count = min(params.num_rows, known);
    let first = known - count;
    if (state.done != 0u) {
        return;
    }
    // In a short text some rows lie beyond it; what they leave in a head's cache is overwritten before it is seen.
    if (i < params.num_rows) {
        rows[i] = Row(0u, min(first + i, params.context - 1u), 0u, 0u, params.adapter);
    }
    if (i == 0u) {
        state.committed = first;
        state.num_rows = count;
        state.logit_row = max(count, 1u) - 1u;
    }
}
