//! The tree of drafts: its rows, where drafts come from, and the cache after a path was taken.

use bytemuck::{Pod, Zeroable};

use super::cache::{CacheType, kinds, with_cache};
use super::declared::{Declared, layout};
use super::{AttentionShape, Grid, KernelSet, MAX_BATCH_ROWS, Op};
use crate::gpu::{Buffer, Gpu, Variant};

/// What is declared here, for the table of `kernels`.
pub(in crate::kernels) const KERNELS: &[Declared] = &[
    Declared::new(|_| vec![tree_rows_variant()]),
    Declared::new(|set| vec![draft_lookup_variant(set)]),
    Declared::new(|_| vec![draft_recorded_variant()]),
    Declared::new(|set| [Likelihood::Logit, Likelihood::Probability].map(|of| draft_top_variant(set, of)).into())
        .params(layout!(DraftTopParams: depth)),
    Declared::new(|_| kinds().map(|(cache, ring)| compact_cache_variant(cache, ring)).collect())
        .params(layout!(CompactParams: kv_heads, head_dim4, context, slots)),
];

/// Tokens that a match of the lookup drafter may have.
pub(crate) const LOOKUP_NGRAM: u32 = 4;

/// Candidates that recorded drafts have for each position.
pub(crate) const RECORDED_RANKS: usize = 4;

/// The uniform `Tree` of `shaders/lib/tree.wgsl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Tree {
    /// Rows of a round, the text's last token included.
    pub num_rows: u32,
    /// Of the deepest node; 0 without drafts.
    pub depth: u32,
    /// Children of a node, at most.
    pub ranks: u32,
    pub pad: u32,
    /// Of each row: ancestor mask, depth, and which candidate of its depth it is.
    pub nodes: [[u32; 4]; MAX_BATCH_ROWS],
}

impl Tree {
    /// The tree whose nodes at depth d have `children[d]` children, in order of depth: what a path takes ascends.
    pub fn new(children: &[usize]) -> Self {
        let mut nodes = [[0; 4]; MAX_BATCH_ROWS];
        nodes[0] = [1, 0, 0, 0];
        let (mut level, mut count) = (0..1, 1);
        for (depth, &children) in children.iter().enumerate() {
            let first = count;
            for parent in level {
                for rank in 0..children {
                    nodes[count] = [nodes[parent][0] | 1 << count, depth as u32 + 1, rank as u32, 0];
                    count += 1;
                }
            }
            level = first..count;
        }
        let ranks = children.iter().copied().max().unwrap_or(0);
        Self { num_rows: count as u32, depth: children.len() as u32, ranks: ranks as u32, pad: 0, nodes }
    }

    /// The row that a row hangs from.
    pub fn parent(&self, row: usize) -> Option<usize> {
        (self.nodes[row][0] ^ 1 << row).checked_ilog2().map(|parent| parent as usize)
    }
}

/// The buffers of `tree_rows`.
#[derive(Clone, Copy)]
pub(crate) struct TreeRowsIo<'a> {
    pub tree: &'a Buffer,
    pub state: &'a Buffer,
    pub rows: &'a Buffer,
    pub text: &'a Buffer,
    /// `[depth, rank]`
    pub candidates: &'a Buffer,
}

/// The buffers of `draft_lookup`.
#[derive(Clone, Copy)]
pub(crate) struct DraftLookupIo<'a> {
    pub tree: &'a Buffer,
    pub state: &'a Buffer,
    pub text: &'a Buffer,
    pub candidates: &'a Buffer,
}

/// The buffers of `draft_recorded`.
#[derive(Clone, Copy)]
pub(crate) struct DraftRecordedIo<'a> {
    pub tree: &'a Buffer,
    pub state: &'a Buffer,
    /// `[context, RECORDED_RANKS]`
    pub recorded: &'a Buffer,
    pub candidates: &'a Buffer,
}

/// The buffers of `compact_cache`.
#[derive(Clone, Copy)]
pub(crate) struct CompactCacheIo<'a> {
    pub state: &'a Buffer,
    /// How many rows were committed, then which.
    pub path: &'a Buffer,
    pub keys: &'a Buffer,
    pub values: &'a Buffer,
}

/// The one variant of `tree_rows`.
pub(crate) fn tree_rows_variant() -> Variant {
    Variant::of("tree_rows")
}

/// The variant of `draft_lookup` of a set.
pub(crate) fn draft_lookup_variant(set: KernelSet) -> Variant {
    set.with_vocabulary_reduce(Variant::of("draft_lookup")).constant("NGRAM", LOOKUP_NGRAM)
}

/// The one variant of `draft_recorded`.
pub(crate) fn draft_recorded_variant() -> Variant {
    Variant::of("draft_recorded")
}

/// The uniform of `draft_top.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct DraftTopParams {
    /// Counted from 0, the first token after the text.
    pub depth: u32,
}

/// What candidates are ranked by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Likelihood {
    Logit,
    Probability,
}

/// The variant of `draft_top` of a set: from logits, or from probabilities.
pub(crate) fn draft_top_variant(set: KernelSet, likelihood: Likelihood) -> Variant {
    let piece = match likelihood {
        Likelihood::Logit => "likelihood_logit",
        Likelihood::Probability => "likelihood_probability",
    };
    set.with_vocabulary_reduce(Variant::of("draft_top")).piece("likelihood", piece)
}

/// The buffers of `draft_top`.
#[derive(Clone, Copy)]
pub(crate) struct DraftTopIo<'a> {
    pub sampling: &'a Buffer,
    pub tree: &'a Buffer,
    pub state: &'a Buffer,
    /// Of the head, its first row.
    pub logits: &'a Buffer,
    pub counts: &'a Buffer,
    pub candidates: &'a Buffer,
}

/// The likeliest tokens of a head's logits become the candidates of `depth`, counted from 0.
pub(crate) fn draft_top(gpu: &Gpu, set: KernelSet, depth: u32, io: DraftTopIo<'_>) -> Op {
    candidates(gpu, &draft_top_variant(set, Likelihood::Logit), depth, io)
}

/// The likeliest tokens of a distribution, given as probabilities in the place of logits, become the first candidates.
pub(crate) fn draft_likeliest(gpu: &Gpu, set: KernelSet, io: DraftTopIo<'_>) -> Op {
    candidates(gpu, &draft_top_variant(set, Likelihood::Probability), 0, io)
}

fn candidates(gpu: &Gpu, variant: &Variant, depth: u32, io: DraftTopIo<'_>) -> Op {
    let kernel = gpu.kernel(variant);
    let params = gpu.uniform("draft_top", &DraftTopParams { depth });
    let buffers = [&params, io.sampling, io.tree, io.state, io.logits, io.counts, io.candidates];
    let bind_group = gpu.bind(&kernel, &buffers);
    Op::single(kernel, bind_group, Grid::One)
}

/// The variant of `compact_cache` for a kind of cache.
pub(crate) fn compact_cache_variant(cache: CacheType, ring: bool) -> Variant {
    with_cache(Variant::of("compact_cache"), cache, ring)
}

/// The text's last token and the tree of `candidates` below it become the rows of the round.
pub(crate) fn tree_rows(gpu: &Gpu, io: TreeRowsIo<'_>) -> Op {
    let kernel = gpu.kernel(&tree_rows_variant());
    let bind_group = gpu.bind(&kernel, &[io.tree, io.state, io.rows, io.text, io.candidates]);
    Op::single(kernel, bind_group, Grid::One)
}

/// Candidates from where the text's last tokens stood before.
pub(crate) fn draft_lookup(gpu: &Gpu, set: KernelSet, io: DraftLookupIo<'_>) -> Op {
    let kernel = gpu.kernel(&draft_lookup_variant(set));
    let bind_group = gpu.bind(&kernel, &[io.tree, io.state, io.text, io.candidates]);
    Op::single(kernel, bind_group, Grid::One)
}

/// Candidates from `recorded[context, RECORDED_RANKS]`.
pub(crate) fn draft_recorded(gpu: &Gpu, io: DraftRecordedIo<'_>) -> Op {
    let kernel = gpu.kernel(&draft_recorded_variant());
    let bind_group = gpu.bind(&kernel, &[io.tree, io.state, io.recorded, io.candidates]);
    Op::single(kernel, bind_group, Grid::One)
}

/// The uniform of `compact_cache.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct CompactParams {
    pub kv_heads: u32,
    pub head_dim4: u32,
    pub context: u32,
    pub slots: u32,
}

/// Moves the keys and values of the committed rows of a layer to consecutive slots.
pub(crate) fn compact_cache(gpu: &Gpu, shape: AttentionShape, io: CompactCacheIo<'_>) -> Op {
    let AttentionShape { kv_heads, head_dim, context, slots, .. } = shape;
    let params = CompactParams { kv_heads, head_dim4: head_dim / 4, context, slots };
    let threads = params.kv_heads * params.head_dim4;
    let params = gpu.uniform("compact_cache", &params);
    let kernel = gpu.kernel(&compact_cache_variant(shape.cache, shape.ring()));
    let bind_group = gpu.bind(&kernel, &[&params, io.state, io.path, io.keys, io.values]);
    Op::single(kernel, bind_group, Grid::Columns { x: threads.div_ceil(64) })
}
