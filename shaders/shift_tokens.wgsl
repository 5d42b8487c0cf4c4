//! Gives each row the token some places after its position, which a sequential head reads: the text's, or beyond it
//! the likeliest draft's.
//! dispatch: [1, 1, 1]
//! use batch

struct Params {
    ahead: u32,
    vocab: u32,
}

// Candidates of a depth.
const RANKS: u32 = 32u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> state: State;
@group(0) @binding(2) var<storage, read_write> rows: array<Row>;
// The text's tokens by position.
@group(0) @binding(3) var<storage, read> text: array<u32>;
// [depth, rank]
@group(0) @binding(4) var<storage, read> candidates: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) i: u32) {
    if (i >= state.num_rows || state.done != 0u) {
        return;
    }
    let position = rows[i].position + params.ahead;
    var token = 0u;
    if (position < state.length) {
        token = text[position];
    } else if (position - state.length < RANKS) {
        token = candidates[(position - state.length) * RANKS];
    }
    rows[i].token = min(token, params.vocab - 1u);
}
