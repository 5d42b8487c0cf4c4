//! Predictions of all columns for one sample.

use serde::{Deserialize, Serialize};

use super::distribution::Distribution;
use super::report::NUCLEUS_MASSES;

/// One prediction beside the token that stands there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// The target's place, 1 for the likeliest.
    pub rank: u32,
    /// The place of the token after the target, which a prediction must not know; 0 at the end of a text. A list that
    /// ends before it gives the first place beyond.
    pub control: u32,
    /// The target's probability.
    pub p: f64,
    /// The likeliest token.
    pub top: u32,
    /// The likeliest token's probability.
    pub top_p: f64,
    /// Nats.
    pub entropy: f64,
}

impl Measured {
    /// Measures a prediction from its logits.
    pub fn of(logits: &[f32], target: u32, after: Option<u32>) -> Self {
        let distribution = Distribution::of(logits);
        let top = distribution.top();
        Self {
            rank: distribution.rank(target) as u32,
            control: after.map_or(0, |after| distribution.rank(after) as u32),
            p: distribution.log_p(target).exp(),
            top,
            top_p: distribution.log_p(top).exp(),
            entropy: distribution.entropy(),
        }
    }
}

/// The predictions of one column, one for each target, in order. Fields as in [`Measured`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "fields as in Measured")]
pub struct Rows {
    pub rank: Vec<u32>,
    pub control: Vec<u32>,
    pub p: Vec<f32>,
    pub top: Vec<u32>,
    pub top_p: Vec<f32>,
    pub entropy: Vec<f32>,
}

impl Rows {
    /// Adds the prediction of the next target.
    pub fn push(&mut self, measured: Measured) {
        let Measured { rank, control, p, top, top_p, entropy } = measured;
        self.rank.push(rank);
        self.control.push(control);
        self.p.push(p as f32);
        self.top.push(top);
        self.top_p.push(top_p as f32);
        self.entropy.push(entropy as f32);
    }

    fn has(&self, rows: usize) -> bool {
        let Self { rank, control, p, top, top_p, entropy } = self;
        [rank, control, top].iter().all(|column| column.len() == rows)
            && [p, top_p, entropy].iter().all(|column| column.len() == rows)
    }
}

/// A sample's predictions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The sample's place in the data, from 0.
    pub sample: usize,
    /// Tokens that were predicted; 0 for a sample that is too short, which has nothing else.
    pub targets: usize,
    /// Predictions by column, in the order of the run's columns.
    pub columns: Vec<Rows>,
    /// Sizes of the nuclei of the model's next-token distribution at each target, by mass.
    pub nucleus: Vec<Vec<u32>>,
    /// Nats of the model's next-token distribution at each target.
    pub entropy: Vec<f32>,
    /// Sums over the targets of KL(p_l || p) by depth l = 1, 2, ...; empty where it was not asked for.
    pub lens: Vec<f64>,
}

impl Record {
    /// Adds what the model's next-token distribution at the next target is like.
    pub fn push_next(&mut self, logits: &[f32]) {
        let distribution = Distribution::of(logits);
        let sizes = distribution.nucleus_sizes(&NUCLEUS_MASSES);
        self.nucleus.resize(sizes.len(), Vec::new());
        self.nucleus.iter_mut().zip(sizes).for_each(|(all, size)| all.push(size as u32));
        self.entropy.push(distribution.entropy() as f32);
    }

    /// Whether every column has every target, as `columns` columns of a run must.
    pub fn is_whole(&self, columns: usize) -> bool {
        let lists = || self.nucleus.iter().map(Vec::len).chain([self.entropy.len()]);
        let next = lists().all(|len| len == self.targets) || lists().all(|len| len == 0);
        let short = self.targets == 0 && self.columns.is_empty();
        next && (short || self.columns.len() == columns && self.columns.iter().all(|rows| rows.has(self.targets)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prediction_is_measured() {
        let logits = [0.1f32, 0.6, 0.3].map(f32::ln);
        let found = Measured::of(&logits, 2, Some(0));
        assert_eq!((found.rank, found.control, found.top), (2, 3, 1));
        assert!((found.p - 0.3).abs() < 1e-6 && (found.top_p - 0.6).abs() < 1e-6);
        assert_eq!(Measured::of(&logits, 1, None).control, 0);
    }

    #[test]
    fn records_are_whole_or_not() {
        let mut record = Record { targets: 1, columns: vec![Rows::default(); 2], ..Record::default() };
        assert!(!record.is_whole(2));
        record.columns.iter_mut().for_each(|rows| rows.push(Measured::of(&[0.0, 1.0], 1, None)));
        assert!(record.is_whole(2) && !record.is_whole(3));
        record.push_next(&[0.0, 1.0]);
        assert!(record.is_whole(2));
        record.push_next(&[0.0, 1.0]);
        assert!(!record.is_whole(2));
        assert!(Record::default().is_whole(5));
    }
}
