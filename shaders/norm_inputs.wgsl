//! The gradient of a norm's input, added: RMSNorm, or LayerNorm where LAYER is 1. With n = (x - mean) * inv and
//! g = dy * scale it is inv * (g - mean(g) - n * mean(g * n)); an RMSNorm has no means but the last.
//! Leaves mean and inv of each row for norm_weights.
//! dispatch: [1, rows, 1]
//! use reduce

struct Params {
    width: u32,
    stride: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<f32>;
@group(0) @binding(3) var<storage, read> scale: array<f32>;
@group(0) @binding(4) var<storage, read_write> dx: array<f32>;
@group(0) @binding(5) var<storage, read_write> stats: array<vec2<f32>>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first = group.y * params.stride;
    let width = f32(params.width);
    var mean = 0.0;
    if (LAYER == 1u) {
        var sum = 0.0;
        for (var i = lane; i < params.width; i += LANES) {
            sum += x[first + i];
        }
        mean = reduce_sum(sum, lane) / width;
    }
    var squares = 0.0;
    var g_sum = 0.0;
    var gx_sum = 0.0;
    for (var i = lane; i < params.width; i += LANES) {
        let centred = x[first + i] - mean;
        let g = dy[first + i] * scale[i];
        squares = fma(centred, centred, squares);
        g_sum += g;
        gx_sum = fma(g, centred, gx_sum);
    }
    let inv = inverseSqrt(reduce_sum(squares, lane) / width + params.eps);
    let slope = inv * inv * (reduce_sum(gx_sum, lane) / width);
    var shift = 0.0;
    if (LAYER == 1u) {
        shift = reduce_sum(g_sum, lane) / width;
    }
    for (var i = lane; i < params.width; i += LANES) {
        let g = dy[first + i] * scale[i] - shift;
        dx[first + i] += inv * fma(mean - x[first + i], slope, g);
    }
    if (lane == 0u) {
        stats[group.y] = vec2<f32>(mean, inv);
    }
}
