//! IQ4_XS: 256 weights share a scale d, f16; each 32 of them a whole number s of six bits, biased by 32; each has a place in the
//! table of IQ4_NL. A weight is d (s - 32) times the table's number.

use super::iq4_nl::TABLE;
use super::{
    Blocks, NIBBLES, Plane, furthest, half, halves, inverse, nearest, nibble, pack_nibbles, put_half, put_halves, whole,
};

/// The format.
pub(crate) static IQ4_XS: Blocks = Blocks {
    name: "IQ4_XS",
    piece: "weight_iq4_xs",
    weights: 256,
    bytes: 136,
    planes: &[NIBBLES, Plane { inputs: 32, bytes: 1 }, Plane { inputs: 256, bytes: 2 }],
    largest: 127.0 * 65_504.0,
    split: |block, pieces| {
        let high = u16::from_le_bytes([block[2], block[3]]);
        for part in 0..8 {
            pack_nibbles(&halves(&block[8 + 16 * part..]), &mut pieces[16 * part..][..16]);
            let scale = block[4 + part / 2] >> (part % 2 * 4) & 15 | ((high >> (2 * part) & 3) << 4) as u8;
            pieces[128 + part] = scale.wrapping_sub(32);
        }
        pieces[136..138].copy_from_slice(&block[..2]);
    },
    weight: |pieces, at| {
        let scale = half(pieces, 136) * f32::from(pieces[128 + at / 32] as i8);
        scale * f32::from(TABLE[usize::from(nibble(pieces, at))])
    },
    finite: |block| half(block, 0).is_finite(),
    encode: |weights, block| {
        let scales: Vec<f32> = weights.chunks_exact(32).map(|part| furthest(part) / -127.0).collect();
        let scale = put_half(block, 0, furthest(&scales) / -32.0);
        let mut high = 0_u16;
        block[4..8].fill(0);
        for (part, weights) in weights.chunks_exact(32).enumerate() {
            let number = whole(scales[part] * inverse(scale), -32, 31);
            let biased = (number + 32) as u8;
            block[4 + part / 2] |= (biased & 15) << (part % 2 * 4);
            high |= u16::from(biased >> 4) << (2 * part);
            let inverse = inverse(scale * number as f32);
            let numbers: Vec<u8> = weights.iter().map(|w| nearest(&TABLE, w * inverse)).collect();
            put_halves(&numbers, &mut block[8 + 16 * part..]);
        }
        block[2..4].copy_from_slice(&high.to_le_bytes());
    },
};
