//! A mix of hidden states, and its gradients.

use super::dot;
use crate::reference::attention;

/// The weights: a softmax of `logits / temperature`.
pub(crate) fn softmax(logits: &[f64], temperature: f64) -> Vec<f64> {
    attention::softmax(&logits.iter().map(|logit| logit / temperature).collect::<Vec<_>>())
}

/// `y += weight * x`
pub(crate) fn mix(weight: f64, x: &[f64], y: &mut [f64]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += weight * x);
}

/// The gradient of the logits, given `dots`, that of the weights.
pub(crate) fn softmax_inputs(weights: &[f64], dots: &[f64], temperature: f64) -> Vec<f64> {
    let mean = dot(weights, dots);
    weights.iter().zip(dots).map(|(weight, dot)| weight * (dot - mean) / temperature).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::train::{assert_gradient, numbers};

    #[test]
    fn mixes_have_these_gradients() {
        let (layers, width, temperature) = (4, 6, 0.7);
        let [logits, x, dy] = [numbers(1, layers), numbers(2, layers * width), numbers(3, width)];
        let loss = |logits: &[f64], x: &[f64]| {
            let mut y = vec![0.0; width];
            let weights = softmax(logits, temperature);
            weights.iter().zip(x.chunks(width)).for_each(|(&weight, x)| mix(weight, x, &mut y));
            dot(&dy, &y)
        };
        let weights = softmax(&logits, temperature);
        let dots: Vec<f64> = x.chunks(width).map(|x| dot(x, &dy)).collect();
        assert_gradient(|logits| loss(logits, &x), &logits, &softmax_inputs(&weights, &dots, temperature));
        let mut dx = vec![0.0; x.len()];
        dx.chunks_mut(width).zip(&weights).for_each(|(dx, &weight)| mix(weight, &dy, dx));
        assert_gradient(|x| loss(&logits, x), &x, &dx);
    }
}
