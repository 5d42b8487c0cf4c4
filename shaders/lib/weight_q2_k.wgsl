// Weights stored as Q2_K: d s q - dmin m.
//! use weight_blocks

struct WeightRun {
    numbers: vec4<u32>,
    // d s and dmin m.
    both: Halves,
}

fn weight_run(shape: vec2<u32>, input4: u32, column4: u32) -> WeightRun {
    let tile = tile_at(shape, input4, column4);
    let small = after(0u, tiles(shape), 4u);
    let large = two_halves(weight[after(small, tiles(shape), 1u) + group256(shape, input4, column4)]);
    let scales = four_bytes(group_word(small, tile));
    let scale = large.low * vec4<f32>(scales & vec4<u32>(15u));
    let minimum = large.high * vec4<f32>(scales >> vec4<u32>(4u));
    return WeightRun(weight[tile], Halves(scale, minimum));
}

fn run_weight(shape: vec2<u32>, run: WeightRun, block: u32, input: u32) -> vec4<f32> {
    return fma(vec4<f32>(two_bits(run.numbers, block, input)), run.both.low, -run.both.high);
}
