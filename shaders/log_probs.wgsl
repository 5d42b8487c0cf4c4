//! log_probs[row] = logits[row, target] - log sum exp logits[row].
//! dispatch: [1, rows, 1]
//! use batch
//! use reduce

struct Params {
    vocab: u32,
    stride: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> rows: array<Row>;
@group(0) @binding(2) var<storage, read> logits: array<f32>;
@group(0) @binding(3) var<storage, read_write> log_probs: array<f32>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first = group.y * params.stride;
    var highest = -3.0e38;
    for (var i = lane; i < params.vocab; i += LANES) {
        highest = max(highest, logits[first + i]);
    }
    highest = reduce_max(highest, lane);
    var sum = 0.0;
    for (var i = lane; i < params.vocab; i += LANES) {
        sum += exp(logits[first + i] - highest);
    }
    sum = reduce_sum(sum, lane);
    if (lane == 0u) {
        let wanted = min(rows[group.y].target_token, params.vocab - 1u);
        log_probs[group.y] = logits[first + wanted] - highest - log(sum);
    }
}
