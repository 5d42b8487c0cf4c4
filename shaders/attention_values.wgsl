//! out[row, head] = sum over positions of probability * value, positions dealt to SPLITS threads in turn.
//! dispatch: [ceil(head_dim4 / LANES), heads, rows]
//! use batch
//! use cache
//! use elements
//! use keys
//! use slots
//! use split

struct Params {
    heads: u32,
    kv_heads: u32,
    head_dim4: u32,
    context: u32,
    slots: u32,
    // Positions that a position sees, itself included.
    window: u32,
    stride4: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> state: State;
@group(0) @binding(2) var<storage, read> rows: array<Row>;
@group(0) @binding(3) var<storage, read> scores: array<f32>;
@group(0) @binding(4) var<storage, read> inverse_sums: array<f32>;
@group(0) @binding(5) var<storage, read> values: array<Cached>;
@group(0) @binding(6) var<storage, read_write> out: array<vec4<f32>>;

@compute @workgroup_size(LANES, SPLITS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    // Drafts past the end of the context have no values.
    if (state.done != 0u || state.committed + group.z >= params.context) {
        return;
    }
    let d = group.x * LANES + local.x;
    let row = rows[group.z];
    let keys = min(row.position + 1u, params.context);
    let score = (group.z * params.heads + group.y) * params.context;
    let value = group.y / (params.heads / params.kv_heads) * params.slots * params.head_dim4
        + min(d, params.head_dim4 - 1u);
    var sum = vec4<f32>();
    for (var i = first_key(row.position, params.window) + local.y; i < keys; i += SPLITS) {
        let slot = slot_of(cache_place(i, row.mask, state.committed), params.slots);
        sum = fma(vec4<f32>(scores[score + i]), from_cache(values[value + slot * params.head_dim4]), sum);
    }
    sum = split_sum(sum, local.x, local.y);
    if (local.y == 0u && d < params.head_dim4) {
        out[group.z * params.stride4 + group.y * params.head_dim4 + d] =
            sum * inverse_sums[group.z * params.heads + group.y];
    }
}
