//! norms[slot] = the sum of squares of a gradient, in one fixed order. What is not finite stays so.
//! One workgroup: the sum must not depend on which of several ends first. A lane's loop takes 8 values a round.
//! dispatch: [1, 1, 1]
//! use reduce

struct Params {
    count: u32,
    slot: u32,
}

// Rounds whose squares are added before they join the lane's sum: sums of many millions stay accurate.
const SEGMENT: u32 = 32u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> grad: array<f32>;
@group(0) @binding(2) var<storage, read_write> norms: array<f32>;

fn value(i: u32) -> f32 {
    return select(0.0, grad[min(i, params.count - 1u)], i < params.count);
}

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    for (var segment = lane; segment < params.count; segment += SEGMENT * 8u * LANES) {
        var part = 0.0;
        for (var i = segment; i < min(params.count, segment + SEGMENT * 8u * LANES); i += 8u * LANES) {
            //: repeat j 8
            let v$j = value(i + $ju * LANES);
            part = fma(v$j, v$j, part);
            //: end
        }
        sum += part;
    }
    let total = reduce_sum(sum, lane);
    if (lane == 0u) {
        norms[params.slot] = total;
    }
}
