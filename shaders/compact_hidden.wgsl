//! Moves the hidden states of the rows that were just committed to consecutive slots of their history, as
//! `compact_cache` does with keys and values.
//! dispatch: [ceil(width4 / 64), 1, 1]
//! use batch

struct Params {
    width4: u32,
    slots: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> state: State;
// How many rows were committed, then which, ascending.
@group(0) @binding(2) var<storage, read> path: array<u32>;
@group(0) @binding(3) var<storage, read_write> history: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= params.width4) {
        return;
    }
    let first = state.committed - path[0];
    for (var i = 0u; i < path[0]; i++) {
        let slot = first + path[1u + i];
        if (slot != first + i && slot < params.slots) {
            history[(first + i) * params.width4 + id.x] = history[slot * params.width4 + id.x];
        }
    }
}
