//! Rotates queries and keys of every row in place by its position in its sequence (RoPE, arXiv 2104.09864, rotate-half
//! form), or back. A thread turns one pair of dimensions of all heads: the angle is theirs in common.
//! dispatch: spread over rows * half
//! use spread

struct Params {
    rows: u32,
    // Rows of a sequence.
    length: u32,
    // Heads that rotate: those of queries, then those of keys.
    rotating: u32,
    head_dim: u32,
    // Pairs of dimensions that rotate.
    half: u32,
    stride: u32,
    // 1: by the opposite angle.
    back: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
// [rows, heads + 2 * kv_heads, head_dim]
@group(0) @binding(1) var<storage, read_write> qkv: array<f32>;
// [context, half] of (cos, sin), from f64.
@group(0) @binding(2) var<storage, read> rotation: array<vec2<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = spread(group, lane);
    if (at >= params.rows * params.half) {
        return;
    }
    let row = at / params.half;
    let i = at % params.half;
    let turn = rotation[row % params.length * params.half + i];
    let cosine = turn.x;
    let sine = select(turn.y, -turn.y, params.back == 1u);
    var first = row * params.stride + i;
    for (var head = 0u; head < params.rotating; head++) {
        let x = vec2<f32>(qkv[first], qkv[first + params.half]);
        qkv[first] = fma(x.x, cosine, -(x.y * sine));
        qkv[first + params.half] = fma(x.y, cosine, x.x * sine);
        first += params.head_dim;
    }
}
