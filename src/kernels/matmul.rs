//! Products with weights: `y = finish(W x + bias)`, for few rows (`matmul`) and for many (`matmul_tiled`).

use bytemuck::{Pod, Zeroable};

use super::{Form, Grid, KernelSet, Op, Widths};
use crate::format::safetensors::Dtype;
use crate::gpu::{Gpu, Variant};

/// What follows a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    None,
    Silu,
    Gelu,
    GeluTanh,
}

impl Activation {
    /// The piece that computes it.
    pub(super) fn piece(self) -> &'static str {
        match self {
            Self::None => "activation_none",
            Self::Silu => "activation_silu",
            Self::Gelu => "activation_gelu",
            Self::GeluTanh => "activation_gelu_tanh",
        }
    }
}

/// Which product: everything that selects pipelines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MatmulForm {
    pub set: KernelSet,
    pub widths: Widths,
    pub dtype: Dtype,
    pub activation: Activation,
    /// Gate and up columns alternate in blocks of four, and `y = activation(gate) * up`.
    pub gated: bool,
    pub bias: bool,
    /// Adds to `y` instead of replacing it.
    pub accumulate: bool,
}

impl MatmulForm {
    /// The plainest product of a dtype.
    pub fn plain(set: KernelSet, widths: Widths, dtype: Dtype) -> Self {
        let activation = Activation::None;
        Self { set, widths, dtype, activation, gated: false, bias: false, accumulate: false }
    }

    fn bound(self, shader: &'static str) -> Variant {
        Variant::of(shader)
            .piece("weight", weight_piece(self.dtype))
            .piece("activation", self.activation.piece())
            .piece("bias", if self.bias { "bias_add" } else { "bias_none" })
            .piece("finish", if self.gated { "finish_gated" } else { "finish_plain" })
            .piece("store", if self.accumulate { "store_add" } else { "store_set" })
    }

    /// The variant for `rows` rows at a time.
    pub fn narrow(self, rows: u32) -> Variant {
        KernelSet::with_split(self.bound("matmul"), self.set.product_shape()).constant("ROWS", rows)
    }

    /// The variant for prefill, where this set has one of its own.
    pub fn tiled(self) -> Option<Variant> {
        (self.set != KernelSet::Software).then(|| self.bound("matmul_tiled"))
    }
}

/// The piece that unpacks weights of a dtype.
pub(super) fn weight_piece(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "weight_f32",
        Dtype::F16 => "weight_f16",
        Dtype::BF16 => "weight_bf16",
    }
}

/// The uniform of `matmul.wgsl` and `matmul_tiled.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct MatmulParams {
    pub columns4: u32,
    pub inputs4: u32,
    pub x_stride4: u32,
    pub y_stride4: u32,
    pub y_first4: u32,
}

/// The buffers and sizes of a product. `weight` is `[inputs, columns]` with columns in blocks of four.
#[derive(Clone, Copy)]
pub(crate) struct MatmulIo<'a> {
    pub state: &'a wgpu::Buffer,
    pub x: &'a wgpu::Buffer,
    pub weight: &'a wgpu::Buffer,
    pub y: &'a wgpu::Buffer,
    pub bias: Option<&'a wgpu::Buffer>,
    /// Output columns of this shard in blocks of four; a gated product has half as many as its weight.
    pub columns4: u32,
    pub inputs4: u32,
    pub x_stride4: u32,
    pub y_stride4: u32,
    pub y_first4: u32,
    /// The rows are those whose logits are wanted.
    pub logits: bool,
}

/// The product of `x` with a weight shard.
pub(crate) fn matmul(gpu: &Gpu, form: MatmulForm, io: MatmulIo<'_>) -> Op {
    assert_eq!(form.bias, io.bias.is_some(), "matmul: bias");
    let params = MatmulParams {
        columns4: io.columns4,
        inputs4: io.inputs4,
        x_stride4: io.x_stride4,
        y_stride4: io.y_stride4,
        y_first4: io.y_first4,
    };
    let params = gpu.uniform("matmul", &params);
    let (lanes, _) = form.set.product_shape();
    let mut forms: Vec<Form> = form
        .widths
        .rows()
        .iter()
        .map(|&rows| Form { kernel: gpu.kernel(&form.narrow(rows)), rows, columns4: lanes, many: false })
        .collect();
    if let Some(tiled) = form.tiled() {
        forms.push(Form { kernel: gpu.kernel(&tiled), rows: 64, columns4: 16, many: true });
    }
    let mut buffers = vec![&params, io.state, io.x, io.weight, io.y];
    buffers.extend(io.bias);
    let bind_group = gpu.bind(&forms[0].kernel, &buffers);
    Op { forms, bind_group, grid: Grid::Matmul { columns4: io.columns4, logits: io.logits } }
}
