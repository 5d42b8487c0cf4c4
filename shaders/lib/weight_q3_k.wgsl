// Weights stored as Q3_K: d (s - 32) (q - 4).
//! use weight_blocks

struct WeightRun {
    low: vec4<u32>,
    high: vec4<u32>,
    scales: vec4<f32>,
}

fn weight_run(shape: vec2<u32>, input4: u32, column4: u32) -> WeightRun {
    let tile = tile_at(shape, input4, column4);
    let high = after(0u, tiles(shape), 4u);
    let small = after(high, tiles(shape), 2u);
    let large = after(small, tiles(shape), 1u);
    let scales = halves(group_words(large, group256(shape, input4, column4))) * four_signed_bytes(group_word(small, tile));
    return WeightRun(weight[tile], bits_of(group_words(high, tile)), scales);
}

fn run_weight(shape: vec2<u32>, run: WeightRun, block: u32, input: u32) -> vec4<f32> {
    let number = two_bits(run.low, block, input) | (one_bit(run.high, block, input) << vec4<u32>(2u));
    return (vec4<f32>(number) - 4.0) * run.scales;
}
