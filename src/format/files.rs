//! Where a checkpoint's bytes come from: a folder, a web server, memory.
//!
//! The format floor reads through this trait and never opens anything itself.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::sync::OnceLock;

use super::foreign;
use super::layouts::Derived;
use crate::error::{Error, Result, folder_of};

/// A flat set of named files that can be read in parts.
///
/// An implementation may write `async fn`: its futures only need to be `Send`, so that a model can be loaded on any executor.
pub trait Files: Send + Sync {
    /// The length of the file `name` in bytes, or `None` when there is no such file.
    fn len(&self, name: &str) -> impl Future<Output = Result<Option<u64>>> + Send;

    /// The bytes of `name` in `range`, borrowed where the file is mapped or in memory. Callers go through [`read_exact`],
    /// which refuses an answer of another length.
    fn read(&self, name: &str, range: Range<u64>) -> impl Future<Output = Result<Cow<'_, [u8]>>> + Send;

    /// The folder or URL, for messages.
    fn describe(&self) -> String;

    /// The names of all files, in order, where that is known: a server does not tell. Some need be no files.
    fn names(&self) -> Vec<String> {
        Vec::new()
    }

    /// Where to keep what is found out about the files. Without such a place it is found out at each opening.
    fn known(&self) -> Option<&Known> {
        None
    }
}

/// Findings about files that do not change, which would take long to make again.
#[derive(Debug, Default)]
pub struct Known(pub(super) OnceLock<Derived>);

/// Exactly the bytes of `name` in `range`; fails, naming the file, when fewer or more come back.
pub async fn read_exact<'f, F: Files>(files: &'f F, name: &str, range: Range<u64>) -> Result<Cow<'f, [u8]>> {
    let bytes = files.read(name, range.clone()).await?;
    let expected = range.end.saturating_sub(range.start);
    if bytes.len() as u64 != expected {
        let (got, place) = (bytes.len(), named(files, name));
        return Err(Error::io(format!(
            "{place}: expected {expected} bytes from offset {}, got {got}; was the file changed while it was \
             read?",
            range.start
        )));
    }
    Ok(bytes)
}

/// The whole of `name`, or `None` when there is no such file; fails when it is longer than `max_bytes`.
pub async fn read_whole<'f, F: Files>(files: &'f F, name: &str, max_bytes: u64) -> Result<Option<Cow<'f, [u8]>>> {
    let Some(len) = files.len(name).await? else { return Ok(None) };
    if len > max_bytes {
        let place = named(files, name);
        return Err(Error::format(format!("{place}: at most {max_bytes} bytes are read, got {len}")));
    }
    let bytes = read_exact(files, name, 0..len).await?;
    foreign::check(files, name, &bytes)?;
    Ok(Some(bytes))
}

/// The file `name` and where it is, for messages.
pub(super) fn named<F: Files>(files: &F, name: &str) -> String {
    let place = files.describe();
    // A place that is this very file says it all.
    if folder_of(&place, name).is_some() { place } else { format!("{name} in {place}") }
}

/// Files in memory: the embedded model, and tests.
#[derive(Clone, Debug, Default)]
pub struct MemoryFiles {
    /// The name of the set in messages.
    pub name: String,
    /// The contents by file name.
    pub files: BTreeMap<String, Cow<'static, [u8]>>,
}

impl Files for MemoryFiles {
    async fn len(&self, name: &str) -> Result<Option<u64>> {
        Ok(self.files.get(name).map(|bytes| bytes.len() as u64))
    }

    async fn read(&self, name: &str, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let bytes = self.files.get(name).ok_or_else(|| Error::io(format!("{name}: not found in {}", self.name)))?;
        let part = || bytes.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?);
        part().map(Cow::Borrowed).ok_or_else(|| {
            let (len, Range { start, end }) = (bytes.len(), &range);
            Error::io(format!("{name} in {}: bytes {start}..{end} were asked for, but it holds {len}", self.name))
        })
    }

    fn describe(&self) -> String {
        self.name.clone()
    }

    fn names(&self) -> Vec<String> {
        self.files.keys().cloned().collect()
    }
}
