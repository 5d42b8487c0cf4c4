//! Multi-token heads among the tensors of a model: how published layouts call them.

use std::collections::BTreeMap;

use crate::error::counted;
use crate::format::checkpoint::{FoundHeads, HeadKind};
use crate::format::config::ModelConfig;
use crate::format::files::Files;
use crate::format::tensors::Tensors;

/// The file that describes heads in this project's own layout.
pub const CONFIG: &str = "mtp_config.json";

/// The file with their tensors.
pub const TENSORS: &str = "mtp.safetensors";

/// The file of heads in Medusa's layout.
pub(in crate::format) const MEDUSA: &str = "medusa_lm_head.safetensors";

/// Files of heads beside those of a model.
pub const FILES: [&str; 3] = [CONFIG, TENSORS, MEDUSA];

/// The files of a folder with heads, for messages.
pub const EXPECTED: &str = "mtp_config.json and mtp.safetensors, or heads in a published layout";

/// The kinds whose modules lie among a model's own tensors, and that are implemented.
pub(in crate::format) const MODULES: [HeadKind; 3] = [HeadKind::DeepSeek, HeadKind::Qwen, HeadKind::MiMo];

/// The heads that a model holds or announces, among its tensors or in `files` of their own, by kind.
pub(in crate::format) fn find<F: Files>(
    tensors: &Tensors<'_, F>,
    config: &ModelConfig,
    stated_by: &str,
    files: &[(HeadKind, &'static str)],
) -> Vec<FoundHeads> {
    let mut found: BTreeMap<HeadKind, Vec<String>> = BTreeMap::new();
    for name in tensors.names() {
        if let Some(kind) = kind_of(name, tensors, config) {
            found.entry(kind).or_default().push(name.clone());
        }
    }
    if config.num_nextn_predict_layers > 0 {
        found.entry(HeadKind::DeepSeek).or_default();
    }
    for (kind, _) in files {
        found.entry(*kind).or_default();
    }
    let note = |kind, tensors: &[String]| match files.iter().find(|(of, _)| *of == kind) {
        Some((_, file)) => format!("{file} is there"),
        None if kind == HeadKind::DeepSeek => note_of_layers(tensors, config, stated_by),
        None => counted(tensors.len(), "tensor"),
    };
    found.into_iter().map(|(kind, tensors)| FoundHeads { kind, note: note(kind, &tensors), tensors }).collect()
}

fn note_of_layers(tensors: &[String], config: &ModelConfig, stated_by: &str) -> String {
    let mut layers: Vec<_> = tensors.iter().filter_map(|name| layer_of(name)).collect();
    layers.sort_unstable();
    layers.dedup();
    let (announced, found) = (config.num_nextn_predict_layers, layers.len());
    format!("{stated_by} announces {announced} extra layers (num_nextn_predict_layers), the tensors hold {found}")
}

/// The kind of head that a tensor of this name belongs to. Names that the model itself needs are no heads.
pub(in crate::format) fn kind_of<F: Files>(
    name: &str,
    tensors: &Tensors<'_, F>,
    config: &ModelConfig,
) -> Option<HeadKind> {
    if is_eagle3(name) {
        return Some(HeadKind::Eagle3);
    }
    let kind = MODULES.into_iter().find(|&kind| ModuleNames::new(kind, config).owns(name))?;
    // Layers too many are heads where they are announced, or have the projection that only heads have; else they are a sign
    // of a wrong configuration.
    let announced = || {
        let names = ModuleNames::new(kind, config);
        let layer = format!("{LAYERS}{}", layer_of(name).unwrap_or_default());
        config.num_nextn_predict_layers > 0 || tensors.get(&format!("{layer}.{}.weight", names.projection)).is_some()
    };
    (kind != HeadKind::DeepSeek || announced()).then_some(kind)
}

/// Whether a tensor of this name is a part of heads in EAGLE-3's layout.
pub(in crate::format) fn is_eagle3(name: &str) -> bool {
    ["fc.", "midlayer.", "d2t", "t2d"].iter().any(|prefix| name.starts_with(prefix))
}

/// Whether these tensors look like those of a whole model.
pub(in crate::format) fn are_a_model<F: Files>(tensors: &Tensors<'_, F>) -> bool {
    let has = |part: &str| tensors.names().any(|name| name.contains(part));
    has("embed") && has("layers.0.")
}

/// The beginnings of the names of heads among a model's tensors, for messages.
pub(in crate::format) fn expected(config: &ModelConfig) -> String {
    format!("{QWEN}, {MIMO} or {LAYERS}{}.", config.num_hidden_layers)
}

const QWEN: &str = "mtp.";
const MIMO: &str = "model.mtp_layers.";
/// Layers of the backbone, and after its last those of DeepSeek's heads.
const LAYERS: &str = "model.layers.";

/// The layer that a tensor of this name belongs to.
fn layer_of(name: &str) -> Option<usize> {
    let (number, _) = name.strip_prefix(LAYERS)?.split_once('.')?;
    number.parse().ok()
}

/// How a layout calls the parts of its modules.
pub(in crate::format) struct ModuleNames {
    kind: HeadKind,
    /// Blocks of the backbone.
    blocks: usize,
    pub hidden_norm: &'static str,
    pub embedding_norm: &'static str,
    pub projection: &'static str,
    pub final_norm: &'static str,
    /// Empty: such modules have none of their own.
    pub embedding: &'static str,
    pub lm_head: &'static str,
}

impl ModuleNames {
    pub fn new(kind: HeadKind, config: &ModelConfig) -> Self {
        let blocks = config.num_hidden_layers;
        let [hidden_norm, embedding_norm, projection, final_norm, embedding, lm_head] = match kind {
            HeadKind::Qwen => ["pre_fc_norm_hidden", "pre_fc_norm_embedding", "fc", "norm", "embed_tokens", ""],
            HeadKind::MiMo => ["hidden_layernorm", "token_layernorm", "input_proj", "final_layernorm", "", ""],
            _ => ["hnorm", "enorm", "eh_proj", "shared_head.norm", "embed_tokens", "shared_head.head"],
        };
        Self { kind, blocks, hidden_norm, embedding_norm, projection, final_norm, embedding, lm_head }
    }

    /// The beginning of the names of the tensors of a module's layer.
    pub fn layer(&self, index: usize) -> String {
        match self.kind {
            HeadKind::Qwen => format!("{QWEN}layers.{index}"),
            HeadKind::MiMo => format!("{MIMO}{index}"),
            _ => format!("{LAYERS}{}", self.blocks + index),
        }
    }

    /// A part of a module beside its layer.
    pub fn part(&self, index: usize, part: &str) -> String {
        match self.kind {
            // One projection and its norms serve all layers.
            HeadKind::Qwen => format!("{QWEN}{part}"),
            _ => format!("{}.{part}", self.layer(index)),
        }
    }

    /// Whether a tensor of this name is a module's.
    pub fn owns(&self, name: &str) -> bool {
        match self.kind {
            HeadKind::Qwen => name.starts_with(QWEN),
            HeadKind::MiMo => name.starts_with(MIMO),
            _ => layer_of(name).is_some_and(|layer| layer >= self.blocks),
        }
    }
}
