//! JSON that says everything once: no field occurs twice, and none is `null`.
//!
//! serde_json keeps the last of two equal names without a word. Where an absent field means a default, both that and a
//! `null` hide mistakes.

use std::fmt;
use std::result::Result as StdResult;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Parses `json` as an object.
pub(super) fn parse_strictly(place: &str, json: &[u8]) -> Result<Map<String, Value>> {
    let broken = |problem: String| Error::format(format!("{place}: expected a JSON object: {problem}"));
    match super::json::parse(json).map_err(|error| broken(error.to_string()).caused_by(error))? {
        Strict(Value::Object(map)) => Ok(map),
        Strict(other) => Err(broken(format!("got {}", super::fields::brief(&other)))),
    }
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> StdResult<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value other than null")
    }

    fn visit_bool<E>(self, value: bool) -> StdResult<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> StdResult<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> StdResult<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> StdResult<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> StdResult<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> StdResult<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Strict(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> StdResult<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let Strict(value) = map.next_value()?;
            if fields.contains_key(&key) {
                return Err(A::Error::custom(format!("`{key}` occurs twice")));
            }
            fields.insert(key, value);
        }
        Ok(Value::Object(fields))
    }
}
