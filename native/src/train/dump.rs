//! The batches of a run in a file, for a program that is to be trained on the very same ones.
//!
//! A line of JSON, `{"sequences":S,"length":T}`, then for each micro-batch in the order of the steps its S * T ids, 32-bit
//! little-endian, and S * T bytes, 1 where a token counts as a target. `models/reference` reads it.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::Path;

use foretoken::train::data::Batches;
use foretoken::{Error, Result};
use serde_json::json;

use crate::output::io_error;

/// Checks that the file is a new one.
///
/// # Errors
/// Where it is there already.
pub fn check(path: &Path) -> Result<()> {
    if path.exists() { Err(taken(path)) } else { Ok(()) }
}

fn taken(path: &Path) -> Error {
    let message = format!("--dump-batches {}: is there already; name a new file", path.display());
    Error::new(foretoken::ErrorKind::Input, message)
}

/// Writes the micro-batches of `steps` steps, of `sequences` sequences of `length` tokens each.
///
/// # Errors
/// Where the file is there already, or cannot be written.
pub fn write(path: &Path, mut batches: Batches<'_>, steps: u64, [sequences, length]: [usize; 2]) -> Result<()> {
    let mut all = || -> std::io::Result<()> {
        let mut file = BufWriter::new(File::create_new(path)?);
        writeln!(file, "{}", json!({ "sequences": sequences, "length": length }))?;
        for step in 0..steps {
            for batch in batches.step(step) {
                batch.ids.iter().try_for_each(|id| file.write_all(&id.to_le_bytes()))?;
                batch.counts.iter().try_for_each(|&counts| file.write_all(&[counts.into()]))?;
            }
        }
        file.into_inner()?.sync_all()
    };
    all().map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => taken(path),
        _ => io_error(path, &error),
    })
}
