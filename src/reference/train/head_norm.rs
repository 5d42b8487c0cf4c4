//! The gradients of the norms of query and key heads: those of an RMSNorm, head by head.

use super::norm;

/// Heads of queries, of keys (and of values), their elements, and the same padded.
pub(crate) type HeadSizes = [usize; 4];

/// That of a row's `x`.
pub(crate) fn head_norm_inputs(x: &[f64], dy: &[f64], sizes: HeadSizes, scales: [&[f64]; 2], eps: f64) -> Vec<f64> {
    let [heads, kv_heads, width, head_dim] = sizes;
    let head = |(index, (x, dy)): (usize, (&[f64], &[f64]))| -> Vec<f64> {
        if index >= heads + kv_heads {
            return dy.to_vec();
        }
        let scale = scales[usize::from(index >= heads)];
        let mut dx = norm::norm_inputs(&x[..width], &dy[..width], scale, false, eps);
        dx.resize(head_dim, 0.0);
        dx
    };
    x.chunks_exact(head_dim).zip(dy.chunks_exact(head_dim)).enumerate().flat_map(head).collect()
}

/// Those of the scales of queries and of keys, over all heads of rows of `x` and `dy`.
pub(crate) fn head_norm_weights(x: &[f64], dy: &[f64], sizes: HeadSizes, eps: f64) -> [Vec<f64>; 2] {
    let [heads, kv_heads, width, head_dim] = sizes;
    let all = x.chunks_exact(head_dim).zip(dy.chunks_exact(head_dim)).enumerate();
    let of = |first: usize, count: usize| {
        let within = |index: usize| (first..first + count).contains(&(index % (heads + 2 * kv_heads)));
        let pairs: Vec<_> =
            all.clone().filter(|(index, _)| within(*index)).map(|(_, (x, dy))| (&x[..width], &dy[..width])).collect();
        let [dscale, _] = norm::norm_weights(&pairs, false, eps);
        dscale
    };
    [of(0, heads), of(heads, kv_heads)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::train::{assert_gradient, dot, numbers};

    #[test]
    fn they_are_those_of_the_norms_of_heads() {
        let sizes @ [heads, kv_heads, width, head_dim] = [3, 2, 5, 8];
        let (row, rows, eps) = ((heads + 2 * kv_heads) * head_dim, 2, 1e-2);
        let padded = |seed: u32| -> Vec<f64> {
            let mut x = numbers(seed, rows * row);
            x.chunks_exact_mut(head_dim).for_each(|head| head[width..].fill(0.0));
            x
        };
        let ([x, dy], [q, k]) = ([padded(1), padded(2)], [numbers(3, width), numbers(4, width)]);
        let forward = |x: &[f64], q: &[f64], k: &[f64]| -> Vec<f64> {
            let head = |(index, x): (usize, &[f64])| {
                let kind = index % (heads + 2 * kv_heads);
                let [mean, inv] = norm::stats(&x[..width], false, eps);
                let scale = if kind < heads { q } else { k };
                let value = |d: usize| if d < width { (x[d] - mean) * inv * scale[d] } else { 0.0 };
                (0..head_dim).map(|d| if kind < heads + kv_heads { value(d) } else { x[d] }).collect::<Vec<_>>()
            };
            x.chunks_exact(head_dim).enumerate().flat_map(head).collect()
        };
        let pairs = x.chunks_exact(row).zip(dy.chunks_exact(row));
        let dx: Vec<f64> = pairs.flat_map(|(x, dy)| head_norm_inputs(x, dy, sizes, [&q, &k], eps)).collect();
        let counted = |x: &[f64]| {
            let mut x = x.to_vec();
            x.chunks_exact_mut(head_dim).for_each(|head| head[width..].fill(0.0));
            x
        };
        assert_gradient(|x| dot(&dy, &forward(&counted(x), &q, &k)), &x, &dx);
        let [dq, dk] = head_norm_weights(&x, &dy, sizes, eps);
        assert_gradient(|q| dot(&dy, &forward(&x, q, &k)), &q, &dq);
        assert_gradient(|k| dot(&dy, &forward(&x, &q, k)), &k, &dk);
    }
}
