//! Phi-3: Llama's blocks with queries, keys and values in one tensor, gate and up in another; a window, and a rope for long texts.

use super::{Family, LLAMA_NAMES, Place, TensorNames, llama, norm_eps, num_blocks, of_blocks};
use crate::error::Result;
use crate::format::fields::Fields;
use crate::format::rope::{Rope, RopeKeys};
use crate::format::spec::{Attention, BlockRole, ModelSpec, Norm};

/// The family.
pub(super) const FAMILY: Family = Family { model_type: "phi3", spec, names: &NAMES, rules: &[], reads: &[] };

const QKV: &str = "self_attn.qkv_proj";
const GATE_UP: &str = "mlp.gate_up_proj";

/// Llama's names, but for the tensors that several parts share.
const NAMES: TensorNames = TensorNames {
    block: &[
        (BlockRole::Query, Place::Stacked { name: QKV, behind: &[] }),
        (BlockRole::Key, Place::Stacked { name: QKV, behind: &[BlockRole::Query] }),
        (BlockRole::Value, Place::Stacked { name: QKV, behind: &[BlockRole::Query, BlockRole::Key] }),
        (BlockRole::Gate, Place::Stacked { name: GATE_UP, behind: &[] }),
        (BlockRole::Up, Place::Stacked { name: GATE_UP, behind: &[BlockRole::Gate] }),
    ],
    others: LLAMA_NAMES.block,
    modules: false,
    ..LLAMA_NAMES
};

fn spec(fields: &Fields<'_>) -> Result<ModelSpec> {
    let head_dim = llama::head_dim(fields)?;
    let keys =
        RopeKeys { theta: &["rope_theta"], factor: &["partial_rotary_factor"], partial: true, ..RopeKeys::WHOLE };
    let attention = llama::attention_with(fields, head_dim, Rope::parse(fields, &keys, head_dim)?)?;
    let window = fields.size("sliding_window")?;
    let mut block = llama::block(fields, Attention { window, qkv_bias: false, out_bias: false, ..attention })?;
    block.mlp.bias = false;
    block.norm = Norm::Rms { eps: norm_eps(fields, "rms_norm_eps", 1e-5)?, offset: 0.0 };
    of_blocks(fields, block.norm, vec![block; num_blocks(fields)?])
}
