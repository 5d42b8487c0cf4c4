//! Q5_K: as Q4_K, with five bits a weight.

use super::q4_k::{encode, fit_parts, numbers, split_scales, weight};
use super::{BITS, Blocks, NIBBLES, Plane, bit, half, nibble, pack_bits, pack_nibbles};

/// The format.
pub(crate) static Q5_K: Blocks = Blocks {
    name: "Q5_K",
    piece: "weight_q5_k",
    weights: 256,
    bytes: 176,
    planes: &[NIBBLES, BITS, Plane { inputs: 32, bytes: 2 }, Plane { inputs: 256, bytes: 4 }],
    largest: 65_504.0,
    split: |block, pieces| {
        pack_nibbles(&numbers(&block[48..]), &mut pieces[..128]);
        // Bit n of byte l is the fifth of weight l of the n-th 32.
        pack_bits(|at| block[16 + at % 32] >> (at / 32), &mut pieces[128..160]);
        split_scales(block, &mut pieces[160..]);
    },
    weight: |pieces, at| weight(&pieces[160..], nibble(pieces, at) | bit(&pieces[128..], at) << 4, at),
    finite: |block| half(block, 0).is_finite() && half(block, 2).is_finite(),
    encode: |weights, block| {
        let numbers = encode(weights, 31, block);
        put_numbers(&numbers, &mut block[16..]);
    },
};

/// Rounds the weights of a block with the scales and minima that are searched for.
pub(super) fn fit(weights: &[f32], block: &mut [u8]) {
    let numbers = fit_parts(weights, 31, block);
    put_numbers(&numbers, &mut block[16..]);
}

fn put_numbers(numbers: &[u8], bytes: &mut [u8]) {
    bytes[..160].fill(0);
    for (at, number) in numbers.iter().enumerate() {
        bytes[at % 32] |= number >> 4 << (at / 32);
        bytes[32 + at / 64 * 32 + at % 32] |= (number & 15) << (at / 32 % 2 * 4);
    }
}
