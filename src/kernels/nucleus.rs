//! The tokens that may come next: the nucleus of a row of logits.

use bytemuck::{Pod, Zeroable};

use super::declared::{Declared, layout};
use super::{Grid, KernelSet, Op};
use crate::gpu::{Buffer, Gpu, Variant};

/// What is declared here, for the table of `kernels`.
pub(in crate::kernels) const KERNELS: &[Declared] =
    &[Declared::new(|set| vec![nucleus_variant(set)])
        .params(layout!(NucleusParams: vocab, stride, mass, most, capacity))];

/// The uniform of `nucleus.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct NucleusParams {
    pub vocab: u32,
    pub stride: u32,
    pub mass: f32,
    pub most: u32,
    pub capacity: u32,
    pub pad: [u32; 3],
}

/// A token that may come next. Mirrors `shaders/lib/branches.wgsl`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Branch {
    pub token: u32,
    pub probability: f32,
}

/// What a row's branches are together. Mirrors `shaders/lib/branches.wgsl`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Nucleus {
    /// Branches listed.
    pub count: u32,
    /// Tokens that reach the mass.
    pub size: u32,
    /// Probability of the listed branches.
    pub covered: f32,
    /// Probability of all other tokens, summed by itself.
    pub left_out: f32,
    /// The branches' position in the text.
    pub position: u32,
    /// Where they begin in the list.
    pub first: u32,
    pub pad: [u32; 2],
}

/// The buffers of `nucleus`. `params` is written anew for each question.
#[derive(Clone, Copy)]
pub(crate) struct NucleusIo<'a> {
    pub params: &'a Buffer,
    pub state: &'a Buffer,
    pub rows: &'a Buffer,
    pub logits: &'a Buffer,
    /// exp(logit - highest) of every token.
    pub probabilities: &'a Buffer,
    /// One [`Nucleus`] a row.
    pub nuclei: &'a Buffer,
    /// [`NucleusParams::capacity`] of [`Branch`] a row: most probable first where they are at most 64, else in no order.
    pub branches: &'a Buffer,
}

/// The variant of a set.
pub(crate) fn nucleus_variant(set: KernelSet) -> Variant {
    set.with_vocabulary_reduce(Variant::of("nucleus"))
}

/// The nucleus of each row whose logits are there.
pub(crate) fn nucleus(gpu: &Gpu, set: KernelSet, io: NucleusIo<'_>) -> Op {
    let kernel = gpu.kernel(&nucleus_variant(set));
    let buffers = [io.params, io.state, io.rows, io.logits, io.probabilities, io.nuclei, io.branches];
    let bind_group = gpu.bind(&kernel, &buffers);
    Op::single(kernel, bind_group, Grid::LogitRows { x: 1 })
}
