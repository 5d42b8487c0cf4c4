//! `foretoken quantize` as users run it: files that load, and nothing half-written where it fails.

use std::fs;
use std::path::Path;

use crate::support::{CASE, Refused, expected, foretoken, golden, ids_flag};
use serde_json::Value;

fn generate(flags: &[&str]) -> Value {
    let prompt = ids_flag(&expected(CASE)["prompt_ids"]);
    let ids = ["generate", "--ids", &prompt, "--max-tokens", "24", "--draft", "off", "--json"];
    foretoken(&[&ids, flags].concat()).json()
}

fn names(folder: &Path) -> Vec<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_folder_becomes_a_file_that_generates_the_same() {
    let (model, temp) = (golden(CASE), tempfile::tempdir().unwrap());
    let file = |name: &str| temp.path().join(name).to_str().unwrap().to_owned();
    let out = file("a.gguf");
    let run = foretoken(&["quantize", "--model", &model, "--to", "f32", "--out", &out]).success();
    assert!(run.stdout.is_empty() && run.stderr.contains("32.00 bits a weight"), "{}", run.stderr);
    let expected = generate(&["--model", &model]);
    assert_eq!(generate(&["--model", &out])["ids"], expected["ids"]);
    // From the file on.
    let small = file("b.gguf");
    let run = foretoken(&["quantize", "--model", &out, "--to", "Q4_K_M", "--out", &small]).success();
    assert!(run.stderr.contains("note: ") && run.stderr.contains("Q5_0 takes its place"), "{}", run.stderr);
    assert!(fs::metadata(&small).unwrap().len() < fs::metadata(&out).unwrap().len());
    assert_eq!(generate(&["--model", &small])["prompt_ids"], expected["prompt_ids"]);
    let report = foretoken(&["inspect", "--model", &small, "--json"]).json();
    assert!(report["dtypes"]["Q5_0"].as_u64() > Some(0) && report["dtypes"]["Q8_0"].as_u64() > Some(0), "{report}");
    let mut left = names(temp.path());
    left.sort();
    assert_eq!(left, ["a.gguf", "b.gguf"]);
}

#[test]
fn the_embedded_model_becomes_a_file() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("default.gguf");
    let out = out.to_str().unwrap();
    foretoken(&["quantize", "--to", "f16", "--out", out]).success();
    let text = |flags: &[&str]| {
        let prompt = ["generate", "--prompt", "Once upon a time", "--max-tokens", "20", "--draft", "off", "--json"];
        foretoken(&[&prompt, flags].concat()).json()
    };
    let (ours, theirs) = (text(&["--model", out]), text(&[]));
    assert_eq!((&ours["prompt_ids"], &ours["ids"]), (&theirs["prompt_ids"], &theirs["ids"]));
}

#[test]
fn what_cannot_be_written_leaves_nothing() {
    let (model, temp) = (golden(CASE), tempfile::tempdir().unwrap());
    let folder = temp.path().to_str().unwrap();
    let out = format!("{folder}/a.gguf");
    let to = |kind: &str, out: &str| foretoken(&["quantize", "--model", &model, "--to", kind, "--out", out]);
    let places = [("{folder}", folder)];
    let types = "there are: f32, f16, bf16, q8_0, q6_k, q5_k, q5_1, q5_0, q4_k, q4_1, q4_0";
    let unknown = format!("invalid value 'q3' for '--to <TYPE>': the type 'q3' is not known; {types}");
    to("q3", &out).refused(Refused::Usage(&unknown), &places, "q3");
    to("q8_0", &format!("{folder}/a.bin")).refused(
        Refused::Error("{folder}/a.bin: expected the name of a file that ends with .gguf"),
        &places,
        "another ending",
    );
    to("q8_0", &format!("{folder}/none/a.gguf")).fails_with("none/a.gguf");
    let neox = golden("neox-parallel");
    foretoken(&["quantize", "--model", &neox, "--to", "q8_0", "--out", &out]).fails_with("a gpt_neox model cannot");
    assert!(names(temp.path()).is_empty());
    fs::write(&out, b"mine").unwrap();
    let there = Refused::Error("{folder}/a.gguf: is there already; name another file");
    to("q8_0", &out).refused(there, &places, "is there");
    assert_eq!(fs::read(&out).unwrap(), b"mine");
}

/// A device that is always full.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_nothing() {
    let temp = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/full", temp.path().join(".a.gguf.unfinished")).unwrap();
    let out = temp.path().join("a.gguf");
    let run = foretoken(&["quantize", "--model", &golden(CASE), "--to", "q8_0", "--out", out.to_str().unwrap()]);
    run.fails_with("a.gguf: No space left on device");
    assert!(names(temp.path()).is_empty());
}

/// The file is a pipe, so that the program waits for its reader until the signal has come.
#[cfg(unix)]
#[test]
fn a_signal_leaves_nothing() {
    use std::io::Read;
    use std::process::Command;
    use std::time::Duration;

    use crate::support::{Run, program};

    let temp = tempfile::tempdir().unwrap();
    let pipe = temp.path().join(".a.gguf.unfinished");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let out = temp.path().join("a.gguf");
    let child = program(&["quantize", "--to", "f16", "--out", out.to_str().unwrap()]).spawn().unwrap();
    let mut reader = fs::File::open(&pipe).unwrap();
    let mut magic = [0; 4];
    reader.read_exact(&mut magic).unwrap();
    assert_eq!(&magic, b"GGUF");
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    // More than a pipe holds is still to come; the signal is seen meanwhile.
    std::thread::sleep(Duration::from_secs(1));
    let _ = std::io::copy(&mut reader, &mut std::io::sink());
    let run = Run::from(child.wait_with_output().unwrap());
    assert_eq!(run.code, Some(130), "{}", run.stderr);
    assert!(run.stderr.contains("interrupted: "), "{}", run.stderr);
    assert!(names(temp.path()).is_empty());
}
