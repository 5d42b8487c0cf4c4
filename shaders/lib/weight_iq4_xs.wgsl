// Weights stored as IQ4_XS: d (s - 32) times a number of the table.
//! use weight_blocks
//! use iq4_table

struct WeightRun {
    places: Nibbles,
    scales: vec4<f32>,
}

fn weight_run(shape: vec2<u32>, input4: u32, column4: u32) -> WeightRun {
    let small = after(0u, tiles(shape), 8u);
    let large = after(small, tiles(shape) / 2u, 1u);
    let numbers = four_signed_bytes(group_word(small, group32(shape, input4, column4)));
    let scales = halves(group_words(large, group256(shape, input4, column4))) * numbers;
    return WeightRun(nibbles_at(tile_at(shape, input4, column4)), scales);
}

fn run_weight(shape: vec2<u32>, run: WeightRun, block: u32, input: u32) -> vec4<f32> {
    return table_number(nibble(run.places, block, input)) * run.scales;
}
