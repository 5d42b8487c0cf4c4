//! Formats in which neighbouring weights of a row share scales: the blocks of GGUF files, one file each.
//!
//! A block is known in two forms. A file has its bytes as ggml writes them (`ggml-common.h`). Kernels want to read the same bits of
//! many columns at once, so a block is taken apart into *pieces* of planes ([`Plane`]): the low four bits of 16 weights, their next
//! two, their scales. Taking apart moves bits and changes no number; sizes stay within 4 % of the file's.
//!
//! A weight is a number of f32, the one that ggml dequantises to: a scale times a whole number is exact, so at most one sum rounds.

#[cfg(feature = "gguf")]
mod iq4_nl;
#[cfg(feature = "gguf")]
mod iq4_xs;
#[cfg(feature = "gguf")]
mod mxfp4;
#[cfg(feature = "gguf")]
mod q2_k;
#[cfg(feature = "gguf")]
mod q3_k;
mod q4_0;
#[cfg(feature = "gguf")]
mod q4_1;
mod q4_k;
#[cfg(feature = "gguf")]
mod q5_0;
#[cfg(feature = "gguf")]
mod q5_1;
#[cfg(feature = "gguf")]
mod q5_k;
mod q6_k;
mod q8_0;
#[cfg(feature = "gguf")]
mod search;
#[cfg(test)]
mod tests;

use half::f16;

#[cfg(feature = "gguf")]
pub(super) use self::{
    iq4_nl::IQ4_NL, iq4_xs::IQ4_XS, mxfp4::MXFP4, q2_k::Q2_K, q3_k::Q3_K, q4_1::Q4_1, q5_0::Q5_0, q5_1::Q5_1,
    q5_k::Q5_K,
};
pub(super) use self::{q4_0::Q4_0, q4_k::Q4_K, q6_k::Q6_K, q8_0::Q8_0};

/// A part of a matrix in a GPU's memory, `[inputs / self.inputs, columns]` pieces of `bytes` bytes. A matrix is its planes, one
/// after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plane {
    /// Inputs of a column that share a piece.
    pub inputs: usize,
    pub bytes: usize,
}

/// A format of blocks.
#[derive(Debug)]
pub(crate) struct Blocks {
    /// The name for people, ggml's.
    pub name: &'static str,
    /// The piece of `shaders/lib` that reads it.
    pub piece: &'static str,
    /// Weights of a block.
    pub weights: usize,
    /// Bytes of a block in a file.
    pub bytes: usize,
    /// The parts that a block is taken apart into.
    pub planes: &'static [Plane],
    /// The largest magnitude that [`Blocks::encode`] takes.
    pub largest: f32,
    /// Takes a block apart: the pieces of the first plane, those of the second, ...
    pub split: fn(block: &[u8], pieces: &mut [u8]),
    /// The weight at a place of a block that was taken apart: the specification of what kernels read.
    pub weight: fn(pieces: &[u8], at: usize) -> f32,
    /// Whether all weights of a block are finite, known from its scales.
    pub finite: fn(block: &[u8]) -> bool,
    /// Rounds the weights of a block.
    pub encode: fn(weights: &[f32], block: &mut [u8]),
}

/// How the weights of a block are rounded with care: with scales that are searched for.
#[cfg(feature = "gguf")]
pub(crate) type Fit = fn(weights: &[f32], block: &mut [u8]);

/// The formats that are written with care. The scale of Q8_0 leaves nothing to search for.
#[cfg(feature = "gguf")]
pub(super) static FITS: [(&Blocks, Fit); 8] = [
    (&Q8_0, Q8_0.encode),
    (&Q6_K, q6_k::fit),
    (&Q5_K, q5_k::fit),
    (&Q5_1, q5_1::fit),
    (&Q5_0, q5_0::fit),
    (&Q4_K, q4_k::fit),
    (&Q4_1, q4_1::fit),
    (&Q4_0, q4_0::fit),
];

impl Blocks {
    /// The most bytes that the pieces of a block take, in any format.
    pub const MAX_PIECES: usize = 256;

    /// Bytes of the pieces of a block.
    #[cfg(test)]
    fn pieces(&self) -> usize {
        self.planes.iter().map(|plane| self.weights / plane.inputs * plane.bytes).sum()
    }

    /// The weights of blocks.
    pub fn decode(&self, blocks: &[u8]) -> Vec<f32> {
        let mut pieces = [0; Self::MAX_PIECES];
        let mut weights = Vec::with_capacity(blocks.len() / self.bytes * self.weights);
        for block in blocks.chunks_exact(self.bytes) {
            (self.split)(block, &mut pieces);
            weights.extend((0..self.weights).map(|at| (self.weight)(&pieces, at)));
        }
        weights
    }

    /// Blocks of weights, each rounded; a whole number of blocks.
    pub fn encoded(&self, weights: &[f32]) -> Vec<u8> {
        let mut blocks = vec![0; weights.len() / self.weights * self.bytes];
        for (weights, block) in weights.chunks_exact(self.weights).zip(blocks.chunks_exact_mut(self.bytes)) {
            (self.encode)(weights, block);
        }
        blocks
    }

    /// The first block that has a weight which is not finite.
    pub fn first_not_finite(&self, blocks: &[u8]) -> Option<usize> {
        blocks.chunks_exact(self.bytes).position(|block| !(self.finite)(block))
    }
}

/// The plane of the low four bits of 16 weights.
const NIBBLES: Plane = Plane { inputs: 16, bytes: 8 };

/// The plane of two bits of 16 weights.
const PAIRS: Plane = Plane { inputs: 16, bytes: 4 };

/// The plane of one bit of 16 weights.
const BITS: Plane = Plane { inputs: 16, bytes: 2 };

/// Packs the low four bits of whole numbers. Of 16, numbers 0 to 3 and 8 to 11 are the low and high halves of the first four bytes,
/// 4 to 7 and 12 to 15 those of the next four: four neighbours come out of a word by one shift.
fn pack_nibbles(numbers: &[u8], pieces: &mut [u8]) {
    for (numbers, piece) in numbers.as_chunks::<16>().0.iter().zip(pieces.as_chunks_mut::<8>().0) {
        for at in 0..8 {
            piece[at] = numbers[at] & 15 | numbers[at + 8] << 4;
        }
    }
}

fn nibble(pieces: &[u8], at: usize) -> u8 {
    let (piece, at) = (&pieces[at / 16 * 8..], at % 16);
    piece[at % 8] >> (at / 8 * 4) & 15
}

/// Packs the low two bits of whole numbers. Of 16, numbers 4 n to 4 n + 3 are bits 2 n and 2 n + 1 of four bytes.
fn pack_pairs(numbers: impl Fn(usize) -> u8, pieces: &mut [u8]) {
    for (at, byte) in pieces.iter_mut().enumerate() {
        let first = at / 4 * 16 + at % 4;
        *byte = (0..4).fold(0, |byte, n| byte | (numbers(first + 4 * n) & 3) << (2 * n));
    }
}

fn pair(pieces: &[u8], at: usize) -> u8 {
    pieces[at / 16 * 4 + at % 4] >> (at % 16 / 4 * 2) & 3
}

/// Packs a bit of each whole number, in order.
fn pack_bits(numbers: impl Fn(usize) -> u8, pieces: &mut [u8]) {
    for (at, byte) in pieces.iter_mut().enumerate() {
        *byte = (0..8).fold(0, |byte, n| byte | (numbers(8 * at + n) & 1) << n);
    }
}

fn bit(pieces: &[u8], at: usize) -> u8 {
    pieces[at / 8] >> (at % 8) & 1
}

/// The numbers of 16 bytes: the low halves, then the high ones.
fn halves(bytes: &[u8]) -> [u8; 32] {
    std::array::from_fn(|at| bytes[at % 16] >> (at / 16 * 4) & 15)
}

/// Undoes [`halves`].
fn put_halves(numbers: &[u8], bytes: &mut [u8]) {
    (0..16).for_each(|at| bytes[at] = numbers[at] | numbers[at + 16] << 4);
}

/// The f16 at byte `at`.
fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Writes a number as f16 and gives what it became.
fn put_half(bytes: &mut [u8], at: usize, value: f32) -> f32 {
    let value = f16::from_f32(value);
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    value.to_f32()
}

/// 1 / x, and 0 for 0.
fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

/// The number of the largest magnitude, with its sign.
fn furthest(values: &[f32]) -> f32 {
    values.iter().fold(0.0_f32, |furthest, &value| if value.abs() > furthest.abs() { value } else { furthest })
}

/// The smallest and the largest number.
fn range(values: &[f32]) -> (f32, f32) {
    values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &value| (low.min(value), high.max(value)))
}

/// A whole number between `low` and `high`, the nearest.
fn whole(x: f32, low: i32, high: i32) -> i32 {
    (x.round() as i32).clamp(low, high)
}

/// A whole number between 0 and `most`, rounded down.
fn floor(x: f32, most: u8) -> u8 {
    (x as u8).min(most)
}

/// The place of the value of a table that is nearest.
fn nearest(table: &[i8; 16], x: f32) -> u8 {
    let distance = |at: &u8| (f32::from(table[usize::from(*at)]) - x).abs();
    (0..16).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(0)
}
