// Weights stored as f16, two in a u32, so that no f16 feature is needed.
//! use weight_halves

// The lower or the upper half of each word.
fn unpack(words: vec4<u32>, half: u32) -> vec4<f32> {
    let x = unpack2x16float(words.x);
    let y = unpack2x16float(words.y);
    let z = unpack2x16float(words.z);
    let w = unpack2x16float(words.w);
    return vec4<f32>(x[half], y[half], z[half], w[half]);
}
