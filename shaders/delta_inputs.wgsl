//! What a delta net's rows bring: queries, keys and values after the causal convolution and SiLU, and of each value head the decay
//! and the step (beta) of its state.
//! dispatch: [ceil((channels4 + heads) / 64), rows, 1]
//! use batch

struct Params {
    // Queries, keys and values of a row, in blocks of four.
    channels4: u32,
    // Value heads.
    heads: u32,
    // Positions that the convolution sees, the row's own included.
    taps: u32,
    // Blocks of four of a row of `inputs`: channels, then b of each head, then a.
    stride4: u32,
    // Where b and a begin, in elements.
    beta: u32,
    decay: u32,
    // Where the last inputs of the text begin in `kept`, in blocks of four.
    kept4: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> state: State;
@group(0) @binding(2) var<storage, read> rows: array<Row>;
@group(0) @binding(3) var<storage, read> inputs: array<vec4<f32>>;
// The layer's state: behind its matrices the inputs of the last committed positions, [taps - 1, channels4].
@group(0) @binding(4) var<storage, read> kept: array<vec4<f32>>;
// [taps, channels4], oldest first.
@group(0) @binding(5) var<storage, read> weights: array<vec4<f32>>;
// [2, heads]: the rate of each head, at most 0, and what is added to a.
@group(0) @binding(6) var<storage, read> rates: array<f32>;
@group(0) @binding(7) var<storage, read_write> mixed: array<vec4<f32>>;
// [rows, heads] of (decay, beta).
@group(0) @binding(8) var<storage, read_write> steps: array<vec2<f32>>;

// The exponent is clamped: exp must not overflow, shaders may not rely on infinity.
fn silu(v: vec4<f32>) -> vec4<f32> {
    return v / (1.0 + exp(min(-v, vec4<f32>(80.0))));
}

fn softplus(x: f32) -> f32 {
    return select(log(1.0 + exp(min(x, 20.0))), x, x > 20.0);
}

fn convolved(row: u32, c: u32) -> vec4<f32> {
    var sum = vec4<f32>();
    // From the row itself back to its ancestors in the batch, then to what was committed.
    let all = rows[row].mask == 0u;
    var rest = rows[row].mask;
    var back = params.taps - 1u;
    for (var n = 0u; n < params.taps; n++) {
        let at = select(firstLeadingBit(rest), row - n, all);
        var value: vec4<f32>;
        if (select(rest != 0u, n <= row, all)) {
            rest &= ~(1u << (at & 31u));
            value = inputs[at * params.stride4 + c];
        } else {
            back -= 1u;
            value = kept[params.kept4 + back * params.channels4 + c];
        }
        sum = fma(weights[(params.taps - 1u - n) * params.channels4 + c], value, sum);
    }
    return sum;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (state.done != 0u || id.x >= params.channels4 + params.heads) {
        return;
    }
    if (id.x < params.channels4) {
        mixed[id.y * params.channels4 + id.x] = silu(convolved(id.y, id.x));
        return;
    }
    let head = id.x - params.channels4;
    let b = params.beta + head;
    let a = params.decay + head;
    let row = id.y * params.stride4;
    let beta = 1.0 / (1.0 + exp(min(-inputs[row + b / 4u][b % 4u], 80.0)));
    let x = inputs[row + a / 4u][a % 4u] + rates[params.heads + head];
    steps[id.y * params.heads + head] = vec2<f32>(exp(rates[head] * softplus(x)), beta);
}
