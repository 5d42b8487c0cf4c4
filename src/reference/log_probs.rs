//! Log-probabilities.

/// The natural logarithm of the softmax of `logits` at `target`.
pub(crate) fn log_prob(logits: &[f32], target: usize) -> f64 {
    let highest = logits.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - highest).exp()).sum();
    f64::from(logits[target] - highest) - sum.ln()
}
