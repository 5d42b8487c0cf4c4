//! Which kept files are known to have the content that their hash says: noted when it was checked, with length and time, so that a
//! file that was changed since is not trusted for it.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::hash::{ContentHash, Hasher};
use crate::picks;

/// Bytes that are read at a time.
const CHUNK: usize = 1 << 20;

/// Whether the file `blob` was found to have this hash, and is as it was then.
pub fn is_noted(blob: &Path, hash: &ContentHash) -> bool {
    let now = fs::metadata(blob).ok().and_then(|file| stamp(&file));
    let noted = note_of(blob, hash).and_then(|path| fs::read_to_string(path).ok());
    now.is_some() && now == noted
}

/// Notes that the file `blob` has this hash. Where that cannot be noted, it is checked again some day.
pub fn note(blob: &Path, hash: &ContentHash) {
    let stamp = fs::metadata(blob).ok().and_then(|file| stamp(&file));
    if let (Some(stamp), Some(path)) = (stamp, note_of(blob, hash)) {
        let folder = path.parent().map_or(Ok(()), fs::create_dir_all);
        let _ = folder.and_then(|()| fs::write(path, stamp));
    }
}

/// The hash of what a file holds; `read` is told how many bytes were read.
pub fn digits(file: &Path, hash: &ContentHash, read: &mut dyn FnMut(u64)) -> io::Result<String> {
    let mut file = File::open(file)?;
    let mut hasher = hash.hasher(file.metadata()?.len());
    add(&mut file, &mut hasher, read)?;
    Ok(hasher.digits())
}

/// Takes all that is left of a file into a hash.
pub fn add(file: &mut File, hasher: &mut Hasher, read: &mut dyn FnMut(u64)) -> io::Result<u64> {
    let (mut buffer, mut all) = (vec![0; CHUNK], 0);
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(all);
        }
        hasher.add(&buffer[..count]);
        all += count as u64;
        read(count as u64);
    }
}

fn stamp(file: &Metadata) -> Option<String> {
    let time = file.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(format!("{} bytes, changed {}.{:09}", file.len(), time.as_secs(), time.subsec_nanos()))
}

/// Where it is noted: outside of the hub's cache, whose files other programs count.
fn note_of(blob: &Path, hash: &ContentHash) -> Option<PathBuf> {
    // One for each cache that has this content.
    let place = fs::canonicalize(blob).ok()?.into_os_string().into_encoded_bytes();
    let mut hasher = ContentHash::Git(String::new()).hasher(place.len() as u64);
    hasher.add(&place);
    let place = hasher.digits();
    Some(picks::cache_folder()?.join("verified").join(format!("{}-{}", hash.name(), &place[..16])))
}
