//! nucleus, siblings, mixture, ranking against their references.

use super::adapters::{on_every_adapter, on_every_set, pass};
use crate::gpu::Gpu;
use crate::kernels::KernelSet;
use crate::self_test::bench::noise;
use crate::self_test::marginal::{check_mixture, check_nucleus, check_ranking, check_siblings};
use crate::self_test::sampling::some_logits;

/// Runs `test` for every form of the kernels; the set with subgroups has the form of the one without.
fn on_every_form(test: impl Fn(&'static Gpu, KernelSet)) {
    on_every_set(|gpu, set| {
        if set != KernelSet::Subgroup {
            test(gpu, set);
        }
    });
}

fn rows(count: u32, vocab: usize) -> Vec<Vec<f32>> {
    (0..count).map(|seed| some_logits(seed + 1, vocab)).collect()
}

#[test]
fn nuclei_are_those_of_the_reference() {
    on_every_form(|gpu, set| {
        for (vocab, count) in [(1, 1), (2, 2), (63, 3), (96, 2), (257, 2), (5003, 2)] {
            for mass in [1e-6, 0.5, 0.9, 0.99, 1.0] {
                for most in [1, 8, vocab as u32] {
                    pass(gpu, check_nucleus(gpu, set, &rows(count, vocab), mass, most));
                }
            }
        }
    });
}

#[test]
fn ties_of_a_nucleus_go_by_id() {
    on_every_form(|gpu, set| {
        let flat = vec![vec![2.5; 300]];
        for (mass, most) in [(0.5, 300), (0.1, 300), (1.0, 7), (1.0, 65), (0.25, 64)] {
            pass(gpu, check_nucleus(gpu, set, &flat, mass, most));
        }
        // The two zeros are one value, and a spike leaves the others without weight.
        let mut zeros = vec![-0.0; 80];
        zeros[1..].iter_mut().step_by(2).for_each(|zero| *zero = 0.0);
        pass(gpu, check_nucleus(gpu, set, &[zeros.clone()], 0.3, 80));
        zeros[40] = 300.0;
        for mass in [0.9, 1.0] {
            pass(gpu, check_nucleus(gpu, set, &[zeros.clone()], mass, 80));
        }
    });
}

#[test]
fn a_large_vocabulary_is_listed_to_its_end() {
    on_every_form(|gpu, set| {
        for (mass, most) in [(0.99, 200_000), (1.0, 8)] {
            pass(gpu, check_nucleus(gpu, set, &rows(1, 200_000), mass, most));
        }
        pass(gpu, check_mixture(gpu, set, 200_000, 2, 1));
        pass(gpu, check_ranking(gpu, set, &weights(1, 200_000), 10));
    });
}

#[test]
fn stars_walk_through_their_branches() {
    on_every_adapter(|gpu| {
        for (context, position, count, most) in
            [(100, 20, 8, 8), (100, 20, 70, 32), (100, 20, 3, 8), (100, 95, 30, 32), (100, 100, 9, 8), (64, 1, 1, 1)]
        {
            pass(gpu, check_siblings(gpu, context, position, count, most));
        }
    });
}

#[test]
fn mixtures_are_weighted_softmaxes() {
    on_every_form(|gpu, set| {
        for (vocab, rows, chunks) in [(1, 1, 1), (5, 3, 2), (96, 32, 3), (257, 7, 66), (1003, 32, 1), (4, 1, 200)] {
            pass(gpu, check_mixture(gpu, set, vocab, rows, chunks));
        }
    });
}

/// Values above 0 that are no distribution.
fn weights(count: u32, vocab: usize) -> Vec<Vec<f32>> {
    (0..count).map(|seed| noise(seed + 70, vocab).iter().map(|x| (5.0 * x).exp()).collect()).collect()
}

#[test]
fn rankings_are_those_of_the_reference() {
    on_every_form(|gpu, set| {
        for (vocab, count) in [(1, 1), (2, 2), (63, 3), (257, 1), (5003, 2)] {
            for top in [1, 5, 100, vocab].into_iter().filter(|top| *top <= vocab) {
                pass(gpu, check_ranking(gpu, set, &weights(count, vocab), top));
            }
        }
        // Most tokens may have a probability of 0 in f32.
        let mut sparse = vec![0.0; 400];
        sparse[390] = 0.5;
        sparse[17] = 0.25;
        for top in [1, 5, 70, 300] {
            pass(gpu, check_ranking(gpu, set, &[sparse.clone()], top));
        }
    });
}
