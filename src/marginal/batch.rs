//! Batches of rows: the text, the siblings beyond it, and what is read back.

use super::answer::{Branches, Cost, Marginals, Scaled};
use super::options::MarginalOptions;
use super::workspace::{Part, Workspace};
use crate::Result;
use crate::gpu::{Buffer, Recorder, Staging, Submission};
use crate::kernels::{Branch, Cursor, Extent, MAX_BATCH_ROWS, Nucleus, Ranking, Row, State};
use crate::model::{Buffers, Model, Plan, Progress};

/// A session's parts while it marginalizes.
pub(crate) struct Run<'a> {
    pub model: &'a Model,
    pub buffers: &'a Buffers,
    pub plan: &'a Plan,
    pub work: &'a mut Workspace,
    pub options: &'a MarginalOptions,
}

impl Run<'_> {
    /// The distribution some places after `ids`, of which the first `cached` are in the cache.
    pub async fn marginals(
        &mut self,
        ids: &[u32],
        cached: usize,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Marginals> {
        self.work.drain(&self.model.gpu).await?;
        self.read_text(ids, cached.min(ids.len() - 1), progress).await?;
        let most = if self.options.offset == 2 { self.options.branches(self.vocab()) } else { self.vocab() };
        self.work.ask(&self.model.gpu, self.options, most);
        let nucleus = self.nuclei(1).await?[0];
        let mut cost = Cost::default();
        let (branches, ranking) = match self.options.offset {
            1 => (Branches::NONE, self.rank_row().await?),
            2 => {
                let branches = self.siblings(0, nucleus, &mut cost, progress).await?;
                (branches, self.rank_mixture(0).await?)
            }
            _ => {
                let first = self.branches(nucleus.count as usize).await?;
                let branches = self.tree(nucleus, first, &mut cost, progress).await?;
                (branches, self.rank_mixture(0).await?)
            }
        };
        let scaled = match self.options.offset {
            1 => Scaled::softmax(&ranking),
            _ => Scaled::mixture(&ranking, branches),
        };
        Ok(Marginals {
            offset: self.options.offset,
            mass_covered: branches.covered,
            branches: branches.count,
            capped: branches.capped,
            top: scaled.top(),
            entropy: ranking.entropy(),
            cost,
        })
    }

    pub(super) fn vocab(&self) -> usize {
        self.model.sizes.vocab as usize
    }

    /// Rows that a batch beyond `position` tokens may have.
    pub(super) fn room(&self, position: usize) -> usize {
        MAX_BATCH_ROWS.min(self.model.sizes.context as usize - position)
    }

    /// Reads `ids` from `first` on; the last row's logits are wanted.
    async fn read_text(
        &mut self,
        ids: &[u32],
        first: usize,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<()> {
        let total = ids.len() - first;
        for at in (first..ids.len()).step_by(MAX_BATCH_ROWS) {
            let rows = MAX_BATCH_ROWS.min(ids.len() - at);
            let last = at + rows == ids.len();
            self.write_text(ids, at, rows, if last { rows - 1 } else { 0 });
            let extent = Extent { rows: rows as u32, logit_rows: 1, keys: (at + rows) as u32 };
            let parts = if last { &[Part::Body, Part::Settle, Part::LmHead][..] } else { &[Part::Body, Part::Settle] };
            self.send(parts, extent).await?;
            progress(Progress::Prefill { tokens: at + rows - first, total });
        }
        Ok(())
    }

    /// Makes `rows` tokens of a text from `first` on the batch under way.
    pub(super) fn write_text(&self, ids: &[u32], first: usize, rows: usize, logit_row: usize) {
        let row = |at: usize| Row { token: ids[at], position: at as u32, ..Row::default() };
        let batch: Vec<Row> = (first..first + rows).map(row).collect();
        self.write_batch(first, &batch, logit_row);
    }

    /// Makes `rows` after `committed` tokens the batch under way.
    pub(super) fn write_batch(&self, committed: usize, rows: &[Row], logit_row: usize) {
        let state = State {
            committed: committed as u32,
            num_rows: rows.len() as u32,
            logit_row: logit_row as u32,
            ..State::default()
        };
        self.model.gpu.write(&self.buffers.rows, 0, rows);
        self.model.gpu.write(&self.buffers.state, 0, &[state]);
    }

    /// Sends parts on their way.
    pub(super) async fn send(&mut self, parts: &[Part], extent: Extent) -> Result<()> {
        self.work.make_room(&self.model.gpu).await?;
        let submission = self.submit(parts, extent, self.work.staging());
        self.work.sent(submission);
        Ok(())
    }

    /// Runs parts, then reads the first `count` items of `source`.
    pub(super) async fn read<T: bytemuck::AnyBitPattern>(
        &self,
        parts: &[Part],
        extent: Extent,
        source: &Buffer,
        count: usize,
    ) -> Result<Vec<T>> {
        let staging = Staging::new(&self.model.gpu, (count * size_of::<T>()) as u64);
        let submission = self.submit(parts, extent, (source, &staging));
        let pending = staging.read_after(submission);
        staging.take(&self.model.gpu, pending).await
    }

    fn submit(&self, parts: &[Part], extent: Extent, copy: (&Buffer, &Staging)) -> Submission {
        let ops = |part: &Part| match part {
            Part::Body => &self.plan.body[..],
            Part::Settle => &self.plan.settle[..],
            Part::LmHead => &self.plan.lm_head[..],
            part => self.work.ops(*part),
        };
        let record = |recorder: &mut Recorder<'_>| {
            parts.iter().flat_map(ops).for_each(|op| op.record(recorder, extent));
        };
        self.model.gpu.submit(None, record, Some(copy))
    }

    /// The nuclei of `rows` rows whose logits are there.
    pub(super) async fn nuclei(&self, rows: usize) -> Result<Vec<Nucleus>> {
        self.read(&[Part::Nucleus], on_logits(rows), &self.work.nuclei, rows).await
    }

    /// The first `count` listed branches.
    pub(super) async fn branches(&self, count: usize) -> Result<Vec<Branch>> {
        self.read(&[], on_logits(0), &self.work.branches, count).await
    }

    /// Sums over the branches of a nucleus, list `list` of those on the GPU.
    pub(super) async fn siblings(
        &mut self,
        list: usize,
        nucleus: Nucleus,
        cost: &mut Cost,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Branches> {
        let position = nucleus.position as usize;
        let (total, most) = (nucleus.count as usize, self.room(position));
        let cursor = Cursor { nucleus: list as u32, most: most as u32, advance: 1, ..Cursor::default() };
        self.model.gpu.write(&self.work.cursor, 0, &[cursor]);
        self.model.gpu.write(&self.buffers.state, 0, &[State::default()]);
        for first in (0..total).step_by(most) {
            let rows = most.min(total - first);
            self.send(&[Part::Siblings, Part::Body, Part::Mix], extent(rows, position + 1)).await?;
            self.count(cost, rows, position + 1);
            progress(Progress::Branches { done: first + rows, total });
        }
        Ok(Branches {
            covered: nucleus.covered.into(),
            left_out: nucleus.left_out.into(),
            count: total,
            capped: nucleus.count < nucleus.size,
        })
    }

    /// Adds a forward pass of `rows` rows that see up to `keys` keys, and what is read of their logits.
    pub(super) fn count(&self, cost: &mut Cost, rows: usize, keys: usize) {
        cost.rows += rows as u64;
        cost.chunks += 1;
        cost.bytes += self.model.read_bytes(rows, keys) + self.work.mixed_bytes(rows);
    }

    /// A report on the mixture with `target` in it.
    pub(super) async fn rank_mixture(&self, target: u32) -> Result<Ranking> {
        self.model.gpu.write(&self.work.targets, 0, &[target]);
        let words = Ranking::words(self.work.top(self.options));
        let report = self.read(&[Part::RankMixture], on_logits(1), &self.work.reports, words).await?;
        Ok(Ranking::of(&report))
    }

    /// A report on the row whose nucleus was asked for.
    async fn rank_row(&self) -> Result<Ranking> {
        let words = Ranking::words(self.work.top(self.options));
        let report = self.read(&[Part::RankRows], on_logits(1), &self.work.reports, words).await?;
        Ok(Ranking::of(&report))
    }
}

/// Rows that all want logits.
pub(super) fn extent(rows: usize, keys: usize) -> Extent {
    Extent { rows: rows as u32, logit_rows: rows as u32, keys: keys as u32 }
}

/// For what works on logits alone.
pub(super) fn on_logits(rows: usize) -> Extent {
    extent(rows, 0)
}
