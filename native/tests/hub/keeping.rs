//! Kept models: listed, verified, removed.

use std::fs;

use crate::server::COMMIT;
use crate::{NAME, Place, gguf};
use serde_json::json;

const WEIGHTS: &str = "model.safetensors";

#[test]
fn kept_models_are_listed() {
    let place = Place::new();
    let empty = place.run(&["models"]).success().stdout;
    assert!(empty.starts_with("no models in ") && empty.contains("huggingface"), "{empty}");
    place.run(&["pull", NAME]).success();
    let text = place.run(&["models"]).success().stdout;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "model       revision        files        size  state");
    assert_eq!(lines[1], "owner/name  main (0123456)      4   101.4 KiB  verified");
    assert!(lines[2].starts_with("in ") && lines.len() == 3, "{text}");
    let model = &place.models(&[])["models"][0];
    let expected = json!({"model": NAME, "revisions": ["main"], "commit": COMMIT, "files": 4, "bytes": 103_797, "state": "verified",
        "unfinished_bytes": 0});
    assert_eq!(*model, expected);
}

#[test]
fn what_others_downloaded_is_verified_when_that_is_asked_for() {
    let place = Place::new();
    place.run(&["pull", NAME]).success();
    // As if another program had brought it.
    fs::remove_dir_all(place.home.path().join(".cache/foretoken")).unwrap();
    let state = |flags: &[&str]| place.models(flags)["models"][0]["state"].clone();
    assert_eq!(state(&[]), "not_verified");
    place.offline(&["inspect", "--model", NAME]).success();
    assert_eq!(state(&["--verify"]), "verified");
    assert_eq!(state(&[]), "verified");
}

#[test]
fn what_was_changed_is_found_and_mended() {
    let place = Place::new();
    place.run(&["pull", NAME]).success();
    let mut content = fs::read(place.blob(WEIGHTS)).unwrap();
    content[60_000] ^= 1;
    fs::write(place.blob(WEIGHTS), content).unwrap();
    assert_eq!(place.models(&[])["models"][0]["state"], "not_verified");
    let run = place.run(&["models", "--verify"]);
    assert_eq!(run.code, Some(1));
    assert!(run.stdout.contains("a file is wrong: pull it again") && run.stderr.contains(WEIGHTS), "{}", run.stderr);
    let run = place.run(&["pull", NAME]).success();
    assert!(run.stderr.contains("note: model.safetensors was kept with another content"), "{}", run.stderr);
    place.is_whole();
    assert_eq!(place.server.downloads(WEIGHTS), 2);
    // A file that is gone.
    fs::remove_file(place.blob(WEIGHTS)).unwrap();
    assert_eq!(place.models(&[])["models"][0]["state"], "missing");
    place.offline(&["inspect", "--model", NAME]).fails_with("does not have it whole");
    place.run(&["inspect", "--model", NAME]).success();
    place.is_whole();
}

#[test]
fn models_are_removed_whole_or_in_part() {
    let place = Place::with(vec![("m-Q8_0.gguf".to_owned(), gguf("llama-gqa.gguf"))]);
    place.run(&["remove", NAME]).fails_with("owner/name: is not kept; `foretoken models` lists what is");
    place.run(&["pull", NAME]).success();
    place.run(&["pull", "owner/name:q8_0"]).success();
    place.run(&["remove", "owner/name:q4_0"]).fails_with("of what is kept, it has no q4_0; there are: Q8_0");
    place.run(&["remove", "owner/name@v1"]).fails_with("owner/name@v1: is not kept");
    let run = place.run(&["remove", "owner/name:Q8_0"]).success();
    assert_eq!(run.stdout, "owner/name:Q8_0 is removed: 100.4 KiB are free\n");
    assert!(!place.blob("m-Q8_0.gguf").exists());
    place.is_whole();
    let run = place.run(&["remove", NAME]).success();
    assert_eq!(run.stdout, "owner/name is removed: 101.4 KiB are free\n");
    assert!(!place.repository().exists());
    // The last revision takes everything along.
    place.run(&["pull", "owner/name@v1:Q8_0"]).success();
    place.run(&["remove", "owner/name@v1"]).success();
    assert!(!place.repository().exists());
}

#[test]
fn what_others_downloaded_in_part_is_completed() {
    let place = Place::new();
    place.run(&["pull", NAME]).success();
    for missing in [WEIGHTS, "tokenizer.json", "config.json"] {
        fs::remove_file(place.snapshot(missing)).unwrap();
        place.run(&["inspect", "--model", NAME]).success();
        place.is_whole();
        assert!(place.snapshot("tokenizer.json").exists());
    }
    // A shard without those that belong to it.
    fs::rename(place.snapshot(WEIGHTS), place.snapshot("model-00001-of-00002.safetensors")).unwrap();
    place.server.behave_well();
    place.run(&["inspect", "--model", NAME]).success();
    assert!(!place.server.requests().is_empty(), "what is there of it is not taken for all of it");
}
