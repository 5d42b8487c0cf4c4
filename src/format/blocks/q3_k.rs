//! Q3_K: 256 weights share a scale d, f16; each 16 of them a whole number s of six bits, biased by 32; each has three bits. A weight
//! is d (s - 32) (q - 4).

use super::q2_k::{byte, shift};
use super::{BITS, Blocks, PAIRS, Plane, bit, furthest, half, inverse, pack_bits, pack_pairs, pair, put_half, whole};

/// The format.
pub(crate) static Q3_K: Blocks = Blocks {
    name: "Q3_K",
    piece: "weight_q3_k",
    weights: 256,
    bytes: 110,
    planes: &[PAIRS, BITS, Plane { inputs: 16, bytes: 1 }, Plane { inputs: 256, bytes: 2 }],
    largest: 4.0 * 65_504.0,
    split: |block, pieces| {
        pack_pairs(|at| block[32 + byte(at)] >> shift(at), &mut pieces[..64]);
        // Bit n of byte l is the third of weight l of the n-th 32.
        pack_bits(|at| block[at % 32] >> (at / 32), &mut pieces[64..96]);
        for part in 0..16 {
            pieces[96 + part] = scale(&block[96..108], part).wrapping_sub(32);
        }
        pieces[112..114].copy_from_slice(&block[108..]);
    },
    weight: |pieces, at| {
        let number = f32::from(pair(pieces, at) | bit(&pieces[64..], at) << 2) - 4.0;
        half(pieces, 112) * f32::from(pieces[96 + at / 16] as i8) * number
    },
    finite: |block| half(block, 108).is_finite(),
    encode: |weights, block| {
        let scales: Vec<f32> = weights.chunks_exact(16).map(|part| furthest(part) / -4.0).collect();
        block.fill(0);
        let d = put_half(block, 108, furthest(&scales) / -32.0);
        for (part, weights) in weights.chunks_exact(16).enumerate() {
            let scale = whole(scales[part] * inverse(d), -32, 31);
            put_scale(&mut block[96..108], part, (scale + 32) as u8);
            let inverse = inverse(d * scale as f32);
            for (n, weight) in weights.iter().enumerate() {
                let (at, number) = (16 * part + n, (whole(weight * inverse, -4, 3) + 4) as u8);
                block[32 + byte(at)] |= (number & 3) << shift(at);
                block[at % 32] |= number >> 2 << (at / 32);
            }
        }
    },
};

/// The six bits s of the `part`-th 16, out of twelve bytes: four lie in the halves of the first eight, two in the last four.
fn scale(bytes: &[u8], part: usize) -> u8 {
    let low = bytes[part % 8] >> (part / 8 * 4) & 15;
    low | (bytes[8 + part % 4] >> (part / 4 * 2) & 3) << 4
}

/// Undoes [`scale`].
fn put_scale(bytes: &mut [u8], part: usize, scale: u8) {
    bytes[part % 8] |= (scale & 15) << (part / 8 * 4);
    bytes[8 + part % 4] |= scale >> 4 << (part / 4 * 2);
}
