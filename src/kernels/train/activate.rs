//! Activations apart from their product, because their gradient reads what came before them; and that gradient.

use bytemuck::{Pod, Zeroable};

use super::{Op, fixed};
use crate::gpu::{Buffer, Gpu, Variant};
use crate::kernels::Activation;
use crate::kernels::declared::{ACTIVATIONS, Declared, layout};

/// The declarations of this file's kernels, for the table of `kernels`.
pub(in crate::kernels) const KERNELS: &[Declared] = &[Declared::new(|_| {
    let forms = ACTIVATIONS.into_iter().flat_map(|activation| [(activation, false), (activation, true)]);
    forms
        .flat_map(|(activation, gated)| {
            [activate_variant(activation, gated), activate_inputs_variant(activation, gated)]
        })
        .collect()
})
.params(layout!(ActivateParams: inner4))];

/// The uniform of `activate.wgsl` and `activate_inputs.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct ActivateParams {
    pub inner4: u32,
}

/// The activation, and the number of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ActivateForm {
    pub activation: Activation,
    /// Gate and up lie in alternating blocks of four, `[rows, inner4 * 2]`.
    pub gated: bool,
    pub rows: u32,
    pub inner4: u32,
}

/// The buffers of `activate`.
#[derive(Clone, Copy)]
pub(crate) struct ActivateIo<'a> {
    pub pre: &'a Buffer,
    /// `[rows, inner4]`
    pub out: &'a Buffer,
}

/// The buffers of `activate_inputs`.
#[derive(Clone, Copy)]
pub(crate) struct ActivateInputsIo<'a> {
    pub pre: &'a Buffer,
    pub dout: &'a Buffer,
    pub dpre: &'a Buffer,
}

/// The variant of an activation.
pub(crate) fn activate_variant(activation: Activation, gated: bool) -> Variant {
    Variant::of("activate")
        .piece("activation", activation.piece())
        .piece("finish", if gated { "finish_gated" } else { "finish_plain" })
}

/// The variant of an activation.
pub(crate) fn activate_inputs_variant(activation: Activation, gated: bool) -> Variant {
    let slope = match activation {
        Activation::None => "slope_none",
        Activation::Silu => "slope_silu",
        Activation::Gelu => "slope_gelu",
        Activation::GeluTanh => "slope_gelu_tanh",
        Activation::Sigmoid | Activation::Softcap => unreachable!("no MLP has it"),
    };
    Variant::of("activate_inputs")
        .piece("activation", activation.piece())
        .piece("slope", slope)
        .constant("BLOCKS", if gated { 2 } else { 1 })
}

/// `out = activation(gate) * up`, or `activation(pre)`.
pub(crate) fn activate(gpu: &Gpu, form: ActivateForm, io: ActivateIo<'_>) -> Op {
    let ActivateForm { activation, gated, rows, inner4 } = form;
    let kernel = gpu.kernel(&activate_variant(activation, gated));
    let bind_group = gpu.bind(&kernel, &[&gpu.uniform("activate", &ActivateParams { inner4 }), io.pre, io.out]);
    Op::single(kernel, bind_group, fixed([inner4.div_ceil(64), rows, 1]))
}

/// Sets `dpre`, the gradient of `pre`, from `dout`.
pub(crate) fn activate_inputs(gpu: &Gpu, form: ActivateForm, io: ActivateInputsIo<'_>) -> Op {
    let ActivateForm { activation, gated, rows, inner4 } = form;
    let kernel = gpu.kernel(&activate_inputs_variant(activation, gated));
    let uniform = gpu.uniform("activate inputs", &ActivateParams { inner4 });
    let bind_group = gpu.bind(&kernel, &[&uniform, io.pre, io.dout, io.dpre]);
    Op::single(kernel, bind_group, fixed([inner4.div_ceil(64), rows, 1]))
}
