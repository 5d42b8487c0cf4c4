//! Cross-entropy of rows of logits, and its gradient.

use crate::reference::attention::softmax;

/// The loss of each row: `-ln softmax(logits)[target]`, 0 without target.
pub(crate) fn losses(logits: &[f64], vocab: usize, targets: &[Option<usize>]) -> Vec<f64> {
    let loss = |(row, target): (&[f64], &Option<usize>)| {
        let highest = row.iter().copied().fold(f64::MIN, f64::max);
        let sum: f64 = row.iter().map(|x| (x - highest).exp()).sum();
        target.map_or(0.0, |target| highest + sum.ln() - row[target])
    };
    logits.chunks_exact(vocab).zip(targets).map(loss).collect()
}

/// The sum of losses, the sum of their squares, how many count.
pub(crate) fn summary(losses: &[f64], targets: &[Option<usize>]) -> [f64; 3] {
    let count = targets.iter().flatten().count();
    [losses.iter().sum(), losses.iter().map(|loss| loss * loss).sum(), count as f64]
}

/// The factors of the gradients of each head's losses.
pub(crate) fn factors(balance: bool, weight: f64, summaries: &[[f64; 3]]) -> Vec<f64> {
    let rms = |[_, squares, count]: [f64; 3]| (squares / count).sqrt();
    let factor = |(head, &own): (usize, &[f64; 3])| {
        let balanced = balance && head > 0 && summaries[0][2] > 0.0 && own[1] > 0.0;
        let ratio = if balanced { rms(summaries[0]) / rms(own) } else { 1.0 };
        if own[2] == 0.0 { 0.0 } else { weight * ratio / own[2] }
    };
    summaries.iter().enumerate().map(factor).collect()
}

/// The gradient of the sum of losses times `factor`.
pub(crate) fn inputs(logits: &[f64], vocab: usize, targets: &[Option<usize>], factor: f64) -> Vec<f64> {
    let row = |(row, target): (&[f64], &Option<usize>)| -> Vec<f64> {
        let Some(target) = *target else { return vec![0.0; vocab] };
        let hit = |column: usize| if column == target { 1.0 } else { 0.0 };
        softmax(row).iter().enumerate().map(|(column, p)| (p - hit(column)) * factor).collect()
    };
    logits.chunks_exact(vocab).zip(targets).flat_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::train::{assert_gradient, numbers};

    const VOCAB: usize = 7;

    /// The summaries of two heads over the same logits.
    fn summaries(logits: &[f64], targets: &[[Option<usize>; 3]; 2]) -> Vec<[f64; 3]> {
        targets.iter().map(|targets| summary(&losses(logits, VOCAB, targets), targets)).collect()
    }

    #[test]
    fn balanced_losses_have_these_gradients() {
        let logits: Vec<f64> = numbers(1, 3 * VOCAB).iter().map(|x| 4.0 * x).collect();
        let targets = [[Some(0), Some(6), Some(3)], [Some(2), None, Some(3)]];
        for balance in [false, true] {
            // The factors carry no gradient.
            let factors = factors(balance, 0.25, &summaries(&logits, &targets));
            let total = |logits: &[f64]| {
                summaries(logits, &targets).iter().zip(&factors).map(|([sum, ..], factor)| sum * factor).sum()
            };
            let parts = [0, 1].map(|head| inputs(&logits, VOCAB, &targets[head], factors[head]));
            let gradient: Vec<f64> = parts[0].iter().zip(&parts[1]).map(|(a, b)| a + b).collect();
            assert_gradient(total, &logits, &gradient);
        }
    }

    #[test]
    fn factors_take_the_mean_and_balance_root_mean_squares() {
        let summaries = [[6.0, 16.0, 4.0], [9.0, 64.0, 4.0], [0.0, 0.0, 0.0], [0.0, 0.0, 2.0]];
        assert_eq!(factors(false, 1.0, &summaries), [0.25, 0.25, 0.0, 0.5]);
        assert_eq!(factors(true, 0.5, &summaries), [0.125, 0.0625, 0.0, 0.25]);
        assert_eq!(factors(true, 1.0, &[[0.0; 3], [9.0, 64.0, 4.0]]), [0.0, 0.25]);
    }
}
