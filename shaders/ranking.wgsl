//! The largest values of each row of weights, largest first and ties by id, with what a distribution needs beside them.
//! dispatch: [1, logit rows, 1]
//! use reduce
//! use cut
//! use listing

struct Params {
    vocab: u32,
    stride: u32,
    // Entries of a list, at most the vocabulary.
    top: u32,
}

const SEGMENT: u32 = 64u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> values: array<f32>;
// A token for each row whose rank is wanted.
@group(0) @binding(2) var<storage, read> targets: array<u32>;
// [rows, 4 + 2 top]: the sum of the values, the sum of value * ln(value), the target's value, how many tokens stand before
// it; then id and value of the largest, in order if they are at most LANES.
@group(0) @binding(3) var<storage, read_write> reports: array<u32>;

var<private> report: u32;
var<private> row_first: u32;

fn ranked(at: u32) -> f32 {
    return values[at];
}

fn weighed(at: u32) -> f32 {
    return values[at];
}

fn enter(place: u32, id: u32) {
    let entry = report + 4u + 2u * place;
    reports[entry] = id;
    reports[entry + 1u] = bitcast<u32>(values[row_first + id]);
}

// Sums over the row: value, value * ln(value), tokens before the target.
fn sums(first: u32, target_token: u32, lane: u32) -> vec3<f32> {
    let wanted = sort_key(values[first + target_token]);
    var sum = vec3<f32>();
    for (var segment = lane; segment < params.vocab; segment += SEGMENT * LANES) {
        var part = vec3<f32>();
        for (var i = segment; i < min(params.vocab, segment + SEGMENT * LANES); i += LANES) {
            let value = values[first + i];
            let key = sort_key(value);
            let before = key > wanted || (key == wanted && i < target_token);
            part += vec3<f32>(value, value * log(max(value, 1.0e-37)), select(0.0, 1.0, before));
        }
        sum += part;
    }
    return vec3<f32>(reduce_sum(sum.x, lane), reduce_sum(sum.y, lane), reduce_sum(sum.z, lane));
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first = group.y * params.stride;
    let target_token = min(targets[group.y], params.vocab - 1u);
    report = group.y * (4u + 2u * params.top);
    row_first = first;
    let sum = sums(first, target_token, lane);
    if (params.top < params.vocab) {
        narrow(f32(params.top), false, first, lane);
    }
    if (lane == 0u) {
        reports[report] = bitcast<u32>(sum.x);
        reports[report + 1u] = bitcast<u32>(sum.y);
        reports[report + 2u] = bitcast<u32>(values[first + target_token]);
        reports[report + 3u] = u32(sum.z);
    }
    list_kept(params.top, first, lane);
}
