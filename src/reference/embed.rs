//! Embedding rows by token.

/// `[rows, width]` of a `[tokens, width]` table, scaled.
pub(crate) fn embed(table: &[f32], width: usize, tokens: &[u32], scale: f32) -> Vec<f64> {
    let row = |&token: &u32| &table[token as usize * width..][..width];
    tokens.iter().flat_map(row).map(|&value| f64::from(value) * f64::from(scale)).collect()
}
