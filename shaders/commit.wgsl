//! Ends a round. From the first row on, the token that the target samples joins the text; where a child of the
//! row was drafted with that very token, the child's own sample joins too, and so on. The rows on that path
//! are committed.
//! dispatch: [1, 1, 1]
//! use batch

struct Params {
    num_end_tokens: u32,
    vocab: u32,
    context: u32,
    pad0: u32,
    end_tokens: array<vec4<u32>, 8>,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> state: State;
@group(0) @binding(2) var<storage, read> rows: array<Row>;
@group(0) @binding(3) var<storage, read> sampled: array<u32>;
@group(0) @binding(4) var<storage, read_write> counts: array<u32>;
// What a submit brings back: emitted ids, why the text ended, rounds; then the ids; then drafted and accepted of each round.
@group(0) @binding(5) var<storage, read_write> emitted: array<u32>;
// The text's tokens by position.
@group(0) @binding(6) var<storage, read_write> text: array<u32>;
// How many rows were committed, then which, ascending.
@group(0) @binding(7) var<storage, read_write> path: array<u32>;

const EMITTED_IDS: u32 = 4u;
const EMITTED_ROUNDS: u32 = EMITTED_IDS + MAX_IDS;

// Appends an id to the text; true if that ends it.
fn emit(id: u32) -> bool {
    text[state.length] = id;
    counts[id] += 1u;
    emitted[EMITTED_IDS + state.emitted] = id;
    state.length += 1u;
    state.emitted += 1u;
    for (var i = 0u; i < params.num_end_tokens; i++) {
        if (params.end_tokens[i / 4u][i % 4u] == id) {
            state.done = 1u;
        }
    }
    if (state.done == 0u && state.length >= state.limit) {
        state.done = 2u;
    }
    return state.done != 0u;
}

// The child of `row` that drafts `id`, or 0: the first row is nobody's child. A row without a slot in the cache has
// no keys, so it cannot be right.
fn child(row: u32, id: u32) -> u32 {
    for (var c = row + 1u; c < min(state.num_rows, params.context - state.committed); c++) {
        if (rows[c].token == id && rows[c].mask == (rows[row].mask | (1u << c))) {
            return c;
        }
    }
    return 0u;
}

@compute @workgroup_size(1)
fn main() {
    path[0] = 0u;
    if (state.done == 0u) {
        // A prompt's rows are all committed; of a tree, the path that is walked.
        let prompt = rows[0].mask == 0u;
        var row = select(0u, state.num_rows - 1u, prompt);
        var committed = select(1u, state.num_rows, prompt);
        for (var i = 0u; i < committed; i++) {
            path[1u + i] = i;
        }
        var drafted = 0u;
        for (var i = row + 1u; i < state.num_rows; i++) {
            drafted += u32(rows[i].token < params.vocab);
        }
        var accepted = 0u;
        loop {
            let id = sampled[row - state.logit_row];
            if (id >= params.vocab) {
                // The logits were not finite.
                state.done = 3u;
                break;
            }
            if (emit(id) || prompt) {
                break;
            }
            row = child(row, id);
            if (row == 0u) {
                break;
            }
            path[1u + committed] = row;
            committed += 1u;
            accepted += 1u;
        }
        path[0] = committed;
        state.committed += committed;
        emitted[EMITTED_ROUNDS + 2u * state.rounds] = drafted;
        emitted[EMITTED_ROUNDS + 2u * state.rounds + 1u] = accepted;
        state.rounds += 1u;
    }
    emitted[0] = state.emitted;
    emitted[1] = state.done;
    emitted[2] = state.rounds;
}
