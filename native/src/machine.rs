//! What this machine has, where its system tells.

use std::fs;
use std::path::Path;

/// Bytes of memory.
pub fn memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Bytes that can still be written to the disk on which `path` is, or would be made.
#[cfg(unix)]
pub fn free_disk(path: &Path) -> Option<u64> {
    let there = path.ancestors().find(|path| path.exists())?;
    let disk = rustix::fs::statvfs(there).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}

#[cfg(not(unix))]
pub fn free_disk(_: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn the_system_tells() {
        let temp = tempfile::tempdir().unwrap();
        assert!(memory().unwrap() > 1 << 20);
        assert_eq!(free_disk(&temp.path().join("not/there")).is_some(), free_disk(temp.path()).is_some());
        assert!(free_disk(temp.path()).unwrap() > 0);
    }
}
