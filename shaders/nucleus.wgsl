//! The nucleus of each row of logits: the fewest most probable tokens that reach a mass, the crossing one included and
//! ties by id, and of those the most probable that a list may hold. Beside it the row's weights, exp(logit - highest).
//! dispatch: [1, logit rows, 1]
//! use batch
//! use reduce
//! use branches
//! use softmax_sum
//! use cut
//! use listing

struct Params {
    vocab: u32,
    stride: u32,
    // 1: every token.
    mass: f32,
    // Branches a row may list, and the room it has for them.
    most: u32,
    capacity: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> state: State;
@group(0) @binding(2) var<storage, read> rows: array<Row>;
@group(0) @binding(3) var<storage, read> logits: array<f32>;
@group(0) @binding(4) var<storage, read_write> probabilities: array<f32>;
@group(0) @binding(5) var<storage, read_write> nuclei: array<Nucleus>;
@group(0) @binding(6) var<storage, read_write> branches: array<Branch>;

var<private> list: u32;
var<private> row_first: u32;
var<private> inverse_sum: f32;

fn ranked(at: u32) -> f32 {
    return logits[at];
}

fn weighed(at: u32) -> f32 {
    return probabilities[at];
}

fn enter(place: u32, id: u32) {
    branches[list + place] = Branch(id, probabilities[row_first + id] * inverse_sum);
}

// The weights of the kept tokens and of all others.
fn both_sides(first: u32, lane: u32) -> vec2<f32> {
    var sum = vec2<f32>();
    for (var segment = lane; segment < params.vocab; segment += SEGMENT * LANES) {
        var part = vec2<f32>();
        for (var i = segment; i < min(params.vocab, segment + SEGMENT * LANES); i += LANES) {
            let inside = kept(sort_key(logits[first + i]), i);
            part += select(vec2<f32>(0.0, probabilities[first + i]), vec2<f32>(probabilities[first + i], 0.0), inside);
        }
        sum += part;
    }
    return vec2<f32>(reduce_sum(sum.x, lane), reduce_sum(sum.y, lane));
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    if (state.done != 0u) {
        return;
    }
    let first = group.y * params.stride;
    let softmax = softmax_sum(first, lane);
    for (var i = lane; i < params.vocab; i += LANES) {
        probabilities[first + i] = exp(logits[first + i] - softmax.x);
    }
    list = group.y * params.capacity;
    row_first = first;
    inverse_sum = 1.0 / softmax.y;
    // First the mass, then as many as there is room for.
    var size = 0.0;
    for (var stage = 0u; stage < 2u; stage++) {
        let by_weight = stage == 0u;
        if (!by_weight || params.mass < 1.0) {
            size = narrow(select(f32(params.most), params.mass, by_weight), by_weight, first, lane);
        }
    }
    let count = min(u32(size), params.most);
    let sides = both_sides(first, lane) * inverse_sum;
    if (lane == 0u) {
        let position = rows[state.logit_row + group.y].position + 1u;
        nuclei[group.y] = Nucleus(count, u32(size), sides.x, sides.y, position, list, 0u, 0u);
    }
    list_kept(count, first, lane);
}
