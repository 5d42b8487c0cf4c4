//! Drafts by prompt lookup: where the text's last tokens stood before, what followed them then. Candidate r of every
//! depth follows the r-th best place: the longest match of up to NGRAM tokens, then the latest.
//! dispatch: [1, 1, 1]
//! use batch
//! use tree
//! use reduce

@group(0) @binding(0) var<uniform> tree: Tree;
@group(0) @binding(1) var<storage, read> state: State;
@group(0) @binding(2) var<storage, read> text: array<u32>;
@group(0) @binding(3) var<storage, read_write> candidates: array<u32>;

// No place. Places are numbered so that better ones are larger and f32 holds them: the match's length, then the position.
const NOWHERE: f32 = -1.0;
const PLACES: f32 = 1048576.0;

fn place(end: u32) -> f32 {
    var matched = 0u;
    while (matched < NGRAM && matched <= end && text[end - matched] == text[state.length - 1u - matched]) {
        matched++;
    }
    return select(NOWHERE, f32(matched) * PLACES + f32(end), matched > 0u);
}

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32) {
    var bound = 3.0e38;
    for (var rank = 0u; rank < tree.ranks; rank++) {
        var best = NOWHERE;
        for (var end = lane; end + 1u < state.length; end += LANES) {
            let here = place(end);
            best = max(best, select(NOWHERE, here, here < bound));
        }
        best = reduce_max(best, lane);
        bound = best;
        let end = u32(max(best, 0.0)) % u32(PLACES);
        for (var depth = lane; depth < tree.depth; depth += LANES) {
            // Past the text's end the stretch since the match repeats.
            let period = state.length - 1u - end;
            let token = text[end + 1u + depth % period];
            candidates[depth * MAX_ROWS + rank] = select(token, 0xffffffffu, best == NOWHERE);
        }
    }
}
