//! normalizers[row] = (highest logit, row weight / sum of exp(logit - highest)): what a row's weighted softmax needs.
//! dispatch: [1, logit rows, 1]
//! use reduce
//! use peak_sum

struct Params {
    vocab: u32,
    stride: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> row_weights: array<f32>;
@group(0) @binding(2) var<storage, read> logits: array<f32>;
@group(0) @binding(3) var<storage, read_write> normalizers: array<vec2<f32>>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let softmax = peak_sum(group.y * params.stride, lane);
    if (lane == 0u) {
        normalizers[group.y] = vec2<f32>(softmax.x, row_weights[group.y] / softmax.y);
    }
}
