//! The command as users run it: the built binary, its output, its exit code.
//!
//! The checkpoints under `tests/golden` say what is right; copies of them, each broken in one way, say what is refused.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use support::{CASE, Run, expected, foretoken, golden, golden_copy, ids_flag, start};

/// `generate` on the golden checkpoint with its prompt.
fn generate(more: &[&str]) -> Run {
    let (folder, prompt) = (golden(CASE), ids_flag(&expected(CASE)["prompt_ids"]));
    foretoken(&[&["generate", "--model", &folder, "--ids", &prompt], more].concat())
}

// ------------------------------------------------------------------------------------------------------ what it prints

#[test]
fn json_is_the_contract() {
    let golden = expected(CASE);
    let report = generate(&["--max-tokens", "24", "--json"]).json();
    assert_eq!(report["ids"], golden["ids"]);
    assert_eq!(report["prompt_ids"], golden["prompt_ids"]);
    assert_eq!(report["stop"], "length");
    assert!(report["model"].as_str().unwrap().ends_with(CASE), "{report}");
    assert!(report["text"].is_string() && report["adapter"].is_string(), "{report}");
    let stats = &report["stats"];
    assert_eq!(stats["prompt_tokens"], golden["prompt_ids"].as_array().unwrap().len());
    assert_eq!(stats["new_tokens"], 24);
    for seconds in ["load_s", "prefill_s", "decode_s", "tokens_per_s"] {
        assert!(stats[seconds].as_f64().unwrap() > 0.0, "{seconds}: {stats}");
    }
    assert!(["software", "workgroup", "subgroup"].iter().any(|set| stats["kernels"] == *set), "{stats}");
}

#[test]
fn standard_output_is_the_text_alone() {
    let text = generate(&["--json"]).json()["text"].as_str().unwrap().to_owned();
    let printed = generate(&[]).success();
    assert_eq!(printed.stdout, text);
    assert!(printed.stderr.contains("tokens/s"), "{}", printed.stderr);
}

#[test]
fn a_text_prompt_becomes_the_tokenizers_ids() {
    let (golden_values, folder) = (expected(CASE), golden(CASE));
    let text = golden_values["text"].as_str().unwrap();
    let base = ["generate", "--model", &folder, "--max-tokens", "3", "--json"];
    let by_flag = foretoken(&[&base[..], &["--prompt", text]].concat()).json();
    assert_eq!(by_flag["prompt_ids"], golden_values["text_ids"]);
    // The text's own line break stays, the one that `echo` and editors add goes.
    let echoed = format!("{text}\n");
    let by_pipe = start(&base).input(echoed.as_bytes()).json();
    assert_eq!(by_pipe["prompt_ids"], golden_values["text_ids"]);
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("prompt.txt");
    fs::write(&file, echoed).unwrap();
    let by_file = foretoken(&[&base[..], &["--prompt-file", file.to_str().unwrap()]].concat()).json();
    assert_eq!(by_file["prompt_ids"], golden_values["text_ids"]);
    assert_eq!(by_file["ids"], by_flag["ids"]);
}

#[test]
fn the_repetition_penalty_is_hugging_faces() {
    let golden = expected(CASE);
    let penalty = golden["repetition_penalty"].to_string();
    let report = generate(&["--max-tokens", "24", "--repetition-penalty", &penalty, "--json"]).json();
    assert_eq!(report["ids"], golden["penalty_ids"]);
}

#[test]
fn the_same_seed_draws_the_same_text() {
    let draw = |seed| generate(&["--max-tokens", "24", "--temperature", "1", "--seed", seed, "--json"]).json();
    let first = draw("7");
    assert_eq!(first["stats"]["seed"], 7);
    assert_eq!(first["ids"], draw("7")["ids"]);
    // Of a flag given twice the last one counts, so that scripts and aliases can be overruled.
    let overruled =
        generate(&["--max-tokens", "24", "--temperature", "1", "--seed", "8", "--seed", "7", "--json"]).json();
    assert_eq!(first["ids"], overruled["ids"]);
    assert_ne!(first["ids"], draw("8")["ids"]);
    assert_ne!(first["ids"], expected(CASE)["ids"]);
}

#[test]
fn every_kernel_set_gives_the_golden_ids() {
    for set in ["software", "workgroup"] {
        let report = generate(&["--max-tokens", "24", "--kernels", set, "--json"]).json();
        assert_eq!(report["ids"], expected(CASE)["ids"], "{set}");
        assert_eq!(report["stats"]["kernels"], set);
    }
}

// --------------------------------------------------------------------------------------------------------- how it ends

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let whole = generate(&["--max-tokens", "24", "--json"]).json();
    let text = whole["text"].as_str().unwrap();
    let chars: Vec<char> = text.chars().collect();
    let stop: String = chars[chars.len() / 2..][..2].iter().collect();
    let at = text.find(&stop).unwrap();
    let cut = generate(&["--max-tokens", "24", "--stop", "never there", "--stop", &stop, "--json"]).json();
    assert_eq!(cut["stop"], "stop_text");
    assert_eq!(cut["text"], text[..at]);
    let (ids, all) = (cut["ids"].as_array().unwrap(), whole["ids"].as_array().unwrap());
    assert_eq!(ids[..], all[..ids.len()]);
    assert!(ids.len() < all.len());
    assert_eq!(generate(&["--max-tokens", "24", "--stop", &stop]).success().stdout, text[..at]);
}

#[test]
fn an_end_token_ends_the_text() {
    let ids = expected(CASE)["ids"].as_array().unwrap().clone();
    let (_temp, folder) = golden_copy(CASE);
    fs::write(Path::new(&folder).join("generation_config.json"), json!({"eos_token_id": [2, ids[4]]}).to_string())
        .unwrap();
    let prompt = ids_flag(&expected(CASE)["prompt_ids"]);
    let report = foretoken(&["generate", "--model", &folder, "--ids", &prompt, "--json"]).json();
    assert_eq!(report["stop"], "eos");
    let end = ids.iter().position(|id| *id == ids[4]).unwrap();
    assert_eq!(report["ids"].as_array().unwrap()[..], ids[..=end]);
}

#[test]
fn a_full_context_ends_the_text() {
    let report = generate(&["--context", "16", "--json"]).json();
    assert_eq!(report["stop"], "length");
    let prompt = report["prompt_ids"].as_array().unwrap().len();
    let new = report["ids"].as_array().unwrap().len();
    // The last token needs no place in the cache.
    assert!((16 - prompt..=17 - prompt).contains(&new), "{report}");
}

/// A checkpoint and flags that generate for a long time.
fn endless() -> (tempfile::TempDir, Vec<String>) {
    let (temp, folder) = golden_copy(CASE);
    let config = Path::new(&folder).join("config.json");
    support::edit_json(&config, |config| config["max_position_embeddings"] = json!(100_000));
    fs::write(Path::new(&folder).join("generation_config.json"), r#"{"eos_token_id": []}"#).unwrap();
    let flags = ["generate", "--model", &folder, "--ids", "1,5,6", "--context", "32000", "--max-tokens", "31000"];
    (temp, flags.map(str::to_owned).to_vec())
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_generation_cleanly() {
    let (_temp, flags) = endless();
    let mut child = start(&flags).0.stdin(Stdio::null()).spawn().unwrap();
    let mut first = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    let pid = child.id().to_string();
    assert!(Command::new("sh").args(["-c", "kill -INT $0", &pid]).status().unwrap().success());
    let run = Run::from(child.wait_with_output().unwrap());
    assert_eq!(run.code, Some(130), "{}", run.stderr);
    assert!(run.stderr.contains("interrupt"), "{}", run.stderr);
}

/// `script` gives it a terminal. Two lines are two turns, and the end of the input ends the session.
#[cfg(target_os = "linux")]
#[test]
fn from_a_terminal_it_takes_turns() {
    let command = format!("{} generate --max-tokens 5", env!("CARGO_BIN_EXE_foretoken"));
    let mut script = Command::new("script");
    script.args(["-qec", &command, "/dev/null"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let run = support::Start(script).input(b"Once upon a time\nThen\n\x04").success();
    assert_eq!(run.stdout.matches("stop: ").count(), 2, "{}", run.stdout);
    assert_eq!(run.stdout.matches("> ").count(), 3, "{}", run.stdout);
}

/// What makes no line of a text is said, and the session goes on: bytes that are no UTF-8, and more than the context holds.
#[cfg(target_os = "linux")]
#[test]
fn a_session_goes_on_after_a_line_it_cannot_use() {
    let command = format!("{} generate --max-tokens 3 --context 16", env!("CARGO_BIN_EXE_foretoken"));
    let mut script = Command::new("script");
    script.args(["-qec", &command, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let long = "the fox and the dog ".repeat(20);
    let input = [b"caf\xE9\n", long.as_bytes(), b"\nOnce upon\n", long.as_bytes(), b"\nThen\n\x04"].concat();
    let mut child = script.spawn().unwrap();
    child.stdin.take().unwrap().write_all(&input).unwrap();
    let output = child.wait_with_output().unwrap();
    // The terminal echoes the broken bytes.
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert_eq!(text.matches("expected UTF-8 text, but byte 3 is not").count(), 1, "{text}");
    assert_eq!(text.matches("but the context holds 16").count(), 2, "{text}");
    assert_eq!(text.matches("stop: ").count(), 2, "{text}");
}

#[test]
fn a_reader_that_stops_reading_ends_it_quietly() {
    let (_temp, flags) = endless();
    let mut child = start(&flags).0.stdin(Stdio::null()).spawn().unwrap();
    let mut first = [0];
    let mut reader = child.stdout.take().unwrap();
    reader.read_exact(&mut first).unwrap();
    drop(reader);
    let run = Run::from(child.wait_with_output().unwrap());
    assert_eq!(run.code, Some(141), "{}", run.stderr);
    assert_eq!(run.stderr, "");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let folder = golden(CASE);
    let mut command = start(&["generate", "--model", &folder, "--ids", "1"]).0;
    let run = Run::from(command.stdout(full).stdin(Stdio::null()).output().unwrap());
    run.fails_with("standard output");
}

// ---------------------------------------------------------------------------------------------------- the other commands

#[test]
fn score_adds_up() {
    let (golden_values, folder) = (expected(CASE), golden(CASE));
    let text = golden_values["text"].as_str().unwrap();
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("text.txt").to_str().unwrap().to_owned();
    fs::write(&file, text).unwrap();
    let score = |more: &[&str]| foretoken(&[&["score", "--model", &folder, "--text-file", &file], more].concat());
    let report = score(&["--json"]).json();
    assert_eq!(report["ids"], golden_values["text_ids"]);
    let logprobs: Vec<f64> =
        report["logprobs"].as_array().unwrap().iter().map(|logprob| logprob.as_f64().unwrap()).collect();
    assert_eq!(logprobs.len() + 1, report["ids"].as_array().unwrap().len());
    assert_eq!(report["tokens"], report["ids"].as_array().unwrap().len());
    assert!(logprobs.iter().all(|logprob| *logprob < 0.0));
    let total = -logprobs.iter().sum::<f64>();
    let close = |name: &str, expected: f64| {
        let got = report[name].as_f64().unwrap();
        assert!((got - expected).abs() < 1e-6, "{name}: expected {expected}, got {got}");
    };
    close("nll", total / logprobs.len() as f64);
    close("bits_per_byte", total / std::f64::consts::LN_2 / text.len() as f64);
    assert!(score(&[]).success().stdout.contains("bits per byte"));

    score(&["--context", "9"]).fails_with("--truncate");
    let start = score(&["--context", "9", "--truncate", "--json"]).json();
    assert_eq!(start["ids"].as_array().unwrap()[..], report["ids"].as_array().unwrap()[..9]);
    assert_eq!(start["logprobs"].as_array().unwrap().len(), 8);

    fs::write(&file, "").unwrap();
    score(&[]).fails_with("empty");
    fs::write(&file, b"caf\xE9").unwrap();
    score(&[]).fails_with("UTF-8");
}

#[test]
fn inspect_describes() {
    let folder = golden(CASE);
    let report = foretoken(&["inspect", "--model", &folder, "--json"]).json();
    assert_eq!(report["model_type"], "llama");
    assert_eq!(report["missing"], json!([]));
    assert!(!report["tensors_used"].as_array().unwrap().is_empty());
    for size in ["parameters", "weights_bytes", "cache_bytes", "work_bytes"] {
        assert!(report[size].as_u64().unwrap() > 0, "{size}");
    }
    assert!(foretoken(&["inspect", "--model", &folder]).success().stdout.contains("llama"));
    foretoken(&["inspect"]).success();
}

#[test]
fn new_heads_are_written_inspected_and_loaded() {
    let ((_temp, folder), other) = (golden_copy(CASE), tempfile::tempdir().unwrap());
    let before = foretoken(&["inspect", "--model", &folder]).success().stdout;
    assert!(before.contains("none found"), "{before}");
    foretoken(&["init-heads", "--model", &folder, "--out", &folder, "--heads", "2", "--backbone-first"]).success();
    let report = foretoken(&["inspect", "--model", &folder, "--json"]).json();
    let heads = &report["heads"][0];
    assert_eq!((&heads["kind"], &heads["used"]), (&json!("Foretoken"), &json!(true)));
    assert_eq!((&heads["offsets"], &heads["layers"]), (&json!([1, 2]), &json!([0, 1])));
    let text = foretoken(&["inspect", "--model", &folder]).success().stdout;
    assert!(text.contains("2 parallel heads") && text.contains("parameters"), "{text}");
    // The next token is the model's own business.
    let ids = ids_flag(&expected(CASE)["prompt_ids"]);
    let generated = foretoken(&["generate", "--model", &folder, "--ids", &ids, "--max-tokens", "24", "--json"]).json();
    assert_eq!(generated["ids"], expected(CASE)["ids"]);
    let again = foretoken(&["init-heads", "--model", &folder, "--out", &folder]);
    again.fails_with("mtp_config.json: there are heads already");
    let out = other.path().join("deep/heads");
    let random = ["--kind", "sequential", "--init", "random", "--seed", "7", "--source", "whs", "--depth", "2"];
    let base = ["init-heads", "--model", &folder, "--out", out.to_str().unwrap()];
    foretoken(&[&base[..], &random].concat()).success();
    assert!(out.join("mtp.safetensors").exists());
    foretoken(&[&base[..], &["--source", "nothing"]].concat()).fails_with("final-norm");
    foretoken(&[&base[..], &["--depth", "9"]].concat()).fails_with("9 layers a head");
}

#[test]
fn broken_heads_beside_a_model_are_reported() {
    let (_temp, folder) = golden_copy(CASE);
    fs::write(Path::new(&folder).join("mtp_config.json"), "{").unwrap();
    let inspected = foretoken(&["inspect", "--model", &folder, "--json"]);
    assert!(inspected.code == Some(1) && inspected.stderr.contains("mtp_config.json"), "{}", inspected.stderr);
    foretoken(&["generate", "--model", &folder, "--ids", "1,2"]).fails_with("mtp_config.json");
}

#[test]
fn inspect_reports_what_is_wrong_and_fails() {
    let (_temp, folder) = golden_copy(CASE);
    weights(Path::new(&folder), |header, _| rename(header, Q_PROJ, "renamed"));
    let run = foretoken(&["inspect", "--model", &folder, "--json"]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(report["missing"], json!([Q_PROJ]));
    assert_eq!(report["unknown"], json!(["renamed"]));
    assert!(run.stderr.contains(Q_PROJ), "{}", run.stderr);
}

#[test]
fn inspect_describes_what_a_sliding_window_leaves() {
    let (_temp, folder) = golden_copy("mistral");
    config(Path::new(&folder), |config| config["sliding_window"] = json!(24));
    let run = foretoken(&["inspect", "--model", &folder, "--json"]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("sliding_window 24 is not implemented"), "{}", run.stderr);
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((&report["context"], &report["missing"]), (&json!(24), &json!([])));
    assert!(report["problem"].as_str().unwrap().contains("sliding_window 24"), "{report}");
    let text = foretoken(&["inspect", "--model", &folder]).stdout;
    assert!(text.contains("mistral") && text.contains("cache for 24 tokens"), "{text}");
    foretoken(&["inspect", "--model", &folder, "--context", "24"]).success();
}

#[test]
fn devices_are_tested() {
    let report = foretoken(&["devices", "--json"]).json();
    assert_eq!(report["passed"], true, "{report}");
    let picked = report["picked"].as_u64().unwrap() as usize;
    assert_eq!(report["adapters"][picked]["software"].as_bool().unwrap(), report["advice"].is_string());
    assert!(!report["self_test"][0]["checks"].as_array().unwrap().is_empty());
    let text = foretoken(&["devices", "--kernels", "workgroup"]).success().stdout;
    assert!(text.contains("Picked") && text.contains("ok") && !text.contains("software kernels"), "{text}");
}

#[test]
fn the_embedded_model_needs_no_flags() {
    let report = start(&["generate", "--max-tokens", "16", "--json"]).input(b"Once upon a time").json();
    assert_eq!(report["stats"]["new_tokens"], 16);
    assert!(!report["text"].as_str().unwrap().is_empty());
}

// ------------------------------------------------------------------------------------------------------- what it refuses

#[test]
fn wrong_flags_are_refused() {
    let cases: &[(&[&str], &str)] = &[
        (&["--temperature", "-1"], "temperature"),
        (&["--temperature", "nan"], "temperature"),
        (&["--temperature", "inf"], "temperature"),
        (&["--top-p", "0"], "top"),
        (&["--top-p", "1.5"], "top"),
        (&["--top-p", "NaN"], "top"),
        (&["--min-p", "-0.1"], "min"),
        (&["--min-p", "2"], "min"),
        (&["--repetition-penalty", "0"], "penalty"),
        (&["--repetition-penalty", "-2"], "penalty"),
        (&["--repetition-penalty", "nan"], "penalty"),
        (&["--top-k", "-1"], "top-k"),
        (&["--seed", "x"], "seed"),
        (&["--seed", "-1"], "seed"),
        (&["--max-tokens", "-1"], "max-tokens"),
        (&["--stop", ""], "stop"),
        (&["--context", "0"], "context"),
        (&["--kernels", "fastest"], "fastest"),
        (&["--prompt", "both"], "cannot be used with"),
        (&["--adapter", "no such adapter"], "no such adapter"),
    ];
    for (flags, message) in cases {
        generate(flags).fails_with(message);
    }
}

#[test]
fn wrong_prompts_are_refused() {
    let folder = golden(CASE);
    let with = |flags: &[&str]| foretoken(&[&["generate", "--model", &folder], flags].concat());
    with(&["--prompt", ""]).fails_with("empty");
    with(&[]).fails_with("empty");
    with(&["--ids", ""]).fails_with("token ids");
    with(&["--ids", "5,6,x"]).fails_with("x");
    with(&["--ids", "5,-6"]).fails_with("token ids");
    with(&["--ids", "1,96"]).fails_with("96");
    with(&["--ids", "4294967295"]).fails_with("4294967295");
    with(&["--ids", "4294967296"]).fails_with("4294967296");
    with(&["--ids", "1,2,3,4,5,6,7,8,9", "--context", "8"]).fails_with("context");
    with(&["--prompt-file", "no such file"]).fails_with("no such file");
    start(&["generate", "--model", &folder]).input(b"\n").fails_with("empty");
    start(&["generate", "--model", &folder]).input(b"caf\xE9").fails_with("UTF-8");
    with(&["--ids", "1", "--max-tokens", "2"]).success();
}

#[cfg(target_os = "linux")]
#[test]
fn endless_files_are_refused() {
    let folder = golden(CASE);
    for [command, flag] in [["generate", "--prompt-file"], ["score", "--text-file"]] {
        foretoken(&[command, "--model", &folder, flag, "/dev/zero"])
            .fails_with("/dev/zero: expected a text of at most");
    }
}

#[test]
fn without_a_tokenizer_each_command_says_what_it_can_do() {
    let (temp, folder) = golden_copy(CASE);
    remove(temp.path(), "tokenizer.json");
    foretoken(&["generate", "--model", &folder, "--prompt", "the"]).fails_with("--ids");
    let text = temp.path().join("text.txt");
    fs::write(&text, "the text").unwrap();
    let score = foretoken(&["score", "--model", &folder, "--text-file", text.to_str().unwrap()]);
    score.fails_with("tokenizer.json");
    // It has no such flag.
    assert!(!score.stderr.contains("--ids"), "{}", score.stderr);
}

#[test]
fn a_tokenizer_of_another_model_is_named() {
    let (temp, folder) = golden_copy(CASE);
    let run = |prompt| foretoken(&["generate", "--model", &folder, "--prompt", prompt, "--max-tokens", "1"]);
    support::edit_json(&temp.path().join("tokenizer.json"), |tokenizer| {
        let mut token = tokenizer["added_tokens"][0].clone();
        token["id"] = json!(96);
        token["content"] = json!("<new>");
        tokenizer["added_tokens"].as_array_mut().unwrap().push(token);
    });
    run("the text").success();
    run("the <new>").fails_with("vocabulary has ids 0 to 95; tokenizer.json has ids up to 96");
    fs::write(temp.path().join("tokenizer.json"), "{}").unwrap();
    run("the text").fails_with(&format!("{folder}: tokenizer.json"));
}

#[test]
fn a_bench_refuses_a_broken_model_before_it_measures() {
    let (temp, folder) = golden_copy(CASE);
    weights(temp.path(), |header, _| rename(header, Q_PROJ, "renamed"));
    let run = foretoken(&["bench", "--model", &folder]);
    run.fails_with(Q_PROJ);
    assert!(!run.stderr.contains("memory"), "{}", run.stderr);
}

#[test]
fn weights_that_overflow_have_no_score() {
    let (temp, folder) = golden_copy(CASE);
    weights(temp.path(), |header, data| {
        let at = header[Q_PROJ.replace("self_attn.q_proj", "mlp.down_proj")]["data_offsets"].clone();
        let [start, end] = [0, 1].map(|i| at[i].as_u64().unwrap() as usize);
        data[start..end].chunks_exact_mut(4).for_each(|weight| weight.copy_from_slice(&f32::MAX.to_le_bytes()));
    });
    let text = temp.path().join("text.txt");
    fs::write(&text, "the text").unwrap();
    let run = foretoken(&["score", "--model", &folder, "--text-file", text.to_str().unwrap()]);
    run.fails_with("not finite");
}

#[test]
fn folders_that_are_none_are_refused() {
    for (model, message) in [("no such folder", "no such folder"), (file!(), "folder")] {
        for command in ["generate", "inspect"] {
            let prompt: &[&str] = if command == "generate" { &["--prompt", "a"] } else { &[] };
            foretoken(&[&[command, "--model", model], prompt].concat()).fails_with(message);
        }
    }
}

#[test]
fn a_model_that_does_not_fit_is_refused() {
    let (_temp, folder) = golden_copy(CASE);
    let config = Path::new(&folder).join("config.json");
    support::edit_json(&config, |config| config["max_position_embeddings"] = json!(2_000_000_000u32));
    foretoken(&["generate", "--model", &folder, "--ids", "1", "--context", "2000000000"]).fails_with("bytes");
}

#[cfg(target_os = "linux")]
#[test]
fn without_an_adapter_it_says_what_to_install() {
    for command in [&["devices"][..], &["generate", "--prompt", "a"]] {
        let mut start = start(command);
        start.0.env("VK_DRIVER_FILES", "/nonexistent").env("VK_ICD_FILENAMES", "/nonexistent");
        start.input(b"").fails_with("mesa-vulkan-drivers");
    }
}

#[test]
fn the_environment_chooses_the_adapter_too() {
    let mut start = start(&["devices"]);
    start.0.env("FORETOKEN_ADAPTER", "no such adapter");
    start.input(b"").fails_with("no such adapter");
}

/// One way to break a checkpoint, and what the error must name.
struct Broken {
    message: &'static [&'static str],
    make: fn(&Path),
}

const WEIGHTS: &str = "model.safetensors";
const Q_PROJ: &str = "model.layers.0.self_attn.q_proj.weight";

fn remove(folder: &Path, name: &str) {
    fs::remove_file(folder.join(name)).unwrap();
}

fn config(folder: &Path, change: impl FnOnce(&mut Value)) {
    support::edit_json(&folder.join("config.json"), change);
}

fn weights(folder: &Path, change: impl FnOnce(&mut Value, &mut Vec<u8>)) {
    support::edit_weights(&folder.join(WEIGHTS), change);
}

fn rename(header: &mut Value, from: &str, to: &str) {
    let tensors = header.as_object_mut().unwrap();
    let tensor = tensors.remove(from).unwrap();
    tensors.insert(to.to_owned(), tensor);
}

fn bytes(folder: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let path = folder.join(WEIGHTS);
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[test]
fn broken_checkpoints_are_refused() {
    let cases = [
        Broken { message: &["config.json"], make: |folder| remove(folder, "config.json") },
        Broken { message: &["tokenizer.json"], make: |folder| remove(folder, "tokenizer.json") },
        Broken { message: &[WEIGHTS], make: |folder| remove(folder, WEIGHTS) },
        Broken { message: &["config.json"], make: |folder| fs::write(folder.join("config.json"), "{").unwrap() },
        Broken { message: &["tokenizer.json"], make: |folder| fs::write(folder.join("tokenizer.json"), "{}").unwrap() },
        Broken { message: &["mamba"], make: |folder| config(folder, |config| config["model_type"] = json!("mamba")) },
        Broken {
            message: &["hidden_act"],
            make: |folder| config(folder, |config| config["hidden_act"] = json!("relu")),
        },
        Broken {
            message: &["yarn"],
            make: |folder| {
                config(folder, |config| config["rope_parameters"] = json!({"rope_type": "yarn", "factor": 4.0}))
            },
        },
        Broken { message: &["hidden_size"], make: |folder| config(folder, |config| config["hidden_size"] = json!(0)) },
        Broken { message: &[WEIGHTS], make: |folder| bytes(folder, Vec::clear) },
        Broken { message: &[WEIGHTS], make: |folder| bytes(folder, |bytes| bytes.truncate(bytes.len() - 10)) },
        Broken { message: &[WEIGHTS], make: |folder| bytes(folder, |bytes| bytes[..8].fill(0xFF)) },
        Broken {
            message: &[Q_PROJ, "overlap"],
            make: |folder| {
                weights(folder, |header, _| {
                    let len = header[Q_PROJ]["data_offsets"][1].as_u64().unwrap()
                        - header[Q_PROJ]["data_offsets"][0].as_u64().unwrap();
                    header[Q_PROJ]["data_offsets"] = json!([4, 4 + len]);
                });
            },
        },
        Broken {
            message: &[Q_PROJ, "zero"],
            make: |folder| weights(folder, |header, _| header[Q_PROJ]["shape"] = json!([0, 32])),
        },
        Broken {
            message: &[Q_PROJ],
            make: |folder| weights(folder, |header, _| header[Q_PROJ]["shape"] = json!([u64::MAX, u64::MAX])),
        },
        Broken {
            message: &[Q_PROJ, "[32, 32]", "[16, 64]"],
            make: |folder| weights(folder, |header, _| header[Q_PROJ]["shape"] = json!([16, 64])),
        },
        Broken {
            message: &[Q_PROJ, "I32"],
            make: |folder| weights(folder, |header, _| header[Q_PROJ]["dtype"] = json!("I32")),
        },
        Broken {
            message: &[Q_PROJ, "missing"],
            make: |folder| weights(folder, |header, _| rename(header, Q_PROJ, "renamed")),
        },
        Broken {
            message: &[Q_PROJ, "NaN"],
            make: |folder| {
                weights(folder, |header, data| {
                    let at = header[Q_PROJ]["data_offsets"][0].as_u64().unwrap() as usize;
                    data[at + 400..at + 404].copy_from_slice(&f32::INFINITY.to_le_bytes());
                });
            },
        },
    ];
    for (number, Broken { message, make }) in cases.iter().enumerate() {
        let (_temp, folder) = golden_copy(CASE);
        make(Path::new(&folder));
        let run = foretoken(&["generate", "--model", &folder, "--prompt", "the"]);
        for part in *message {
            run.fails_with_in(part, &format!("case {number}"));
        }
    }
}

#[test]
fn a_missing_shard_is_named() {
    let (_temp, folder) = golden_copy("llama-sharded");
    let shard = "model-00002-of-00003.safetensors";
    remove(Path::new(&folder), shard);
    foretoken(&["generate", "--model", &folder, "--ids", "1"]).fails_with(shard);
}

#[test]
fn standard_error_may_be_closed() {
    let folder = golden(CASE);
    let mut child = start(&["generate", "--model", &folder, "--ids", "1"]).0.stdin(Stdio::null()).spawn().unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
}
