// Weights stored as Q8_0: d q.
//! use weight_blocks

// 16 bytes of each column, and the scales.
struct WeightRun {
    column0: vec4<u32>,
    column1: vec4<u32>,
    column2: vec4<u32>,
    column3: vec4<u32>,
    scales: vec4<f32>,
}

fn weight_run(shape: vec2<u32>, input4: u32, column4: u32) -> WeightRun {
    let at = 4u * tile_at(shape, input4, column4);
    let scales = group_words(after(0u, tiles(shape), 16u), group32(shape, input4, column4));
    return WeightRun(weight[at], weight[at + 1u], weight[at + 2u], weight[at + 3u], halves(scales));
}

fn run_weight(shape: vec2<u32>, run: WeightRun, block: u32, input: u32) -> vec4<f32> {
    let words = vec4<u32>(run.column0[block], run.column1[block], run.column2[block], run.column3[block]);
    return signed_bytes(words, vec4<u32>(input)) * run.scales;
}
