//! MXFP4 (OCP Microscaling Formats 1.0): 32 weights share a power of two, E8M0, and have a float of four bits each, E2M1.
//!
//! A weight is 2^(e - 128) times the doubled float, a whole number. Below the smallest normal f32 devices may give 0.

use super::{Blocks, NIBBLES, Plane, furthest, halves, nearest, nibble, pack_nibbles, put_halves};

/// Twice the floats.
const TABLE: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// The largest exponent with which every weight is finite.
const MOST: u8 = 252;

/// The format.
pub(crate) static MXFP4: Blocks = Blocks {
    name: "MXFP4",
    piece: "weight_mxfp4",
    weights: 32,
    bytes: 17,
    planes: &[NIBBLES, Plane { inputs: 32, bytes: 1 }],
    // 12 times 2^(252 - 128).
    largest: f32::from_bits(0x7f40_0000),
    split: |block, pieces| {
        pack_nibbles(&halves(&block[1..]), &mut pieces[..16]);
        pieces[16] = block[0];
    },
    weight: |pieces, at| scale(pieces[16]) * f32::from(TABLE[usize::from(nibble(pieces, at))]),
    finite: |block| block[0] <= MOST,
    encode: |weights, block| {
        let furthest = furthest(weights).abs();
        // The largest float, 6, has the exponent 2.
        let exponent = if furthest == 0.0 { 0 } else { (furthest.log2().floor() as i32 + 125).clamp(0, MOST.into()) };
        block[0] = exponent as u8;
        let inverse = 1.0 / scale(block[0]);
        let numbers: Vec<u8> =
            weights.iter().map(|w| if *w == 0.0 { 0 } else { nearest(&TABLE, w * inverse) }).collect();
        put_halves(&numbers, &mut block[1..]);
    },
};

/// 2^(exponent - 128).
fn scale(exponent: u8) -> f32 {
    f32::from_bits(match exponent {
        0 | 1 => 0x0020_0000 << exponent,
        _ => (u32::from(exponent) - 1) << 23,
    })
}
