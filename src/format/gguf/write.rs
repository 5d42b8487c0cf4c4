//! The header of a file to be written: version 3, little-endian, tensors at multiples of 32 bytes.

use std::collections::BTreeMap;

use super::values::{Kind, Value};
use super::{ALIGNMENT, Gguf, MAGIC, TYPES};

/// The version that is written.
const VERSION: u32 = 3;

/// Metadata and tensors, in the order in which they are written.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// Values as they lie in a file, their type first.
    pairs: BTreeMap<String, Vec<u8>>,
    /// Name, type, sizes with the innermost first, and bytes.
    tensors: Vec<(String, u32, Vec<u64>, u64)>,
}

impl Head {
    /// The metadata of another file, and no tensors.
    pub(in crate::format) fn like(gguf: &Gguf) -> Self {
        let pairs = gguf.metadata.iter().map(|(key, value)| (key.clone(), gguf.stored(value))).collect();
        Self { pairs, tensors: Vec::new() }
    }

    /// Takes out what lies under `key`.
    pub(in crate::format) fn remove(&mut self, key: &str) {
        self.pairs.remove(key);
    }

    fn set(&mut self, key: &str, kind: Kind, bytes: &[u8]) {
        self.pairs.insert(key.to_owned(), [&kind.number().to_le_bytes(), bytes].concat());
    }

    /// Sets a whole number.
    pub(in crate::format) fn set_whole(&mut self, key: &str, number: u32) {
        self.set(key, Kind::Unsigned(4), &number.to_le_bytes());
    }

    /// Sets a number.
    pub(in crate::format) fn set_number(&mut self, key: &str, number: f32) {
        self.set(key, Kind::Float(4), &number.to_le_bytes());
    }

    /// Sets a flag.
    pub(in crate::format) fn set_flag(&mut self, key: &str, on: bool) {
        self.set(key, Kind::Flag, &[on.into()]);
    }

    /// Sets a text.
    pub(in crate::format) fn set_text(&mut self, key: &str, text: &str) {
        let mut bytes = Vec::new();
        push_text(&mut bytes, text);
        self.set(key, Kind::Text, &bytes);
    }

    /// Sets a list of texts.
    pub(in crate::format) fn set_texts<'t>(&mut self, key: &str, texts: impl ExactSizeIterator<Item = &'t str>) {
        let mut bytes = list_head(Kind::Text, texts.len());
        texts.for_each(|text| push_text(&mut bytes, text));
        self.set(key, Kind::List, &bytes);
    }

    /// Sets a list of numbers.
    pub(in crate::format) fn set_numbers(&mut self, key: &str, numbers: &[f32]) {
        let mut bytes = list_head(Kind::Float(4), numbers.len());
        bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        self.set(key, Kind::List, &bytes);
    }

    /// Sets a list of whole numbers.
    pub(in crate::format) fn set_wholes(&mut self, key: &str, numbers: &[i32]) {
        let mut bytes = list_head(Kind::Signed(4), numbers.len());
        bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        self.set(key, Kind::List, &bytes);
    }

    /// Adds a tensor of a type that files have, after those before it; its sizes have the outermost first.
    pub(in crate::format) fn add(&mut self, name: &str, dtype: &str, shape: &[usize], bytes: u64) {
        let number = TYPES.iter().find(|(_, known, ..)| *known == dtype).map_or(0, |(number, ..)| *number);
        let sizes = shape.iter().rev().map(|&size| size as u64).collect();
        self.tensors.push((name.to_owned(), number, sizes, bytes));
    }

    /// The bytes up to the first tensor's.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = [MAGIC, &VERSION.to_le_bytes()].concat();
        for count in [self.tensors.len(), self.pairs.len()] {
            bytes.extend((count as u64).to_le_bytes());
        }
        // Readers that look at the beginning only want to know the architecture.
        let first = |key: &str| key == "general.architecture";
        let pairs = self.pairs.iter().filter(|(key, _)| first(key));
        for (key, value) in pairs.chain(self.pairs.iter().filter(|(key, _)| !first(key))) {
            push_text(&mut bytes, key);
            bytes.extend(value);
        }
        let mut place = 0;
        for (name, number, sizes, len) in &self.tensors {
            push_text(&mut bytes, name);
            bytes.extend((sizes.len() as u32).to_le_bytes());
            sizes.iter().for_each(|size| bytes.extend(size.to_le_bytes()));
            bytes.extend(number.to_le_bytes());
            bytes.extend(u64::to_le_bytes(place));
            place += len + padding(*len) as u64;
        }
        bytes.resize(bytes.len() + padding(bytes.len() as u64), 0);
        bytes
    }

    /// Bytes of the tensors, with those between them.
    pub(in crate::format) fn data_bytes(&self) -> u64 {
        self.tensors.iter().map(|(.., len)| len + padding(*len) as u64).sum()
    }
}

/// Zeros after `len` bytes up to where the next tensor begins.
pub(in crate::format) fn padding(len: u64) -> usize {
    (len.next_multiple_of(ALIGNMENT) - len) as usize
}

fn list_head(kind: Kind, items: usize) -> Vec<u8> {
    [&kind.number().to_le_bytes()[..], &(items as u64).to_le_bytes()].concat()
}

fn push_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

impl Gguf {
    /// A value as it lies in the file, its type first.
    fn stored(&self, value: &Value) -> Vec<u8> {
        let bytes = &self.bytes[value.place.clone()];
        match value.items {
            None => [&value.kind.number().to_le_bytes(), bytes].concat(),
            Some(items) => [&Kind::List.number().to_le_bytes(), &list_head(value.kind, items)[..], bytes].concat(),
        }
    }
}
