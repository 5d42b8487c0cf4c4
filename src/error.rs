//! The one error type: what went wrong, where, what was expected and found, and what to do.
//!
//! It never carries a backtrace or another library's type: messages are written for the user of the command.

use std::fmt;

/// The result of every fallible call in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What kind of trouble an [`Error`] reports, for callers that react differently to each.
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

impl Error {
    /// An error of `kind`; `message` says what, where, expected, got, and what to do.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// The kind of trouble.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The same error with the place it happened in put before the message: `place: message`.
    #[must_use]
    pub fn within(self, place: impl fmt::Display) -> Self {
        Self { message: format!("{place}: {}", self.message), ..self }
    }

    pub(crate) fn io(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Io, message)
    }

    pub(crate) fn format(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Format, message)
    }

    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    pub(crate) fn input(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Input, message)
    }
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

impl std::error::Error for Error {}
