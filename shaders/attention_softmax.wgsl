//! Turns the scores of a row and head into exp(score - max), and keeps 1 / their sum.
//! dispatch: [heads, rows, 1]
//! use batch
//! use keys
//! use reduce

struct Params {
    heads: u32,
    context: u32,
    // Positions that a position sees, itself included.
    window: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> state: State;
@group(0) @binding(2) var<storage, read> rows: array<Row>;
@group(0) @binding(3) var<storage, read_write> scores: array<f32>;
@group(0) @binding(4) var<storage, read_write> inverse_sums: array<f32>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    if (state.done != 0u) {
        return;
    }
    let keys = min(rows[group.y].position + 1u, params.context);
    let begin = first_key(rows[group.y].position, params.window);
    let first = (group.y * params.heads + group.x) * params.context;
    var highest = -3.0e38;
    for (var i = begin + lane; i < keys; i += LANES) {
        highest = max(highest, scores[first + i]);
    }
    highest = reduce_max(highest, lane);
    var sum = 0.0;
    for (var i = begin + lane; i < keys; i += LANES) {
        let e = exp(scores[first + i] - highest);
        scores[first + i] = e;
        sum += e;
    }
    sum = reduce_sum(sum, lane);
    if (lane == 0u) {
        inverse_sums[group.y * params.heads + group.x] = 1.0 / sum;
    }
}
