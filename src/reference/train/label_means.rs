//! Losses against soft labels by way of label means: the mean of the LM head's columns under a row's labels.

/// The sum over each row's entries of weight times column of the LM head, `[vocab, width]`.
pub(crate) fn columns(width: usize, top: usize, entries: &[(usize, f64)], w: &[f64]) -> Vec<f64> {
    let mean = |entries: &[(usize, f64)]| -> Vec<f64> {
        (0..width).map(|i| entries.iter().map(|&(token, weight)| weight * w[token * width + i]).sum()).collect()
    };
    entries.chunks_exact(top).flat_map(mean).collect()
}

/// The mean of each row's logits under its labels; 0 without any.
pub(crate) fn scores(width: usize, picks: &[Option<usize>], means: &[f64], x: &[f64]) -> Vec<f64> {
    let score = |(pick, x): (&Option<usize>, &[f64])| {
        pick.map_or(0.0, |pick| means[pick * width..][..width].iter().zip(x).map(|(a, x)| a * x).sum())
    };
    picks.iter().zip(x.chunks_exact(width)).map(score).collect()
}

/// From the mean of the LM head's columns under each row's softmax to the gradient of its loss, times `factor`.
pub(crate) fn inputs(width: usize, factor: f64, picks: &[Option<usize>], means: &[f64], dx: &mut [f64]) {
    for (pick, dx) in picks.iter().zip(dx.chunks_exact_mut(width)) {
        match pick {
            Some(pick) => dx.iter_mut().zip(&means[pick * width..]).for_each(|(dx, mean)| *dx = (*dx - mean) * factor),
            None => dx.fill(0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::attention::softmax;
    use crate::reference::train::{assert_gradient, dot, numbers};

    const VOCAB: usize = 7;
    const WIDTH: usize = 4;

    /// `W x` of a row.
    fn logits(w: &[f64], x: &[f64]) -> Vec<f64> {
        w.chunks_exact(WIDTH).map(|column| dot(column, x)).collect()
    }

    /// The mean of the columns of W under weights.
    fn mean(w: &[f64], weights: &[f64]) -> Vec<f64> {
        let of = |i: usize| weights.iter().zip(w.chunks_exact(WIDTH)).map(|(q, column)| q * column[i]).sum();
        (0..WIDTH).map(of).collect()
    }

    #[test]
    fn a_list_of_all_tokens_is_the_whole_distribution() {
        let w = numbers(1, VOCAB * WIDTH);
        let labels = softmax(&numbers(2, VOCAB));
        let listed: Vec<(usize, f64)> = labels.iter().copied().enumerate().rev().collect();
        let gaps: Vec<f64> =
            columns(WIDTH, VOCAB, &listed, &w).iter().zip(mean(&w, &labels)).map(|(a, b)| (a - b).abs()).collect();
        assert!(gaps.iter().all(|gap| *gap < 1e-15), "{gaps:?}");
    }

    #[test]
    fn a_label_mean_stands_for_the_labels() {
        let w: Vec<f64> = numbers(1, VOCAB * WIDTH).iter().map(|x| 3.0 * x).collect();
        let labels: Vec<Vec<f64>> =
            (2..4).map(|seed| softmax(&numbers(seed, VOCAB).iter().map(|x| 5.0 * x).collect::<Vec<_>>())).collect();
        let picks = [Some(1), None, Some(0), Some(1)];
        let x = numbers(4, picks.len() * WIDTH);
        // - sum_v q_v ln p_v, as it is defined.
        let loss = |x: &[f64]| -> f64 {
            let row = |(pick, x): (&Option<usize>, &[f64])| {
                let p = softmax(&logits(&w, x));
                pick.map_or(0.0, |pick| -labels[pick].iter().zip(&p).map(|(q, p)| q * p.ln()).sum::<f64>())
            };
            0.37 * picks.iter().zip(x.chunks_exact(WIDTH)).map(row).sum::<f64>()
        };
        let means: Vec<f64> = labels.iter().flat_map(|labels| mean(&w, labels)).collect();
        let sums: f64 = (picks.iter().zip(x.chunks_exact(WIDTH)))
            .filter(|(pick, _)| pick.is_some())
            .map(|(_, x)| logits(&w, x).iter().map(|logit| logit.exp()).sum::<f64>().ln())
            .sum();
        let by_means = 0.37 * (sums - scores(WIDTH, &picks, &means, &x).iter().sum::<f64>());
        assert!((by_means - loss(&x)).abs() < 1e-12, "{by_means}, not {}", loss(&x));
        let mut gradient: Vec<f64> = x.chunks_exact(WIDTH).flat_map(|x| mean(&w, &softmax(&logits(&w, x)))).collect();
        inputs(WIDTH, 0.37, &picks, &means, &mut gradient);
        assert_gradient(loss, &x, &gradient);
    }
}
