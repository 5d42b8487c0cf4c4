//! dots[index] += sum of x * dy, by one workgroup in one fixed order.
//! dispatch: [1, 1, 1]
//! use reduce

struct Params {
    // Values in blocks of four.
    count4: u32,
    index: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> dy: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> dots: array<f32>;

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32) {
    var sum = vec4<f32>();
    for (var i = lane; i < params.count4; i += LANES) {
        sum = fma(x[i], dy[i], sum);
    }
    let total = reduce_sum((sum.x + sum.y) + (sum.z + sum.w), lane);
    if (lane == 0u) {
        dots[params.index] += total;
    }
}
