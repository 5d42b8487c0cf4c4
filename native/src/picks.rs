//! Remembers which kernel set was the fastest on an adapter, so that later runs give the same results as the first.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::{fs, io, process};

use foretoken::gpu::AdapterSummary;
use foretoken::{Gpu, KernelSet, Result};

use crate::console;
use crate::terminal::print_status;

/// Kernel set by [`key`]; names, because a later version may know others.
type Picks = BTreeMap<String, String>;

/// The kernel set for this adapter: the remembered one, else measured now and remembered. None on a CPU adapter: there
/// the library takes the software set, unmeasured.
pub async fn kernels(gpu: &Gpu) -> Result<Option<KernelSet>> {
    if gpu.summary().software {
        return Ok(None);
    }
    let measured = foretoken::kernels::measure_kernels(gpu);
    match cache_folder() {
        Some(folder) => settle(&folder.join("kernels.json"), key(gpu.summary()), measured).await.map(Some),
        None => measured.await.map(Some),
    }
}

/// The pick that `file` has for `key`, else what `measured` comes to, from then on. One process measures; others wait for it, so
/// that runs at the same time take the same set and none disturbs what is measured.
async fn settle(file: &Path, key: String, measured: impl Future<Output = Result<KernelSet>>) -> Result<KernelSet> {
    if let Some(pick) = recall(file, &key) {
        return Ok(pick);
    }
    // Without a lock, as on some network folders, two runs may differ once.
    let _lock = lock(file).ok();
    if let Some(pick) = recall(file, &key) {
        return Ok(pick);
    }
    let pick = measured.await?;
    if let Err(error) = remember(file, key, pick) {
        print_status(format_args!("note: the measured kernel set is not kept: {}: {error}", file.display()));
    }
    Ok(pick)
}

/// Held until it is dropped.
fn lock(file: &Path) -> io::Result<File> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let lock = File::create(file.with_extension("lock"))?;
    lock.lock()?;
    Ok(lock)
}

/// A new driver, or a new version of the kernels, is measured anew.
fn key(adapter: &AdapterSummary) -> String {
    let AdapterSummary { name, backend, driver, driver_info, .. } = adapter;
    format!("{name} | {backend} | {driver} | {driver_info} | foretoken {}", env!("CARGO_PKG_VERSION"))
}

/// Where programs keep what they can find out again.
pub fn cache_folder() -> Option<PathBuf> {
    let value = |variable: &str| console::with(|console| (console.variable)(variable));
    let folder = |variable: &str| value(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = if cfg!(windows) {
        folder("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        folder("HOME").map(|home| home.join("Library/Caches"))
    } else {
        folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")))
    };
    caches.map(|caches| caches.join("foretoken"))
}

/// Reads the picks in `file`; a file that is missing, broken or of another version has none.
fn read(file: &Path) -> Picks {
    fs::read(file).ok().and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default()
}

fn recall(file: &Path, key: &str) -> Option<KernelSet> {
    read(file).get(key)?.parse().ok()
}

/// Adds a pick. The file changes whole: others may read it just now.
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
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::time::Duration;

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
    fn runs_at_the_same_time_take_the_same_set() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("kernels.json");
        let measured = AtomicUsize::new(0);
        let run = |_| {
            let found = async {
                std::thread::sleep(Duration::from_millis(20));
                // The next one would find another.
                Ok(KernelSet::ALL[measured.fetch_add(1, SeqCst) % 3])
            };
            pollster::block_on(settle(&file, "a".into(), found)).unwrap()
        };
        std::thread::scope(|scope| {
            let runs: Vec<_> = (0..8).map(|i| scope.spawn(move || run(i))).collect();
            let picks: Vec<KernelSet> = runs.into_iter().map(|run| run.join().unwrap()).collect();
            assert_eq!(picks, [KernelSet::ALL[0]; 8]);
        });
        assert_eq!(measured.load(SeqCst), 1);
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
