//! RMSNorm and LayerNorm of one row.

/// `x / sqrt(mean(x^2) + eps) * scale`.
pub(crate) fn rms(x: &[f32], scale: &[f32], eps: f32) -> Vec<f64> {
    let squares: f64 = x.iter().map(|&x| f64::from(x).powi(2)).sum();
    let factor = (squares / x.len() as f64 + f64::from(eps)).sqrt().recip();
    x.iter().zip(scale).map(|(&x, &scale)| f64::from(x) * factor * f64::from(scale)).collect()
}

/// `(x - mean) / sqrt(variance + eps) * scale + shift`.
pub(crate) fn layer(x: &[f32], scale: &[f32], shift: &[f32], eps: f32) -> Vec<f64> {
    let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / x.len() as f64;
    let variance = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / x.len() as f64;
    let factor = (variance + f64::from(eps)).sqrt().recip();
    let affine = |i: usize| (f64::from(x[i]) - mean) * factor * f64::from(scale[i]) + f64::from(shift[i]);
    (0..x.len()).map(affine).collect()
}
