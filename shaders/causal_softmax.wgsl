//! m[s, h, i] = softmax over the j that i sees, in place. ROWS rows a workgroup with LANES lanes each; one of the two is 1.
//! dispatch: [ceil(length / ROWS), heads, sequences]
//! use reduce
//! use keys

struct Params {
    length: u32,
    heads: u32,
    // Positions that a position sees, itself included.
    window: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
// [sequences, heads, length, length]
@group(0) @binding(1) var<storage, read_write> m: array<f32>;

const LOWEST: f32 = -3.0e38;

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let lane = thread % LANES;
    let i = group.x * ROWS + thread / LANES;
    let keys = select(0u, i + 1u, i < params.length);
    let begin = first_key(i, params.window);
    let first = ((group.z * params.heads + group.y) * params.length + min(i, params.length - 1u)) * params.length;
    var highest = LOWEST;
    var sum = 0.0;
    for (var j = begin + lane; j < keys; j += 8u * LANES) {
        //: repeat n 8
        let x$n = select(LOWEST, m[first + min(j + $nu * LANES, i)], j + $nu * LANES < keys);
        //: end
        let higher = max(highest, max(max(max(x0, x1), max(x2, x3)), max(max(x4, x5), max(x6, x7))));
        let four = (exp(x0 - higher) + exp(x1 - higher)) + (exp(x2 - higher) + exp(x3 - higher));
        let more = (exp(x4 - higher) + exp(x5 - higher)) + (exp(x6 - higher) + exp(x7 - higher));
        sum = fma(sum, exp(highest - higher), four + more);
        highest = higher;
    }
    let maximum = reduce_max(highest, lane);
    let inverse = 1.0 / reduce_sum(sum * exp(highest - maximum), lane);
    // Whole steps first, then what is left.
    var j = begin + lane;
    for (; j + 7u * LANES < keys; j += 8u * LANES) {
        //: repeat n 8
        let x$n = m[first + j + $nu * LANES];
        //: end
        //: repeat n 8
        m[first + j + $nu * LANES] = exp(x$n - maximum) * inverse;
        //: end
    }
    for (; j < keys; j += LANES) {
        m[first + j] = exp(m[first + j] - maximum) * inverse;
    }
}
