//! The learning rate of each step.

use std::f64::consts::PI;

use crate::{Error, Result};

/// A linear warm-up, then half a cosine from the peak down to zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    peak: f64,
    warmup: u64,
    steps: u64,
}

impl Schedule {
    /// A schedule of `steps` steps, of which the first `warmup` lead up to `peak`.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) for a rate that is not above zero, no steps, or a warm-up that is longer
    /// than the training.
    pub fn new(peak: f64, warmup: u64, steps: u64) -> Result<Self> {
        if !(peak.is_finite() && peak > 0.0) {
            return Err(Error::input(format!("learning rate {peak}: expected a number above 0")));
        }
        if steps == 0 {
            return Err(Error::input("0 steps: expected at least 1"));
        }
        if warmup >= steps {
            return Err(Error::input(format!(
                "{warmup} steps of warm-up: expected fewer than the {steps} of the training"
            )));
        }
        Ok(Self { peak, warmup, steps })
    }

    /// Steps of the whole training.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The rate of step `step`, counted from 0: during the warm-up `(step + 1) / (warmup + 1)` of the peak, which step `warmup`
    /// has, and then down to what would be zero one step after the last.
    pub fn rate(&self, step: u64) -> f64 {
        let Self { peak, warmup, steps } = *self;
        if step < warmup {
            return peak * (step + 1) as f64 / (warmup + 1) as f64;
        }
        let done = (step - warmup).min(steps - warmup) as f64 / (steps - warmup) as f64;
        peak * 0.5 * (1.0 + (PI * done).cos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_cosine() {
        let schedule = Schedule::new(2.0, 0, 4).unwrap();
        // As torch's CosineAnnealingLR of 4 steps.
        let expected = [2.0, 1.0 + 0.5_f64.sqrt(), 1.0, 1.0 - 0.5_f64.sqrt()];
        for (step, expected) in expected.into_iter().enumerate() {
            assert!((schedule.rate(step as u64) - expected).abs() < 1e-15, "{step}");
        }
        assert_eq!(schedule.rate(4), 0.0);
        assert_eq!(schedule.rate(400), 0.0);
    }

    #[test]
    fn a_warm_up_leads_to_the_peak() {
        let schedule = Schedule::new(1.0, 3, 10).unwrap();
        let rates: Vec<f64> = (0..10).map(|step| schedule.rate(step)).collect();
        assert_eq!(rates[..4], [0.25, 0.5, 0.75, 1.0]);
        assert!(rates[3..].is_sorted_by(|a, b| a > b) && rates[9] > 0.0, "{rates:?}");
    }

    #[test]
    fn senseless_schedules_are_refused() {
        for peak in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Schedule::new(peak, 0, 1).unwrap_err().to_string().contains("learning rate"), "{peak}");
        }
        assert!(Schedule::new(1.0, 0, 0).unwrap_err().to_string().contains("0 steps"));
        assert!(Schedule::new(1.0, 5, 5).unwrap_err().to_string().contains("fewer than the 5"));
        assert_eq!(Schedule::new(1.0, 4, 5).unwrap().steps(), 5);
    }
}
