//! Timing work on the GPU by the host's clock: enough of it in one submit that the submit itself does not count.

use serde::Serialize;
use web_time::Instant;

use crate::Result;
use crate::gpu::{Buffer, Gpu, Recorder, Staging};

/// A quantity measured several times.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Spread {
    /// Half of the samples lie below.
    pub median: f64,
    /// A tenth of the samples lies below.
    pub p10: f64,
    /// A tenth of the samples lies above.
    pub p90: f64,
    /// How many samples there were.
    pub samples: usize,
}

impl Spread {
    /// Of at least one sample.
    pub(super) fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |share: f64| samples[(share * (samples.len() - 1) as f64).round() as usize];
        Self { median: at(0.5), p10: at(0.1), p90: at(0.9), samples: samples.len() }
    }

    /// `amount` over a time: a rate, whose low end comes from the high end of the time.
    pub(super) fn rate(self, amount: f64) -> Self {
        Self { median: amount / self.median, p10: amount / self.p90, p90: amount / self.p10, ..self }
    }

    /// In another unit.
    pub(super) fn times(self, factor: f64) -> Self {
        Self { median: self.median * factor, p10: self.p10 * factor, p90: self.p90 * factor, ..self }
    }
}

/// How thoroughly to measure one quantity.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    /// Seconds of work in one sample, where one repetition takes less.
    sample_s: f64,
    /// Seconds for all samples, once there are `fewest`.
    budget_s: f64,
    fewest: usize,
    most: usize,
}

impl Effort {
    pub const FULL: Self = Self { sample_s: 0.02, budget_s: 0.4, fewest: 3, most: 15 };
    pub const QUICK: Self = Self { sample_s: 0.002, budget_s: 0.02, fewest: 2, most: 5 };
}

/// The most repetitions in one submit.
const MAX_REPEATS: f64 = 1000.0;

/// Measures work on one device.
pub(super) struct Stopwatch<'a> {
    gpu: &'a Gpu,
    effort: Effort,
    /// Something to read back, which ends a sample.
    token: Buffer,
    staging: Staging,
}

impl<'a> Stopwatch<'a> {
    pub fn new(gpu: &'a Gpu, effort: Effort) -> Self {
        Self { gpu, effort, token: gpu.storage("token", 16), staging: Staging::new(gpu, 16) }
    }

    /// Seconds that the GPU takes for what `record` records, warmed up.
    pub async fn time(&self, record: impl Fn(&mut Recorder<'_>)) -> Result<Spread> {
        let repeats = self.repeats(&record).await?;
        self.repeat(async || Ok(self.sample(&record, repeats).await?.0 / repeats as f64)).await
    }

    /// Seconds of `record`, and how many times those of `base` they are. The two take turns, so that a load that comes
    /// and goes does not spoil the ratio.
    pub async fn compare(
        &self,
        record: impl Fn(&mut Recorder<'_>),
        base: impl Fn(&mut Recorder<'_>),
    ) -> Result<(Spread, Spread)> {
        let (repeats, base_repeats) = (self.repeats(&record).await?, self.repeats(&base).await?);
        let mut ratios = Vec::new();
        let measure = async || {
            let seconds = self.sample(&record, repeats).await?.0 / repeats as f64;
            ratios.push(seconds / (self.sample(&base, base_repeats).await?.0 / base_repeats as f64));
            Ok(seconds)
        };
        let seconds = self.repeat(measure).await?;
        Ok((seconds, Spread::of(ratios)))
    }

    /// How often to record in one submit; warms up.
    async fn repeats(&self, record: &impl Fn(&mut Recorder<'_>)) -> Result<usize> {
        self.sample(record, 1).await?;
        let (once, _) = self.sample(record, 1).await?;
        Ok((self.effort.sample_s / once).clamp(1.0, MAX_REPEATS) as usize)
    }

    /// Seconds that the host takes to record and submit what `record` records.
    pub async fn host_time(&self, record: impl Fn(&mut Recorder<'_>)) -> Result<Spread> {
        self.repeat(async || Ok(self.sample(&record, 1).await?.1)).await
    }

    /// Samples of `measure` until the effort is spent.
    pub async fn repeat(&self, mut measure: impl AsyncFnMut() -> Result<f64>) -> Result<Spread> {
        let started = Instant::now();
        let mut samples = Vec::new();
        while samples.len() < self.effort.fewest
            || samples.len() < self.effort.most && started.elapsed().as_secs_f64() < self.effort.budget_s
        {
            samples.push(measure().await?);
        }
        Ok(Spread::of(samples))
    }

    /// Seconds until `repeats` recordings in one submit are done, and those until they are submitted.
    async fn sample(&self, record: &impl Fn(&mut Recorder<'_>), repeats: usize) -> Result<(f64, f64)> {
        let started = Instant::now();
        let submission = self.gpu.submit(
            None,
            |recorder| (0..repeats).for_each(|_| record(recorder)),
            Some((&self.token, &self.staging)),
        );
        let submitted = started.elapsed().as_secs_f64();
        let pending = self.staging.read_after(submission);
        self.staging.take::<u32>(self.gpu, pending).await?;
        Ok((started.elapsed().as_secs_f64(), submitted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_of_sorted_samples() {
        let times = Spread::of(vec![4.0, 1.0, 2.0, 5.0, 3.0]);
        assert_eq!(times, Spread { median: 3.0, p10: 1.0, p90: 5.0, samples: 5 });
        assert_eq!(times.rate(10.0), Spread { median: 10.0 / 3.0, p10: 2.0, p90: 10.0, samples: 5 });
        assert_eq!(Spread::of(vec![7.0]), Spread { median: 7.0, p10: 7.0, p90: 7.0, samples: 1 });
    }
}
