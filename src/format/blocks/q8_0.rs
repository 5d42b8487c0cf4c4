//! Q8_0: 32 weights share a scale d, f16, and have a whole number q of it each, int8; a weight is d q.
//!
//! Quantised as ggml does it: d is the largest magnitude of the 32 over 127, and q is x times 1 / d, rounded to the nearest with
//! halves away from zero; 1 / d is that of d before it is rounded to f16. A block so small that d is 0 in f16 is all zeros.

use super::{Blocks, Plane, furthest, half, inverse, put_half};

/// The format.
pub(crate) static Q8_0: Blocks = Blocks {
    name: "Q8_0",
    piece: "weight_q8_0",
    weights: 32,
    bytes: 34,
    planes: &[Plane { inputs: 16, bytes: 16 }, Plane { inputs: 32, bytes: 2 }],
    largest: 127.0 * 65_504.0,
    split: |block, pieces| {
        pieces[..32].copy_from_slice(&block[2..]);
        pieces[32..34].copy_from_slice(&block[..2]);
    },
    weight: |pieces, at| half(pieces, 32) * f32::from(pieces[at] as i8),
    finite: |block| half(block, 0).is_finite(),
    encode: |weights, block| {
        let scale = furthest(weights).abs() / 127.0;
        put_half(block, 0, scale);
        for (number, weight) in block[2..].iter_mut().zip(weights) {
            *number = (weight * inverse(scale)).round() as i8 as u8;
        }
    },
};
