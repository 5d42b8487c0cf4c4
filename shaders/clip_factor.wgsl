//! What gradients are multiplied with, from the sums of squares of all tensors.
//! dispatch: [1, 1, 1]

struct Params {
    count: u32,
    // 0: no limit.
    max_norm: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> norms: array<f32>;
// The total norm; the factor; 1 where the norm is finite, else 0.
@group(0) @binding(2) var<storage, read_write> clip: array<f32>;

@compute @workgroup_size(1)
fn main() {
    var sum = 0.0;
    for (var i = 0u; i < params.count; i++) {
        sum += norms[i];
    }
    let norm = sqrt(sum);
    // By its bits: compilers may take it for granted that numbers are finite.
    let finite = (bitcast<u32>(sum) & 0x7f800000u) != 0x7f800000u;
    var factor = 1.0;
    if (params.max_norm > 0.0 && norm > params.max_norm) {
        factor = params.max_norm / norm;
    }
    clip[0] = norm;
    clip[1] = factor;
    clip[2] = select(0.0, 1.0, finite);
}
