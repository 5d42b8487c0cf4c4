//! Q5_0: 32 weights share a scale d, f16, and have five bits each; a weight is d (q - 16).

use super::search::{Line, Part};
use super::{
    BITS, Blocks, NIBBLES, Plane, bit, floor, furthest, half, halves, inverse, nibble, pack_nibbles, put_half,
    put_halves,
};

/// The format.
pub(crate) static Q5_0: Blocks = Blocks {
    name: "Q5_0",
    piece: "weight_q5_0",
    weights: 32,
    bytes: 22,
    planes: &[NIBBLES, BITS, Plane { inputs: 32, bytes: 2 }],
    largest: 16.0 * 65_504.0,
    split: |block, pieces| {
        pack_nibbles(&halves(&block[6..]), &mut pieces[..16]);
        pieces[16..20].copy_from_slice(&block[2..6]);
        pieces[20..22].copy_from_slice(&block[..2]);
    },
    weight: |pieces, at| half(pieces, 20) * (f32::from(nibble(pieces, at) | bit(&pieces[16..], at) << 4) - 16.0),
    finite: |block| half(block, 0).is_finite(),
    encode: |weights, block| {
        let scale = furthest(weights) / -16.0;
        let numbers: Vec<u8> = weights.iter().map(|w| floor(w * inverse(scale) + 16.5, 31)).collect();
        put_half(block, 0, scale);
        put_fifths(&numbers, &mut block[2..]);
    },
};

/// Rounds the weights of a block with the scale that is searched for.
pub(super) fn fit(weights: &[f32], block: &mut [u8]) {
    let part = Part::new(weights);
    let scale = put_half(block, 0, part.scale(-16, 15));
    let line = Line { scale, offset: 0.0 };
    let numbers: Vec<u8> = part.numbers(line, -16, 15).map(|number| (number + 16) as u8).collect();
    put_fifths(&numbers, &mut block[2..]);
}

/// Writes 32 numbers of five bits: the fifth bits in order, then the others as [`put_halves`] has them.
pub(super) fn put_fifths(numbers: &[u8], bytes: &mut [u8]) {
    super::pack_bits(|at| numbers[at] >> 4, &mut bytes[..4]);
    let low: Vec<u8> = numbers.iter().map(|number| number & 15).collect();
    put_halves(&low, &mut bytes[4..]);
}
