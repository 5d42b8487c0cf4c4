//! Rotary positions (RoPE, arXiv 2104.09864, rotate-half form), the layout of cached keys, and what halves keep.

use half::f16;

/// What a cache in f16 keeps of a number.
pub(crate) fn half(x: f32) -> f32 {
    f16::from_f32(x.clamp(-65504.0, 65504.0)).to_f32()
}

/// Rotates the first `2 * cos_sin.len()` dimensions of one head in place, dimension i with i + that half.
pub(crate) fn rotate(head: &mut [f32], cos_sin: &[[f32; 2]]) {
    for (i, &[cos, sin]) in cos_sin.iter().enumerate() {
        let j = i + cos_sin.len();
        let [cos, sin, a, b] = [cos, sin, head[i], head[j]].map(f64::from);
        head[i] = (a * cos - b * sin) as f32;
        head[j] = (b * cos + a * sin) as f32;
    }
}

/// Keys `[kv_heads, slots, head_dim]` in the layout of the shaders: `[kv_heads, head_dim / 4, slots, 4]`.
pub(crate) fn pack_keys(keys: &[f32], slots: usize, head_dim: usize) -> Vec<f32> {
    let mut packed = vec![0.0; keys.len()];
    (0..keys.len()).for_each(|i| packed[packed_index(i, slots, head_dim)] = keys[i]);
    packed
}

/// The inverse of [`pack_keys`].
pub(crate) fn unpack_keys(packed: &[f32], slots: usize, head_dim: usize) -> Vec<f32> {
    (0..packed.len()).map(|i| packed[packed_index(i, slots, head_dim)]).collect()
}

/// Where the shaders' layout has element `i` of `[kv_heads, slots, head_dim]`.
fn packed_index(i: usize, slots: usize, head_dim: usize) -> usize {
    let (head, slot, d) = (i / head_dim / slots, i / head_dim % slots, i % head_dim);
    ((head * (head_dim / 4) + d / 4) * slots + slot) * 4 + d % 4
}
