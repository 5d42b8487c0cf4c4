//! Whether files are the same: a hash of their names, lengths and content, of large ones in samples.

use std::collections::BTreeSet;

use foretoken::Result;
use foretoken::format::files::Files;

/// FNV-1a of 64 bits.
pub struct Fingerprint(u64);

impl Default for Fingerprint {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

/// Up to here a file is read whole.
const WHOLE: u64 = 64 << 20;

/// Pieces that stand for a larger file, and their length.
const PIECES: u64 = 256;
const PIECE: u64 = 64 << 10;

impl Fingerprint {
    pub fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    pub fn text(&self) -> String {
        format!("{:016x}", self.0)
    }

    async fn add_file<F: Files>(&mut self, files: &F, name: &str) -> Result<()> {
        let Some(len) = files.len(name).await? else { return Ok(()) };
        self.add(name.as_bytes());
        self.add(&len.to_le_bytes());
        if len <= WHOLE {
            self.add(&files.read(name, 0..len).await?);
            return Ok(());
        }
        for piece in 0..PIECES {
            let start = (len - PIECE) / (PIECES - 1) * piece;
            self.add(&files.read(name, start..start + PIECE).await?);
        }
        Ok(())
    }
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
    let mut fingerprint = Fingerprint::default();
    for name in &names {
        fingerprint.add_file(files, name).await?;
    }
    Ok(fingerprint.text())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_hash() {
        let mut fingerprint = Fingerprint::default();
        fingerprint.add(b"foobar");
        assert_eq!(fingerprint.text(), "85944171f73967e8");
    }
}
