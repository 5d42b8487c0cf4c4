//! The distribution that a vector of logits gives.

/// A softmax, computed in f64.
pub struct Distribution<'a> {
    logits: &'a [f32],
    highest: f64,
    /// Sum of exp(logit - highest).
    sum: f64,
}

impl<'a> Distribution<'a> {
    /// The distribution of at least one logit, all finite.
    pub fn of(logits: &'a [f32]) -> Self {
        let highest = f64::from(logits.iter().copied().fold(f32::MIN, f32::max));
        let sum = logits.iter().map(|&logit| (f64::from(logit) - highest).exp()).sum();
        Self { logits, highest, sum }
    }

    /// The natural logarithm of the probability of a token.
    pub fn log_p(&self, id: u32) -> f64 {
        f64::from(self.logits[id as usize]) - self.highest - self.sum.ln()
    }

    /// The place of a token: 1 for the likeliest, ties by id.
    pub fn rank(&self, id: u32) -> usize {
        let own = self.logits[id as usize];
        let before = |(other, &logit): (usize, &f32)| logit > own || logit == own && other < id as usize;
        1 + self.logits.iter().enumerate().filter(|&entry| before(entry)).count()
    }

    /// The likeliest token.
    pub fn top(&self) -> u32 {
        let first = self.logits.iter().position(|&logit| f64::from(logit) == self.highest);
        first.unwrap_or_default() as u32
    }

    /// Nats.
    pub fn entropy(&self) -> f64 {
        let term = |&logit: &f32| {
            let x = f64::from(logit) - self.highest;
            x * x.exp()
        };
        (self.sum.ln() - self.logits.iter().map(term).sum::<f64>() / self.sum).max(0.0)
    }

    /// How many of the likeliest tokens it takes to reach each probability of `masses`, which ascend.
    pub fn nucleus_sizes(&self, masses: &[f64]) -> Vec<usize> {
        let mut sorted = self.logits.to_vec();
        sorted.sort_unstable_by(|a, b| b.total_cmp(a));
        let (mut reached, mut size, mut sizes) = (0.0, 0, Vec::with_capacity(masses.len()));
        for mass in masses {
            while size < sorted.len() && reached < mass * self.sum {
                reached += (f64::from(sorted[size]) - self.highest).exp();
                size += 1;
            }
            sizes.push(size);
        }
        sizes
    }
}

/// KL(p || q) in nats.
pub fn divergence(p: &Distribution<'_>, q: &Distribution<'_>) -> f64 {
    let (p_log_sum, q_log_sum) = (p.highest + p.sum.ln(), q.highest + q.sum.ln());
    let term = |(&p_logit, &q_logit): (&f32, &f32)| {
        let (p_log, q_log) = (f64::from(p_logit) - p_log_sum, f64::from(q_logit) - q_log_sum);
        p_log.exp() * (p_log - q_log)
    };
    p.logits.iter().zip(q.logits).map(term).sum::<f64>().max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(probabilities: &[f32]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln() + 3.0).collect()
    }

    #[test]
    fn known_distributions() {
        let logits = logits(&[0.125, 0.5, 0.25, 0.125]);
        let found = Distribution::of(&logits);
        assert!((found.log_p(2).exp() - 0.25).abs() < 1e-7);
        assert!((found.entropy() - 1.75 * 2f64.ln()).abs() < 1e-6);
        assert_eq!(found.top(), 1);
        assert_eq!([0, 1, 2, 3].map(|id| found.rank(id)), [3, 1, 2, 4]);
        assert_eq!(found.nucleus_sizes(&[0.4, 0.6, 0.9]), [1, 2, 4]);
        assert_eq!(Distribution::of(&[0.0; 8]).nucleus_sizes(&[0.5, 1.0]), [4, 8]);
    }

    #[test]
    fn known_divergences() {
        let (p, q) = (logits(&[0.5, 0.5]), logits(&[0.25, 0.75]));
        let [p, q] = [&p, &q].map(|logits| Distribution::of(logits));
        assert!((divergence(&p, &q) - (0.5 * 2f64.ln() + 0.5 * (2.0f64 / 3.0).ln())).abs() < 1e-6);
        assert_eq!(divergence(&p, &p), 0.0);
    }
}
