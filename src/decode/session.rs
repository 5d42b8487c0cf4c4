//! One text on the GPU: its tokens, its cache, and the submits in flight.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::generation::{GenerateOptions, Generation, is_set};
use super::pacing::Pacing;
use super::sampling::Sampling;
use crate::gpu::{Pending, Staging};
use crate::kernels::{Extent, MAX_BATCH_ROWS, Op, Row, State};
use crate::model::{Buffers, MAX_STEPS, Model, Plan, Progress};
use crate::{Error, Result};

/// Submits that may be on their way: one runs while the host reads the other's result.
pub(super) const IN_FLIGHT: usize = 2;

/// One mutable text: tokens, and the keys and values of those that went through the model.
///
/// Going back is setting a length: a text that shares a beginning with the one before reuses its cache.
pub struct Session {
    pub(super) model: Arc<Model>,
    pub(super) buffers: Buffers,
    pub(super) plan: Plan,
    /// The text.
    pub(super) tokens: Vec<u32>,
    /// How many of the tokens have valid keys and values.
    cached: usize,
    staging: Vec<Staging>,
    score_staging: Staging,
    in_flight: VecDeque<InFlight>,
    next_staging: usize,
    pub(super) step_pacing: Pacing,
    row_pacing: Pacing,
}

/// A submit on its way.
struct InFlight {
    pending: Pending,
    staging: usize,
    /// Steps, or rows of a prompt, in it.
    units: usize,
}

/// What a submit brought back.
pub(super) struct Emitted {
    pub ids: Vec<u32>,
    /// [`State::done`].
    pub done: u32,
}

impl Session {
    pub(crate) fn new(model: Arc<Model>, buffers: Buffers, plan: Plan) -> Self {
        let ring_bytes = buffers.ring.size();
        let staging = (0..IN_FLIGHT + 1).map(|_| Staging::new(&model.gpu, ring_bytes)).collect();
        let score_staging = Staging::new(&model.gpu, buffers.log_probs.size());
        Self {
            model,
            buffers,
            plan,
            tokens: Vec::new(),
            cached: 0,
            staging,
            score_staging,
            in_flight: VecDeque::new(),
            next_staging: 0,
            step_pacing: Pacing::new(),
            row_pacing: Pacing::new(),
        }
    }

    /// The tokens of the text so far, prompt and output.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens this session can hold.
    pub fn context(&self) -> usize {
        self.model.sizes.attention.context as usize
    }

    /// Makes `prompt` the text and starts to continue it. What it shares with the present text is not computed again.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) for an empty prompt, one longer than the context, ids outside the
    /// vocabulary or senseless sampling; otherwise if the device fails.
    pub async fn generate(
        &mut self,
        prompt: &[u32],
        options: &GenerateOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Generation<'_>> {
        options.sampling.validate()?;
        self.check_ids(prompt)?;
        self.drain().await?;
        let limit = self.context().min(prompt.len().saturating_add(options.max_tokens));
        let params = options.sampling.params(self.model.sizes.vocab, self.model.sizes.vocab_stride());
        self.model.gpu.write(&self.buffers.sample_params, 0, &[params]);
        if options.sampling.repetition_penalty != 1.0 {
            self.write_counts(prompt);
        }
        Generation::start(self, prompt, limit, options, progress).await
    }

    /// The natural logarithm of the probability of each token of `ids` after the first, given those before it.
    ///
    /// # Errors
    /// As [`Session::generate`].
    pub async fn score(&mut self, ids: &[u32], progress: &mut dyn FnMut(Progress)) -> Result<Vec<f32>> {
        self.check_ids(ids)?;
        self.restart().await?;
        let total = ids.len() - 1;
        let mut log_probs = Vec::with_capacity(total);
        while log_probs.len() < total {
            let first = log_probs.len();
            let rows = self.row_pacing.units(8, MAX_BATCH_ROWS).min(total - first);
            self.row_pacing.restart();
            let copy = Some((&self.buffers.log_probs, &self.score_staging));
            let submission = self.submit_chunk(ids, first, rows, &self.plan.score, copy);
            let pending = self.score_staging.read_after(submission);
            let found: Vec<f32> = self.score_staging.take(&self.model.gpu, pending).await?;
            self.row_pacing.ended(rows);
            check_finite(&found[..rows])?;
            log_probs.extend_from_slice(&found[..rows]);
            progress(Progress::Prefill { tokens: log_probs.len(), total });
        }
        self.tokens.extend_from_slice(ids);
        self.cached = total;
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
        Ok(logits)
    }

    /// Forgets the text and stages a chain of `rows` rows after `committed` others, for [`Session::step_ops`].
    pub(crate) fn stage_chain(&mut self, committed: usize, rows: usize) -> Extent {
        self.tokens.clear();
        self.cached = 0;
        let row = |at: usize| Row {
            token: at as u32 % self.model.sizes.vocab,
            position: (committed + at) as u32,
            mask: u32::MAX >> (MAX_BATCH_ROWS - 1 - at),
            target_token: 0,
        };
        self.model.gpu.write(&self.buffers.rows, 0, &(0..rows).map(row).collect::<Vec<_>>());
        self.write_state(State { committed: committed as u32, num_rows: rows as u32, ..State::default() });
        let params = Sampling::default().params(self.model.sizes.vocab, self.model.sizes.vocab_stride());
        self.model.gpu.write(&self.buffers.sample_params, 0, &[params]);
        Extent { rows: rows as u32, logit_rows: rows as u32, keys: (committed + rows) as u32, many: false }
    }

    /// The ops of a step up to its sampled tokens; without `commit` they can be run again and again.
    pub(crate) fn step_ops(&self) -> impl Iterator<Item = &Op> {
        self.plan.body.iter().chain(&self.plan.head).chain(self.plan.sample.first())
    }

    /// Runs rows `first .. first + rows` of `ids` and their logits, then `tail`.
    fn submit_chunk(
        &self,
        ids: &[u32],
        first: usize,
        rows: usize,
        tail: &[Op],
        copy: Option<(&wgpu::Buffer, &Staging)>,
    ) -> wgpu::SubmissionIndex {
        self.write_rows(ids, first, rows);
        self.write_state(State { committed: first as u32, num_rows: rows as u32, ..State::default() });
        let extent = Extent { rows: rows as u32, logit_rows: rows as u32, keys: (first + rows) as u32, many: false };
        let ops = || self.plan.body.iter().chain(&self.plan.head).chain(tail);
        self.model.gpu.submit(None, |recorder| ops().for_each(|op| op.record(recorder, extent)), copy)
    }

    /// Forgets the text.
    async fn restart(&mut self) -> Result<()> {
        self.drain().await?;
        self.tokens.clear();
        self.cached = 0;
        Ok(())
    }

    /// Makes `prompt` the text; what it shares with the text before stays cached.
    pub(super) fn set_text(&mut self, prompt: &[u32]) {
        let shared = self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        self.cached = self.cached.min(shared);
        self.tokens.clear();
        self.tokens.extend_from_slice(prompt);
    }

    /// Reads `prompt`, samples its next token, and leaves one submit with that token in flight. False if interrupted.
    pub(super) async fn prefill(
        &mut self,
        prompt: &[u32],
        limit: usize,
        interrupt: Option<&AtomicBool>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<bool> {
        self.set_text(prompt);
        // The last token goes through the model in any case: its logits are wanted.
        let mut at = self.cached.min(prompt.len() - 1);
        let total = prompt.len() - at;
        // By what there is to read, not by the size of chunks, which depends on how fast the device happens to be.
        let many = total > MAX_BATCH_ROWS;
        let most = self.model.sizes.chunk_rows as usize;
        self.row_pacing.restart();
        while at < prompt.len() {
            if is_set(interrupt) {
                return Ok(false);
            }
            let rows = self.row_pacing.units(8, most).min(prompt.len() - at);
            self.write_rows(prompt, at, rows);
            let last = at + rows == prompt.len();
            self.write_state(State {
                committed: at as u32,
                length: prompt.len() as u32,
                limit: limit as u32,
                num_rows: rows as u32,
                logit_row: rows as u32 - 1,
                ..State::default()
            });
            at += rows;
            let extent = Extent { rows: rows as u32, logit_rows: 1, keys: at as u32, many };
            self.submit(rows, 1, last, extent);
            if self.in_flight.len() >= IN_FLIGHT && !last {
                let units = self.in_flight.front().map_or(1, |oldest| oldest.units);
                self.receive().await?;
                self.row_pacing.ended(units);
            }
            progress(Progress::Prefill { tokens: total - (prompt.len() - at), total });
        }
        // Submits end in order, and only the last one brings a token.
        while self.in_flight.len() > 1 {
            self.receive().await?;
        }
        Ok(true)
    }

    /// Sends `steps` steps of one token on their way. `length` bounds the text's length before them.
    pub(super) fn submit_steps(&mut self, steps: usize, length: usize) {
        let extent = Extent { rows: 1, logit_rows: 1, keys: (length + steps).min(self.context()) as u32, many: false };
        self.submit(steps, steps, true, extent);
    }

    fn submit(&mut self, units: usize, repeats: usize, sample: bool, extent: Extent) {
        debug_assert!(repeats <= MAX_STEPS, "a submit of {repeats} steps overflows the ring");
        let tail: [&[Op]; 2] = if sample { [&self.plan.head, &self.plan.sample] } else { [&[], &[]] };
        let staging = &self.staging[self.next_staging];
        let emitted = std::mem::offset_of!(State, emitted) as u64;
        let submission = self.model.gpu.submit(
            Some((&self.buffers.state, emitted, 4)),
            |recorder| {
                for _ in 0..repeats {
                    let ops = self.plan.body.iter().chain(tail.into_iter().flatten());
                    ops.for_each(|op| op.record(recorder, extent));
                }
            },
            Some((&self.buffers.ring, staging)),
        );
        let pending = staging.read_after(submission);
        self.in_flight.push_back(InFlight { pending, staging: self.next_staging, units });
        self.next_staging = (self.next_staging + 1) % self.staging.len();
    }

    /// Waits for the oldest submit in flight.
    pub(super) async fn receive(&mut self) -> Result<Emitted> {
        let Some(InFlight { pending, staging, .. }) = self.in_flight.pop_front() else {
            return Ok(Emitted { ids: Vec::new(), done: 0 });
        };
        let ring: Vec<u32> = self.staging[staging].take(&self.model.gpu, pending).await?;
        let count = (ring[0] as usize).min(MAX_STEPS);
        Ok(Emitted { ids: ring[2..2 + count].to_vec(), done: ring[1] })
    }

    /// Submits in flight.
    pub(super) fn waiting(&self) -> usize {
        self.in_flight.len()
    }

    /// Adds a token that the GPU has sampled. Its keys and values come with the step after it, so all before it are cached.
    pub(super) fn push(&mut self, id: u32) {
        self.cached = self.tokens.len();
        self.tokens.push(id);
    }

    /// Lets what is in flight, after an abandoned generation, run out.
    async fn drain(&mut self) -> Result<()> {
        while self.waiting() > 0 {
            self.receive().await?;
        }
        self.model.gpu.check()
    }

    fn check_ids(&self, ids: &[u32]) -> Result<()> {
        if ids.is_empty() {
            return Err(Error::input("the prompt is empty: give at least one token"));
        }
        let vocab = self.model.sizes.vocab;
        if let Some((at, id)) = ids.iter().enumerate().find(|(_, id)| **id >= vocab) {
            let tokenizer = self.model.tokenizer.as_ref().map_or(0, |tokenizer| tokenizer.vocab_size());
            let advice = if tokenizer <= vocab as usize {
                String::new()
            } else {
                format!("; tokenizer.json has ids up to {}: is it this model's?", tokenizer - 1)
            };
            return Err(Error::input(format!(
                "token {at} of the prompt is {id}: the model's vocabulary has ids 0 to {}{advice}",
                vocab - 1
            )));
        }
        if ids.len() > self.context() {
            return Err(Error::input(format!(
                "the prompt has {} tokens, the context holds {}; shorten it or raise --context",
                ids.len(),
                self.context()
            )));
        }
        Ok(())
    }

    pub(super) fn write_state(&self, state: State) {
        self.model.gpu.write(&self.buffers.state, 0, &[state]);
    }

    /// Rows of `ids` from `first`, each seeing all before it and wanting the probability of the next.
    fn write_rows(&self, ids: &[u32], first: usize, count: usize) {
        let row = |at: usize| Row {
            token: ids[at],
            position: at as u32,
            mask: 0,
            target_token: ids.get(at + 1).copied().unwrap_or(0),
        };
        let rows: Vec<Row> = (first..first + count).map(row).collect();
        self.model.gpu.write(&self.buffers.rows, 0, &rows);
    }

    fn write_counts(&self, prompt: &[u32]) {
        let mut counts = vec![0u32; self.model.sizes.vocab as usize];
        prompt.iter().for_each(|&id| counts[id as usize] += 1);
        self.model.gpu.write(&self.buffers.counts, 0, &counts);
    }
}

/// Fails where weights that are finite themselves make a model compute numbers that f32 cannot hold.
fn check_finite(log_probs: &[f32]) -> Result<()> {
    if log_probs.iter().all(|log_prob| log_prob.is_finite()) {
        return Ok(());
    }
    let message = "the model's logits are not finite: with these weights it computes numbers that f32 cannot hold";
    Err(Error::format(message))
}
