//! Published layouts of multi-token heads. `docs/mtp-format.md` says which code each was read from.

use super::{Head, HeadSet, HeadSource, MAX_HEADS, MEDUSA, Wiring};
use crate::error::{Error, Result};
use crate::format::checkpoint::HeadKind;
use crate::format::config::ModelConfig;
use crate::format::files::Files;
use crate::format::layouts;
use crate::format::layouts::heads::ModuleNames;
use crate::format::layouts::tensor_name;
use crate::format::spec::Part;
use crate::format::tensors::Tensors;

/// Medusa: residual blocks and an LM head each, on the final norm's output.
pub(super) async fn medusa<'f, F: Files>(files: &'f F, config: &ModelConfig) -> Result<Option<HeadSet<'f, F>>> {
    let Some(tensors) = Tensors::of_file(files, MEDUSA).await? else { return Ok(None) };
    let head = |index: usize| {
        let blocks = (0..).map(|block| format!("{index}.{block}.linear"));
        let blocks: Vec<String> =
            blocks.take_while(|name| tensors.contains(&tensor_name(name, Part::Weight))).collect();
        Head {
            offset: index + 2,
            source: HeadSource::FinalNorm,
            lm_head: Some(format!("{index}.{}", blocks.len())),
            target: false,
            wiring: Wiring::Residual { blocks },
            layers: Vec::new(),
            final_norm: None,
        }
    };
    let starts = |index: &usize| tensors.names().any(|name| name.starts_with(&format!("{index}.")));
    let heads: Vec<Head> = (0..MAX_HEADS).take_while(starts).map(head).collect();
    if heads.is_empty() {
        let message = format!("{MEDUSA}: no head; expected tensors like \"0.0.linear.weight\" and \"0.1.weight\"");
        return Err(Error::format(message).within(files.describe()));
    }
    let (kind, lora) = (HeadKind::Medusa, None);
    let set = HeadSet { kind, heads, lora, norms_less_one: false, tensors, unused: Vec::new() };
    set.checked(config, "the model's config.json", |_| true).map(Some)
}

/// Modules among the tensors of a checkpoint: each reads the hidden state that the one before it left, and the embedding
/// of the next token. `None` where there is no module of that kind.
pub(super) fn in_checkpoint<'f, F: Files>(
    kind: HeadKind,
    tensors: Tensors<'f, F>,
    config: &ModelConfig,
) -> Result<Option<HeadSet<'f, F>>> {
    let names = ModuleNames::new(kind, config);
    let has = |name: &str| tensors.contains(&tensor_name(name, Part::Weight));
    let there = |index: &usize| has(&format!("{}.input_layernorm", names.layer(*index)));
    let count = (0..MAX_HEADS).take_while(there).count();
    if count == 0 || !has(&names.part(0, names.projection)) {
        return Ok(None);
    }
    // Their layers have the names of this family's.
    if !config.names.modules {
        return Err(Error::unsupported(format!("heads in the {kind} layout on a {} backbone", config.model_type)));
    }
    let head = |index: usize| {
        let module = |part: &str| names.part(index, part);
        let optional = |part: &'static str| Some(module(part)).filter(|name| !part.is_empty() && has(name));
        Head {
            offset: index + 2,
            source: index.checked_sub(1).map_or(HeadSource::FinalNorm, HeadSource::Head),
            wiring: Wiring::Sequential {
                hidden_norm: module(names.hidden_norm),
                embedding_norm: module(names.embedding_norm),
                projection: module(names.projection),
                hidden_first: kind == HeadKind::MiMo,
                embedding: optional(names.embedding),
            },
            layers: vec![names.layer(index)],
            final_norm: Some(module(names.final_norm)),
            lm_head: optional(names.lm_head),
            target: false,
        }
    };
    let heads: Vec<Head> = (0..count).map(head).collect();
    let norms_less_one = kind == HeadKind::Qwen;
    let set = HeadSet { kind, heads, lora: None, norms_less_one, tensors, unused: Vec::new() };
    set.checked(config, layouts::CONFIG, |name| names.owns(name)).map(Some)
}
