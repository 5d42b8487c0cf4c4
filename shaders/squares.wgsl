//! norms[slot] = the sum of squares of a gradient, in one fixed order. What is not finite stays so.
//! One workgroup: the sum must not depend on which of several ends first. A lane's loop takes four blocks of four values
//! a round.
//! dispatch: [1, 1, 1]
//! use reduce

struct Params {
    // Blocks of four.
    count4: u32,
    slot: u32,
}

// Rounds whose squares are added before they join the lane's sum: sums of many millions stay accurate.
const SEGMENT: u32 = 32u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> grad: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> norms: array<f32>;

fn block(i: u32) -> vec4<f32> {
    return select(vec4<f32>(), grad[min(i, params.count4 - 1u)], i < params.count4);
}

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32) {
    var sum = vec4<f32>();
    for (var segment = lane; segment < params.count4; segment += SEGMENT * 4u * LANES) {
        var part = vec4<f32>();
        for (var i = segment; i < min(params.count4, segment + SEGMENT * 4u * LANES); i += 4u * LANES) {
            //: repeat j 4
            let v$j = block(i + $ju * LANES);
            part = fma(v$j, v$j, part);
            //: end
        }
        sum += part;
    }
    let total = reduce_sum((sum.x + sum.y) + (sum.z + sum.w), lane);
    if (lane == 0u) {
        norms[params.slot] = total;
    }
}
