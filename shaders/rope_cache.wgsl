//! Rotates queries and keys by their position (RoPE, arXiv 2104.09864, rotate-half form) and writes
//! keys and values to the cache slot of the row.
//! dispatch: [ceil(head_dim / 2 / 64), heads + 2 * kv_heads, rows]
//! use batch

struct Params {
    heads: u32,
    kv_heads: u32,
    // Padded to a multiple of four.
    head_dim: u32,
    // Dimensions that rotate, from the first.
    rotary_dim: u32,
    stride: u32,
    context: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> state: State;
@group(0) @binding(2) var<storage, read> rows: array<Row>;
// [rows, heads + 2 * kv_heads, head_dim]: queries, keys, values.
@group(0) @binding(3) var<storage, read_write> qkv: array<f32>;
// [context, rotary_dim / 2] of (cos, sin), from f64.
@group(0) @binding(4) var<storage, read> rotation: array<vec2<f32>>;
// [kv_heads, head_dim / 4, context, 4] and [kv_heads, context, head_dim].
@group(0) @binding(5) var<storage, read_write> keys: array<f32>;
@group(0) @binding(6) var<storage, read_write> values: array<f32>;

fn key_index(head: u32, d: u32, slot: u32) -> u32 {
    return ((head * (params.head_dim / 4u) + d / 4u) * params.context + slot) * 4u + d % 4u;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let slot = state.committed + id.z;
    if (id.x >= params.head_dim / 2u || state.done != 0u || slot >= params.context) {
        return;
    }
    let half = params.rotary_dim / 2u;
    let rotates = id.x < half;
    // The pair of dimensions this thread owns.
    let d0 = select(params.rotary_dim + 2u * (id.x - half), id.x, rotates);
    let d1 = select(d0 + 1u, d0 + half, rotates);
    let at = id.z * params.stride + id.y * params.head_dim;
    let x = vec2<f32>(qkv[at + d0], qkv[at + d1]);
    if (id.y >= params.heads + params.kv_heads) {
        let v = ((id.y - params.heads - params.kv_heads) * params.context + slot) * params.head_dim;
        values[v + d0] = x.x;
        values[v + d1] = x.y;
        return;
    }
    var turned = x;
    if (rotates) {
        let r = rotation[rows[id.z].position * half + id.x];
        turned = vec2<f32>(fma(x.x, r.x, -(x.y * r.y)), fma(x.y, r.x, x.x * r.y));
    }
    if (id.y < params.heads) {
        qkv[at + d0] = turned.x;
        qkv[at + d1] = turned.y;
    } else {
        keys[key_index(id.y - params.heads, d0, slot)] = turned.x;
        keys[key_index(id.y - params.heads, d1, slot)] = turned.y;
    }
}
