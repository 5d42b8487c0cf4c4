// The gradient of a LayerNorm's shift.

@group(0) @binding(5) var<storage, read_write> dshift: array<f32>;

fn add_shift(i: u32, gradient: f32) {
    dshift[i] += gradient;
}
