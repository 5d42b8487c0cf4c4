//! Activations apart from their product, because their gradient reads what came before them; and that gradient.

use bytemuck::{Pod, Zeroable};

use super::{Op, fixed};
use crate::gpu::{Buffer, Gpu, Variant};
use crate::kernels::Activation;

/// The uniform of `activate.wgsl` and `activate_inputs.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct ActivateParams {
    pub inner4: u32,
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
    };
    Variant::of("activate_inputs")
        .piece("activation", activation.piece())
        .piece("slope", slope)
        .constant("BLOCKS", if gated { 2 } else { 1 })
}

/// `out = activation(gate) * up`, or `activation(pre)`. `pre` is `[rows, inner4 * 2]` with gate and up in alternating
/// blocks of four where gated, else `[rows, inner4]` as `out`.
pub(crate) fn activate(
    gpu: &Gpu,
    activation: Activation,
    gated: bool,
    rows: u32,
    inner4: u32,
    pre: &Buffer,
    out: &Buffer,
) -> Op {
    let kernel = gpu.kernel(&activate_variant(activation, gated));
    let bind_group = gpu.bind(&kernel, &[&gpu.uniform("activate", &ActivateParams { inner4 }), pre, out]);
    Op::single(kernel, bind_group, fixed([inner4.div_ceil(64), rows, 1]))
}

/// Sets `dpre`, the gradient of `pre`, from `dout`.
#[allow(clippy::too_many_arguments, reason = "those of `activate`, and one buffer more")]
pub(crate) fn activate_inputs(
    gpu: &Gpu,
    activation: Activation,
    gated: bool,
    rows: u32,
    inner4: u32,
    pre: &Buffer,
    dout: &Buffer,
    dpre: &Buffer,
) -> Op {
    let kernel = gpu.kernel(&activate_inputs_variant(activation, gated));
    let uniform = gpu.uniform("activate inputs", &ActivateParams { inner4 });
    let bind_group = gpu.bind(&kernel, &[&uniform, pre, dout, dpre]);
    Op::single(kernel, bind_group, fixed([inner4.div_ceil(64), rows, 1]))
}
