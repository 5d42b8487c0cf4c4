//! Files and folders that are there whole or not at all.
//!
//! What is written goes to another name in the same folder first, reaches the disk, and then takes the name of what was there
//! before: whatever ends the program in between, or fills the disk, the earlier file stays.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use foretoken::{Error, Result};

use crate::machine;
use crate::terminal::bytes;

/// An error of the file system, with the path it is about.
pub fn io_error(path: &Path, error: &io::Error) -> Error {
    // An error of the system is its number; another is not copied, but told.
    let copy = error
        .raw_os_error()
        .map_or_else(|| io::Error::new(error.kind(), error.to_string()), io::Error::from_raw_os_error);
    Error::io(format!("{}: {error}", path.display())).caused_by(copy)
}

/// The name that `path` has until it is complete.
fn unfinished(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.unfinished"))
}

/// Makes `bytes` the content of the file `path`.
///
/// # Errors
/// Naming the file. The earlier one is left as it was.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = unfinished(path);
    let write = || {
        let mut file = File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&partial, path)?;
        sync_folder(path)
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&partial);
        io_error(path, &error)
    })
}

/// Checks that `path` is a folder, or can be made one.
pub fn check_folder(path: &Path) -> Result<()> {
    // The first on the way that is no folder stands in the way.
    if let Some(other) = path.ancestors().find(|part| fs::symlink_metadata(part).is_ok() && !part.is_dir()) {
        let message = format!("{}: expected the name of a folder, but it is none", other.display());
        return Err(Error::input(message));
    }
    Ok(())
}

/// Makes the folder `path`, and those above it, where they are not there.
pub fn make_folder(path: &Path) -> Result<()> {
    check_folder(path)?;
    fs::create_dir_all(path).map_err(|error| io_error(path, &error))
}

/// Holds a folder for as long as what it returns lives; nothing where the file system has no locks.
///
/// # Errors
/// Where another program of ours holds it.
pub fn lock(folder: &Path) -> Result<Option<File>> {
    let path = folder.join(".lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| io_error(&path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => {
            let message =
                format!("{}: another run of this program is at work there; wait for its end", folder.display());
            Err(Error::input(message))
        }
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

/// A rename has happened for certain once its folder has reached the disk, where a system can say so.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// A folder in the making; unless it is [finished](NewFolder::finish), nothing of it stays.
pub struct NewFolder {
    path: PathBuf,
    partial: PathBuf,
    finished: bool,
}

impl NewFolder {
    /// Begins the folder `path`, which must not be there yet.
    pub fn begin(path: &Path) -> Result<Self> {
        if fs::symlink_metadata(path).is_ok() {
            let message = format!("{}: is there already; name another folder", path.display());
            return Err(Error::input(message));
        }
        if path.file_name().is_none() {
            return Err(Error::input(format!("{}: expected the name of a new folder", path.display())));
        }
        let partial = unfinished(path);
        // What an earlier program left when it was ended.
        if partial.is_dir() {
            fs::remove_dir_all(&partial).map_err(|error| io_error(&partial, &error))?;
        }
        fs::create_dir_all(&partial).map_err(|error| io_error(path, &error))?;
        Ok(Self { path: path.to_owned(), partial, finished: false })
    }

    /// Where the file `name` of the folder lies until then.
    pub fn join(&self, name: &str) -> PathBuf {
        self.partial.join(name)
    }

    /// Gives the folder its name.
    pub fn finish(mut self) -> Result<()> {
        fs::rename(&self.partial, &self.path)
            .and_then(|()| sync_folder(&self.path))
            .map_err(|error| io_error(&self.path, &error))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        if !self.finished {
            let _ = fs::remove_dir_all(&self.partial);
        }
    }
}

/// A file in the making; unless it is [finished](NewFile::finish), nothing of it stays.
pub struct NewFile {
    path: PathBuf,
    partial: PathBuf,
    file: Option<File>,
}

impl NewFile {
    /// Begins the file `path`, which must not be there yet, of `len` bytes.
    ///
    /// # Errors
    /// Also where the disk has no room for it.
    pub fn begin(path: &Path, len: u64) -> Result<Self> {
        if fs::symlink_metadata(path).is_ok() {
            return Err(Error::input(format!("{}: is there already; name another file", path.display())));
        }
        let partial = unfinished(path);
        let file = File::create(&partial).map_err(|error| io_error(path, &error))?;
        let new = Self { path: path.to_owned(), partial, file: Some(file) };
        match machine::free_disk(&new.partial).filter(|free| len > *free) {
            Some(free) => {
                let message = format!("the disk has room for {}, but {} are needed", bytes(free), bytes(len));
                Err(Error::io(format!("{}: {message}", path.display())))
            }
            None => Ok(new),
        }
    }

    /// Adds to its end.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.file.as_mut().map_or(Ok(()), |file| file.write_all(bytes));
        written.map_err(|error| io_error(&self.path, &error))
    }

    /// Gives the file its name.
    pub fn finish(mut self) -> Result<()> {
        let file = self.file.take();
        let finished = file.map_or(Ok(()), |file| file.sync_all());
        let finished = finished.and_then(|()| fs::rename(&self.partial, &self.path));
        finished.and_then(|()| sync_folder(&self.path)).map_err(|error| {
            let _ = fs::remove_file(&self.partial);
            io_error(&self.path, &error)
        })
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            let _ = fs::remove_file(&self.partial);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("state");
        write_whole(&path, b"one").unwrap();
        write_whole(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(names(temp.path()), ["state"]);
    }

    #[test]
    fn a_file_that_cannot_be_written_leaves_the_earlier_one() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("state");
        write_whole(&path, b"one").unwrap();
        // A folder in the way of the unfinished file: nobody, not even an administrator, can write there.
        fs::create_dir(unfinished(&path)).unwrap();
        let error = write_whole(&path, b"two").unwrap_err().to_string();
        assert!(error.contains("state"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"one");
    }

    #[test]
    fn a_folder_is_there_whole_or_not_at_all() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("new");
        let folder = NewFolder::begin(&path).unwrap();
        fs::write(folder.join("a"), b"a").unwrap();
        drop(folder);
        assert!(names(temp.path()).is_empty());
        let folder = NewFolder::begin(&path).unwrap();
        fs::write(folder.join("a"), b"a").unwrap();
        folder.finish().unwrap();
        assert_eq!(fs::read(path.join("a")).unwrap(), b"a");
        assert!(NewFolder::begin(&path).err().unwrap().to_string().contains("already"));
    }
}
