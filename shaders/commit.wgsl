//! Ends a step: the rows become committed, the sampled token joins the text and is the row of the next step.
//! dispatch: [1, 1, 1]
//! use batch

struct Params {
    num_end_tokens: u32,
    vocab: u32,
    pad0: u32,
    pad1: u32,
    end_tokens: array<vec4<u32>, 8>,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> state: State;
@group(0) @binding(2) var<storage, read_write> rows: array<Row>;
@group(0) @binding(3) var<storage, read> sampled: array<u32>;
@group(0) @binding(4) var<storage, read_write> counts: array<u32>;
// How many ids this submit emitted, why the text ended if it did, then the ids.
@group(0) @binding(5) var<storage, read_write> ring: array<u32>;

@compute @workgroup_size(1)
fn main() {
    if (state.done != 0u) {
        ring[0] = state.emitted;
        ring[1] = state.done;
        return;
    }
    let id = min(sampled[0], params.vocab - 1u);
    var done = 0u;
    for (var i = 0u; i < params.num_end_tokens; i++) {
        if (params.end_tokens[i / 4u][i % 4u] == id) {
            done = 1u;
        }
    }
    let length = state.length + 1u;
    if (done == 0u && length >= state.limit) {
        done = 2u;
    }
    let committed = state.committed + state.num_rows;
    let emitted = state.emitted + 1u;
    counts[id] += 1u;
    rows[0] = Row(id, committed, 1u, 0u, 0u);
    ring[0] = emitted;
    ring[1] = done;
    ring[1u + emitted] = id;
    state.committed = committed;
    state.length = length;
    state.done = done;
    state.num_rows = 1u;
    state.logit_row = 0u;
    state.emitted = emitted;
}
