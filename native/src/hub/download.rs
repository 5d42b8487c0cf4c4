//! One file on its way into the cache: it goes on where it broke off, and gets its name only once its hash is right.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::result::Result as StdResult;

use foretoken::{Error, Result};
use indicatif::ProgressBar;

use super::cache::{Repository, UNFINISHED, make_parent};
use super::hash::{ContentHash, Hasher};
use super::http::{Client, Reply, Trouble, cut, encoded};
use super::listing::refused;
use super::name::HubName;
use super::verified;
use crate::output::io_error;
use crate::terminal::{bytes, print_status};

/// Bytes that are written at a time.
const CHUNK: usize = 256 << 10;

/// A file to download.
pub struct Wanted<'a> {
    /// Whose file it is.
    pub model: &'a HubName,
    /// The commit that it is taken from.
    pub commit: &'a str,
    /// Its name in the repository.
    pub file: &'a str,
    /// Its length.
    pub size: u64,
    /// The hash of its content.
    pub hash: &'a ContentHash,
}

/// Where a file of a commit is on the hub.
pub fn address(model: &HubName, commit: &str, file: &str) -> String {
    format!("/{}/resolve/{commit}/{}", encoded(&model.repository, true), encoded(file, true))
}

impl Wanted<'_> {
    /// Whether it is here, whole: a file of its length, which got its name when its hash was right.
    pub fn is_there(&self, repository: &Repository) -> bool {
        self.place(repository).is_some()
    }

    /// The file with its content, if it is here.
    pub fn place(&self, repository: &Repository) -> Option<PathBuf> {
        let has_size = |path: &Path| fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() == self.size);
        let (blob, own) = (repository.blob(self.hash), repository.snapshot(self.commit).join(self.file));
        if has_size(&blob) {
            return Some(blob);
        }
        // Without links it is in its place.
        (has_size(&own) && !own.is_symlink()).then_some(own)
    }

    /// How much of it is here from an earlier time.
    pub fn begun(&self, repository: &Repository) -> u64 {
        fs::metadata(unfinished(&repository.blob(self.hash))).map_or(0, |file| file.len().min(self.size))
    }

    /// Makes sure that its content is in the cache. The bar shows how far it is beyond where it stands now.
    ///
    /// # Errors
    /// Where the hub does not give it, not with this length or hash, or it cannot be written.
    pub fn fetch(&self, client: &Client, repository: &Repository, bar: &ProgressBar) -> Result<()> {
        let before = bar.position();
        let shown = |len: u64| bar.set_position(before + len);
        let _lock = self.lock(repository)?;
        let blob = repository.blob(self.hash);
        // Another program may have been quicker.
        if !self.is_there(repository) {
            let mut partial = Partial::open(&unfinished(&blob), self)?;
            let mut resumed = partial.len > 0;
            loop {
                shown(partial.len);
                self.fill(client, &mut partial, &shown)?;
                if partial.digits() == self.hash.name() {
                    break;
                }
                partial.clear()?;
                // A part that was here before may belong to another file.
                if !std::mem::take(&mut resumed) {
                    return Err(self.wrong_hash(client));
                }
            }
            partial.finish(&blob)?;
            verified::note(&blob, self.hash);
        }
        shown(self.size);
        Ok(())
    }

    fn wrong_hash(&self, client: &Client) -> Error {
        Error::io(format!(
            "{} of {}: what {} sent has another hash than it says, so it was thrown away; try again, perhaps without a proxy in \
             between",
            self.file,
            self.model.repository,
            client.host()
        ))
    }

    /// Holds the right to download this content, and waits for whoever holds it now.
    fn lock(&self, repository: &Repository) -> Result<File> {
        let file = repository.lock_file(self.hash)?;
        // Without locks, as on some network folders, two programs may write the same bytes to the same place.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            print_status(format_args!("note: waiting for another program, which downloads {}", self.file));
            let _ = file.lock();
        }
        Ok(file)
    }

    /// Downloads what is missing.
    fn fill(&self, client: &Client, partial: &mut Partial, shown: &dyn Fn(u64)) -> Result<()> {
        let mut furthest = partial.len;
        client.patience.persist(|| {
            if partial.len == self.size {
                return Ok(());
            }
            let outcome = self.attempt(client, partial, shown);
            let further = partial.len > furthest;
            furthest = furthest.max(partial.len);
            outcome.map_err(|trouble| match trouble {
                Trouble::Passing { what, wait, .. } => Trouble::Passing { what, wait, progress: further },
                lasting => lasting,
            })
        })
    }

    fn attempt(&self, client: &Client, partial: &mut Partial, shown: &dyn Fn(u64)) -> StdResult<(), Trouble> {
        let path = address(self.model, self.commit, self.file);
        let range = format!("{}-", partial.len);
        let reply = client.get(&path, Some(&range).filter(|_| self.size > 0).map(|range| &range[..]))?;
        self.check(&reply)?;
        match reply.status {
            206 => {
                let (start, total) = content_range(&reply).ok_or_else(|| self.no_part(client))?;
                self.check_size(total)?;
                if start != partial.len {
                    return Err(self.no_part(client).into());
                }
            }
            // Ranges are not for whoever answered: it is the whole once more.
            200 => {
                self.check_size(reply.header("content-length").and_then(|length| length.parse().ok()))?;
                partial.clear()?;
            }
            416 => {
                self.check_size(content_range(&reply).and_then(|(_, total)| total))?;
                partial.clear()?;
                return Err(Trouble::passing(format!("{}: the rest of the file is not to be had", client.host())));
            }
            _ => return Err(refused(client, self.model, Some(self.file), &reply).into()),
        }
        let mut body = reply.into_reader();
        let mut buffer = vec![0; CHUNK];
        while partial.len < self.size {
            let count =
                body.read(&mut buffer).map_err(|error| Trouble::passing(format!("{}: {}", self.file, cut(&error))))?;
            if count == 0 {
                return Err(Trouble::passing(format!("{}: the connection ended too early", self.file)));
            }
            if count as u64 > self.size - partial.len {
                return Err(self.other_size("more").into());
            }
            partial.add(&buffer[..count])?;
            shown(partial.len);
        }
        // A longer file would be another one.
        match body.read(&mut buffer[..1]) {
            Ok(1) => Err(self.other_size("more").into()),
            _ => Ok(()),
        }
    }

    /// Whether the answer is about the file that was asked for.
    fn check(&self, reply: &Reply) -> Result<()> {
        if reply.commit.as_ref().is_some_and(|commit| commit != self.commit) {
            let message = format!("{} of {}: came from another commit than was asked for", self.file, self.model);
            return Err(Error::io(message));
        }
        if reply.etag.as_ref().is_some_and(|etag| ContentHash::read(etag).is_ok_and(|hash| hash != *self.hash)) {
            let message = format!(
                "{} of {}: its hash is another than in the hub's list of files; try again later",
                self.file, self.model.repository
            );
            return Err(Error::io(message));
        }
        if matches!(reply.status, 200 | 206) { self.check_size(reply.linked_size) } else { Ok(()) }
    }

    fn check_size(&self, size: Option<u64>) -> Result<()> {
        match size {
            Some(size) if size != self.size => Err(self.other_size(&bytes(size))),
            _ => Ok(()),
        }
    }

    fn other_size(&self, got: &str) -> Error {
        Error::io(format!(
            "{} of {}: the hub's list says that it has {} bytes, but got {got}; try again later, or tell its owner",
            self.file, self.model.repository, self.size
        ))
    }

    fn no_part(&self, client: &Client) -> Error {
        Error::io(format!(
            "{} of {}: {} sent another part than was asked for",
            self.file,
            self.model.repository,
            client.host()
        ))
    }
}

/// The first byte and the length of the whole of what a header says was sent.
pub fn content_range(reply: &Reply) -> Option<(u64, Option<u64>)> {
    let (range, total) = reply.header("content-range")?.strip_prefix("bytes ")?.split_once('/')?;
    let start = if range == "*" { 0 } else { range.split_once('-')?.0.parse().ok()? };
    Some((start, total.parse().ok()))
}

/// What a file is called until it is whole, as Python's package calls it, too.
fn unfinished(blob: &Path) -> PathBuf {
    blob.with_extension(UNFINISHED)
}

/// The beginning of a file, and the hash of that.
struct Partial {
    path: PathBuf,
    file: File,
    len: u64,
    size: u64,
    hash: ContentHash,
    hasher: Hasher,
}

impl Partial {
    /// Opens what is there of it.
    fn open(path: &Path, wanted: &Wanted<'_>) -> Result<Self> {
        make_parent(path)?;
        let fail = |error| io_error(path, &error);
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = options.map_err(fail)?;
        let mut hasher = wanted.hash.hasher(wanted.size);
        let mut len = file.metadata().map_err(fail)?.len();
        if len > wanted.size {
            file.set_len(0).map_err(fail)?;
            len = 0;
        }
        if len > 0 {
            len = verified::add(&mut file, &mut hasher, &mut |_| {}).map_err(fail)?;
        }
        Ok(Self { path: path.to_owned(), file, len, size: wanted.size, hash: wanted.hash.clone(), hasher })
    }

    /// Forgets all of it.
    fn clear(&mut self) -> Result<()> {
        if self.len > 0 {
            let cleared = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
            cleared.map_err(|error| io_error(&self.path, &error))?;
        }
        self.len = 0;
        self.hasher = self.hash.hasher(self.size);
        Ok(())
    }

    fn add(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|error| match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded | std::io::ErrorKind::FileTooLarge => {
                let error = io_error(&self.path, &error);
                Error::io(format!(
                    "{error}: {} are missing; make room (`foretoken models` lists what is kept), or name a larger disk in HF_HUB_CACHE; \
                     the download goes on from here",
                    crate::terminal::bytes(self.size - self.len)
                ))
            }
            _ => io_error(&self.path, &error),
        })?;
        self.len += bytes.len() as u64;
        self.hasher.add(bytes);
        Ok(())
    }

    /// The hash of what is there.
    fn digits(&mut self) -> String {
        std::mem::replace(&mut self.hasher, self.hash.hasher(self.size)).digits()
    }

    /// Gives it its name, once it is on the disk.
    fn finish(self, blob: &Path) -> Result<()> {
        let named = self.file.sync_all().and_then(|()| fs::rename(&self.path, blob));
        named.map_err(|error| io_error(blob, &error))
    }
}
