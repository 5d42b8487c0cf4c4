//! The gradients of the scales of head_norm, added: rows ascending, then heads. A thread owns one element of both scales' pair.
//! dispatch: [ceil(2 * head_dim / 64), 1, 1]

struct Params {
    rows: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
// [rows, heads + 2 * kv_heads, head_dim], zero in the padding; both.
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<f32>;
// [rows, heads + 2 * kv_heads], as head_norm_inputs left them.
@group(0) @binding(3) var<storage, read> inverses: array<f32>;
// [2, head_dim]
@group(0) @binding(4) var<storage, read_write> dscale: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= 2u * params.head_dim) {
        return;
    }
    let of_keys = id.x >= params.head_dim;
    let d = id.x % params.head_dim;
    let begin = select(0u, params.heads, of_keys);
    let end = begin + select(params.heads, params.kv_heads, of_keys);
    let all = params.heads + 2u * params.kv_heads;
    var sum = 0.0;
    for (var row = 0u; row < params.rows; row++) {
        for (var head = begin; head < end; head++) {
            let at = (row * all + head) * params.head_dim + d;
            sum = fma(dy[at], x[at] * inverses[row * all + head], sum);
        }
    }
    dscale[id.x] += sum;
}
