//! Hidden states between the residual stream and their history, and the rows that a head goes over.

/// `[rows, width]` values of `y` from row `to` on become those of `x` from row `from` on, scaled; or are added to.
pub(crate) fn copy_hidden(
    x: &[f32],
    y: &mut [f64],
    width: usize,
    (from, to, rows): (usize, usize, usize),
    weight: f32,
    accumulate: bool,
) {
    for i in 0..rows * width {
        let value = f64::from(weight) * f64::from(x[from * width + i]);
        let y = &mut y[to * width + i];
        *y = if accumulate { *y + value } else { value };
    }
}

/// The slots `first + path[i]` of a history of `width` values each become its slots `first + i`.
pub(crate) fn compact_hidden(history: &mut [f32], width: usize, first: usize, path: &[usize]) {
    for (i, &row) in path.iter().enumerate() {
        let slot = (first + row) * width;
        history.copy_within(slot..slot + width, (first + i) * width);
    }
}

/// The first of the last `rows` positions that have been through the model, and how many there are.
pub(crate) fn stage_window(length: usize, rows: usize) -> (usize, usize) {
    let known = length.saturating_sub(1);
    (known - rows.min(known), rows.min(known))
}

/// The token `ahead` places after `position`: the text's, beyond it the first candidate of that depth.
pub(crate) fn shift_tokens(text: &[u32], drafts: &[u32], position: usize, ahead: usize) -> u32 {
    let all: Vec<u32> = text.iter().chain(drafts).copied().collect();
    all.get(position + ahead).copied().unwrap_or(0)
}
