//! Mixes of hidden states with trained weights, and their gradients.

use bytemuck::{Pod, Zeroable};

use super::super::{Grid, Op, Store};
use super::spread::spread;
use crate::gpu::{Buffer, Gpu, Variant};
use crate::kernels::declared::{Declared, layout};

/// The declarations of this file's kernels, for the table of `kernels`.
pub(in crate::kernels) const KERNELS: &[Declared] = &[
    Declared::new(|_| Store::OF_SUMS.map(mix_variant).into()).params(layout!(MixParams: count4, index)),
    Declared::new(|_| vec![mix_dot_variant()]).params(layout!(MixDotParams: count4, index)),
    Declared::new(|_| vec![mix_softmax_variant(), mix_softmax_inputs_variant()])
        .params(layout!(MixSoftmaxParams: layers, temperature)),
];

/// The uniform of `mix.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct MixParams {
    pub count4: u32,
    pub index: u32,
}

/// The uniform of `mix_dot.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct MixDotParams {
    pub count4: u32,
    pub index: u32,
}

/// The uniform of `mix_softmax.wgsl` and `mix_softmax_inputs.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct MixSoftmaxParams {
    pub layers: u32,
    pub temperature: f32,
}

/// The variants of `mix`.
pub(crate) fn mix_variant(store: Store) -> Variant {
    Variant::of("mix").piece("store", store.piece())
}

/// The one variant of `mix_dot`.
pub(crate) fn mix_dot_variant() -> Variant {
    Variant::of("mix_dot").piece("reduce", "reduce_workgroup").constant("LANES", 256)
}

/// The one variant of `mix_softmax`.
pub(crate) fn mix_softmax_variant() -> Variant {
    Variant::of("mix_softmax")
}

/// The one variant of `mix_softmax_inputs`.
pub(crate) fn mix_softmax_inputs_variant() -> Variant {
    Variant::of("mix_softmax_inputs")
}

/// The buffers of `mix`.
#[derive(Clone, Copy)]
pub(crate) struct MixIo<'a> {
    /// The weights of all streams.
    pub weights: &'a Buffer,
    pub x: &'a Buffer,
    pub y: &'a Buffer,
}

/// The buffers of `mix_dot`.
#[derive(Clone, Copy)]
pub(crate) struct MixDotIo<'a> {
    pub x: &'a Buffer,
    pub dy: &'a Buffer,
    /// The gradients of all weights.
    pub dots: &'a Buffer,
}

/// The buffers of `mix_softmax_inputs`.
#[derive(Clone, Copy)]
pub(crate) struct MixSoftmaxInputsIo<'a> {
    pub weights: &'a Buffer,
    /// Their gradients.
    pub dots: &'a Buffer,
    pub dlogits: &'a Buffer,
}

/// `weights = softmax(logits / temperature)`.
pub(crate) fn mix_softmax(gpu: &Gpu, layers: u32, temperature: f32, logits: &Buffer, weights: &Buffer) -> Op {
    let params = gpu.uniform("mix_softmax", &MixSoftmaxParams { layers, temperature });
    let kernel = gpu.kernel(&mix_softmax_variant());
    let bind_group = gpu.bind(&kernel, &[&params, logits, weights]);
    Op::single(kernel, bind_group, Grid::One)
}

/// `y = weights[index] * x`, or added to it, over `count4` blocks of four. Its own gradient for x, from y's.
pub(crate) fn mix(gpu: &Gpu, count4: u32, index: u32, store: Store, io: MixIo<'_>) -> Op {
    let params = gpu.uniform("mix", &MixParams { count4, index });
    let kernel = gpu.kernel(&mix_variant(store));
    let bind_group = gpu.bind(&kernel, &[&params, io.weights, io.x, io.y]);
    Op::single(kernel, bind_group, spread(count4))
}

/// `dots[index] += sum of x * dy` over `count4` blocks of four: the gradient of a weight.
pub(crate) fn mix_dot(gpu: &Gpu, count4: u32, index: u32, io: MixDotIo<'_>) -> Op {
    let params = gpu.uniform("mix_dot", &MixDotParams { count4, index });
    let kernel = gpu.kernel(&mix_dot_variant());
    let bind_group = gpu.bind(&kernel, &[&params, io.x, io.dy, io.dots]);
    Op::single(kernel, bind_group, Grid::One)
}

/// `dlogits += gradient of softmax(logits / temperature)`, given `dots`, the gradients of its weights.
pub(crate) fn mix_softmax_inputs(gpu: &Gpu, layers: u32, temperature: f32, io: MixSoftmaxInputsIo<'_>) -> Op {
    let params = gpu.uniform("mix_softmax_inputs", &MixSoftmaxParams { layers, temperature });
    let kernel = gpu.kernel(&mix_softmax_inputs_variant());
    let bind_group = gpu.bind(&kernel, &[&params, io.weights, io.dots, io.dlogits]);
    Op::single(kernel, bind_group, Grid::One)
}
