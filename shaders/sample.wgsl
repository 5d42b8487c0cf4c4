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

struct Params {
    vocab: u32,
    stride: u32,
    temperature: f32,
    repetition_penalty: f32,
    // 0: off.
    top_k: u32,
    // 1: off.
    top_p: f32,
    // 0: off.
    min_p: f32,
    pad0: u32,
    seed: vec2<u32>,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> state: State;
@group(0) @binding(2) var<storage, read> rows: array<Row>;
@group(0) @binding(3) var<storage, read_write> logits: array<f32>;
// exp(logit - highest), before normalisation.
@group(0) @binding(4) var<storage, read_write> weights: array<f32>;
// How often each token stands in the text.
@group(0) @binding(5) var<storage, read> counts: array<u32>;
@group(0) @binding(6) var<storage, read_write> sampled: array<u32>;

// Logits lie between this and its negative. WGSL lets compilers take every number for finite, but they keep comparisons.
const LARGEST: f32 = 3.0e38;
const NO_ID: u32 = 0xffffffffu;

var<private> cut_key: u32 = 0u;
var<private> cut_id: u32 = 0xffffffffu;

// Unsigned integers in the order of the floats, the two zeros as one.
fn sort_key(value: f32) -> u32 {
    let bits = bitcast<u32>(select(value, 0.0, value == 0.0));
    return select(bits | 0x80000000u, ~bits, bits >> 31u == 1u);
}

fn kept(key: u32, id: u32) -> bool {
    return key > cut_key || (key == cut_key && id <= cut_id);
}

// What token i adds to `measure`.
fn measured(i: u32, lowest: u32, by_weight: bool, first: u32) -> f32 {
    if (i >= params.vocab) {
        return 0.0;
    }
    let key = sort_key(logits[first + i]);
    if (key < lowest || !kept(key, i)) {
        return 0.0;
    }
    return select(1.0, weights[first + i], by_weight);
}

// Number, or summed weight, of the kept tokens with a key of at least `lowest`.
fn measure(lowest: u32, by_weight: bool, first: u32, lane: u32) -> f32 {
    var sum = 0.0;
    for (var i = lane; i < params.vocab; i += 8u * LANES) {
        //: repeat j 8
        sum += measured(i + $ju * LANES, lowest, by_weight, first);
        //: end
    }
    return reduce_sum(sum, lane);
}

// What token i adds to `ties_below`.
fn tied(i: u32, key: u32, bound: u32, first: u32) -> f32 {
    if (i >= min(params.vocab, bound)) {
        return 0.0;
    }
    return select(0.0, 1.0, sort_key(logits[first + i]) == key && kept(key, i));
}

// Number of kept tokens with this very key and an id below `bound`.
fn ties_below(key: u32, bound: u32, first: u32, lane: u32) -> f32 {
    var sum = 0.0;
    for (var i = lane; i < min(params.vocab, bound); i += 8u * LANES) {
        //: repeat j 8
        sum += tied(i + $ju * LANES, key, bound, first);
        //: end
    }
    return reduce_sum(sum, lane);
}

// Moves the cut up: the shortest prefix whose measure reaches `wanted` stays.
fn narrow(wanted: f32, by_weight: bool, first: u32, lane: u32) {
    var key = 0u;
    for (var bit = 0x80000000u; bit > 0u; bit >>= 1u) {
        if (measure(key | bit, by_weight, first, lane) >= wanted) {
            key |= bit;
        }
    }
    let above = measure(key + 1u, by_weight, first, lane);
    let ties = ties_below(key, params.vocab, first, lane);
    let tied_weight = select(1.0, (measure(key, by_weight, first, lane) - above) / ties, by_weight);
    let needed = max(1.0, ceil((wanted - above) / tied_weight));
    var id = 0u;
    if (ties > needed) {
        for (var bit = 0x800000u; bit > 0u; bit >>= 1u) {
            if (ties_below(key, id | bit, first, lane) < needed) {
                id |= bit;
            }
        }
    } else {
        id = select(0xffffffffu, cut_id, key == cut_key);
    }
    cut_key = key;
    cut_id = id;
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    if (state.done != 0u) {
        return;
    }
    let first = group.y * params.stride;
    let position = rows[state.logit_row + group.y].position + 1u;
    let stochastic = params.temperature > 0.0;
    var highest = -LARGEST;
    for (var i = lane; i < params.vocab; i += LANES) {
        var logit = logits[first + i];
        let finite = abs(logit) < LARGEST;
        if (counts[i] > 0u) {
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
            weights[first + i] = exp(logits[first + i] - highest);
        }
        if (params.top_k > 0u && params.top_k < params.vocab) {
            narrow(f32(params.top_k), false, first, lane);
        }
        if (params.top_p < 1.0) {
            narrow(params.top_p * measure(0u, true, first, lane), true, first, lane);
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
        } else if (kept(sort_key(logit), i) && (params.min_p == 0.0 || weights[first + i] >= params.min_p)) {
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
