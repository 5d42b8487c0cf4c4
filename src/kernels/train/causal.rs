//! Causal attention within several sequences at once, and its gradients.
//!
//! With P the softmax of the scores of queries and keys, and O = P V, the gradients are five more products of the same
//! three kinds: rows with rows (`causal_scores`), a lower triangle with rows below it (`causal_gather`), and its
//! transpose (`causal_scatter`).

use bytemuck::{Pod, Zeroable};

use super::super::{Grid, KernelSet, Op};
use crate::gpu::{Buffer, Gpu, Variant};
use crate::kernels::declared::{Declared, SUBGROUPS, layout};

/// The declarations of this file's kernels, for the table of `kernels`.
pub(in crate::kernels) const KERNELS: &[Declared] = &[
    Declared::new(|_| vec![causal_scores_variant(), causal_gather_variant(), causal_scatter_variant()]).params(layout!(CausalParams: length, heads, kv_heads, head_dim4, a_stride4, a_first4, b_stride4, b_first4, window, scale)),
    Declared::new(|set| {
        let of = |subgroup| [causal_softmax_variant(set, subgroup), causal_softmax_inputs_variant(set, subgroup)];
        SUBGROUPS.into_iter().flat_map(of).collect()
    }).params(layout!(CausalSoftmaxParams: length, heads, window)),
];

/// Sequences of one length, one after the other: row r is position `r % length` of sequence `r / length`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SequenceShape {
    pub sequences: u32,
    pub length: u32,
    pub heads: u32,
    pub kv_heads: u32,
    /// Padded to a multiple of four.
    pub head_dim: u32,
    /// Positions that a position sees, itself included; `None`: all before it.
    pub window: Option<u32>,
}

impl SequenceShape {
    /// Rows of all sequences.
    pub fn rows(self) -> u32 {
        self.sequences * self.length
    }

    /// The window as kernels take it.
    fn window_or_all(self) -> u32 {
        self.window.unwrap_or(u32::MAX)
    }

    /// Values of a row of queries, keys and values.
    pub fn qkv_stride(self) -> u32 {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }
}

/// Heads inside the rows of a buffer: head h of row r begins at value `r * stride + first + h * head_dim`.
#[derive(Clone, Copy)]
pub(crate) struct HeadsOf<'a> {
    pub buffer: &'a Buffer,
    pub stride: u32,
    pub first: u32,
}

/// The uniform of the products.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct CausalParams {
    pub length: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub head_dim4: u32,
    pub a_stride4: u32,
    pub a_first4: u32,
    pub b_stride4: u32,
    pub b_first4: u32,
    pub window: u32,
    pub scale: f32,
}

/// The uniform of the softmax and its gradient.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct CausalSoftmaxParams {
    pub length: u32,
    pub heads: u32,
    pub window: u32,
}

/// Queries and keys of the block that a thread of `causal_scores` computes.
const SCORES_SIDE: u32 = 4;

/// Positions, and blocks of four dimensions, that a thread of `causal_gather` and `causal_scatter` computes.
const GATHER_POSITIONS: u32 = 8;
const GATHER_BLOCKS: u32 = 2;

/// The one variant of `causal_scores`.
pub(crate) fn causal_scores_variant() -> Variant {
    Variant::of("causal_scores").constant("SIDE", SCORES_SIDE)
}

/// The one variant of `causal_gather`.
pub(crate) fn causal_gather_variant() -> Variant {
    blocked("causal_gather")
}

/// The one variant of `causal_scatter`.
pub(crate) fn causal_scatter_variant() -> Variant {
    blocked("causal_scatter")
}

fn blocked(shader: &'static str) -> Variant {
    Variant::of(shader).constant("POSITIONS", GATHER_POSITIONS).constant("BLOCKS", GATHER_BLOCKS)
}

/// The variant of `causal_softmax` of a set.
pub(crate) fn causal_softmax_variant(set: KernelSet, subgroup: u32) -> Variant {
    set.with_many_rows(Variant::of("causal_softmax"), subgroup)
}

/// The variant of `causal_softmax_inputs` of a set.
pub(crate) fn causal_softmax_inputs_variant(set: KernelSet, subgroup: u32) -> Variant {
    set.with_many_rows(Variant::of("causal_softmax_inputs"), subgroup)
}

/// `m[s, h, i, j] = scale * a[i, h] . b[j, kv(h)]` for `j <= i`; the rest of `m` is left as it is.
pub(crate) fn causal_scores(
    gpu: &Gpu,
    shape: SequenceShape,
    scale: f32,
    a: HeadsOf<'_>,
    b: HeadsOf<'_>,
    m: &Buffer,
) -> Op {
    let side = shape.length.div_ceil(SCORES_SIDE);
    let grid = [(side * (side + 1) / 2).div_ceil(64), 1, shape.sequences * shape.heads];
    product(
        gpu,
        &causal_scores_variant(),
        params(shape, scale, a, b),
        ProductIo { x: a.buffer, y: b.buffer, out: m },
        grid,
    )
}

/// `out[i, h] = scale * sum over j <= i of m[s, h, i, j] b[j, kv(h)]`.
pub(crate) fn causal_gather(
    gpu: &Gpu,
    shape: SequenceShape,
    scale: f32,
    m: &Buffer,
    b: HeadsOf<'_>,
    out: HeadsOf<'_>,
) -> Op {
    let grid = gather_grid(shape, shape.heads);
    product(
        gpu,
        &causal_gather_variant(),
        params(shape, scale, out, b),
        ProductIo { x: m, y: b.buffer, out: out.buffer },
        grid,
    )
}

/// `out[j, kv] = scale * sum over the heads h of kv and i >= j of m[s, h, i, j] a[i, h]`.
pub(crate) fn causal_scatter(
    gpu: &Gpu,
    shape: SequenceShape,
    scale: f32,
    m: &Buffer,
    a: HeadsOf<'_>,
    out: HeadsOf<'_>,
) -> Op {
    let grid = gather_grid(shape, shape.kv_heads);
    product(
        gpu,
        &causal_scatter_variant(),
        params(shape, scale, a, out),
        ProductIo { x: m, y: a.buffer, out: out.buffer },
        grid,
    )
}

/// The softmax of every row of `m`, over `j <= i`, in place.
pub(crate) fn causal_softmax(gpu: &Gpu, set: KernelSet, shape: SequenceShape, m: &Buffer) -> Op {
    let variant = causal_softmax_variant(set, gpu.summary().fixed_subgroup().unwrap_or(0));
    rowwise(gpu, set, &variant, shape, &[m])
}

/// `dm = p * (dm - sum over j of p dm)` in place, over `j <= i`: the gradient of the scores from that of `p`.
pub(crate) fn causal_softmax_inputs(gpu: &Gpu, set: KernelSet, shape: SequenceShape, p: &Buffer, dm: &Buffer) -> Op {
    let variant = causal_softmax_inputs_variant(set, gpu.summary().fixed_subgroup().unwrap_or(0));
    rowwise(gpu, set, &variant, shape, &[p, dm])
}

fn params(shape: SequenceShape, scale: f32, a: HeadsOf<'_>, b: HeadsOf<'_>) -> CausalParams {
    let sizes = [shape.head_dim, a.stride, a.first, b.stride, b.first];
    assert!(sizes.iter().all(|size| size.is_multiple_of(4)), "causal products: {sizes:?}");
    assert!(shape.heads.is_multiple_of(shape.kv_heads), "causal products: {shape:?}");
    CausalParams {
        length: shape.length,
        heads: shape.heads,
        kv_heads: shape.kv_heads,
        head_dim4: shape.head_dim / 4,
        a_stride4: a.stride / 4,
        a_first4: a.first / 4,
        b_stride4: b.stride / 4,
        b_first4: b.first / 4,
        window: shape.window_or_all(),
        scale,
    }
}

fn gather_grid(shape: SequenceShape, heads: u32) -> [u32; 3] {
    let threads = shape.length.div_ceil(GATHER_POSITIONS) * (shape.head_dim / 4).div_ceil(GATHER_BLOCKS);
    [threads.div_ceil(64), 1, shape.sequences * heads]
}

/// The buffers of a product: its factors, in the order of its bindings, and what it writes.
struct ProductIo<'a> {
    x: &'a Buffer,
    y: &'a Buffer,
    out: &'a Buffer,
}

fn product(gpu: &Gpu, variant: &Variant, params: CausalParams, io: ProductIo<'_>, grid: [u32; 3]) -> Op {
    let uniform = gpu.uniform("causal", &params);
    let kernel = gpu.kernel(variant);
    let bind_group = gpu.bind(&kernel, &[&uniform, io.x, io.y, io.out]);
    Op::single(kernel, bind_group, Grid::Fixed(grid))
}

fn rowwise(gpu: &Gpu, set: KernelSet, variant: &Variant, shape: SequenceShape, buffers: &[&Buffer]) -> Op {
    let params = CausalSoftmaxParams { length: shape.length, heads: shape.heads, window: shape.window_or_all() };
    let uniform = gpu.uniform("causal_softmax", &params);
    let kernel = gpu.kernel(variant);
    let mut all = vec![&uniform];
    all.extend(buffers);
    let bind_group = gpu.bind(&kernel, &all);
    let grid = [shape.length.div_ceil(set.many_rows()), shape.heads, shape.sequences];
    Op::single(kernel, bind_group, Grid::Fixed(grid))
}
