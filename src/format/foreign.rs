//! What lies where a checkpoint was expected: files of other formats, and what to do about them.

use super::files::{Files, named};
use super::layouts;
use crate::error::{Error, Result};

/// The first bytes of files that are often taken for others.
const BEGINNINGS: [(&[u8], &str); 8] = [
    (b"version https://git-lfs", LFS),
    // As much as is read of a safetensors file before its header.
    (b"version ", LFS),
    (b"GGUF", GGUF),
    (b"PK\x03\x04", PICKLE),
    (b"\x80\x02", PICKLE),
    (b"<!DOCTYP", WEB_PAGE),
    (b"<!doctyp", WEB_PAGE),
    (b"<html", WEB_PAGE),
];

const GGUF: &str = "a GGUF file: as a model it is named itself, and its name ends with .gguf";
const LFS: &str = "a Git LFS pointer, not the file itself: run `git lfs pull` in the repository, or download the file";
const PICKLE: &str =
    "a file of PyTorch's (a pickle), which can run programs and is not read: convert it to safetensors";
const TEXT: &str = "a text, not the file itself: see what it says, and download the file again (some models ask for a login or a token)";
const UTF_16: &str = "a text in UTF-16: save it as UTF-8";
const WEB_PAGE: &str = "a web page, not the file itself: download it again (some models ask for a login or a token)";

/// Endings of names, and what such files are.
const ENDINGS: [(&str, &str); 11] = [
    (".gguf", GGUF),
    (".ggml", "a GGML file, which is not supported: take the model's checkpoint in Hugging Face's layout"),
    (".onnx", ONNX),
    (".ort", ONNX),
    (".bin", PICKLE),
    (".pth", PICKLE),
    (".pt", PICKLE),
    (".ckpt", PICKLE),
    (".h5", "a file of TensorFlow's, which is not supported: take the model's safetensors files"),
    (".msgpack", "a file of Flax's, which is not supported: take the model's safetensors files"),
    (".npz", "an archive of NumPy's, which is not supported: take the model's safetensors files"),
];

const ONNX: &str = "an ONNX export, which is not supported: take the model's checkpoint in Hugging Face's layout";

/// What a file is whose first bytes are these; `None` where nothing is known.
pub(super) fn of_bytes(first: &[u8]) -> Option<&'static str> {
    BEGINNINGS.iter().find(|(beginning, _)| first.starts_with(beginning)).map(|(_, what)| *what)
}

/// The error for a file that begins with these bytes, where it is no file of tensors at all.
pub(super) fn of_prefix<F: Files>(files: &F, name: &str, prefix: &[u8]) -> Option<Error> {
    let is_text =
        || !prefix.is_empty() && prefix.iter().all(|byte| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~'));
    let what = of_bytes(prefix).or_else(|| is_text().then_some(TEXT))?;
    Some(this_is(files, name, what))
}

/// What a file of this name is, where that is no part of a checkpoint; `None` where nothing is known.
pub fn of_name(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    ENDINGS.iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, what)| *what)
}

/// What the files of a folder without a model are, for the end of a message.
pub(super) async fn of_files<F: Files>(files: &F) -> Result<Option<String>> {
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        if files.len(name).await?.is_some() {
            return Ok(Some(format!(
                "{name} is there: this is an adapter (a LoRA), not a model; merge it into its base model first (in Python: \
                 merge_and_unload, then save_pretrained), and name that folder"
            )));
        }
    }
    let names = files.names();
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    if has("snapshots") {
        return Ok(Some("this is a folder of the hub's cache: name one of those in its snapshots".to_owned()));
    }
    if names.iter().any(|name| name.starts_with("models--")) {
        return Ok(Some("this is the hub's cache: name the folder of a model in it".to_owned()));
    }
    if has("onnx") {
        return Ok(Some(format!("onnx is {ONNX}")));
    }
    // Smaller files of such names may lie beside weights of any format.
    let beside = ["training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"];
    let found = names.iter().filter(|name| !beside.contains(&name.as_str()));
    if let Some((name, what)) = found.filter_map(|name| Some((name, of_name(name)?))).next() {
        return Ok(Some(format!("{name} is {what}")));
    }
    let heads = layouts::heads::CONFIG;
    if files.len(heads).await?.is_some() {
        return Ok(Some(format!(
            "{heads} is there: this is a folder of heads, which need the model they were made for"
        )));
    }
    if files.len("params.json").await?.is_some() {
        let what = "params.json is there: this is the layout of the model's makers; take the one for transformers";
        return Ok(Some(what.to_owned()));
    }
    Ok(None)
}

/// Fails where `bytes`, of the file `name`, are those of something else.
pub(super) fn check<F: Files>(files: &F, name: &str, bytes: &[u8]) -> Result<()> {
    match of_bytes(bytes) {
        Some(what) => Err(this_is(files, name, what)),
        // The marks of UTF-16, which is what Windows' shell writes.
        None if bytes.starts_with(b"\xFF\xFE") || bytes.starts_with(b"\xFE\xFF") => Err(this_is(files, name, UTF_16)),
        None => Ok(()),
    }
}

fn this_is<F: Files>(files: &F, name: &str, what: &str) -> Error {
    Error::format(format!("{}: this is {what}", named(files, name)))
}
