//! sampled[row] = the next token of the row: repetition penalty, temperature, top-k, top-p, min-p, then the
//! argmax of what is left plus Gumbel noise keyed by position. Temperature 0 is the plain argmax.
//!
//! Every filter keeps a prefix of one order, most probable first and ties by id, so the filters together
//! are one cut in that order: a key and, among the tokens that share it, an id.
//!
//! A row with a logit that is no finite number has no next token: it gets 0xffffffff, which is no id.
//! dispatch: [1, logit rows, 1]
//! use batch
//! use reduce
//! use random
//! use sampling
//! use cut

@group(0) @binding(0) var<uniform> params: Sampling;
@group(0) @binding(1) var<storage, read> state: State;
@group(0) @binding(2) var<storage, read> rows: array<Row>;
@group(0) @binding(3) var<storage, read_write> logits: array<f32>;
// exp(logit - highest), before normalisation.
@group(0) @binding(4) var<storage, read_write> probabilities: array<f32>;
// How often each token stands in the text.
@group(0) @binding(5) var<storage, read> counts: array<u32>;
@group(0) @binding(6) var<storage, read_write> sampled: array<u32>;

// Logits lie between this and its negative. WGSL lets compilers take every number for finite, but they keep comparisons.
const LARGEST: f32 = 3.0e38;
const NO_ID: u32 = 0xffffffffu;

// Whether the token stands in the text, or in the drafts above this row, which are text if the row is reached.
fn repeated(token: u32, mask: u32) -> bool {
    if (counts[token] > 0u) {
        return true;
    }
    // Row 0 ends the text and is counted.
    for (var rest = mask & ~1u; rest > 0u; rest &= rest - 1u) {
        if (rows[firstTrailingBit(rest)].token == token) {
            return true;
        }
    }
    return false;
}

fn ranked(at: u32) -> f32 {
    return logits[at];
}

fn weighed(at: u32) -> f32 {
    return probabilities[at];
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    if (state.done != 0u) {
        return;
    }
    let first = group.y * params.stride;
    let row = rows[state.logit_row + group.y];
    let position = row.position + 1u;
    let penalises = params.repetition_penalty != 1.0;
    let stochastic = params.temperature > 0.0;
    var highest = -LARGEST;
    for (var i = lane; i < params.vocab; i += LANES) {
        var logit = logits[first + i];
        let finite = abs(logit) < LARGEST;
        if (penalises && repeated(i, row.mask)) {
            logit = select(logit / params.repetition_penalty, logit * params.repetition_penalty, logit < 0.0);
        }
        if (stochastic) {
            logit /= params.temperature;
        }
        logits[first + i] = logit;
        highest = max(highest, select(LARGEST, logit, finite));
    }
    highest = reduce_max(highest, lane);
    if (stochastic && (params.top_k > 0u || params.top_p < 1.0 || params.min_p > 0.0)) {
        for (var i = lane; i < params.vocab; i += LANES) {
            probabilities[first + i] = exp(logits[first + i] - highest);
        }
        // First top-k, then top-p.
        for (var stage = 0u; stage < 2u; stage++) {
            let by_weight = stage == 1u;
            if (select(params.top_k > 0u, params.top_p < 1.0, by_weight)) {
                narrow(select(f32(params.top_k), params.top_p, by_weight), by_weight, first, lane);
            }
        }
    }
    // The heaviest token weighs 1, so min-p needs no normalisation.
    var best = -LARGEST;
    var best_id = 0u;
    for (var i = lane; i < params.vocab; i += LANES) {
        let logit = logits[first + i];
        if (!stochastic) {
            if (logit > best) {
                best = logit;
                best_id = i;
            }
        } else if (kept(sort_key(logit), i) && (params.min_p == 0.0 || probabilities[first + i] >= params.min_p)) {
            let score = logit - highest + gumbel(params.seed, position, i);
            if (score > best) {
                best = score;
                best_id = i;
            }
        }
    }
    // Ties go to the lower id. Ids are below 2^24, so f32 holds them.
    let winner = reduce_max(best, lane);
    let id = -reduce_max(select(-16777216.0, -f32(best_id), best == winner), lane);
    if (lane == 0u) {
        sampled[group.y] = select(NO_ID, u32(id), highest < LARGEST && winner > -LARGEST);
    }
}
