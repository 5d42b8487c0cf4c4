//! RMSNorm and LayerNorm.

use bytemuck::{Pod, Zeroable};

use super::declared::{Declared, SUBGROUPS, layout};
use super::{Grid, KernelSet, Op, Over};
use crate::gpu::{Buffer, Gpu, Variant};

/// The declarations of this file's kernels, for the table of `kernels`.
pub(in crate::kernels) const KERNELS: &[Declared] = &[Declared::new(|set| {
    let of = |subgroup| NormForm::ALL.map(|form| norm_variant(set, subgroup, form));
    SUBGROUPS.into_iter().flat_map(of).collect()
})
.params(layout!(NormParams: width, stride, eps, logit_rows))];

/// The uniform of `norm.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct NormParams {
    pub width: u32,
    pub stride: u32,
    pub eps: f32,
    pub logit_rows: u32,
}

/// The buffers of a norm. With `shift` it is a LayerNorm, without an RMSNorm.
#[derive(Clone, Copy)]
pub(crate) struct NormIo<'a> {
    pub state: &'a Buffer,
    pub x: &'a Buffer,
    pub y: &'a Buffer,
    pub scale: &'a Buffer,
    pub shift: Option<&'a Buffer>,
    /// All rows, or those whose logits are wanted to the first rows of `y`.
    pub over: Over,
}

/// The kind of a norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NormForm {
    Rms,
    Layer,
}

impl NormForm {
    /// Every kind of norm.
    pub const ALL: [Self; 2] = [Self::Rms, Self::Layer];

    /// The form of a norm with a shift, or without.
    pub fn with_shift(shift: bool) -> Self {
        if shift { Self::Layer } else { Self::Rms }
    }
}

/// The variant of a set.
pub(crate) fn norm_variant(set: KernelSet, subgroup: u32, form: NormForm) -> Variant {
    let piece = match form {
        NormForm::Rms => "norm_rms",
        NormForm::Layer => "norm_layer",
    };
    set.with_reduce(Variant::of("norm").piece("norm", piece), subgroup)
}

/// `y = norm(x)` over the first `width` of `stride` values a row.
pub(crate) fn norm(gpu: &Gpu, set: KernelSet, width: u32, stride: u32, eps: f32, io: NormIo<'_>) -> Op {
    let subgroup = gpu.summary().fixed_subgroup().unwrap_or(0);
    let kernel = gpu.kernel(&norm_variant(set, subgroup, NormForm::with_shift(io.shift.is_some())));
    let params = gpu.uniform("norm", &NormParams { width, stride, eps, logit_rows: io.over.logits().into() });
    let mut buffers = vec![&params, io.state, io.x, io.y, io.scale];
    buffers.extend(io.shift);
    let bind_group = gpu.bind(&kernel, &buffers);
    Op::single(kernel, bind_group, Grid::rows(1, io.over))
}
