//! Every position of a given text, teacher-forced.

use std::collections::VecDeque;

use super::answer::{Branches, Cost, Prediction, Scaled, TextPosition};
use super::batch::{Run, extent, on_logits};
use super::workspace::Part;
use crate::Result;
use crate::kernels::{Branch, Extent, MAX_BATCH_ROWS, Nucleus, Ranking};

/// Positions whose nuclei are found in one pass.
pub(super) const POSITIONS: usize = 8;

/// Goes through a text from some position on.
///
/// A few tokens at a time go through the model, and the branches of the last one first: their rows lie in the cache where
/// the text goes on, so what siblings overwrite is done with. The tokens are read again with those that follow.
pub(crate) struct TextReader {
    ids: Vec<u32>,
    /// The next position to find out about.
    next: usize,
    /// Tokens of the text that lie in the cache.
    cached: usize,
    found: VecDeque<TextPosition>,
}

impl TextReader {
    /// From the position `start` on, which is that of the last token seen.
    pub fn new(ids: Vec<u32>, start: usize) -> Self {
        Self { ids, next: start, cached: 0, found: VecDeque::new() }
    }

    /// Positions there are: the last token has no next one.
    pub fn total(&self) -> usize {
        self.ids.len() - 1
    }

    /// The position that comes next.
    pub fn position(&self) -> usize {
        self.next - self.found.len()
    }

    /// The next position's predictions; none at the end of the text.
    pub async fn next(&mut self, run: &mut Run<'_>) -> Result<Option<TextPosition>> {
        if self.found.is_empty() && self.next < self.total() {
            run.work.drain(&run.model.gpu).await?;
            self.read_up_to_next(run).await?;
            let end = self.total().min(self.next + POSITIONS);
            // Should this fail half-way, nothing of the cache is sure.
            let cached = std::mem::take(&mut self.cached);
            self.found = run.positions(&self.ids, cached, self.next, end).await?;
            self.cached = self.next + 1;
            self.next = end;
        }
        Ok(self.found.pop_front())
    }

    /// Reads what lies before the next position, up to what goes with it in one pass. The same kernels in any case: an
    /// answer does not depend on where the reader began.
    async fn read_up_to_next(&mut self, run: &mut Run<'_>) -> Result<()> {
        while self.next - self.cached > MAX_BATCH_ROWS - POSITIONS {
            let rows = MAX_BATCH_ROWS.min(self.next - self.cached);
            run.write_text(&self.ids, self.cached, rows, 0);
            run.send(&[Part::Body], extent(rows, self.cached + rows)).await?;
            self.cached += rows;
        }
        Ok(())
    }
}

impl Run<'_> {
    /// Positions `start .. end` of a text of which `cached` tokens lie in the cache. Afterwards `start + 1` do.
    async fn positions(
        &mut self,
        ids: &[u32],
        cached: usize,
        start: usize,
        end: usize,
    ) -> Result<VecDeque<TextPosition>> {
        let (count, top) = (end - start, self.work.top(self.options));
        let most = if self.options.offset == 2 { self.options.branches(self.vocab()) } else { self.vocab() };
        let capacity = self.work.ask(&self.model.gpu, self.options, most);
        self.write_text(ids, cached, end - cached, start - cached);
        self.model.gpu.write(&self.work.targets, 0, &ids[start + 1..=end]);
        let extent = Extent { rows: (end - cached) as u32, logit_rows: count as u32, keys: end as u32 };
        let words = Ranking::words(top);
        let parts = [Part::Body, Part::LmHead, Part::Nucleus, Part::RankRows];
        let reports: Vec<u32> = self.read(&parts, extent, &self.work.reports, count * words).await?;
        let nuclei: Vec<Nucleus> = self.read(&[], on_logits(0), &self.work.nuclei, count).await?;
        let mut lists = Vec::new();
        if self.options.offset == 3 {
            lists = self.branches(count * capacity).await?;
        }
        let mut found = VecDeque::new();
        for i in (0..count).rev() {
            let next = Scaled::softmax(&Ranking::of(&reports[i * words..][..words])).prediction(ids[start + i + 1]);
            let list = lists.chunks_exact(capacity).nth(i).map(|list| &list[..nuclei[i].count as usize]);
            let position = self.position(ids, start + i, next, (i, nuclei[i], list.unwrap_or_default())).await?;
            found.push_front(position);
        }
        Ok(found)
    }

    /// One position with its nucleus: which of those on the GPU, what it is, and for a tree its branches.
    async fn position(
        &mut self,
        ids: &[u32],
        position: usize,
        next: Prediction,
        (list, nucleus, branches): (usize, Nucleus, &[Branch]),
    ) -> Result<TextPosition> {
        let offset = self.options.offset;
        let mut found = TextPosition {
            position,
            marginal: (offset == 1).then(|| next.clone()),
            next,
            mass_covered: Branches::NONE.covered,
            branches: Branches::NONE.count,
            capped: false,
            cost: Cost::default(),
        };
        let Some(&target) = ids.get(position + offset).filter(|_| offset > 1) else { return Ok(found) };
        let summed = match offset {
            2 => self.siblings(list, nucleus, &mut found.cost, &mut |_| {}).await?,
            _ => self.tree(nucleus, branches.to_vec(), &mut found.cost, &mut |_| {}).await?,
        };
        let ranking = self.rank_mixture(target).await?;
        found.marginal = Some(Scaled::mixture(&ranking, summed).prediction(target));
        found.mass_covered = summed.covered;
        found.branches = summed.count;
        found.capped = summed.capped;
        Ok(found)
    }
}
