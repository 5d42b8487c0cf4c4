//! Typed access to a JSON object, with messages that name the file, the field, what was expected and what was found.
//!
//! An absent field and `null` mean the same: `None`.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The largest size, count or position that a configuration may state; products of two stay inside `u64`.
pub(super) const MAX_SIZE: usize = i32::MAX as usize;

/// A JSON object and the name under which messages mention it.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    place: &'a str,
    map: &'a Map<String, Value>,
}

/// Parses `json` as an object.
pub(super) fn parse_object(place: &str, json: &[u8]) -> Result<Map<String, Value>> {
    super::json::parse(json)
        .map_err(|error| Error::format(format!("{place}: expected a JSON object: {error}")).caused_by(error))
}

impl<'a> Fields<'a> {
    pub(super) fn new(place: &'a str, map: &'a Map<String, Value>) -> Self {
        Self { place, map }
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Whether the field is there at all, `null` included.
    pub(super) fn has_key(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.map.iter()
    }

    /// A whole number from 1 to [`MAX_SIZE`].
    pub(super) fn size(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "a whole number from 1 to 2147483647", |value| whole(value).filter(|&size| size > 0))
    }

    /// Like [`size`](Self::size), and the field must be there.
    pub(super) fn required_size(&self, key: &str) -> Result<usize> {
        self.size(key)?.ok_or_else(|| self.error(format!("`{key}` is missing; expected a whole number from 1")))
    }

    /// A whole number in `range`, and the field must be there.
    pub(super) fn within(&self, key: &str, range: RangeInclusive<usize>) -> Result<usize> {
        let number = self.get(key).and_then(whole).filter(|number| range.contains(number));
        number.ok_or_else(|| {
            let (least, most) = (range.start(), range.end());
            self.error(format!("`{key}`: expected a whole number from {least} to {most}, got {}", self.got(key)))
        })
    }

    /// The value of a field, as a message says it.
    pub(super) fn got(&self, key: &str) -> String {
        self.get(key).map_or("nothing".to_owned(), brief)
    }

    /// The name of the field in messages.
    pub(super) fn place_of(&self, key: &str) -> String {
        format!("{}, `{key}`", self.place)
    }

    /// A whole number from 0 to [`MAX_SIZE`], 0 where absent.
    pub(super) fn count(&self, key: &str) -> Result<usize> {
        Ok(self.typed(key, "a whole number from 0", whole)?.unwrap_or(0))
    }

    /// A number above 0.
    pub(super) fn positive(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number above 0", |value| value.as_f64().filter(|&number| number.is_finite() && number > 0.0))
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "a string", Value::as_str)
    }

    pub(super) fn object(&self, key: &str) -> Result<Option<&'a Map<String, Value>>> {
        self.typed(key, "an object", Value::as_object)
    }

    /// A token id, or a list of them; `None` where absent.
    pub(super) fn token_ids(&self, key: &str) -> Result<Option<Vec<u32>>> {
        let id = |value: &Value| u32::try_from(value.as_u64()?).ok();
        self.typed(key, "a token id or a list of token ids", |value| match value {
            Value::Array(list) => list.iter().map(id).collect(),
            single => Some(vec![id(single)?]),
        })
    }

    fn typed<T>(&self, key: &str, expected: &str, convert: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match convert(value) {
            Some(typed) => Ok(Some(typed)),
            None => Err(self.error(format!("`{key}`: expected {expected}, got {}", brief(value)))),
        }
    }

    /// A broken value.
    pub(super) fn error(&self, message: impl std::fmt::Display) -> Error {
        Error::format(format!("{}: {message}", self.place))
    }

    /// A value that means something which is not implemented.
    pub(super) fn unsupported(&self, message: impl std::fmt::Display) -> Error {
        Error::unsupported(format!("{}: {message}", self.place))
    }
}

/// A whole number up to [`MAX_SIZE`].
fn whole(value: &Value) -> Option<usize> {
    usize::try_from(value.as_u64()?).ok().filter(|&number| number <= MAX_SIZE)
}

/// `value` as JSON, cut to a length that fits a message.
pub(super) fn brief(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
