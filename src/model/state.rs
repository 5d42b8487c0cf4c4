//! The state that a layer keeps of the rows that went through it, so that later rows need not compute it again.
//!
//! [`LayerState`] is one interface over its kinds: its bytes, growing with the text, what commits rows, a path or a tree's path,
//! going back to a length and which one was reached, and a copy for another session.

use super::sizes::{attention_shape, delta_shape};
use crate::format::spec::{Attention, DeltaNet, Mixer};
use crate::gpu::{AdapterSummary, Buffer, Copies, Gpu};
use crate::kernels::{
    AttentionShape, CacheType, Committed, CompactCacheIo, DeltaBuffers, MAX_CHUNK_ROWS, Op, RopeIo, compact_cache,
    delta_commit, rope_cache,
};

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
    /// A fixed state that each committed row moves on.
    Recurrent(Recurrent),
}

/// The place where a session stood before it goes back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stood {
    /// Places before it have been written to since the text was empty.
    pub written: usize,
    /// Positions that are committed on the GPU.
    pub committed: usize,
}

/// The buffers that committing reads.
#[derive(Clone, Copy)]
pub(crate) struct CommitIo<'a> {
    pub state: &'a Buffer,
    pub path: &'a Buffer,
}

/// A recurrent layer in a session. Nothing of a fixed state can be masked or taken back, so going back takes a snapshot.
///
/// A row's state is the committed one, moved on by its ancestors' inputs in their order and by its own. Committing moves the
/// committed state in the same steps. So its bits do not depend on how a text was cut into batches.
pub(crate) struct Recurrent {
    pub delta: DeltaBuffers,
    /// States after so many positions, the latest last.
    snapshots: Vec<(Option<usize>, Buffer)>,
}

/// Snapshots of a recurrent layer.
const SNAPSHOTS: usize = 4;

/// Keys `[kv_heads, head_dim / 4, slots, 4]` and values `[kv_heads, slots, head_dim]`.
pub(crate) struct KeyValues {
    /// The shape that the kernels of attention over it are made for.
    pub shape: AttentionShape,
    pub keys: Buffer,
    pub values: Buffer,
}

/// The buffers of a batch that appending reads or changes.
#[derive(Clone, Copy)]
pub(crate) struct AppendIo<'a> {
    pub state: &'a Buffer,
    pub rows: &'a Buffer,
    pub qkv: &'a Buffer,
    pub rotation: &'a Buffer,
}

/// The shape of what a layer of the model keeps of `capacity` positions.
pub(crate) fn kept_shape(attention: &Attention, capacity: u32, cache: CacheType) -> AttentionShape {
    let whole = whole_shape(attention, capacity, cache);
    AttentionShape { slots: whole.window.map_or(capacity, |window| capacity.min(window + RING_ROOM)), ..whole }
}

/// The same shape where every position is kept, whatever the layer's rows see.
pub(crate) fn whole_shape(attention: &Attention, capacity: u32, cache: CacheType) -> AttentionShape {
    AttentionShape { cache, ..attention_shape(attention, capacity) }
}

impl LayerState {
    /// The state of a layer of the model, for `capacity` positions.
    pub fn new(gpu: &Gpu, mixer: &Mixer, capacity: u32, cache: CacheType) -> Self {
        match mixer {
            Mixer::Attention(attention) => {
                let kept = KeyValues::new(gpu, kept_shape(attention, capacity, cache));
                if attention.window.is_some() { Self::Window(kept) } else { Self::Kv(kept) }
            }
            Mixer::DeltaNet(delta) => Self::Recurrent(Recurrent::new(gpu, delta)),
        }
    }

    /// The state of a layer that goes over positions in any order, as heads do: it keeps all of them, also for a window.
    pub fn whole(gpu: &Gpu, mixer: &Mixer, capacity: u32, cache: CacheType) -> Self {
        match mixer {
            Mixer::Attention(attention) => Self::Kv(KeyValues::new(gpu, whole_shape(attention, capacity, cache))),
            // Nothing goes over it in any order: see `Session::check_committing`.
            Mixer::DeltaNet(delta) => Self::Recurrent(Recurrent::new(gpu, delta)),
        }
    }

    /// Keys and values, where it is those.
    pub fn key_values(&self) -> Option<&KeyValues> {
        match self {
            Self::Kv(kept) | Self::Window(kept) => Some(kept),
            Self::Recurrent(_) => None,
        }
    }

    /// Whether it moves on only with rows that are committed one after the other.
    pub fn is_recurrent(&self) -> bool {
        matches!(self, Self::Recurrent(_))
    }

    /// Bytes on the GPU.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Kv(kept) | Self::Window(kept) => kept.keys.size() + kept.values.size(),
            Self::Recurrent(kept) => kept.delta.bytes() + kept.delta.kept.size() * kept.snapshots.len() as u64,
        }
    }

    /// The op that follows each batch that is committed as it is: the rows of a prompt.
    pub fn commit_rows(&self, gpu: &Gpu, batch: CommitIo<'_>) -> Option<Op> {
        match self {
            Self::Kv(_) | Self::Window(_) => None,
            Self::Recurrent(kept) => Some(kept.commit(gpu, Committed::Rows, batch)),
        }
    }

    /// The op that follows each round: the rows of its path were committed. Keys and values of a chain lie as they
    /// should.
    pub fn commit_path(&self, gpu: &Gpu, batch: CommitIo<'_>) -> Option<Op> {
        match self {
            Self::Kv(_) | Self::Window(_) => None,
            Self::Recurrent(kept) => Some(kept.commit(gpu, Committed::Path, batch)),
        }
    }

    /// The op that follows a round with a tree beside that: what the path's rows left moves together.
    pub fn commit_tree(&self, gpu: &Gpu, CommitIo { state, path }: CommitIo<'_>) -> Option<Op> {
        let KeyValues { shape, keys, values } = self.key_values()?;
        Some(compact_cache(gpu, *shape, CompactCacheIo { state, path, keys, values }))
    }

    /// The host knows that the state is that after `length` positions, and may go back to here.
    pub fn stands(&mut self, gpu: &Gpu, length: usize) {
        if let Self::Recurrent(kept) = self {
            kept.keep(gpu, length);
        }
    }

    /// Goes back to the first `length` positions from where it `stood`. Returns the length that was reached: `length`, or less
    /// where what the next row needs is gone.
    pub fn go_back(&mut self, gpu: &Gpu, length: usize, stood: Stood) -> usize {
        match self {
            Self::Kv(_) => length,
            Self::Window(KeyValues { shape, .. }) => {
                let first_seen = (length + 1).saturating_sub(shape.window_or_all() as usize);
                if stood.written <= first_seen + shape.slots as usize { length } else { 0 }
            }
            Self::Recurrent(kept) => kept.go_back(gpu, length, stood.committed),
        }
    }

    /// Makes room for `capacity` positions, more than before.
    pub fn grow(&mut self, gpu: &Gpu, capacity: u32, copies: &mut Copies) {
        match self {
            Self::Kv(kept) => *kept = kept.grown(gpu, capacity, capacity, copies),
            Self::Window(kept) => {
                let most = kept.shape.window_or_all().saturating_add(RING_ROOM);
                *kept = kept.grown(gpu, capacity, capacity.min(most), copies);
            }
            Self::Recurrent(_) => {}
        }
    }

    /// Copies it to the state that the same layer has in another session with room for as many positions.
    pub fn copy_to(&self, other: &Self, copies: &mut Copies) {
        let buffers = |state: &Self| match state {
            Self::Kv(kept) | Self::Window(kept) => vec![kept.keys.clone(), kept.values.clone()],
            Self::Recurrent(kept) => vec![kept.delta.kept.clone()],
        };
        buffers(self).iter().zip(&buffers(other)).for_each(|(from, to)| copies.add((from, 0), (to, 0), from.size()));
    }
}

impl Recurrent {
    /// The state of an empty text.
    fn new(gpu: &Gpu, delta: &DeltaNet) -> Self {
        let delta = DeltaBuffers::new(gpu, delta_shape(delta), MAX_CHUNK_ROWS);
        let snapshot = |_| (None, gpu.storage("snapshot", delta.kept.size()));
        Self { snapshots: (0..SNAPSHOTS).map(snapshot).collect(), delta }
    }

    /// Bytes of such a state on the GPU.
    pub fn bytes(delta: &DeltaNet) -> u64 {
        let gpu = Gpu::dry(&AdapterSummary::unlimited());
        Self::new(&gpu, delta);
        gpu.counts().buffer_bytes
    }

    fn commit(&self, gpu: &Gpu, rows: Committed, CommitIo { state, path }: CommitIo<'_>) -> Op {
        delta_commit(gpu, &self.delta, rows, (state, path))
    }

    /// Takes the place of the oldest snapshot.
    fn keep(&mut self, gpu: &Gpu, length: usize) {
        let state = &self.delta.kept;
        if self.snapshots.iter().all(|(of, _)| *of != Some(length)) {
            self.snapshots.rotate_left(1);
            if let Some((of, snapshot)) = self.snapshots.last_mut() {
                *of = Some(length);
                let mut copies = Copies::default();
                copies.add((state, 0), (snapshot, 0), state.size());
                gpu.copy(&copies);
            }
        }
    }

    /// Stays where it is, or goes to the last snapshot up to there, or to the beginning.
    fn go_back(&mut self, gpu: &Gpu, length: usize, committed: usize) -> usize {
        // What comes after is another text from now on.
        for (of, _) in self.snapshots.iter_mut().filter(|(of, _)| of.is_some_and(|of| of > length)) {
            *of = None;
        }
        if length == committed && length > 0 {
            return length;
        }
        let state = &self.delta.kept;
        let Some((of, snapshot)) = self.snapshots.iter().max_by_key(|(of, _)| *of).filter(|(of, _)| of.is_some())
        else {
            gpu.clear(&[state]);
            return 0;
        };
        let mut copies = Copies::default();
        copies.add((snapshot, 0), (state, 0), state.size());
        gpu.copy(&copies);
        of.unwrap_or(0)
    }
}

impl KeyValues {
    /// Rotates the queries and keys of the batch's rows, and appends keys and values.
    pub fn append(&self, gpu: &Gpu, rotary_dim: u32, io: AppendIo<'_>) -> Op {
        let Self { shape, keys, values } = self;
        let AppendIo { state, rows, qkv, rotation } = io;
        rope_cache(gpu, *shape, rotary_dim, RopeIo { state, rows, qkv, rotation, keys, values })
    }

    fn new(gpu: &Gpu, shape: AttentionShape) -> Self {
        let bytes = shape.cache_bytes();
        Self { shape, keys: gpu.storage("keys", bytes), values: gpu.storage("values", bytes) }
    }

    /// The same cache with room for more. As long as a ring has not got all its slots, it has not come round: each
    /// position lies in the slot of its number.
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
