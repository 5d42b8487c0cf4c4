//! Ends a round. From the first row on, the token that the target samples joins the text; where a child of the
//! row was drafted with that very token, the child's own sample joins too, and so on. The rows on that path
//! are committed.
//!
//! A lane knows for its row what comes next; one lane walks, and reads and writes the state once.
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
const NO_ID: u32 = 0xffffffffu;

// The sampled token of each row, whether it ends the text, and the row that drafts it.
var<workgroup> ids: array<u32, LANES>;
var<workgroup> ends: array<bool, LANES>;
var<workgroup> children: array<u32, LANES>;
var<workgroup> drafted: atomic<u32>;

fn is_end(id: u32) -> bool {
    for (var i = 0u; i < params.num_end_tokens; i++) {
        if (params.end_tokens[i / 4u][i % 4u] == id) {
            return true;
        }
    }
    return false;
}

// The child of `row` that drafts `id`, or 0: the first row is nobody's child. Rows from `end` on have no slot in the cache and
// no keys, so they cannot be right.
fn child(row: u32, id: u32, end: u32) -> u32 {
    let mask = rows[row].mask;
    for (var c = row + 1u; c < end; c++) {
        if (rows[c].token == id && rows[c].mask == (mask | (1u << c))) {
            return c;
        }
    }
    return 0u;
}

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32) {
    // Workgroup memory is not zeroed.
    if (lane == 0u) {
        atomicStore(&drafted, 0u);
    }
    workgroupBarrier();
    var now = state;
    // A prompt's rows are all committed; of a tree, the path that is walked.
    let prompt = rows[0].mask == 0u;
    if (now.done == 0u && lane < now.num_rows) {
        var id = NO_ID;
        if (lane >= now.logit_row) {
            id = sampled[lane - now.logit_row];
        }
        ids[lane] = id;
        ends[lane] = is_end(id);
        if (prompt) {
            path[1u + lane] = lane;
        } else {
            children[lane] = child(lane, id, min(now.num_rows, params.context - now.committed));
            if (lane > 0u && rows[lane].token < params.vocab) {
                atomicAdd(&drafted, 1u);
            }
        }
    }
    workgroupBarrier();
    if (lane != 0u) {
        return;
    }
    var committed = 0u;
    if (now.done == 0u) {
        var row = 0u;
        committed = 1u;
        if (prompt) {
            row = now.num_rows - 1u;
            committed = now.num_rows;
        } else {
            path[1] = 0u;
        }
        var accepted = 0u;
        loop {
            let id = ids[row];
            if (id >= params.vocab) {
                // The logits were not finite.
                now.done = 3u;
                break;
            }
            text[now.length] = id;
            counts[id] += 1u;
            emitted[EMITTED_IDS + now.emitted] = id;
            now.length += 1u;
            now.emitted += 1u;
            if (ends[row]) {
                now.done = 1u;
            } else if (now.length >= now.limit) {
                now.done = 2u;
            }
            row = select(children[row], 0u, prompt || now.done != 0u);
            if (row == 0u) {
                break;
            }
            path[1u + committed] = row;
            committed += 1u;
            accepted += 1u;
        }
        now.committed += committed;
        emitted[EMITTED_ROUNDS + 2u * now.rounds] = atomicLoad(&drafted);
        emitted[EMITTED_ROUNDS + 2u * now.rounds + 1u] = accepted;
        now.rounds += 1u;
        state = now;
    }
    path[0] = committed;
    emitted[0] = now.emitted;
    emitted[1] = now.done;
    emitted[2] = now.rounds;
}
