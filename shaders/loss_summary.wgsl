//! losses = log-sum-exp - the target's logit or the labels' mean of the logits, and in report[slot] their sum, the sum of their squares, how many count, 0:
//! by one workgroup in one fixed order.
//! dispatch: [1, 1, 1]
//! use reduce

struct Params {
    picked: u32,
    slot: u32,
    // 1: losses against soft labels, whose mean of the logits is the partials' last number.
    labels: u32,
}

// The target of a row that does not count.
const NO_TARGET: u32 = 0xffffffffu;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> targets: array<u32>;
@group(0) @binding(2) var<storage, read> partials: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> losses: array<f32>;
@group(0) @binding(4) var<storage, read_write> report: array<vec4<f32>>;

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32) {
    var sum = vec3<f32>();
    for (var row = lane; row < params.picked; row += LANES) {
        var loss = 0.0;
        if (targets[row] != NO_TARGET) {
            let partial = partials[row];
            loss = partial.x - select(partial.z, partial.w, params.labels == 1u) + log(partial.y);
            sum += vec3<f32>(loss, loss * loss, 1.0);
        }
        losses[row] = loss;
    }
    let total = reduce_sum(sum.x, lane);
    let squares = reduce_sum(sum.y, lane);
    let count = reduce_sum(sum.z, lane);
    if (lane == 0u) {
        report[params.slot] = vec4<f32>(total, squares, count, 0.0);
    }
}
