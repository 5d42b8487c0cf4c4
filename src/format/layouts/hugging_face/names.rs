//! Tensors under other names: what wraps a model, or a part of it, for training or for an adapter adds its own name to theirs.

use std::collections::BTreeSet;

use crate::format::config::ModelConfig;
use crate::format::files::Files;
use crate::format::tensors::Tensors;

/// What is added to such names before any of their parts, once or several times.
const WRAPPERS: [&str; 6] = [
    "module.",
    "_orig_mod.",
    "_fsdp_wrapped_module.",
    "_checkpoint_wrapped_module.",
    "base_model.model.",
    // The part of a model that also sees or hears.
    "language_model.",
];

/// Gives tensors the names that the model knows, in the way that finds most of those it needs; none where two tensors would have
/// one name.
pub(super) fn unwrap<F: Files>(tensors: &mut Tensors<'_, F>, config: &ModelConfig) {
    let expected: BTreeSet<String> = config.expected_tensors().into_iter().map(|(name, _)| name).collect();
    let as_they_are = expected.iter().filter(|name| tensors.contains(name)).count();
    if as_they_are == expected.len() {
        return;
    }
    let embedding = config.embedding_name();
    let body = embedding.split_once('.').map(|(body, _)| format!("{body}.")).unwrap_or_default();
    // A model saved without its LM head lacks the body's name before its tensors; a model within another has names above it.
    let below = |name: &str| {
        let name = without_wrappers(name);
        if expected.contains(&name) { name } else { format!("{body}{name}") }
    };
    let above = |name: &str| {
        let name = without_wrappers(name);
        name.strip_prefix(&body).unwrap_or(&name).to_owned()
    };
    let ways: [&dyn Fn(&str) -> String; 3] = [&without_wrappers, &below, &above];
    let found = |way: &dyn Fn(&str) -> String| {
        let names: Vec<String> = tensors.names().map(|name| way(name)).collect();
        let renamed: BTreeSet<&String> = names.iter().collect();
        let found = expected.iter().filter(|name| renamed.contains(name)).count();
        if renamed.len() == names.len() { found } else { 0 }
    };
    let mut best = (as_they_are, None);
    for way in ways {
        let count = found(way);
        if count > best.0 {
            best = (count, Some(way));
        }
    }
    if let (_, Some(way)) = best {
        tensors.rename_all(way);
    }
}

/// A name without what wraps the model or a part of it.
fn without_wrappers(name: &str) -> String {
    let (mut rest, mut plain) = (name, String::new());
    while !rest.is_empty() {
        if let Some(inner) = WRAPPERS.iter().find_map(|wrapper| rest.strip_prefix(wrapper)) {
            rest = inner;
            continue;
        }
        let (part, next) = rest.split_at(rest.find('.').map_or(rest.len(), |dot| dot + 1));
        plain.push_str(part);
        rest = next;
    }
    plain
}
