//! Values of the metadata: places in the header's bytes, and what lies there.

use std::ops::Range;

use serde_json::{Number, Value as Json};

use super::Gguf;
use crate::error::Result;

/// The type of a value, or of a list's items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Unsigned(u8),
    Signed(u8),
    Float(u8),
    Flag,
    Text,
    List,
}

impl Kind {
    /// By its number in files.
    pub(super) fn new(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Unsigned(1),
            1 => Self::Signed(1),
            2 => Self::Unsigned(2),
            3 => Self::Signed(2),
            4 => Self::Unsigned(4),
            5 => Self::Signed(4),
            6 => Self::Float(4),
            7 => Self::Flag,
            8 => Self::Text,
            9 => Self::List,
            10 => Self::Unsigned(8),
            11 => Self::Signed(8),
            12 => Self::Float(8),
            _ => return None,
        })
    }

    /// The number that it has in files.
    pub(super) fn number(self) -> u32 {
        (0..).find(|&number| Self::new(number) == Some(self)).unwrap_or_default()
    }

    /// Bytes of a value; `None` where they differ.
    pub(super) fn size(self) -> Option<u64> {
        match self {
            Self::Unsigned(size) | Self::Signed(size) | Self::Float(size) => Some(size.into()),
            Self::Flag => Some(1),
            Self::Text | Self::List => None,
        }
    }

    /// What lies in the bytes of one value.
    fn json(self, bytes: &[u8]) -> Json {
        let mut eight = [0; 8];
        let len = bytes.len().min(8);
        eight[..len].copy_from_slice(&bytes[..len]);
        let whole = u64::from_le_bytes(eight);
        match self {
            Self::Unsigned(_) => whole.into(),
            Self::Signed(size) => {
                let above = 64 - 8 * u32::from(size);
                ((whole << above) as i64 >> above).into()
            }
            // As somebody would write it: 1e-6, not the double next to the single next to it.
            Self::Float(4) => f32::from_bits(whole as u32).to_string().parse().ok().and_then(Number::from_f64).into(),
            Self::Float(_) => Number::from_f64(f64::from_bits(whole)).into(),
            Self::Flag => (whole != 0).into(),
            Self::Text | Self::List => Json::Null,
        }
    }
}

/// A value, or a list of them.
#[derive(Clone, Debug)]
pub(super) struct Value {
    pub(super) kind: Kind,
    /// The items of a list.
    pub(super) items: Option<usize>,
    /// Its bytes in the header.
    pub(super) place: Range<usize>,
}

/// A list of the metadata, read item by item.
#[derive(Clone, Copy, Debug)]
pub struct List<'a> {
    kind: Kind,
    items: usize,
    bytes: &'a [u8],
}

impl<'a> List<'a> {
    /// How many items it has.
    pub fn len(&self) -> usize {
        self.items
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.items == 0
    }

    /// The bytes of each string.
    pub fn texts(&self) -> impl Iterator<Item = &'a [u8]> {
        let mut rest = self.bytes;
        (0..self.items).map_while(move |_| {
            let (text, after) = first_text(rest)?;
            rest = after;
            Some(text)
        })
    }

    /// The numbers and flags.
    pub fn numbers(&self) -> impl Iterator<Item = Json> {
        let (kind, size) = (self.kind, self.kind.size().unwrap_or(1) as usize);
        self.bytes.chunks_exact(size).map(move |bytes| kind.json(bytes))
    }
}

/// The string that `bytes` begin with, and what follows.
fn first_text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)
}

impl Gguf {
    /// The value under `key` as JSON: of a list its numbers, strings where they are in UTF-8.
    pub fn json(&self, key: &str) -> Option<Json> {
        let value = self.metadata.get(key)?;
        let bytes = &self.bytes[value.place.clone()];
        let text = |bytes: &[u8]| str::from_utf8(bytes).map(Json::from).unwrap_or_default();
        Some(match (value.items, value.kind) {
            (None, Kind::Text) => first_text(bytes).map_or(Json::Null, |(bytes, _)| text(bytes)),
            (None, kind) => kind.json(bytes),
            (Some(items), Kind::Text) => List { kind: Kind::Text, items, bytes }.texts().map(text).collect(),
            (Some(_), Kind::List) => Json::Null,
            (Some(items), kind) => List { kind, items, bytes }.numbers().collect(),
        })
    }

    /// The string under `key`.
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        let text =
            first_text(&self.bytes[value.place.clone()]).filter(|_| (value.items, value.kind) == (None, Kind::Text));
        match text.and_then(|(bytes, _)| str::from_utf8(bytes).ok()) {
            Some(text) => Ok(Some(text)),
            None => Err(self.unexpected(key, "a string in UTF-8")),
        }
    }

    /// The whole number under `key`, from 0.
    pub fn whole(&self, key: &str) -> Result<Option<u64>> {
        let Some(value) = self.single(key) else { return Ok(None) };
        value.as_u64().map(Some).ok_or_else(|| self.unexpected(key, "a whole number from 0"))
    }

    /// The flag under `key`.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.single(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.unexpected(key, "true or false"))
    }

    /// The value under `key` unless it is a list, which may be long.
    fn single(&self, key: &str) -> Option<Json> {
        match self.metadata.get(key)?.items {
            None => self.json(key),
            Some(_) => Some(Json::Null),
        }
    }

    /// The list of strings under `key`.
    pub fn texts(&self, key: &str) -> Result<Option<List<'_>>> {
        self.list(key, "a list of strings", |kind| kind == Kind::Text)
    }

    /// The list of numbers under `key`.
    pub fn numbers(&self, key: &str) -> Result<Option<List<'_>>> {
        let number = |kind| matches!(kind, Kind::Unsigned(_) | Kind::Signed(_) | Kind::Float(_));
        self.list(key, "a list of numbers", number)
    }

    fn list(&self, key: &str, expected: &str, fits: impl Fn(Kind) -> bool) -> Result<Option<List<'_>>> {
        let Some(Value { kind, items, place }) = self.metadata.get(key) else { return Ok(None) };
        match items.filter(|_| fits(*kind)) {
            Some(items) => Ok(Some(List { kind: *kind, items, bytes: &self.bytes[place.clone()] })),
            None => Err(self.unexpected(key, expected)),
        }
    }

    fn unexpected(&self, key: &str, expected: &str) -> crate::Error {
        let got = match self.metadata.get(key) {
            Some(Value { items: Some(_), .. }) => "a list".to_owned(),
            _ => self.json(key).as_ref().map_or("nothing".to_owned(), super::super::fields::brief),
        };
        self.broken(key, &format!("expected {expected}, got {got}"))
    }
}
