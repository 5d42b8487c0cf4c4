//! A text read teacher-forced: the logits of the model, of its streams by depth and of its heads, at chosen positions.
//!
//! A sequential head of offset n also reads the tokens before the one it predicts. The text's own would tell it what an
//! analysis must not tell; so a head can also be *fed* what was to be expected: the likeliest next token, or a mixture over the
//! likeliest ones.
//!
//! A head that reads the next token only is fed each of the likeliest tokens in a row of its own. These rows are siblings
//! at one position, and their softmaxes are added up with the tokens' probabilities as weights. In a head's cache siblings lie
//! where later positions lie, so they come after everything else, last position first.
//!
//! A head that reads tokens beyond the next one would need a branch for each path through them. It is fed one chain
//! instead, as in drafting: the likeliest next token, then what each head before it found likeliest. The chain goes over the
//! positions in ascending order and computes again the cache entries that siblings, or the chain before, have left.

use std::ops::Range;

use super::analysis::check_finite;
use super::session::Session;
use crate::gpu::Staging;
use crate::kernels::{Extent, MAX_BATCH_ROWS, Op, Row, State};
use crate::options::setters;
use crate::{Error, Result};

/// Whose logits a row of [`Session::read_logits`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// The model's own logits, for the next token.
    Next,
    /// The logits of the stream after this many blocks, were it the last: the logit lens.
    Depth(usize),
    /// The logits of the head with this index, which reads the text's own tokens where it reads any. A head that is the
    /// model's own last block has none beside [`Reading::Next`].
    Head(usize),
    /// The logits of a sequential head that has not read a token after its position. For a mixture they are logarithms
    /// of probabilities.
    Fed(usize),
}

/// The logits to read of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadOptions {
    /// The positions to read at; a position is that of the token the model has seen last.
    pub positions: Range<usize>,
    /// Whether to read [`Reading::Depth`] too, after every block but the last.
    pub depths: bool,
    /// Whether to read [`Reading::Head`] too, where the model has heads.
    pub heads: bool,
    /// Likeliest next tokens y that [`Reading::Fed`] is fed, weighted by p(y); `None` leaves it out. 1 is the likeliest
    /// alone. A head that reads tokens beyond the next one is fed the likeliest chain in any case.
    pub feed: Option<usize>,
}

impl ReadOptions {
    /// The model's own logits at these positions.
    pub fn at(positions: Range<usize>) -> Self {
        Self { positions, depths: false, heads: false, feed: None }
    }
}

setters!(ReadOptions { positions: Range<usize>, depths: bool, heads: bool; or none feed: usize });

impl Session {
    /// Reads `ids` and hands out logits, a row of the vocabulary's size at a time. Under a gated LoRA the heads read hidden
    /// states with the adapters on, and the rest is without them. The session's own text is forgotten.
    ///
    /// # Errors
    /// As [`Session::generate`]; [`ErrorKind::Input`](crate::ErrorKind::Input) for positions beyond the text, or a feed of no
    /// tokens; [`ErrorKind::Format`](crate::ErrorKind::Format) where logits are not finite.
    pub async fn read_logits(
        &mut self,
        ids: &[u32],
        options: &ReadOptions,
        on_row: &mut (dyn FnMut(Reading, usize, &[f32]) + Send),
    ) -> Result<()> {
        self.check_ids(ids)?;
        let Range { start, end } = options.positions;
        if start >= end || end > ids.len() {
            return Err(Error::input(format!("positions {start}..{end} of a text of {} tokens", ids.len())));
        }
        if options.feed == Some(0) {
            return Err(Error::input("a head must be fed at least one token"));
        }
        self.restart().await?;
        self.reserve(ids.len() + MAX_BATCH_ROWS)?;
        self.heads_filled = 0;
        self.model.gpu.write(&self.buffers.text, 0, ids);
        let vocab = self.model.sizes.vocab as usize;
        let most = options.feed.filter(|_| options.heads).unwrap_or(0).min(vocab);
        let mut likeliest = Vec::new();
        for first in (0..end).step_by(MAX_BATCH_ROWS) {
            let batch = Batch::new(first, end, start);
            self.stage(ids, &batch);
            let mut done = 0;
            for (depth, &block_end) in self.plan.block_ends.iter().enumerate().filter(|_| options.depths) {
                self.replay(&[&self.plan.body[done..block_end]], batch.extent(), None);
                done = block_end;
                if depth + 1 < self.plan.block_ends.len() {
                    self.hand_out(&self.plan.lm_head, &batch, &mut |at, row| {
                        on_row(Reading::Depth(depth + 1), at, row)
                    })
                    .await?;
                }
            }
            self.replay(&[&self.plan.body[done..]], batch.extent(), None);
            let mut next = |at, row: &[f32]| {
                if most > 0 {
                    likeliest.push(Likeliest::of(row, most));
                }
                on_row(Reading::Next, at, row);
            };
            self.hand_out(&self.plan.lm_head, &batch, &mut next).await?;
            if let Some(heads) = self.rounds.heads.as_ref().filter(|_| options.heads) {
                self.replay(&[&heads.adapted], batch.extent(), None);
                self.read_heads(ids, &batch, on_row).await?;
            }
            self.replay(&[&self.plan.settle], batch.extent(), None);
        }
        if most > 0 {
            self.feed_branches(options, &likeliest, on_row).await?;
            self.feed_chain(ids, options, &likeliest, on_row).await?;
        }
        Ok(())
    }

    async fn read_heads(
        &self,
        ids: &[u32],
        batch: &Batch,
        on_row: &mut (dyn FnMut(Reading, usize, &[f32]) + Send),
    ) -> Result<()> {
        for (index, head) in self.plan.heads.iter().flat_map(|plan| &plan.heads).enumerate() {
            if head.backbone {
                continue;
            }
            let known = ids.len().saturating_sub(head.ahead);
            let mut known_rows = |at, row: &[f32]| {
                if at < known {
                    on_row(Reading::Head(index), at, row);
                }
            };
            self.hand_out(&head.full, batch, &mut known_rows).await?;
        }
        Ok(())
    }

    /// Heads that read the next token only, over the likeliest ones. What they leave in their caches lies from their position
    /// on.
    async fn feed_branches(
        &self,
        options: &ReadOptions,
        likeliest: &[Likeliest],
        on_row: &mut (dyn FnMut(Reading, usize, &[f32]) + Send),
    ) -> Result<()> {
        let plans = self.plan.heads.iter().flat_map(|plan| &plan.heads).enumerate();
        for (index, head) in plans.filter(|(_, head)| !head.siblings.is_empty()) {
            for (at, branches) in options.positions.clone().zip(likeliest).rev() {
                let mut mixture = Mixture::default();
                // Beyond the context there is no room for siblings.
                let room = MAX_BATCH_ROWS.min(self.context() - at);
                for chunk in branches.0.chunks(room) {
                    let row = |(i, &(token, _)): (usize, &(u32, f64))| Row {
                        token,
                        position: at as u32,
                        mask: 1 << i,
                        ..Row::default()
                    };
                    let rows: Vec<Row> = chunk.iter().enumerate().map(row).collect();
                    self.model.gpu.write(&self.buffers.rows, 0, &rows);
                    let batch = Batch { first: at, rows: rows.len(), logit_row: 0 };
                    self.write_state(batch.state(at + 1));
                    let mut weights = chunk.iter().map(|(_, weight)| *weight);
                    let mut add = |_, logits: &[f32]| mixture.add(weights.next().unwrap_or(0.0), logits);
                    self.hand_out(&head.siblings, &batch, &mut add).await?;
                }
                on_row(Reading::Fed(index), at, &mixture.logits());
            }
        }
        Ok(())
    }

    /// The other sequential heads, as drafts use them: each reads what the one before found likeliest.
    async fn feed_chain(
        &self,
        ids: &[u32],
        options: &ReadOptions,
        likeliest: &[Likeliest],
        on_row: &mut (dyn FnMut(Reading, usize, &[f32]) + Send),
    ) -> Result<()> {
        let Some(plan) = &self.plan.heads else { return Ok(()) };
        let ahead = plan.ahead();
        if !plan.heads.iter().any(|head| head.ahead > 0 && head.siblings.is_empty()) {
            return Ok(());
        }
        // What siblings and the chain of the position before have left in the caches is gone over again.
        for (at, branches) in options.positions.clone().zip(likeliest) {
            let first = at.saturating_sub(ahead);
            self.model.gpu.write(&self.buffers.text, 4 * at as u64, &[ids[at], branches.0[0].0]);
            let mut candidates = vec![0; MAX_BATCH_ROWS * MAX_BATCH_ROWS];
            let batch = Batch { first, rows: at + 1 - first, logit_row: at - first };
            for (index, head) in plan.heads.iter().enumerate().filter(|(_, head)| head.ahead > 0) {
                let row = |position: usize| Row { position: position as u32, ..Row::default() };
                self.model.gpu.write(&self.buffers.rows, 0, &(first..=at).map(row).collect::<Vec<_>>());
                self.write_state(batch.state(at + 2));
                self.model.gpu.write(&self.buffers.candidates, 0, &candidates);
                let mut found = |_, row: &[f32]| {
                    // The token after the next one is depth 0.
                    candidates[(head.offset - 2) * MAX_BATCH_ROWS] = Likeliest::of(row, 1).0[0].0;
                    if head.siblings.is_empty() {
                        on_row(Reading::Fed(index), at, row);
                    }
                };
                self.hand_out(&head.full, &batch, &mut found).await?;
            }
        }
        Ok(())
    }

    /// Makes a stretch of the text the batch under way. The adapters of a gated LoRA are on, where there are any.
    fn stage(&self, ids: &[u32], batch: &Batch) {
        let row = |at: usize| Row { token: ids[at], position: at as u32, adapter: 1, ..Row::default() };
        let rows: Vec<Row> = (batch.first..batch.first + batch.rows).map(row).collect();
        self.model.gpu.write(&self.buffers.rows, 0, &rows);
        self.write_state(batch.state(ids.len()));
    }

    /// Runs what leaves logits, and hands out those of the wanted rows with their positions.
    async fn hand_out(&self, ops: &[Op], batch: &Batch, on_row: &mut (dyn FnMut(usize, &[f32]) + Send)) -> Result<()> {
        let wanted = batch.rows - batch.logit_row.min(batch.rows);
        if wanted == 0 {
            self.replay(&[ops], batch.extent(), None);
            return Ok(());
        }
        let (vocab, stride) = (self.model.sizes.vocab as usize, self.model.sizes.vocab_stride() as usize);
        let staging = Staging::new(&self.model.gpu, (wanted * stride * size_of::<f32>()) as u64);
        let submission = self.replay(&[ops], batch.extent(), Some((&self.buffers.logits, &staging)));
        let pending = staging.read_after(submission);
        let logits: Vec<f32> = staging.take(&self.model.gpu, pending).await?;
        for (i, row) in logits.chunks_exact(stride).take(wanted).enumerate() {
            check_finite(&row[..vocab])?;
            on_row(batch.first + batch.logit_row + i, &row[..vocab]);
        }
        Ok(())
    }
}

/// Rows at consecutive positions, or siblings at one; logits are wanted from `logit_row` on.
struct Batch {
    first: usize,
    rows: usize,
    logit_row: usize,
}

impl Batch {
    /// The rows from `first` that fit, up to `end`; logits are wanted from the position `start` on.
    fn new(first: usize, end: usize, start: usize) -> Self {
        let rows = MAX_BATCH_ROWS.min(end - first);
        Self { first, rows, logit_row: start.saturating_sub(first).min(rows) }
    }

    fn state(&self, length: usize) -> State {
        State {
            committed: self.first as u32,
            length: length as u32,
            num_rows: self.rows as u32,
            logit_row: self.logit_row as u32,
            ..State::default()
        }
    }

    fn extent(&self) -> Extent {
        let logit_rows = (self.rows - self.logit_row) as u32;
        Extent { rows: self.rows as u32, logit_rows, keys: (self.first + self.rows) as u32 }
    }
}

/// The likeliest tokens with their probabilities among themselves, likeliest first, ties by id.
struct Likeliest(Vec<(u32, f64)>);

impl Likeliest {
    fn of(logits: &[f32], most: usize) -> Self {
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        let order = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        if most < ids.len() {
            ids.select_nth_unstable_by(most - 1, order);
            ids.truncate(most);
        }
        ids.sort_unstable_by(order);
        let highest = f64::from(logits[ids[0] as usize]);
        let weights: Vec<f64> = ids.iter().map(|&id| (f64::from(logits[id as usize]) - highest).exp()).collect();
        let sum: f64 = weights.iter().sum();
        Self(ids.into_iter().zip(weights.into_iter().map(|weight| weight / sum)).collect())
    }
}

/// A sum of weighted softmaxes.
#[derive(Default)]
struct Mixture {
    sum: Vec<f64>,
    /// The logits of the only row so far: with one row they are the answer.
    only: Option<Vec<f32>>,
}

impl Mixture {
    fn add(&mut self, weight: f64, logits: &[f32]) {
        self.only = self.sum.is_empty().then(|| logits.to_vec());
        self.sum.resize(logits.len(), 0.0);
        let highest = logits.iter().copied().fold(f32::MIN, f32::max);
        let power = |logit: &f32| f64::from(logit - highest).exp();
        let scale = weight / logits.iter().map(power).sum::<f64>();
        self.sum.iter_mut().zip(logits).for_each(|(sum, logit)| *sum += scale * power(logit));
    }

    fn logits(self) -> Vec<f32> {
        let log = |p: &f64| p.max(f64::from(f32::MIN_POSITIVE)).ln() as f32;
        self.only.unwrap_or_else(|| self.sum.iter().map(log).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_are_weighed_among_themselves() {
        let Likeliest(found) = Likeliest::of(&[0.0, 2f32.ln(), -9.0, 2f32.ln()], 3);
        assert_eq!(found.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 3, 0]);
        assert!((found[0].1 - 0.4).abs() < 1e-7 && (found[2].1 - 0.2).abs() < 1e-7, "{found:?}");
    }

    #[test]
    fn a_mixture_is_of_probabilities() {
        let mut mixture = Mixture::default();
        mixture.add(0.75, &[0.0, 0.0]);
        mixture.add(0.25, &[3f32.ln() + 5.0, 5.0]);
        let logits = mixture.logits();
        assert!((logits[0].exp() - 0.5625).abs() < 1e-6 && (logits[1].exp() - 0.4375).abs() < 1e-6, "{logits:?}");
    }
}
