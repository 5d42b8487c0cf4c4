//! Activations, and their derivatives.

use crate::reference::matmul::{gelu, gelu_tanh, silu};

/// A function of one number and its derivative.
#[derive(Clone, Copy)]
pub(crate) struct Curve {
    pub value: fn(f64) -> f64,
    pub slope: fn(f64) -> f64,
}

/// No activation.
pub(crate) const NONE: Curve = Curve { value: |x| x, slope: |_| 1.0 };

/// `x / (1 + exp(-x))`
pub(crate) const SILU: Curve = Curve { value: silu, slope: silu_slope };

/// `x` times the normal distribution function.
pub(crate) const GELU: Curve = Curve { value: gelu, slope: gelu_slope };

/// The tanh form of GELU.
pub(crate) const GELU_TANH: Curve = Curve { value: gelu_tanh, slope: gelu_tanh_slope };

fn silu_slope(x: f64) -> f64 {
    let s = 1.0 / (1.0 + (-x).exp());
    s + x * s * (1.0 - s)
}

fn gelu_slope(x: f64) -> f64 {
    let distribution = if x == 0.0 { 0.5 } else { gelu(x) / x };
    distribution + x * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

fn gelu_tanh_slope(x: f64) -> f64 {
    let factor = (2.0 / std::f64::consts::PI).sqrt();
    let t = (factor * (x + 0.044_715 * x.powi(3))).tanh();
    let rise = factor * (1.0 + 3.0 * 0.044_715 * x * x);
    // What is 0 times a power of x that may be infinite is 0.
    let bend = if t.abs() == 1.0 { 0.0 } else { 0.5 * x * (1.0 - t * t) * rise };
    0.5 * (1.0 + t) + bend
}

/// The output of `activate` for a row: gate and up alternate in blocks of four where gated.
pub(crate) fn activate(curve: Curve, gated: bool, pre: &[f64]) -> Vec<f64> {
    if !gated {
        return pre.iter().map(|&x| (curve.value)(x)).collect();
    }
    pre.chunks_exact(8).flat_map(|both| (0..4).map(move |i| (curve.value)(both[i]) * both[4 + i])).collect()
}

/// The gradient of `pre`.
pub(crate) fn activate_inputs(curve: Curve, gated: bool, pre: &[f64], dout: &[f64]) -> Vec<f64> {
    if !gated {
        return pre.iter().zip(dout).map(|(&x, d)| d * (curve.slope)(x)).collect();
    }
    let mut dpre = vec![0.0; pre.len()];
    for (n, both) in pre.chunks_exact(8).enumerate() {
        for i in 0..4 {
            let d = dout[4 * n + i];
            dpre[8 * n + i] = d * both[4 + i] * (curve.slope)(both[i]);
            dpre[8 * n + 4 + i] = d * (curve.value)(both[i]);
        }
    }
    dpre
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::train::{assert_gradient, dot, numbers};

    #[test]
    fn they_are_those_of_the_activations() {
        for curve in [NONE, SILU, GELU, GELU_TANH] {
            for (gated, width) in [(false, 12), (true, 24)] {
                let pre: Vec<f64> = numbers(1, width).iter().map(|x| 4.0 * x).collect();
                let dout = numbers(2, 12);
                let dpre = activate_inputs(curve, gated, &pre, &dout);
                assert_gradient(|pre| dot(&dout, &activate(curve, gated, pre)), &pre, &dpre);
            }
        }
    }
}
