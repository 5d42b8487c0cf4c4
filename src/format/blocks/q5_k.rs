//! Q5_K: as Q4_K, with five bits a weight.

use super::q4_k::{encode, numbers, split_scales, weight};
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
        block[16..176].fill(0);
        for (at, number) in numbers.into_iter().enumerate() {
            block[16 + at % 32] |= number >> 4 << (at / 32);
            block[48 + at / 64 * 32 + at % 32] |= (number & 15) << (at / 32 % 2 * 4);
        }
    },
};
