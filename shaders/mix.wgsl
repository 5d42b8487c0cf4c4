//! y = weights[index] * x, or added to it.
//! dispatch: spread over count4
//! use spread
//! use store

struct Params {
    // Values in blocks of four.
    count4: u32,
    index: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> weights: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = spread(group, lane);
    if (at < params.count4) {
        store(at, weights[params.index] * x[at]);
    }
}
