// Reductions over a workgroup through its memory, in one fixed order. Every lane gets the result,
// by a uniform load, so that callers may branch on it around barriers.

var<workgroup> reduce_partial: array<f32, LANES>;

fn reduce_sum(value: f32, lane: u32) -> f32 {
    reduce_partial[lane] = value;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            reduce_partial[lane] += reduce_partial[lane + half];
        }
        workgroupBarrier();
    }
    return workgroupUniformLoad(&reduce_partial[0]);
}

fn reduce_max(value: f32, lane: u32) -> f32 {
    reduce_partial[lane] = value;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            reduce_partial[lane] = max(reduce_partial[lane], reduce_partial[lane + half]);
        }
        workgroupBarrier();
    }
    return workgroupUniformLoad(&reduce_partial[0]);
}
