//! Fields of a configuration that change what a model computes and are not implemented: refused by name, never ignored.

use serde_json::Value;

use super::fields::{Fields, brief};
use crate::error::{Error, Result};

/// The values at which a field changes nothing.
pub(super) enum Neutral {
    /// Values that change nothing: `null`, `false`, 0, or empty.
    Off,
    /// Values that change nothing: `null` or 1.
    One,
    /// Values that change nothing: `null`, one of these strings, or a list of them.
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
pub(super) const SHARED_RULES: &[(&str, Neutral)] = &[
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
    ("lm_head_multiplier", Neutral::One),
    ("logit_scale", Neutral::One),
    ("logits_scaling", Neutral::One),
    ("n_routed_experts", Neutral::Off),
    ("no_rope_layer_interval", Neutral::Off),
    ("no_rope_layers", Neutral::Off),
    ("num_experts", Neutral::Off),
    ("num_local_experts", Neutral::Off),
    ("position_embedding_type", Neutral::Among(&["rope", "rotary"])),
    ("q_lora_rank", Neutral::Off),
    ("qk_layernorm", Neutral::Off),
    ("qk_norm", Neutral::Off),
    ("quantization", Neutral::Off),
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

/// Fails on the first field that asks for something of `rules`, but for those that the family `reads`.
pub(super) fn refuse_unimplemented(fields: &Fields<'_>, rules: &[(&str, Neutral)], reads: &[&str]) -> Result<()> {
    let refused = rules.iter().filter(|(key, _)| !reads.contains(key)).find_map(|(key, neutral)| {
        let value = fields.get(key)?;
        (!neutral.allows(value)).then_some((key, value))
    });
    match refused {
        Some((key, value)) => Err(refusal(fields, key, value)),
        None => Ok(()),
    }
}

fn refusal(fields: &Fields<'_>, key: &str, value: &Value) -> Error {
    if let "quantization" | "quantization_config" | "compression_config" = key {
        return fields.unsupported(format!(
            "`{key}` = {}: the weights are packed{}, which is not supported; take the model's checkpoint in BF16, F16 or F32",
            brief(value),
            packed_by(key, value)
        ));
    }
    fields.unsupported(format!("`{key}` = {} is not supported; the model would compute something else", brief(value)))
}

/// Names the program that packed the weights.
fn packed_by(key: &str, value: &Value) -> String {
    let method = value["quant_method"].as_str().unwrap_or(if key == "quantization" { "mlx" } else { "" });
    let name = match method {
        "" => return String::new(),
        "mlx" => "MLX",
        "bitsandbytes" => "bitsandbytes",
        "gptq" => "GPTQ",
        "awq" => "AWQ",
        "fp8" | "fbgemm_fp8" => "FP8",
        "compressed-tensors" => "compressed-tensors",
        "mxfp4" => "MXFP4",
        other => other,
    };
    format!(" by {name}")
}
