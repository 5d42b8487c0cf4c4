//! Rotary positions (RoPE, arXiv 2104.09864, rotate-half form) and the layout of cached keys.

/// Rotates the first `2 * cos_sin.len()` dimensions of one head in place, dimension i with i + that half.
pub(crate) fn rotate(head: &mut [f32], cos_sin: &[[f32; 2]]) {
    for (i, &[cos, sin]) in cos_sin.iter().enumerate() {
        let j = i + cos_sin.len();
        let [cos, sin, a, b] = [cos, sin, head[i], head[j]].map(f64::from);
        head[i] = (a * cos - b * sin) as f32;
        head[j] = (b * cos + a * sin) as f32;
    }
}

/// Keys `[kv_heads, context, head_dim]` in the layout of the shaders: `[kv_heads, head_dim / 4, context, 4]`.
pub(crate) fn pack_keys(keys: &[f32], context: usize, head_dim: usize) -> Vec<f32> {
    let mut packed = vec![0.0; keys.len()];
    for (i, &key) in keys.iter().enumerate() {
        let (head, slot, d) = (i / head_dim / context, i / head_dim % context, i % head_dim);
        packed[((head * (head_dim / 4) + d / 4) * context + slot) * 4 + d % 4] = key;
    }
    packed
}
