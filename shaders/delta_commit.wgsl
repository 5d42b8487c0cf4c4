//! Moves the state of a delta net on by committed rows: its matrices by the same steps as delta_rule, and the inputs of the last
//! positions that the convolution will see. A thread owns a block of four of a matrix's column, or of the channels.
//! dispatch: [ceil((matrices + channels4) / 64), 1, 1]
//! use batch

struct Params {
    // 1: all rows of the batch; 0: those of the path.
    all: u32,
    // Value heads. Head h is served by the key head h / group % key_heads.
    heads: u32,
    group: u32,
    key_heads: u32,
    value_dim: u32,
    key4: u32,
    keys4: u32,
    channels4: u32,
    taps: u32,
    // Blocks of four of a row of `inputs`.
    stride4: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> state: State;
// How many rows were committed, then which, ascending.
@group(0) @binding(2) var<storage, read> path: array<u32>;
@group(0) @binding(3) var<storage, read> inputs: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> mixed: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> steps: array<vec2<f32>>;
@group(0) @binding(6) var<storage, read> deltas: array<f32>;
// [heads, key4, value_dim], then [taps - 1, channels4].
@group(0) @binding(7) var<storage, read_write> kept: array<vec4<f32>>;

fn row_of(n: u32) -> u32 {
    if (params.all == 1u) {
        return n;
    }
    return path[1u + n];
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    var count = state.num_rows;
    if (params.all == 0u) {
        count = path[0];
    }
    let matrices = params.heads * params.key4 * params.value_dim;
    if (count == 0u || id.x >= matrices + params.channels4) {
        return;
    }
    if (id.x < matrices) {
        let j = id.x % params.value_dim;
        let block = id.x / params.value_dim;
        let head = block / params.key4;
        let key = params.keys4 + head / params.group % params.key_heads * params.key4 + block % params.key4;
        var s = kept[id.x];
        for (var n = 0u; n < count; n++) {
            let row = row_of(n);
            let k = mixed[row * params.channels4 + key];
            let delta = deltas[(row * params.heads + head) * params.value_dim + j];
            s = fma(k, vec4<f32>(delta), steps[row * params.heads + head].x * s);
        }
        kept[id.x] = s;
        return;
    }
    // Ascending, so that nothing is read after it was written.
    let c = id.x - matrices;
    let before = params.taps - 1u;
    for (var i = 0u; i < before; i++) {
        let source = i + count;
        var value: vec4<f32>;
        if (source < before) {
            value = kept[matrices + source * params.channels4 + c];
        } else {
            value = inputs[row_of(source - before) * params.stride4 + c];
        }
        kept[matrices + i * params.channels4 + c] = value;
    }
}
