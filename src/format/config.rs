//! `config.json`: what a model computes, under Hugging Face's names.
//!
//! Whatever a configuration says that changes the mathematics is either represented here or refused by name; it is never
//! ignored.

use serde_json::Value;

use super::fields::{Fields, MAX_SIZE, brief, parse_object};
use super::rope::RopeKeys;
use crate::error::{Error, Result};

pub use super::rope::{Llama3Scaling, Rope};

/// More layers than any model has; lists with an entry per layer stay small whatever a file says.
const MAX_LAYERS: usize = 1024;

/// Larger than any model's heads; tables with an entry per element of a head stay small whatever a file says.
const MAX_HEAD_DIM: usize = 1 << 16;

/// The layer structures that are implemented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// RMSNorm, separate q, k, v, grouped keys and values, gated MLP: `llama` and `mistral`.
    Llama,
    /// LayerNorm with bias, fused qkv, partial rotary, plain MLP: `gpt_neox`.
    GptNeox,
}

/// The normalization before attention, MLP and LM head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Norm {
    /// `x / sqrt(mean(x²) + eps) * weight`.
    Rms {
        /// Added to the mean square.
        eps: f64,
    },
    /// `(x - mean) / sqrt(variance + eps) * weight + bias`.
    Layer {
        /// Added to the variance.
        eps: f64,
    },
}

/// The nonlinearity of the MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// `x / 2 * (1 + erf(x / sqrt(2)))`.
    Gelu,
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x³)))`.
    GeluTanh,
}

/// A checked configuration: sizes are positive, below 2³¹, and fit each other.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The layer structure.
    pub family: Family,
    /// The name that the file gives it, such as `mistral`.
    pub model_type: String,
    /// Rows of the embedding: token ids are below it.
    pub vocab_size: usize,
    /// Elements of a hidden state.
    pub hidden_size: usize,
    /// Elements between the MLP's projections.
    pub intermediate_size: usize,
    /// Layers of the backbone.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads: a divisor of the query heads.
    pub num_key_value_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// The longest context the model was made for, in tokens.
    pub max_position_embeddings: usize,
    /// Tokens a position sees, itself included, where that is fewer than `max_position_embeddings`. Not implemented: a
    /// context no longer than the window is computed right, a longer one must be refused.
    pub sliding_window: Option<usize>,
    /// The normalization.
    pub norm: Norm,
    /// The rotary embedding.
    pub rope: Rope,
    /// The MLP's nonlinearity.
    pub activation: Activation,
    /// Whether the MLP is `down(activation(gate(x)) * up(x))` instead of `down(activation(up(x)))`.
    pub gated_mlp: bool,
    /// Whether attention and MLP both read the layer's input, instead of one the other's output.
    pub parallel_residual: bool,
    /// Whether q, k, v and the output projection have biases.
    pub attention_bias: bool,
    /// Whether the MLP's projections have biases.
    pub mlp_bias: bool,
    /// Whether the embedding is the LM head too.
    pub tie_word_embeddings: bool,
    /// The token that starts a text.
    pub bos_token_id: Option<u32>,
    /// The tokens that end a text, from `generation_config.json`, else `config.json`; may be none.
    pub eos_token_ids: Vec<u32>,
    /// The element type the checkpoint was made with, as stated.
    pub torch_dtype: Option<String>,
    /// Extra layers for further tokens that the file announces (DeepSeek-V3's layout).
    pub num_nextn_predict_layers: usize,
}

impl ModelConfig {
    /// Parses `config.json` and, where the checkpoint has one, `generation_config.json` (for the end tokens).
    ///
    /// Fails with the field, what was expected and what was found; with [`ErrorKind::Unsupported`] and the feature's name
    /// where the file is sound but asks for something that is not implemented.
    ///
    /// [`ErrorKind::Unsupported`]: crate::ErrorKind::Unsupported
    pub fn parse(config_json: &[u8], generation_config_json: Option<&[u8]>) -> Result<Self> {
        let map = parse_object("config.json", config_json)?;
        let fields = Fields::new("config.json", &map);
        let family = family(&fields)?;
        refuse_unimplemented(&fields, SHARED_RULES)?;
        refuse_unimplemented(&fields, family_rules(family))?;
        let structure = match family {
            Family::Llama => llama(&fields)?,
            Family::GptNeox => gpt_neox(&fields)?,
        };
        let mut config = assemble(&fields, family, structure)?;
        config.check_sizes(&fields)?;
        check_ids(&fields, "bos_token_id", config.bos_token_id.as_slice(), config.vocab_size)?;
        match generation_config_json.map(|json| config.end_tokens(json)).transpose()?.flatten() {
            Some(ids) => config.eos_token_ids = ids,
            None => check_ids(&fields, "eos_token_id", &config.eos_token_ids, config.vocab_size)?,
        }
        Ok(config)
    }

    /// Elements of all query heads of a row.
    pub fn q_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Elements of all key heads (and of all value heads) of a row.
    pub fn kv_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// The end tokens that a `generation_config.json` states, if it does.
    fn end_tokens(&self, json: &[u8]) -> Result<Option<Vec<u32>>> {
        let place = "generation_config.json";
        let map = parse_object(place, json)?;
        let fields = Fields::new(place, &map);
        let ids = fields.token_ids("eos_token_id")?;
        check_ids(&fields, "eos_token_id", ids.as_deref().unwrap_or_default(), self.vocab_size)?;
        Ok(ids)
    }

    fn check_sizes(&self, fields: &Fields<'_>) -> Result<()> {
        let q_size = self.num_attention_heads.saturating_mul(self.head_dim);
        let limits = [
            ("`num_hidden_layers`", self.num_hidden_layers, MAX_LAYERS),
            ("`head_dim`", self.head_dim, MAX_HEAD_DIM),
            // A fused qkv has three times as many rows.
            ("`num_attention_heads` times the head's size", q_size, MAX_SIZE / 3),
        ];
        if let Some((what, got, limit)) = limits.into_iter().find(|(_, got, limit)| got > limit) {
            return Err(fields.error(format!("{what}: expected at most {limit}, got {got}")));
        }
        let (heads, kv_heads) = (self.num_attention_heads, self.num_key_value_heads);
        divide(fields, ("num_attention_heads", heads), ("num_key_value_heads", kv_heads)).map(|_| ())
    }
}

fn check_ids(fields: &Fields<'_>, key: &str, ids: &[u32], vocab_size: usize) -> Result<()> {
    match ids.iter().find(|&&id| id as usize >= vocab_size) {
        Some(id) => Err(fields.error(format!("`{key}`: {id} lies outside the vocabulary of {vocab_size} tokens"))),
        None => Ok(()),
    }
}

fn family(fields: &Fields<'_>) -> Result<Family> {
    match fields.text("model_type")? {
        Some("llama" | "mistral") => Ok(Family::Llama),
        Some("gpt_neox") => Ok(Family::GptNeox),
        Some(other) => {
            let supported = "llama, mistral and gpt_neox are";
            Err(fields.unsupported(format!("`model_type` \"{other}\" is not supported; {supported}")))
        }
        None => Err(fields.error("`model_type` is missing; expected llama, mistral or gpt_neox")),
    }
}

/// What the families read differently.
struct Structure {
    num_key_value_heads: usize,
    head_dim: usize,
    norm: Norm,
    rope: Rope,
    activation: Activation,
    gated_mlp: bool,
    parallel_residual: bool,
    attention_bias: bool,
    mlp_bias: bool,
}

fn llama(fields: &Fields<'_>) -> Result<Structure> {
    let heads = fields.required_size("num_attention_heads")?;
    let head_dim = match fields.size("head_dim")? {
        Some(head_dim) => head_dim,
        None => head_dim_of(fields, heads)?,
    };
    let keys =
        RopeKeys { theta: &["rope_theta"], factor: &["partial_rotary_factor"], default_factor: 1.0, partial: false };
    Ok(Structure {
        num_key_value_heads: fields.size("num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        norm: Norm::Rms { eps: norm_eps(fields, "rms_norm_eps", 1e-6)? },
        rope: Rope::parse(fields, &keys, head_dim)?,
        activation: activation(fields, "silu", SILU_FORMS)?,
        gated_mlp: true,
        parallel_residual: false,
        attention_bias: fields.flag("attention_bias")?.unwrap_or(false),
        mlp_bias: fields.flag("mlp_bias")?.unwrap_or(false),
    })
}

fn gpt_neox(fields: &Fields<'_>) -> Result<Structure> {
    let heads = fields.required_size("num_attention_heads")?;
    let head_dim = head_dim_of(fields, heads)?;
    // The fused qkv leaves no room for either to differ.
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
    };
    Ok(Structure {
        num_key_value_heads: heads,
        head_dim,
        norm: Norm::Layer { eps: norm_eps(fields, "layer_norm_eps", 1e-5)? },
        rope: Rope::parse(fields, &keys, head_dim)?,
        activation: activation(fields, "gelu", GELU_FORMS)?,
        gated_mlp: false,
        parallel_residual: fields.flag("use_parallel_residual")?.unwrap_or(true),
        attention_bias: fields.flag("attention_bias")?.unwrap_or(true),
        mlp_bias: true,
    })
}

fn assemble(fields: &Fields<'_>, family: Family, structure: Structure) -> Result<ModelConfig> {
    let Structure { num_key_value_heads, head_dim, norm, rope, activation, .. } = structure;
    let Structure { gated_mlp, parallel_residual, attention_bias, mlp_bias, .. } = structure;
    let max_position_embeddings = fields.required_size("max_position_embeddings")?;
    Ok(ModelConfig {
        family,
        model_type: fields.text("model_type")?.unwrap_or_default().to_owned(),
        vocab_size: fields.required_size("vocab_size")?,
        hidden_size: fields.required_size("hidden_size")?,
        intermediate_size: fields.required_size("intermediate_size")?,
        num_hidden_layers: fields.required_size("num_hidden_layers")?,
        num_attention_heads: fields.required_size("num_attention_heads")?,
        num_key_value_heads,
        head_dim,
        max_position_embeddings,
        sliding_window: sliding_window(fields, max_position_embeddings)?,
        norm,
        rope,
        activation,
        gated_mlp,
        parallel_residual,
        attention_bias,
        mlp_bias,
        tie_word_embeddings: fields.flag("tie_word_embeddings")?.unwrap_or(false),
        bos_token_id: fields.token_ids("bos_token_id")?.unwrap_or_default().first().copied(),
        eos_token_ids: fields.token_ids("eos_token_id")?.unwrap_or_default(),
        torch_dtype: fields.text("dtype")?.or(fields.text("torch_dtype")?).map(str::to_owned),
        num_nextn_predict_layers: fields.count("num_nextn_predict_layers")?,
    })
}

/// The eps of a norm, which the kernels add in f32.
fn norm_eps(fields: &Fields<'_>, key: &str, default: f64) -> Result<f64> {
    let eps = fields.positive(key)?.unwrap_or(default);
    if eps < 1.0 && eps as f32 > 0.0 {
        return Ok(eps);
    }
    Err(fields.error(format!("`{key}`: expected a positive number below 1 that f32 can hold, got {eps}")))
}

fn head_dim_of(fields: &Fields<'_>, heads: usize) -> Result<usize> {
    divide(fields, ("hidden_size", fields.required_size("hidden_size")?), ("num_attention_heads", heads))
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

/// `whole / part`, if that leaves no remainder.
fn divide(fields: &Fields<'_>, whole: (&str, usize), part: (&str, usize)) -> Result<usize> {
    let ((whole_key, whole), (part_key, part)) = (whole, part);
    if whole % part == 0 {
        return Ok(whole / part);
    }
    Err(fields.error(format!("`{whole_key}` ({whole}) must be a multiple of `{part_key}` ({part})")))
}

fn activation(fields: &Fields<'_>, default: &str, known: &[(&str, Activation)]) -> Result<Activation> {
    let name = fields.text("hidden_act")?.unwrap_or(default);
    match known.iter().find(|(known, _)| *known == name) {
        Some((_, activation)) => Ok(*activation),
        None => {
            let names: Vec<&str> = known.iter().map(|(known, _)| *known).collect();
            let names = names.join(", ");
            Err(fields.unsupported(format!("`hidden_act` \"{name}\" is not supported in this family; {names} are")))
        }
    }
}

/// The window, where it hides something from a position inside the longest context.
fn sliding_window(fields: &Fields<'_>, max_positions: usize) -> Result<Option<usize>> {
    // Transformers' default for an absent key, as opposed to null.
    let mistral = fields.text("model_type")? == Some("mistral");
    let default = (mistral && !fields.has_key("sliding_window")).then_some(4096);
    Ok(fields.size("sliding_window")?.or(default).filter(|&window| window < max_positions))
}

/// When a field changes nothing.
enum Neutral {
    /// At `null`, `false`, 0, or empty.
    Off,
    /// At `null` or 1.
    One,
    /// At `null` or one of these strings, or a list of them.
    Among(&'static [&'static str]),
}

impl Neutral {
    fn allows(&self, value: &Value) -> bool {
        match (self, value) {
            (_, Value::Null) => true,
            (Neutral::Off, Value::Bool(on)) => !on,
            (Neutral::Off, Value::Number(number)) => number.as_f64() == Some(0.0),
            (Neutral::Off, Value::String(text)) => text.is_empty(),
            (Neutral::Off, Value::Array(list)) => list.is_empty(),
            (Neutral::Off, Value::Object(map)) => map.is_empty(),
            (Neutral::One, value) => value.as_f64() == Some(1.0),
            (Neutral::Among(_), Value::Array(list)) => list.iter().all(|value| self.allows(value)),
            (Neutral::Among(names), value) => value.as_str().is_some_and(|text| names.contains(&text)),
        }
    }
}

/// Fields that change the mathematics of some checkpoint of these layouts and are not implemented.
const SHARED_RULES: &[(&str, Neutral)] = &[
    ("add_cross_attention", Neutral::Off),
    ("alibi", Neutral::Off),
    ("attention_chunk_size", Neutral::Off),
    ("attention_multiplier", Neutral::Off),
    ("attention_sinks", Neutral::Off),
    ("attn_logit_softcapping", Neutral::Off),
    ("attn_temperature_tuning", Neutral::Off),
    ("clip_qkv", Neutral::Off),
    ("compression_config", Neutral::Off),
    ("cross_attention_layers", Neutral::Off),
    ("embedding_multiplier", Neutral::One),
    ("embedding_scale", Neutral::One),
    ("final_logit_softcapping", Neutral::Off),
    ("is_encoder_decoder", Neutral::Off),
    ("kv_lora_rank", Neutral::Off),
    ("layer_types", Neutral::Among(&["full_attention"])),
    ("lm_head_multiplier", Neutral::One),
    ("logit_scale", Neutral::One),
    ("logits_scaling", Neutral::One),
    ("n_routed_experts", Neutral::Off),
    ("no_rope_layer_interval", Neutral::Off),
    ("no_rope_layers", Neutral::Off),
    ("num_experts", Neutral::Off),
    ("num_local_experts", Neutral::Off),
    ("position_embedding_type", Neutral::Among(&["rope", "rotary"])),
    ("pretraining_tp", Neutral::One),
    ("q_lora_rank", Neutral::Off),
    ("qk_layernorm", Neutral::Off),
    ("qk_norm", Neutral::Off),
    ("quantization_config", Neutral::Off),
    ("query_pre_attn_scalar", Neutral::Off),
    ("residual_multiplier", Neutral::One),
    ("rope_interleaved", Neutral::Off),
    ("scale_depth", Neutral::Off),
    ("scale_emb", Neutral::One),
    ("sliding_window_pattern", Neutral::Off),
    ("use_alibi", Neutral::Off),
    ("use_qk_norm", Neutral::Off),
];

fn family_rules(family: Family) -> &'static [(&'static str, Neutral)] {
    match family {
        Family::Llama => &[("use_parallel_residual", Neutral::Off), ("parallel_attn", Neutral::Off)],
        Family::GptNeox => &[("gated_mlp", Neutral::Off)],
    }
}

fn refuse_unimplemented(fields: &Fields<'_>, rules: &[(&str, Neutral)]) -> Result<()> {
    let refused = rules.iter().find_map(|(key, neutral)| {
        let value = fields.get(key)?;
        (!neutral.allows(value)).then_some((key, value))
    });
    match refused {
        Some((key, value)) => Err(refusal(fields, key, value)),
        None => Ok(()),
    }
}

fn refusal(fields: &Fields<'_>, key: &str, value: &Value) -> Error {
    fields.unsupported(format!("`{key}` = {} is not supported; the model would compute something else", brief(value)))
}
