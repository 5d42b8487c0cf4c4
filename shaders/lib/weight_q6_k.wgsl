// Weights stored as Q6_K: d s (q - 32).
//! use weight_blocks

struct WeightRun {
    low: Nibbles,
    high: vec4<u32>,
    scales: vec4<f32>,
}

fn weight_run(shape: vec2<u32>, input4: u32, column4: u32) -> WeightRun {
    let tile = tile_at(shape, input4, column4);
    let high = after(0u, tiles(shape), 8u);
    let small = after(high, tiles(shape), 4u);
    let large = after(small, tiles(shape), 1u);
    let scales = halves(group_words(large, group256(shape, input4, column4))) * four_signed_bytes(group_word(small, tile));
    return WeightRun(nibbles_at(tile), weight[high + tile], scales);
}

fn run_weight(shape: vec2<u32>, run: WeightRun, block: u32, input: u32) -> vec4<f32> {
    let number = nibble(run.low, block, input) | (two_bits(run.high, block, input) << vec4<u32>(4u));
    return (vec4<f32>(number) - 32.0) * run.scales;
}
