//! What the hub says of a repository: its commit, and its files with their lengths and hashes.

use std::result::Result as StdResult;

use foretoken::{Error, Result};
use serde::Deserialize;

use super::hash::ContentHash;
use super::http::{Client, Reply, Trouble, encoded};
use super::name::HubName;

/// More than a list of a hundred thousand files takes.
const LONGEST: u64 = 128 << 20;

/// A repository at one commit.
#[derive(Debug)]
pub struct Listing {
    /// The commit's hash.
    pub commit: String,
    /// Its files.
    pub files: Vec<RemoteFile>,
}

/// A file of a repository.
#[derive(Clone, Debug)]
pub struct RemoteFile {
    /// The name, with slashes between folders.
    pub name: String,
    /// Its length in bytes, where the list has it.
    pub size: Option<u64>,
    /// The hash of its content, where the list has it.
    pub hash: Option<ContentHash>,
}

#[derive(Deserialize)]
struct Repository {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Large>,
}

#[derive(Deserialize)]
struct Large {
    sha256: Option<String>,
    size: Option<u64>,
}

impl Listing {
    /// Asks for it.
    ///
    /// # Errors
    /// Where there is no such model, the user may not see it, or the answer is no such list.
    pub fn ask(client: &Client, name: &HubName) -> Result<Self> {
        let path = format!(
            "/api/models/{}/revision/{}?blobs=true",
            encoded(&name.repository, true),
            encoded(name.revision(), false)
        );
        client.patience.persist(|| {
            let reply = client.get(&path, None)?;
            if reply.status != 200 {
                return Err(refused(client, name, None, &reply).into());
            }
            let kind = reply.header("content-type").unwrap_or_default().to_owned();
            let bytes = reply.read_whole(LONGEST)?;
            Self::read(&bytes, &kind).map_err(|what| {
                let host = client.host();
                Trouble::from(Error::io(format!("{name}: {host} answered the question for its files with {what}")))
            })
        })
    }

    fn read(json: &[u8], kind: &str) -> StdResult<Self, String> {
        let Repository { sha, siblings } = serde_json::from_slice(json).map_err(|error| match kind {
            kind if kind.starts_with("text/html") => {
                "a web page instead of JSON; does the network ask to log in, or is HF_ENDPOINT no hub?".to_owned()
            }
            _ => format!("what is no list of a model's files ({error}); is HF_ENDPOINT a hub?"),
        })?;
        if !is_commit(&sha) {
            return Err(format!("the commit '{sha}', which is no hash"));
        }
        let files = siblings.into_iter().map(Sibling::read).collect::<StdResult<_, _>>()?;
        Ok(Self { commit: sha, files })
    }
}

impl Sibling {
    fn read(self) -> StdResult<RemoteFile, String> {
        let Self { rfilename: name, size, blob_id, lfs } = self;
        // Nothing of such a list is to be trusted: git has no such names.
        if name.starts_with('/') || name.split('/').any(|part| part == "..") || name.contains(char::is_control) {
            return Err(format!("a file called '{}', which leads out of its folder", name.escape_debug()));
        }
        let (size, hash) = match lfs {
            Some(Large { sha256: Some(hash), size: large }) => (large.or(size), Some(hash)),
            _ => (size, blob_id),
        };
        let hash = hash.map(|hash| ContentHash::read(&hash)).transpose()?;
        Ok(RemoteFile { name, size, hash })
    }
}

/// Whether this is git's hash of a commit.
pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// The error that an answer is which gives nothing, and what to do about it.
pub fn refused(client: &Client, name: &HubName, file: Option<&str>, reply: &Reply) -> Error {
    let (host, repository, code) = (client.host(), &name.repository, reply.code.as_deref().unwrap_or_default());
    let page = format!("{}/{repository}", client.endpoint());
    let what = match (reply.status, code) {
        (_, "GatedRepo") | (403, _) => {
            let token = if client.has_token() { "" } else { ", and set HF_TOKEN to a token of yours" };
            format!("{host} gives it only to those who have accepted its terms: open {page} and accept them{token}")
        }
        (_, "RevisionNotFound") => {
            format!("{host} has no revision '{}' of it; {page} lists its branches and tags", name.revision())
        }
        (_, "EntryNotFound") => format!("{host} has no file {} of it; {page} lists them", file.unwrap_or_default()),
        (401, _) if client.has_token() => {
            format!(
                "{host} does not accept the token of HF_TOKEN or of the token file, or knows no such model; check both"
            )
        }
        (401 | 404, _) => {
            let hint = if client.has_token() { "" } else { "; for a private one set HF_TOKEN" };
            format!("{host} knows no such model, nor is there a folder of this name here; check the name{hint}")
        }
        _ => format!("{host}: {}", reply.said()),
    };
    Error::input(format!("{name}: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn read(json: &str) -> StdResult<Listing, String> {
        Listing::read(json.as_bytes(), "application/json")
    }

    #[test]
    fn lists_are_read() {
        let sha256 = "ab".repeat(32);
        let json = format!(
            r#"{{"id": "a/b", "sha": "{COMMIT}", "siblings": [
                {{"rfilename": "config.json", "size": 3, "blobId": "{COMMIT}"}},
                {{"rfilename": "Q4/m.gguf", "size": 134, "blobId": "{COMMIT}", "lfs": {{"sha256": "{sha256}", "size": 9, "pointerSize": 134}}}},
                {{"rfilename": "bare"}}]}}"#
        );
        let Listing { commit, files } = read(&json).unwrap();
        assert_eq!(commit, COMMIT);
        let found: Vec<_> = files.iter().map(|file| (&file.name[..], file.size)).collect();
        assert_eq!(found, [("config.json", Some(3)), ("Q4/m.gguf", Some(9)), ("bare", None)]);
        let hashes: Vec<_> = files.iter().map(|file| file.hash.as_ref().map(ContentHash::name)).collect();
        assert_eq!(hashes, [Some(COMMIT), Some(&sha256[..]), None]);
    }

    #[test]
    fn a_list_of_a_hundred_thousand_files_is_read() {
        let files: Vec<String> = (0..100_000)
            .map(|i| format!(r#"{{"rfilename": "data/part-{i:06}.bin", "size": {i}, "blobId": "{COMMIT}"}}"#))
            .collect();
        let json = format!(r#"{{"sha": "{COMMIT}", "siblings": [{}]}}"#, files.join(","));
        assert!((json.len() as u64) < LONGEST / 8);
        assert_eq!(read(&json).unwrap().files.len(), 100_000);
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let with = |file: &str| format!(r#"{{"sha": "{COMMIT}", "siblings": [{file}]}}"#);
        for (json, part) in [
            ("{}".to_owned(), "missing field `sha`"),
            (r#"{"sha": "main"}"#.to_owned(), "the commit 'main', which is no hash"),
            (format!(r#"{{"sha": "../{}"}}"#, &COMMIT[3..]), "which is no hash"),
            (with(r#"{"rfilename": "../x.gguf"}"#), "'../x.gguf', which leads out of its folder"),
            (with(r#"{"rfilename": "a/../../x.gguf"}"#), "which leads out of its folder"),
            (with(r#"{"rfilename": "/etc/passwd"}"#), "which leads out of its folder"),
            (with(r#"{"rfilename": "a\u001b[2J"}"#), "which leads out of its folder"),
            (with(r#"{"rfilename": "a", "blobId": "../../x"}"#), "'../../x'"),
            (with(r#"{"rfilename": "a", "lfs": {"sha256": "ABC"}}"#), "'abc'"),
        ] {
            let error = read(&json).unwrap_err();
            assert!(error.contains(part), "{json}: {error}");
        }
        let page = Listing::read(b"<!doctype html>", "text/html; charset=utf-8").unwrap_err();
        assert!(page.contains("a web page instead of JSON"), "{page}");
    }
}
