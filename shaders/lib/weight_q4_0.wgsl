// Weights stored as Q4_0: d (q - 8).
//! use weight_blocks

struct WeightRun {
    numbers: Nibbles,
    scales: vec4<f32>,
}

fn weight_run(shape: vec2<u32>, input4: u32, column4: u32) -> WeightRun {
    let scales = group_words(after(0u, tiles(shape), 8u), group32(shape, input4, column4));
    return WeightRun(nibbles_at(tile_at(shape, input4, column4)), halves(scales));
}

fn run_weight(shape: vec2<u32>, run: WeightRun, block: u32, input: u32) -> vec4<f32> {
    return (vec4<f32>(nibble(run.numbers, block, input)) - 8.0) * run.scales;
}
