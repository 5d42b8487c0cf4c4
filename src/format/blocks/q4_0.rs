//! Q4_0: 32 weights share a scale d, f16, and have four bits each; a weight is d (q - 8).

#[cfg(feature = "gguf")]
use super::search::{Line, Part};
use super::{
    Blocks, NIBBLES, Plane, floor, furthest, half, halves, inverse, nibble, pack_nibbles, put_half, put_halves,
};

/// The format.
pub(crate) static Q4_0: Blocks = Blocks {
    name: "Q4_0",
    piece: "weight_q4_0",
    weights: 32,
    bytes: 18,
    planes: &[NIBBLES, Plane { inputs: 32, bytes: 2 }],
    largest: 8.0 * 65_504.0,
    split: |block, pieces| {
        pack_nibbles(&halves(&block[2..]), &mut pieces[..16]);
        pieces[16..18].copy_from_slice(&block[..2]);
    },
    weight: |pieces, at| half(pieces, 16) * (f32::from(nibble(pieces, at)) - 8.0),
    finite: |block| half(block, 0).is_finite(),
    // As ggml: the weight furthest from 0 is -8 scales, and the scale before it was rounded divides.
    encode: |weights, block| {
        let scale = furthest(weights) / -8.0;
        let numbers: Vec<u8> = weights.iter().map(|w| floor(w * inverse(scale) + 8.5, 15)).collect();
        put_half(block, 0, scale);
        put_halves(&numbers, &mut block[2..]);
    },
};

/// Rounds the weights of a block with the scale that is searched for.
#[cfg(feature = "gguf")]
pub(super) fn fit(weights: &[f32], block: &mut [u8]) {
    let part = Part::new(weights);
    let scale = put_half(block, 0, part.scale(-8, 7));
    let line = Line { scale, offset: 0.0 };
    let numbers: Vec<u8> = part.numbers(line, -8, 7).map(|number| (number + 8) as u8).collect();
    put_halves(&numbers, &mut block[2..]);
}
