//! Results of comparisons, for `docs/models.md`.

use std::io::Write;

/// Adds a line to the file that `FORETOKEN_RESULTS` names, if it names one.
pub fn note(result: &serde_json::Value) {
    let Some(path) = std::env::var_os("FORETOKEN_RESULTS") else { return };
    let file = std::fs::OpenOptions::new().append(true).create(true).open(&path);
    // In one write, as other tests write too.
    let written = file.and_then(|mut file| file.write_all(format!("{result}\n").as_bytes()));
    written.unwrap_or_else(|error| panic!("FORETOKEN_RESULTS={}: {error}", path.display()));
}
