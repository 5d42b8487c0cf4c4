//! Candidates of a depth from a head's logits, or a marginal's probabilities: the likeliest tokens, with the penalty and the noise that the target's own
//! sample will meet there. Filters are left out: what they remove is rarely the likeliest.
//! dispatch: [1, 1, 1]
//! use batch
//! use tree
//! use sampling
//! use likelihood
//! use reduce
//! use random

struct Params {
    // Counted from 0, the first token after the text.
    depth: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<uniform> sampling: Sampling;
@group(0) @binding(2) var<uniform> tree: Tree;
@group(0) @binding(3) var<storage, read> state: State;
@group(0) @binding(4) var<storage, read> logits: array<f32>;
// How often each token stands in the text.
@group(0) @binding(5) var<storage, read> counts: array<u32>;
@group(0) @binding(6) var<storage, read_write> candidates: array<u32>;

fn score(token: u32) -> f32 {
    var logit = likelihood(logits[token]);
    if (sampling.repetition_penalty != 1.0 && counts[token] > 0u) {
        logit = select(logit / sampling.repetition_penalty, logit * sampling.repetition_penalty, logit < 0.0);
    }
    if (sampling.temperature > 0.0) {
        logit = logit / sampling.temperature + gumbel(sampling.seed, state.length + params.depth, token);
    }
    return logit;
}

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32) {
    if (state.done != 0u) {
        return;
    }
    // Each candidate is the best one after those before it; ties go to the lower id.
    var last = 3.0e38;
    var last_id = 0u;
    for (var rank = 0u; rank < tree.ranks; rank++) {
        var best = -3.0e38;
        var best_id = 0u;
        for (var i = lane; i < sampling.vocab; i += LANES) {
            let here = score(i);
            let after = rank == 0u || here < last || (here == last && i > last_id);
            if (after && here > best) {
                best = here;
                best_id = i;
            }
        }
        last = reduce_max(best, lane);
        // Ids are below 2^24, so f32 holds them.
        last_id = u32(-reduce_max(select(-16777216.0, -f32(best_id), best == last), lane));
        if (lane == 0u) {
            candidates[params.depth * MAX_ROWS + rank] = last_id;
        }
    }
}
