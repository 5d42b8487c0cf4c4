//! dx[row] = (dx[row] - label_means[picks[row]]) * factors[slot]; 0 where a row has no labels. Where dx was the mean of the LM
//! head's columns under the row's softmax, it is then the gradient of the loss against the row's labels.
//! dispatch: spread over picked * width4
//! use label_mean
//! use spread

@group(0) @binding(2) var<storage, read> label_means: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> factors: array<f32>;
@group(0) @binding(4) var<storage, read_write> dx: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = spread(group, lane);
    if (at >= params.picked * params.width4) {
        return;
    }
    let pick = picks[at / params.width4];
    var value = vec4<f32>();
    if (pick != NO_ROW) {
        value = (dx[at] - label_means[pick * params.width4 + at % params.width4]) * factors[params.slot];
    }
    dx[at] = value;
}
