//! Tells the command which commit it is built from, for the reports of `foretoken bench`. Without git it tells nothing.

use std::path::Path;
use std::process::Command;

/// What the command is built from, seen from this package.
const SOURCES: [&str; 8] =
    ["build.rs", "Cargo.toml", "src", "../Cargo.toml", "../Cargo.lock", "../src", "../shaders", "../models/default"];

fn main() {
    for source in SOURCES {
        watch(source);
    }
    // A commit or a checkout leaves its mark in one of these; in a work tree of its own they lie elsewhere.
    for name in ["HEAD", "logs/HEAD", "packed-refs"] {
        if let Some(path) = git(&["rev-parse", "--git-path", name]) {
            watch(&path);
        }
    }
    let Some(commit) = git(&["describe", "--always", "--abbrev=12", "--exclude=*"]) else { return };
    let changed = [&["status", "--porcelain", "--untracked-files=no", "--"], &SOURCES[..]].concat();
    let dirty = if git(&changed).is_some() { "-dirty" } else { "" };
    println!("cargo:rustc-env=FORETOKEN_COMMIT={commit}{dirty}");
}

/// Runs this again when `path` changes. Cargo would run it at every build for a path that does not exist.
fn watch(path: &str) {
    if Path::new(path).exists() {
        println!("cargo:rerun-if-changed={path}");
    }
}

/// What git answers, if it is there and has an answer.
fn git(words: &[&str]) -> Option<String> {
    // It must not write: others may be using the repository.
    let output = Command::new("git").arg("--no-optional-locks").args(words).output().ok()?;
    let answer = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !answer.is_empty()).then_some(answer)
}
