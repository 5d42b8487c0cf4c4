//! Tensors under other names: what wraps a model for training or for an adapter puts its own name before each of theirs.

use std::collections::BTreeSet;

use crate::format::config::ModelConfig;
use crate::format::files::Files;
use crate::format::tensors::Tensors;

/// What such names begin with, once or several times.
const WRAPPERS: [&str; 3] = ["module.", "_orig_mod.", "base_model.model."];

/// Gives tensors the names that the model knows, where with these all are there, and with the names they have not.
pub(super) fn unwrap<F: Files>(tensors: &mut Tensors<'_, F>, config: &ModelConfig) {
    let expected: BTreeSet<String> = config.expected_tensors().into_iter().map(|(name, _)| name).collect();
    if expected.iter().all(|name| tensors.contains(name)) {
        return;
    }
    let embedding = config.embedding_name();
    let body = embedding.split_once('.').map(|(body, _)| format!("{body}.")).unwrap_or_default();
    let plain = |name: &str| without_wrappers(name).to_owned();
    // A model saved without its LM head lacks the body's name before its tensors; a model within another has names above it.
    let below = |name: &str| {
        let name = without_wrappers(name);
        if expected.contains(name) { name.to_owned() } else { format!("{body}{name}") }
    };
    let above = |name: &str| without_wrappers(name).strip_prefix(&body).unwrap_or(without_wrappers(name)).to_owned();
    let ways: [&dyn Fn(&str) -> String; 3] = [&plain, &below, &above];
    for way in ways {
        let names: Vec<(String, String)> = tensors.names().map(|name| (name.clone(), way(name))).collect();
        let renamed: BTreeSet<&String> = names.iter().map(|(_, new)| new).collect();
        if renamed.len() == names.len() && expected.iter().all(|name| renamed.contains(name)) {
            tensors.rename_all(&way);
            return;
        }
    }
}

fn without_wrappers(name: &str) -> &str {
    let mut name = name;
    while let Some(rest) = WRAPPERS.iter().find_map(|wrapper| name.strip_prefix(wrapper)) {
        name = rest;
    }
    name
}
