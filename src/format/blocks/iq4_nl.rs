//! IQ4_NL: 32 weights share a scale d, f16, and have a place in a table of 16 whole numbers each; a weight is d times that number.

use super::{
    Blocks, NIBBLES, Plane, furthest, half, halves, inverse, nearest, nibble, pack_nibbles, put_half, put_halves,
};

/// The numbers, dense around 0.
pub(super) const TABLE: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The format.
pub(crate) static IQ4_NL: Blocks = Blocks {
    name: "IQ4_NL",
    piece: "weight_iq4_nl",
    weights: 32,
    bytes: 18,
    planes: &[NIBBLES, Plane { inputs: 32, bytes: 2 }],
    largest: 127.0 * 65_504.0,
    split: |block, pieces| {
        pack_nibbles(&halves(&block[2..]), &mut pieces[..16]);
        pieces[16..18].copy_from_slice(&block[..2]);
    },
    weight: |pieces, at| half(pieces, 16) * f32::from(TABLE[usize::from(nibble(pieces, at))]),
    finite: |block| half(block, 0).is_finite(),
    encode: |weights, block| {
        let scale = put_half(block, 0, furthest(weights) / -127.0);
        let numbers: Vec<u8> = weights.iter().map(|w| nearest(&TABLE, w * inverse(scale))).collect();
        put_halves(&numbers, &mut block[2..]);
    },
};
