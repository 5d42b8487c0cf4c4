//! The distribution that the next token is drawn from.

use crate::kernels::SampleParams;
use crate::options::setters;
use crate::{Error, Result};

/// Filters and noise, applied in the order of the fields from `repetition_penalty` to `min_p`. The default is greedy.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Sampling {
    /// Divides positive and multiplies negative logits of tokens that stand in the prompt or the output
    /// (Hugging Face's rule). 1: off.
    pub repetition_penalty: f32,
    /// Divides the logits. 0: the likeliest token, ties by the lower id.
    pub temperature: f32,
    /// Keeps the k likeliest tokens, ties by the lower id. 0: off.
    pub top_k: u32,
    /// Keeps the fewest likeliest tokens whose probability reaches this, the crossing token included. 1: off.
    pub top_p: f32,
    /// Keeps tokens at least this likely in relation to the likeliest. 0: off.
    pub min_p: f32,
    /// The noise is a function of the seed, the position and the token, and of nothing else.
    pub seed: u64,
}

setters!(Sampling { repetition_penalty: f32, temperature: f32, top_k: u32, top_p: f32, min_p: f32, seed: u64 });

impl Default for Sampling {
    fn default() -> Self {
        Self { repetition_penalty: 1.0, temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 }
    }
}

impl Sampling {
    /// Checks every value.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input), naming the value and its range.
    pub fn validate(&self) -> Result<()> {
        let checks = [
            ("temperature", self.temperature, (0.0..=100.0).contains(&self.temperature), "0 (greedy) to 100"),
            ("top-p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0, at most 1 (off)"),
            ("min-p", self.min_p, (0.0..=1.0).contains(&self.min_p), "0 (off) to 1"),
            (
                "repetition-penalty",
                self.repetition_penalty,
                (0.01..=100.0).contains(&self.repetition_penalty),
                "0.01 to 100; 1 is off",
            ),
        ];
        match checks.iter().find(|(_, _, good, _)| !good) {
            None => Ok(()),
            Some((name, value, _, range)) => Err(Error::input(format!("{name} {value}: expected {range}"))),
        }
    }

    pub(crate) fn params(&self, vocab: u32, stride: u32) -> SampleParams {
        SampleParams {
            vocab,
            stride,
            // Below this, scaled logits could overflow; the noise has long lost all influence.
            temperature: if self.temperature == 0.0 { 0.0 } else { self.temperature.max(1e-3) },
            repetition_penalty: self.repetition_penalty,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            pad0: 0,
            seed: [self.seed as u32, (self.seed >> 32) as u32],
            pad1: [0; 2],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_named() {
        let check = |change: fn(&mut Sampling), part: &str| {
            let mut sampling = Sampling::default();
            change(&mut sampling);
            let message = sampling.validate().expect_err(part).to_string();
            assert!(message.contains(part), "{message}");
        };
        check(|s| s.temperature = -1.0, "temperature -1");
        check(|s| s.temperature = f32::NAN, "temperature NaN");
        check(|s| s.temperature = f32::INFINITY, "temperature inf");
        check(|s| s.top_p = 0.0, "top-p 0");
        check(|s| s.top_p = 1.5, "top-p 1.5");
        check(|s| s.min_p = f32::NAN, "min-p NaN");
        check(|s| s.repetition_penalty = 0.0, "repetition-penalty 0");
        assert_eq!(Sampling::default().validate(), Ok(()));
    }
}
