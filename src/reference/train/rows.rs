//! Rows taken out of a buffer and put back.

/// `y[p] = x[picks[p]]`, zeros where nothing is picked.
pub(crate) fn gather(x: &[f64], width: usize, picks: &[Option<usize>]) -> Vec<f64> {
    let row = |pick: &Option<usize>| pick.map_or(vec![0.0; width], |row| x[row * width..][..width].to_vec());
    picks.iter().flat_map(row).collect()
}

/// `y[picks[p]] += x[p]`
pub(crate) fn scatter(x: &[f64], width: usize, picks: &[Option<usize>], y: &mut [f64]) {
    for (x, row) in x.chunks_exact(width).zip(picks) {
        let Some(row) = row else { continue };
        y[row * width..][..width].iter_mut().zip(x).for_each(|(y, x)| *y += x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::train::{assert_gradient, dot, numbers};

    #[test]
    fn putting_back_is_the_gradient_of_taking_out() {
        let (width, picks) = (3, [Some(4), None, Some(0)]);
        let (x, dy) = (numbers(1, 5 * width), numbers(2, picks.len() * width));
        let mut dx = vec![0.0; x.len()];
        scatter(&dy, width, &picks, &mut dx);
        assert_gradient(|x| dot(&dy, &gather(x, width, &picks)), &x, &dx);
    }
}
