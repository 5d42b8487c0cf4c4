//! The tokens that may come next, and the mixture of what may come after them.

use super::attention::softmax;

/// The tokens, most probable first and ties by id, with their probabilities.
pub(crate) fn ordered(logits: &[f32]) -> Vec<(usize, f64)> {
    let p = softmax(&logits.iter().map(|&logit| logit.into()).collect::<Vec<_>>());
    let mut ids: Vec<usize> = (0..logits.len()).collect();
    ids.sort_by(|&a, &b| (logits[b] + 0.0).total_cmp(&(logits[a] + 0.0)).then(a.cmp(&b)));
    ids.into_iter().map(|id| (id, p[id])).collect()
}

/// How many of the `ordered` tokens reach `mass`, the crossing one included.
pub(crate) fn nucleus_size(ordered: &[(usize, f64)], mass: f64) -> usize {
    if mass >= 1.0 {
        return ordered.len();
    }
    let mut sum = 0.0;
    let below = |(_, p): &&(usize, f64)| {
        let below = sum < mass;
        sum += p;
        below
    };
    ordered.iter().take_while(below).count().max(1)
}

/// `mixture += sum of weight * softmax(logits)`.
pub(crate) fn add_to_mixture(mixture: &mut [f64], rows: &[&[f32]], weights: &[f32]) {
    for (row, &weight) in rows.iter().zip(weights) {
        let p = softmax(&row.iter().map(|&logit| logit.into()).collect::<Vec<_>>());
        mixture.iter_mut().zip(p).for_each(|(sum, p)| *sum += f64::from(weight) * p);
    }
}

/// (highest, sum of exp(logit - highest)) of every `block` neighbouring logits.
pub(crate) fn partials(logits: &[f64], block: usize) -> Vec<(f64, f64)> {
    let partial = |block: &[f64]| {
        let highest = block.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        (highest, block.iter().map(|logit| (logit - highest).exp()).sum())
    };
    logits.chunks(block).map(partial).collect()
}

/// The sum of `values`, that of value * ln(value), and how many stand before `target`, ties by id.
pub(crate) fn sums(values: &[f32], target: usize) -> (f64, f64, usize) {
    let wide = || values.iter().map(|&value| f64::from(value));
    let before = |(id, value): &(usize, &f32)| **value > values[target] || **value == values[target] && *id < target;
    let sum_log = wide().filter(|value| *value > 0.0).map(|value| value * value.ln()).sum();
    (wide().sum(), sum_log, values.iter().enumerate().filter(before).count())
}
