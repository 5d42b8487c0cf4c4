//! partials[row].w = label_means[picks[row]] . x[row]: the mean of the row's logits under its labels. 0 where a row has no labels.
//! ROWS rows a workgroup with LANES lanes each; one of the two is 1.
//! dispatch: [1, min(groups, 32768), ceil(groups / 32768)]
//! use label_mean
//! use reduce

@group(0) @binding(2) var<storage, read> label_means: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> partials: array<vec4<f32>>;

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let lane = thread % LANES;
    let row = (group.z * 32768u + group.y) * ROWS + thread / LANES;
    var pick = NO_ROW;
    if (row < params.picked) {
        pick = picks[row];
    }
    // Rows without labels are not read.
    let width4 = select(params.width4, 0u, pick == NO_ROW);
    var sum = vec4<f32>();
    for (var i = lane; i < width4; i += LANES) {
        sum = fma(label_means[pick * params.width4 + i], x[row * params.width4 + i], sum);
    }
    let score = reduce_sum((sum.x + sum.y) + (sum.z + sum.w), lane);
    if (lane == 0u && row < params.picked) {
        partials[row].w = score;
    }
}
