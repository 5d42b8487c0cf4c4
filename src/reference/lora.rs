//! The second half of a low-rank change.

/// `y + B t` of one row: column `n` takes `rank` values of `t` from `starts[n / 4]` on, or none.
pub(crate) fn lora(y: &[f32], t: &[f32], b: &[f32], rank: usize, starts: &[Option<usize>]) -> Vec<f64> {
    let columns = y.len();
    let change = |n: usize| {
        let start = starts[n / 4];
        start.map_or(0.0, |start| (0..rank).map(|r| f64::from(b[r * columns + n]) * f64::from(t[start + r])).sum())
    };
    (0..columns).map(|n| f64::from(y[n]) + change(n)).collect()
}
