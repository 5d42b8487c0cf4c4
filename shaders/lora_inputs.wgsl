//! The gradient of an adapter's inner values: dt[row, s + k] = the sum over the blocks of columns c that begin at s of
//! dot(dy[row, c], b[k, c]); zero for values that no block reads.
//! dispatch: [ceil(t_stride / 64), rows, 1]

struct Params {
    // Columns of y, and of B, in blocks of four.
    columns4: u32,
    rank: u32,
    t_stride: u32,
}

// A block of columns that no adapter changes.
const NONE: u32 = 0xffffffffu;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> dy: array<vec4<f32>>;
// [rank, columns4], scaled.
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;
// Where in t the values of each block of columns begin.
@group(0) @binding(3) var<storage, read> starts: array<u32>;
@group(0) @binding(4) var<storage, read_write> dt: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= params.t_stride) {
        return;
    }
    var sum = 0.0;
    for (var c = 0u; c < params.columns4; c++) {
        let start = starts[c];
        // Below `start` it wraps around, beyond every rank.
        let k = id.x - start;
        if (start != NONE && k < params.rank) {
            let d = dy[id.y * params.columns4 + c];
            let v = b[k * params.columns4 + c];
            sum = fma(d.w, v.w, fma(d.z, v.z, fma(d.y, v.y, fma(d.x, v.x, sum))));
        }
    }
    dt[id.y * params.t_stride + id.x] = sum;
}
