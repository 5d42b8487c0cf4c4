//! Drafts, trees and commits against their references.

use super::adapters::{on_every_adapter, on_every_set, pass};
use crate::kernels::{AttentionShape, CacheType, KernelSet};
use crate::self_test::rounds::{Drafts, Rounds, check_compact, check_draft_top, check_prompt_end, check_trace};

const TEXT: [u32; 6] = [5, 2, 5, 3, 5, 2];

/// Every way in which four drafts can be right or wrong, the drafts being `position % 7` after a text of six tokens.
fn patterns() -> impl Iterator<Item = Vec<u32>> {
    (0..1u32 << 5).map(|pattern| {
        // The target's own token is the draft, or one that nobody drafts.
        (0..5u32).map(|at| if pattern >> at & 1 == 1 { (6 + at) % 7 } else { 30 + at }).collect()
    })
}

#[test]
fn every_pattern_of_right_and_wrong_drafts() {
    on_every_adapter(|gpu| {
        for pattern in patterns() {
            let rounds = Rounds::new(gpu, KernelSet::Software, &TEXT, &[1, 1, 1, 1]);
            pass(gpu, rounds.check(Drafts::Recorded, &[&pattern]));
        }
    });
}

#[test]
fn every_path_through_a_tree() {
    on_every_adapter(|gpu| {
        // Candidates of depth d are (6 + d) % 7 and that plus 1; 39 is nobody's.
        let token = |depth: u32, rank: u32| if rank < 2 { (6 + depth) % 7 + rank } else { 39 };
        for path in 0..3u32.pow(4) {
            let sampled: Vec<u32> = (0..4).map(|depth| token(depth, path / 3u32.pow(depth) % 3)).collect();
            let rounds = Rounds::new(gpu, KernelSet::Software, &TEXT, &[2, 2, 2, 2]);
            pass(gpu, rounds.check(Drafts::Recorded, &[&sampled]));
        }
    });
}

#[test]
fn a_text_ends_inside_a_draft() {
    on_every_adapter(|gpu| {
        let right: Vec<u32> = (0..5).map(|at| (6 + at) % 7).collect();
        for end in 0..5 {
            let mut rounds = Rounds::new(gpu, KernelSet::Software, &TEXT, &[1, 1, 1, 1]);
            rounds.end_tokens = vec![38, right[end]];
            pass(gpu, rounds.check(Drafts::Recorded, &[&right, &right]));
            let mut rounds = Rounds::new(gpu, KernelSet::Software, &TEXT, &[2, 1, 1]);
            rounds.limit = 7 + end as u32;
            pass(gpu, rounds.check(Drafts::Recorded, &[&right, &right]));
            // Rows past the last slot cannot be accepted, whatever they say.
            let mut rounds = Rounds::new(gpu, KernelSet::Software, &TEXT, &[2, 1, 1]);
            (rounds.context, rounds.limit) = (8 + end as u32, 8 + end as u32);
            pass(gpu, rounds.check(Drafts::Recorded, &[&right, &right]));
        }
    });
}

#[test]
fn lookup_finds_the_longest_and_latest_match() {
    on_every_set(|gpu, set| {
        let texts: [&[u32]; 5] = [
            &[1],
            &[1, 1],
            &[1, 2, 3, 9, 1, 2, 3, 8, 2, 3, 7, 1, 2, 3],
            &[4, 5, 4, 5, 4, 5, 4, 5],
            &[7, 1, 2, 3, 4, 5, 6],
        ];
        for text in texts {
            for children in [&[1, 1, 1, 1, 1][..], &[3, 2, 1], &[1]] {
                let rounds = Rounds::new(gpu, set, text, children);
                pass(gpu, rounds.check(Drafts::Lookup, &[&[4, 5, 4], &[1, 2], &[3, 8]]));
            }
        }
    });
}

#[test]
fn a_prompt_ends_with_its_first_token() {
    on_every_adapter(|gpu| {
        for (num_rows, id, limit) in [(1, 3, 60), (30, 9, 60), (64, 4, 65), (7, 9, 8)] {
            pass(gpu, check_prompt_end(gpu, num_rows, id, limit));
        }
    });
}

#[test]
fn accepted_rows_move_together() {
    let shape = |kv_heads, head_dim| AttentionShape::new(kv_heads, kv_heads, head_dim, 40);
    on_every_adapter(|gpu| {
        for (shape, first, path) in [
            (shape(1, 4), 0, &[0, 1, 2][..]),
            (AttentionShape { slots: 17, window: Some(4), ..shape(3, 8) }, 12, &[0, 2, 9]),
            (AttentionShape { cache: CacheType::F16, ..shape(2, 132) }, 9, &[0, 1, 5, 13, 30]),
            (shape(3, 8), 5, &[0, 2, 9]),
            (shape(2, 132), 9, &[0, 1, 5, 13, 30]),
            (shape(2, 64), 8, &[]),
        ] {
            pass(gpu, check_compact(gpu, shape, first, path));
        }
    });
}

#[test]
fn a_trace_says_what_the_target_thought() {
    on_every_set(|gpu, set| {
        for vocab in [5, 300, 32_000] {
            pass(gpu, check_trace(gpu, set, vocab));
        }
    });
}

#[test]
fn heads_draft_their_likeliest_tokens() {
    on_every_set(|gpu, set| {
        for (vocab, temperature) in [(5, 0.0), (300, 0.0), (300, 0.7), (32_000, 1.3)] {
            pass(gpu, check_draft_top(gpu, set, vocab, temperature, false));
            pass(gpu, check_draft_top(gpu, set, vocab, temperature, true));
        }
    });
}
