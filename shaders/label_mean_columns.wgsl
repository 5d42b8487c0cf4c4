//! label_means[row] = the sum over the row's entries of weight * column of the LM head, set or added: of the entries that lie in
//! this chunk of the vocabulary. Entries of weight 0 are not there.
//! dispatch: spread over picked * width4
//! use spread
//! use weight
//! use store

struct Params {
    picked: u32,
    width4: u32,
    // Entries of a row.
    top: u32,
    // The token of the chunk's first column, and how many columns stand for tokens.
    first: u32,
    count: u32,
    columns4: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
// Token, and the bits of its weight.
@group(0) @binding(1) var<storage, read> entries: array<vec2<u32>>;
// The label means, under the name that pieces know.
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = spread(group, lane);
    if (at >= params.picked * params.width4) {
        return;
    }
    let first = (at / params.width4) * params.top;
    let shape = vec2<u32>(params.width4, params.columns4);
    var sum = vec4<f32>();
    for (var i = first; i < first + params.top; i++) {
        let entry = entries[i];
        let share = bitcast<f32>(entry.y);
        let column = entry.x - params.first;
        if (share == 0.0 || entry.x < params.first || column >= params.count) {
            continue;
        }
        let w = weight_tile(shape, at % params.width4, column / 4u);
        let own = column % 4u;
        sum = fma(vec4<f32>(share), vec4<f32>(w[0][own], w[1][own], w[2][own], w[3][own]), sum);
    }
    store(at, sum);
}
