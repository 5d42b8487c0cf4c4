//! A model's name on the hub, as users write it.

use std::fmt;
use std::result::Result as StdResult;

use foretoken::{Error, Result};

/// The longest owner or name that the hub gives.
const LONGEST: usize = 96;

/// The revision of a name without one.
const MAIN: &str = "main";

/// `owner/name`, perhaps with a revision, and which of its files are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubName {
    /// `owner/name`.
    pub repository: String,
    /// A branch, tag or commit.
    pub revision: Option<String>,
    /// Which of its files.
    pub pick: Pick,
}

/// Which of a repository's files are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pick {
    /// The files that suit this machine best.
    Any,
    /// A quantisation's, such as `Q4_K_M`.
    Quantization(String),
    /// One of this name, and its other parts.
    File(String),
}

impl HubName {
    /// The name that `text` is; `None` for what can only be a path.
    ///
    /// # Errors
    /// For a name of the hub's with a revision, quantisation or file that none can be.
    pub fn parse(text: &str) -> Result<Option<Self>> {
        let Some((owner, rest)) = text.split_once('/') else { return Ok(None) };
        let end = rest.find(['@', ':', '/']).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        let is_file = rest.is_empty() && (ends_with(name, ".gguf") || ends_with(name, ".safetensors"));
        if !is_part(owner) || !is_part(name) || is_file {
            return Ok(None);
        }
        // The only files that are models are those in GGUF; a longer path is one of this machine's.
        let has_file = ends_with(rest, ".gguf");
        if rest.starts_with('/') && !has_file {
            return Ok(None);
        }
        let wrong = |what: &str| Error::input(format!("{text}: {what}; expected {EXPECTED}"));
        let repository = format!("{owner}/{name}");
        let (revision, rest) = match rest.strip_prefix('@') {
            None => (None, rest),
            Some(rest) => {
                let (revision, rest) =
                    rest.split_at(rest.find([':', if has_file { '/' } else { ':' }]).unwrap_or(rest.len()));
                if !is_revision(revision) {
                    return Err(wrong(&format!("'{revision}' is no revision")));
                }
                (Some(revision.to_owned()), rest)
            }
        };
        let pick = if let Some(file) = rest.strip_prefix('/') {
            check_file(file).map_err(|what| wrong(&what))?;
            Pick::File(file.to_owned())
        } else if let Some(format) = rest.strip_prefix(':') {
            if format.is_empty() || !format.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b)) {
                return Err(wrong(&format!("'{format}' is no quantisation")));
            }
            Pick::Quantization(format.to_owned())
        } else {
            Pick::Any
        };
        Ok(Some(Self { repository, revision, pick }))
    }

    /// The name that `text` is.
    ///
    /// # Errors
    /// Where it is none.
    pub fn expect(text: &str) -> Result<Self> {
        let none = || Error::input(format!("'{text}' is no name on the hub; expected {EXPECTED}"));
        Self::parse(text)?.ok_or_else(none)
    }

    /// The revision, which is `main` where none is given.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(MAIN)
    }
}

/// What names look like, for messages.
const EXPECTED: &str = "owner/name, owner/name@revision, owner/name:Q4_K_M or owner/name/file.gguf";

impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        match &self.pick {
            Pick::Any => Ok(()),
            Pick::Quantization(format) => write!(f, ":{format}"),
            Pick::File(file) => write!(f, "/{file}"),
        }
    }
}

/// Whether a name ends like this, in capitals or not.
pub fn ends_with(name: &str, ending: &str) -> bool {
    let start = name.len().checked_sub(ending.len());
    start.and_then(|start| name.get(start..)).is_some_and(|end| end.eq_ignore_ascii_case(ending))
}

/// Checks that a file's name leads to a place below its folder, on every system.
pub fn check_file(name: &str) -> StdResult<(), String> {
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    if !name.split('/').all(plain) || name.contains(|c: char| c == '\\' || c == ':' || c.is_control()) {
        return Err(format!("'{name}' is no name of a file below its folder"));
    }
    Ok(())
}

/// Whether the hub gives such names to owners and their models.
fn is_part(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    !name.is_empty()
        && name.len() <= LONGEST
        && name.bytes().all(plain)
        && !name.contains("..")
        && !name.contains("--")
        && !name.starts_with(['.', '-'])
        && !name.ends_with(['.', '-'])
}

/// Whether git has such names for branches and tags; of theirs, those that lead nowhere else as a path.
fn is_revision(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-/+".contains(&b);
    name.bytes().all(plain) && check_file(name).is_ok() && !name.starts_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        let pick = |text: &str| match HubName::parse(text).unwrap() {
            Some(name) => {
                assert_eq!(name.to_string(), text);
                (name.repository, name.revision, name.pick)
            }
            None => panic!("{text} is a name"),
        };
        let some = |text: &str| Some(text.to_owned());
        let (any, format) = (Pick::Any, |text: &str| Pick::Quantization(text.to_owned()));
        let file = |text: &str| Pick::File(text.to_owned());
        let owned = |text: &str| text.to_owned();
        assert_eq!(pick("a/b"), (owned("a/b"), None, any.clone()));
        assert_eq!(pick("a-1/b_c.2@v1.0"), (owned("a-1/b_c.2"), some("v1.0"), any.clone()));
        assert_eq!(pick("a/b@refs/pr/1"), (owned("a/b"), some("refs/pr/1"), any));
        assert_eq!(pick("a/b:q4_k_m"), (owned("a/b"), None, format("q4_k_m")));
        assert_eq!(pick("a/b@main:UD-Q4_K_XL"), (owned("a/b"), some("main"), format("UD-Q4_K_XL")));
        assert_eq!(pick("a/b/c.gguf"), (owned("a/b"), None, file("c.gguf")));
        assert_eq!(pick("a/b/Q4/c-00001-of-00002.GGUF"), (owned("a/b"), None, file("Q4/c-00001-of-00002.GGUF")));
        assert_eq!(pick("a/b@v1/Q4/c.gguf"), (owned("a/b"), some("v1"), file("Q4/c.gguf")));
    }

    #[test]
    fn paths_are_no_names() {
        let paths = [
            "",
            "a",
            "a/",
            "/a/b",
            "./a",
            "../a",
            "a/..",
            "~/a",
            "a/b/",
            "a/b/c",
            "a/b.gguf",
            "a/b.GGUF",
            "a/b.safetensors",
            "C:/a",
            "a\\b",
            "a b/c",
            ".a/b",
            "a/b-",
            "a--b/c",
            "größer/b",
            "a/b/c.safetensors",
        ];
        for path in paths {
            assert_eq!(HubName::parse(path).unwrap(), None, "{path}");
        }
        let long = format!("a/{}", "b".repeat(97));
        assert_eq!(HubName::parse(&long).unwrap(), None);
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for (text, part) in [
            ("a/b/../../c.gguf", "'../../c.gguf' is no name of a file"),
            ("a/b//c.gguf", "'/c.gguf' is no name of a file"),
            ("a/b/c\\d.gguf", "is no name of a file"),
            ("a/b@", "'' is no revision"),
            ("a/b@../x", "'../x' is no revision"),
            ("a/b@x\u{1b}", "is no revision"),
            ("a/b@-x", "'-x' is no revision"),
            ("a/b:", "'' is no quantisation"),
            ("a/b:../x", "'../x' is no quantisation"),
            ("a/b@v1:", "'' is no quantisation"),
        ] {
            let error = HubName::parse(text).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("expected owner/name, "), "{text}: {error}");
        }
    }
}
