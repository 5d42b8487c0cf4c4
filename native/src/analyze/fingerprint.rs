//! Whether files are the same: a hash of their names, lengths and content, of large ones in samples.

use std::collections::BTreeSet;

use foretoken::Result;
use foretoken::format::files::Files;

use crate::hash::Hash;

/// Up to here a file is read whole.
const WHOLE: u64 = 64 << 20;

/// Pieces that stand for a larger file, and their length.
const PIECES: u64 = 256;
const PIECE: u64 = 64 << 10;

async fn add_file<F: Files>(hash: &mut Hash, files: &F, name: &str) -> Result<()> {
    let Some(len) = files.len(name).await? else { return Ok(()) };
    hash.add(name.as_bytes());
    hash.add(&len.to_le_bytes());
    if len <= WHOLE {
        hash.add(&files.read(name, 0..len).await?);
        return Ok(());
    }
    for piece in 0..PIECES {
        let start = (len - PIECE) / (PIECES - 1) * piece;
        hash.add(&files.read(name, start..start + PIECE).await?);
    }
    Ok(())
}

/// Of the files with these names, as far as they are there, and of the shards that an index among them names.
pub async fn of_files<F: Files>(files: &F, names: &[&str]) -> Result<String> {
    const INDEX: &str = "model.safetensors.index.json";
    let mut names: BTreeSet<String> = names.iter().map(|&name| name.to_owned()).collect();
    if names.contains(INDEX)
        && let Some(len) = files.len(INDEX).await?
    {
        let index: serde_json::Value = serde_json::from_slice(&files.read(INDEX, 0..len).await?).unwrap_or_default();
        let shards = index["weight_map"].as_object().into_iter().flatten();
        names.extend(shards.filter_map(|(_, shard)| shard.as_str().map(str::to_owned)));
    }
    let mut hash = Hash::new();
    for name in &names {
        add_file(&mut hash, files, name).await?;
    }
    Ok(hash.text())
}

/// The files of a model.
pub const MODEL: &[&str] = &["config.json", "tokenizer.json", "model.safetensors", "model.safetensors.index.json"];

/// The files of heads, in any layout.
pub const HEADS: &[&str] = &[
    "mtp_config.json",
    "mtp.safetensors",
    "medusa_lm_head.safetensors",
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
];
