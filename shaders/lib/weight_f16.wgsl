// Weights stored as f16, two in a u32, so that no f16 feature is needed.
//! use weight_dense

alias Packed = vec2<u32>;

fn unpack(packed: Packed) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(packed.x), unpack2x16float(packed.y));
}
