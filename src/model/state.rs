//! What a layer keeps of the rows that went through it, so that later rows need not compute it again.
//!
//! [`LayerState`] is one interface over its kinds: its bytes, growing with the text, the op that appends rows, the op that
//! keeps the accepted path of a tree, going back to a length, and a copy for another session.

use super::sizes::attention_shape;
use crate::format::spec::Attention;
use crate::gpu::{Copies, Gpu};
use crate::kernels::{AttentionShape, CacheType, MAX_CHUNK_ROWS, Op, RopeIo, compact_cache, rope_cache};

/// Slots of a ring beside those of its window: for the rows of a batch, of which there are at most [`MAX_CHUNK_ROWS`], and so
/// that a text can go back somewhat without being read again.
const RING_ROOM: u32 = 256;
const _: () = assert!(RING_ROOM as usize >= MAX_CHUNK_ROWS);

/// The state of one layer in one session.
pub(crate) enum LayerState {
    /// Keys and values of every position; it grows with the text.
    Kv(KeyValues),
    /// Keys and values of the last positions, as many as a window sees, and room for the rows of a batch: a ring.
    Window(KeyValues),
}

/// Keys `[kv_heads, head_dim / 4, slots, 4]` and values `[kv_heads, slots, head_dim]`.
pub(crate) struct KeyValues {
    /// What the kernels of attention over it are for.
    pub shape: AttentionShape,
    pub keys: wgpu::Buffer,
    pub values: wgpu::Buffer,
}

/// The buffers of a batch that appending reads or changes.
#[derive(Clone, Copy)]
pub(crate) struct AppendIo<'a> {
    pub state: &'a wgpu::Buffer,
    pub rows: &'a wgpu::Buffer,
    pub qkv: &'a wgpu::Buffer,
    pub rotation: &'a wgpu::Buffer,
}

/// The shape of what a layer of the model keeps of `capacity` positions.
pub(crate) fn kept_shape(attention: &Attention, capacity: u32, cache: CacheType) -> AttentionShape {
    let whole = whole_shape(attention, capacity, cache);
    AttentionShape { slots: whole.window.map_or(capacity, |window| capacity.min(window + RING_ROOM)), ..whole }
}

/// The same where every position is kept, whatever the layer's rows see.
pub(crate) fn whole_shape(attention: &Attention, capacity: u32, cache: CacheType) -> AttentionShape {
    AttentionShape { cache, ..attention_shape(attention, capacity) }
}

impl LayerState {
    /// The state of a layer of the model, for `capacity` positions.
    pub fn new(gpu: &Gpu, attention: &Attention, capacity: u32, cache: CacheType) -> Self {
        let kept = KeyValues::new(gpu, kept_shape(attention, capacity, cache));
        if attention.window.is_some() { Self::Window(kept) } else { Self::Kv(kept) }
    }

    /// The state of a layer that goes over positions in any order, as heads do: it keeps all of them, also for a window.
    pub fn whole(gpu: &Gpu, attention: &Attention, capacity: u32, cache: CacheType) -> Self {
        Self::Kv(KeyValues::new(gpu, whole_shape(attention, capacity, cache)))
    }

    /// Keys and values, for attention.
    pub fn key_values(&self) -> &KeyValues {
        let (Self::Kv(kept) | Self::Window(kept)) = self;
        kept
    }

    /// Bytes on the GPU.
    pub fn bytes(&self) -> u64 {
        let kept = self.key_values();
        kept.keys.size() + kept.values.size()
    }

    /// Rotates the queries and keys of the batch's rows, and appends keys and values.
    pub fn append(&self, gpu: &Gpu, rotary_dim: u32, io: AppendIo<'_>) -> Op {
        let KeyValues { shape, keys, values } = self.key_values();
        let AppendIo { state, rows, qkv, rotation } = io;
        rope_cache(gpu, *shape, rotary_dim, RopeIo { state, rows, qkv, rotation, keys, values })
    }

    /// After a tree was committed: moves what the rows of the path left together. A chain lies as it should.
    pub fn commit_tree(&self, gpu: &Gpu, [state, path]: [&wgpu::Buffer; 2]) -> Op {
        let KeyValues { shape, keys, values } = self.key_values();
        compact_cache(gpu, *shape, [state, path, keys, values])
    }

    /// Goes back to the first `length` positions, where places before `written` have been written to since the text was
    /// empty. Returns the length that was reached: `length`, or 0 where what the next row sees is gone.
    pub fn go_back(&self, length: usize, written: usize) -> usize {
        let Self::Window(KeyValues { shape, .. }) = self else { return length };
        let first_seen = (length + 1).saturating_sub(shape.window_or_all() as usize);
        if written <= first_seen + shape.slots as usize { length } else { 0 }
    }

    /// The same state with room for `capacity` positions, more than before.
    pub fn grown(&self, gpu: &Gpu, capacity: u32, copies: &mut Copies) -> Self {
        match self {
            Self::Kv(kept) => Self::Kv(kept.grown(gpu, capacity, capacity, copies)),
            Self::Window(kept) => {
                let most = kept.shape.window_or_all().saturating_add(RING_ROOM);
                Self::Window(kept.grown(gpu, capacity, capacity.min(most), copies))
            }
        }
    }

    /// Copies it to the state that the same layer has in another session with room for as many positions.
    pub fn copy_to(&self, other: &Self, copies: &mut Copies) {
        let (from, to) = (self.key_values(), other.key_values());
        for (from, to) in [(&from.keys, &to.keys), (&from.values, &to.values)] {
            copies.add((from, 0), (to, 0), from.size());
        }
    }
}

impl KeyValues {
    fn new(gpu: &Gpu, shape: AttentionShape) -> Self {
        let bytes = shape.cache_bytes();
        Self { shape, keys: gpu.storage("keys", bytes), values: gpu.storage("values", bytes) }
    }

    /// As long as it has not got all its slots, a ring has not come round: each position lies in the slot of its number.
    fn grown(&self, gpu: &Gpu, context: u32, slots: u32, copies: &mut Copies) -> Self {
        let old = self.shape;
        let shape = AttentionShape { context, slots, ..old };
        if slots == old.slots {
            return Self { shape, keys: self.keys.clone(), values: self.values.clone() };
        }
        let grown = Self::new(gpu, shape);
        let block = 4 * old.cache.bytes();
        let blocks = u64::from(old.head_dim / 4);
        for head in 0..u64::from(old.kv_heads) {
            for run in head * blocks..(head + 1) * blocks {
                copies.add(
                    (&self.keys, run * old.slots_of(block)),
                    (&grown.keys, run * shape.slots_of(block)),
                    old.slots_of(block),
                );
            }
            let of_head = |shape: AttentionShape| shape.slots_of(block * blocks);
            copies.add((&self.values, head * of_head(old)), (&grown.values, head * of_head(shape)), of_head(old));
        }
        grown
    }
}

impl AttentionShape {
    /// Bytes of `bytes` in each slot.
    fn slots_of(self, bytes: u64) -> u64 {
        u64::from(self.slots) * bytes
    }
}
