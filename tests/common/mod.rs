//! Helpers shared by the test programs.

#![allow(dead_code, unused_imports, reason = "each test program uses a part")]

mod adapters;
mod npz;
mod results;

use std::path::PathBuf;

pub use adapters::{DiskFiles, each_adapter, each_own_device, golden, golden_in_memory};
pub use npz::Npz;
pub use results::note;

/// A file or folder of the data beside the repository, or `None`, said loudly, where that data is missing. With
/// `FORETOKEN_REQUIRE_SHARED=1` a missing one fails the test.
pub fn shared(path: &str) -> Option<PathBuf> {
    let full = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared")).join(path);
    if full.exists() {
        return Some(full);
    }
    assert!(std::env::var_os("FORETOKEN_REQUIRE_SHARED").is_none(), "../shared/{path} is missing");
    eprintln!("SKIPPED: ../shared/{path} is missing");
    None
}
