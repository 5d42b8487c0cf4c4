//! The gated DeltaNet: the convolution, the steps, and the delta rule of one head.

use super::matmul::silu;

/// `silu(sum of weights[tap] * inputs[tap])` channel by channel; the inputs of the row itself come last.
pub(crate) fn convolved(inputs: &[&[f32]], weights: &[&[f32]]) -> Vec<f64> {
    let channel = |c: usize| {
        let products = inputs.iter().zip(weights).map(|(x, w)| f64::from(x[c]) * f64::from(w[c]));
        silu(products.sum())
    };
    (0..inputs[0].len()).map(channel).collect()
}

/// The decay and beta of a head from `a` and `b`: `exp(rate * softplus(a + bias))` and `sigmoid(b)`.
pub(crate) fn steps(a: f32, b: f32, rate: f32, bias: f32) -> [f64; 2] {
    let softplus = (f64::from(a) + f64::from(bias)).exp().ln_1p();
    [(f64::from(rate) * softplus).exp(), (1.0 + (-f64::from(b)).exp()).recip()]
}

/// Moves the matrix of a head, `[key_dim, value_dim]`, on by a position. Returns what the key was multiplied with, and what the
/// query reads.
pub(crate) fn delta_rule(matrix: &mut [f64], [q, k, v]: [&[f32]; 3], [decay, beta]: [f64; 2]) -> [Vec<f64>; 2] {
    let width = v.len();
    matrix.iter_mut().for_each(|s| *s *= decay);
    let read = |matrix: &[f64], x: &[f32], j: usize| -> f64 {
        x.iter().enumerate().map(|(i, &x)| f64::from(x) * matrix[i * width + j]).sum()
    };
    let delta: Vec<f64> = (0..width).map(|j| beta * (f64::from(v[j]) - read(matrix, k, j))).collect();
    for (row, &k) in matrix.chunks_exact_mut(width).zip(k) {
        row.iter_mut().zip(&delta).for_each(|(s, delta)| *s += f64::from(k) * delta);
    }
    let out = (0..width).map(|j| read(matrix, q, j)).collect();
    [delta, out]
}
