//! The gated DeltaNet, a recurrent mixer: the inputs of rows, the delta rule, and committing.
//!
//! A row's state is the committed one, moved on by its ancestors in the batch and by itself, in the order of their positions. What
//! that takes of each row is kept until rows are committed, so a draft that is rejected leaves nothing.

use bytemuck::{Pod, Zeroable};

use super::declared::{Declared, layout};
use super::{Grid, KernelSet, Op};
use crate::gpu::{Buffer, Gpu, Variant};

/// The declarations of this file's kernels, for the table of `kernels`.
pub(in crate::kernels) const KERNELS: &[Declared] = &[
    Declared::new(|_| vec![inputs_variant()])
        .params(layout!(InputsParams: channels4, heads, taps, stride4, beta, decay, kept4)),
    Declared::new(|set| vec![rule_variant(set)])
        .params(layout!(RuleParams: heads, group, key_heads, value_dim, key4, keys4, channels4)),
    Declared::new(|_| vec![commit_variant()])
        .params(layout!(CommitParams: all, heads, group, key_heads, value_dim, key4, keys4, channels4, taps, stride4)),
];

/// Elements of the largest query or key head: a thread has a part of a column in variables.
pub(crate) const MAX_KEY_DIM: u32 = 128;

/// Sizes that the kernels of a delta net share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeltaShape {
    pub key_heads: u32,
    pub value_heads: u32,
    /// Elements of a query or key head, a multiple of four.
    pub key_dim: u32,
    /// Elements of a value head, a multiple of those of a key head.
    pub value_dim: u32,
    /// Positions that the convolution sees, the row's own included.
    pub taps: u32,
    /// Whether key head h serves the value heads h, h + key_heads, ... instead of neighbouring ones.
    pub tiled: bool,
}

impl DeltaShape {
    /// Elements of the queries, or of the keys, of a row.
    pub fn keys(self) -> u32 {
        self.key_heads * self.key_dim
    }

    /// Elements of the values of a row.
    pub fn values(self) -> u32 {
        self.value_heads * self.value_dim
    }

    /// Elements of queries, keys and values of a row.
    pub fn channels(self) -> u32 {
        2 * self.keys() + self.values()
    }

    /// Elements of a row of what the kernels read: the channels, then `b` and `a` of each value head, both padded to four.
    pub fn inputs_stride(self) -> u32 {
        self.channels() + 2 * self.padded_heads()
    }

    /// Elements of the matrices of all heads.
    pub fn matrices(self) -> u32 {
        self.values() * self.key_dim
    }

    /// Bytes of the state: the matrices, and the inputs of the last positions that the convolution will see.
    pub fn state_bytes(self) -> u64 {
        4 * (u64::from(self.matrices()) + u64::from(self.taps - 1) * u64::from(self.channels()))
    }

    fn padded_heads(self) -> u32 {
        self.value_heads.next_multiple_of(4)
    }

    /// Neighbouring value heads that share a query and a key head.
    fn group(self) -> u32 {
        if self.tiled { 1 } else { self.value_heads / self.key_heads }
    }
}

/// The uniform of `delta_inputs.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct InputsParams {
    channels4: u32,
    heads: u32,
    taps: u32,
    stride4: u32,
    beta: u32,
    decay: u32,
    kept4: u32,
}

/// The uniform of `delta_rule.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct RuleParams {
    heads: u32,
    group: u32,
    key_heads: u32,
    value_dim: u32,
    key4: u32,
    keys4: u32,
    channels4: u32,
}

/// The uniform of `delta_commit.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct CommitParams {
    all: u32,
    heads: u32,
    group: u32,
    key_heads: u32,
    value_dim: u32,
    key4: u32,
    keys4: u32,
    channels4: u32,
    taps: u32,
    stride4: u32,
}

/// What a delta net keeps in a session: the committed state, and what the rows of a batch bring until they are committed.
pub(crate) struct DeltaBuffers {
    pub shape: DeltaShape,
    /// The committed state: `[value_heads, key_dim / 4, value_dim, 4]`, then `[taps - 1, channels]`.
    pub kept: Buffer,
    /// `[rows, inputs_stride]`
    pub inputs: Buffer,
    /// `[rows, channels]`: after the convolution, with queries and keys of length 1.
    pub mixed: Buffer,
    /// `[rows, value_heads]` of (decay, beta).
    pub steps: Buffer,
    /// `[rows, values]`: what the key of each head was multiplied with.
    pub deltas: Buffer,
}

impl DeltaBuffers {
    /// The buffers for batches of `rows` rows, with the state of an empty text.
    pub fn new(gpu: &Gpu, shape: DeltaShape, rows: usize) -> Self {
        let of = |label: &str, width: u32| gpu.storage(label, 4 * rows as u64 * u64::from(width));
        Self {
            shape,
            kept: gpu.storage("recurrent state", shape.state_bytes()),
            inputs: of("delta inputs", shape.inputs_stride()),
            mixed: of("delta mixed", shape.channels()),
            steps: of("delta steps", 2 * shape.value_heads),
            deltas: of("deltas", shape.values()),
        }
    }

    /// Bytes on the GPU.
    pub fn bytes(&self) -> u64 {
        let Self { shape: _, kept, inputs, mixed, steps, deltas } = self;
        [kept, inputs, mixed, steps, deltas].map(Buffer::size).iter().sum()
    }
}

/// The buffers that [`delta_inputs`] takes beside those of a session.
#[derive(Clone, Copy)]
pub(crate) struct DeltaInputsIo<'a> {
    pub state: &'a Buffer,
    pub rows: &'a Buffer,
    /// `[taps, channels]`, oldest first.
    pub conv: &'a Buffer,
    /// `[2, value_heads]`: the rate of each head, at most 0, and what is added to `a`.
    pub rates: &'a Buffer,
    /// `[rows, channels]`
    pub convolved: &'a Buffer,
}

/// The buffers that [`delta_rule`] takes beside those of a session.
#[derive(Clone, Copy)]
pub(crate) struct DeltaRuleIo<'a> {
    pub state: &'a Buffer,
    pub rows: &'a Buffer,
    /// `[rows, values]`
    pub out: &'a Buffer,
}

/// The rows of a batch that a recurrent state moves on by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Committed {
    /// All rows: `state.num_rows`.
    Rows,
    /// The rows of `path`, which may be none.
    Path,
}

fn inputs_variant() -> Variant {
    Variant::of("delta_inputs")
}

fn rule_variant(set: KernelSet) -> Variant {
    let (lanes, splits) = set.values_shape();
    KernelSet::with_split(Variant::of("delta_rule"), (lanes, splits))
        .constant("BLOCKS", (MAX_KEY_DIM / 4).div_ceil(splits))
}

fn commit_variant() -> Variant {
    Variant::of("delta_commit")
}

/// The convolution and the steps of the rows: `inputs` to `convolved` and `steps`.
pub(crate) fn delta_inputs(gpu: &Gpu, buffers: &DeltaBuffers, io: DeltaInputsIo<'_>) -> Op {
    let DeltaBuffers { shape, inputs, kept, steps, .. } = buffers;
    let channels4 = shape.channels() / 4;
    let params = InputsParams {
        channels4,
        heads: shape.value_heads,
        taps: shape.taps,
        stride4: shape.inputs_stride() / 4,
        beta: shape.channels(),
        decay: shape.channels() + shape.padded_heads(),
        kept4: shape.matrices() / 4,
    };
    let (params, kernel) = (gpu.uniform("delta_inputs", &params), gpu.kernel(&inputs_variant()));
    let DeltaInputsIo { state, rows, conv, rates, convolved } = io;
    let bind_group = gpu.bind(&kernel, &[&params, state, rows, inputs, kept, conv, rates, convolved, steps]);
    Op::single(kernel, bind_group, Grid::Rows { x: (channels4 + shape.value_heads).div_ceil(64) })
}

/// The delta rule over the rows: `mixed` and `steps` to `out`, and `deltas` for committing.
pub(crate) fn delta_rule(gpu: &Gpu, set: KernelSet, buffers: &DeltaBuffers, io: DeltaRuleIo<'_>) -> Op {
    let DeltaBuffers { shape, kept, mixed, steps, deltas, .. } = buffers;
    let fits = shape.key_dim.is_multiple_of(4) && shape.key_dim <= MAX_KEY_DIM;
    assert!(fits && shape.value_dim.is_multiple_of(4), "delta_rule: {shape:?}");
    let params = RuleParams {
        heads: shape.value_heads,
        group: shape.group(),
        key_heads: shape.key_heads,
        value_dim: shape.value_dim,
        key4: shape.key_dim / 4,
        keys4: shape.keys() / 4,
        channels4: shape.channels() / 4,
    };
    let (params, kernel) = (gpu.uniform("delta_rule", &params), gpu.kernel(&rule_variant(set)));
    let DeltaRuleIo { state, rows, out } = io;
    let bind_group = gpu.bind(&kernel, &[&params, state, rows, kept, mixed, steps, deltas, out]);
    let (lanes, _) = set.values_shape();
    Op::single(kernel, bind_group, Grid::Heads { x: shape.value_dim.div_ceil(lanes), y: shape.value_heads })
}

/// Moves the committed state on by rows of the last batch.
pub(crate) fn delta_commit(
    gpu: &Gpu,
    buffers: &DeltaBuffers,
    rows: Committed,
    (state, path): (&Buffer, &Buffer),
) -> Op {
    let DeltaBuffers { shape, kept, inputs, mixed, steps, deltas } = buffers;
    let channels4 = shape.channels() / 4;
    let params = CommitParams {
        all: u32::from(rows == Committed::Rows),
        heads: shape.value_heads,
        group: shape.group(),
        key_heads: shape.key_heads,
        value_dim: shape.value_dim,
        key4: shape.key_dim / 4,
        keys4: shape.keys() / 4,
        channels4,
        taps: shape.taps,
        stride4: shape.inputs_stride() / 4,
    };
    let (params, kernel) = (gpu.uniform("delta_commit", &params), gpu.kernel(&commit_variant()));
    let bind_group = gpu.bind(&kernel, &[&params, state, path, inputs, mixed, steps, deltas, kept]);
    Op::single(kernel, bind_group, Grid::Fixed([(shape.matrices() / 4 + channels4).div_ceil(64), 1, 1]))
}
