//! Products with weights, what follows them, and the layout of weights.

/// `W x + bias` of one row: `x` is `[inputs]`, `w` `[columns, inputs]`, the result `[columns]`.
pub(crate) fn matmul(x: &[f32], w: &[f32], bias: Option<&[f32]>) -> Vec<f64> {
    let dot = |w: &[f32]| x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum::<f64>();
    let bias = |column: usize| bias.map_or(0.0, |bias| bias[column].into());
    w.chunks_exact(x.len()).enumerate().map(|(column, w)| dot(w) + bias(column)).collect()
}

/// x times the logistic function of x.
pub(crate) fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// x times the normal distribution function at x, which is integrated by Simpson's rule.
pub(crate) fn gelu(x: f64) -> f64 {
    const INTERVALS: i32 = 1000;
    let density = |t: f64| (-0.5 * t * t).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let end = x.clamp(-12.0, 12.0);
    let step = end / f64::from(INTERVALS);
    let weight = |i: i32| if i == 0 || i == INTERVALS { 1.0 } else { f64::from(2 + 2 * (i % 2)) };
    let area: f64 = (0..=INTERVALS).map(|i| weight(i) * density(step * f64::from(i))).sum();
    x * (0.5 + area * step / 3.0)
}

/// The tanh form of GELU (Hendrycks and Gimpel, arXiv 1606.08415).
pub(crate) fn gelu_tanh(x: f64) -> f64 {
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
    0.5 * x * (1.0 + inner.tanh())
}

/// Puts `[columns, inputs]` weights into the layout of the shaders: `[inputs / 4, columns, 4]`, both padded with zeros to
/// multiples of four.
#[cfg(test)]
pub(crate) fn pack<T: Copy + Default>(w: &[T], inputs: usize) -> Vec<T> {
    let columns = w.len() / inputs;
    let padded = columns.next_multiple_of(4);
    let mut packed = vec![T::default(); inputs.next_multiple_of(4) * padded];
    for (column, w) in w.chunks_exact(inputs).enumerate() {
        for (input, &w) in w.iter().enumerate() {
            packed[(input / 4 * padded + column) * 4 + input % 4] = w;
        }
    }
    packed
}

/// Alternates blocks of four columns of two `[columns, inputs]` matrices, the last ones padded with zeros: the plain
/// matrix of a gated product. With `inputs` 1 it does the same to biases.
pub(crate) fn alternate<T: Copy + Default>(gate: &[T], up: &[T], inputs: usize) -> Vec<T> {
    let mut both = Vec::with_capacity(gate.len() + up.len());
    for (gate, up) in gate.chunks(4 * inputs).zip(up.chunks(4 * inputs)) {
        for block in [gate, up] {
            both.extend_from_slice(block);
            both.resize(both.len().next_multiple_of(4 * inputs), T::default());
        }
    }
    both
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gelu_agrees_with_tables_of_the_normal_distribution() {
        for (x, phi) in
            [(0.0, 0.5), (1.0, 0.841_344_746_068_543), (-2.0, 0.022_750_131_948_179), (5.0, 0.999_999_713_348_428)]
        {
            assert!((gelu(x) - x * phi).abs() < 1e-13 * x.abs().max(10.0), "{x}: {}", gelu(x));
        }
    }

    #[test]
    fn packing_transposes_and_pads() {
        // Two columns of three inputs.
        let packed = pack(&[1, 2, 3, 4, 5, 6], 3);
        assert_eq!(packed, [1, 2, 3, 0, 4, 5, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(
            alternate(&[1, 2, 3, 4, 5], &[6, 7, 8, 9, 10], 1),
            [1, 2, 3, 4, 6, 7, 8, 9, 5, 0, 0, 0, 10, 0, 0, 0]
        );
    }
}
