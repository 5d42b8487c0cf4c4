//! Q2_K: 256 weights share a scale d and a scale of minima, both f16; each 16 of them whole numbers s and m of four bits; each has two
//! bits. A weight is d s q - dmin m.

use super::{Blocks, PAIRS, Plane, half, inverse, pack_pairs, pair, put_half, range, whole};

/// The format.
pub(crate) static Q2_K: Blocks = Blocks {
    name: "Q2_K",
    piece: "weight_q2_k",
    weights: 256,
    bytes: 84,
    planes: &[PAIRS, Plane { inputs: 16, bytes: 1 }, Plane { inputs: 256, bytes: 4 }],
    largest: 65_504.0,
    split: |block, pieces| {
        pack_pairs(|at| block[16 + byte(at)] >> shift(at), &mut pieces[..64]);
        pieces[64..80].copy_from_slice(&block[..16]);
        pieces[80..84].copy_from_slice(&block[80..]);
    },
    weight: |pieces, at| {
        let scales = pieces[64 + at / 16];
        let scale = half(pieces, 80) * f32::from(scales & 15);
        scale * f32::from(pair(pieces, at)) - half(pieces, 82) * f32::from(scales >> 4)
    },
    finite: |block| half(block, 80).is_finite() && half(block, 82).is_finite(),
    encode: |weights, block| {
        let ranges: Vec<(f32, f32)> =
            weights.chunks_exact(16).map(range).map(|(low, high)| (low.min(0.0), high.max(0.0))).collect();
        let most = |values: &dyn Fn(&(f32, f32)) -> f32| ranges.iter().map(values).fold(0.0, f32::max);
        block.fill(0);
        let d = put_half(block, 80, most(&|(low, high)| (high - low) / 3.0) / 15.0);
        let dmin = put_half(block, 82, most(&|(low, _)| -low) / 15.0);
        for (part, (weights, (low, high))) in weights.chunks_exact(16).zip(&ranges).enumerate() {
            let scale = whole((high - low) / 3.0 * inverse(d), 0, 15);
            let minimum = whole(-low * inverse(dmin), 0, 15);
            block[part] = (scale | minimum << 4) as u8;
            let inverse = inverse(d * scale as f32);
            for (n, weight) in weights.iter().enumerate() {
                let number = whole((weight + dmin * minimum as f32) * inverse, 0, 3);
                block[16 + byte(16 * part + n)] |= (number as u8) << shift(16 * part + n);
            }
        }
    },
};

/// Where the two bits of a weight lie, the byte: of 128 the bits of 32 bytes, two by two.
pub(super) fn byte(at: usize) -> usize {
    at / 128 * 32 + at % 32
}

/// Where they lie, the shift.
pub(super) fn shift(at: usize) -> usize {
    at / 32 % 4 * 2
}
