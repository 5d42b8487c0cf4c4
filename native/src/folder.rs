//! A checkpoint folder, its files memory-mapped: only what is read comes into memory.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use foretoken::format::files::{Files, Known};
use foretoken::format::{foreign, layouts, mtp};
use foretoken::{Error, Result};
use memmap2::Mmap;

/// The files directly in one folder. Names that lead elsewhere (`../x`) are not found.
pub struct Folder {
    path: PathBuf,
    /// The file that was named instead of the folder.
    file: Option<PathBuf>,
    /// Every name the folder had when it was opened; a file is mapped when it is first asked for.
    maps: BTreeMap<String, OnceLock<Mmap>>,
    known: Known,
}

impl Folder {
    /// Lists the folder of a checkpoint, or what belongs to a file that holds one.
    pub fn open(path: &Path) -> Result<Self> {
        match path.file_name().and_then(|name| name.to_str()).filter(|_| path.is_file()) {
            Some(name) if layouts::is_gguf(name) => Self::open_file(path, name),
            _ => Self::open_as(path, layouts::EXPECTED),
        }
    }

    /// The files of a folder that are parts of one file.
    fn open_file(path: &Path, name: &str) -> Result<Self> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let mut folder = Self::open_as(parent.unwrap_or(Path::new(".")), layouts::EXPECTED)?;
        let parts = layouts::gguf_files(name, folder.names().into_iter());
        folder.maps.retain(|name, _| parts.contains(name));
        folder.file = Some(path.to_owned());
        Ok(folder)
    }

    /// Lists a folder of heads.
    pub fn open_heads(path: &Path) -> Result<Self> {
        Self::open_as(path, mtp::EXPECTED)
    }

    fn open_as(path: &Path, expected: &str) -> Result<Self> {
        let path = &snapshot(path)?;
        let fail =
            |error: io::Error| Error::io(format!("{}: {}", path.display(), not_a_folder(path, &error, expected)));
        let mut maps = BTreeMap::new();
        for entry in fs::read_dir(path).map_err(fail)? {
            // A name that is not Unicode is none that a checkpoint's files ask for.
            if let Ok(name) = entry.map_err(fail)?.file_name().into_string() {
                maps.insert(name, OnceLock::new());
            }
        }
        Ok(Self { path: path.to_owned(), file: None, maps, known: Known::default() })
    }

    fn bytes(&self, name: &str) -> Result<Option<&[u8]>> {
        let Some(cell) = self.maps.get(name) else { return Ok(None) };
        if cell.get().is_none() {
            let path = self.path.join(name);
            let link = link_as_text(&path);
            let fail = |error: io::Error| {
                let what = not_read(&path, link.as_deref(), &error);
                Error::io(format!("{}: {what}", path.display()))
            };
            let map = map(link.as_deref().map_or(path.clone(), |to| self.path.join(to)).as_path()).map_err(fail)?;
            // Another thread may have mapped it meanwhile: one map of it is as good as another.
            let _ = cell.set(map);
        }
        Ok(cell.get().map(|map| &map[..]))
    }
}

fn not_a_folder(path: &Path, error: &io::Error, expected: &str) -> String {
    let other = path.file_name().and_then(|name| foreign::of_name(&name.to_string_lossy()));
    if let (io::ErrorKind::NotADirectory, Some(what)) = (error.kind(), other) {
        return format!("this is {what}");
    }
    match error.kind() {
        io::ErrorKind::NotFound => format!("no such folder: expected one with {expected}"),
        io::ErrorKind::NotADirectory => format!("not a folder: expected one with {expected}"),
        _ => error.to_string(),
    }
}

/// Describes why a file that the folder lists cannot be read; its text leads to `link`.
fn not_read(path: &Path, link: Option<&Path>, error: &io::Error) -> String {
    match fs::read_link(path).ok().or(link.map(Path::to_owned)) {
        Some(to) if error.kind() == io::ErrorKind::NotFound => {
            format!("a link to {}, which is not there; download the file again", to.display())
        }
        _ => error.to_string(),
    }
}

/// The target of a link of the hub's cache that became a text on its way here, as it does where a disk, an archive or git has
/// no links. No file of a model is such a text.
fn link_as_text(path: &Path) -> Option<PathBuf> {
    const LONGEST: u64 = 256;
    let file = fs::metadata(path).ok().filter(|file| file.is_file() && file.len() <= LONGEST);
    let text = file.and_then(|_| fs::read_to_string(path).ok())?;
    let blob = text.trim_end().strip_prefix("../../blobs/")?;
    is_plain(blob).then(|| Path::new("../../blobs").join(blob))
}

/// Whether a name of the hub's cache leads nowhere else.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// The folder that `path` stands for: of the hub's cache the snapshot that its `main` is, or the only one.
fn snapshot(path: &Path) -> Result<PathBuf> {
    let (model, snapshots) = match path.file_name().is_some_and(|name| name == "snapshots") {
        true => (path.parent().unwrap_or(path), path.to_owned()),
        false => (path, path.join("snapshots")),
    };
    if path.join("config.json").exists() || !snapshots.is_dir() {
        return Ok(path.to_owned());
    }
    let named = fs::read_to_string(model.join("refs/main")).ok();
    let main = named.as_deref().map(str::trim).filter(|name| is_plain(name));
    if let Some(main) = main.map(|name| snapshots.join(name)).filter(|main| main.is_dir()) {
        return Ok(main);
    }
    let mut all: Vec<PathBuf> =
        fs::read_dir(&snapshots).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    all.retain(|path| path.is_dir());
    all.sort();
    match &all[..] {
        [] => Ok(path.to_owned()),
        [only] => Ok(only.clone()),
        several => {
            let names: Vec<String> = several.iter().take(4).map(|path| path.display().to_string()).collect();
            let names = names.join(" or ");
            Err(Error::io(format!(
                "{}: a folder of the hub's cache with several snapshots: name {names}",
                path.display()
            )))
        }
    }
}

fn map(path: &Path) -> io::Result<Mmap> {
    // Before opening it: to open a named pipe would wait for a writer.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("expected a file, found a folder or device"));
    }
    let file = File::open(path)?;
    #[allow(
        unsafe_code,
        reason = "the bytes of a map change if another program writes the file meanwhile. Nothing here relies on their \
                  staying the same: each length is checked against the map's, and text is checked as UTF-8 in a copy. A \
                  file that is cut short meanwhile ends the program with a bus error, which is the price of not holding \
                  whole checkpoints in memory"
    )]
    // SAFETY: the map is only read, through `Folder::read`, for which the reason above holds.
    unsafe {
        Mmap::map(&file)
    }
}

impl Files for Folder {
    async fn len(&self, name: &str) -> Result<Option<u64>> {
        Ok(self.bytes(name)?.map(|bytes| bytes.len() as u64))
    }

    async fn read(&self, name: &str, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let folder = self.path.display();
        let bytes = self.bytes(name)?.ok_or_else(|| Error::io(format!("{name}: not found in {folder}")))?;
        let part = || bytes.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?);
        part().map(Cow::Borrowed).ok_or_else(|| {
            let (len, Range { start, end }) = (bytes.len(), &range);
            let message = format!("{name} in {folder}: bytes {start}..{end} were asked for, but it holds {len}");
            Error::io(message)
        })
    }

    fn describe(&self) -> String {
        self.file.as_ref().unwrap_or(&self.path).display().to_string()
    }

    fn names(&self) -> Vec<String> {
        self.maps.keys().cloned().collect()
    }

    fn known(&self) -> Option<&Known> {
        Some(&self.known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollster::block_on;

    #[test]
    fn reads_what_is_there() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("a"), b"hello").unwrap();
        fs::write(temp.path().join("empty"), b"").unwrap();
        fs::create_dir(temp.path().join("sub")).unwrap();
        let folder = Folder::open(temp.path()).unwrap();
        assert_eq!(block_on(folder.len("a")).unwrap(), Some(5));
        assert_eq!(block_on(folder.len("empty")).unwrap(), Some(0));
        assert_eq!(block_on(folder.len("b")).unwrap(), None);
        assert_eq!(block_on(folder.len("../a")).unwrap(), None);
        assert_eq!(*block_on(folder.read("a", 1..3)).unwrap(), *b"el");
        assert_eq!(*block_on(folder.read("empty", 0..0)).unwrap(), *b"");
        assert!(block_on(folder.read("a", 1..6)).is_err());
        assert!(block_on(folder.read("a", 0..u64::MAX)).is_err());
        assert!(block_on(folder.len("sub")).unwrap_err().to_string().contains("expected a file"));
    }

    #[test]
    fn links_that_became_texts_are_followed_within_the_cache() {
        let temp = tempfile::tempdir().unwrap();
        let snapshot = temp.path().join("snapshots/abc");
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir(temp.path().join("blobs")).unwrap();
        fs::write(temp.path().join("blobs/b0"), b"content").unwrap();
        let secret = temp.path().join("secret");
        fs::write(&secret, b"secret").unwrap();
        for (name, text) in [("a", "../../blobs/b0"), ("b", "../../blobs/b0\n"), ("c", "../../blobs/gone")] {
            fs::write(snapshot.join(name), text).unwrap();
        }
        let elsewhere = ["../../secret", "../../blobs/../secret", "../../blobs/", "../blobs/b0"];
        for (number, text) in elsewhere.iter().enumerate() {
            fs::write(snapshot.join(format!("elsewhere{number}")), text).unwrap();
        }
        let folder = Folder::open(&snapshot).unwrap();
        for name in ["a", "b"] {
            assert_eq!(*block_on(folder.read(name, 0..7)).unwrap(), *b"content");
        }
        let error = block_on(folder.len("c")).unwrap_err().to_string();
        assert!(
            error.ends_with("c: a link to ../../blobs/gone, which is not there; download the file again"),
            "{error}"
        );
        for (number, text) in elsewhere.iter().enumerate() {
            let len = block_on(folder.len(&format!("elsewhere{number}"))).unwrap();
            assert_eq!(len, Some(text.len() as u64), "{text} is what it is");
        }
    }

    #[test]
    fn says_what_is_no_folder() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("file");
        fs::write(&file, b"").unwrap();
        let message = |path: &Path| Folder::open(path).err().unwrap().to_string();
        assert!(message(&file).contains("not a folder"), "{}", message(&file));
        assert!(message(&temp.path().join("none")).contains("no such folder"));
    }
}
