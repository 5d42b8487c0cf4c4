// Reductions over a workgroup: within subgroups by the hardware, across them through workgroup memory.
// SUBGROUP is the adapter's one subgroup size; adapters that choose between sizes use reduce_workgroup.

const SUBGROUPS: u32 = LANES / SUBGROUP;

var<workgroup> reduce_partial: array<f32, SUBGROUPS>;

fn reduce_sum(value: f32, lane: u32) -> f32 {
    let sum = subgroupAdd(value);
    if (lane % SUBGROUP == 0u) {
        reduce_partial[lane / SUBGROUP] = sum;
    }
    workgroupBarrier();
    var result = reduce_partial[0];
    for (var i = 1u; i < SUBGROUPS; i++) {
        result += reduce_partial[i];
    }
    workgroupBarrier();
    return result;
}

fn reduce_max(value: f32, lane: u32) -> f32 {
    let highest = subgroupMax(value);
    if (lane % SUBGROUP == 0u) {
        reduce_partial[lane / SUBGROUP] = highest;
    }
    workgroupBarrier();
    var result = reduce_partial[0];
    for (var i = 1u; i < SUBGROUPS; i++) {
        result = max(result, reduce_partial[i]);
    }
    workgroupBarrier();
    return result;
}
