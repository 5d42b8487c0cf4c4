//! The RMSNorm of each query head and each key head.

use super::norm;

/// A row of `heads` queries, `kv_heads` keys and as many values, each `head_dim` long of which the first `width` count. Queries
/// and keys are normalised and multiplied with the first or the second of `scales`; padding is zero.
pub(crate) fn head_norm(
    row: &[f32],
    [heads, kv_heads, width, head_dim]: [usize; 4],
    scales: [&[f32]; 2],
    eps: f32,
) -> Vec<f64> {
    let head = |(index, x): (usize, &[f32])| -> Vec<f64> {
        if index >= heads + kv_heads {
            return x.iter().map(|&x| x.into()).collect();
        }
        let mut y = norm::rms(&x[..width], scales[usize::from(index >= heads)], eps);
        y.resize(head_dim, 0.0);
        y
    };
    row.chunks_exact(head_dim).enumerate().flat_map(head).collect()
}
