//! Metadata as the configuration that a family reads.
//!
//! Whatever a file says that changes the mathematics becomes a field of the configuration or is refused by name, as there.

use serde_json::{Map, Value, json};

use super::names::{self, first_head};
use crate::error::{Error, Result};
use crate::format::config::ModelConfig;
use crate::format::fields::brief;
use crate::format::gguf::Gguf;
use crate::format::safetensors::Header;
use crate::format::spec::BlockRole;

/// An architecture that has a family.
#[derive(Debug)]
pub(super) struct Architecture {
    /// The value of `general.architecture`.
    name: &'static str,
    /// The family's.
    model_type: &'static str,
    /// Whether the rows of query and key heads lie pair by pair, as llama.cpp rotates them there.
    pub(super) interleaved: bool,
    /// Parts of a block that only this one has, or calls otherwise.
    pub(super) parts: &'static [(&'static str, BlockRole)],
    /// What Gemma's files leave out, if it is one.
    gemma: Option<Gemma>,
    /// Whether blocks may be DeltaNets. Then the scales of norms are stored whole too.
    delta_nets: bool,
}

/// What files of a Gemma do not say. Its scales of norms are stored whole, where the family's files have them less one.
#[derive(Debug)]
struct Gemma {
    /// Blocks of the one model that scales its scores by other than the size of a head. llama.cpp knows it so too.
    blocks_of_27b: u64,
}

/// An architecture in which nothing is special.
const PLAIN: Architecture =
    Architecture { name: "", model_type: "", interleaved: false, parts: &[], gemma: None, delta_nets: false };

/// Every architecture.
const ARCHITECTURES: &[Architecture] = &[
    Architecture { name: "llama", model_type: "llama", interleaved: true, ..PLAIN },
    Architecture { name: "qwen2", model_type: "qwen2", ..PLAIN },
    Architecture { name: "qwen3", model_type: "qwen3", ..PLAIN },
    Architecture { name: "qwen35", model_type: "qwen3_5_text", parts: names::QWEN3_5, delta_nets: true, ..PLAIN },
    Architecture { name: "gemma2", model_type: "gemma2", gemma: Some(Gemma { blocks_of_27b: 46 }), ..PLAIN },
    Architecture { name: "gemma3", model_type: "gemma3_text", gemma: Some(Gemma { blocks_of_27b: 62 }), ..PLAIN },
    Architecture { name: "granite", model_type: "granite", interleaved: true, ..PLAIN },
    Architecture { name: "smollm3", model_type: "smollm3", interleaved: true, ..PLAIN },
];

impl Architecture {
    /// What files of a family are called.
    pub(super) fn of(model_type: &str) -> Result<&'static Self> {
        // Files of Mistral are Llama's with a window.
        let own = if model_type == "mistral" { "llama" } else { model_type };
        // What files say of the others is read, but not written yet.
        let written = || ARCHITECTURES.iter().filter(|known| !known.delta_nets && known.model_type != "granite");
        written().find(|known| known.model_type == own).ok_or_else(|| {
            let known: Vec<&str> = written().map(|known| known.model_type).collect();
            let known = known.join(", ");
            Error::unsupported(format!(
                "a {model_type} model cannot be written as a GGUF file; these can: {known}, mistral"
            ))
        })
    }

    /// The name in files.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Whether scales of norms are stored whole, where the family's files have them less one.
    pub(super) fn takes_scales_whole(&self) -> bool {
        self.gemma.is_some()
    }
}

/// Keys that must be there, after the architecture's name, and the fields that they are.
const REQUIRED: [(&str, &str); 5] = [
    ("embedding_length", "hidden_size"),
    ("feed_forward_length", "intermediate_size"),
    ("attention.head_count", "num_attention_heads"),
    ("context_length", "max_position_embeddings"),
    ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
];

/// Keys that may be there.
const OPTIONAL: [(&str, &str); 4] = [
    ("attention.head_count_kv", "num_key_value_heads"),
    ("rope.freq_base", "rope_theta"),
    ("attn_logit_softcapping", "attn_logit_softcapping"),
    ("final_logit_softcapping", "final_logit_softcapping"),
];

/// Keys that may be there where blocks may be DeltaNets.
const OF_DELTA_NETS: [(&str, &str); 5] = [
    (INTERVAL, "full_attention_interval"),
    ("ssm.conv_kernel", "linear_conv_kernel_dim"),
    ("ssm.state_size", "linear_key_head_dim"),
    ("ssm.group_count", "linear_num_key_heads"),
    (DELTA_HEADS, "linear_num_value_heads"),
];

const INTERVAL: &str = "full_attention_interval";
const DELTA_HEADS: &str = "ssm.time_step_rank";
const DELTA_WIDTH: &str = "ssm.inner_size";

/// Keys of Granite's factors. 0 is as if they were not there.
const FACTORS: [(&str, &str); 4] = [
    ("attention.scale", "attention_multiplier"),
    ("embedding_scale", "embedding_multiplier"),
    ("residual_scale", "residual_multiplier"),
    ("logit_scale", "logits_scaling"),
];

const BLOCKS: &str = "block_count";
const HEADS: &str = "nextn_predict_layers";
const KEY_LENGTH: &str = "attention.key_length";
const VALUE_LENGTH: &str = "attention.value_length";
const ROTATED: &str = "rope.dimension_count";
const WINDOW: &str = "attention.sliding_window";
const SCALING: &str = "rope.scaling.type";
const SCALING_FACTOR: &str = "rope.scaling.factor";

/// Keys that are read here, and those that change nothing beside them.
const READ: [&str; 8] = [BLOCKS, HEADS, KEY_LENGTH, VALUE_LENGTH, ROTATED, WINDOW, SCALING, SCALING_FACTOR];
const IDLE: [&str; 5] = [
    "vocab_size",
    "tensor_data_layout",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "attention.layer_norm_epsilon",
];

/// Keys of tokens that end a text.
const ENDS: [&str; 3] = ["eos_token_id", "eot_token_id", "eom_token_id"];

/// The architecture that the file states.
pub(super) fn architecture(gguf: &Gguf) -> Result<&'static Architecture> {
    let file = gguf.file();
    let name = gguf.text("general.architecture")?.unwrap_or_default();
    match gguf.text("general.type")?.unwrap_or("model") {
        "model" if name != "clip" => {}
        "adapter" => {
            let advice = "merge it into its base model first (llama-export-lora), and name the file that this makes";
            return Err(Error::unsupported(format!("{file}: this is an adapter (a LoRA), not a model: {advice}")));
        }
        "mmproj" | "model" => {
            let advice = "name the file of the language model that it belongs to";
            return Err(Error::unsupported(format!(
                "{file}: this is a projector of images or sound, not a model: {advice}"
            )));
        }
        other => return Err(Error::unsupported(format!("{file}: expected a model, got a file of type \"{other}\""))),
    }
    ARCHITECTURES.iter().find(|known| known.name == name).ok_or_else(|| {
        let known: Vec<&str> = ARCHITECTURES.iter().map(|known| known.name).collect();
        let known = known.join(", ");
        Error::unsupported(format!("{file}: `general.architecture` \"{name}\" is not supported; there are: {known}"))
    })
}

/// The configuration of a file with these `tensors`.
pub(super) fn read(gguf: &Gguf, architecture: &Architecture, tensors: &Header) -> Result<ModelConfig> {
    let metadata = Metadata { gguf, architecture, tensors };
    let json = Value::Object(metadata.configuration()?).to_string();
    let parsed = ModelConfig::parse(json.as_bytes(), None);
    let mut config = parsed.map_err(|error| error.within(format!("{}: its metadata, read as", gguf.file())))?;
    if architecture.gemma.is_some() {
        config.take_scales_whole();
    }
    if architecture.delta_nets {
        config.take_scales_whole();
        config.take_delta_nets_of_llama_cpp();
    }
    Ok(config)
}

/// The metadata of a file, and the tensors that it does not speak of.
struct Metadata<'a> {
    gguf: &'a Gguf,
    architecture: &'a Architecture,
    tensors: &'a Header,
}

impl Metadata<'_> {
    /// The whole key of what the architecture's name comes before.
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture.name)
    }

    /// A value; of a list with an entry per block, the one that all of them are.
    fn value(&self, key: &str) -> Result<Option<Value>> {
        let key = self.key(key);
        match self.gguf.json(&key) {
            Some(Value::Array(list)) => match list.split_first() {
                Some((first, rest)) if rest.iter().all(|other| other == first) => Ok(Some(first.clone())),
                _ => {
                    let message = format!("`{key}` differs from block to block, which is not supported");
                    Err(Error::unsupported(format!("{}: {message}", self.gguf.file())))
                }
            },
            value => Ok(value.filter(|value| !value.is_null())),
        }
    }

    fn whole(&self, key: &str) -> Result<Option<u64>> {
        self.gguf.whole(&self.key(key))
    }

    fn missing(&self, key: &str) -> Error {
        let message = format!("`{}` is missing; is the file complete?", self.key(key));
        Error::format(format!("{}: {message}", self.gguf.file()))
    }

    fn unsupported(&self, key: &str, why: &str) -> Error {
        let value = self.gguf.json(&self.key(key)).as_ref().map_or("nothing".to_owned(), brief);
        let message = format!("`{}` = {value} {why}", self.key(key));
        Error::unsupported(format!("{}: {message}", self.gguf.file()))
    }

    fn rows(&self, tensor: &str) -> Option<usize> {
        let shape = self.tensors.tensors.get(tensor).map(|info| &info.shape);
        shape.or(self.tensors.skipped.get(tensor).map(|skipped| &skipped.shape))?.first().copied()
    }

    /// The configuration as a family reads it.
    fn configuration(&self) -> Result<Map<String, Value>> {
        self.refuse_unknown()?;
        let mut fields = Map::new();
        for (key, field) in REQUIRED {
            fields.insert(field.to_owned(), self.value(key)?.ok_or_else(|| self.missing(key))?);
        }
        for &(key, field) in OPTIONAL.iter().chain(self.of_delta_nets()) {
            fields.extend(self.value(key)?.map(|value| (field.to_owned(), value)));
        }
        for (key, field) in self.factors() {
            let factor = self.value(key)?.filter(|factor| factor.as_f64() != Some(0.0));
            fields.extend(factor.map(|value| ((*field).to_owned(), value)));
        }
        if let (true, false, Some(head_dim)) =
            (self.is_granite(), fields.contains_key("attention_multiplier"), self.head_dim()?)
        {
            fields.insert("attention_multiplier".to_owned(), (1.0 / (head_dim as f64).sqrt()).into());
        }
        let (blocks, heads) = self.blocks()?;
        let vocab = self.rows("token_embd.weight").ok_or_else(|| {
            Error::format(format!(
                "{}: tensor \"token_embd.weight\" is missing; is the file a whole model?",
                self.gguf.file()
            ))
        })?;
        let has = |name: &str| self.rows(name).is_some();
        let window = self.window()?;
        let model_type = match self.architecture.model_type {
            "llama" if window.is_some() => "mistral",
            own => own,
        };
        let gemma = self.architecture.gemma.as_ref();
        let scalar =
            match self.value("attention.head_count")?.and_then(|heads| heads.as_u64()).filter(|heads| *heads > 0) {
                Some(heads) if gemma.is_some_and(|gemma| gemma.blocks_of_27b == blocks) => {
                    self.whole("embedding_length")?.map(|hidden| hidden / heads)
                }
                _ if gemma.is_some() => self.head_dim()?,
                _ => None,
            };
        let attending = self.first_attending()?;
        let attention_bias = has(&format!("blk.{attending}.attn_q.bias")) && model_type != "qwen2";
        let more = json!({
            "model_type": model_type,
            "num_hidden_layers": blocks,
            "num_nextn_predict_layers": heads,
            "vocab_size": vocab,
            "head_dim": self.head_dim()?,
            "tie_word_embeddings": !has("output.weight"),
            "attention_bias": attention_bias,
            "mlp_bias": has("blk.0.ffn_up.bias"),
            "sliding_window": window,
            "query_pre_attn_scalar": scalar,
            "partial_rotary_factor": self.rotated_share()?,
            "linear_value_head_dim": self.delta_value_dim()?,
            "bos_token_id": self.token("bos_token_id")?,
            "eos_token_id": self.ends()?,
        });
        if let Value::Object(more) = more {
            fields.extend(more);
        }
        Ok(fields)
    }

    fn is_granite(&self) -> bool {
        self.architecture.model_type == "granite"
    }

    /// Keys of the architecture's factors, and the fields that they are.
    fn factors(&self) -> &'static [(&'static str, &'static str)] {
        if self.is_granite() { &FACTORS } else { &[] }
    }

    /// Blocks of the backbone, and those after it that the file announces as heads or has tensors of.
    fn blocks(&self) -> Result<(u64, u64)> {
        let all = self.whole(BLOCKS)?.ok_or_else(|| self.missing(BLOCKS))?;
        let announced = self.whole(HEADS)?.unwrap_or(0);
        let names = self.tensors.tensors.keys().chain(self.tensors.skipped.keys());
        let backbone = match first_head(names) {
            _ if announced > 0 => all.checked_sub(announced),
            Some(first) => Some(all.min(first as u64)),
            None => Some(all),
        };
        match backbone {
            Some(backbone) => Ok((backbone, announced)),
            None => Err(self.gguf.broken(&self.key(HEADS), &format!("expected at most {all} blocks, got {announced}"))),
        }
    }

    /// Keys that may be there in this architecture, and the fields that they are.
    fn of_delta_nets(&self) -> &'static [(&'static str, &'static str)] {
        if self.architecture.delta_nets { &OF_DELTA_NETS } else { &[] }
    }

    /// The first block with attention.
    fn first_attending(&self) -> Result<u64> {
        let interval = if self.architecture.delta_nets { self.whole(INTERVAL)? } else { None };
        Ok(interval.unwrap_or(1).max(1) - 1)
    }

    /// The share of a head that is rotated, where that may be a part.
    fn rotated_share(&self) -> Result<Option<f64>> {
        let sizes = self.whole(ROTATED)?.zip(self.whole(KEY_LENGTH)?.filter(|size| *size > 0));
        Ok(sizes.filter(|_| self.architecture.delta_nets).map(|(rotated, size)| rotated as f64 / size as f64))
    }

    /// Elements of a DeltaNet's value head.
    fn delta_value_dim(&self) -> Result<Option<u64>> {
        match (self.whole(DELTA_WIDTH)?, self.whole(DELTA_HEADS)?) {
            (Some(width), Some(heads)) if heads > 0 && width % heads == 0 => Ok(Some(width / heads)),
            (None, None) => Ok(None),
            (_, heads) => {
                let heads = heads.map_or("nothing".to_owned(), |heads| heads.to_string());
                Err(self.unsupported(DELTA_WIDTH, &format!("is no multiple of `{}` = {heads}", self.key(DELTA_HEADS))))
            }
        }
    }

    /// Elements of a head: stated, or what the projection of queries says.
    fn head_dim(&self) -> Result<Option<u64>> {
        let heads = self.value("attention.head_count")?.and_then(|heads| heads.as_u64()).filter(|heads| *heads > 0);
        let rows = self.rows("blk.0.attn_q.weight").map(|rows| rows as u64);
        let from_rows = rows.zip(heads).filter(|(rows, heads)| rows % heads == 0).map(|(rows, heads)| rows / heads);
        let head_dim = self.whole(KEY_LENGTH)?.or(from_rows);
        let rotated = Some(ROTATED).filter(|_| !self.architecture.delta_nets);
        for key in [VALUE_LENGTH].into_iter().chain(rotated) {
            if let (Some(head_dim), Some(other)) = (head_dim, self.whole(key)?)
                && other != head_dim
            {
                return Err(self.unsupported(key, &format!("beside heads of {head_dim} is not supported")));
            }
        }
        Ok(head_dim)
    }

    /// The window of every block, where that hides anything; of Gemma's that of the blocks that have one.
    fn window(&self) -> Result<Option<u64>> {
        let context = self.whole("context_length")?.unwrap_or(0);
        let stated = self.whole(WINDOW)?;
        if self.architecture.gemma.is_some() {
            return stated.map(Some).ok_or_else(|| self.missing(WINDOW));
        }
        let window = stated.filter(|window| *window > 0 && *window < context);
        if window.is_some() && self.architecture.model_type != "llama" {
            return Err(self.unsupported(WINDOW, "is not supported in this architecture"));
        }
        Ok(window)
    }

    fn token(&self, key: &str) -> Result<Option<u64>> {
        self.gguf.whole(&format!("tokenizer.ggml.{key}"))
    }

    fn ends(&self) -> Result<Vec<u64>> {
        let mut ends = Vec::new();
        for key in ENDS {
            ends.extend(self.token(key)?.filter(|id| !ends.contains(id)));
        }
        Ok(ends)
    }

    /// Fails on the first key of the architecture's that asks for something that is not done.
    fn refuse_unknown(&self) -> Result<()> {
        let scaled = match (self.gguf.text(&self.key(SCALING))?, self.value(SCALING_FACTOR)?) {
            (None | Some("none"), _) => false,
            (Some("linear"), factor) => factor.is_some_and(|factor| factor.as_f64() != Some(1.0)),
            _ => true,
        };
        if scaled {
            return Err(
                self.unsupported(SCALING, "is not supported; \"none\" is, and what a tensor \"rope_freqs\" says")
            );
        }
        let begin = format!("{}.", self.architecture.name);
        let known = REQUIRED.iter().chain(&OPTIONAL).chain(self.factors()).map(|(key, _)| *key).chain(READ).chain(IDLE);
        let mut known: Vec<&str> = known.collect();
        if self.architecture.delta_nets {
            known.extend(OF_DELTA_NETS.map(|(key, _)| key));
            // For text the positions of all sections of the rope are one.
            known.extend([DELTA_WIDTH, "rope.dimension_sections"]);
        }
        for key in self.gguf.keys().filter_map(|key| key.strip_prefix(&begin)) {
            if known.contains(&key) || self.gguf.json(&self.key(key)).is_none_or(|value| is_neutral(key, &value)) {
                continue;
            }
            return Err(self.unsupported(key, "is not known here; the model would compute something else"));
        }
        Ok(())
    }
}

/// Whether a value of a key that nobody reads changes nothing.
fn is_neutral(key: &str, value: &Value) -> bool {
    match value {
        Value::Number(number) => {
            let factor = key.ends_with("_scale") || key.ends_with("_factor");
            number.as_f64().is_some_and(|number| number == 0.0 || factor && number == 1.0)
        }
        // Of flags, causal attention alone is on where nothing is changed.
        Value::Bool(on) => *on == (key == "attention.causal"),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.iter().all(|value| is_neutral(key, value)),
        _ => false,
    }
}
