//! The embedded default model: small, ours, and enough to try everything.

use std::borrow::Cow;

use crate::format::files::MemoryFiles;

macro_rules! embedded {
    ($($name:literal),* $(,)?) => {
        [$(($name.to_owned(), Cow::Borrowed(include_bytes!(concat!("../models/default/", $name)).as_slice()))),*]
    };
}

/// The files of the default model, which writes simple English stories, and of its drafting head; `models/default/MODEL_CARD.md` describes it.
///
/// A program that never calls this does not carry them.
pub fn default_model() -> MemoryFiles {
    let files = embedded![
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "mtp.safetensors",
        "mtp_config.json",
        "tokenizer.json",
    ];
    MemoryFiles { name: "the default model".to_owned(), files: files.into() }
}
