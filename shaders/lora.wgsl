//! y[row] += B t[row] for the rows whose adapter is on; the others keep their bits.
//! dispatch: [ceil(columns4 / 64), rows, 1]
//! use batch

struct Params {
    columns4: u32,
    rank: u32,
    t_stride: u32,
}

// A block of columns that no adapter changes.
const NONE: u32 = 0xffffffffu;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> state: State;
@group(0) @binding(2) var<storage, read> rows: array<Row>;
// A x, [rows, t_stride]: `rank` values of each product that has an adapter.
@group(0) @binding(3) var<storage, read> t: array<f32>;
// [rank, columns4], scaled.
@group(0) @binding(4) var<storage, read> b: array<vec4<f32>>;
// Where in t the values of each block of columns begin.
@group(0) @binding(5) var<storage, read> starts: array<u32>;
@group(0) @binding(6) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= params.columns4 || rows[id.y].adapter == 0u || state.done != 0u) {
        return;
    }
    let start = starts[id.x];
    if (start == NONE) {
        return;
    }
    let source = id.y * params.t_stride + start;
    var sum = vec4<f32>();
    for (var r = 0u; r < params.rank; r++) {
        sum = fma(b[r * params.columns4 + id.x], vec4<f32>(t[source + r]), sum);
    }
    y[id.y * params.columns4 + id.x] += sum;
}
