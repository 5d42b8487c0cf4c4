//! Qwen3.5 (its text part): gated DeltaNet blocks, of which every fourth is gated attention with norms over query and key heads.

use super::{Family, LLAMA_NAMES, Place, TensorNames, blocks_of_type, divide, llama, norm_eps, num_blocks, of_blocks};
use crate::error::Result;
use crate::format::fields::Fields;
use crate::format::rope::{Rope, RopeKeys};
use crate::format::spec::{Attention, BlockRole, BlockSpec, DeltaNet, Mixer, ModelSpec, Norm, QkNorm};

/// The family.
pub(super) const FAMILY: Family = Family { model_type: "qwen3_5_text", spec, names: &NAMES, rules: &[], reads: &[] };

/// Llama's names, with queries and their gates in one tensor, and those of a DeltaNet.
const NAMES: TensorNames = TensorNames {
    block: &[
        (BlockRole::Query, Place::Gated { name: QUERY, part: 0 }),
        (BlockRole::OutputGate, Place::Gated { name: QUERY, part: 1 }),
        (BlockRole::DeltaInput, Place::Own("linear_attn.in_proj_qkv")),
        (BlockRole::DeltaBeta, Place::Own("linear_attn.in_proj_b")),
        (BlockRole::DeltaDecay, Place::Own("linear_attn.in_proj_a")),
        (BlockRole::DeltaGate, Place::Own("linear_attn.in_proj_z")),
        (BlockRole::DeltaConv, Place::Own("linear_attn.conv1d")),
        (BlockRole::DeltaRate, Place::Own("linear_attn.A_log")),
        (BlockRole::DeltaBias, Place::Own("linear_attn.dt_bias")),
        (BlockRole::DeltaNorm, Place::Own("linear_attn.norm")),
        (BlockRole::DeltaOutput, Place::Own("linear_attn.out_proj")),
    ],
    others: LLAMA_NAMES.block,
    ..LLAMA_NAMES
};

const QUERY: &str = "self_attn.q_proj";

/// The values of transformers where the configuration says nothing.
const DEFAULT_HEAD_DIM: usize = 256;
const DEFAULT_ROTARY: f64 = 0.25;
/// Blocks of which the last has attention.
const DEFAULT_INTERVAL: usize = 4;
/// Elements of the state of a layer: 32 times as many as the largest checkpoint has.
const MAX_STATE: usize = 1 << 24;

const DEFAULT_DELTA: DeltaNet = DeltaNet {
    key_heads: 16,
    value_heads: 32,
    key_dim: 128,
    value_dim: 128,
    taps: 4,
    eps: 1e-6,
    tiled: false,
    whole_rates: false,
};

fn spec(fields: &Fields<'_>) -> Result<ModelSpec> {
    if fields.flag("attn_output_gate")? == Some(false) {
        return Err(fields.unsupported("`attn_output_gate` = false is not supported: transformers gates all the same"));
    }
    let norm = Norm::Rms { eps: norm_eps(fields, "rms_norm_eps", 1e-6)?, offset: 1.0 };
    let (attention, delta) = (attention(fields, norm)?, delta_net(fields, norm)?);
    let block = |attends: bool| {
        let mixer = if attends { Mixer::Attention(attention.clone()) } else { Mixer::DeltaNet(delta) };
        Ok(BlockSpec { mixer, norm, ..llama::block(fields, attention.clone())? })
    };
    let blocks: Result<_> = attending(fields)?.into_iter().map(block).collect();
    of_blocks(fields, norm, blocks?)
}

fn attention(fields: &Fields<'_>, norm: Norm) -> Result<Attention> {
    let head_dim = fields.size("head_dim")?.unwrap_or(DEFAULT_HEAD_DIM);
    let keys = RopeKeys {
        theta: &["rope_theta"],
        factor: &["partial_rotary_factor"],
        default_factor: DEFAULT_ROTARY,
        partial: true,
        ..RopeKeys::WHOLE
    };
    let rope = Rope::parse(fields, &keys, head_dim)?;
    let qk_norm = Some(QkNorm { eps: norm.eps(), offset: norm.offset() });
    Ok(Attention { qk_norm, output_gate: true, ..llama::attention_with(fields, head_dim, rope)? })
}

fn delta_net(fields: &Fields<'_>, norm: Norm) -> Result<DeltaNet> {
    let size = |key: &str, default: usize| fields.size(key).map(|size| size.unwrap_or(default));
    let delta = DeltaNet {
        key_heads: size("linear_num_key_heads", DEFAULT_DELTA.key_heads)?,
        value_heads: size("linear_num_value_heads", DEFAULT_DELTA.value_heads)?,
        key_dim: size("linear_key_head_dim", DEFAULT_DELTA.key_dim)?,
        value_dim: size("linear_value_head_dim", DEFAULT_DELTA.value_dim)?,
        taps: size("linear_conv_kernel_dim", DEFAULT_DELTA.taps)?,
        eps: norm.eps(),
        ..DEFAULT_DELTA
    };
    let (keys, values) = (("linear_num_key_heads", delta.key_heads), ("linear_num_value_heads", delta.value_heads));
    divide(fields, values, keys)?;
    let limits = [
        ("linear_key_head_dim", delta.key_dim, 4, DeltaNet::MAX_KEY_DIM),
        ("linear_value_head_dim", delta.value_dim, delta.key_dim, 1 << 12),
        ("linear_num_value_heads", delta.value_heads, 1, 1 << 12),
        ("linear_conv_kernel_dim", delta.taps, 1, DeltaNet::MAX_TAPS),
    ];
    for (key, got, unit, most) in limits {
        if got > most || !got.is_multiple_of(unit) {
            let expected = format!("a multiple of {unit} up to {most} is supported");
            return Err(fields.unsupported(format!("`{key}` = {got}: {expected}")));
        }
    }
    let elements = delta.v_size() * delta.key_dim;
    if elements > MAX_STATE {
        return Err(fields.unsupported(format!(
            "the state of a linear attention layer has {elements} elements; up to {MAX_STATE} are supported"
        )));
    }
    Ok(delta)
}

/// Whether each block has attention: by `layer_types`, else every so many-th.
fn attending(fields: &Fields<'_>) -> Result<Vec<bool>> {
    let count = num_blocks(fields)?;
    let interval = fields.size("full_attention_interval")?.unwrap_or(DEFAULT_INTERVAL);
    let by_interval = || (1..=count).map(|block| block.is_multiple_of(interval)).collect();
    let by_type = blocks_of_type(fields, count, ["linear_attention", "full_attention"])?;
    let attending: Vec<bool> = by_type.unwrap_or_else(by_interval);
    if !attending.contains(&true) {
        return Err(fields.unsupported("no block has attention: expected one block with \"full_attention\" at least"));
    }
    Ok(attending)
}
