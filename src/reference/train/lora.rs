//! The gradients of `y += B t`: column `n` takes `rank` values of `t` from `starts[n / 4]` on, or none. `b` is
//! `[rank, columns]`, as in `reference::lora`.

/// The gradient of one row's `t`, of `width` values.
pub(crate) fn lora_inputs(dy: &[f64], b: &[f64], rank: usize, starts: &[Option<usize>], width: usize) -> Vec<f64> {
    let mut dt = vec![0.0; width];
    for (n, &dy_n) in dy.iter().enumerate() {
        let Some(start) = starts[n / 4] else { continue };
        (0..rank).for_each(|k| dt[start + k] += dy_n * b[k * dy.len() + n]);
    }
    dt
}

/// The gradient of `B`, over rows of `t` and `dy`.
pub(crate) fn lora_weights(rows: &[(&[f64], &[f64])], rank: usize, starts: &[Option<usize>]) -> Vec<f64> {
    let columns = 4 * starts.len();
    let one = |k: usize, n: usize| starts[n / 4].map_or(0.0, |s| rows.iter().map(|(t, dy)| t[s + k] * dy[n]).sum());
    (0..rank).flat_map(|k| (0..columns).map(move |n| (k, n))).map(|(k, n)| one(k, n)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::train::{assert_gradient, dot, numbers};

    #[test]
    fn they_are_those_of_the_adapter() {
        let (rank, width, rows) = (2, 5, 3);
        let starts = [Some(0), None, Some(2), Some(0)];
        let columns = 4 * starts.len();
        let [t, b, dy] = [numbers(1, rows * width), numbers(2, rank * columns), numbers(3, rows * columns)];
        let forward = |t: &[f64], b: &[f64]| -> Vec<f64> {
            let one = |n: usize, s: usize| (0..rank).map(|k| b[k * columns + n] * t[s + k]).sum();
            (0..columns).map(|n| starts[n / 4].map_or(0.0, |s| one(n, s))).collect()
        };
        let loss = |t: &[f64], b: &[f64]| {
            t.chunks(width).zip(dy.chunks(columns)).map(|(t, dy)| dot(dy, &forward(t, b))).sum::<f64>()
        };
        let dt: Vec<f64> = dy.chunks(columns).flat_map(|dy| lora_inputs(dy, &b, rank, &starts, width)).collect();
        assert_gradient(|t| loss(t, &b), &t, &dt);
        let pairs: Vec<_> = t.chunks(width).zip(dy.chunks(columns)).collect();
        assert_gradient(|b| loss(&t, b), &b, &lora_weights(&pairs, rank, &starts));
    }
}
