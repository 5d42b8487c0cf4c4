//! Buffers and ops, made when a session first marginalizes and kept.

use std::collections::VecDeque;

use super::draft::DraftOps;
use super::options::MarginalOptions;
use super::text::POSITIONS;
use crate::Result;
use crate::gpu::{Buffer, Gpu, Pending, Staging, Submission};
use crate::kernels::{
    Branch, Cursor, MAX_BATCH_ROWS, MixtureIo, NormalizerIo, Nucleus, NucleusIo, NucleusParams, Op, Ranked, Ranking,
    RankingIo, RankingParams, SiblingsIo, mixture, normalizer, nucleus, ranking, siblings,
};
use crate::model::{Buffers, Model, lm_head_partials, lm_head_with_partials};

/// Submits that may be on their way: one runs while the host prepares the other.
const IN_FLIGHT: usize = 2;

/// A row's list of a tree is never longer than this without being asked for.
const TREE_LIST: usize = 4096;

/// What a submit may consist of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// From rows to the residual stream, and on to logits.
    Body,
    /// After the body: its rows are committed, as those of a text are.
    Settle,
    LmHead,
    /// Which tokens may come after each row.
    Nucleus,
    /// The next branches become the batch under way.
    Siblings,
    /// From the residual stream: the rows' softmaxes join the mixture. Logits are read once.
    Mix,
    /// Reports on the mixture, and on the rows' own distributions.
    RankMixture,
    RankRows,
}

/// What marginalization keeps on the GPU beside the session's own.
pub(crate) struct Workspace {
    vocab: u32,
    stride: u32,
    nucleus_params: Buffer,
    ranking_params: Buffer,
    pub(super) nuclei: Buffer,
    pub(super) branches: Buffer,
    pub(super) cursor: Buffer,
    pub(super) row_weights: Buffer,
    pub(super) targets: Buffer,
    pub(super) reports: Buffer,
    nucleus: Op,
    siblings: Op,
    mix: Vec<Op>,
    /// Softmax partials that the LM head keeps of a row.
    partials: u32,
    rank_mixture: Op,
    rank_rows: Op,
    pub(super) draft: DraftOps,
    staging: Vec<Staging>,
    in_flight: VecDeque<(Pending, usize)>,
    next_staging: usize,
}

impl Workspace {
    /// For a session whose rounds draft as `tree` says.
    pub fn new(model: &Model, b: &Buffers, tree: &Buffer) -> Self {
        let (gpu, set) = (&model.gpu, model.kernels);
        let (vocab, stride) = (model.sizes.vocab, model.sizes.vocab_stride());
        let all = vocab as usize;
        let storage = |label: &str, items: usize, bytes: usize| gpu.storage(label, (items * bytes) as u64);
        let listed = (POSITIONS * all).max(MAX_BATCH_ROWS * all.min(TREE_LIST));
        let nuclei = storage("nuclei", MAX_BATCH_ROWS, size_of::<Nucleus>());
        let branches = storage("branches", listed, size_of::<Branch>());
        let cursor = storage("cursor", 1, size_of::<Cursor>());
        let row_weights = storage("row weights", MAX_BATCH_ROWS, 4);
        let kept = lm_head_partials(model);
        let partials = storage("partials", MAX_BATCH_ROWS * kept as usize, 8);
        let normalizers = storage("normalizers", MAX_BATCH_ROWS, 8);
        let mixed = storage("mixture", stride as usize, 4);
        let parts = storage("parts of the mixture", stride as usize, 8);
        let targets = storage("targets", MAX_BATCH_ROWS, 4);
        let reports = storage("reports", POSITIONS * Ranking::words(all), 4);
        let nucleus_params = gpu.uniform("nucleus", &<NucleusParams as bytemuck::Zeroable>::zeroed());
        let ranking_params = gpu.uniform("ranking", &<RankingParams as bytemuck::Zeroable>::zeroed());
        let nucleus_io = NucleusIo {
            params: &nucleus_params,
            state: &b.state,
            rows: &b.rows,
            logits: &b.logits,
            probabilities: &b.probabilities,
            nuclei: &nuclei,
            branches: &branches,
        };
        let siblings_io = SiblingsIo {
            cursor: &cursor,
            nuclei: &nuclei,
            branches: &branches,
            state: &b.state,
            rows: &b.rows,
            row_weights: &row_weights,
        };
        let mixture_io = MixtureIo {
            state: &b.state,
            cursor: &cursor,
            normalizers: &normalizers,
            logits: &b.logits,
            parts: &parts,
            mixture: &mixed,
        };
        let sums = NormalizerIo { row_weights: &row_weights, partials: &partials, normalizers: &normalizers };
        let mut mix = lm_head_with_partials(model, b, &partials);
        mix.push(normalizer(gpu, set, kept, sums));
        mix.push(mixture(gpu, stride, mixture_io));
        let of_mixture = RankingIo { params: &ranking_params, values: &mixed, targets: &targets, reports: &reports };
        let of_rows = RankingIo { values: &b.probabilities, ..of_mixture };
        Self {
            vocab,
            stride,
            nucleus: nucleus(gpu, set, nucleus_io),
            siblings: siblings(gpu, model.sizes.context, siblings_io),
            mix,
            partials: kept,
            rank_mixture: ranking(gpu, set, Ranked::One, of_mixture),
            rank_rows: ranking(gpu, set, Ranked::LogitRows, of_rows),
            draft: DraftOps::new(model, b, tree, &mixed),
            staging: (0..IN_FLIGHT + 1).map(|_| Staging::new(gpu, cursor.size())).collect(),
            in_flight: VecDeque::new(),
            next_staging: 0,
            nucleus_params,
            ranking_params,
            nuclei,
            branches,
            cursor,
            row_weights,
            targets,
            reports,
        }
    }

    /// The op that finds nuclei, for other rows than the session's.
    pub fn nucleus_of(&self, model: &Model, b: &Buffers, state: &Buffer, rows: &Buffer) -> Op {
        let io = NucleusIo {
            params: &self.nucleus_params,
            state,
            rows,
            logits: &b.logits,
            probabilities: &b.probabilities,
            nuclei: &self.nuclei,
            branches: &self.branches,
        };
        nucleus(&model.gpu, model.kernels, io)
    }

    /// Bytes read of `rows` rows for the mixture: the logits, and what the LM head kept of them.
    pub fn mixed_bytes(&self, rows: usize) -> u64 {
        rows as u64 * (4 * u64::from(self.vocab) + 8 * u64::from(self.partials))
    }

    /// How many entries a report lists.
    pub fn top(&self, options: &MarginalOptions) -> usize {
        options.top.min(self.vocab as usize)
    }

    /// Says what nuclei and reports are wanted. Returns how many branches a row may list, which is also its room.
    pub fn ask(&self, gpu: &Gpu, options: &MarginalOptions, most: usize) -> usize {
        let most = most.min(self.vocab as usize);
        let (vocab, stride) = (self.vocab, self.stride);
        let params = NucleusParams {
            vocab,
            stride,
            mass: options.kernel_mass(),
            most: most as u32,
            capacity: most as u32,
            pad: [0; 3],
        };
        gpu.write(&self.nucleus_params, 0, &[params]);
        let top = self.top(options) as u32;
        gpu.write(&self.ranking_params, 0, &[RankingParams { vocab, stride, top, pad: 0 }]);
        most
    }

    /// How many rows' lists of `capacity` branches there is room for.
    pub fn lists(&self, capacity: usize) -> usize {
        (self.branches.size() as usize / size_of::<Branch>() / capacity).min(MAX_BATCH_ROWS)
    }

    /// The ops of a part beyond the forward pass.
    pub(super) fn ops(&self, part: Part) -> &[Op] {
        match part {
            Part::Nucleus => std::slice::from_ref(&self.nucleus),
            Part::Siblings => std::slice::from_ref(&self.siblings),
            Part::Mix => &self.mix,
            Part::RankMixture => std::slice::from_ref(&self.rank_mixture),
            Part::RankRows => std::slice::from_ref(&self.rank_rows),
            Part::Body | Part::Settle | Part::LmHead => &[],
        }
    }

    /// Waits until one more submit may be on its way.
    pub async fn make_room(&mut self, gpu: &Gpu) -> Result<()> {
        while self.in_flight.len() >= IN_FLIGHT {
            self.receive(gpu).await?;
        }
        Ok(())
    }

    /// What the next submit copies where. Nobody reads it: that it comes back is the news.
    pub fn staging(&self) -> (&Buffer, &Staging) {
        (&self.cursor, &self.staging[self.next_staging])
    }

    /// A submit with it is on its way.
    pub fn sent(&mut self, submission: Submission) {
        let at = self.next_staging;
        self.in_flight.push_back((self.staging[at].read_after(submission), at));
        self.next_staging = (at + 1) % self.staging.len();
    }

    async fn receive(&mut self, gpu: &Gpu) -> Result<()> {
        if let Some((pending, at)) = self.in_flight.pop_front() {
            self.staging[at].take::<u32>(gpu, pending).await?;
        }
        Ok(())
    }

    /// Waits for everything on its way.
    pub async fn drain(&mut self, gpu: &Gpu) -> Result<()> {
        while !self.in_flight.is_empty() {
            self.receive(gpu).await?;
        }
        gpu.check()
    }
}
