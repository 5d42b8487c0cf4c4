//! `config.json`: what a model computes, under Hugging Face's names.
//!
//! Whatever a configuration says that changes the mathematics is either represented here or refused by name; it is never
//! ignored.

use serde_json::{Map, Value};

use super::families::{self, Family, divide};
use super::fields::{Fields, MAX_SIZE, parse_object};
use super::layouts::TensorNames;
use super::refusals::{SHARED_RULES, refuse_unimplemented};
use super::spec::{Mixer, ModelSpec, Norm};
use crate::error::Result;

/// Larger than any model's heads; tables with an entry per element of a head stay small whatever a file says.
const MAX_HEAD_DIM: usize = 1 << 16;

/// A checked configuration: sizes are positive, below 2³¹, and fit each other.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
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
    /// The longest context that the model was made for, in tokens.
    pub max_position_embeddings: usize,
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
    /// The description of what the model computes.
    pub spec: ModelSpec,
    /// The names of its tensors in files.
    pub names: &'static TensorNames,
}

impl ModelConfig {
    /// The LM head is not the embedding, whatever was said.
    pub(super) fn untie(&mut self) {
        (self.spec.tied, self.tie_word_embeddings) = (false, false);
    }

    /// Takes in numbers that the frequencies of every block's rope are divided by.
    pub(super) fn divide_rope(&mut self, divisors: &[f32]) {
        for block in &mut self.spec.blocks {
            if let Mixer::Attention(attention) = &mut block.mixer {
                attention.rope.divisors = Some(divisors.to_vec());
            }
        }
    }

    /// The scales of norms are stored whole, whatever the family's files have.
    pub(super) fn take_scales_whole(&mut self) {
        let whole = |norm: &mut Norm| {
            if let Norm::Rms { offset, .. } = norm {
                *offset = 0.0;
            }
        };
        whole(&mut self.spec.final_norm);
        for block in &mut self.spec.blocks {
            whole(&mut block.norm);
            if let Mixer::Attention(attention) = &mut block.mixer {
                attention.qk_norm.iter_mut().for_each(|norm| norm.offset = 0.0);
            }
        }
    }

    /// DeltaNets are stored as llama.cpp keeps them.
    pub(super) fn take_delta_nets_of_llama_cpp(&mut self) {
        for block in &mut self.spec.blocks {
            if let Mixer::DeltaNet(delta) = &mut block.mixer {
                (delta.tiled, delta.whole_rates) = (true, true);
            }
        }
    }

    /// Parses `config.json` and, where the checkpoint has one, `generation_config.json` (for the end tokens).
    ///
    /// Fails with the field, what was expected and what was found; with [`ErrorKind::Unsupported`] and the feature's name
    /// where the file is sound but asks for something that is not implemented.
    ///
    /// [`ErrorKind::Unsupported`]: crate::ErrorKind::Unsupported
    pub fn parse(config_json: &[u8], generation_config_json: Option<&[u8]>) -> Result<Self> {
        let map = of_text(parse_object("config.json", config_json)?);
        let fields = Fields::new("config.json", &map);
        let family = families::family(&fields)?;
        refuse_unimplemented(&fields, SHARED_RULES, family.reads)?;
        refuse_unimplemented(&fields, family.rules, &[])?;
        let mut config = assemble(&fields, family)?;
        config.check_sizes(&fields)?;
        check_ids(&fields, "bos_token_id", config.bos_token_id.as_slice(), config.vocab_size)?;
        match generation_config_json.map(|json| config.end_tokens(json)).transpose()?.flatten() {
            Some(ids) => config.eos_token_ids = ids,
            None => check_ids(&fields, "eos_token_id", &config.eos_token_ids, config.vocab_size)?,
        }
        Ok(config)
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
        let (heads, kv_heads) = (self.num_attention_heads, self.num_key_value_heads);
        let limits = [
            ("`head_dim`", self.head_dim, MAX_HEAD_DIM),
            // A fused qkv has three times as many rows.
            ("`num_attention_heads` times the head's size", heads.saturating_mul(self.head_dim), MAX_SIZE / 3),
        ];
        if let Some((what, got, limit)) = limits.into_iter().find(|(_, got, limit)| got > limit) {
            return Err(fields.error(format!("{what}: expected at most {limit}, got {got}")));
        }
        divide(fields, ("num_attention_heads", heads), ("num_key_value_heads", kv_heads)).map(|_| ())
    }
}

/// The longest text, where the model was made for `stated` tokens.
fn longest(spec: &ModelSpec, stated: usize) -> usize {
    spec.attentions().filter_map(|attention| attention.rope.longest).fold(stated, usize::min)
}

/// The configuration of the text model. Models of text and images describe it in `text_config`; what stands beside that counts
/// where it says nothing.
fn of_text(mut whole: Map<String, Value>) -> Map<String, Value> {
    let Some(Value::Object(mut text)) = whole.remove("text_config") else { return whole };
    whole.into_iter().for_each(|(key, value)| _ = text.entry(key).or_insert(value));
    text
}

fn check_ids(fields: &Fields<'_>, key: &str, ids: &[u32], vocab_size: usize) -> Result<()> {
    match ids.iter().find(|&&id| id as usize >= vocab_size) {
        Some(id) => Err(fields.error(format!("`{key}`: {id} lies outside the vocabulary of {vocab_size} tokens"))),
        None => Ok(()),
    }
}

fn assemble(fields: &Fields<'_>, family: &Family) -> Result<ModelConfig> {
    let spec = (family.spec)(fields)?;
    family.names.check(&spec)?;
    let (last, attention) = (spec.last_block(), spec.last_attention());
    Ok(ModelConfig {
        model_type: family.model_type.to_owned(),
        vocab_size: spec.vocab_size,
        hidden_size: spec.hidden_size,
        intermediate_size: last.mlp.inner,
        num_hidden_layers: spec.blocks.len(),
        num_attention_heads: attention.heads,
        num_key_value_heads: attention.kv_heads,
        head_dim: attention.head_dim,
        max_position_embeddings: longest(&spec, fields.required_size("max_position_embeddings")?),
        tie_word_embeddings: spec.tied,
        bos_token_id: fields.token_ids("bos_token_id")?.unwrap_or_default().first().copied(),
        eos_token_ids: fields.token_ids("eos_token_id")?.unwrap_or_default(),
        torch_dtype: fields.text("dtype")?.or(fields.text("torch_dtype")?).map(str::to_owned),
        num_nextn_predict_layers: fields.count("num_nextn_predict_layers")?,
        spec,
        names: family.names,
    })
}
