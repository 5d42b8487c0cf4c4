// Weights stored as f32: four neighbouring outputs of one input.
//! use weight_dense

alias Packed = vec4<f32>;

fn unpack(packed: Packed) -> vec4<f32> {
    return packed;
}
