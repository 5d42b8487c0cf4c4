//! The settings of a run: all of them are part of the report, and runs that differ in them are not put together.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::format::mtp::MAX_OFFSET;
use crate::{Error, Result};

/// A way to predict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// The model's next token.
    Next,
    /// Marginalization over the tokens in between.
    Marginal,
    /// Multi-token heads; at offset 1 the next token of the model that they come with.
    Heads,
}

/// One method at one offset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// The method.
    pub method: Method,
    /// The heads, as an index into [`Run::heads`].
    pub folder: Option<usize>,
    /// Places ahead of the last token seen.
    pub offset: usize,
    /// Whether it reads the text's own tokens before the target, as drafting does: it knows more than a marginal.
    pub given: bool,
}

impl Column {
    /// Whether `other` may stand beside it in a comparison of equals.
    pub fn comparable(&self, other: &Self) -> bool {
        self.offset == other.offset && !self.given && !other.given
    }
}

/// The data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFacts {
    /// The file's name.
    pub name: String,
    /// The fingerprint of its content.
    pub fingerprint: String,
    /// Samples in it.
    pub samples: usize,
}

/// One head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadFacts {
    /// Places from its position to the token that it predicts.
    pub offset: usize,
    /// Places ahead of its position of the token that it reads; 0 if it reads none.
    pub ahead: usize,
    /// Whether it is the model's own last block.
    pub backbone: bool,
    /// The number of its layers.
    pub layers: usize,
    /// The weights of the streams after blocks 1, 2, ... in what it reads, where that is a mix.
    pub mix: Option<Vec<f32>>,
    /// Bytes of weights that a draft with it reads over those that a plain step reads.
    pub draft_over_step: f64,
}

/// Heads and what they belong to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FolderFacts {
    /// A name for tables.
    pub label: String,
    /// The fingerprint of their files.
    pub fingerprint: String,
    /// A description of them, for people.
    pub summary: String,
    /// Their weights.
    pub parameters: u64,
    /// The facts of each head.
    pub heads: Vec<HeadFacts>,
}

/// The settings of a run: what is measured of which model on which data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// `paper` or `own`.
    pub protocol: String,
    /// A name for tables.
    pub model: String,
    /// The fingerprint of the model's files.
    pub model_fingerprint: String,
    /// The data.
    pub data: DataFacts,
    /// Methods, in the order of the tables.
    pub methods: Vec<Method>,
    /// The farthest offset.
    pub offsets: usize,
    /// Accuracy is that of the target standing among so many of the likeliest.
    pub top: Vec<usize>,
    /// The last so many target tokens of a sample are scored; 0 for all.
    pub last: usize,
    /// Samples with fewer target tokens are left out.
    pub min_target: usize,
    /// The marginal sums over the nucleus of this probability.
    pub mass: f32,
    /// Sequential heads are fed a mixture over so many next tokens; 1 is the likeliest alone.
    pub feed: usize,
    /// The logit lens is of the first so many samples of the data.
    pub lens_samples: usize,
    /// Tokens a text may have.
    pub context: usize,
    /// Longer ones are cut at their end.
    pub truncate: bool,
    /// Resamples of the bootstrap.
    pub resamples: usize,
    /// The seed of the bootstrap.
    pub seed: u64,
}

impl Settings {
    /// Checks what can make no sense, whatever the model and the samples are.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input), naming the setting.
    pub fn check(&self) -> Result<()> {
        let Self { offsets, resamples, feed, .. } = *self;
        if !(1..=MAX_OFFSET).contains(&offsets) {
            return Err(Error::input(format!("offsets {offsets}: expected 1 to {MAX_OFFSET}")));
        }
        if self.top.is_empty() || self.top.contains(&0) {
            return Err(Error::input("top 0: expected at least 1"));
        }
        if !RESAMPLES.contains(&resamples) {
            let (least, most) = (RESAMPLES.start(), RESAMPLES.end());
            return Err(Error::input(format!("resamples {resamples}: expected {least} to {most}")));
        }
        if feed == 0 {
            return Err(Error::input("feed 0: expected at least 1"));
        }
        check_mass(self.mass)
    }
}

/// Checks the probability of a nucleus.
pub(crate) fn check_mass(mass: f32) -> Result<()> {
    if mass > 0.0 && mass <= 1.0 {
        return Ok(());
    }
    Err(Error::input(format!("mass {mass}: expected above 0, at most 1 (every token)")))
}

/// Resamples of a bootstrap: fewer say little, and more take memory for nothing.
const RESAMPLES: RangeInclusive<usize> = 100..=100_000;

/// A part of the samples: every `of`-th, from the `index`-th on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// The number of the shard, from 1.
    pub index: usize,
    /// The number of shards.
    pub of: usize,
}

impl Shard {
    /// Everything.
    pub const WHOLE: Self = Self { index: 1, of: 1 };

    /// Whether there is such a part.
    pub fn is_sound(self) -> bool {
        1 <= self.index && self.index <= self.of
    }

    /// Whether the sample with this number, from 0, is in it.
    pub fn holds(self, sample: usize) -> bool {
        sample % self.of == self.index - 1
    }
}

/// A run: everything that its records need to be understood.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The version of this description.
    pub version: u32,
    /// The settings that were asked for.
    pub settings: Settings,
    /// The heads.
    pub heads: Vec<FolderFacts>,
    /// The columns of the records.
    pub columns: Vec<Column>,
    /// The samples that it measures.
    pub shard: Shard,
}

impl Run {
    /// The present version.
    pub const VERSION: u32 = 1;

    /// The columns that settings and heads lead to.
    pub fn columns(settings: &Settings, heads: &[FolderFacts]) -> Vec<Column> {
        let column = |method, folder, offset, given| Column { method, folder, offset, given };
        let mut columns = Vec::new();
        for &method in &settings.methods {
            match method {
                Method::Next => columns.push(column(method, None, 1, false)),
                // Offset 1 is a check of the wiring: it must be the next token's.
                Method::Marginal => {
                    columns.extend((1..=settings.offsets.min(3)).map(|offset| column(method, None, offset, false)));
                }
                Method::Heads => {
                    for (folder, facts) in heads.iter().enumerate() {
                        columns.push(column(method, Some(folder), 1, false));
                        for head in facts.heads.iter().filter(|head| (2..=settings.offsets).contains(&head.offset)) {
                            columns.push(column(method, Some(folder), head.offset, false));
                            if head.ahead > 0 {
                                columns.push(column(method, Some(folder), head.offset, true));
                            }
                        }
                    }
                }
            }
        }
        columns
    }

    /// The name of a column.
    pub fn name(&self, column: &Column) -> String {
        let given = if column.given { ", given the text" } else { "" };
        match (column.method, column.folder) {
            (Method::Next, _) => "next".to_owned(),
            (Method::Marginal, _) => "marginal".to_owned(),
            (Method::Heads, folder) => {
                let label = folder.and_then(|folder| self.heads.get(folder)).map_or("", |facts| &facts.label);
                format!("heads {label}{given}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_part_the_samples() {
        let shards = [1, 2, 3].map(|index| Shard { index, of: 3 });
        for sample in 0..20 {
            assert_eq!(shards.iter().filter(|shard| shard.holds(sample)).count(), 1);
        }
        assert!(Shard::WHOLE.holds(7));
    }
}
