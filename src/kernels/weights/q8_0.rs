//! Q8_0: 32 inputs of a column share a scale d, f16, and have a whole number q of it each, int8; a weight is d q.
//!
//! Quantised as ggml does it: d is the largest magnitude of the 32 over 127, and q is x times 1 / d, rounded to the nearest with
//! halves away from zero; 1 / d is that of d before it is rounded to f16. A block so small that d is 0 in f16 is all zeros. The
//! product d q takes 19 bits at most, so f32 holds it: a row has the bits that it would have with the same weights in f32.
//!
//! The whole numbers lie in granules of 16 inputs of a column, which a thread reads at once, the scales in a plane behind them.

use half::f16;

use super::{Layout, Plane, Shape};

/// Inputs that share a scale.
const BLOCK: usize = 32;

/// Inputs of a granule.
const GRANULE: usize = 16;

/// Bytes of a scale.
const SCALE: usize = 2;

/// The largest whole number.
const MOST: f32 = 127.0;

/// The format.
pub(super) static Q8_0: Packed = Packed;

/// See the module.
pub(super) struct Packed;

impl Layout for Packed {
    fn name(&self) -> &'static str {
        "Q8_0"
    }

    fn piece(&self) -> &'static str {
        "weight_q8_0"
    }

    fn block_inputs(&self) -> usize {
        BLOCK
    }

    fn run(&self) -> u32 {
        (GRANULE / 4) as u32
    }

    fn planes(&self) -> &[Plane] {
        &[Plane { inputs: GRANULE, bytes: GRANULE }, Plane { inputs: BLOCK, bytes: SCALE }]
    }

    fn largest(&self) -> f32 {
        MOST * f16::MAX.to_f32()
    }

    fn pack(&self, values: &[f32], column: usize, columns: usize, packed: &mut [u8]) {
        let scales = values.len() * columns;
        for (block, values) in values.chunks_exact(BLOCK).enumerate() {
            let (scale, numbers) = quantised(values);
            for (granule, numbers) in numbers.chunks_exact(GRANULE).enumerate() {
                let at = ((block * BLOCK / GRANULE + granule) * columns + column) * GRANULE;
                packed[at..at + GRANULE].copy_from_slice(bytemuck::cast_slice(numbers));
            }
            let at = scales + (block * columns + column) * SCALE;
            packed[at..at + SCALE].copy_from_slice(&scale.to_le_bytes());
        }
    }

    fn weight(&self, packed: &[u8], shape: Shape, input: usize, column: usize) -> f64 {
        let at = (input / GRANULE * shape.columns + column) * GRANULE + input % GRANULE;
        let number = i8::from_le_bytes([packed[at]]);
        let at = shape.inputs * shape.columns + (input / BLOCK * shape.columns + column) * SCALE;
        let scale = f16::from_le_bytes([packed[at], packed[at + 1]]);
        scale.to_f64() * f64::from(number)
    }
}

fn quantised(values: &[f32]) -> (f16, [i8; BLOCK]) {
    let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let scale = largest / MOST;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let mut numbers = [0; BLOCK];
    numbers.iter_mut().zip(values).for_each(|(number, value)| *number = (value * inverse).round() as i8);
    (f16::from_f32(scale), numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::WeightFormat;

    #[test]
    fn a_block_is_quantised_as_ggml_does_it() {
        let mut values = [0.0; BLOCK];
        // A scale of 2^-7 exactly, halves in both directions, and a number that the rounded scale would round elsewhere.
        values[..6].copy_from_slice(&[127.0, -127.0, 1.5, -1.5, 0.49, 63.5].map(|q: f32| q / 128.0));
        let (scale, numbers) = quantised(&values);
        assert_eq!((scale.to_f32(), &numbers[..7]), (1.0 / 128.0, &[127, -127, 2, -2, 0, 64, 0][..]));
        // 0.3 / 127 is no f16; the whole numbers are those of the scale before it was rounded to one.
        values[0] = 0.3;
        let (scale, numbers) = quantised(&values[..1].repeat(BLOCK));
        assert_eq!((scale, numbers), (f16::from_f32(0.3 / 127.0), [127; BLOCK]));
    }

    #[test]
    fn blocks_of_zeros_and_of_next_to_nothing_are_zeros() {
        for tiny in [0.0, 1e-45, 1e-38, 1e-7] {
            let rounded = WeightFormat::Q8_0.rounded(&[tiny; BLOCK], BLOCK);
            assert_eq!(rounded, [0.0; BLOCK], "{tiny}");
        }
        let most = Q8_0.largest();
        assert_eq!(WeightFormat::Q8_0.rounded(&[-most; BLOCK], BLOCK), [-most; BLOCK]);
    }

    #[test]
    fn granules_and_scales_lie_in_planes() {
        // Four columns of 64 inputs, of which the third holds whole numbers of its scales, 1 and 2.
        let mut w = vec![0.0; 4 * 64];
        for input in 0..64 {
            w[2 * 64 + input] = if input < 32 { 127.0 - input as f32 } else { 2.0 * (127.0 - input as f32) };
        }
        w[2 * 64 + 32] = 254.0;
        let (packed, shape) = WeightFormat::Q8_0.packed(&w, 64);
        assert_eq!((shape, packed.len()), (Shape { inputs: 64, columns: 4 }, 64 * 4 + 2 * 4 * SCALE));
        assert_eq!(packed[(4 + 2) * GRANULE], 127 - 16, "granule 1 of column 2");
        assert_eq!(packed[(3 * 4 + 2) * GRANULE..][..2], [127 - 48, 127 - 49], "granule 3 of column 2");
        let scale = |block: usize| &packed[64 * 4 + (block * 4 + 2) * SCALE..][..SCALE];
        assert_eq!([scale(0), scale(1)], [f16::from_f32(1.0).to_le_bytes(), f16::from_f32(2.0).to_le_bytes()]);
        assert_eq!(WeightFormat::Q8_0.rounded(&w, 64), w);
    }
}
