//! What the program says where it compiles nothing.

use std::process::{Command, Output};
use std::{fs, path::Path};

/// Runs the program where the only drivers are those of `folder`.
fn amd(folder: &Path, required: bool, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_foretoken-amd"));
    command.env_remove("FORETOKEN_REQUIRE_RADV").arg("--drivers").arg(folder).args(arguments);
    if required {
        command.env("FORETOKEN_REQUIRE_RADV", "1");
    }
    command.output().expect("the program runs")
}

fn said(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

#[test]
fn a_missing_driver_is_told_and_is_an_error_only_where_it_is_required() {
    let empty = tempfile::tempdir().expect("a folder");
    let skipped = amd(empty.path(), false, &["check"]);
    let line = said(&skipped.stdout);
    assert!(skipped.status.success(), "{}", said(&skipped.stderr));
    assert!(line.starts_with("SKIPPED: ") && line.contains("mesa-vulkan-drivers"), "{line}");

    let required = amd(empty.path(), true, &["check"]);
    assert_eq!(required.status.code(), Some(1));
    assert!(said(&required.stderr).contains("no file radeon_icd*.json"), "{}", said(&required.stderr));
    assert_eq!(amd(empty.path(), false, &["update", "--reason", "x"]).status.code(), Some(1), "nothing to update from");
}

#[test]
fn a_driver_that_cannot_be_opened_counts_as_missing() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("radeon_icd.test.json"), "{}").expect("written");
    let skipped = amd(folder.path(), false, &["check"]);
    let line = said(&skipped.stdout);
    assert!(skipped.status.success(), "{}", said(&skipped.stderr));
    assert!(line.starts_with("SKIPPED: ") && line.contains("offers no null hardware NAVI21 (RDNA2)"), "{line}");
    assert_eq!(amd(folder.path(), true, &["check"]).status.code(), Some(1));
}

#[test]
fn an_update_wants_a_reason_of_one_line() {
    let empty = tempfile::tempdir().expect("a folder");
    for arguments in [&["update"][..], &["update", "--reason", " "], &["update", "--reason", "two\nlines"]] {
        let refused = amd(empty.path(), false, arguments);
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}");
        assert!(said(&refused.stderr).contains("--reason"), "{}", said(&refused.stderr));
    }
}

#[test]
fn an_unknown_family_is_refused() {
    let empty = tempfile::tempdir().expect("a folder");
    let refused = amd(empty.path(), false, &["isa", "RDNA9", "norm"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(said(&refused.stderr).contains("possible values: RDNA2, RDNA3"), "{}", said(&refused.stderr));
}
