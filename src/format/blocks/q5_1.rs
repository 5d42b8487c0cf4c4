//! Q5_1: 32 weights share a scale d and a least value m, both f16, and have five bits each; a weight is d q + m.

use super::q5_0::put_fifths;
use super::search::{Line, Part};
use super::{BITS, Blocks, NIBBLES, Plane, bit, floor, half, halves, inverse, nibble, pack_nibbles, put_half, range};

/// The format.
pub(crate) static Q5_1: Blocks = Blocks {
    name: "Q5_1",
    piece: "weight_q5_1",
    weights: 32,
    bytes: 24,
    planes: &[NIBBLES, BITS, Plane { inputs: 32, bytes: 4 }],
    largest: 65_504.0,
    split: |block, pieces| {
        pack_nibbles(&halves(&block[8..]), &mut pieces[..16]);
        pieces[16..20].copy_from_slice(&block[4..8]);
        pieces[20..24].copy_from_slice(&block[..4]);
    },
    weight: |pieces, at| {
        half(pieces, 20) * f32::from(nibble(pieces, at) | bit(&pieces[16..], at) << 4) + half(pieces, 22)
    },
    finite: |block| half(block, 0).is_finite() && half(block, 2).is_finite(),
    encode: |weights, block| {
        let (low, high) = range(weights);
        let scale = (high - low) / 31.0;
        let numbers: Vec<u8> = weights.iter().map(|w| floor((w - low) * inverse(scale) + 0.5, 31)).collect();
        put_half(block, 0, scale);
        put_half(block, 2, low);
        put_fifths(&numbers, &mut block[4..]);
    },
};

/// Rounds the weights of a block with the scale and the least value that are searched for.
pub(super) fn fit(weights: &[f32], block: &mut [u8]) {
    let part = Part::new(weights);
    let line = part.line(31, false);
    let line = Line { scale: put_half(block, 0, line.scale), offset: put_half(block, 2, line.offset) };
    let numbers: Vec<u8> = part.numbers(line, 0, 31).map(|number| number as u8).collect();
    put_fifths(&numbers, &mut block[4..]);
}
