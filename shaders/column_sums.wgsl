//! The gradient of a bias, added: sums[c] += the sum over rows of dy[row, c], rows ascending.
//! dispatch: [ceil(columns4 / 64), 1, 1]

struct Params {
    rows: u32,
    columns4: u32,
    stride4: u32,
    first4: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> dy: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> sums: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= params.columns4) {
        return;
    }
    var sum = vec4<f32>();
    for (var row = 0u; row < params.rows; row++) {
        sum += dy[row * params.stride4 + params.first4 + id.x];
    }
    sums[id.x] += sum;
}
