//! The hub's cache on this machine, as Python's `huggingface_hub` has it: each content once under its hash in `blobs`, and in
//! `snapshots/COMMIT` the names of a commit's files as links to them; `refs` has the commits that branches and tags are.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process;

use foretoken::{Error, Result};

use super::choice::Sized;
use super::hash::ContentHash;
use super::listing::is_commit;
use super::name::check_file;
use crate::output::{self, io_error};

/// What a file is called until it is whole.
pub const UNFINISHED: &str = "incomplete";

/// Folders in a snapshot are not followed deeper than this.
const DEEPEST: usize = 8;

/// The folder of one model in the cache.
pub struct Repository {
    /// `owner/name`.
    pub name: String,
    folder: PathBuf,
    locks: PathBuf,
}

impl Repository {
    /// The folder of `name`, there or not.
    pub fn new(cache: &Path, name: &str) -> Self {
        let folder = format!("models--{}", name.replace('/', "--"));
        Self { name: name.to_owned(), locks: cache.join(".locks").join(&folder), folder: cache.join(folder) }
    }

    /// All that are kept in a cache, in order.
    pub fn all(cache: &Path) -> Result<Vec<Self>> {
        let entries = match fs::read_dir(cache) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|error| io_error(cache, &error))?,
        };
        let mut all = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| io_error(cache, &error))?;
            let name = entry.file_name();
            let name = name.to_str().and_then(|name| name.strip_prefix("models--")).filter(|_| entry.path().is_dir());
            all.extend(name.map(|name| Self::new(cache, &name.replacen("--", "/", 1))));
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the content with this hash is kept.
    pub fn blob(&self, hash: &ContentHash) -> PathBuf {
        self.folder.join("blobs").join(hash.name())
    }

    /// The folder of a commit.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// The commit that a branch or tag was when it was last asked for; a commit is itself.
    pub fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = fs::read_to_string(self.folder.join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Notes which commit a branch or tag is.
    pub fn set_commit(&self, revision: &str, commit: &str) -> Result<()> {
        if is_commit(revision) {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        make_parent(&path)?;
        let new = beside(&path, commit);
        let written = fs::write(&new, commit).and_then(|()| fs::rename(&new, &path));
        written.map_err(|error| io_error(&path, &error))
    }

    /// Branches and tags by the commit that they are.
    pub fn revisions(&self) -> BTreeMap<String, Vec<String>> {
        let mut found = BTreeMap::<String, Vec<String>>::new();
        for (name, _) in walk(&self.folder.join("refs"), DEEPEST) {
            if let Some(commit) = self.commit(&name) {
                found.entry(commit).or_default().push(name);
            }
        }
        found
    }

    /// The commits of which something is kept.
    pub fn commits(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.join("snapshots")).into_iter().flatten().flatten();
        let mut commits: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        commits.retain(|commit| is_commit(commit));
        commits.sort();
        commits
    }

    /// The files of a commit that are here, with their lengths.
    pub fn kept(&self, commit: &str) -> Vec<Sized> {
        walk(&self.snapshot(commit), DEEPEST)
    }

    /// The hash by which a snapshot's file is kept, and where; `None` where a system without links has it in its place.
    pub fn blob_of(&self, file: &Path) -> Option<(ContentHash, PathBuf)> {
        let target = fs::read_link(file).ok()?;
        let hash = ContentHash::read(target.file_name()?.to_str()?).ok()?;
        let path = self.blob(&hash);
        Some((hash, path))
    }

    /// The contents that are kept: the whole ones and those on their way.
    pub fn blobs(&self) -> (Vec<(ContentHash, PathBuf)>, Vec<PathBuf>) {
        let (mut whole, mut unfinished) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(self.folder.join("blobs")).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            match ContentHash::read(&name) {
                Ok(hash) => whole.push((hash, path)),
                Err(_) if path.extension().is_some_and(|end| end == UNFINISHED) => unfinished.push(path),
                Err(_) => {}
            }
        }
        whole.sort_by(|a, b| a.1.cmp(&b.1));
        unfinished.sort();
        (whole, unfinished)
    }

    /// Gives the content with this hash its name in a commit.
    pub fn link(&self, commit: &str, file: &str, hash: &ContentHash) -> Result<()> {
        check_file(file).map_err(Error::io)?;
        let (blob, path) = (self.blob(hash), self.snapshot(commit).join(file));
        if self.blob_of(&path).is_some_and(|(other, _)| other == *hash) {
            return Ok(());
        }
        make_parent(&path)?;
        let new = beside(&path, hash.name());
        let mut target: PathBuf = (0..2 + file.matches('/').count()).map(|_| "..").collect();
        target.extend(["blobs", hash.name()]);
        // Where links are not allowed, as on some Windows, the file itself is there, as Python's package does it.
        let named = match link(&target, &new) {
            Ok(()) => fs::rename(&new, &path),
            Err(_) => fs::rename(&blob, &path),
        };
        named.map_err(|error| io_error(&path, &error))
    }

    /// Opens the file that a program holds while it downloads the content with this hash, which all programs agree on.
    pub fn lock_file(&self, hash: &ContentHash) -> Result<File> {
        let path = self.locks.join(format!("{}.lock", hash.name()));
        make_parent(&path)?;
        let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        opened.map_err(|error| io_error(&path, &error))
    }

    /// Removes files of commits, contents that nothing names any more, and folders that are left empty. Returns how many bytes
    /// that made room for.
    pub fn remove(&self, files: &[PathBuf]) -> Result<u64> {
        for path in files {
            fs::remove_file(path).map_err(|error| io_error(path, &error))?;
        }
        let used: Vec<PathBuf> = self.commits().iter().flat_map(|commit| self.names_of(commit)).collect();
        let named: Vec<PathBuf> = used.iter().filter_map(|file| self.blob_of(file)).map(|(_, blob)| blob).collect();
        let mut freed = 0;
        for (_, path) in self.blobs().0.into_iter().filter(|(_, path)| !named.contains(path)) {
            freed += fs::metadata(&path).map_or(0, |file| file.len());
            fs::remove_file(&path).map_err(|error| io_error(&path, &error))?;
        }
        for commit in self.commits() {
            if self.names_of(&commit).is_empty() {
                self.forget(&commit)?;
            }
        }
        if self.commits().is_empty() {
            freed += self.remove_all()?;
        }
        Ok(freed)
    }

    /// Removes all of it.
    pub fn remove_all(&self) -> Result<u64> {
        let (whole, unfinished) = self.blobs();
        let blobs = whole.into_iter().map(|(_, path)| path).chain(unfinished);
        let freed = blobs.map(|path| fs::metadata(path).map_or(0, |file| file.len())).sum();
        fs::remove_dir_all(&self.folder).map_err(|error| io_error(&self.folder, &error))?;
        let _ = fs::remove_dir_all(&self.locks);
        Ok(freed)
    }

    /// Removes an empty snapshot, and the branches and tags that it was.
    fn forget(&self, commit: &str) -> Result<()> {
        let path = self.snapshot(commit);
        fs::remove_dir_all(&path).map_err(|error| io_error(&path, &error))?;
        for revision in self.revisions().remove(commit).unwrap_or_default() {
            let path = self.folder.join("refs").join(revision);
            fs::remove_file(&path).map_err(|error| io_error(&path, &error))?;
        }
        Ok(())
    }

    /// The files of a commit, also those whose content is gone.
    pub fn names_of(&self, commit: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        names_below(&self.snapshot(commit), DEEPEST, &mut found);
        found
    }
}

/// The files below a folder that can be read, by their names from there, with their lengths.
fn walk(folder: &Path, depth: usize) -> Vec<Sized> {
    let mut found = Vec::new();
    names_below(folder, depth, &mut found);
    let name = |path: &Path| {
        let parts: Option<Vec<&str>> = path.strip_prefix(folder).ok()?.iter().map(|part| part.to_str()).collect();
        Some(parts?.join("/"))
    };
    found.sort();
    found.iter().filter_map(|path| Some((name(path)?, fs::metadata(path).ok()?.len()))).collect()
}

fn names_below(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        // Links lead to contents, never to folders.
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth > 0 => names_below(&path, depth - 1, found),
            Ok(kind) if kind.is_dir() => {}
            _ => found.push(path),
        }
    }
}

/// The name that `path` has until it is complete; another in each process, since several may do the same at the same time.
fn beside(path: &Path, what: &str) -> PathBuf {
    let new = path.with_file_name(format!(".{what}.{}.{UNFINISHED}", process::id()));
    // What an earlier process of this number left when it was ended.
    let _ = fs::remove_file(&new);
    new
}

/// Makes the folder that a file lies in.
pub fn make_parent(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), output::make_folder)
}

#[cfg(unix)]
fn link(target: &Path, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

#[cfg(windows)]
fn link(target: &Path, path: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, path)
}

#[cfg(not(any(unix, windows)))]
fn link(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
