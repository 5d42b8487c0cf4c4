//! normalizers[row] = (highest logit, row weight / sum of exp(logit - highest)): what a row's weighted softmax needs, from the
//! partials that the LM head kept.
//! dispatch: [1, logit rows, 1]
//! use reduce

struct Params {
    // Partials of a row.
    stride: u32,
}

// Partials a lane adds before it adds their sum to the others: sums of hundreds of thousands stay accurate.
const SEGMENT: u32 = 64u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> row_weights: array<f32>;
@group(0) @binding(2) var<storage, read> partials: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read_write> normalizers: array<vec2<f32>>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first = group.y * params.stride;
    var highest = -3.0e38;
    for (var i = lane; i < params.stride; i += LANES) {
        highest = max(highest, partials[first + i].x);
    }
    highest = reduce_max(highest, lane);
    var sum = 0.0;
    for (var segment = lane; segment < params.stride; segment += SEGMENT * LANES) {
        var part = 0.0;
        for (var i = segment; i < min(params.stride, segment + SEGMENT * LANES); i += LANES) {
            let partial = partials[first + i];
            part = fma(partial.y, exp(partial.x - highest), part);
        }
        sum += part;
    }
    sum = reduce_sum(sum, lane);
    if (lane == 0u) {
        normalizers[group.y] = vec2<f32>(highest, row_weights[group.y] / sum);
    }
}
