//! scores, softmax and values: right for chains, trees, siblings and prefill, and rows that do not feel each other.

use super::adapters::{on_every_set, pass};
use crate::gpu::Gpu;
use crate::kernels::{AttentionShape, CacheType, KernelSet, MAX_BATCH_ROWS, MAX_CHUNK_ROWS};
use crate::reference::random::pcg4d;
use crate::self_test::attending::{Attending, Token, chain, tree};
use crate::self_test::attention_is_invariant;
use crate::self_test::bench::bits;

fn shape(heads: u32, kv_heads: u32, head_dim: u32, context: u32) -> AttentionShape {
    AttentionShape::new(heads, kv_heads, head_dim, context)
}

/// A shape whose positions see a window.
fn within(window: u32, shape: AttentionShape) -> AttentionShape {
    AttentionShape { window: Some(window), ..shape }
}

/// A shape over a cache of so many slots.
fn ring(window: u32, slots: u32, shape: AttentionShape) -> AttentionShape {
    AttentionShape { window: Some(window), slots, ..shape }
}

/// Parents of a random tree of the widest batch.
fn random_parents(seed: u32) -> Vec<Option<usize>> {
    let parent = |i: usize| {
        let r = pcg4d([seed, i as u32, 9, 9]);
        // One in five starts anew; the others follow one of the last six rows.
        (i > 0 && !r[0].is_multiple_of(5)).then(|| i - 1 - r[1] as usize % i.min(6))
    };
    (0..MAX_BATCH_ROWS).map(parent).collect()
}

#[test]
fn scores_have_soft_caps() {
    on_every_set(|gpu, set| {
        let whole = shape(4, 2, 12, 300);
        for shape in [whole, ring(20, 84, whole), AttentionShape { cache: CacheType::F16, ..whole }] {
            let mut attending = Attending::capped(gpu, set, shape, 12);
            pass(gpu, attending.check(17, &tree(17, &contents(), &random_parents(3))));
            pass(gpu, attending.check(200, &prefill(200, MAX_CHUNK_ROWS)));
            let invariant = pollster::block_on(attention_is_invariant(&mut attending, 63));
            assert_eq!(invariant, Ok(true), "{}, {set}, {shape}", gpu.summary());
        }
    });
}

fn contents() -> Vec<u32> {
    (0..MAX_BATCH_ROWS as u32).collect()
}

/// A chunk of a prompt, which needs no masks.
fn prefill(committed: u32, rows: usize) -> Vec<Token> {
    (0..rows as u32).map(|i| Token { content: i, position: committed + i, mask: 0 }).collect()
}

#[test]
fn attention_is_right() {
    on_every_set(|gpu, set| {
        let halves = |shape| AttentionShape { cache: CacheType::F16, ..shape };
        for (shape, rotary_dim, committed) in [
            (halves(shape(4, 2, 8, 100)), 6, 17),
            (halves(shape(3, 3, 132, 65)), 32, 1),
            (ring(5, 69, shape(4, 2, 8, 300)), 6, 130),
            (halves(ring(40, 104, shape(6, 6, 64, 350))), 64, 256),
            (shape(1, 1, 4, 64), 4, 0),
            (shape(4, 2, 8, 100), 6, 17),
            (shape(6, 6, 64, 350), 64, 256),
            (shape(8, 1, 20, 70), 10, 6),
            (shape(3, 3, 132, 65), 32, 1),
            (within(1, shape(4, 2, 8, 100)), 6, 17),
            (within(5, shape(4, 2, 8, 100)), 6, 17),
            (within(40, shape(6, 6, 64, 350)), 64, 256),
            (within(300, shape(6, 6, 64, 350)), 64, 256),
        ] {
            let mut attending = Attending::new(gpu, set, shape, rotary_dim);
            pass(gpu, attending.check(committed, &chain(committed, &[1])));
            pass(gpu, attending.check(committed, &chain(committed, &contents())));
            pass(gpu, attending.check(committed, &tree(committed, &contents(), &random_parents(committed))));
            pass(gpu, attending.check(committed, &tree(committed, &contents(), &[None; MAX_BATCH_ROWS])));
            pass(gpu, attending.check(committed, &prefill(committed, MAX_CHUNK_ROWS)));
        }
    });
}

/// Committed lengths around multiples of everything that keys are split by.
const BORDERS: [u32; 9] = [0, 1, 15, 16, 63, 64, 255, 256, 257];

#[test]
fn a_path_has_the_same_bits_alone_as_a_chain_and_in_a_tree() {
    on_every_set(|gpu, set| {
        let whole = shape(4, 2, 12, 300);
        for shape in [
            whole,
            within(20, whole),
            ring(20, 26, whole),
            AttentionShape { cache: CacheType::F16, ..whole },
            AttentionShape { cache: CacheType::F16, ..ring(20, 31, whole) },
        ] {
            let mut attending = Attending::new(gpu, set, shape, 12);
            for committed in BORDERS {
                let invariant = pollster::block_on(attention_is_invariant(&mut attending, committed));
                assert_eq!(invariant, Ok(true), "{}, {set}, {shape}, {committed} committed", gpu.summary());
            }
        }
    });
}

#[test]
fn a_ring_has_the_bits_of_a_cache_with_a_slot_for_each_position() {
    on_every_set(|gpu, set| {
        for cache in CacheType::ALL {
            let whole = AttentionShape { cache, ..within(20, shape(4, 2, 12, 300)) };
            let mut sessions = [whole, ring(20, 84, whole)].map(|shape| Attending::new(gpu, set, shape, 12));
            // A text that goes round three times, in chunks, and then drafts after it.
            let mut outputs: [Vec<Vec<u32>>; 2] = Default::default();
            for (attending, outputs) in sessions.iter_mut().zip(&mut outputs) {
                let mut step = |committed, tokens: &[Token]| {
                    let rows = pollster::block_on(attending.step(committed, tokens)).expect("the device works");
                    outputs.extend(rows.iter().map(|row| bits(row)));
                };
                (0..4).for_each(|chunk| step(64 * chunk, &prefill(64 * chunk, MAX_CHUNK_ROWS)));
                step(256, &tree(256, &contents(), &random_parents(7)));
                step(256, &chain(256, &contents()));
                step(240, &tree(240, &contents(), &[None; MAX_BATCH_ROWS]));
            }
            assert!(outputs[0] == outputs[1], "{}, {set}, {cache}", gpu.summary());
        }
    });
}

/// The rows of a tree, but in an order in which its branches lie apart: leaves of one depth after the other.
fn by_depth(parents: &[Option<usize>]) -> Vec<usize> {
    let depth = |mut row: usize| std::iter::from_fn(|| parents[row].inspect(|&parent| row = parent)).count();
    let mut order: Vec<usize> = (0..parents.len()).collect();
    order.sort_by_key(|&row| (depth(row), std::cmp::Reverse(row)));
    order
}

#[test]
fn rows_of_random_trees_do_not_feel_each_other() {
    on_every_set(|gpu, set| {
        for (seed, committed) in [(1, 0), (2, 30), (3, 241), (4, 256)] {
            check_tree(gpu, set, committed, &random_parents(seed));
        }
    });
}

/// A tree as drawn, the same in another order of rows, and some of its paths by themselves.
fn check_tree(gpu: &Gpu, set: KernelSet, committed: u32, parents: &[Option<usize>]) {
    let mut attending = Attending::new(gpu, set, shape(4, 2, 12, 300), 12);
    let mut step = |tokens: &[Token]| pollster::block_on(attending.step(committed, tokens)).expect("the device works");
    let drawn = step(&tree(committed, &contents(), parents));

    let order = by_depth(parents);
    let place = |row: usize| order.iter().position(|&other| other == row).expect("a permutation");
    let moved: Vec<_> = order.iter().map(|&row| parents[row].map(place)).collect();
    let contents: Vec<u32> = order.iter().map(|&row| row as u32).collect();
    for (&row, y) in order.iter().zip(step(&tree(committed, &contents, &moved))) {
        assert_eq!(bits(&y), bits(&drawn[row]), "{}, {set}: row {row} in another order", gpu.summary());
    }
    for leaf in [5, 18, 31] {
        let mut path: Vec<usize> = std::iter::successors(Some(leaf), |&row| parents[row]).collect();
        path.reverse();
        let alone = step(&chain(committed, &path.iter().map(|&row| row as u32).collect::<Vec<_>>()));
        for (&row, y) in path.iter().zip(alone) {
            assert_eq!(bits(&y), bits(&drawn[row]), "{}, {set}: row {row} of the path to {leaf}", gpu.summary());
        }
    }
}
