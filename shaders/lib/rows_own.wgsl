// A thread has whole sums, of all the blocks that make an output.

fn store_rows(own: array<vec4<f32>, ROWS * OWN>, first: u32, group: u32, local: vec2<u32>) {
    let column = group * LANES + local.x;
    if (column >= params.columns4) {
        return;
    }
    let bias_a = bias4(column * BLOCKS);
    let bias_b = bias4(column * BLOCKS + BLOCKS - 1u);
    var sums = own;
    for (var r = 0u; r < ROWS; r++) {
        let value = finish(sums[r * BLOCKS] + bias_a, sums[r * BLOCKS + BLOCKS - 1u] + bias_b);
        store((first + r) * params.y_stride4 + params.y_first4 + column, value);
        keep_partial(0u, first + r, column, value);
    }
}
