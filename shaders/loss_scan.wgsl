//! Takes a chunk of logits into partials[row] = (highest logit, sum of exp(logit - highest), the target's logit, 0), in one
//! read. ROWS rows a workgroup with LANES lanes each; one of the two is 1.
//! dispatch: [1, min(groups, 32768), ceil(groups / 32768)]
//! use loss
//! use reduce

@group(0) @binding(2) var<storage, read> logits: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> partials: array<vec4<f32>>;

const LOWEST: f32 = -3.0e38;

// Block i of the row's columns, those that stand for no token as if they were the lowest.
fn block(first: u32, i: u32) -> vec4<f32> {
    let columns = vec4<u32>(4u * i) + vec4<u32>(0u, 1u, 2u, 3u);
    return select(vec4<f32>(LOWEST), logits[first + min(i, params.stride4 - 1u)], columns < vec4<u32>(params.count));
}

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let lane = thread % LANES;
    let row = (group.z * 32768u + group.y) * ROWS + thread / LANES;
    var wanted = NO_TARGET;
    if (row < params.picked) {
        wanted = targets[row];
    }
    // Rows that do not count are not read.
    let count4 = select((params.count + 3u) / 4u, 0u, wanted == NO_TARGET);
    let first = row * params.stride4;
    var highest = LOWEST;
    var sum = 0.0;
    for (var i = lane; i < count4; i += 4u * LANES) {
        //: repeat j 4
        let x$j = block(first, i + $ju * LANES);
        //: end
        let most = max(max(x0, x1), max(x2, x3));
        let higher = max(highest, max(max(most.x, most.y), max(most.z, most.w)));
        let four = (exp(x0 - higher) + exp(x1 - higher)) + (exp(x2 - higher) + exp(x3 - higher));
        sum = fma(sum, exp(highest - higher), (four.x + four.y) + (four.z + four.w));
        highest = higher;
    }
    let maximum = reduce_max(highest, lane);
    sum = reduce_sum(sum * exp(highest - maximum), lane);
    if (lane > 0u || row >= params.picked) {
        return;
    }
    var before = vec4<f32>(LOWEST, 0.0, 0.0, 0.0);
    if (params.choice == 0u) {
        before = partials[row];
    }
    let higher = max(before.x, maximum);
    let column = wanted - params.first;
    if (wanted != NO_TARGET && wanted >= params.first && column < params.count) {
        before.z = logits[first + column / 4u][column % 4u];
    }
    partials[row] =
        vec4<f32>(higher, fma(before.y, exp(before.x - higher), sum * exp(maximum - higher)), before.z, 0.0);
}
