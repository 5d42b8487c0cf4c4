//! JSON as tools write it: with a byte order mark, as editors on Windows leave one, and with the numbers that Python adds to it.

use std::borrow::Cow;

use serde::Deserialize;

/// What Python's `json` writes for numbers that JSON does not have.
const PYTHON_NUMBERS: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];

/// Parses `json`.
pub(super) fn parse<T: for<'a> Deserialize<'a>>(json: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice(&plain(json))
}

/// `json` without a byte order mark, and with Python's own numbers as strings: who does not read them is not troubled by them, and
/// who does finds no number there.
pub(super) fn plain(json: &[u8]) -> Cow<'_, [u8]> {
    let json = json.strip_prefix("\u{FEFF}".as_bytes()).unwrap_or(json);
    let (mut made, mut copied, mut at) = (Vec::new(), 0, 0);
    while at < json.len() {
        if json[at] == b'"' {
            at = after_string(json, at);
            continue;
        }
        match PYTHON_NUMBERS.iter().find(|number| json[at..].starts_with(number)) {
            Some(number) => {
                made.extend_from_slice(&json[copied..at]);
                made.push(b'"');
                made.extend_from_slice(number);
                made.push(b'"');
                at += number.len();
                copied = at;
            }
            None => at += 1,
        }
    }
    if copied == 0 {
        return Cow::Borrowed(json);
    }
    made.extend_from_slice(&json[copied..]);
    Cow::Owned(made)
}

/// Where the string that begins at `at` is over.
fn after_string(json: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while at < json.len() && json[at] != b'"' {
        at += if json[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn parsed(text: &str) -> Value {
        parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn marks_and_numbers_of_other_writers_are_read() {
        assert_eq!(parsed("\u{FEFF}{\"a\": 1}"), json!({"a": 1}));
        assert_eq!(
            parsed("{\"a\": Infinity, \"b\": [-Infinity, NaN]}"),
            json!({"a": "Infinity", "b": ["-Infinity", "NaN"]})
        );
        assert_eq!(
            parsed(r#"{"NaN": "Infinity \" NaN", "b\\": NaN}"#),
            json!({"NaN": "Infinity \" NaN", "b\\": "NaN"})
        );
        for plain_text in ["{}", "[1, \"a\\", "\"", "", "{\"a\": \"NaN\"}"] {
            assert_eq!(*plain(plain_text.as_bytes()), *plain_text.as_bytes());
        }
    }

    #[test]
    fn what_is_no_json_stays_none() {
        for text in
            ["{\"a\": Inf}", "{\"a\": nan}", "{NaN: 1}{", "\u{FEFF}\u{FEFF}{}", "{\"a\": NaNNaN}", "{\"a\": 1NaN}"]
        {
            assert!(parse::<Value>(text.as_bytes()).is_err(), "{text}");
        }
    }
}
