//! GPT-NeoX: LayerNorm, fused queries, keys and values, heads of which a part rotates, a plain MLP, a parallel residual.

use super::{
    Family, GELU_FORMS, Place, TensorNames, activation, even_head_dim, norm_eps, num_blocks, of_blocks, usual_scale,
};
use crate::error::Result;
use crate::format::fields::Fields;
use crate::format::refusals::Neutral;
use crate::format::rope::{Rope, RopeKeys};
use crate::format::spec::{Attention, BlockRole, BlockSpec, Mixer, Mlp, ModelSpec, Norm};

/// The family.
pub(super) const FAMILY: Family = Family {
    model_type: "gpt_neox",
    spec,
    names: &NAMES,
    rules: &[("layer_types", Neutral::Among(&["full_attention"])), ("gated_mlp", Neutral::Off)],
    reads: &[],
};

const FUSED: &str = "attention.query_key_value";

const NAMES: TensorNames = TensorNames {
    embedding: "gpt_neox.embed_in",
    blocks: "gpt_neox.layers",
    final_norm: "gpt_neox.final_layer_norm",
    lm_head: "embed_out",
    block: &[
        (BlockRole::MixerNorm, Place::Own("input_layernorm")),
        (BlockRole::MlpNorm, Place::Own("post_attention_layernorm")),
        (BlockRole::Query, Place::Fused { name: FUSED, part: 0 }),
        (BlockRole::Key, Place::Fused { name: FUSED, part: 1 }),
        (BlockRole::Value, Place::Fused { name: FUSED, part: 2 }),
        (BlockRole::Output, Place::Own("attention.dense")),
        (BlockRole::Up, Place::Own("mlp.dense_h_to_4h")),
        (BlockRole::Down, Place::Own("mlp.dense_4h_to_h")),
    ],
    others: &[],
    modules: false,
};

fn spec(fields: &Fields<'_>) -> Result<ModelSpec> {
    let norm = Norm::Layer { eps: norm_eps(fields, "layer_norm_eps", 1e-5)? };
    let block = BlockSpec {
        mixer: Mixer::Attention(attention(fields)?),
        mlp: Mlp {
            inner: fields.required_size("intermediate_size")?,
            activation: activation(fields, "hidden_act", "gelu", GELU_FORMS)?,
            gated: false,
            bias: true,
        },
        norm,
        post_norm: false,
        residual_scale: 1.0,
        parallel: fields.flag("use_parallel_residual")?.unwrap_or(true),
    };
    of_blocks(fields, norm, vec![block; num_blocks(fields)?])
}

fn attention(fields: &Fields<'_>) -> Result<Attention> {
    let heads = fields.required_size("num_attention_heads")?;
    let head_dim = even_head_dim(fields, heads)?;
    // The fused product leaves no room for either to differ.
    for (key, implied) in [("head_dim", head_dim), ("num_key_value_heads", heads)] {
        if let Some(stated) = fields.size(key)?.filter(|&stated| stated != implied) {
            return Err(fields.unsupported(format!("`{key}`: gpt_neox implies {implied}, got {stated}")));
        }
    }
    let keys = RopeKeys {
        theta: &["rotary_emb_base", "rope_theta"],
        factor: &["rotary_pct", "partial_rotary_factor"],
        default_factor: 0.25,
        partial: true,
        ..RopeKeys::WHOLE
    };
    let bias = fields.flag("attention_bias")?.unwrap_or(true);
    Ok(Attention {
        heads,
        kv_heads: heads,
        head_dim,
        scale: usual_scale(head_dim),
        rope: Rope::parse(fields, &keys, head_dim)?,
        softcap: None,
        window: None,
        qk_norm: None,
        qkv_bias: bias,
        out_bias: bias,
        output_gate: false,
    })
}
