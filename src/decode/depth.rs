//! How many tokens to draft: expected tokens a round over what a round costs on this device.
//!
//! A round of depth d verifies a chain of d drafts in d + 1 rows. For each submit the depth is chosen that maximises
//! tokens(d) / cost(d + 1), from 0, a plain step, to the longest chain that the drafter can make.
//!
//! - tokens(d) is 1 plus, for each draft, the chance that it and all drafts before it are accepted. At each depth that is
//!   the share of rounds that accepted the draft there, of those that came to it. A round counts 0.98 of the next one, and
//!   one whose drafter had nothing to say counts as wrong. A depth that no round came to is taken to be as good as the one
//!   before, and the first one to be right half of the time.
//! - cost(n) is the usual time of a round of n rows over that of a plain step, both measured by [`super::pacing`]. A number of
//!   rows that was not measured lies on the line through the measured ones around it. No round costs less than a step.
//!
//! Plain steps are measured first. Then chains of up to three drafts are tried out until three measurements of their rounds
//! count, and only then the depth is chosen. Where every depth is more than 3 % worse than a plain step, drafts rest for 64 tokens, and
//! are tried out again with the same three measurements. Each rest after a failed trial is twice as long as the one before;
//! a depth that pays makes it 64 tokens again. Drafts are hopeless where even the fastest round takes as long as plain steps
//! for all tokens it could bring: then the rest is at least 512 tokens, and once nine submits have been measured, a new text
//! does not begin with a trial.

use super::draft::DraftTree;
use super::pacing::{MEASURED_ROUNDS, Pacing};

/// Measured submits that try drafts out before they are judged.
const TRIAL: usize = 3;

/// Drafts that are tried out, where there are as many.
const TRIED: usize = 3;

/// Tokens without drafts before they are tried again; twice as many each time.
const FIRST_PAUSE: usize = 64;

/// Tokens without drafts where drafts are hopeless: not even if all were right would they pay.
const LONG_PAUSE: usize = 8 * FIRST_PAUSE;

/// Measured submits after which a text takes it as known that drafts cannot pay.
const CERTAIN: usize = 3 * TRIAL;

/// What drafts that bring something may lose and still stay on: less is noise, and text comes in larger steps.
const TIE: f64 = 1.03;

/// Tokens of a round that brings something.
const SOMETHING: f64 = 1.1;

/// Rounds after which what a round brings is known well enough to plan by.
const KNOWN_ROUNDS: f64 = 6.0;

/// The most rounds of a submit until then.
const UNKNOWN_ROUNDS: usize = 8;

/// The weight of an older round beside the next one.
const MEMORY: f64 = 0.98;

/// Chooses the depth of each submit.
pub(super) struct Depth {
    /// The tree that the user fixed.
    fixed: Option<DraftTree>,
    most: usize,
    /// Rounds that came to the draft at each depth, and those that accepted it; older ones count less.
    reached: Vec<f64>,
    accepted: Vec<f64>,
    /// Drafts are tried out until a round of theirs has been measured so many times.
    until: Option<usize>,
    pause: usize,
    /// Tokens since drafts were switched off.
    resting: Option<usize>,
    verdict: Option<String>,
    /// The next submit is sent to be measured.
    measuring: bool,
}

impl Depth {
    /// A fixed tree, or chains of up to `most` drafts.
    pub fn new(fixed: Option<DraftTree>, most: usize) -> Self {
        let (reached, accepted) = (vec![0.0; most], vec![0.0; most]);
        let (until, resting, verdict, measuring) = (None, None, None, false);
        Self { fixed, most, reached, accepted, until, pause: FIRST_PAUSE, resting, verdict, measuring }
    }

    /// The tree of the next submit.
    pub fn next(&mut self, pacing: &Pacing) -> DraftTree {
        if let Some(tree) = &self.fixed {
            return tree.clone();
        }
        let depth = self.choose(pacing);
        DraftTree::chain(depth).unwrap_or_default()
    }

    /// The most rounds that the submit after [`Self::next`] should hold.
    pub fn most_rounds(&self) -> usize {
        if self.measuring { MEASURED_ROUNDS } else { usize::MAX }
    }

    /// The tokens that a round of `tree` is expected to bring.
    pub fn expected(&self, tree: &DraftTree) -> f64 {
        self.tokens(tree.depth())
    }

    /// The most rounds of `tree` that should be planned without hearing of them: few until some have told what they bring.
    pub fn most_planned(&self, tree: &DraftTree) -> usize {
        let unknown = tree.depth() > 0 && self.reached.first().is_some_and(|&rounds| rounds < KNOWN_ROUNDS);
        if unknown { UNKNOWN_ROUNDS } else { usize::MAX }
    }

    fn choose(&mut self, pacing: &Pacing) -> usize {
        self.measuring = false;
        if self.most == 0 {
            return 0;
        }
        // What a plain step takes is what drafts are measured by.
        if pacing.seconds(1).is_none() {
            self.measuring = true;
            return 0;
        }
        if self.resting.is_some_and(|tokens| tokens < self.pause) {
            return 0;
        }
        if self.resting.take().is_some() {
            self.pause *= 2;
            self.until = None;
        }
        let tried = self.most.min(TRIED);
        let measured = pacing.measurements(tried + 1);
        // Not even if all drafts were right would they pay. Noise only makes slower, so the fastest round tells.
        let fastest = pacing.fastest(tried + 1).zip(pacing.seconds(1));
        let hopeless = fastest.is_some_and(|(round, plain)| round >= plain * (tried + 1) as f64);
        // What texts before have shown, beyond doubt: nothing will be measured that could change it.
        let known = hopeless && measured >= CERTAIN && self.pause == FIRST_PAUSE;
        // A verdict on fewer would be noise, and of the first submits on their way none has come back.
        if !known && measured < *self.until.get_or_insert(measured + TRIAL) {
            self.measuring = true;
            return tried;
        }
        let gain = |depth: usize| {
            let tokens = self.tokens(depth);
            let tie = if depth > 0 && tokens >= SOMETHING { TIE } else { 1.0 };
            tie * tokens / cost(pacing, depth + 1)
        };
        let best = (0..=self.most).fold(0, |best, depth| if gain(depth) > gain(best) { depth } else { best });
        if best > 0 {
            self.verdict = None;
            self.pause = FIRST_PAUSE;
        } else {
            self.resting = Some(0);
            if hopeless {
                self.pause = self.pause.max(LONG_PAUSE);
            }
            let brought = if self.reached[0] > 0.0 {
                format!("brought {:.2} tokens", self.tokens(tried))
            } else {
                format!("brings at most {} tokens", tried + 1)
            };
            let steps = cost(pacing, tried + 1);
            self.verdict = Some(format!(
                "drafts do not pay here: with {tried} drafted a round {brought} and takes {steps:.2} plain steps"
            ));
        }
        best
    }

    /// A round of `depth` has ended; `drafted` is false where the drafter had nothing to say.
    pub fn ended(&mut self, depth: usize, drafted: bool, accepted: usize) {
        if depth == 0 {
            if let Some(tokens) = &mut self.resting {
                *tokens += 1;
            }
            return;
        }
        for at in 0..depth.min(self.most).min(accepted + 1) {
            let right = if drafted && accepted > at { 1.0 } else { 0.0 };
            self.reached[at] = MEMORY * self.reached[at] + 1.0;
            self.accepted[at] = MEMORY * self.accepted[at] + right;
        }
    }

    /// Why drafts are off, if they are; also while they are tried again.
    pub fn verdict(&self) -> Option<&str> {
        self.verdict.as_deref()
    }

    /// Expected tokens of a round: one, and each draft times the chance that it and all before it are right.
    fn tokens(&self, depth: usize) -> f64 {
        let mut chance = 1.0;
        let mut tokens = 1.0;
        for at in 0..depth.min(self.most) {
            // A depth that was never reached is taken to be as good as the one before.
            let before = if at == 0 { (1.0, 2.0) } else { (self.accepted[at - 1], self.reached[at - 1].max(1.0)) };
            let (accepted, reached) =
                if self.reached[at] > 0.0 { (self.accepted[at], self.reached[at]) } else { before };
            chance *= accepted / reached;
            tokens += chance;
        }
        tokens
    }
}

/// The cost of a round of `rows` rows, in plain steps: measured, or on the line through the measured ones around it.
/// Never less than a plain step, whatever a moment's noise says, so that drafts that bring nothing end.
fn cost(pacing: &Pacing, rows: usize) -> f64 {
    let Some(plain) = pacing.seconds(1) else { return 1.0 };
    let known = |rows: usize| pacing.seconds(rows).map(|seconds| (rows as f64, (seconds / plain).max(1.0)));
    if let Some((_, cost)) = known(rows) {
        return cost;
    }
    let below = (1..rows).rev().find_map(known).unwrap_or((1.0, 1.0));
    let above = (rows + 1..=crate::kernels::MAX_BATCH_ROWS).find_map(known);
    let (from, to) = match above {
        Some(above) => (below, above),
        // Beyond the widest: as it grew so far.
        None => ((1.0, 1.0), below),
    };
    let slope = if to.0 > from.0 { ((to.1 - from.1) / (to.0 - from.0)).max(0.0) } else { 0.0 };
    below.1 + slope * (rows as f64 - below.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device on which every row costs `slope` of a step.
    fn steady(slope: f64) -> Pacing {
        let mut pacing = Pacing::new(0.0);
        for rows in (1..=4).cycle().take(4 * (TRIAL + 1)) {
            pacing.know(rows, 1.0 + slope * (rows - 1) as f64);
        }
        pacing
    }

    /// Drafts of which every `one_in`th is right, after 60 rounds of one a submit.
    fn settle(one_in: usize, slope: f64) -> (Depth, usize) {
        let mut pacing = steady(slope);
        let mut depth = Depth::new(None, 8);
        let mut last = 0;
        for round in 0..60 {
            last = depth.next(&pacing).depth();
            let accepted = if (round + 1) % one_in == 0 { last } else { 0 };
            depth.ended(last, true, accepted);
            if last < 4 {
                pacing.know(last + 1, 1.0 + slope * last as f64);
            }
        }
        (depth, last)
    }

    #[test]
    fn depth_follows_what_is_accepted_and_what_it_costs() {
        let (deep, depth) = settle(1, 0.05);
        assert_eq!((depth, deep.verdict()), (8, None));
        let (off, depth) = settle(10, 0.5);
        assert_eq!(depth, 0);
        assert!(off.verdict().is_some_and(|verdict| verdict.contains("do not pay")), "{:?}", off.verdict());
        // Always right, but a row costs more than a step: something is lost.
        assert_eq!(settle(1, 1.2).1, 0);
        // Nothing is gained and nothing lost.
        assert!(settle(1, 1.0).1 > 0);
    }

    /// How many of 200 texts of 40 submits end with drafts on, where a draft is right with chance `right` and makes a round cost
    /// `round` plain steps; what is measured is up to half too much, and every tenth time three times as much.
    fn noisy(right: f64, round: f64) -> usize {
        let mut seed = 1_u64;
        let mut random = move || {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 40) as f64 / (1_u64 << 24) as f64
        };
        let mut pacing = Pacing::new(0.0);
        let text = |_| {
            let mut depth = Depth::new(None, 1);
            let mut last = 0;
            for _ in 0..40 {
                last = depth.next(&pacing).depth();
                for _ in 0..2 {
                    depth.ended(last, true, usize::from(random() < right).min(last));
                }
                let noise = if random() < 0.1 { 3.0 } else { 1.0 + 0.5 * random() };
                pacing.know(last + 1, noise * if last == 0 { 1.0 } else { round });
            }
            last
        };
        (0..200).map(text).sum()
    }

    #[test]
    fn noise_does_not_decide() {
        let (pays, does_not) = (noisy(0.8, 1.3), noisy(0.2, 1.6));
        assert!(pays >= 190 && does_not <= 10, "on in {pays} texts where drafts pay, in {does_not} where they do not");
    }

    #[test]
    fn drafts_that_bring_nothing_end_though_a_round_seems_cheap() {
        let (off, depth) = settle(usize::MAX, -0.1);
        assert_eq!(depth, 0, "{:?}", off.verdict());
        assert!(off.verdict().is_some());
    }

    #[test]
    fn resting_drafts_are_tried_again_ever_more_rarely() {
        let mut pacing = steady(0.7);
        let mut depth = Depth::new(None, 3);
        let trials: Vec<usize> = (0..1000)
            .filter(|_| {
                let drafts = depth.next(&pacing).depth();
                depth.ended(drafts, true, 0);
                pacing.know(drafts + 1, 1.0 + 0.7 * drafts as f64);
                drafts > 0
            })
            .collect();
        assert!(trials.len() <= TRIAL * 5, "{trials:?}");
        assert!(trials.last().is_some_and(|&last| last > 300), "{trials:?}");
    }

    #[test]
    fn drafts_that_cannot_pay_are_not_tried_again_in_the_next_text() {
        let text = |pacing: &mut Pacing| {
            let mut depth = Depth::new(None, 3);
            (0..400)
                .filter(|_| {
                    let drafts = depth.next(pacing).depth();
                    depth.ended(drafts, true, drafts);
                    pacing.know(drafts + 1, 1.0 + 1.5 * drafts as f64);
                    drafts > 0
                })
                .count()
        };
        let mut pacing = Pacing::new(0.0);
        pacing.know(1, 1.0);
        assert_eq!([(); 5].map(|()| text(&mut pacing)), [TRIAL, TRIAL, TRIAL, 0, 0]);
    }

    #[test]
    fn a_fixed_tree_stays() {
        let tree = DraftTree::new(&[3, 2]).expect("a tree");
        let mut depth = Depth::new(Some(tree.clone()), 2);
        assert_eq!(depth.next(&Pacing::new(0.0)), tree);
    }
}
