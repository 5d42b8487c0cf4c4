//! Whether something is the same as before.

use std::collections::BTreeSet;

use super::files::{Files, read_exact};
use crate::error::Result;

/// FNV-1a of 64 bits: tells whether something is the same, not whether somebody forged it.
#[derive(Clone, Debug)]
pub struct Hash(u64);

impl Default for Hash {
    fn default() -> Self {
        Self::new()
    }
}

impl Hash {
    /// Of nothing yet.
    pub fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Takes bytes in.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    }

    /// Takes a named part in. Its length comes first, so that parts cannot flow into each other.
    pub fn add_part(&mut self, name: &str, bytes: &[u8]) {
        self.add(name.as_bytes());
        self.add(&(bytes.len() as u64).to_le_bytes());
        self.add(bytes);
    }

    /// Sixteen hexadecimal digits.
    pub fn text(&self) -> String {
        format!("{:016x}", self.0)
    }
}

/// Up to here a file is read whole.
const WHOLE: u64 = 64 << 20;

/// Pieces that stand for a larger file, and their length.
const PIECES: u64 = 256;
const PIECE: u64 = 64 << 10;

/// A hash of the files with these names, as far as they are there: names, lengths and content, of large ones in samples.
pub(super) async fn hash_files<F: Files>(files: &F, names: BTreeSet<String>) -> Result<String> {
    let mut hash = Hash::new();
    for name in &names {
        let Some(len) = files.len(name).await? else { continue };
        hash.add(name.as_bytes());
        hash.add(&len.to_le_bytes());
        if len <= WHOLE {
            hash.add(&read_exact(files, name, 0..len).await?);
            continue;
        }
        for piece in 0..PIECES {
            let start = (len - PIECE) / (PIECES - 1) * piece;
            hash.add(&read_exact(files, name, start..start + PIECE).await?);
        }
    }
    Ok(hash.text())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_hash() {
        let mut hash = Hash::new();
        hash.add(b"foobar");
        assert_eq!(hash.text(), "85944171f73967e8");
    }

    #[test]
    fn parts_do_not_flow_into_each_other() {
        let of = |parts: &[(&str, &[u8])]| {
            let mut hash = Hash::new();
            parts.iter().for_each(|(name, bytes)| hash.add_part(name, bytes));
            hash.text()
        };
        assert_eq!(of(&[("a", b"bc")]), of(&[("a", b"bc")]));
        assert_ne!(of(&[("a", b"bc")]), of(&[("ab", b"c")]));
        assert_ne!(of(&[("a", b"b"), ("", b"c")]), of(&[("a", b"bc"), ("", b"")]));
    }
}
