//! Hashes of files as the hub states them: SHA-256 of large ones, git's of the others.

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The hash of a file's content, and the name under which the cache keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContentHash {
    /// The SHA-256 of the content, as large files have it.
    Sha256(String),
    /// SHA-1 of the content behind a line with its length: what git knows files by.
    Git(String),
}

impl ContentHash {
    /// The hash that these digits are, by how many there are.
    ///
    /// # Errors
    /// Where they are none.
    pub fn read(digits: &str) -> Result<Self, String> {
        let digits = digits.to_ascii_lowercase();
        let is_hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
        match digits.len() {
            64 if is_hex => Ok(Self::Sha256(digits)),
            40 if is_hex => Ok(Self::Git(digits)),
            _ => Err(format!("the hash '{}', which is none that is known", digits.escape_debug())),
        }
    }

    /// Its digits.
    pub fn name(&self) -> &str {
        match self {
            Self::Sha256(digits) | Self::Git(digits) => digits,
        }
    }

    /// What computes the hash of a file of `size` bytes.
    pub fn hasher(&self, size: u64) -> Hasher {
        match self {
            Self::Sha256(_) => Hasher::Sha256(Sha256::new()),
            Self::Git(_) => Hasher::Git(Sha1::new_with_prefix(format!("blob {size}\0"))),
        }
    }
}

/// A hash in the making.
pub enum Hasher {
    Sha256(Sha256),
    Git(Sha1),
}

impl Hasher {
    /// Takes more of the content in.
    pub fn add(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Git(hash) => hash.update(bytes),
        }
    }

    /// The digits of the hash.
    pub fn digits(self) -> String {
        let bytes = match self {
            Self::Sha256(hash) => hash.finalize().to_vec(),
            Self::Git(hash) => hash.finalize().to_vec(),
        };
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_git_and_sha256sum() {
        for (hash, expected) in [
            (ContentHash::Git(String::new()), "ce013625030ba8dba906f756967f9e9ca394464a"),
            (ContentHash::Sha256(String::new()), "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"),
        ] {
            let mut hasher = hash.hasher(6);
            hasher.add(b"hel");
            hasher.add(b"lo\n");
            assert_eq!(hasher.digits(), expected);
            assert_eq!(ContentHash::read(expected).unwrap().name(), expected);
        }
    }
}
