//! The files of a repository read where they are: enough for headers, so that what a model needs is known before it is downloaded.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;

use foretoken::format::files::Files;
use foretoken::{Error, Result};

use super::choice::Sized;
use super::download::{address, content_range};
use super::http::{Client, Trouble};
use super::listing::refused;
use super::name::{HubName, ends_with};

/// Bytes of a piece: headers of safetensors are small, those of GGUF have a vocabulary in them.
const SMALL: u64 = 256 << 10;
const LARGE: u64 = 2 << 20;

/// More than headers have. A model that wants more of its files for a look is looked at once they are here.
const MOST: u64 = 32 << 20;

/// Files of a repository at a commit, a piece at a time.
pub struct RemoteFiles<'a> {
    client: &'a Client,
    model: &'a HubName,
    commit: &'a str,
    /// The names without their folder, and the whole names with the lengths.
    files: BTreeMap<String, Sized>,
    pieces: Mutex<BTreeMap<(String, u64), Vec<u8>>>,
}

impl<'a> RemoteFiles<'a> {
    /// These files, which all lie in one folder.
    pub fn new(client: &'a Client, model: &'a HubName, commit: &'a str, files: &[Sized]) -> Self {
        let base = |name: &str| name.rsplit('/').next().unwrap_or(name).to_owned();
        let files = files.iter().map(|(name, size)| (base(name), (name.clone(), *size))).collect();
        Self { client, model, commit, files, pieces: Mutex::default() }
    }

    fn missing(&self, name: &str) -> Error {
        Error::io(format!("{name}: not found in {}", self.describe()))
    }

    /// A piece of a file, read once.
    fn piece(&self, name: &str, start: u64, end: u64) -> Result<Vec<u8>> {
        let mut pieces = self.pieces.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let key = (name.to_owned(), start);
        if let Some(piece) = pieces.get(&key) {
            return Ok(piece.clone());
        }
        let read: u64 = pieces.values().map(|piece| piece.len() as u64).sum();
        if read + (end - start) > MOST {
            return Err(Error::io(format!("{name}: more than {MOST} bytes would be read for a look")));
        }
        let (file, size) = self.files.get(name).ok_or_else(|| self.missing(name))?;
        let (path, range) = (address(self.model, self.commit, file), format!("{start}-{}", end - 1));
        let piece = self.client.patience.persist(|| {
            let reply = self.client.get(&path, Some(&range))?;
            match reply.status {
                206 if content_range(&reply).is_some_and(|(at, total)| at == start && total == Some(*size)) => {}
                206 => return Err(Error::io(format!("{name}: the part of another file came")).into()),
                // The whole may be a piece, too.
                200 if start == 0 && reply.header("content-length") == Some(&end.to_string()) => {}
                200 => return Err(Error::io(format!("{}: it gives whole files only", self.client.host())).into()),
                _ => return Err(refused(self.client, self.model, Some(file), &reply).into()),
            }
            let bytes = reply.read_whole(end - start)?;
            match bytes.len() as u64 == end - start {
                true => Ok(bytes),
                false => Err(Trouble::passing(format!("{name}: the connection ended too early"))),
            }
        })?;
        pieces.insert(key, piece.clone());
        Ok(piece)
    }
}

impl Files for RemoteFiles<'_> {
    async fn len(&self, name: &str) -> Result<Option<u64>> {
        Ok(self.files.get(name).map(|(_, size)| *size))
    }

    async fn read(&self, name: &str, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let (_, size) = self.files.get(name).ok_or_else(|| self.missing(name))?;
        if range.start > range.end || range.end > *size {
            let Range { start, end } = range;
            return Err(Error::io(format!("{name}: bytes {start}..{end} were asked for, but it holds {size}")));
        }
        let unit = if ends_with(name, ".gguf") { LARGE } else { SMALL };
        let mut bytes = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let start = at / unit * unit;
            let next = start.saturating_add(unit);
            let piece = self.piece(name, start, next.min(*size))?;
            let end = range.end.min(next);
            // Both lie within the piece, so they are small.
            bytes.extend_from_slice(&piece[(at - start) as usize..(end - start) as usize]);
            at = end;
        }
        Ok(bytes.into())
    }

    fn describe(&self) -> String {
        self.model.to_string()
    }

    fn names(&self) -> Vec<String> {
        self.files.keys().cloned().collect()
    }
}
