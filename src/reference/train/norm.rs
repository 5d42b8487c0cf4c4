//! The gradients of RMSNorm and LayerNorm.

use super::dot;

/// The mean of a row, 0 for an RMSNorm, and one over its deviation.
pub(crate) fn stats(x: &[f64], layer: bool, eps: f64) -> [f64; 2] {
    let mean = if layer { x.iter().sum::<f64>() / x.len() as f64 } else { 0.0 };
    let squares: f64 = x.iter().map(|x| (x - mean).powi(2)).sum();
    [mean, (squares / x.len() as f64 + eps).sqrt().recip()]
}

/// The gradient of one row's input `x`, by the chain rule through mean and deviation.
pub(crate) fn norm_inputs(x: &[f64], dy: &[f64], scale: &[f64], layer: bool, eps: f64) -> Vec<f64> {
    let [mean, inv] = stats(x, layer, eps);
    let width = x.len() as f64;
    let g: Vec<f64> = dy.iter().zip(scale).map(|(dy, scale)| dy * scale).collect();
    let centred: Vec<f64> = x.iter().map(|x| x - mean).collect();
    // y = scale * centred * inv: through inv it depends on the mean of the squares.
    let by_squares = -0.5 * inv.powi(3) * dot(&g, &centred);
    let d_centred: Vec<f64> =
        g.iter().zip(&centred).map(|(g, centred)| g * inv + by_squares * 2.0 * centred / width).collect();
    let by_mean = if layer { d_centred.iter().sum::<f64>() / width } else { 0.0 };
    d_centred.iter().map(|d| d - by_mean).collect()
}

/// The gradients of scale and shift, over rows of `x` and `dy`.
pub(crate) fn norm_weights(rows: &[(&[f64], &[f64])], layer: bool, eps: f64) -> [Vec<f64>; 2] {
    let width = rows[0].0.len();
    let (mut dscale, mut dshift) = (vec![0.0; width], vec![0.0; width]);
    for (x, dy) in rows {
        let [mean, inv] = stats(x, layer, eps);
        for i in 0..width {
            dscale[i] += dy[i] * (x[i] - mean) * inv;
            dshift[i] += dy[i];
        }
    }
    [dscale, dshift]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::train::{assert_gradient, numbers};

    #[test]
    fn they_are_those_of_the_norm() {
        let (width, rows, eps) = (7, 3, 1e-3);
        let [x, dy] = [numbers(1, rows * width), numbers(2, rows * width)];
        let [scale, shift] = [numbers(3, width), numbers(4, width)];
        let pairs: Vec<_> = x.chunks(width).zip(dy.chunks(width)).collect();
        for layer in [false, true] {
            let forward = |x: &[f64], scale: &[f64], shift: &[f64]| -> Vec<f64> {
                let [mean, inv] = stats(x, layer, eps);
                (0..width).map(|i| (x[i] - mean) * inv * scale[i] + shift[i]).collect()
            };
            let loss = |x: &[f64], scale: &[f64], shift: &[f64]| {
                x.chunks(width).zip(dy.chunks(width)).map(|(x, dy)| dot(dy, &forward(x, scale, shift))).sum::<f64>()
            };
            let dx: Vec<f64> = pairs.iter().flat_map(|(x, dy)| norm_inputs(x, dy, &scale, layer, eps)).collect();
            assert_gradient(|x| loss(x, &scale, &shift), &x, &dx);
            let [dscale, dshift] = norm_weights(&pairs, layer, eps);
            assert_gradient(|scale| loss(&x, scale, &shift), &scale, &dscale);
            assert_gradient(|shift| loss(&x, &scale, shift), &shift, &dshift);
        }
    }

    #[test]
    fn the_statistics_are_those_of_the_norms() {
        let x = [0.5f32, -1.25, 2.0, 0.75];
        let (scale, shift, eps) = ([1.0, 2.0, -1.0, 0.5], [0.25, 0.0, 1.0, -2.0], 1e-5);
        let wide = x.map(f64::from);
        for (layer, want) in [
            (false, crate::reference::norm::rms(&x, &scale, eps)),
            (true, crate::reference::norm::layer(&x, &scale, &shift, eps)),
        ] {
            let [mean, inv] = stats(&wide, layer, eps.into());
            for i in 0..4 {
                let shift = if layer { f64::from(shift[i]) } else { 0.0 };
                let got = (wide[i] - mean) * inv * f64::from(scale[i]) + shift;
                assert!((got - want[i]).abs() < 1e-12, "{layer} {i}: {got}, not {}", want[i]);
            }
        }
    }
}
