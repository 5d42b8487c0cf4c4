//! The metadata of a model that lies in another layout: what [`config`](super::config) reads, said by a configuration.
//!
//! The written metadata is read again and compared: a model of which it cannot say everything is refused, not changed.

use std::borrow::Cow;
use std::ops::Range;

use super::METADATA;
use super::config::{self, Architecture};
use crate::error::{Error, Result};
use crate::format::config::ModelConfig;
use crate::format::files::Files;
use crate::format::gguf::Gguf;
use crate::format::gguf::write::Head;
use crate::format::rope::Rope;
use crate::format::spec::{Mixer, ModelSpec, Norm};

/// Keys of the tokens that end a text, in order.
const ENDS: [&str; 3] = ["eos_token_id", "eot_token_id", "eom_token_id"];

/// Writes what a model computes.
///
/// # Errors
/// Where no architecture of files is its family.
pub(super) fn describe(config: &ModelConfig, head: &mut Head) -> Result<&'static Architecture> {
    let architecture = Architecture::of(&config.model_type)?;
    let (spec, name) = (&config.spec, architecture.name());
    let attention = spec.last_attention();
    head.set_text("general.architecture", name);
    head.set_text("general.type", "model");
    let wholes = [
        ("vocab_size", config.vocab_size),
        ("context_length", config.max_position_embeddings),
        ("embedding_length", spec.hidden_size),
        ("block_count", spec.blocks.len()),
        ("feed_forward_length", config.intermediate_size),
        ("attention.head_count", attention.heads),
        ("attention.head_count_kv", attention.kv_heads),
        ("attention.key_length", attention.head_dim),
        ("attention.value_length", attention.head_dim),
        ("rope.dimension_count", attention.rope.rotary_dim),
    ];
    for (key, number) in wholes {
        head.set_whole(&format!("{name}.{key}"), number as u32);
    }
    // Where blocks differ, those that see everything have the rope that is stated.
    let whole = spec.attentions().find(|attention| attention.window.is_none());
    let windows = spec.attentions().filter_map(|attention| attention.window);
    head.set_number(&format!("{name}.attention.layer_norm_rms_epsilon"), spec.final_norm.eps() as f32);
    head.set_number(&format!("{name}.rope.freq_base"), whole.unwrap_or(attention).rope.theta as f32);
    if let Some(window) = windows.max() {
        head.set_whole(&format!("{name}.attention.sliding_window"), window as u32);
    }
    for (key, cap) in [("attn", attention.softcap), ("final", spec.logit_softcap)] {
        if let Some(cap) = cap {
            head.set_number(&format!("{name}.{key}_logit_softcapping"), cap);
        }
    }
    if let Some(id) = config.bos_token_id {
        head.set_whole("tokenizer.ggml.bos_token_id", id);
    }
    for (key, id) in ENDS.iter().zip(&config.eos_token_ids) {
        head.set_whole(&format!("tokenizer.ggml.{key}"), *id);
    }
    Ok(architecture)
}

/// What files divide the frequencies of a rope by; nothing where it is not stretched.
pub(super) fn rope_divisors(rope: &Rope) -> Option<Vec<f32>> {
    rope.scaling.as_ref()?;
    let plain = Rope { scaling: None, ..rope.clone() };
    Some(plain.inv_freq().iter().zip(rope.inv_freq()).map(|(plain, scaled)| (plain / scaled) as f32).collect())
}

/// Fails unless a file that begins with these bytes says what `config` does; gives the header of the file.
pub(super) async fn check(config: &ModelConfig, bytes: Vec<u8>, data: u64) -> Result<Gguf> {
    let written = Written { len: bytes.len() as u64 + data, bytes };
    let gguf = Gguf::read(&written, Written::NAME).await?;
    let gguf = gguf.ok_or_else(|| Error::format(format!("{METADATA}: nothing was written")))?;
    let found = config::read(&gguf, config::architecture(&gguf)?, &gguf.tensors)?;
    let (said, meant) = (found.spec, as_said(&config.spec));
    if said == meant {
        return Ok(gguf);
    }
    let differs = said.blocks.iter().zip(&meant.blocks).position(|(said, meant)| said != meant);
    let place = differs.map_or("this model".to_owned(), |block| format!("block {block} of this model"));
    let (name, advice) =
        (&config.model_type, "name a model that has the usual windows, ropes and scales of its family");
    Err(Error::unsupported(format!("metadata of a {name} cannot say what {place} computes: {advice}")))
}

/// What metadata says of a model: numbers of f32, scales of norms whole, and a rope's stretching as a tensor.
fn as_said(spec: &ModelSpec) -> ModelSpec {
    let number = |x: f64| (x as f32).to_string().parse().unwrap_or(x);
    let norm = |norm: &mut Norm| {
        if let Norm::Rms { eps, offset } = norm {
            (*eps, *offset) = (number(*eps), 0.0);
        }
    };
    let mut spec = spec.clone();
    norm(&mut spec.final_norm);
    for block in &mut spec.blocks {
        norm(&mut block.norm);
        let Mixer::Attention(attention) = &mut block.mixer else { continue };
        if let Some(norm) = &mut attention.qk_norm {
            (norm.eps, norm.offset) = (number(norm.eps), 0.0);
        }
        attention.rope.theta = number(attention.rope.theta);
        attention.rope.scaling = None;
    }
    spec
}

/// A file of which only the beginning was written; zeros stand for the rest.
struct Written {
    bytes: Vec<u8>,
    len: u64,
}

impl Written {
    const NAME: &str = "model.gguf";
}

impl Files for Written {
    async fn len(&self, name: &str) -> Result<Option<u64>> {
        Ok((name == Self::NAME).then_some(self.len))
    }

    async fn read(&self, _: &str, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let [start, end] = [range.start, range.end].map(|at| at as usize);
        let there = self.bytes.get(start..end.min(self.bytes.len())).unwrap_or_default();
        let mut bytes = there.to_vec();
        bytes.resize(end - start, 0);
        Ok(bytes.into())
    }

    fn describe(&self) -> String {
        "what would be written".to_owned()
    }
}
