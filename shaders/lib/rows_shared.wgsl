// SPLITS threads share a block of columns. The outputs of a few rows at a time are dealt to the threads: each adds up the parts of
// its output in ascending order. Gate and up of an output meet here, so that no thread needs registers for both.

const PASSES: u32 = (ROWS + MOST_ROWS - 1u) / MOST_ROWS;
// Rows of a pass.
const PASS: u32 = (ROWS + PASSES - 1u) / PASSES;
const OUTPUTS: u32 = LANES / BLOCKS;

// [split, row, lane]
var<workgroup> parts: array<vec4<f32>, SPLITS * PASS * LANES>;

fn sum_of_parts(first: u32) -> vec4<f32> {
    var sum = parts[first];
    for (var s = 1u; s < SPLITS; s++) {
        sum += parts[s * (PASS * LANES) + first];
    }
    return sum;
}

fn store_rows(own: array<vec4<f32>, ROWS>, first: u32, group: u32, local: vec2<u32>) {
    let thread = local.y * LANES + local.x;
    let r = thread / OUTPUTS;
    let output = thread % OUTPUTS;
    let column = group * OUTPUTS + output;
    var sums = own;
    for (var begin = 0u; begin < ROWS; begin += PASS) {
        for (var r = 0u; r < PASS; r++) {
            parts[(local.y * PASS + r) * LANES + local.x] = sums[begin + r];
        }
        workgroupBarrier();
        if (r < PASS && column < params.columns4) {
            let row = first + begin + r;
            let at = r * LANES + output * BLOCKS;
            let sum_a = sum_of_parts(at) + bias4(column * BLOCKS);
            var sum_b = vec4<f32>();
            if (BLOCKS == 2u) {
                sum_b = sum_of_parts(at + 1u) + bias4(column * BLOCKS + 1u);
            }
            let value = finish(sum_a, sum_b);
            store(row * params.y_stride4 + params.y_first4 + column, value);
            keep_partial(thread, row, column, value);
        }
        store_partials(first + begin, group, thread);
        workgroupBarrier();
    }
}
