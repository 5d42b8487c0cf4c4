//! In what the submit brings back, for [round, row]: the row's draft, its probability and rank where it was drafted, and what the target sampled there.
//! dispatch: [1, rows, 1]
//! use batch
//! use tree
//! use reduce

struct Params {
    vocab: u32,
    stride: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> state: State;
@group(0) @binding(2) var<storage, read> rows: array<Row>;
// After penalty and temperature.
@group(0) @binding(3) var<storage, read> logits: array<f32>;
@group(0) @binding(4) var<storage, read> sampled: array<u32>;
@group(0) @binding(5) var<storage, read_write> emitted: array<u32>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.y;
    // The first row is no draft.
    if (state.done != 0u || row == 0u || state.rounds >= MAX_TRACED_ROUNDS) {
        return;
    }
    let parent = firstLeadingBit(rows[row].mask ^ (1u << row));
    let token = rows[row].token;
    let first = parent * params.stride;
    let logit = logits[first + min(token, params.vocab - 1u)];
    var highest = -3.0e38;
    for (var i = lane; i < params.vocab; i += LANES) {
        highest = max(highest, logits[first + i]);
    }
    highest = reduce_max(highest, lane);
    var sum = 0.0;
    var before = 0.0;
    for (var i = lane; i < params.vocab; i += LANES) {
        let other = logits[first + i];
        sum += exp(other - highest);
        before += select(0.0, 1.0, other > logit || (other == logit && i < token));
    }
    sum = reduce_sum(sum, lane);
    before = reduce_sum(before, lane);
    if (lane == 0u) {
        let p = select(0.0, exp(logit - highest) / sum, token < params.vocab);
        let at = EMITTED_TRACE + 4u * (state.rounds * MAX_ROWS + row);
        emitted[at] = token;
        emitted[at + 1u] = bitcast<u32>(p);
        emitted[at + 2u] = u32(before);
        emitted[at + 3u] = sampled[parent];
    }
}
