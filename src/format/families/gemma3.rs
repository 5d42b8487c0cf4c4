//! Gemma 3, the text model: a scaled embedding, norms before and after attention and MLP whose scales are stored less one, and
//! in most blocks a window with a rope of its own.

use super::{
    Family, GELU_FORMS, LLAMA_NAMES, Place, TensorNames, activation, llama, norm_eps, num_blocks, of_blocks,
    sliding_blocks,
};
use crate::error::Result;
use crate::format::fields::Fields;
use crate::format::refusals::Neutral;
use crate::format::rope::{Rope, RopeKeys};
use crate::format::spec::{Attention, BlockRole, BlockSpec, Mixer, Mlp, ModelSpec, Norm, QkNorm};

/// The family.
pub(super) const FAMILY: Family = Family {
    model_type: "gemma3_text",
    spec,
    names: &NAMES,
    rules: &[("rope_scaling", Neutral::Off), ("use_bidirectional_attention", Neutral::Off)],
    reads: &["query_pre_attn_scalar", "sliding_window_pattern"],
};

/// The names of its tensors; Gemma 2's too.
pub(super) const NAMES: TensorNames = TensorNames {
    block: &[
        (BlockRole::MixerPostNorm, Place::Own("post_attention_layernorm")),
        (BlockRole::MlpNorm, Place::Own("pre_feedforward_layernorm")),
        (BlockRole::MlpPostNorm, Place::Own("post_feedforward_layernorm")),
    ],
    others: LLAMA_NAMES.block,
    modules: false,
    ..LLAMA_NAMES
};

/// The values of transformers where the configuration says nothing.
const DEFAULT_HEAD_DIM: usize = 256;
const DEFAULT_QUERY_SCALAR: f64 = 256.0;
const DEFAULT_WINDOW: usize = 4096;
/// Blocks of which the last sees all positions.
const DEFAULT_PATTERN: usize = 6;

fn spec(fields: &Fields<'_>) -> Result<ModelSpec> {
    let (local, global) = (attention(fields, true)?, attention(fields, false)?);
    model(fields, &sliding(fields)?, &local, &global)
}

/// A model whose blocks see a window, by `local` attention, or all positions.
pub(super) fn model(fields: &Fields<'_>, sliding: &[bool], local: &Attention, global: &Attention) -> Result<ModelSpec> {
    let norm = norm(fields)?;
    let mlp = Mlp {
        inner: fields.required_size("intermediate_size")?,
        activation: activation(fields, "hidden_activation", "gelu_pytorch_tanh", GELU_FORMS)?,
        gated: true,
        bias: false,
    };
    let block = |&sliding: &bool| BlockSpec {
        mixer: Mixer::Attention(if sliding { local.clone() } else { global.clone() }),
        mlp: mlp.clone(),
        norm,
        post_norm: true,
        residual_scale: 1.0,
        parallel: false,
    };
    let model = of_blocks(fields, norm, sliding.iter().map(block).collect())?;
    let embedding_scale = (model.hidden_size as f64).sqrt() as f32;
    let tied = fields.flag("tie_word_embeddings")?.unwrap_or(true);
    Ok(ModelSpec { embedding_scale, tied, ..model })
}

fn norm(fields: &Fields<'_>) -> Result<Norm> {
    Ok(Norm::Rms { eps: norm_eps(fields, "rms_norm_eps", 1e-6)?, offset: 1.0 })
}

/// Whether each block sees a window.
fn sliding(fields: &Fields<'_>) -> Result<Vec<bool>> {
    let count = num_blocks(fields)?;
    let pattern = fields.size("sliding_window_pattern")?.unwrap_or(DEFAULT_PATTERN);
    let by_pattern = || (1..=count).map(|block| block % pattern != 0).collect();
    Ok(sliding_blocks(fields, count)?.unwrap_or_else(by_pattern))
}

/// The size of a head.
pub(super) fn head_dim(fields: &Fields<'_>) -> Result<usize> {
    Ok(fields.size("head_dim")?.unwrap_or(DEFAULT_HEAD_DIM))
}

/// The factor of the scores.
pub(super) fn scale(fields: &Fields<'_>) -> Result<f32> {
    let scalar = fields.positive("query_pre_attn_scalar")?.unwrap_or(DEFAULT_QUERY_SCALAR);
    Ok((1.0 / scalar.sqrt()) as f32)
}

/// The window of blocks that have one.
pub(super) fn window(fields: &Fields<'_>) -> Result<usize> {
    Ok(fields.size("sliding_window")?.unwrap_or(DEFAULT_WINDOW))
}

fn attention(fields: &Fields<'_>, sliding: bool) -> Result<Attention> {
    let head_dim = head_dim(fields)?;
    let (theta, default_theta, layer_type): (&[&str], _, _) = match sliding {
        true => (&["rope_local_base_freq"], 1e4, "sliding_attention"),
        false => (&["rope_theta"], 1e6, "full_attention"),
    };
    let keys = RopeKeys { theta, default_theta, layer_type: Some(layer_type), ..RopeKeys::WHOLE };
    let (window, norm) = (window(fields)?, norm(fields)?);
    Ok(Attention {
        scale: scale(fields)?,
        window: sliding.then_some(window),
        qk_norm: Some(QkNorm { eps: norm.eps(), offset: norm.offset() }),
        ..llama::attention_with(fields, head_dim, Rope::parse(fields, &keys, head_dim)?)?
    })
}
