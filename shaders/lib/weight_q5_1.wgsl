// Weights stored as Q5_1: d q + m.
//! use weight_blocks

struct WeightRun {
    low: Nibbles,
    high: vec4<u32>,
    // Scales and least values.
    both: Halves,
}

fn weight_run(shape: vec2<u32>, input4: u32, column4: u32) -> WeightRun {
    let tile = tile_at(shape, input4, column4);
    let high = after(0u, tiles(shape), 8u);
    let both = weight[after(high, tiles(shape), 2u) + group32(shape, input4, column4)];
    return WeightRun(nibbles_at(tile), bits_of(group_words(high, tile)), two_halves(both));
}

fn run_weight(shape: vec2<u32>, run: WeightRun, block: u32, input: u32) -> vec4<f32> {
    let number = nibble(run.low, block, input) | (one_bit(run.high, block, input) << vec4<u32>(4u));
    return fma(vec4<f32>(number), run.both.low, run.both.high);
}
