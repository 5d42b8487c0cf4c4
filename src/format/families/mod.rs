//! The families of models, one file each: how a configuration becomes a [`ModelSpec`], and what files call its tensors.
//!
//! To add one, write `NAME.rs` beside this file with a `Family` and add it to `FAMILIES`. Nothing else knows a family.

mod gemma2;
mod gemma3;
mod gpt_neox;
mod granite;
mod llama;
mod mistral;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_5;
mod smollm3;

use serde_json::Value;

use super::fields::{Fields, brief};
use super::layouts::names::{LLAMA_NAMES, Place, TensorNames};
use super::refusals::Neutral;
use super::rope::{Rope, RopeKeys};
use super::spec::{Activation, BlockSpec, ModelSpec, Norm};
use crate::error::Result;

/// How one kind of configuration is read.
pub(super) struct Family {
    /// The value of `model_type`.
    pub model_type: &'static str,
    /// Reads the structure.
    pub spec: fn(&Fields<'_>) -> Result<ModelSpec>,
    /// The names of the tensors in files.
    pub names: &'static TensorNames,
    /// Fields that change the mathematics of this family and are not implemented.
    pub rules: &'static [(&'static str, Neutral)],
    /// Fields that this family reads and others refuse.
    pub reads: &'static [&'static str],
}

/// Every family.
const FAMILIES: &[Family] = &[
    gemma2::FAMILY,
    gemma3::FAMILY,
    gpt_neox::FAMILY,
    granite::FAMILY,
    llama::FAMILY,
    mistral::FAMILY,
    phi3::FAMILY,
    qwen2::FAMILY,
    qwen3::FAMILY,
    qwen3_5::FAMILY,
    smollm3::FAMILY,
];

/// The family that `model_type` names.
pub(super) fn family(fields: &Fields<'_>) -> Result<&'static Family> {
    let known: Vec<&str> = FAMILIES.iter().map(|family| family.model_type).collect();
    let known = known.join(", ");
    match fields.text("model_type")? {
        Some(name) => FAMILIES
            .iter()
            .find(|family| family.model_type == name)
            .ok_or_else(|| fields.unsupported(format!("`model_type` \"{name}\" is not supported; there are: {known}"))),
        None => Err(fields.error(format!("`model_type` is missing; expected one of {known}"))),
    }
}

/// The rope of families whose heads rotate whole.
fn whole_rope(fields: &Fields<'_>, head_dim: usize) -> Result<Rope> {
    let keys = RopeKeys { theta: &["rope_theta"], factor: &["partial_rotary_factor"], ..RopeKeys::WHOLE };
    Rope::parse(fields, &keys, head_dim)
}

/// A model of these blocks, whose norm is the one before the LM head too.
fn of_blocks(fields: &Fields<'_>, norm: Norm, blocks: Vec<BlockSpec>) -> Result<ModelSpec> {
    Ok(ModelSpec {
        hidden_size: fields.required_size("hidden_size")?,
        vocab_size: fields.required_size("vocab_size")?,
        embedding_scale: 1.0,
        blocks,
        final_norm: norm,
        logit_softcap: None,
        logit_scale: 1.0,
        tied: fields.flag("tie_word_embeddings")?.unwrap_or(false),
    })
}

/// `hidden_size / num_attention_heads`.
fn even_head_dim(fields: &Fields<'_>, heads: usize) -> Result<usize> {
    divide(fields, ("hidden_size", fields.required_size("hidden_size")?), ("num_attention_heads", heads))
}

/// `1 / sqrt(head_dim)`, what scores are usually multiplied with.
fn usual_scale(head_dim: usize) -> f32 {
    1.0 / (head_dim as f32).sqrt()
}

/// `whole / part`, if that leaves no remainder.
pub(super) fn divide(fields: &Fields<'_>, whole: (&str, usize), part: (&str, usize)) -> Result<usize> {
    let ((whole_key, whole), (part_key, part)) = (whole, part);
    if whole % part == 0 {
        return Ok(whole / part);
    }
    Err(fields.error(format!("`{whole_key}` ({whole}) must be a multiple of `{part_key}` ({part})")))
}

/// The eps of a norm, which the kernels add in f32.
fn norm_eps(fields: &Fields<'_>, key: &str, default: f64) -> Result<f64> {
    let eps = fields.positive(key)?.unwrap_or(default);
    if eps < 1.0 && eps as f32 > 0.0 {
        return Ok(eps);
    }
    Err(fields.error(format!("`{key}`: expected a positive number below 1 that f32 can hold, got {eps}")))
}

const SILU_FORMS: &[(&str, Activation)] = &[("silu", Activation::Silu), ("swish", Activation::Silu)];

/// The forms of GELU in transformers' `ACT2FN`: those named after tanh differ in how they write the same constant.
const GELU_FORMS: &[(&str, Activation)] = &[
    ("gelu", Activation::Gelu),
    ("gelu_python", Activation::Gelu),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_python_tanh", Activation::GeluTanh),
    ("gelu_accurate", Activation::GeluTanh),
];

fn activation(fields: &Fields<'_>, key: &str, default: &str, known: &[(&str, Activation)]) -> Result<Activation> {
    let name = fields.text(key)?.unwrap_or(default);
    match known.iter().find(|(known, _)| *known == name) {
        Some((_, activation)) => Ok(*activation),
        None => {
            let names: Vec<&str> = known.iter().map(|(known, _)| *known).collect();
            let names = names.join(", ");
            Err(fields.unsupported(format!("`{key}` \"{name}\" is not supported in this family; {names} are")))
        }
    }
}

/// Whether each of `count` blocks sees a window, as `layer_types` says where it is there.
fn sliding_blocks(fields: &Fields<'_>, count: usize) -> Result<Option<Vec<bool>>> {
    blocks_of_type(fields, count, ["full_attention", "sliding_attention"])
}

/// Whether each of `count` blocks is of the second of these types rather than of the first, as `layer_types` says where it is
/// there.
fn blocks_of_type(fields: &Fields<'_>, count: usize, [first, second]: [&str; 2]) -> Result<Option<Vec<bool>>> {
    let Some(types) = fields.get("layer_types") else { return Ok(None) };
    let wrong = || {
        let expected = format!("expected {count} times \"{first}\" or \"{second}\"");
        fields.error(format!("`layer_types`: {expected}, got {}", brief(types)))
    };
    let list = types.as_array().filter(|list| list.len() == count).ok_or_else(wrong)?;
    let of = |value: &Value| match value.as_str() {
        Some(name) if name == first => Ok(false),
        Some(name) if name == second => Ok(true),
        _ => Err(wrong()),
    };
    list.iter().map(of).collect::<Result<_>>().map(Some)
}

/// How many blocks there are; lists with an entry per block stay small whatever a file says.
fn num_blocks(fields: &Fields<'_>) -> Result<usize> {
    /// More than any model has.
    const MAX_BLOCKS: usize = 1024;
    match fields.required_size("num_hidden_layers")? {
        blocks if blocks <= MAX_BLOCKS => Ok(blocks),
        blocks => Err(fields.error(format!("`num_hidden_layers`: expected at most {MAX_BLOCKS}, got {blocks}"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_part_without_a_name_is_refused_by_its_role() {
        let json = json!({
            "model_type": "qwen3", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
            "head_dim": 4, "vocab_size": 9,
        });
        let fields = Fields::new("config.json", json.as_object().unwrap());
        let spec = (family(&fields).unwrap().spec)(&fields).unwrap();
        LLAMA_NAMES.check(&spec).unwrap();
        let error = gpt_neox::FAMILY.names.check(&spec).unwrap_err().to_string();
        assert_eq!(error, "block 0 needs a tensor QueryNorm, for which files with gpt_neox.layers have no name");
    }
}
