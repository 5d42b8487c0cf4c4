//! The gradients of a norm's scale and shift, added, rows ascending.
//! dispatch: [ceil(width / 64), 1, 1]
//! use shift

struct Params {
    rows: u32,
    width: u32,
    stride: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<f32>;
// Mean and one over the deviation of each row.
@group(0) @binding(3) var<storage, read> stats: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read_write> dscale: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= params.width) {
        return;
    }
    var sum = 0.0;
    var shift = 0.0;
    for (var row = 0u; row < params.rows; row++) {
        let at = row * params.stride + id.x;
        sum = fma(dy[at], (x[at] - stats[row].x) * stats[row].y, sum);
        shift += dy[at];
    }
    dscale[id.x] += sum;
    add_shift(id.x, shift);
}
