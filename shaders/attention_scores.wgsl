//! scores[row, head, position] = softcapped(scale * query . key), for every position the row may see.
//! dispatch: [ceil(keys / 64), heads, rows]
//! use batch
//! use cache
//! use elements
//! use slots
//! use softcap

struct Params {
    heads: u32,
    kv_heads: u32,
    head_dim4: u32,
    stride4: u32,
    context: u32,
    slots: u32,
    // Positions that a position sees, itself included.
    window: u32,
    scale: f32,
    softcap: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> state: State;
@group(0) @binding(2) var<storage, read> rows: array<Row>;
@group(0) @binding(3) var<storage, read> qkv: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> keys: array<Cached>;
@group(0) @binding(5) var<storage, read_write> scores: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let row = rows[id.z];
    // Drafts past the end of the context have no keys.
    let has_slot = state.committed + id.z < params.context;
    let seen = id.x <= row.position && row.position - id.x < params.window;
    if (!seen || id.x >= params.context || !has_slot || state.done != 0u) {
        return;
    }
    let slot = slot_of(cache_place(id.x, row.mask, state.committed), params.slots);
    let q = id.z * params.stride4 + id.y * params.head_dim4;
    let k = id.y / (params.heads / params.kv_heads) * params.head_dim4 * params.slots + slot;
    var sum = vec4<f32>();
    for (var d = 0u; d < params.head_dim4; d++) {
        sum = fma(qkv[q + d], from_cache(keys[k + d * params.slots]), sum);
    }
    let score = softcapped(params.scale * ((sum.x + sum.y) + (sum.z + sum.w)), params.softcap);
    scores[(id.z * params.heads + id.y) * params.context + id.x] = score;
}
