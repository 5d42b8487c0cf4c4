//! Whether something is the same as before.

/// FNV-1a of 64 bits: tells whether something is the same, not whether somebody forged it.
pub struct Hash(u64);

impl Hash {
    pub fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub fn add(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    }

    /// Takes a named part in. Its length comes first, so that parts cannot flow into each other.
    pub fn add_part(&mut self, name: &str, bytes: &[u8]) {
        self.add(name.as_bytes());
        self.add(&(bytes.len() as u64).to_le_bytes());
        self.add(bytes);
    }

    pub fn text(&self) -> String {
        format!("{:016x}", self.0)
    }
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
