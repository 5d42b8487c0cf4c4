//! Filters and sampling.

use bytemuck::{Pod, Zeroable};

use super::declared::Declared;
use super::{Grid, KernelSet, Op};
use crate::gpu::{Buffer, Gpu, Variant};

/// What is declared here, for the table of `kernels`.
pub(in crate::kernels) const KERNELS: &[Declared] = &[Declared::new(|set| vec![sample_variant(set)])];

/// The uniform of `sample.wgsl`.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct SampleParams {
    pub vocab: u32,
    pub stride: u32,
    pub temperature: f32,
    pub repetition_penalty: f32,
    pub top_k: u32,
    pub top_p: f32,
    pub min_p: f32,
    pub pad0: u32,
    pub seed: [u32; 2],
    pub pad1: [u32; 2],
}

/// The buffers of `sample`. `params` is written anew for each generation.
#[derive(Clone, Copy)]
pub(crate) struct SampleIo<'a> {
    pub params: &'a Buffer,
    pub state: &'a Buffer,
    pub rows: &'a Buffer,
    pub logits: &'a Buffer,
    pub probabilities: &'a Buffer,
    pub counts: &'a Buffer,
    pub sampled: &'a Buffer,
}

/// What stands for the token of a row whose logits are not all finite.
#[cfg(test)]
pub(crate) const NO_ID: u32 = u32::MAX;

/// The variant of a set.
pub(crate) fn sample_variant(set: KernelSet) -> Variant {
    set.with_vocabulary_reduce(Variant::of("sample"))
}

/// `sampled[row]` for each row whose logits are wanted: an id, or `NO_ID`.
pub(crate) fn sample(gpu: &Gpu, set: KernelSet, io: SampleIo<'_>) -> Op {
    let kernel = gpu.kernel(&sample_variant(set));
    let bind_group =
        gpu.bind(&kernel, &[io.params, io.state, io.rows, io.logits, io.probabilities, io.counts, io.sampled]);
    Op::single(kernel, bind_group, Grid::LogitRows { x: 1 })
}
