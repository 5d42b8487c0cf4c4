//! `foretoken inspect` and `foretoken init-heads`: what they say of checkpoints and heads, sound and broken, without a GPU.

use std::fs;
use std::path::Path;

use crate::support::{CASE, Q_PROJ, config, expected, foretoken, golden, golden_copy, ids_flag, rename, weights};
use serde_json::{Value, json};

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
    let text = foretoken(&["inspect", "--model", &folder]).success().stdout;
    assert!(text.contains("llama") && text.contains("with --quantize q8_0)"), "{text}");
    assert!(report["quantized_bytes"]["q8_0"].as_u64() < report["weights_bytes"].as_u64(), "{report}");
    // Its rows are no whole blocks.
    let odd = foretoken(&["inspect", "--model", &golden("llama-odd"), "--json"]).json();
    assert_eq!(odd["quantized_bytes"], json!({}));
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
    let beside = other.path().join("beside");
    let base = ["init-heads", "--model", &folder, "--out", beside.to_str().unwrap()];
    foretoken(&[&base[..], &["--kind", "sequential", "--backbone-first"]].concat()).success();
    let config = fs::read_to_string(beside.join("mtp_config.json")).unwrap();
    assert!(config.contains("backbone_last_layer") && config.contains("\"offset\": 2"), "{config}");
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
fn heads_in_a_folder_of_their_own_are_described() {
    let (folder, heads) = (golden(CASE), golden("heads-parallel"));
    let report = foretoken(&["inspect", "--model", &folder, "--heads", &heads, "--json"]).json();
    assert_eq!(report["heads"].as_array().unwrap().len(), 1, "{report}");
    assert_eq!((&report["heads"][0]["kind"], &report["heads"][0]["used"]), (&json!("Foretoken"), &json!(true)));
    assert!(report["heads"][0]["parameters"].as_u64().unwrap() > 0, "{report}");
    let text = foretoken(&["inspect", "--model", &folder, "--heads", &heads]).success().stdout;
    assert!(text.contains("parallel heads"), "{text}");
    // Those that the checkpoint brings stand aside.
    let (_temp, both) = golden_copy(CASE);
    foretoken(&["init-heads", "--model", &both, "--out", &both]).success();
    let report = foretoken(&["inspect", "--model", &both, "--heads", &heads, "--json"]).json();
    let used: Vec<_> = report["heads"].as_array().unwrap().iter().map(|heads| &heads["used"]).collect();
    assert_eq!(used, [&json!(true), &json!(false)], "{report}");
    foretoken(&["inspect", "--model", &folder, "--heads", &folder]).fails_with("no multi-token heads");
    foretoken(&["inspect", "--model", &folder, "--heads", &golden("heads-neox")]).fails_with("model_type");
}

#[test]
fn an_lm_head_of_its_own_in_spite_of_the_configuration_is_noted() {
    let (_temp, folder) = golden_copy("llama-gqa");
    config(Path::new(&folder), |config| config["tie_word_embeddings"] = json!(true));
    let note =
        "config.json ties the LM head to the embedding, but the file has another \"lm_head.weight\": that one is used";
    let text = foretoken(&["inspect", "--model", &folder]).success().stdout;
    assert!(text.contains(&format!("note               {note}\n")), "{text}");
    assert_eq!(foretoken(&["inspect", "--model", &folder, "--json"]).json()["notes"], json!([note]));
}

#[test]
fn names_cannot_order_the_terminal_about() {
    let (_temp, folder) = golden_copy(CASE);
    let name = "größe\u{1b}[2J\r\u{9b}x";
    weights(Path::new(&folder), |header, _| rename(header, Q_PROJ, name));
    let run = foretoken(&["inspect", "--model", &folder]);
    assert!(run.stdout.contains("größe\\u{1b}[2J\\r\\u{9b}x"), "{:?}", run.stdout);
    weights(Path::new(&folder), |header, _| header[name]["dtype"] = json!("a\u{1b}[2J"));
    let run = foretoken(&["inspect", "--model", &folder]);
    run.fails_with("a\\u{1b}[2J");
    assert!(!run.stderr.contains('\u{1b}'), "{:?}", run.stderr);
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
fn inspect_says_which_blocks_see_a_window() {
    let (_temp, folder) = golden_copy("mistral");
    config(Path::new(&folder), |config| config["sliding_window"] = json!(24));
    let report: Value =
        serde_json::from_str(&foretoken(&["inspect", "--model", &folder, "--json"]).success().stdout).unwrap();
    assert_eq!((&report["problem"], &report["windows"]), (&Value::Null, &json!([24, 24])));
    let text = foretoken(&["inspect", "--model", &folder]).success().stdout;
    assert!(text.contains("8 wide, a window of 24\n"), "{text}");
    config(Path::new(&folder), |config| config["sliding_window"] = json!(0));
    let run = foretoken(&["inspect", "--model", &folder]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(
        run.stderr.contains("`sliding_window`: expected a whole number from 1 to 2147483647, got 0"),
        "{}",
        run.stderr
    );
}
