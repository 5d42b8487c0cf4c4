//! Remembers which kernel set was the fastest on an adapter, so that later runs give the same results as the first.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs, io, process};

use foretoken::{AdapterSummary, Gpu, KernelSet, Result};

use crate::terminal::say;

/// Kernel set by [`key`]; names, because a later version may know others.
type Picks = BTreeMap<String, String>;

/// The kernel set for this adapter: the remembered one, else measured now and remembered. None on a CPU adapter: there
/// the library takes the software set, unmeasured.
pub async fn kernels(gpu: &Gpu) -> Result<Option<KernelSet>> {
    if gpu.summary().software {
        return Ok(None);
    }
    let (file, key) = (cache_folder().map(|folder| folder.join("kernels.json")), key(gpu.summary()));
    if let Some(pick) = file.as_deref().and_then(|file| recall(file, &key)) {
        return Ok(Some(pick));
    }
    let pick = foretoken::measure_kernels(gpu).await?;
    if let Some(file) = &file
        && let Err(error) = remember(file, key, pick)
    {
        say(format_args!("note: the measured kernel set is not kept: {}: {error}", file.display()));
    }
    Ok(Some(pick))
}

/// A new driver, or a new version of the kernels, is measured anew.
fn key(adapter: &AdapterSummary) -> String {
    let AdapterSummary { name, backend, driver, driver_info, .. } = adapter;
    format!("{name} | {backend} | {driver} | {driver_info} | foretoken {}", env!("CARGO_PKG_VERSION"))
}

/// Where programs keep what they can find out again.
fn cache_folder() -> Option<PathBuf> {
    let folder = |variable: &str| env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = if cfg!(windows) {
        folder("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        folder("HOME").map(|home| home.join("Library/Caches"))
    } else {
        folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")))
    };
    caches.map(|caches| caches.join("foretoken"))
}

/// What `file` says; a file that is missing, broken or of another version says nothing.
fn read(file: &Path) -> Picks {
    fs::read(file).ok().and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default()
}

fn recall(file: &Path, key: &str) -> Option<KernelSet> {
    read(file).get(key)?.parse().ok()
}

/// Adds a pick. Another run may do the same just now: the file changes whole, and at worst one of the two picks is lost.
fn remember(file: &Path, key: String, pick: KernelSet) -> io::Result<()> {
    let mut picks = read(file);
    picks.insert(key, pick.to_string());
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let new = file.with_extension(format!("{}.new", process::id()));
    fs::write(&new, serde_json::to_vec_pretty(&picks)?)?;
    fs::rename(&new, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_are_kept() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("new folder/kernels.json");
        assert_eq!(recall(&file, "a"), None);
        remember(&file, "a".into(), KernelSet::Subgroup).unwrap();
        remember(&file, "b".into(), KernelSet::Workgroup).unwrap();
        assert_eq!(recall(&file, "a"), Some(KernelSet::Subgroup));
        assert_eq!(recall(&file, "b"), Some(KernelSet::Workgroup));
        assert_eq!(recall(&file, "c"), None);
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_broken_file_is_measured_anew() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("kernels.json");
        for broken in ["", "{", "[1]", r#"{"a": 1}"#, r#"{"a": "fastest"}"#] {
            fs::write(&file, broken).unwrap();
            assert_eq!(recall(&file, "a"), None, "{broken}");
        }
        remember(&file, "a".into(), KernelSet::Workgroup).unwrap();
        assert_eq!(recall(&file, "a"), Some(KernelSet::Workgroup));
    }
}
