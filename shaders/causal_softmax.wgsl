//! m[s, h, i] = softmax over j <= i, in place. ROWS rows a workgroup with LANES lanes each; one of the two is 1.
//! dispatch: [ceil(length / ROWS), heads, sequences]
//! use reduce

struct Params {
    length: u32,
    heads: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
// [sequences, heads, length, length]
@group(0) @binding(1) var<storage, read_write> m: array<f32>;

@compute @workgroup_size(LANES, ROWS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let lane = local.x;
    let i = group.x * ROWS + local.y;
    let keys = select(0u, i + 1u, i < params.length);
    let first = ((group.z * params.heads + group.y) * params.length + i) * params.length;
    var highest = -3.0e38;
    for (var j = lane; j < keys; j += LANES) {
        highest = max(highest, m[first + j]);
    }
    highest = reduce_max(highest, lane);
    var sum = 0.0;
    for (var j = lane; j < keys; j += LANES) {
        let e = exp(m[first + j] - highest);
        m[first + j] = e;
        sum += e;
    }
    let inverse = 1.0 / reduce_sum(sum, lane);
    for (var j = lane; j < keys; j += LANES) {
        m[first + j] *= inverse;
    }
}
