// Weights stored as bf16: the upper half of an f32.
//! use weight_halves

// The lower or the upper half of each word.
fn unpack(words: vec4<u32>, half: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(select(words << vec4<u32>(16u), words & vec4<u32>(0xffff0000u), half == 1u));
}
