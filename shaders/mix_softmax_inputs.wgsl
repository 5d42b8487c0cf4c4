//! dlogits += the gradient of softmax(logits / temperature), given those of its weights: one thread.
//! dispatch: [1, 1, 1]

struct Params {
    layers: u32,
    temperature: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> weights: array<f32>;
@group(0) @binding(2) var<storage, read> dots: array<f32>;
@group(0) @binding(3) var<storage, read_write> dlogits: array<f32>;

@compute @workgroup_size(1)
fn main() {
    var mean = 0.0;
    for (var i = 0u; i < params.layers; i++) {
        mean = fma(weights[i], dots[i], mean);
    }
    for (var i = 0u; i < params.layers; i++) {
        dlogits[i] += weights[i] * (dots[i] - mean) / params.temperature;
    }
}
