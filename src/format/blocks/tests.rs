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
