//! 95 % intervals by resampling samples, the same ones for every quantity.

use serde::Serialize;

use crate::reference::random::pcg4d;

/// A value with its 95 % interval: percentiles of the bootstrap. Not a number, which JSON writes as null, where there was
/// nothing to measure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// The value over all samples.
    pub value: f64,
    /// 2.5 % of the resamples lie below.
    pub low: f64,
    /// 2.5 % of the resamples lie above.
    pub high: f64,
}

/// Numbers of each sample that add up.
#[derive(Default)]
pub struct Quantities {
    columns: Vec<Vec<f64>>,
}

impl Quantities {
    /// Adds a quantity: a number of each sample, in the order of the samples. Returns its place in totals.
    pub fn add(&mut self, of_samples: impl IntoIterator<Item = f64>) -> usize {
        self.columns.push(of_samples.into_iter().collect());
        self.columns.len() - 1
    }

    fn totals(&self, times: &[u32]) -> Vec<f64> {
        let total = |column: &Vec<f64>| column.iter().zip(times).map(|(x, &times)| x * f64::from(times)).sum();
        self.columns.iter().map(total).collect()
    }
}

/// Totals of all samples, and of resamples.
pub struct Bootstrap {
    totals: Vec<f64>,
    resampled: Vec<Vec<f64>>,
}

impl Bootstrap {
    /// Draws as many samples as there are, with replacement, `resamples` times: a function of the seed and the number of samples.
    pub fn new(quantities: &Quantities, samples: usize, resamples: usize, seed: u64) -> Self {
        let seed = [seed as u32, (seed >> 32) as u32];
        let resample = |round: usize| {
            let mut times = vec![0; samples];
            for i in 0..samples {
                let bits = pcg4d([seed[0], seed[1], round as u32, (i / 4) as u32])[i % 4];
                times[((u64::from(bits) * samples as u64) >> 32) as usize] += 1;
            }
            quantities.totals(&times)
        };
        Self { totals: quantities.totals(&vec![1; samples]), resampled: (0..resamples).map(resample).collect() }
    }

    /// The total of a quantity.
    pub fn total(&self, quantity: usize) -> f64 {
        self.totals[quantity]
    }

    /// A statistic of totals, with its interval.
    pub fn interval(&self, statistic: impl Fn(&[f64]) -> f64) -> Interval {
        let value = statistic(&self.totals);
        let values = self.resampled.iter().map(|totals| statistic(totals));
        // A resample may lack everything that a rare bin is about.
        let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        values.sort_unstable_by(f64::total_cmp);
        Interval { value, low: percentile(&values, 0.025), high: percentile(&values, 0.975) }
    }

    /// The interval of a quotient of two quantities.
    pub fn ratio(&self, over: usize, under: usize) -> Interval {
        self.interval(|totals| totals[over] / totals[under])
    }
}

/// A percentile of sorted values, interpolated between neighbours in proportion.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = share * last as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    below + (above - below) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_lie_between_neighbours() {
        assert_eq!(percentile(&[1.0, 2.0, 4.0], 0.75), 3.0);
        assert_eq!(percentile(&[7.0], 0.025), 7.0);
        assert!(percentile(&[], 0.5).is_nan());
    }

    /// Coins: the interval of a mean is about 1.96 standard errors wide on either side.
    #[test]
    fn intervals_are_as_wide_as_theory_says() {
        let mut quantities = Quantities::default();
        let heads = quantities.add((0..400).map(|i| f64::from(u32::from(pcg4d([9, 0, 0, i])[0] < 0x6000_0000))));
        let all = quantities.add((0..400).map(|_| 1.0));
        let bootstrap = Bootstrap::new(&quantities, 400, 2000, 3);
        let found = bootstrap.ratio(heads, all);
        let width = 1.96 * (found.value * (1.0 - found.value) / 400.0).sqrt();
        assert!((found.value - 0.375).abs() < 0.06, "{found:?}");
        assert!(((found.high - found.low) / (2.0 * width) - 1.0).abs() < 0.1, "{found:?} {width}");
        assert_eq!(Bootstrap::new(&quantities, 400, 2000, 3).ratio(heads, all), found);
        assert_ne!(Bootstrap::new(&quantities, 400, 2000, 4).ratio(heads, all), found);
    }

    #[test]
    fn pairs_are_resampled_together() {
        let mut quantities = Quantities::default();
        let noise = |i: u32| f64::from(pcg4d([1, 2, 3, i])[0]) / 2f64.powi(32);
        let one = quantities.add((0..50).map(noise));
        let other = quantities.add((0..50).map(|i| noise(i) + 0.25));
        let all = quantities.add((0..50).map(|_| 1.0));
        let bootstrap = Bootstrap::new(&quantities, 50, 500, 0);
        let difference = bootstrap.interval(|totals| (totals[other] - totals[one]) / totals[all]);
        assert!((difference.high - difference.low) < 1e-12 && (difference.value - 0.25).abs() < 1e-12);
        assert!(bootstrap.ratio(one, all).high - bootstrap.ratio(one, all).low > 0.1);
    }

    #[test]
    fn nothing_measured_is_no_number() {
        let bootstrap = Bootstrap::new(&Quantities::default(), 0, 10, 0);
        assert!(bootstrap.interval(|_| f64::NAN).low.is_nan());
    }
}
