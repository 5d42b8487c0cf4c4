// All columns of a workgroup together, in ascending order.
//! use partial_of

// Rows whose parts leave workgroup memory for partials.
const MOST_ROWS: u32 = 2u;

// [row of a pass, lane]
var<workgroup> group_partials: array<vec2<f32>, PASS * LANES>;

fn keep_partial(slot: u32, row: u32, column: u32, value: vec4<f32>) {
    group_partials[slot] = partial_of(column, value);
}

// One thread a row.
fn store_partials(first: u32, group: u32, thread: u32) {
    workgroupBarrier();
    if (thread < PASS) {
        let begin = thread * LANES;
        let end = begin + min(LANES, params.columns4 - group * LANES);
        var highest = group_partials[begin].x;
        for (var at = begin + 1u; at < end; at++) {
            highest = max(highest, group_partials[at].x);
        }
        var sum = 0.0;
        for (var at = begin; at < end; at++) {
            sum = fma(group_partials[at].y, exp(group_partials[at].x - highest), sum);
        }
        partials[(first + thread) * kept.stride + kept.first + group] = vec2<f32>(highest, sum);
    }
}
