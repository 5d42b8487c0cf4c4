// Weights stored as bf16: the upper half of an f32.
//! use weight_dense

alias Packed = vec2<u32>;

fn unpack(packed: Packed) -> vec4<f32> {
    let low = bitcast<vec2<f32>>(packed << vec2<u32>(16u));
    let high = bitcast<vec2<f32>>(packed & vec2<u32>(0xffff0000u));
    return vec4<f32>(low.x, high.x, low.y, high.y);
}
