//! weights = softmax(logits / temperature): some tens of values, one thread.
//! dispatch: [1, 1, 1]

struct Params {
    layers: u32,
    temperature: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read_write> weights: array<f32>;

@compute @workgroup_size(1)
fn main() {
    var highest = -3.0e38;
    for (var i = 0u; i < params.layers; i++) {
        highest = max(highest, logits[i]);
    }
    var sum = 0.0;
    for (var i = 0u; i < params.layers; i++) {
        let e = exp((logits[i] - highest) / params.temperature);
        weights[i] = e;
        sum += e;
    }
    for (var i = 0u; i < params.layers; i++) {
        weights[i] /= sum;
    }
}
