// Weights stored as MXFP4: a power of two times a float of four bits.
//! use weight_blocks

struct WeightRun {
    numbers: Nibbles,
    scales: vec4<f32>,
}

fn weight_run(shape: vec2<u32>, input4: u32, column4: u32) -> WeightRun {
    let exponents = four_bytes(group_word(after(0u, tiles(shape), 8u), group32(shape, input4, column4)));
    // 2^(exponent - 128); below 2^-126 by the mantissa.
    let small = vec4<u32>(0x00200000u) << min(exponents, vec4<u32>(1u));
    let bits = select((exponents - vec4<u32>(1u)) << vec4<u32>(23u), small, exponents < vec4<u32>(2u));
    return WeightRun(nibbles_at(tile_at(shape, input4, column4)), bitcast<vec4<f32>>(bits));
}

// Twice the float is whole: a mantissa of one or two bits, shifted by the exponent.
fn run_weight(shape: vec2<u32>, run: WeightRun, block: u32, input: u32) -> vec4<f32> {
    let float = nibble(run.numbers, block, input);
    let size = float & vec4<u32>(7u);
    let mantissa = select((size & vec4<u32>(1u)) | vec4<u32>(2u), size, size < vec4<u32>(2u));
    let number = vec4<i32>(mantissa << (max(size / vec4<u32>(2u), vec4<u32>(1u)) - vec4<u32>(1u)));
    return vec4<f32>(select(number, -number, float >= vec4<u32>(8u))) * run.scales;
}
