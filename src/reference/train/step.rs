//! The step from gradients to new parameters.

/// The sum of squares.
pub(crate) fn squares(grad: &[f64]) -> f64 {
    grad.iter().map(|g| g * g).sum()
}

/// Norm and factor from the tensors' sums of squares; without a factor where the norm is not finite.
pub(crate) fn clip_factor(norms: &[f64], max_norm: f64) -> (f64, Option<f64>) {
    let norm = norms.iter().sum::<f64>().sqrt();
    let factor = if max_norm > 0.0 && norm > max_norm { max_norm / norm } else { 1.0 };
    (norm, norm.is_finite().then_some(factor))
}

/// The numbers of AdamW.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Adam {
    pub rate: f64,
    pub decay: f64,
    pub betas: [f64; 2],
    pub eps: f64,
    /// The step, from 1.
    pub step: i32,
}

/// A step of one parameter as torch.optim.AdamW takes it: its value and moments.
pub(crate) fn adamw(adam: Adam, [value, first, second]: [f64; 3], grad: f64) -> [f64; 3] {
    let [beta1, beta2] = adam.betas;
    let first = beta1 * first + (1.0 - beta1) * grad;
    let second = beta2 * second + (1.0 - beta2) * grad * grad;
    let m = first / (1.0 - beta1.powi(adam.step));
    let v = second / (1.0 - beta2.powi(adam.step));
    let value = value * (1.0 - adam.rate * adam.decay) - adam.rate * m / (v.sqrt() + adam.eps);
    [value, first, second]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_that_of_torch() {
        // torch 2, float64: p = 1, lr 0.1, weight_decay 0.01, betas (0.9, 0.999), eps 1e-8; gradients 0.5, -0.25, 2.
        let adam = Adam { rate: 0.1, decay: 0.01, betas: [0.9, 0.999], eps: 1e-8, step: 0 };
        let mut state = [1.0, 0.0, 0.0];
        for (step, grad) in (1..).zip([0.5, -0.25, 2.0]) {
            state = adamw(Adam { step, ..adam }, state, grad);
        }
        assert!((state[0] - TORCH).abs() < 1e-12, "{state:?}");
    }

    const TORCH: f64 = 0.803_531_067_228_447_2;
}
