//! Q4_1: 32 weights share a scale d and a least value m, both f16, and have four bits each; a weight is d q + m.

use super::search::{Line, Part};
use super::{Blocks, NIBBLES, Plane, floor, half, halves, inverse, nibble, pack_nibbles, put_half, put_halves, range};

/// The format.
pub(crate) static Q4_1: Blocks = Blocks {
    name: "Q4_1",
    piece: "weight_q4_1",
    weights: 32,
    bytes: 20,
    planes: &[NIBBLES, Plane { inputs: 32, bytes: 4 }],
    largest: 65_504.0,
    split: |block, pieces| {
        pack_nibbles(&halves(&block[4..]), &mut pieces[..16]);
        pieces[16..20].copy_from_slice(&block[..4]);
    },
    weight: |pieces, at| half(pieces, 16) * f32::from(nibble(pieces, at)) + half(pieces, 18),
    finite: |block| half(block, 0).is_finite() && half(block, 2).is_finite(),
    encode: |weights, block| {
        let (low, high) = range(weights);
        let scale = (high - low) / 15.0;
        let numbers: Vec<u8> = weights.iter().map(|w| floor((w - low) * inverse(scale) + 0.5, 15)).collect();
        put_half(block, 0, scale);
        put_half(block, 2, low);
        put_halves(&numbers, &mut block[4..]);
    },
};

/// Rounds the weights of a block with the scale and the least value that are searched for.
pub(super) fn fit(weights: &[f32], block: &mut [u8]) {
    let part = Part::new(weights);
    let line = part.line(15, false);
    let line = Line { scale: put_half(block, 0, line.scale), offset: put_half(block, 2, line.offset) };
    let numbers: Vec<u8> = part.numbers(line, 0, 15).map(|number| number as u8).collect();
    put_halves(&numbers, &mut block[4..]);
}
