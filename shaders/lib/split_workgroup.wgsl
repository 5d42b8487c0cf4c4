// SPLITS threads share an output; their sums are added in ascending order. Split 0 gets the result.

var<workgroup> split_partial: array<vec4<f32>, LANES * SPLITS>;

fn split_sum(value: vec4<f32>, lane: u32, split: u32) -> vec4<f32> {
    split_partial[split * LANES + lane] = value;
    workgroupBarrier();
    var result = split_partial[lane];
    if (split == 0u) {
        for (var s = 1u; s < SPLITS; s++) {
            result += split_partial[s * LANES + lane];
        }
    }
    workgroupBarrier();
    return result;
}

// The same sum for every split.
fn split_all(value: vec4<f32>, lane: u32, split: u32) -> vec4<f32> {
    split_partial[split * LANES + lane] = value;
    workgroupBarrier();
    var result = split_partial[lane];
    for (var s = 1u; s < SPLITS; s++) {
        result += split_partial[s * LANES + lane];
    }
    workgroupBarrier();
    return result;
}
