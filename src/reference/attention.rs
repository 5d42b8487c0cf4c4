//! Attention of one row and head over the cache.

/// The cache slots that a row sees, in the order of the positions of what lies there: the committed ones, then its
/// ancestors in the batch, of which row i lies at slot `committed + i`. Mask 0 is a chain: all up to its position.
pub(crate) fn visible_slots(position: u32, mask: u32, committed: u32) -> Vec<usize> {
    if mask == 0 {
        return (0..=position as usize).collect();
    }
    let ancestors = (0..32).filter(|i| mask >> i & 1 == 1).map(|i| committed + i);
    let slots: Vec<usize> = (0..committed).chain(ancestors).map(|slot| slot as usize).collect();
    assert_eq!(slots.len(), position as usize + 1, "a row's position is the number of its ancestors");
    slots
}

/// The last `window` of the slots that a row sees; `None`: all.
pub(crate) fn within(slots: &[usize], window: Option<u32>) -> &[usize] {
    let seen = window.map_or(slots.len(), |window| slots.len().min(window as usize));
    &slots[slots.len() - seen..]
}

/// `cap * tanh(x / cap)`, which is never beyond `cap`.
pub(crate) fn softcapped(x: f64, cap: f64) -> f64 {
    cap * (x / cap).tanh()
}

/// `softmax(score(query . keys)) . values` over `slots`: `query` is `[head_dim]`, `keys` and `values`
/// `[context, head_dim]`, the result `[head_dim]`.
pub(crate) fn attention(
    query: &[f32],
    keys: &[f32],
    values: &[f32],
    slots: &[usize],
    score: impl Fn(f64) -> f64,
) -> Vec<f64> {
    let head_dim = query.len();
    let at = |cache: &[f32], slot: usize, d: usize| f64::from(cache[slot * head_dim + d]);
    let product = |&slot: &usize| (0..head_dim).map(|d| f64::from(query[d]) * at(keys, slot, d)).sum::<f64>();
    let probabilities = softmax(&slots.iter().map(|slot| score(product(slot))).collect::<Vec<_>>());
    let mixed = |d: usize| slots.iter().zip(&probabilities).map(|(&slot, p)| p * at(values, slot, d)).sum();
    (0..head_dim).map(mixed).collect()
}

/// exp(x) over the sum of all exp(x).
pub(crate) fn softmax(x: &[f64]) -> Vec<f64> {
    let highest = x.iter().copied().fold(f64::MIN, f64::max);
    let weights: Vec<f64> = x.iter().map(|x| (x - highest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}
