//! Moves the keys and values of the rows that were just committed to consecutive cache slots. A row never moves
//! up, so in ascending order nothing is overwritten that is still to be moved.
//! dispatch: [ceil(kv_heads * head_dim4 / 64), 1, 1]
//! use batch
//! use elements
//! use slots

struct Params {
    kv_heads: u32,
    head_dim4: u32,
    context: u32,
    slots: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> state: State;
@group(0) @binding(2) var<storage, read> path: array<u32>;
@group(0) @binding(3) var<storage, read_write> keys: array<Cached>;
@group(0) @binding(4) var<storage, read_write> values: array<Cached>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= params.kv_heads * params.head_dim4) {
        return;
    }
    // [kv_heads, head_dim4, slots] and [kv_heads, slots, head_dim4].
    let key = id.x * params.slots;
    let value = id.x / params.head_dim4 * params.slots * params.head_dim4 + id.x % params.head_dim4;
    let first = state.committed - path[0];
    for (var i = 0u; i < path[0]; i++) {
        let place = first + path[1u + i];
        if (place != first + i && place < params.context) {
            let read = slot_of(place, params.slots);
            let write = slot_of(first + i, params.slots);
            keys[key + write] = keys[key + read];
            values[value + write * params.head_dim4] = values[value + read * params.head_dim4];
        }
    }
}
