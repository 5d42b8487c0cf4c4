// Weights stored as Q5_0: d (q - 16).
//! use weight_blocks

struct WeightRun {
    low: Nibbles,
    high: vec4<u32>,
    scales: vec4<f32>,
}

fn weight_run(shape: vec2<u32>, input4: u32, column4: u32) -> WeightRun {
    let tile = tile_at(shape, input4, column4);
    let high = after(0u, tiles(shape), 8u);
    let scales = group_words(after(high, tiles(shape), 2u), group32(shape, input4, column4));
    return WeightRun(nibbles_at(tile), bits_of(group_words(high, tile)), halves(scales));
}

fn run_weight(shape: vec2<u32>, run: WeightRun, block: u32, input: u32) -> vec4<f32> {
    let number = nibble(run.low, block, input) | (one_bit(run.high, block, input) << vec4<u32>(4u));
    return (vec4<f32>(number) - 16.0) * run.scales;
}
