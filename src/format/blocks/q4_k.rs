//! Q4_K: 256 weights share a scale d and a scale of minima, both f16; each 32 of them whole numbers s and m of six bits; each has
//! four bits. A weight is d s q - dmin m.

#[cfg(feature = "gguf")]
use super::search::LineShape;
use super::{Blocks, NIBBLES, Plane, half, nibble, pack_nibbles, put_half, range, whole};

/// The format.
pub(crate) static Q4_K: Blocks = Blocks {
    name: "Q4_K",
    piece: "weight_q4_k",
    weights: 256,
    bytes: 144,
    planes: &[NIBBLES, Plane { inputs: 32, bytes: 2 }, Plane { inputs: 256, bytes: 4 }],
    largest: 65_504.0,
    split: |block, pieces| {
        pack_nibbles(&numbers(&block[16..]), &mut pieces[..128]);
        split_scales(block, &mut pieces[128..]);
    },
    weight: |pieces, at| weight(&pieces[128..], nibble(pieces, at), at),
    finite: |block| half(block, 0).is_finite() && half(block, 2).is_finite(),
    encode: |weights, block| {
        let numbers = encode(weights, 15, block);
        put_numbers(&numbers, &mut block[16..]);
    },
};

/// Rounds the weights of a block with the scales and minima that are searched for.
#[cfg(feature = "gguf")]
pub(super) fn fit(weights: &[f32], block: &mut [u8]) {
    let numbers = fit_parts(weights, 15, block);
    put_numbers(&numbers, &mut block[16..]);
}

/// The four bits of each weight: of 64 the low halves of 32 bytes, then the high ones.
pub(super) fn numbers(bytes: &[u8]) -> [u8; 256] {
    std::array::from_fn(|at| bytes[at / 64 * 32 + at % 32] >> (at / 32 % 2 * 4) & 15)
}

/// Undoes [`numbers`].
fn put_numbers(numbers: &[u8], bytes: &mut [u8]) {
    for part in 0..4 {
        for at in 0..32 {
            bytes[32 * part + at] = numbers[64 * part + at] | numbers[64 * part + 32 + at] << 4;
        }
    }
}

/// The whole numbers s and m of the `part`-th 32, out of twelve bytes.
fn scale_and_minimum(bytes: &[u8], part: usize) -> [u8; 2] {
    if part < 4 {
        return [bytes[part] & 63, bytes[part + 4] & 63];
    }
    let low = bytes[part + 4];
    [low & 15 | bytes[part - 4] >> 6 << 4, low >> 4 | bytes[part] >> 6 << 4]
}

/// Takes the first 16 bytes of a block apart: s and m of each 32, then d and dmin.
pub(super) fn split_scales(block: &[u8], pieces: &mut [u8]) {
    for part in 0..8 {
        pieces[2 * part..][..2].copy_from_slice(&scale_and_minimum(&block[4..16], part));
    }
    pieces[16..20].copy_from_slice(&block[..4]);
}

/// The weight of a number at a place, by the pieces of [`split_scales`].
pub(super) fn weight(pieces: &[u8], number: u8, at: usize) -> f32 {
    let [scale, minimum] = [pieces[at / 32 * 2], pieces[at / 32 * 2 + 1]].map(f32::from);
    half(pieces, 16) * scale * f32::from(number) - half(pieces, 18) * minimum
}

/// Rounds weights to numbers up to `most`, and writes the first 16 bytes of their block. The range of each 32 is laid out by the
/// nearest s and m; nothing is searched for.
pub(super) fn encode(weights: &[f32], most: u8, block: &mut [u8]) -> Vec<u8> {
    let ranges: Vec<(f32, f32)> =
        weights.chunks_exact(32).map(range).map(|(low, high)| (low.min(0.0), high.max(0.0))).collect();
    let largest = |values: &dyn Fn(&(f32, f32)) -> f32| ranges.iter().map(values).fold(0.0, f32::max);
    let steps = f32::from(most);
    let d = put_half(block, 0, largest(&|(low, high)| (high - low) / steps) / 63.0);
    let dmin = put_half(block, 2, largest(&|(low, _)| -low) / 63.0);
    block[4..16].fill(0);
    let mut numbers = Vec::with_capacity(256);
    for (part, (weights, (low, high))) in weights.chunks_exact(32).zip(&ranges).enumerate() {
        let minimum = whole(-low * super::inverse(dmin), 0, 63);
        let scale = whole((high - low) / steps * super::inverse(d), 0, 63);
        put_scale_and_minimum(&mut block[4..16], part, [scale as u8, minimum as u8]);
        let inverse = super::inverse(d * scale as f32);
        let number = |w: &f32| whole((w + dmin * minimum as f32) * inverse, 0, most.into()) as u8;
        numbers.extend(weights.iter().map(number));
    }
    numbers
}

/// Rounds weights to numbers up to `most` with the scales and minima that are searched for, and writes the first 16 bytes of their
/// block.
#[cfg(feature = "gguf")]
pub(super) fn fit_parts(weights: &[f32], most: u8, block: &mut [u8]) -> Vec<u8> {
    let found = LineShape { part: 32, numbers: most, scales: 63 }.lines(weights);
    put_half(block, 0, found.scale);
    put_half(block, 2, found.minimum);
    block[4..16].fill(0);
    for (part, numbers) in found.parts.into_iter().enumerate() {
        put_scale_and_minimum(&mut block[4..16], part, numbers);
    }
    found.numbers
}

/// Undoes [`scale_and_minimum`]; parts come in order.
fn put_scale_and_minimum(bytes: &mut [u8], part: usize, [scale, minimum]: [u8; 2]) {
    if part < 4 {
        bytes[part] = scale;
        bytes[part + 4] = minimum;
    } else {
        bytes[part + 4] = scale & 15 | minimum << 4;
        bytes[part - 4] |= scale >> 4 << 6;
        bytes[part] |= minimum >> 4 << 6;
    }
}
