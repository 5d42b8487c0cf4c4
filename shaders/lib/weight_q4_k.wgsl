// Weights stored as Q4_K: d s q - dmin m.
//! use weight_blocks

struct WeightRun {
    numbers: Nibbles,
    // d s and dmin m.
    both: Halves,
}

fn weight_run(shape: vec2<u32>, input4: u32, column4: u32) -> WeightRun {
    let small = after(0u, tiles(shape), 8u);
    let large = after(small, tiles(shape) / 2u, 2u);
    let both = group_words(small, group32(shape, input4, column4));
    let halves = two_halves(weight[large + group256(shape, input4, column4)]);
    return WeightRun(nibbles_at(tile_at(shape, input4, column4)), scale_and_minimum(both, halves));
}

fn run_weight(shape: vec2<u32>, run: WeightRun, block: u32, input: u32) -> vec4<f32> {
    return fma(vec4<f32>(nibble(run.numbers, block, input)), run.both.low, -run.both.high);
}
