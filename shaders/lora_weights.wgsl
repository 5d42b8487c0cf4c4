//! The gradient of an adapter's B, added: db[k, c] += the sum over rows of t[row, starts[c] + k] dy[row, c], rows
//! ascending. Blocks of columns without an adapter get nothing.
//! dispatch: [ceil(columns4 / 64), rank, 1]

struct Params {
    // Columns of y, and of B, in blocks of four.
    columns4: u32,
    rank: u32,
    t_stride: u32,
    rows: u32,
}

// A block of columns that no adapter changes.
const NONE: u32 = 0xffffffffu;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> t: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> starts: array<u32>;
@group(0) @binding(4) var<storage, read_write> db: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= params.columns4) {
        return;
    }
    let start = starts[id.x];
    if (start == NONE) {
        return;
    }
    var sum = vec4<f32>();
    for (var row = 0u; row < params.rows; row++) {
        sum = fma(vec4<f32>(t[row * params.t_stride + start + id.y]), dy[row * params.columns4 + id.x], sum);
    }
    db[id.y * params.columns4 + id.x] += sum;
}
