//! The one error type: what went wrong, where, what was expected and found, and what to do.
//!
//! Messages are written for people and stand alone: what another library said is part of them. Its error is kept all the
//! same, as the [source](std::error::Error::source).

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// The result of every fallible call in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// The kind of trouble that an [`Error`] reports, for callers that react differently to each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A file or folder is missing or cannot be read.
    Io,
    /// A file's content breaks its format: a truncated header, a wrong shape, NaN weights.
    Format,
    /// The checkpoint or request is well formed, but needs something that is not implemented.
    Unsupported,
    /// An argument makes no sense: an empty prompt, a token outside the vocabulary, a negative temperature.
    Input,
    /// No usable adapter was found, or the one asked for does not exist.
    Adapter,
    /// The model, or the cache for the context, does not fit the adapter.
    OutOfMemory,
    /// The GPU device was lost or reported an error while working.
    Device,
    /// Training met a loss or a gradient that is not a finite number.
    NotFinite,
    /// The self-test found a kernel that computes wrong results on this adapter.
    SelfTest,
}

/// An error with a [kind](ErrorKind) and a message for people.
///
/// The message names options as the library's fields are called, in backticks; [`Error::with_names`] gives them the names
/// that a program's users know. Two errors are equal if kind and message are.
#[derive(Clone, Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    cause: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind`; `message` says what, where, expected, got, and what to do.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), cause: None }
    }

    /// The kind of trouble.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The same error with the place it happened in put before the message: `place: message`. Where the place is the very file that
    /// the message begins with, it is named once.
    #[must_use]
    pub fn within(self, place: impl fmt::Display) -> Self {
        let place = place.to_string();
        let named = self.message.split_once(": ").and_then(|(file, _)| folder_of(&place, file));
        let message = match named {
            Some(folder) => format!("{folder}{}", self.message),
            None => format!("{place}: {}", self.message),
        };
        Self { message, ..self }
    }

    /// The same error with `cause` as its source.
    #[must_use]
    pub fn caused_by(self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { cause: Some(Arc::from(cause.into())), ..self }
    }

    /// The same error with options under other names: for each `(field, name)`, a field in backticks becomes the name.
    #[must_use]
    pub fn with_names(self, names: &[(&str, &str)]) -> Self {
        let rename = |message: String, (field, name): &(&str, &str)| message.replace(&format!("`{field}`"), name);
        Self { message: names.iter().fold(self.message, rename), ..self }
    }

    /// An error of [`ErrorKind::Io`].
    pub fn io(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Io, message)
    }

    /// An error of [`ErrorKind::Format`].
    pub fn format(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Format, message)
    }

    /// An error of [`ErrorKind::Unsupported`].
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// An error of [`ErrorKind::Input`].
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Input, message)
    }
}

/// What stands before the name `file` in a path that ends with it.
pub(crate) fn folder_of<'p>(path: &'p str, file: &str) -> Option<&'p str> {
    let folder = path.strip_suffix(file).filter(|_| !file.is_empty())?;
    (folder.is_empty() || folder.ends_with(['/', '\\'])).then_some(folder)
}

/// `1 token`, `2 tokens`.
pub(crate) fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause.as_deref().map(|cause| cause as &(dyn StdError + 'static))
    }
}

impl PartialEq for Error {
    fn eq(&self, other: &Self) -> bool {
        (self.kind, &self.message) == (other.kind, &other.message)
    }
}

impl Eq for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_outlives_clones_and_places() {
        let cause = std::io::Error::from(std::io::ErrorKind::NotFound);
        let error = Error::io(cause.to_string()).caused_by(cause).within("a.txt").clone();
        let source = error.source().and_then(|source| source.downcast_ref::<std::io::Error>()).expect("a source");
        assert_eq!(source.kind(), std::io::ErrorKind::NotFound);
        assert_eq!(error, Error::io(format!("a.txt: {source}")), "the message has it too");
        assert!(Error::input("none").source().is_none());
    }

    #[test]
    fn a_file_that_is_the_place_is_named_once() {
        let within = |message: &str, place: &str| Error::format(message).within(place).to_string();
        for (place, expected) in [
            ("/m/a.gguf", "/m/a.gguf: byte 4: wrong"),
            ("a.gguf", "a.gguf: byte 4: wrong"),
            ("C:\\m\\a.gguf", "C:\\m\\a.gguf: byte 4: wrong"),
            ("/m", "/m: a.gguf: byte 4: wrong"),
            ("/m/aa.gguf", "/m/aa.gguf: a.gguf: byte 4: wrong"),
        ] {
            assert_eq!(within("a.gguf: byte 4: wrong", place), expected);
        }
        assert_eq!(within("wrong", "/m/a.gguf"), "/m/a.gguf: wrong");
        assert_eq!(within(": wrong", "/m/"), "/m/: : wrong");
    }

    #[test]
    fn options_take_the_names_that_users_know() {
        let error = Error::input("length 9: use a smaller `length` or `max_norm`, not `weight_map`");
        let named = error.with_names(&[("length", "--seq-len"), ("max_norm", "--clip")]);
        assert_eq!(named.to_string(), "length 9: use a smaller --seq-len or --clip, not `weight_map`");
    }
}
