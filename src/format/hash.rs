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
    /// The hash of nothing yet.
    pub fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Takes bytes in.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    }

    /// Takes a named part in. Its length comes first, so that parts cannot flow into each other.
    pub fn add_part(&mut self, name: &str, bytes: &[u8]) {
        self.begin_part(name, bytes.len() as u64);
        self.add(bytes);
    }

    /// Takes the name and the length of a part in, whose bytes follow.
    fn begin_part(&mut self, name: &str, len: u64) {
        self.add(name.as_bytes());
        self.add(&len.to_le_bytes());
    }

    /// Sixteen hexadecimal digits.
    pub fn text(&self) -> String {
        format!("{:016x}", self.0)
    }
}

/// Bytes read at a time: a source that is no memory holds no more of a file.
const PIECE: u64 = 16 << 20;

/// A hash of the files with these names, as far as they are there: names, lengths and content.
pub(super) async fn hash_files<F: Files>(files: &F, names: BTreeSet<String>) -> Result<String> {
    let mut hash = Hash::new();
    for name in &names {
        let Some(len) = files.len(name).await? else { continue };
        hash.begin_part(name, len);
        for start in (0..len).step_by(PIECE as usize) {
            hash.add(&read_exact(files, name, start..len.min(start + PIECE)).await?);
        }
    }
    Ok(hash.text())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::files::MemoryFiles;

    #[test]
    fn the_published_hash() {
        let mut hash = Hash::new();
        hash.add(b"foobar");
        assert_eq!(hash.text(), "85944171f73967e8");
    }

    #[test]
    fn every_byte_of_a_large_file_counts() {
        let hash = |change: Option<usize>| {
            let mut bytes = vec![7; 2 * PIECE as usize + 3];
            if let Some(at) = change {
                bytes[at] = 8;
            }
            let files =
                MemoryFiles { files: [("a".to_owned(), bytes.clone().into())].into(), ..MemoryFiles::default() };
            let names = ["a", "absent"].map(str::to_owned).into();
            let mut whole = Hash::new();
            whole.add_part("a", &bytes);
            let found = pollster::block_on(hash_files(&files, names)).unwrap();
            assert_eq!(found, whole.text());
            found
        };
        let plain = hash(None);
        for at in [0, 100_003, PIECE as usize, 2 * PIECE as usize + 2] {
            assert_ne!(hash(Some(at)), plain, "{at}");
        }
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
