//! Llama: RMSNorm, grouped keys and values, a gated MLP.

use super::{
    Family, LLAMA_NAMES, SILU_FORMS, activation, even_head_dim, norm_eps, num_blocks, of_blocks, usual_scale,
    whole_rope,
};
use crate::error::Result;
use crate::format::fields::Fields;
use crate::format::refusals::Neutral;
use crate::format::rope::Rope;
use crate::format::spec::{Attention, BlockSpec, Mixer, Mlp, ModelSpec, Norm};

/// The family.
pub(super) const FAMILY: Family = Family {
    model_type: "llama",
    spec,
    names: &LLAMA_NAMES,
    rules: &[
        ("layer_types", Neutral::Among(&["full_attention"])),
        ("use_parallel_residual", Neutral::Off),
        ("parallel_attn", Neutral::Off),
    ],
    reads: &[],
};

fn spec(fields: &Fields<'_>) -> Result<ModelSpec> {
    let block = block(fields, attention(fields, head_dim(fields)?)?)?;
    of_blocks(fields, block.norm, vec![block; num_blocks(fields)?])
}

/// The size of a head: stated, or an even share of the hidden state.
pub(super) fn head_dim(fields: &Fields<'_>) -> Result<usize> {
    match fields.size("head_dim")? {
        Some(head_dim) => Ok(head_dim),
        None => even_head_dim(fields, fields.required_size("num_attention_heads")?),
    }
}

/// Attention as most families that grew out of this one have it.
pub(super) fn attention(fields: &Fields<'_>, head_dim: usize) -> Result<Attention> {
    attention_with(fields, head_dim, whole_rope(fields, head_dim)?)
}

/// Such attention with a rope of its own.
pub(super) fn attention_with(fields: &Fields<'_>, head_dim: usize, rope: Rope) -> Result<Attention> {
    let heads = fields.required_size("num_attention_heads")?;
    let bias = fields.flag("attention_bias")?.unwrap_or(false);
    Ok(Attention {
        heads,
        kv_heads: fields.size("num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        scale: usual_scale(head_dim),
        rope,
        softcap: None,
        window: None,
        qk_norm: None,
        qkv_bias: bias,
        out_bias: bias,
        output_gate: false,
    })
}

/// A block with this attention.
pub(super) fn block(fields: &Fields<'_>, attention: Attention) -> Result<BlockSpec> {
    Ok(BlockSpec {
        mixer: Mixer::Attention(attention),
        mlp: Mlp {
            inner: fields.required_size("intermediate_size")?,
            activation: activation(fields, "hidden_act", "silu", SILU_FORMS)?,
            gated: true,
            bias: fields.flag("mlp_bias")?.unwrap_or(false),
        },
        norm: norm(fields)?,
        post_norm: false,
        residual_scale: 1.0,
        parallel: false,
    })
}

/// The norm of every block, and before the LM head.
pub(super) fn norm(fields: &Fields<'_>) -> Result<Norm> {
    Ok(Norm::Rms { eps: norm_eps(fields, "rms_norm_eps", 1e-6)?, offset: 0.0 })
}
