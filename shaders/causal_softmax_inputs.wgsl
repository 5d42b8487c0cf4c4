//! dm = p * (dm - sum over j of p dm) in place, over the j that i sees: the gradient of a softmax's input from that of its output.
//! ROWS rows a workgroup with LANES lanes each; one of the two is 1.
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
// [sequences, heads, length, length], both.
@group(0) @binding(1) var<storage, read> p: array<f32>;
@group(0) @binding(2) var<storage, read_write> dm: array<f32>;

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let lane = thread % LANES;
    let i = group.x * ROWS + thread / LANES;
    let keys = select(0u, i + 1u, i < params.length);
    let begin = first_key(i, params.window);
    let first = ((group.z * params.heads + group.y) * params.length + i) * params.length;
    var sum = 0.0;
    for (var j = begin + lane; j < keys; j += LANES) {
        sum = fma(p[first + j], dm[first + j], sum);
    }
    let mean = reduce_sum(sum, lane);
    for (var j = begin + lane; j < keys; j += LANES) {
        dm[first + j] = p[first + j] * (dm[first + j] - mean);
    }
}
