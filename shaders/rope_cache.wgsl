//! Rotates queries and keys by their position (RoPE, arXiv 2104.09864, rotate-half form) and writes
//! keys and values to the cache slot of the row.
//! dispatch: [ceil(head_dim / 2 / 64), heads + 2 * kv_heads, rows]
//! use batch
//! use elements
//! use slots

struct Params {
    heads: u32,
    kv_heads: u32,
    // Padded to a multiple of four.
    head_dim: u32,
    // Dimensions that rotate, from the first.
    rotary_dim: u32,
    stride: u32,
    context: u32,
    slots: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> state: State;
@group(0) @binding(2) var<storage, read> rows: array<Row>;
// [rows, heads + 2 * kv_heads, head_dim]: queries, keys, values.
@group(0) @binding(3) var<storage, read_write> qkv: array<f32>;
// [context, rotary_dim / 2] of (cos, sin), from f64.
@group(0) @binding(4) var<storage, read> rotation: array<vec2<f32>>;
// [kv_heads, head_dim / 4, slots] and [kv_heads, slots, head_dim / 4].
@group(0) @binding(5) var<storage, read_write> keys: array<Cached>;
@group(0) @binding(6) var<storage, read_write> values: array<Cached>;

// Dimension i and its partner after they were rotated, of the head that begins at `at`.
fn turned(at: u32, i: u32, position: u32) -> vec2<f32> {
    let half = params.rotary_dim / 2u;
    let x = vec2<f32>(qkv[at + i], qkv[at + i + half]);
    let r = rotation[position * half + i];
    return vec2<f32>(fma(x.x, r.x, -(x.y * r.y)), fma(x.y, r.x, x.x * r.y));
}

fn key_at(at: u32, d: u32, position: u32) -> f32 {
    let half = params.rotary_dim / 2u;
    if (d >= params.rotary_dim) {
        return qkv[at + d];
    }
    if (d >= half) {
        return turned(at, d - half, position).y;
    }
    return turned(at, d, position).x;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let place = state.committed + id.z;
    if (state.done != 0u || place >= params.context) {
        return;
    }
    let slot = slot_of(place, params.slots);
    let at = id.z * params.stride + id.y * params.head_dim;
    if (id.y < params.heads) {
        // In place: a thread owns a pair.
        if (id.x < params.rotary_dim / 2u) {
            let x = turned(at, id.x, rows[id.z].position);
            qkv[at + id.x] = x.x;
            qkv[at + id.x + params.rotary_dim / 2u] = x.y;
        }
        return;
    }
    // To the cache: a thread owns four neighbours, which may share words.
    let blocks = params.head_dim / 4u;
    if (id.x >= blocks) {
        return;
    }
    let d = 4u * id.x;
    if (id.y >= params.heads + params.kv_heads) {
        let x = vec4<f32>(qkv[at + d], qkv[at + d + 1u], qkv[at + d + 2u], qkv[at + d + 3u]);
        values[((id.y - params.heads - params.kv_heads) * params.slots + slot) * blocks + id.x] = to_cache(x);
        return;
    }
    let position = rows[id.z].position;
    let x = vec4<f32>(
        key_at(at, d, position),
        key_at(at, d + 1u, position),
        key_at(at, d + 2u, position),
        key_at(at, d + 3u, position)
    );
    keys[((id.y - params.heads) * blocks + id.x) * params.slots + slot] = to_cache(x);
}
