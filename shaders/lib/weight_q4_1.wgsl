// Weights stored as Q4_1: d q + m.
//! use weight_blocks

struct WeightRun {
    numbers: Nibbles,
    // Scales and least values.
    both: Halves,
}

fn weight_run(shape: vec2<u32>, input4: u32, column4: u32) -> WeightRun {
    let both = weight[after(0u, tiles(shape), 8u) + group32(shape, input4, column4)];
    return WeightRun(nibbles_at(tile_at(shape, input4, column4)), two_halves(both));
}

fn run_weight(shape: vec2<u32>, run: WeightRun, block: u32, input: u32) -> vec4<f32> {
    return fma(vec4<f32>(nibble(run.numbers, block, input)), run.both.low, run.both.high);
}
