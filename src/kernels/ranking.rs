//! What comes back of a distribution: its largest values, and some sums.

use bytemuck::{Pod, Zeroable};

use super::declared::{Declared, layout};
use super::{Branch, Grid, KernelSet, Op};
use crate::gpu::{Buffer, Gpu, Variant};

/// What is declared here, for the table of `kernels`.
pub(in crate::kernels) const KERNELS: &[Declared] =
    &[Declared::new(|set| vec![ranking_variant(set)]).params(layout!(RankingParams: vocab, stride, top))];

/// The uniform of `ranking.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct RankingParams {
    pub vocab: u32,
    pub stride: u32,
    /// At most the vocabulary.
    pub top: u32,
    pub pad: u32,
}

/// What `ranking` says of one row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ranking {
    /// The sum of the values, and that of value * ln(value).
    pub sum: f32,
    pub sum_log: f32,
    /// The target's value, and how many tokens stand before it.
    pub target: f32,
    pub before_target: u32,
    /// The largest values, largest first, ties by id.
    pub top: Vec<Branch>,
}

impl Ranking {
    /// Words of a report with `top` entries.
    pub const fn words(top: usize) -> usize {
        4 + 2 * top
    }

    /// Reads a report. The GPU orders short lists only.
    pub fn of(report: &[u32]) -> Self {
        let entry = |words: &[u32]| Branch { token: words[0], probability: f32::from_bits(words[1]) };
        let mut top: Vec<Branch> = report[4..].chunks_exact(2).map(entry).collect();
        top.sort_by(|a, b| b.probability.total_cmp(&a.probability).then(a.token.cmp(&b.token)));
        Self {
            sum: f32::from_bits(report[0]),
            sum_log: f32::from_bits(report[1]),
            target: f32::from_bits(report[2]),
            before_target: report[3],
            top,
        }
    }

    /// Nats of the distribution that the values are in proportion to.
    pub fn entropy(&self) -> f64 {
        let sum = f64::from(self.sum);
        (sum.ln() - f64::from(self.sum_log) / sum).max(0.0)
    }
}

/// How many distributions there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ranked {
    One,
    /// One for each row whose logits are wanted.
    LogitRows,
}

/// The buffers of `ranking`. `params` is written anew for each question.
#[derive(Clone, Copy)]
pub(crate) struct RankingIo<'a> {
    pub params: &'a Buffer,
    /// Distributions, each in proportion to these.
    pub values: &'a Buffer,
    /// A token for each.
    pub targets: &'a Buffer,
    /// [`Ranking::words`] for each.
    pub reports: &'a Buffer,
}

/// The variant of a set.
pub(crate) fn ranking_variant(set: KernelSet) -> Variant {
    set.with_vocabulary_reduce(Variant::of("ranking"))
}

/// A report on each of `ranked`.
pub(crate) fn ranking(gpu: &Gpu, set: KernelSet, ranked: Ranked, io: RankingIo<'_>) -> Op {
    let kernel = gpu.kernel(&ranking_variant(set));
    let bind_group = gpu.bind(&kernel, &[io.params, io.values, io.targets, io.reports]);
    let grid = match ranked {
        Ranked::One => Grid::One,
        Ranked::LogitRows => Grid::LogitRows { x: 1 },
    };
    Op::single(kernel, bind_group, grid)
}
