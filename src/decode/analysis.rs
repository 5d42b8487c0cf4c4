//! A session as an instrument: scores of a text, and logits, brought back for whoever studies them.

use web_time::Instant;

use super::reading::{ReadOptions, Reading};
use super::session::Session;
use crate::gpu::{Buffer, Staging, Submission};
use crate::kernels::{Extent, MAX_BATCH_ROWS, Op, State};
use crate::model::Progress;
use crate::{Error, Result};

impl Session {
    /// The natural logarithm of the probability of each token of `ids` after the first, given those before it.
    ///
    /// # Errors
    /// As [`Session::generate`].
    pub async fn score(&mut self, ids: &[u32], progress: &mut (dyn FnMut(Progress) + Send)) -> Result<Vec<f32>> {
        self.check_ids(ids)?;
        self.restart().await?;
        self.reserve(ids.len())?;
        let total = ids.len() - 1;
        let mut log_probs = Vec::with_capacity(total);
        while log_probs.len() < total {
            let first = log_probs.len();
            let rows = self.row_pacing.units(0, 8, MAX_BATCH_ROWS).min(total - first);
            let sent = Instant::now();
            let copy = Some((&self.buffers.log_probs, &self.score_staging));
            let submission = self.submit_chunk(ids, first, rows, &self.plan.score, copy);
            let pending = self.score_staging.read_after(submission);
            let found: Vec<f32> = self.score_staging.take(&self.model.gpu, pending).await?;
            self.row_pacing.ended(0, rows, sent);
            check_finite(&found[..rows])?;
            log_probs.extend_from_slice(&found[..rows]);
            progress(Progress::Prefill { tokens: log_probs.len(), total });
        }
        self.tokens.extend_from_slice(ids);
        self.cached = total;
        self.reported = total + 1;
        Ok(log_probs)
    }

    /// The logits after each token of `ids`, one vector of the vocabulary's size for each. For analysis: this reads much
    /// memory back.
    ///
    /// # Errors
    /// As [`Session::generate`].
    pub async fn logits(&mut self, ids: &[u32]) -> Result<Vec<Vec<f32>>> {
        self.check_ids(ids)?;
        self.restart().await?;
        self.reserve(ids.len())?;
        let (vocab, stride) = (self.model.sizes.vocab as usize, self.model.sizes.vocab_stride() as usize);
        let mut logits = Vec::with_capacity(ids.len());
        for first in (0..ids.len()).step_by(MAX_BATCH_ROWS) {
            let rows = MAX_BATCH_ROWS.min(ids.len() - first);
            self.submit_chunk(ids, first, rows, &[], None);
            let found: Vec<f32> = self.model.gpu.read(&self.buffers.logits).await?;
            logits.extend(found.chunks_exact(stride).take(rows).map(|row| row[..vocab].to_vec()));
        }
        self.tokens.extend_from_slice(ids);
        self.cached = ids.len();
        self.reported = ids.len() + 1;
        Ok(logits)
    }

    /// The logits of each multi-token head after each token of `ids`, nearest head first. A sequential head also reads
    /// tokens that come later, so it has no answer at the last positions: its list is shorter. For analysis.
    ///
    /// # Errors
    /// As [`Session::generate`]; [`ErrorKind::Input`](crate::ErrorKind::Input) without heads.
    pub async fn head_logits(&mut self, ids: &[u32]) -> Result<Vec<Vec<Vec<f32>>>> {
        let Some(plan) = &self.plan.heads else {
            return Err(Error::input("this model has no multi-token heads"));
        };
        let backbone: Vec<bool> = plan.heads.iter().map(|head| head.backbone).collect();
        let mut logits = vec![Vec::with_capacity(ids.len()); backbone.len()];
        let options = ReadOptions { positions: 0..ids.len(), depths: false, heads: true, feed: None };
        let mut keep = |reading: Reading, _: usize, row: &[f32]| match reading {
            Reading::Next => {
                let backbones = logits.iter_mut().zip(&backbone).filter(|(_, backbone)| **backbone);
                backbones.for_each(|(logits, _)| logits.push(row.to_vec()));
            }
            Reading::Head(head) => logits[head].push(row.to_vec()),
            Reading::Depth(_) | Reading::Fed(_) => {}
        };
        self.read_logits(ids, &options, &mut keep).await?;
        Ok(logits)
    }

    /// Runs rows `first .. first + rows` of `ids` and their logits, then `tail`.
    fn submit_chunk(
        &self,
        ids: &[u32],
        first: usize,
        rows: usize,
        tail: &[Op],
        copy: Option<(&Buffer, &Staging)>,
    ) -> Submission {
        self.write_rows(ids, first, rows);
        let (committed, num_rows) = (first as u32, rows as u32);
        self.write_state(State { committed, length: ids.len() as u32, num_rows, ..State::default() });
        self.replay(&[&self.plan.body, &self.plan.settle, &self.plan.lm_head, tail], every_row(first, rows), copy)
    }

    /// Runs `ops` over the batch that `rows` and `state` describe.
    pub(super) fn replay(&self, ops: &[&[Op]], extent: Extent, copy: Option<(&Buffer, &Staging)>) -> Submission {
        let all = || ops.iter().copied().flatten();
        self.model.gpu.submit(None, |recorder| all().for_each(|op| op.record(recorder, extent)), copy)
    }
}

/// `rows` rows after `first` others, and the logits of each.
fn every_row(first: usize, rows: usize) -> Extent {
    Extent { rows: rows as u32, logit_rows: rows as u32, keys: (first + rows) as u32 }
}

/// Fails where weights that are finite themselves make a model compute numbers that f32 cannot hold.
pub(super) fn check_finite(log_probs: &[f32]) -> Result<()> {
    if log_probs.iter().all(|log_prob| log_prob.is_finite()) {
        return Ok(());
    }
    let message = "the model's logits are not finite: with these weights it computes numbers that f32 cannot hold";
    Err(Error::format(message))
}
