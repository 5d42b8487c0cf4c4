//! The answers of marginalization.

use serde::Serialize;

use crate::kernels::{Branch, Ranking};

/// The distribution of a token some places ahead.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Marginals {
    /// The number of places ahead.
    pub offset: usize,
    /// Probability of the branches that were summed over.
    pub mass_covered: f64,
    /// The number of branches.
    pub branches: usize,
    /// Whether branches of the nucleus were left out because there may not be more.
    pub capped: bool,
    /// The likeliest tokens, likeliest first, ties by id.
    pub top: Vec<TopToken>,
    /// Nats of the renormalised distribution.
    pub entropy: f64,
    /// The cost beyond reading the text.
    pub cost: Cost,
}

/// A token of a distribution.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TopToken {
    /// The token's id.
    pub id: u32,
    /// The token's probability: the sum over the branches, renormalised.
    pub p: f64,
    /// The sum over all tokens in between, were it taken, is not less than this: that over the branches, less [`SLACK`].
    pub low: f64,
    /// The sum over all tokens in between, were it taken, is not more than this: that over the branches, all that was
    /// left out, and [`SLACK`].
    pub high: f64,
}

/// The work that a distribution was computed with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Cost {
    /// Rows that went through the model.
    pub rows: u64,
    /// Forward passes.
    pub chunks: u64,
    /// Bytes that the kernels read: weights once for 8 rows, the cache once a row, logits twice.
    pub bytes: u64,
}

/// The prediction for one place of a text.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Prediction {
    /// The likeliest tokens, likeliest first, ties by id.
    pub top: Vec<TopToken>,
    /// Nats.
    pub entropy: f64,
    /// The token that stands there.
    pub reference: Reference,
}

/// The token of the text beside what was predicted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Reference {
    /// The probability of the token, with bounds.
    #[serde(flatten)]
    pub token: TopToken,
    /// 1 for the likeliest; equally likely tokens rank by id.
    pub rank: usize,
}

/// The predictions of a model after the first tokens of a text.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TextPosition {
    /// The position of the last token that the model has seen.
    pub position: usize,
    /// The next token, at `position + 1`.
    pub next: Prediction,
    /// The token at `position + offset`, from the same tokens; none where the text ends before.
    pub marginal: Option<Prediction>,
    /// Probability of the branches.
    pub mass_covered: f64,
    /// The number of branches.
    pub branches: usize,
    /// Whether branches were left out because there may not be more.
    pub capped: bool,
    /// The cost of the marginal.
    pub cost: Cost,
}

/// How far sums in f32 may be off, relative and absolute; bounds are wider by as much.
///
/// The longest chains of additions: in a softmax 64 values of a lane, 50 such sums, 8 rounds over the lanes, and an answer
/// has at most three softmaxes in it; in the mixture 32 rows, 64 chunks, 100 parts. Together that is 562 roundings of 2^-24,
/// 3.4e-5 at worst. exp may be off by 3 + 2 |x| units in the last place, which is below 1e-6 of the whole, since e^x is
/// small where |x| is large.
pub const SLACK: (f64, f64) = (5e-5, 1e-6);

/// The branches that were summed over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Branches {
    pub covered: f64,
    /// The probability of everything else, summed by itself: 1 - covered would be rounding where little is left.
    pub left_out: f64,
    pub count: usize,
    pub capped: bool,
}

impl Branches {
    /// The one empty path: the distribution of the next token is no sum.
    pub const NONE: Self = Self { covered: 1.0, left_out: 0.0, count: 1, capped: false };

    /// A token with the truncated sum `value`, of a distribution whose truncated sums add up to `sum`.
    pub fn token(&self, id: u32, value: f64, sum: f64) -> TopToken {
        let (relative, absolute) = SLACK;
        TopToken {
            id,
            p: value / sum,
            low: (value * (1.0 - relative) - absolute).max(0.0),
            high: ((value + self.left_out) * (1.0 + relative) + absolute).min(1.0),
        }
    }
}

/// Values of a distribution in the scale of its truncated sums.
pub(super) struct Scaled<'a> {
    ranking: &'a Ranking,
    branches: Branches,
    /// The probability that one unit of the ranking's values stands for.
    unit: f64,
}

impl<'a> Scaled<'a> {
    /// The ranking of the mixture, whose values are truncated sums.
    pub fn mixture(ranking: &'a Ranking, branches: Branches) -> Self {
        Self { ranking, branches, unit: 1.0 }
    }

    /// The ranking of a row's weights, whose values are in proportion to probabilities.
    pub fn softmax(ranking: &'a Ranking) -> Self {
        Self { ranking, branches: Branches::NONE, unit: 1.0 / f64::from(ranking.sum) }
    }

    fn token(&self, id: u32, value: f32) -> TopToken {
        self.branches.token(id, f64::from(value) * self.unit, f64::from(self.ranking.sum) * self.unit)
    }

    pub fn top(&self) -> Vec<TopToken> {
        self.ranking.top.iter().map(|&Branch { token, probability }| self.token(token, probability)).collect()
    }

    pub fn prediction(&self, target: u32) -> Prediction {
        let token = self.token(target, self.ranking.target);
        let rank = self.ranking.before_target as usize + 1;
        Prediction { top: self.top(), entropy: self.ranking.entropy(), reference: Reference { token, rank } }
    }
}
