//! The gradients of `y = W x + bias`. `w` is `[columns, inputs]`, as in `reference::matmul`.

/// The gradient of one row's input `x`.
pub(crate) fn matmul_inputs(dy: &[f64], w: &[f64]) -> Vec<f64> {
    let inputs = w.len() / dy.len();
    (0..inputs).map(|i| dy.iter().enumerate().map(|(c, dy)| dy * w[c * inputs + i]).sum()).collect()
}

/// The gradient of `W`, over rows of `x` and `dy`.
pub(crate) fn matmul_weights(rows: &[(&[f64], &[f64])]) -> Vec<f64> {
    let (inputs, columns) = (rows[0].0.len(), rows[0].1.len());
    let one = |c: usize, i: usize| rows.iter().map(|(x, dy)| x[i] * dy[c]).sum();
    (0..columns).flat_map(|c| (0..inputs).map(move |i| (c, i))).map(|(c, i)| one(c, i)).collect()
}

/// The gradient of the bias.
pub(crate) fn column_sums(dy: &[&[f64]]) -> Vec<f64> {
    (0..dy[0].len()).map(|c| dy.iter().map(|dy| dy[c]).sum()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::train::{assert_gradient, dot, numbers};

    /// `W x + bias` of one row.
    fn forward(x: &[f64], w: &[f64], bias: &[f64]) -> Vec<f64> {
        w.chunks_exact(x.len()).zip(bias).map(|(w, bias)| dot(w, x) + bias).collect()
    }

    #[test]
    fn they_are_those_of_the_product() {
        let (inputs, columns, rows) = (5, 3, 4);
        let [x, w] = [numbers(1, rows * inputs), numbers(2, columns * inputs)];
        let [bias, dy] = [numbers(3, columns), numbers(4, rows * columns)];
        let loss = |x: &[f64], w: &[f64], bias: &[f64]| {
            let rows = x.chunks(inputs).zip(dy.chunks(columns));
            rows.map(|(x, dy)| dot(dy, &forward(x, w, bias))).sum::<f64>()
        };
        let dx: Vec<f64> = dy.chunks(columns).flat_map(|dy| matmul_inputs(dy, &w)).collect();
        assert_gradient(|x| loss(x, &w, &bias), &x, &dx);
        let pairs: Vec<_> = x.chunks(inputs).zip(dy.chunks(columns)).collect();
        assert_gradient(|w| loss(&x, w, &bias), &w, &matmul_weights(&pairs));
        assert_gradient(|bias| loss(&x, &w, bias), &bias, &column_sums(&dy.chunks(columns).collect::<Vec<_>>()));
    }
}
