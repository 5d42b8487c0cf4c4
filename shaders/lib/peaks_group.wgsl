// All columns of a workgroup together, in ascending order.
//! use peak_of

var<workgroup> group_peaks: array<vec2<f32>, LANES>;

fn keep_peaks(row: u32, column: u32, value: vec4<f32>, local: vec2<u32>) {
    if (local.y == 0u) {
        group_peaks[local.x] = select(vec2<f32>(-3.0e38, 0.0), peak_of(column, value), column < params.columns4);
    }
    workgroupBarrier();
    if (local.x == 0u && local.y == 0u) {
        var highest = group_peaks[0].x;
        for (var lane = 1u; lane < LANES; lane++) {
            highest = max(highest, group_peaks[lane].x);
        }
        var sum = 0.0;
        for (var lane = 0u; lane < LANES; lane++) {
            sum = fma(group_peaks[lane].y, exp(group_peaks[lane].x - highest), sum);
        }
        peaks[row * kept.stride + kept.first + column / LANES] = vec2<f32>(highest, sum);
    }
    workgroupBarrier();
}
