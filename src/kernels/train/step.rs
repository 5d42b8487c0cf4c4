//! From gradients to new parameters: their norm, the factor that clips them, and AdamW.
//!
//! They take four values at a time: storage buffers are multiples of four values, and zeros pad the last four. A gradient
//! of zero leaves a zero where it is.

use bytemuck::{Pod, Zeroable};

use super::{Op, fixed};
use crate::gpu::{Buffer, Gpu, Variant};
use crate::kernels::declared::{Declared, layout};

/// What is declared here, for the table of `kernels`.
pub(in crate::kernels) const KERNELS: &[Declared] = &[
    Declared::new(|_| vec![squares_variant()]).params(layout!(SquaresParams: count4, slot)),
    Declared::new(|_| vec![clip_factor_variant()]).params(layout!(ClipParams: count, max_norm)),
    Declared::new(|_| vec![adamw_variant()]).params(layout!(AdamParams: count4, scale)),
];

/// Lanes of the one workgroup that adds squares.
const SQUARES_LANES: u32 = 256;

/// Blocks of four values of a workgroup of `adamw`.
const ADAM_BLOCKS: u32 = 256;

/// The uniform of `squares.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct SquaresParams {
    pub count4: u32,
    pub slot: u32,
}

/// The uniform of `clip_factor.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct ClipParams {
    pub count: u32,
    pub max_norm: f32,
}

/// The uniform of `adamw.wgsl` that is an op's own.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct AdamParams {
    pub count4: u32,
    pub scale: f32,
}

/// The uniform that all ops of an optimizer step share, written by the host before each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct AdamStep {
    pub rate: f32,
    pub decay: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    /// `1 - beta1^step`, in f64 from what an f32 holds of `beta1`: 1 - 0.999 is another number in f32.
    pub correction1: f32,
    /// `1 - beta2^step`
    pub correction2: f32,
    pub pad: f32,
}

/// The buffers of `adamw`.
#[derive(Clone, Copy)]
pub(crate) struct AdamIo<'a> {
    /// A uniform, [`AdamStep`].
    pub step: &'a Buffer,
    /// What `clip_factor` wrote.
    pub clip: &'a Buffer,
    pub value: &'a Buffer,
    pub grad: &'a Buffer,
    /// The moments: means of the gradient and of its square.
    pub first: &'a Buffer,
    pub second: &'a Buffer,
}

/// The one variant.
pub(crate) fn squares_variant() -> Variant {
    Variant::of("squares").piece("reduce", "reduce_workgroup").constant("LANES", SQUARES_LANES)
}

/// The one variant.
pub(crate) fn clip_factor_variant() -> Variant {
    Variant::of("clip_factor")
}

/// The one variant.
pub(crate) fn adamw_variant() -> Variant {
    Variant::of("adamw")
}

/// `norms[slot] =` the sum of squares of `count` values; not finite if any of them is not.
pub(crate) fn squares(gpu: &Gpu, count: u32, grad: &Buffer, norms: &Buffer, slot: u32) -> Op {
    let kernel = gpu.kernel(&squares_variant());
    let uniform = gpu.uniform("squares", &SquaresParams { count4: count.div_ceil(4), slot });
    let bind_group = gpu.bind(&kernel, &[&uniform, grad, norms]);
    Op::single(kernel, bind_group, fixed([1, 1, 1]))
}

/// From the sums `norms[0..count]`: `clip = [norm, factor, finite ? 1 : 0]`. A `max_norm` of 0 is no limit.
pub(crate) fn clip_factor(gpu: &Gpu, count: u32, max_norm: f32, norms: &Buffer, clip: &Buffer) -> Op {
    let kernel = gpu.kernel(&clip_factor_variant());
    let uniform = gpu.uniform("clip factor", &ClipParams { count, max_norm });
    let bind_group = gpu.bind(&kernel, &[&uniform, norms, clip]);
    Op::single(kernel, bind_group, fixed([1, 1, 1]))
}

/// A step of AdamW over `count` values, its rate multiplied with `scale`; nothing where the gradients are not finite.
pub(crate) fn adamw(gpu: &Gpu, count: u32, scale: f32, io: AdamIo<'_>) -> Op {
    let kernel = gpu.kernel(&adamw_variant());
    let count4 = count.div_ceil(4);
    let uniform = gpu.uniform("adamw", &AdamParams { count4, scale });
    let bind_group = gpu.bind(&kernel, &[&uniform, io.step, io.clip, io.value, io.grad, io.first, io.second]);
    let groups = count4.div_ceil(ADAM_BLOCKS);
    let x = groups.clamp(1, 32_768);
    Op::single(kernel, bind_group, fixed([x, groups.div_ceil(x), 1]))
}
