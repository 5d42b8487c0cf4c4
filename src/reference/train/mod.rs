//! What the kernels of training must compute, in f64 throughout so that differences can be taken of it: each gradient is
//! held against differences of the function it belongs to.

pub(crate) mod activate;
pub(crate) mod causal;
pub(crate) mod head_norm;
pub(crate) mod label_means;
pub(crate) mod lora;
pub(crate) mod loss;
pub(crate) mod mix;
pub(crate) mod norm;
pub(crate) mod product;
pub(crate) mod rows;
pub(crate) mod step;

/// Asserts that `gradient` is that of `function` at `x`, by central differences.
///
/// # Panics
/// Where a partial derivative is further away than a millionth of the largest.
pub(crate) fn assert_gradient(function: impl Fn(&[f64]) -> f64, x: &[f64], gradient: &[f64]) {
    assert_eq!(x.len(), gradient.len(), "number of partial derivatives");
    const STEP: f64 = 1e-5;
    let at = |i: usize, by: f64| {
        let mut moved = x.to_vec();
        moved[i] += by;
        function(&moved)
    };
    let largest = gradient.iter().fold(1e-3, |largest: f64, g| largest.max(g.abs()));
    for (i, &got) in gradient.iter().enumerate() {
        let want = (at(i, STEP) - at(i, -STEP)) / (2.0 * STEP);
        assert!((got - want).abs() <= 1e-6 * largest, "partial derivative {i}: {got}, by differences {want}");
    }
}

/// `n` numbers in (-1, 1), always the same for a seed.
pub(crate) fn numbers(seed: u32, n: usize) -> Vec<f64> {
    use crate::reference::random::{pcg4d, uniform};
    (0..n as u32).map(|i| f64::from(2.0 * uniform(pcg4d([seed, i, 1, 2])[0]) - 1.0)).collect()
}

/// The sum of products: with the gradient of a loss as one of them, what stands for that loss.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
