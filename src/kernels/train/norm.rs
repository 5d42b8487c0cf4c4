//! The gradients of RMSNorm and LayerNorm.

use bytemuck::{Pod, Zeroable};

use super::{Op, fixed};
use crate::gpu::{Buffer, Gpu, Variant};
use crate::kernels::declared::{Declared, SUBGROUPS, layout};
use crate::kernels::{KernelSet, NormForm};

/// What is declared here, for the table of `kernels`.
pub(in crate::kernels) const KERNELS: &[Declared] = &[
    Declared::new(|set| {
        let of = |subgroup| NormForm::ALL.map(|form| norm_inputs_variant(set, subgroup, form));
        SUBGROUPS.into_iter().flat_map(of).collect()
    })
    .params(layout!(NormInputsParams: width, stride, eps)),
    Declared::new(|_| NormForm::ALL.map(norm_weights_variant).into())
        .params(layout!(NormWeightsParams: rows, width, stride)),
];

/// The uniform of `norm_inputs.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct NormInputsParams {
    pub width: u32,
    pub stride: u32,
    pub eps: f32,
}

/// The uniform of `norm_weights.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct NormWeightsParams {
    pub rows: u32,
    pub width: u32,
    pub stride: u32,
}

/// The buffers of `norm_inputs`; all but `scale` and `stats` are `[rows, stride]`.
#[derive(Clone, Copy)]
pub(crate) struct NormInputsIo<'a> {
    /// What the norm reads.
    pub x: &'a Buffer,
    /// The gradient of what it writes.
    pub dy: &'a Buffer,
    pub scale: &'a Buffer,
    /// The gradient of `x`, added to.
    pub dx: &'a Buffer,
    /// `[rows, 2]`: the mean (0 for an RMSNorm) and one over the deviation, written for `norm_weights`.
    pub stats: &'a Buffer,
}

/// The buffers of `norm_weights`.
#[derive(Clone, Copy)]
pub(crate) struct NormWeightsIo<'a> {
    pub x: &'a Buffer,
    pub dy: &'a Buffer,
    /// As `norm_inputs` left them.
    pub stats: &'a Buffer,
    pub dscale: &'a Buffer,
    /// Only a LayerNorm has one.
    pub dshift: Option<&'a Buffer>,
}

/// The variant of a set.
pub(crate) fn norm_inputs_variant(set: KernelSet, subgroup: u32, form: NormForm) -> Variant {
    let layer = form == NormForm::Layer;
    set.with_reduce(Variant::of("norm_inputs").constant("LAYER", layer.into()), subgroup)
}

/// The variant of a norm with or without a shift.
pub(crate) fn norm_weights_variant(form: NormForm) -> Variant {
    let piece = match form {
        NormForm::Rms => "shift_none",
        NormForm::Layer => "shift_add",
    };
    Variant::of("norm_weights").piece("shift", piece)
}

/// `dx += ` the gradient of a norm over the first `width` of `stride` values a row.
#[allow(clippy::too_many_arguments, reason = "the sizes of `norm`, and rows")]
pub(crate) fn norm_inputs(
    gpu: &Gpu,
    set: KernelSet,
    form: NormForm,
    rows: u32,
    width: u32,
    stride: u32,
    eps: f32,
    io: NormInputsIo<'_>,
) -> Op {
    let subgroup = gpu.summary().fixed_subgroup().unwrap_or(0);
    let kernel = gpu.kernel(&norm_inputs_variant(set, subgroup, form));
    let uniform = gpu.uniform("norm inputs", &NormInputsParams { width, stride, eps });
    let bind_group = gpu.bind(&kernel, &[&uniform, io.x, io.dy, io.scale, io.dx, io.stats]);
    Op::single(kernel, bind_group, fixed([1, rows, 1]))
}

/// `dscale[i] += sum over r of dy[r, i] (x[r, i] - mean) inv`, and `dshift[i] += sum over r of dy[r, i]`.
pub(crate) fn norm_weights(gpu: &Gpu, rows: u32, width: u32, stride: u32, io: NormWeightsIo<'_>) -> Op {
    let kernel = gpu.kernel(&norm_weights_variant(NormForm::with_shift(io.dshift.is_some())));
    let uniform = gpu.uniform("norm weights", &NormWeightsParams { rows, width, stride });
    let mut buffers = vec![&uniform, io.x, io.dy, io.stats, io.dscale];
    buffers.extend(io.dshift);
    let bind_group = gpu.bind(&kernel, &buffers);
    Op::single(kernel, bind_group, fixed([width.div_ceil(64), 1, 1]))
}
