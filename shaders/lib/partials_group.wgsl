// All columns of a workgroup together, in ascending order.
//! use partial_of

var<workgroup> group_partials: array<vec2<f32>, LANES>;

fn store_partials(row: u32, column: u32, value: vec4<f32>, local: vec2<u32>) {
    if (local.y == 0u) {
        group_partials[local.x] = select(vec2<f32>(-3.0e38, 0.0), partial_of(column, value), column < params.columns4);
    }
    workgroupBarrier();
    if (local.x == 0u && local.y == 0u) {
        var highest = group_partials[0].x;
        for (var lane = 1u; lane < LANES; lane++) {
            highest = max(highest, group_partials[lane].x);
        }
        var sum = 0.0;
        for (var lane = 0u; lane < LANES; lane++) {
            sum = fma(group_partials[lane].y, exp(group_partials[lane].x - highest), sum);
        }
        partials[row * kept.stride + kept.first + column / LANES] = vec2<f32>(highest, sum);
    }
    workgroupBarrier();
}
