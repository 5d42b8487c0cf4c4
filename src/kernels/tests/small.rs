//! embed, norm, log_probs, rope_cache against their references.

use super::adapters::{on_every_adapter, on_every_set, pass};
use crate::kernels::{AttentionShape, CacheType, NormForm, Over, WeightFormat};
use crate::self_test::attending::{Attending, chain, tree};
use crate::self_test::small::{check_embed, check_head_norm, check_log_probs, check_norm};

#[test]
fn embed_copies_rows_of_every_format() {
    on_every_adapter(|gpu| {
        for format in WeightFormat::all() {
            for (width, vocab) in [(1, 1), (3, 5), (64, 64), (65, 103), (200, 9)] {
                let tokens: Vec<u32> = (0..19).map(|i| i * 7 % vocab as u32).chain([vocab as u32 - 1]).collect();
                pass(gpu, check_embed(gpu, format, width, vocab, &tokens));
            }
        }
    });
}

#[test]
fn norms_scale_rows() {
    on_every_set(|gpu, set| {
        for (width, rows) in [(1, 1), (2, 3), (63, 2), (256, 5), (257, 1), (2048, 32)] {
            for form in NormForm::ALL {
                for over in [Over::Rows, Over::LogitRows] {
                    pass(gpu, check_norm(gpu, set, width, rows, form, over));
                }
            }
        }
    });
}

#[test]
fn heads_are_normalised_one_by_one() {
    on_every_adapter(|gpu| {
        for (heads, width, rows) in [([1, 1], 1, 1), ([4, 2], 6, 3), ([32, 8], 128, 5), ([70, 35], 64, 64)] {
            pass(gpu, check_head_norm(gpu, heads, width, rows));
        }
    });
}

#[test]
fn log_probs_are_those_of_the_targets() {
    on_every_set(|gpu, set| {
        for (vocab, rows) in [(1, 1), (2, 2), (255, 3), (256, 1), (1003, 64), (32_000, 2), (200_000, 1)] {
            pass(gpu, check_log_probs(gpu, set, vocab, rows));
        }
    });
}

#[test]
fn rope_rotates_queries_and_fills_the_cache() {
    let shape = |heads, kv_heads, head_dim| AttentionShape::new(heads, kv_heads, head_dim, 77);
    on_every_adapter(|gpu| {
        for (shape, rotary_dim, committed) in [
            (AttentionShape { slots: 33, window: Some(3), ..shape(4, 2, 8) }, 2, 30),
            (AttentionShape { cache: CacheType::F16, ..shape(3, 3, 132) }, 32, 60),
            (shape(1, 1, 4), 4, 0),
            (shape(4, 2, 8), 2, 5),
            (shape(6, 6, 20), 10, 30),
            (shape(8, 1, 128), 128, 13),
            (shape(3, 3, 132), 32, 60),
        ] {
            let set = crate::KernelSet::Software;
            let mut attending = Attending::new(gpu, set, shape, rotary_dim);
            pass(gpu, attending.check_rope(committed, &chain(committed, &[5])));
            pass(gpu, attending.check_rope(committed, &chain(committed, &[1, 2, 3, 4, 5])));
            // Siblings share a position and differ in their slot.
            pass(gpu, attending.check_rope(committed, &tree(committed, &[7, 8, 9], &[None, Some(0), Some(0)])));
        }
    });
}
