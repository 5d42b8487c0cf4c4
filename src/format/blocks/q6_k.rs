//! Q6_K: 256 weights share a scale d, f16; each 16 of them a whole number s, int8; each has six bits. A weight is d s (q - 32).

#[cfg(feature = "gguf")]
use super::search::Shape;
use super::{
    Blocks, NIBBLES, PAIRS, Plane, furthest, half, inverse, nibble, pack_nibbles, pack_pairs, pair, put_half, whole,
};

/// The format.
pub(crate) static Q6_K: Blocks = Blocks {
    name: "Q6_K",
    piece: "weight_q6_k",
    weights: 256,
    bytes: 210,
    planes: &[NIBBLES, PAIRS, Plane { inputs: 16, bytes: 1 }, Plane { inputs: 256, bytes: 2 }],
    largest: 32.0 * 65_504.0,
    split: |block, pieces| {
        let low: [u8; 256] = std::array::from_fn(|at| {
            let (byte, shift) = low_place(at);
            block[byte] >> shift
        });
        pack_nibbles(&low, &mut pieces[..128]);
        pack_pairs(
            |at| {
                let (byte, shift) = high_place(at);
                block[byte] >> shift
            },
            &mut pieces[128..192],
        );
        pieces[192..210].copy_from_slice(&block[192..]);
    },
    weight: |pieces, at| {
        let number = f32::from(nibble(pieces, at) | pair(&pieces[128..], at) << 4) - 32.0;
        half(pieces, 208) * f32::from(pieces[192 + at / 16] as i8) * number
    },
    finite: |block| half(block, 208).is_finite(),
    encode: |weights, block| {
        let scales: Vec<f32> = weights.chunks_exact(16).map(|part| furthest(part) / -32.0).collect();
        block.fill(0);
        let d = put_half(block, 208, furthest(&scales) / -128.0);
        for (part, weights) in weights.chunks_exact(16).enumerate() {
            let scale = whole(scales[part] * inverse(d), -128, 127);
            block[192 + part] = scale as i8 as u8;
            let inverse = inverse(d * scale as f32);
            for (n, weight) in weights.iter().enumerate() {
                put_number(whole(weight * inverse, -32, 31), 16 * part + n, block);
            }
        }
    },
};

/// Rounds the weights of a block with the scales that are searched for.
#[cfg(feature = "gguf")]
pub(super) fn fit(weights: &[f32], block: &mut [u8]) {
    let found = Shape { part: 16, numbers: [-32, 31], scales: [-128, 127] }.scaled(weights);
    block.fill(0);
    put_half(block, 208, found.scale);
    for (part, scale) in found.parts.into_iter().enumerate() {
        block[192 + part] = scale as i8 as u8;
    }
    for (at, number) in found.numbers.into_iter().enumerate() {
        put_number(number, at, block);
    }
}

/// Writes the number of a weight at a place, where zeros were before.
fn put_number(number: i32, at: usize, block: &mut [u8]) {
    let number = (number + 32) as u8;
    let (byte, shift) = low_place(at);
    block[byte] |= (number & 15) << shift;
    let (byte, shift) = high_place(at);
    block[byte] |= (number >> 4) << shift;
}

/// Where the low four bits of a weight lie, byte and shift: of 128 the low halves of 64 bytes, then the high ones.
fn low_place(at: usize) -> (usize, usize) {
    (at / 128 * 64 + at % 64, at / 64 % 2 * 4)
}

/// Where the high two bits of a weight lie: of 128 the bits of 32 bytes, two by two.
fn high_place(at: usize) -> (usize, usize) {
    (128 + at / 128 * 32 + at % 32, at / 32 % 4 * 2)
}
