//! One text on the GPU: its tokens, its cache, and the submits in flight.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use web_time::Instant;

use super::draft::{DraftTree, Drafter, Script};
use super::generation::{GenerateOptions, Generation, is_set};
use super::pacing::Pacing;
use super::sampling::Sampling;
use crate::gpu::{Pending, Recorder, Staging};
use crate::kernels::{
    Emitted, Extent, MAX_BATCH_ROWS, MAX_EMITTED, MAX_ROUNDS, MAX_TRACED_ROUNDS, Op, Row, SCRIPT_RANKS, State, Tree,
};
use crate::marginal::Workspace;
use crate::model::{Buffers, HeadsPlan, Model, Plan, Progress};
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
    pub(super) cached: usize,
    /// Made when it is first needed.
    pub(super) marginal: Option<Box<Workspace>>,
    staging: Vec<Staging>,
    score_staging: Staging,
    in_flight: VecDeque<InFlight>,
    next_staging: usize,
    pub(super) round_pacing: Pacing,
    row_pacing: Pacing,
    /// The tree that the GPU knows.
    tree: Option<Tree>,
    /// Positions, from the first on, that the heads have gone over for certain.
    heads_filled: usize,
    heads_current: bool,
    /// Seconds that a draft of as many tokens takes.
    draft_seconds: Vec<(Source, usize, f64)>,
}

/// A submit on its way.
struct InFlight {
    pending: Pending,
    staging: usize,
    work: Work,
}

/// What a submit does.
#[derive(Clone, Debug)]
pub(super) enum Work {
    /// Reads as many rows of a prompt; the last such submit samples a token.
    Prompt { rows: usize, last: bool },
    /// Rounds of one tree.
    Rounds { rounds: usize, tree: DraftTree },
}

impl Work {
    /// Tokens it brings at most.
    fn most_tokens(&self) -> usize {
        match self {
            Self::Prompt { last, .. } => usize::from(*last),
            Self::Rounds { rounds, tree } => rounds * (tree.depth() + 1),
        }
    }
}

/// What a submit has brought back, and the seconds it took.
pub(super) struct Received {
    pub work: Work,
    pub emitted: Emitted,
    pub seconds: f64,
}

/// Where the drafts of a generation come from, once it is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    None,
    Heads,
    Marginal,
    Lookup,
    Script,
}

impl Source {
    /// The name in statistics.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "off",
            Self::Heads => "heads",
            Self::Marginal => "marginal",
            Self::Lookup => "lookup",
            Self::Script => "script",
        }
    }
}

/// What a round is made of.
struct Round {
    source: Source,
    depth: usize,
    traced: bool,
    chain: bool,
}

/// Ops, and over how many rows.
type Step<'p> = (&'p [Op], Extent);

impl Round {
    /// What fills the candidates. Run twice, it does the same twice.
    fn draft<'p>(&self, plan: &'p Plan, marginal: Option<&'p Workspace>, verify: Extent) -> Vec<Step<'p>> {
        let one = Extent { rows: 1, logit_rows: 1, ..verify };
        match (self.source, &plan.heads, marginal) {
            _ if self.depth == 0 => Vec::new(),
            (Source::Heads, Some(heads), _) => heads.draft(self.depth, verify.keys),
            (Source::Marginal, _, Some(marginal)) => marginal.draft(plan, verify.keys),
            (Source::Lookup, ..) => vec![(&plan.lookup[..], one)],
            (Source::Script, ..) => vec![(&plan.script[..], one)],
            (Source::None | Source::Heads | Source::Marginal, ..) => Vec::new(),
        }
    }

    /// Draft, verify, accept.
    fn steps<'p>(&self, plan: &'p Plan, marginal: Option<&'p Workspace>, verify: Extent) -> Vec<Step<'p>> {
        let one = Extent { rows: 1, logit_rows: 1, ..verify };
        let mut steps = self.draft(plan, marginal, verify);
        steps.push((&plan.tree, one));
        steps.extend([&plan.body, &plan.head, &plan.sample].map(|ops| (&ops[..], verify)));
        if self.traced {
            steps.push((&plan.trace, verify));
        }
        steps.push((&plan.commit, one));
        if !self.chain {
            steps.push((&plan.compact, one));
            steps.extend(plan.heads.iter().map(|heads| (&heads.keep[..], one)));
        }
        steps
    }
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
            marginal: None,
            staging,
            score_staging,
            in_flight: VecDeque::new(),
            next_staging: 0,
            round_pacing: Pacing::new(),
            row_pacing: Pacing::new(),
            tree: None,
            heads_filled: 0,
            heads_current: false,
            draft_seconds: Vec::new(),
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
        if let Drafter::Script(script) = &options.draft.drafter {
            self.write_script(script);
        }
        if options.draft.drafter == Drafter::Marginal {
            let Self { model, buffers, marginal, .. } = self;
            marginal.get_or_insert_with(|| Box::new(Workspace::new(model, buffers))).ask_draft(&model.gpu);
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
            let rows = self.row_pacing.units(0, 8, MAX_BATCH_ROWS).min(total - first);
            self.row_pacing.restart();
            let copy = Some((&self.buffers.log_probs, &self.score_staging));
            let submission = self.submit_chunk(ids, first, rows, &self.plan.score, copy);
            let pending = self.score_staging.read_after(submission);
            let found: Vec<f32> = self.score_staging.take(&self.model.gpu, pending).await?;
            self.row_pacing.ended(0, rows);
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

    /// The logits of each multi-token head after each token of `ids`, nearest head first. A sequential head also reads
    /// tokens that come later, so it has no answer at the last positions: its list is shorter. For analysis.
    ///
    /// # Errors
    /// As [`Session::generate`]; [`ErrorKind::Input`](crate::ErrorKind::Input) without heads.
    pub async fn head_logits(&mut self, ids: &[u32]) -> Result<Vec<Vec<Vec<f32>>>> {
        self.check_ids(ids)?;
        self.restart().await?;
        let Some(plan) = &self.plan.heads else {
            return Err(Error::input("this model has no multi-token heads"));
        };
        let (model, buffers) = (&self.model, &self.buffers);
        let (vocab, stride) = (model.sizes.vocab as usize, model.sizes.vocab_stride() as usize);
        model.gpu.write(&buffers.text, 0, ids);
        let mut logits = vec![Vec::with_capacity(ids.len()); plan.heads.len()];
        for first in (0..ids.len()).step_by(MAX_BATCH_ROWS) {
            let rows = MAX_BATCH_ROWS.min(ids.len() - first);
            let extent =
                Extent { rows: rows as u32, logit_rows: rows as u32, keys: (first + rows) as u32, many: false };
            self.write_rows(ids, first, rows);
            self.write_state(State {
                committed: first as u32,
                length: ids.len() as u32,
                num_rows: rows as u32,
                ..State::default()
            });
            let replay = |ops: &[&[Op]]| {
                model.gpu.submit(
                    None,
                    |recorder| ops.iter().copied().flatten().for_each(|op| op.record(recorder, extent)),
                    None,
                )
            };
            replay(&[&self.plan.body, &self.plan.head]);
            for (head, logits) in plan.heads.iter().zip(&mut logits) {
                if !head.backbone {
                    replay(&[&head.full]);
                }
                let found: Vec<f32> = model.gpu.read(&buffers.logits).await?;
                let known = rows.min((ids.len() - first).saturating_sub(head.ahead));
                logits.extend(found.chunks_exact(stride).take(known).map(|row| row[..vocab].to_vec()));
            }
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
            ..Row::default()
        };
        self.model.gpu.write(&self.buffers.rows, 0, &(0..rows).map(row).collect::<Vec<_>>());
        self.write_state(State { committed: committed as u32, num_rows: rows as u32, ..State::default() });
        let params = Sampling::default().params(self.model.sizes.vocab, self.model.sizes.vocab_stride());
        self.model.gpu.write(&self.buffers.sample_params, 0, &[params]);
        Extent { rows: rows as u32, logit_rows: rows as u32, keys: (committed + rows) as u32, many: false }
    }

    /// The ops of a step up to its sampled tokens; without `commit` they can be run again and again.
    pub(crate) fn step_ops(&self) -> impl Iterator<Item = &Op> {
        self.plan.body.iter().chain(&self.plan.head).chain(&self.plan.sample)
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
    pub(super) async fn restart(&mut self) -> Result<()> {
        self.drain().await?;
        self.tokens.clear();
        self.cached = 0;
        Ok(())
    }

    /// Makes `prompt` the text; what it shares with the text before stays cached.
    pub(super) fn set_text(&mut self, prompt: &[u32]) {
        let shared = self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        self.cached = self.cached.min(shared);
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
            let rows = self.row_pacing.units(0, 8, most).min(prompt.len() - at);
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
            let work = Work::Prompt { rows, last };
            if last {
                self.submit(work, 1, |plan, _| {
                    let ops = [&plan.body, &plan.head, &plan.sample, &plan.commit];
                    ops.map(|ops| (&ops[..], extent)).into()
                });
            } else {
                self.submit(work, 1, |plan, _| vec![(&plan.body[..], extent)]);
            }
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

    /// Rounds of `tree` that one submit takes, of at most `most`.
    pub(super) fn rounds(&self, tree: &DraftTree, most: usize, traced: bool) -> usize {
        let fit = if traced { MAX_TRACED_ROUNDS } else { MAX_ROUNDS }.min(MAX_EMITTED / (tree.depth() + 1));
        self.round_pacing.units(tree.rows(), 1, fit.min(most))
    }

    /// Sends `rounds` rounds on their way: draft, verify, accept. `length` bounds the text's length before them.
    pub(super) fn submit_rounds(
        &mut self,
        rounds: usize,
        tree: DraftTree,
        source: Source,
        length: usize,
        traced: bool,
    ) {
        let layout = tree.layout();
        self.write_tree(layout);
        let (depth, chain) = (tree.depth(), tree.is_chain());
        let work = Work::Rounds { rounds, tree };
        let keys = (length + work.most_tokens()).min(self.context()) as u32;
        let extent = Extent { rows: layout.num_rows, logit_rows: layout.num_rows, keys, many: false };
        let round = Round { source, depth, traced, chain };
        if depth == 0 {
            self.heads_current = false;
        }
        self.submit(work, rounds, |plan, marginal| round.steps(plan, marginal, extent));
    }

    /// Records `repeats` times what `steps` gives, in one pass, and asks for the ring.
    fn submit(
        &mut self,
        work: Work,
        repeats: usize,
        steps: impl for<'p> Fn(&'p Plan, Option<&'p Workspace>) -> Vec<Step<'p>>,
    ) {
        debug_assert!(repeats <= MAX_ROUNDS && work.most_tokens() <= MAX_EMITTED, "{work:?} overflows the ring");
        let staging = &self.staging[self.next_staging];
        let emitted = std::mem::offset_of!(State, emitted) as u64;
        let steps = steps(&self.plan, self.marginal.as_deref());
        let submission = self.model.gpu.submit(
            // The emitted ids and the rounds are counted from 0 in each submit.
            Some((&self.buffers.state, emitted, 8)),
            |recorder| {
                for _ in 0..repeats {
                    for (ops, extent) in &steps {
                        ops.iter().for_each(|op| op.record(recorder, *extent));
                    }
                }
            },
            Some((&self.buffers.ring, staging)),
        );
        let pending = staging.read_after(submission);
        self.in_flight.push_back(InFlight { pending, staging: self.next_staging, work });
        self.next_staging = (self.next_staging + 1) % self.staging.len();
    }

    /// Seconds of the draft alone of a round, once [`Self::time_draft`] has measured it.
    pub(super) fn draft_seconds(&self, source: Source, depth: usize) -> Option<f64> {
        let known = |(of, tokens, _): &&(Source, usize, f64)| (*of, *tokens) == (source, depth);
        self.draft_seconds.iter().find(known).map(|(.., seconds)| *seconds)
    }

    /// Measures a draft by drafting some times in a row, which changes nothing. Nothing may be in flight; `keys` bounds the
    /// text's length.
    pub(super) async fn time_draft(&mut self, source: Source, tree: &DraftTree, keys: usize) -> Result<()> {
        const REPEATS: u32 = 3;
        let (layout, depth) = (tree.layout(), tree.depth());
        self.write_tree(layout);
        let keys = (keys + depth + 1).min(self.context()) as u32;
        let verify = Extent { rows: layout.num_rows, logit_rows: layout.num_rows, keys, many: false };
        let round = Round { source, depth, traced: false, chain: tree.is_chain() };
        let mut seconds = 0.0;
        // The first time does not count: drivers compile at the first dispatch.
        for repeats in [1, REPEATS] {
            let draft = round.draft(&self.plan, self.marginal.as_deref(), verify);
            let started = Instant::now();
            let record = |recorder: &mut Recorder<'_>| {
                let steps = (0..repeats).flat_map(|_| &draft);
                steps.for_each(|(ops, extent)| ops.iter().for_each(|op| op.record(recorder, *extent)));
            };
            let copy = Some((&self.buffers.log_probs, &self.score_staging));
            let pending = self.score_staging.read_after(self.model.gpu.submit(None, record, copy));
            self.score_staging.take::<u32>(&self.model.gpu, pending).await?;
            seconds = started.elapsed().as_secs_f64() / f64::from(repeats);
        }
        self.draft_seconds.push((source, depth, seconds));
        self.round_pacing.restart();
        Ok(())
    }

    fn write_tree(&mut self, layout: Tree) {
        if self.tree.replace(layout) != Some(layout) {
            self.model.gpu.write(&self.buffers.tree, 0, &[layout]);
        }
    }

    /// The longest chain that `source` can draft.
    pub(super) fn deepest(&self, source: Source) -> usize {
        match source {
            Source::None => 0,
            Source::Heads => self.plan.heads.as_ref().map_or(0, HeadsPlan::depth),
            Source::Marginal => 1,
            Source::Lookup | Source::Script => DraftTree::MAX_DRAFTS,
        }
    }

    /// Whether heads have gone over all positions but those that the next round's window holds.
    pub(super) fn heads_current(&self) -> bool {
        self.heads_current
    }

    /// Lets the heads go over the positions that they have not seen: of the prompt, or of a time without drafts. Nothing
    /// may be in flight, and the text has `length` tokens.
    pub(super) fn refill_heads(&mut self, length: usize, limit: usize) {
        let Some(plan) = &self.plan.heads else { return };
        let state = |committed: usize, rows: usize| State {
            committed: committed as u32,
            length: length as u32,
            limit: limit as u32,
            num_rows: rows as u32,
            logit_row: rows as u32 - 1,
            ..State::default()
        };
        let known = length - 1;
        for first in (self.heads_filled..known).step_by(MAX_BATCH_ROWS) {
            let rows = MAX_BATCH_ROWS.min(known - first);
            let row = |at: usize| Row { position: at as u32, ..Row::default() };
            let staged: Vec<Row> = (first..first + rows).map(row).collect();
            self.model.gpu.write(&self.buffers.rows, 0, &staged);
            self.write_state(state(first, rows));
            let extent = Extent { rows: rows as u32, logit_rows: 1, keys: (first + rows) as u32, many: false };
            let ops = || plan.heads.iter().flat_map(|head| &head.refill);
            self.model.gpu.submit(None, |recorder| ops().for_each(|op| op.record(recorder, extent)), None);
        }
        self.write_state(state(known, 1));
        self.heads_current = true;
    }

    /// Waits for the oldest submit in flight.
    pub(super) async fn receive(&mut self) -> Result<Option<Received>> {
        let Some(InFlight { pending, staging, work }) = self.in_flight.pop_front() else { return Ok(None) };
        let ring: Vec<u32> = self.staging[staging].take(&self.model.gpu, pending).await?;
        let emitted = Emitted::of(&ring);
        let seconds = match &work {
            Work::Prompt { rows, .. } => self.row_pacing.ended(0, *rows),
            Work::Rounds { tree, .. } if !emitted.rounds.is_empty() => {
                self.round_pacing.ended(tree.rows(), emitted.rounds.len())
            }
            Work::Rounds { .. } => 0.0,
        };
        Ok(Some(Received { work, emitted, seconds }))
    }

    /// Tokens that submits in flight bring at most.
    pub(super) fn most_tokens_in_flight(&self) -> usize {
        self.in_flight.iter().map(|submit| submit.work.most_tokens()).sum()
    }

    /// Submits in flight.
    pub(super) fn waiting(&self) -> usize {
        self.in_flight.len()
    }

    /// The text has `length` tokens after rounds that heads have drafted: what lies behind their window stays as it is.
    pub(super) fn heads_drafted(&mut self, length: usize) {
        if let Some(plan) = &self.plan.heads {
            self.heads_filled = self.heads_filled.max(length.saturating_sub(2 * plan.window() + 1));
        }
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
        self.model.gpu.check()
    }

    pub(super) fn check_ids(&self, ids: &[u32]) -> Result<()> {
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

    fn write_script(&self, script: &Script) {
        let mut candidates = script.0.clone();
        candidates.resize(self.context() + 1, [u32::MAX; SCRIPT_RANKS]);
        self.model.gpu.write(&self.buffers.script, 0, &candidates);
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
