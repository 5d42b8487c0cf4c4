//! The cost of a generation, and how its drafts did.

use crate::kernels::TracedDraft;

/// Statistics of a generation.
#[derive(Clone, Debug, Default, serde::Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens added.
    pub new_tokens: usize,
    /// Seconds until the first token.
    pub prefill_s: f64,
    /// Seconds from the first token to the last.
    pub decode_s: f64,
    /// Tokens after the first, over `decode_s`.
    pub tokens_per_s: f64,
    /// Statistics of the drafts.
    #[serde(flatten)]
    pub drafts: DraftStats,
    /// Submits of the device, prefill included, and those of other sessions meanwhile; likewise the next three.
    pub submits: u64,
    /// Compute passes.
    pub passes: u64,
    /// Dispatches.
    pub dispatches: u64,
    /// Readbacks the host waited for.
    pub readbacks: u64,
}

/// How the drafts of a generation did. A round verifies drafts and brings the accepted ones and one token more; a step
/// without drafts is a round too.
#[derive(Clone, Debug, Default, serde::Serialize)]
#[non_exhaustive]
pub struct DraftStats {
    /// Where drafts came from.
    pub drafter: &'static str,
    /// Rounds after the prompt.
    pub rounds: u64,
    /// Rounds sent to the GPU: those that found the text ended too, and did nothing.
    pub rounds_sent: u64,
    /// Tokens drafted.
    pub drafted: u64,
    /// Drafts that were right, as was every draft before them.
    pub accepted: u64,
    /// Tokens a round brought.
    pub tokens_per_round: f64,
    /// Rounds that accepted 0, 1, 2, ... drafts.
    pub accepted_histogram: Vec<u64>,
    /// The share of rounds that accepted the first, second, ... draft, of the rounds that came to it.
    pub acceptance: Vec<f64>,
    /// Rounds a submit.
    pub rounds_per_submit: f64,
    /// Seconds of the GPU spent on drafting: rounds, times what a draft alone took when it was measured.
    pub draft_s: f64,
    /// The rest of the rounds: forward pass, sampling, acceptance.
    pub verify_s: f64,
    /// Seconds the host waited for the GPU, while it could not do anything else.
    pub sync_s: f64,
    /// Why drafts are off at the end, if they are and the drafter was not [`Drafter::Off`](super::Drafter::Off).
    pub off_reason: Option<String>,
    /// Times that the GPU had nothing to do until the host had heard of its last submit.
    #[serde(skip)]
    pub(super) gaps: u64,
    #[serde(skip)]
    pub(super) submits: u64,
    #[serde(skip)]
    pub(super) reached: Vec<u64>,
}

impl DraftStats {
    /// A round has ended that verified `drafted` tokens of a tree of `depth`.
    pub(super) fn ended(&mut self, depth: usize, drafted: usize, accepted: usize) {
        self.rounds += 1;
        self.drafted += drafted as u64;
        self.accepted += accepted as u64;
        let length = self.accepted_histogram.len().max(accepted + 1);
        self.accepted_histogram.resize(length, 0);
        self.accepted_histogram[accepted] += 1;
        if drafted > 0 {
            let reached = depth.min(accepted + 1);
            self.reached.resize(self.reached.len().max(reached), 0);
            self.reached[..reached].iter_mut().for_each(|count| *count += 1);
        }
        // Rounds that accepted more than `at` tokens; none where the histogram ends before.
        let accepted_at = |at: usize| self.accepted_histogram.iter().skip(at + 1).sum::<u64>() as f64;
        self.acceptance = self.reached.iter().enumerate().map(|(at, &n)| accepted_at(at) / n.max(1) as f64).collect();
        self.tokens_per_round = 1.0 + self.accepted as f64 / self.rounds as f64;
        self.rounds_per_submit = self.rounds as f64 / self.submits.max(1) as f64;
    }
}

/// One round, as the target saw it.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Round {
    /// The drafted tokens; of a tree level by level.
    pub drafted: Vec<u32>,
    /// The target's probability of each, given the drafts above it.
    pub p: Vec<f32>,
    /// The number of tokens that the target found likelier than each draft.
    pub rank: Vec<u32>,
    /// The token that the target sampled in the place of each draft.
    pub target: Vec<u32>,
    /// Drafts that joined the text.
    pub accepted: usize,
}

impl Round {
    /// A round of the drafts that a drafter had something to say for.
    pub(super) fn new(drafts: impl Iterator<Item = TracedDraft>, accepted: usize) -> Self {
        let mut round = Self { accepted, ..Self::default() };
        for draft in drafts.filter(|draft| draft.token != u32::MAX) {
            round.drafted.push(draft.token);
            round.p.push(draft.p);
            round.rank.push(draft.rank);
            round.target.push(draft.target);
        }
        round
    }
}
