//! Every format against the numbers that the Python package `gguf` dequantises blocks to (tests/golden/blocks/make.py).

use std::path::Path;

use super::{Blocks, Plane};
use crate::format::stored::StoredType;

fn every() -> impl Iterator<Item = &'static Blocks> {
    StoredType::ALL.iter().filter_map(|stored| stored.blocks())
}

fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/blocks").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn blocks_are_the_numbers_that_ggml_reads() {
    for format in every() {
        let name = format.name.to_lowercase();
        let (blocks, weights) = (golden(&format!("{name}.blocks")), golden(&format!("{name}.f32")));
        assert_eq!(format.first_not_finite(&blocks), None, "{name}");
        let want = StoredType::F32.decode(&weights);
        let got = format.decode(&blocks);
        assert_eq!(got.len(), want.len(), "{name}");
        for (at, (got, want)) in got.iter().zip(&want).enumerate() {
            // Equal numbers; the sign of zero is left open.
            assert!(got == want, "{name}: weight {at}: got {got:e}, want {want:e}");
        }
    }
}

#[test]
fn pieces_fill_their_planes() {
    for format in every() {
        assert!(format.pieces() <= Blocks::MAX_PIECES, "{}", format.name);
        assert!(format.planes.iter().all(|Plane { inputs, .. }| format.weights % inputs == 0), "{}", format.name);
        let larger = format.pieces() as f64 / format.bytes as f64;
        assert!((1.0..1.04).contains(&larger), "{}: {larger}", format.name);
        // Bytes beyond the pieces are not touched, and every byte of the pieces counts: ones give ones.
        let mut pieces = [0xa5; Blocks::MAX_PIECES];
        (format.split)(&vec![0xff; format.bytes], &mut pieces);
        assert!(pieces[format.pieces()..].iter().all(|&byte| byte == 0xa5), "{}", format.name);
        assert!(pieces[..format.pieces()].iter().all(|&byte| byte != 0xa5), "{}", format.name);
    }
}

/// A pattern with both signs, near zero and far from it.
fn some(count: usize, largest: f32) -> Vec<f32> {
    (0..count).map(|at| largest * ((at * 37 + 11) as f32 * 0.173).sin()).collect()
}

#[test]
fn weights_are_rounded_to_a_step() {
    for format in every() {
        // Steps of the largest magnitude: half of them, and what the scales were rounded by.
        let error = match format.name {
            "Q2_K" => 0.36,
            "Q3_K" => 0.27,
            "Q4_0" | "Q4_1" | "Q4_K" => 0.15,
            "Q5_0" | "Q5_1" | "Q5_K" => 0.075,
            "Q6_K" => 0.05,
            "Q8_0" => 0.005,
            "MXFP4" => 0.34,
            "IQ4_NL" => 0.13,
            _ => 0.15,
        };
        for largest in [1.0, 0.1, 500.0] {
            let weights = some(2 * format.weights, largest);
            let rounded = format.decode(&format.encoded(&weights));
            for (weight, rounded) in weights.iter().zip(&rounded) {
                let off = (weight - rounded).abs() / largest;
                assert!(off <= error, "{}: {weight} became {rounded}, {off} of {largest}", format.name);
            }
            // The blocks of rounded weights are nearly the same: their scales are found again.
            let again = format.decode(&format.encoded(&rounded));
            for (once, again) in rounded.iter().zip(&again) {
                assert!((once - again).abs() <= error * largest, "{}: {once} became {again}", format.name);
            }
        }
    }
}

#[test]
fn zeros_and_next_to_nothing_become_zeros() {
    for format in every().filter(|format| format.name != "MXFP4") {
        for tiny in [0.0, 1e-45, 1e-38, 1e-12] {
            let rounded = format.decode(&format.encoded(&vec![tiny; format.weights]));
            assert!(rounded.iter().all(|weight| *weight == 0.0), "{}: {tiny}", format.name);
        }
    }
    assert_eq!(super::MXFP4.decode(&super::MXFP4.encoded(&[0.0; 32])), [0.0; 32]);
}

#[test]
fn the_largest_weights_stay_finite() {
    for format in every() {
        for sign in [1.0, -1.0] {
            let blocks = format.encoded(&vec![sign * format.largest; format.weights]);
            assert_eq!(format.first_not_finite(&blocks), None, "{}", format.name);
            assert!(format.decode(&blocks).iter().all(|weight| weight.is_finite()), "{}", format.name);
        }
    }
}

#[test]
fn a_block_whose_scale_is_not_finite_is_found() {
    for format in every() {
        let mut blocks = format.encoded(&some(3 * format.weights, 1.0));
        // The scale of the second block: an infinity of f16, and for MXFP4 the exponent that is no number.
        let at = match format.name {
            "Q6_K" => 208,
            "Q2_K" => 80,
            "Q3_K" => 108,
            _ => 0,
        };
        blocks[format.bytes + at..][..2].copy_from_slice(&if format.name == "MXFP4" {
            [0xff, 0]
        } else {
            [0x00, 0x7c]
        });
        assert_eq!(format.first_not_finite(&blocks), Some(1), "{}", format.name);
    }
}

#[cfg(feature = "gguf")]
mod fits {
    use super::super::search::{Line, Part};
    use super::super::{Blocks, FITS, Fit};

    /// Numbers that look random, between 0 and 1.
    fn random(seed: u32) -> impl FnMut() -> f32 {
        let mut state = seed.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32
        }
    }

    /// Weights as models have them, and such as are hard: of one sign, with one far from the rest, far from 0, on few values.
    fn samples(count: usize, seed: u32) -> Vec<Vec<f32>> {
        let mut next = random(seed);
        let mut normal: Vec<f32> = (0..count).map(|_| (0..12).map(|_| next()).sum::<f32>() - 6.0).collect();
        normal.iter_mut().for_each(|w| *w *= 0.02);
        let mut lone = normal.clone();
        lone[count / 3] = 0.9;
        let few = normal.iter().map(|w| (w * 100.0).round() / 100.0).collect();
        let far = normal.iter().map(|w| w + 0.5).collect();
        let one_sign = normal.iter().map(|w| -w.abs()).collect();
        let even = (0..count).map(|_| next() - 0.5).collect();
        vec![normal, lone, few, far, one_sign, even]
    }

    fn fitted(format: &Blocks, fit: Fit, weights: &[f32]) -> Vec<f32> {
        let mut block = vec![0xa5; format.bytes];
        fit(weights, &mut block);
        format.decode(&block)
    }

    /// What errors count, where those of large weights count more, by parts of a block.
    fn cost(weights: &[f32], rounded: &[f32], part: usize) -> f64 {
        let of_part = |(weights, rounded): (&[f32], &[f32])| {
            let mean = (weights.iter().map(|w| f64::from(w * w)).sum::<f64>() / weights.len() as f64).sqrt();
            let error = |(w, r): (&f32, &f32)| (mean + f64::from(w.abs())) * f64::from(w - r).powi(2);
            weights.iter().zip(rounded).map(error).sum::<f64>()
        };
        weights.chunks(part).zip(rounded.chunks(part)).map(of_part).sum()
    }

    #[test]
    fn a_search_pays() {
        for (format, fit) in FITS {
            let part = if format.name == "Q6_K" { 16 } else { 32 };
            let (mut all, mut worst) = ([0.0; 2], 0.0_f64);
            for seed in 0..40 {
                for (kind, weights) in samples(format.weights, seed).iter().enumerate() {
                    let plain = cost(weights, &format.decode(&format.encoded(weights)), part);
                    let searched = cost(weights, &fitted(format, fit, weights), part);
                    worst = worst.max((searched - 1e-12) / plain);
                    if kind == 0 {
                        all = [all[0] + searched, all[1] + plain];
                    }
                }
            }
            let share = all[0] / all[1];
            let most = if format.name == "Q8_0" { 1.0 } else { 0.9 };
            assert!(share <= most, "{}: {share}", format.name);
            // A block in which plain rounding is lucky may be a little better.
            assert!(worst <= 1.05, "{}: {worst}", format.name);
        }
    }

    /// The sums over samples of what a search found and of the best that there is; without those on few values, which some scale far
    /// off meets exactly.
    fn found_and_best(seeds: u32, each: impl Fn(&[f32]) -> [f32; 2]) -> [f32; 2] {
        let mut sums = [0.0; 2];
        for seed in 0..seeds {
            for (kind, weights) in samples(32, seed).iter().enumerate().filter(|(kind, _)| *kind != 2) {
                let [found, best] = each(weights);
                assert!(found <= 1.25 * best, "{kind} {seed}: {found} {best}");
                sums = [sums[0] + found, sums[1] + best];
            }
        }
        sums
    }

    #[test]
    fn scales_are_nearly_the_best_there_are() {
        for (low, high) in [(-8, 7), (-16, 15), (-32, 31)] {
            let [found, best] = found_and_best(10, |weights| {
                let part = Part::new(weights);
                let error = |scale| part.error(Line { scale, offset: 0.0 }, low, high);
                let furthest = super::super::furthest(weights).abs();
                let scales = (1..20_000).map(|step| furthest / high as f32 * 1.5 * step as f32 / 20_000.0);
                let best = scales.flat_map(|scale| [scale, -scale]).map(error).fold(f32::INFINITY, f32::min);
                [error(part.scale(low, high)), best]
            });
            assert!(found <= 1.01 * best, "{low} to {high}: {found} {best}");
        }
    }

    #[test]
    fn lines_are_nearly_the_best_there_are() {
        for (most, below) in [(15, false), (15, true), (31, true)] {
            let [found, best] = found_and_best(3, |weights| {
                let part = Part::new(weights);
                let error = |line| part.error(line, 0, most);
                let (low, high) = super::super::range(weights);
                let low = if below { low.min(0.0) } else { low };
                let step = (high - low) / most as f32;
                let lines = (100..=220).flat_map(|share| {
                    let scale = step * share as f32 / 200.0;
                    (-40..=200).map(move |share| Line { scale, offset: low + step * share as f32 / 40.0 })
                });
                let lines = lines.filter(|line| !below || line.offset <= 0.0);
                [error(part.line(most, below)), lines.map(error).fold(f32::INFINITY, f32::min)]
            });
            assert!(found <= 1.03 * best, "{most} {below}: {found} {best}");
        }
    }

    #[test]
    fn what_is_small_or_constant_is_kept() {
        for (format, fit) in FITS {
            for tiny in [0.0, 1e-45, -1e-38, 1e-12] {
                let zeros = fitted(format, fit, &vec![tiny; format.weights]);
                assert!(zeros.iter().all(|weight| *weight == 0.0), "{}: {tiny}", format.name);
            }
            for constant in [1.0, -0.3, format.largest, -format.largest] {
                for weight in fitted(format, fit, &vec![constant; format.weights]) {
                    let off = (weight / constant - 1.0).abs();
                    assert!(off < 0.02, "{}: {constant} became {weight}", format.name);
                }
            }
        }
    }
}
