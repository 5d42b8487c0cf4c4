//! One text on the GPU: its tokens, its cache, and the submits in flight.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, ready};

use tracing::Span;
use web_time::Instant;

use super::draft::{DraftTree, Drafter};
use super::generation::{GenerateOptions, Generation, is_set};
use super::pacing::Pacing;
use super::round::{Ops, Received, Source, Step, Timing, Work};
use super::rounds::RoundPlan;
use super::sampling::Sampling;
use crate::error::counted;
use crate::format::config::ModelConfig;
use crate::format::tokenizer::Tokenizer;
use crate::gpu::{Pending, Recorder, Staging};
use crate::kernels::{DONE_NOT_FINITE, Emitted, Extent, MAX_BATCH_ROWS, MAX_EMITTED, MAX_ROUNDS, Op, Row, State, Tree};
use crate::marginal::Workspace;
use crate::model::{Buffers, HeadsPlan, Model, Plan, Progress};
use crate::{Error, Result};

/// Submits that may be on their way: one runs while the host reads the other's result.
pub(super) const IN_FLIGHT: usize = 2;

/// Rounds of the first slice of a submit to a GPU that waits; each slice after it has twice as many.
const FIRST_SLICE: usize = 4;

/// One mutable text: tokens, and the keys and values of those that went through the model.
///
/// Going back is setting a length: a text that shares a beginning with the one before reuses its cache.
pub struct Session {
    pub(super) model: Arc<Model>,
    pub(super) buffers: Buffers,
    pub(super) plan: Plan,
    pub(super) rounds: RoundPlan,
    /// The text.
    pub(super) tokens: Vec<u32>,
    /// The number of tokens that have valid keys and values.
    pub(super) cached: usize,
    /// Places before it have been written to since the text was empty: by its tokens, by drafts, by siblings.
    pub(super) written: usize,
    /// The length of the text on the GPU, as far as submits have reported it: one more than its committed tokens.
    pub(super) reported: usize,
    /// Made when it is first needed.
    pub(super) marginal: Option<Box<Workspace>>,
    staging: Vec<Staging>,
    pub(super) score_staging: Staging,
    in_flight: VecDeque<InFlight>,
    next_staging: usize,
    pub(super) round_pacing: Pacing,
    pub(super) row_pacing: Pacing,
    /// The tree that the GPU knows.
    pub(super) tree: Option<Tree>,
    /// Positions, from the first on, that the heads have gone over for certain.
    pub(super) heads_filled: usize,
    pub(super) heads_current: bool,
    /// Seconds that a draft of as many tokens takes.
    pub(super) draft_seconds: Vec<(Source, usize, f64)>,
    /// The draft that is being measured.
    pub(super) timing: Option<Timing>,
}

/// A submit on its way.
struct InFlight {
    pending: Pending,
    staging: usize,
    work: Work,
    sent: Instant,
    /// Ends when the submit's result is taken up.
    span: Span,
}

/// Checks a prompt as a session on such a model with a context of `context` tokens does, before there is one.
///
/// # Errors
/// [`ErrorKind::Input`](crate::ErrorKind::Input) for an empty prompt, ids outside the vocabulary, and more than the context
/// holds.
pub fn check_prompt(ids: &[u32], config: &ModelConfig, tokenizer: Option<&Tokenizer>, context: usize) -> Result<()> {
    if ids.is_empty() {
        return Err(Error::input("the prompt is empty: give at least one token"));
    }
    let vocab = config.vocab_size;
    if let Some((at, id)) = ids.iter().enumerate().find(|(_, id)| **id as usize >= vocab) {
        let tokenizer = tokenizer.map_or(0, Tokenizer::vocab_size);
        let advice = if tokenizer <= vocab {
            String::new()
        } else {
            format!("; tokenizer.json has ids up to {}: is it this model's?", tokenizer - 1)
        };
        return Err(Error::input(format!(
            "token {at} of the prompt is {id}: the model's vocabulary has ids 0 to {}{advice}",
            vocab - 1
        )));
    }
    if ids.len() > context {
        return Err(Error::input(format!(
            "the prompt has {}, the context holds {context}; shorten it, or choose a longer context",
            counted(ids.len(), "token")
        )));
    }
    Ok(())
}

impl Session {
    pub(super) fn new(model: Arc<Model>, buffers: Buffers, plan: Plan, rounds: RoundPlan) -> Self {
        let emitted_bytes = rounds.buffers.emitted.size();
        let staging = (0..IN_FLIGHT + 1).map(|_| Staging::new(&model.gpu, emitted_bytes)).collect();
        let sync = model.sync_seconds;
        let score_staging = Staging::new(&model.gpu, buffers.log_probs.size());
        Self {
            model,
            buffers,
            plan,
            rounds,
            tokens: Vec::new(),
            cached: 0,
            written: 0,
            reported: 0,
            marginal: None,
            staging,
            score_staging,
            in_flight: VecDeque::new(),
            next_staging: 0,
            round_pacing: Pacing::new(sync),
            row_pacing: Pacing::new(sync),
            tree: None,
            heads_filled: 0,
            heads_current: false,
            draft_seconds: Vec::new(),
            timing: None,
        }
    }

    /// The tokens of the text so far, prompt and output.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens this session can hold.
    pub fn context(&self) -> usize {
        self.model.sizes.context as usize
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
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Generation<'_>> {
        options.sampling.validate()?;
        self.check_ids(prompt)?;
        self.drain().await?;
        let limit = options.limit(prompt.len(), self.context());
        self.ask(prompt, options);
        Generation::start(self, prompt, limit, options, progress).await
    }

    /// Goes on with the text as it stands, of which all but the first `prompt_tokens` were generated with these options: the
    /// tokens that follow are those that would have followed. The generation's text and ids include what there was;
    /// [`Generation::next`] gives what is new.
    ///
    /// # Errors
    /// As [`Session::generate`]; also if the text is not longer than its prompt.
    pub async fn resume(
        &mut self,
        prompt_tokens: usize,
        options: &GenerateOptions,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Generation<'_>> {
        let length = self.tokens.len();
        if prompt_tokens == 0 || prompt_tokens >= length {
            return Err(Error::input(format!(
                "a text of {} cannot go on after a prompt of {prompt_tokens}: there must be a prompt, and something after it",
                counted(length, "token")
            )));
        }
        options.sampling.validate()?;
        self.drain().await?;
        self.go_back(length - 1);
        self.fill(length - 1, progress).await?;
        let tokens = self.tokens.clone();
        self.set_text(&tokens);
        self.ask(&tokens, options);
        let limit = options.limit(prompt_tokens, self.context());
        Generation::resume(self, prompt_tokens, limit, options)
    }

    /// Makes `tokens`, those of another session of the same model, this session's text, for [`Session::resume`]. With the same
    /// adapter and kernels the cache is the same there and here bit for bit, however it came about, and the text goes on as it
    /// would have gone on there.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) if the text does not fit this session; otherwise if the device fails.
    pub async fn restore(&mut self, tokens: &[u32], progress: &mut (dyn FnMut(Progress) + Send)) -> Result<()> {
        self.restart().await?;
        if tokens.is_empty() {
            return Ok(());
        }
        self.check_ids(tokens)?;
        self.set_text(tokens);
        self.fill(tokens.len() - 1, progress).await
    }

    /// Lets the text's tokens before `end` that are not cached go through the model.
    async fn fill(&mut self, end: usize, progress: &mut (dyn FnMut(Progress) + Send)) -> Result<()> {
        let (first, most) = (self.cached, self.model.sizes.chunk_rows as usize);
        self.room(end)?;
        self.row_pacing.restart();
        while self.cached < end {
            let at = self.cached;
            let rows = self.row_pacing.units(0, 8, most).min(end - at);
            self.wrote(at + rows);
            self.write_rows(&self.tokens, at, rows);
            self.write_state(State {
                committed: at as u32,
                length: self.tokens.len() as u32,
                num_rows: rows as u32,
                logit_row: rows as u32 - 1,
                ..State::default()
            });
            let extent = Extent { rows: rows as u32, logit_rows: 1, keys: (at + rows) as u32 };
            self.submit(Work::Prompt { rows, last: false }, 1, |ops| {
                vec![(&ops.plan.body[..], extent), (&ops.plan.settle[..], extent)]
            });
            self.cached += rows;
            self.reported = self.cached + 1;
            self.stands(self.cached);
            if self.in_flight.len() >= IN_FLIGHT {
                self.receive().await?;
            }
            progress(Progress::Prefill { tokens: self.cached - first, total: end - first });
        }
        self.drain().await
    }

    /// Tells the GPU how tokens after `text` are chosen and drafted.
    fn ask(&mut self, text: &[u32], options: &GenerateOptions) {
        let params = options.sampling.params(self.model.sizes.vocab, self.model.sizes.vocab_stride());
        self.model.gpu.write(&self.buffers.sample_params, 0, &[params]);
        if options.sampling.repetition_penalty != 1.0 {
            self.write_counts(text);
        }
        if let Drafter::Recorded(recorded) = &options.draft.drafter {
            self.write_recorded(recorded);
        }
        if options.draft.drafter == Drafter::Marginal {
            let Self { model, buffers, rounds, marginal, .. } = self;
            marginal
                .get_or_insert_with(|| Box::new(Workspace::new(model, buffers, &rounds.buffers.tree)))
                .ask_draft(&model.gpu);
        }
    }

    /// Forgets the text and stages a chain of `rows` rows after `committed` others, for [`Session::step_ops`].
    ///
    /// # Errors
    /// If the cache does not fit the GPU.
    pub(crate) fn stage_chain(&mut self, committed: usize, rows: usize) -> Result<Extent> {
        self.forget();
        self.reserve(committed + rows)?;
        let row = |at: usize| Row {
            token: at as u32 % self.model.sizes.vocab,
            position: (committed + at) as u32,
            mask: u32::MAX >> (MAX_BATCH_ROWS - 1 - at),
            ..Row::default()
        };
        self.model.gpu.write(&self.buffers.rows, 0, &(0..rows).map(row).collect::<Vec<_>>());
        self.write_state(State { committed: committed as u32, num_rows: rows as u32, ..State::default() });
        let params = Sampling::default().params(self.model.sizes.vocab, self.model.sizes.vocab_stride());
        self.model.gpu.write(&self.buffers.sample_params, 0, &[params]);
        Ok(Extent { rows: rows as u32, logit_rows: rows as u32, keys: (committed + rows) as u32 })
    }

    /// The ops of a step up to its sampled tokens; without `commit` they can be run again and again.
    pub(crate) fn step_ops(&self) -> impl Iterator<Item = &Op> {
        self.plan.body.iter().chain(&self.plan.lm_head).chain(&self.plan.sample)
    }

    /// Forgets the text.
    pub(super) async fn restart(&mut self) -> Result<()> {
        self.drain().await?;
        self.forget();
        Ok(())
    }

    /// Forgets the text, with nothing in flight.
    pub(super) fn forget(&mut self) {
        self.tokens.clear();
        self.go_back(0);
    }

    /// Makes `prompt` the text; what it shares with the text before stays cached, as far as every layer reaches back.
    pub(super) fn set_text(&mut self, prompt: &[u32]) {
        let shared = self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        // A prompt's last token goes through the model in any case: its logits are wanted.
        self.go_back(shared.min(prompt.len().saturating_sub(1)));
        // A head that reads later tokens has seen some of those that change.
        let ahead = self.plan.heads.as_ref().map_or(0, HeadsPlan::ahead);
        self.heads_filled = self.heads_filled.min(self.cached.saturating_sub(ahead));
        self.heads_current = false;
        self.tokens.clear();
        self.tokens.extend_from_slice(prompt);
        self.model.gpu.write(&self.buffers.text, 0, prompt);
    }

    /// Reads `prompt`, samples its next token, and leaves one submit with that token in flight. False if interrupted.
    pub(super) async fn prefill(
        &mut self,
        prompt: &[u32],
        limit: usize,
        interrupt: Option<&AtomicBool>,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<bool> {
        self.set_text(prompt);
        let mut at = self.cached;
        let total = prompt.len() - at;
        let most = self.model.sizes.chunk_rows as usize;
        self.room(prompt.len())?;
        self.row_pacing.restart();
        while at < prompt.len() {
            if is_set(interrupt) {
                return Ok(false);
            }
            let rows = self.row_pacing.units(0, 8, most).min(prompt.len() - at);
            self.wrote(at + rows);
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
            let extent = Extent { rows: rows as u32, logit_rows: 1, keys: at as u32 };
            let work = Work::Prompt { rows, last };
            if last {
                self.submit(work, 1, |Ops { plan, rounds, .. }| {
                    let ops = [&plan.body, &plan.lm_head, &plan.sample, &rounds.commit];
                    ops.map(|ops| (&ops[..], extent)).into()
                });
            } else {
                self.submit(work, 1, |ops| vec![(&ops.plan.body[..], extent), (&ops.plan.settle[..], extent)]);
            }
            // The token that the last one brings is counted when it comes.
            self.reported = at + usize::from(!last);
            self.stands(at);
            if self.in_flight.len() >= IN_FLIGHT && !last {
                self.receive().await?;
            }
            progress(Progress::Prefill { tokens: total - (prompt.len() - at), total });
        }
        // Submits end in order, and only the last one brings a token.
        while self.in_flight.len() > 1 {
            self.receive().await?;
        }
        Ok(true)
    }

    /// Records `repeats` times what `steps` gives, and asks for what it emits: in one submit, or in slices of growing size where the
    /// GPU has nothing to do, which then starts on the first while the host records the next.
    pub(super) fn submit(&mut self, work: Work, repeats: usize, steps: impl for<'p> Fn(Ops<'p>) -> Vec<Step<'p>>) {
        debug_assert!(repeats <= MAX_ROUNDS && work.most_tokens() <= MAX_EMITTED, "{work:?} emits too much");
        let staging = &self.staging[self.next_staging];
        let emitted = std::mem::offset_of!(State, emitted) as u64;
        let steps = steps(self.ops());
        let span = work.span();
        let sent = Instant::now();
        let record = |recorder: &mut Recorder<'_>, repeats: usize| {
            let steps = (0..repeats).flat_map(|_| &steps);
            steps.for_each(|(ops, extent)| ops.iter().for_each(|op| op.record(recorder, *extent)));
        };
        // The emitted ids and the rounds are counted from 0.
        let mut clear = Some((&self.buffers.state, emitted, 8));
        let mut left = repeats;
        let mut slice = if self.in_flight.is_empty() { FIRST_SLICE } else { repeats };
        while left > slice {
            self.model.gpu.submit(clear.take(), |recorder| record(recorder, slice), None);
            left -= slice;
            slice *= 2;
        }
        let copy = Some((&self.rounds.buffers.emitted, staging));
        let pending = staging.read_after(self.model.gpu.submit(clear, |recorder| record(recorder, left), copy));
        self.in_flight.push_back(InFlight { pending, staging: self.next_staging, work, sent, span });
        self.next_staging = (self.next_staging + 1) % self.staging.len();
    }

    /// All ops that a submit may be made of.
    pub(super) fn ops(&self) -> Ops<'_> {
        Ops { plan: &self.plan, rounds: &self.rounds, marginal: self.marginal.as_deref() }
    }

    /// Waits for the oldest submit in flight.
    pub(super) async fn receive(&mut self) -> Result<Option<Received>> {
        poll_fn(|context| self.poll_receive(context)).await
    }

    /// The oldest submit in flight, once it is done. Until then it stays where it is.
    pub(super) fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Received>>> {
        let Some(oldest) = self.in_flight.front_mut() else { return Poll::Ready(Ok(None)) };
        let words = self.staging[oldest.staging].poll_take(&self.model.gpu, &mut oldest.pending, context);
        let words: Result<Vec<u32>> = ready!(words);
        let done = self.in_flight.pop_front();
        Poll::Ready(words.map(|words| done.map(|done| self.received(done, &words))))
    }

    fn received(&mut self, done: InFlight, words: &[u32]) -> Received {
        let InFlight { work, sent, span, .. } = done;
        let emitted = Emitted::of(words);
        span.record("tokens", emitted.ids.len());
        // A row whose logits are not finite was committed, and brought none.
        let without_id = emitted.done == DONE_NOT_FINITE && !emitted.rounds.is_empty();
        self.reported += emitted.ids.len() + usize::from(without_id);
        let seconds = match &work {
            Work::Prompt { rows, .. } => self.row_pacing.ended(0, *rows, sent),
            Work::Rounds { tree, .. } if !emitted.rounds.is_empty() => {
                self.round_pacing.ended(tree.rows(), emitted.rounds.len(), sent)
            }
            Work::Rounds { .. } => 0.0,
        };
        if matches!(work, Work::Rounds { .. }) {
            // The last round's rows, and siblings that drafted for it, began before the text's last token.
            self.wrote(self.reported + MAX_BATCH_ROWS);
        }
        Received { work, emitted, seconds }
    }

    /// Tokens that submits in flight bring at most.
    pub(super) fn most_tokens_in_flight(&self) -> usize {
        self.in_flight.iter().map(|submit| submit.work.most_tokens()).sum()
    }

    /// Tokens that submits in flight are expected to bring, where a round of a tree brings as many as `tokens` says.
    pub(super) fn expected_in_flight(&self, tokens: impl Fn(&DraftTree) -> f64) -> f64 {
        self.in_flight.iter().map(|submit| submit.work.expected_tokens(&tokens)).sum()
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
    pub(super) async fn drain(&mut self) -> Result<()> {
        while self.waiting() > 0 {
            self.receive().await?;
        }
        poll_fn(|context| self.poll_timing(context)).await?;
        self.model.gpu.check()
    }

    pub(super) fn check_ids(&self, ids: &[u32]) -> Result<()> {
        check_prompt(ids, &self.model.config, self.model.tokenizer.as_deref(), self.context())
    }

    pub(super) fn write_state(&self, state: State) {
        self.model.gpu.write(&self.buffers.state, 0, &[state]);
    }

    /// Rows of `ids` from `first`, each seeing all before it and wanting the probability of the next.
    pub(super) fn write_rows(&self, ids: &[u32], first: usize, count: usize) {
        let row = |at: usize| Row {
            token: ids[at],
            position: at as u32,
            mask: 0,
            target_token: ids.get(at + 1).copied().unwrap_or(0),
            adapter: 0,
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
