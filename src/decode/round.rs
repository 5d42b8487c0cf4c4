//! Rounds: what one is made of, where its drafts come from, and what heads need before they draft.
//!
//! A round drafts, verifies and accepts within one submit, so the host learns only afterwards how many tokens it brought. One
//! tree serves all rounds of a submit: [`super::depth`] chooses it, and [`super::pacing`] says how many rounds follow each
//! other before the host looks again. Rounds are planned for the tokens that they are expected to bring, so that few of them find
//! the text ended; what a cache must hold is planned for the most that they can bring.
//!
//! While drafts are off, rounds are plain steps and the heads do not run, but the histories that heads read are kept up by
//! every step. Before heads draft again, [`Session::refill_heads`] lets them go over the positions that they have missed.
//! Under a gated LoRA it fills the histories too, as only drafting rows compute what heads read.
//!
//! The draft alone is also measured, by drafting once to warm up and then three times in a row. That time is told in the
//! statistics only. The depth is chosen by what whole rounds take.

use std::task::{Context, Poll, ready};

use tracing::field::Empty;
use tracing::{Span, debug_span};
use web_time::Instant;

use super::draft::{DraftTree, RecordedDrafts};
use super::rounds::RoundPlan;
use super::session::Session;
use crate::Result;
use crate::gpu::{Pending, Recorder};
use crate::kernels::{
    Emitted, Extent, MAX_BATCH_ROWS, MAX_EMITTED, MAX_ROUNDS, MAX_TRACED_ROUNDS, Op, RECORDED_RANKS, Row, State, Tree,
};
use crate::marginal::Workspace;
use crate::model::Plan;

/// The work of a submit.
#[derive(Clone, Debug)]
pub(super) enum Work {
    /// Reads as many rows of a prompt; the last such submit samples a token.
    Prompt { rows: usize, last: bool },
    /// Rounds of one tree.
    Rounds { rounds: usize, tree: DraftTree },
}

impl Work {
    /// Tokens it brings at most.
    pub fn most_tokens(&self) -> usize {
        match self {
            Self::Prompt { last, .. } => usize::from(*last),
            Self::Rounds { rounds, tree } => rounds * (tree.depth() + 1),
        }
    }

    /// Tokens that it is expected to bring, where a round of a tree brings as many as `tokens` says.
    pub fn expected_tokens(&self, tokens: impl Fn(&DraftTree) -> f64) -> f64 {
        match self {
            Self::Prompt { last, .. } => f64::from(*last),
            Self::Rounds { rounds, tree } => *rounds as f64 * tokens(tree),
        }
    }

    /// The span from when it is sent to when its result is taken up.
    pub fn span(&self) -> Span {
        match self {
            Self::Prompt { rows, .. } => debug_span!("prompt", rows, tokens = Empty),
            Self::Rounds { rounds, tree } => debug_span!("rounds", rounds, rows = tree.rows(), tokens = Empty),
        }
    }
}

/// The result of a submit, and the seconds it took.
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
    Recorded,
}

impl Source {
    /// The name in statistics.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "off",
            Self::Heads => "heads",
            Self::Marginal => "marginal",
            Self::Lookup => "lookup",
            Self::Recorded => "recorded",
        }
    }
}

/// A draft that is being measured, by drafting some times in a row.
pub(super) struct Timing {
    round: Round,
    verify: Extent,
    repeats: u32,
    started: Instant,
    pending: Pending,
}

impl Timing {
    /// The first time does not count: drivers compile at the first dispatch.
    const REPEATS: [u32; 2] = [1, 3];
}

/// The parts of a round.
struct Round {
    source: Source,
    depth: usize,
    traced: bool,
    chain: bool,
}

/// Ops, and over how many rows.
pub(super) type Step<'p> = (&'p [Op], Extent);

/// The ops of a session.
#[derive(Clone, Copy)]
pub(super) struct Ops<'p> {
    pub plan: &'p Plan,
    pub rounds: &'p RoundPlan,
    pub marginal: Option<&'p Workspace>,
}

impl Round {
    /// The ops that fill the candidates. Run twice, they do the same twice.
    fn draft<'p>(&self, Ops { plan, rounds, marginal }: Ops<'p>, verify: Extent) -> Vec<Step<'p>> {
        let one = Extent { rows: 1, logit_rows: 1, ..verify };
        match (self.source, plan.heads.as_ref().zip(rounds.heads.as_ref()), marginal) {
            _ if self.depth == 0 => Vec::new(),
            (Source::Heads, Some((heads, drafts)), _) => drafts.draft(heads, self.depth, verify.keys),
            (Source::Marginal, _, Some(marginal)) => marginal.draft(plan, verify.keys),
            (Source::Lookup, ..) => vec![(&rounds.lookup[..], one)],
            (Source::Recorded, ..) => vec![(&rounds.recorded[..], one)],
            (Source::None | Source::Heads | Source::Marginal, ..) => Vec::new(),
        }
    }

    /// The ops of a round: draft, verify, accept.
    fn steps<'p>(&self, ops: Ops<'p>, verify: Extent) -> Vec<Step<'p>> {
        let Ops { plan, rounds, .. } = ops;
        let one = Extent { rows: 1, logit_rows: 1, ..verify };
        let mut steps = self.draft(ops, verify);
        steps.push((&rounds.tree, one));
        steps.extend([&plan.body, &plan.lm_head, &plan.sample].map(|ops| (&ops[..], verify)));
        if self.traced {
            steps.push((&rounds.trace, verify));
        }
        steps.push((&rounds.commit, one));
        if !self.chain {
            steps.push((&rounds.compact, one));
            steps.extend(rounds.heads.iter().map(|heads| (&heads.compact[..], one)));
        }
        steps
    }
}

impl Session {
    /// Rounds of `tree` that one submit takes, of at most `most`.
    pub(super) fn rounds(&self, tree: &DraftTree, most: usize, traced: bool) -> usize {
        let fit = if traced { MAX_TRACED_ROUNDS } else { MAX_ROUNDS }.min(MAX_EMITTED / (tree.depth() + 1));
        self.round_pacing.units(tree.rows(), 1, fit.min(most))
    }

    /// Sends `rounds` rounds on their way: draft, verify, accept. `length` bounds the text's length before them.
    ///
    /// # Errors
    /// If the cache has to grow and does not fit the GPU.
    pub(super) fn submit_rounds(
        &mut self,
        rounds: usize,
        tree: DraftTree,
        source: Source,
        length: usize,
        traced: bool,
    ) -> Result<()> {
        let layout = tree.layout();
        self.write_tree(layout);
        let (depth, chain) = (tree.depth(), tree.is_chain());
        let work = Work::Rounds { rounds, tree };
        let keys = (length + work.most_tokens()).min(self.context()) as u32;
        self.room(keys as usize + MAX_BATCH_ROWS)?;
        let extent = Extent { rows: layout.num_rows, logit_rows: layout.num_rows, keys };
        let round = Round { source, depth, traced, chain };
        if depth == 0 {
            self.heads_current = false;
        }
        self.submit(work, rounds, |ops| round.steps(ops, extent));
        Ok(())
    }

    /// Seconds of the draft alone of a round, once it has been measured.
    pub(super) fn draft_seconds(&self, source: Source, depth: usize) -> Option<f64> {
        let known = |(of, tokens, _): &&(Source, usize, f64)| (*of, *tokens) == (source, depth);
        self.draft_seconds.iter().find(known).map(|(.., seconds)| *seconds)
    }

    /// Begins to measure a draft by drafting some times in a row, which changes nothing. Nothing may be in flight; `keys`
    /// bounds the text's length.
    ///
    /// # Errors
    /// If the cache does not fit the GPU.
    pub(super) fn time_draft(&mut self, source: Source, tree: &DraftTree, keys: usize) -> Result<()> {
        self.reserve(keys + MAX_BATCH_ROWS)?;
        let (layout, depth) = (tree.layout(), tree.depth());
        self.write_tree(layout);
        let keys = (keys + depth + 1).min(self.context()) as u32;
        let verify = Extent { rows: layout.num_rows, logit_rows: layout.num_rows, keys };
        let round = Round { source, depth, traced: false, chain: tree.is_chain() };
        self.timing = Some(self.submit_drafts(round, verify, Timing::REPEATS[0]));
        Ok(())
    }

    /// Whether [`Self::time_draft`] has begun, and [`Self::poll_timing`] has not ended it.
    pub(super) fn is_timing(&self) -> bool {
        self.timing.is_some()
    }

    /// Ends what [`Self::time_draft`] began, if it did.
    pub(super) fn poll_timing(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        while let Some(timing) = &mut self.timing {
            let taken = self.score_staging.poll_take::<u32>(&self.model.gpu, &mut timing.pending, context);
            let taken = ready!(taken);
            // The readback is no part of a draft.
            let elapsed = (timing.started.elapsed().as_secs_f64() - self.model.sync_seconds).max(0.0);
            let Some(Timing { round, verify, repeats, .. }) = self.timing.take() else { break };
            taken?;
            if repeats == Timing::REPEATS[0] {
                self.timing = Some(self.submit_drafts(round, verify, Timing::REPEATS[1]));
            } else {
                self.draft_seconds.push((round.source, round.depth, elapsed / f64::from(repeats)));
            }
        }
        Poll::Ready(Ok(()))
    }

    fn submit_drafts(&self, round: Round, verify: Extent, repeats: u32) -> Timing {
        let draft = round.draft(self.ops(), verify);
        let started = Instant::now();
        let record = |recorder: &mut Recorder<'_>| {
            let steps = (0..repeats).flat_map(|_| &draft);
            steps.for_each(|(ops, extent)| ops.iter().for_each(|op| op.record(recorder, *extent)));
        };
        let copy = Some((&self.buffers.log_probs, &self.score_staging));
        let pending = self.score_staging.read_after(self.model.gpu.submit(None, record, copy));
        Timing { round, verify, repeats, started, pending }
    }

    fn write_tree(&mut self, layout: Tree) {
        if self.tree.replace(layout) != Some(layout) {
            self.model.gpu.write(&self.rounds.buffers.tree, 0, &[layout]);
        }
    }

    /// The longest chain that `source` can draft.
    pub(super) fn deepest(&self, source: Source) -> usize {
        match source {
            Source::None => 0,
            Source::Heads => self.rounds.heads.as_ref().map_or(0, |heads| heads.depth),
            Source::Marginal => 1,
            Source::Lookup | Source::Recorded => DraftTree::MAX_DRAFTS,
        }
    }

    /// Whether heads have gone over all positions but those that the next round's window holds.
    pub(super) fn heads_current(&self) -> bool {
        self.heads_current
    }

    /// Lets the heads go over the positions that they have not seen: of the prompt, or of a time without drafts. Nothing
    /// may be in flight, and the text has `length` tokens.
    pub(super) fn refill_heads(&mut self, length: usize, limit: usize) {
        let Some((plan, drafts)) = self.plan.heads.as_ref().zip(self.rounds.heads.as_ref()) else { return };
        let state = |committed, rows| between_rounds(length, limit, committed, rows);
        let known = length - 1;
        for first in (self.heads_filled..known).step_by(MAX_BATCH_ROWS) {
            let rows = MAX_BATCH_ROWS.min(known - first);
            // The adapters of a gated LoRA are on, where there are any.
            let row = |at: usize| Row { position: at as u32, adapter: 1, ..Row::default() };
            let staged: Vec<Row> = (first..first + rows).map(row).collect();
            self.model.gpu.write(&self.buffers.rows, 0, &staged);
            self.write_state(state(first, rows));
            let extent = Extent { rows: rows as u32, logit_rows: 1, keys: (first + rows) as u32 };
            self.model.gpu.submit(
                None,
                |recorder| drafts.refill(plan).for_each(|op| op.record(recorder, extent)),
                None,
            );
        }
        self.write_state(state(known, 1));
        self.heads_current = true;
    }

    /// Tells the GPU that the next round goes on after the text's last token.
    pub(super) fn stage_end(&mut self, limit: usize) {
        let length = self.tokens.len();
        self.reported = length;
        self.write_state(between_rounds(length, limit, length - 1, 1));
    }

    /// The text has `length` tokens after rounds that heads have drafted: what lies behind their window stays as it is.
    pub(super) fn heads_drafted(&mut self, length: usize) {
        if let Some(drafts) = &self.rounds.heads {
            self.heads_filled = self.heads_filled.max(length.saturating_sub(2 * drafts.window + 1));
        }
    }

    pub(super) fn write_recorded(&self, recorded: &RecordedDrafts) {
        let mut candidates = recorded.0.clone();
        candidates.resize(self.context() + 1, [u32::MAX; RECORDED_RANKS]);
        self.model.gpu.write(&self.rounds.buffers.recorded, 0, &candidates);
    }
}

/// The state of a text of `length` tokens, with `rows` rows after `committed` others as its batch.
fn between_rounds(length: usize, limit: usize, committed: usize, rows: usize) -> State {
    State {
        committed: committed as u32,
        length: length as u32,
        limit: limit as u32,
        num_rows: rows as u32,
        logit_row: rows as u32 - 1,
        ..State::default()
    }
}
