//! `foretoken generate --draft` as users run it: statistics, the trace, heads from a folder, and what is refused.

use std::fs;
use std::path::Path;

use crate::support::{CASE, Run, edit_json, expected, foretoken, golden, golden_copy, ids_flag};
use serde_json::{Value, json};

/// `generate` on the golden checkpoint with its prompt, whose greedy text holds no end token.
fn generate(more: &[&str]) -> Run {
    generate_with(&golden(CASE), more)
}

fn generate_with(folder: &str, more: &[&str]) -> Run {
    let prompt = ids_flag(&expected(CASE)["prompt_ids"]);
    foretoken(&[&["generate", "--model", folder, "--ids", &prompt, "--max-tokens", "24"], more].concat())
}

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("a count: {value}"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("a list: {value}"))
}

/// What the statistics say of each other.
fn check_stats(stats: &Value) {
    let [new, rounds, drafted, accepted] =
        ["new_tokens", "rounds", "drafted", "accepted"].map(|name| count(&stats[name]));
    assert_eq!(rounds + accepted, new - 1, "{stats}");
    assert!(accepted <= drafted, "{stats}");
    let histogram = list(&stats["accepted_histogram"]);
    assert_eq!(histogram.iter().map(count).sum::<u64>(), rounds, "{stats}");
    let weighted = histogram.iter().enumerate().map(|(length, rounds)| length as u64 * count(rounds));
    assert_eq!(weighted.sum::<u64>(), accepted, "{stats}");
    let per_round = stats["tokens_per_round"].as_f64().unwrap();
    assert!((per_round - (new - 1) as f64 / rounds as f64).abs() < 1e-9, "{stats}");
    assert!(stats["rounds_per_submit"].as_f64().unwrap() >= 1.0, "{stats}");
    assert!(stats["sync_s"].as_f64().unwrap() >= 0.0, "{stats}");
    assert!(list(&stats["acceptance"]).iter().all(|share| (0.0..=1.0).contains(&share.as_f64().unwrap())), "{stats}");
}

#[test]
fn the_statistics_are_the_contract() {
    let report = generate(&["--json", "--draft", "lookup", "--draft-len", "2"]).json();
    assert_eq!(report["ids"], expected(CASE)["ids"]);
    assert!(report.get("rounds").is_none(), "a trace that nobody asked for: {report}");
    let stats = &report["stats"];
    check_stats(stats);
    assert_eq!((&stats["drafter"], &stats["off_reason"]), (&json!("lookup"), &Value::Null));
    assert!(list(&stats["accepted_histogram"]).len() <= 3 && list(&stats["acceptance"]).len() <= 2, "{stats}");

    let report = generate(&["--json", "--draft", "off"]).json();
    assert_eq!(report["ids"], expected(CASE)["ids"]);
    check_stats(&report["stats"]);
    assert_eq!(report["stats"]["drafter"], "off");
    assert_eq!((count(&report["stats"]["drafted"]), count(&report["stats"]["rounds"])), (0, 23));
    assert_eq!(list(&report["stats"]["acceptance"]).len(), 0);
}

#[test]
fn the_trace_tells_the_text() {
    let heads = golden("heads-parallel");
    for flags in [
        &["--draft", "lookup", "--draft-len", "3"][..],
        &["--draft", &heads, "--draft-tree", "7,3"],
        &["--draft", &heads, "--draft-len", "2", "--temperature", "1", "--seed", "5"],
        &["--draft", "marginal", "--draft-len", "1"],
        &["--draft", "off"],
    ] {
        let report = generate(&[flags, &["--json", "--trace"]].concat()).json();
        let (ids, stats) = (list(&report["ids"]), &report["stats"]);
        check_stats(stats);
        let rounds = list(&report["rounds"]);
        assert_eq!(rounds.len() as u64, count(&stats["rounds"]), "{flags:?}");
        let (mut drafted, mut at) = (0, 1);
        for round in rounds {
            let [drafts, p, rank, target] = ["drafted", "p", "rank", "target"].map(|name| list(&round[name]));
            assert!([p, rank, target].iter().all(|other| other.len() == drafts.len()), "{flags:?}: {round}");
            assert!(p.iter().all(|p| (0.0..=1.0).contains(&p.as_f64().unwrap())), "{flags:?}: {round}");
            assert!(rank.iter().all(|rank| count(rank) < 96), "{flags:?}: {round}");
            let accepted = count(&round["accepted"]) as usize;
            // What the target said after the text so far stands beside each draft of the first level.
            if let Some(first) = target.first() {
                assert_eq!(first, &ids[at], "{flags:?}: {round}");
                // The text's last token is no draft's: there is nothing after it for the target to say.
                let right = level_1(flags, drafts).contains(first) && at + 1 < ids.len();
                assert_eq!(accepted > 0, right, "{flags:?}: {round}");
            }
            assert!(accepted <= drafts.len(), "{flags:?}: {round}");
            for id in &ids[at..at + accepted] {
                assert!(drafts.contains(id), "{flags:?}: {id} was accepted, but not drafted: {round}");
            }
            // Greedy: the target takes the likeliest token, and only that one has rank 0.
            if !flags.contains(&"--temperature") {
                let agree = |i: usize| (drafts[i] == target[i]) == (count(&rank[i]) == 0);
                assert!((0..drafts.len()).all(agree), "{flags:?}: {round}");
            }
            drafted += drafts.len() as u64;
            at += accepted + 1;
        }
        assert_eq!((at, drafted), (ids.len(), count(&stats["drafted"])), "{flags:?}");
    }
}

/// The drafts that follow the text itself.
fn level_1<'a>(flags: &[&str], drafts: &'a [Value]) -> &'a [Value] {
    let wide = if flags.contains(&"7,3") { 7 } else { 1 };
    &drafts[..wide.min(drafts.len())]
}

#[test]
fn heads_from_a_folder_change_no_text() {
    let heads = golden("heads-parallel");
    for sampling in [&[][..], &["--temperature", "0.9", "--seed", "3"]] {
        let with = |flags: &[&str]| generate(&[flags, sampling, &["--json"]].concat()).json();
        let plain = with(&["--draft", "off"]);
        for shape in [&[][..], &["--draft-len", "1"], &["--draft-len", "2"], &["--draft-tree", "3,2"]] {
            let report = with(&[&["--draft", &heads], shape].concat());
            assert_eq!((&report["ids"], &report["text"]), (&plain["ids"], &plain["text"]), "{shape:?} {sampling:?}");
            assert_eq!(report["stats"]["drafter"], "heads");
            check_stats(&report["stats"]);
        }
    }
    // The same heads in the model's own folder: `auto` and `heads` take them.
    let (temp, folder) = golden_copy(CASE);
    copy_heads("heads-parallel", temp.path());
    for drafter in ["auto", "heads"] {
        let report = generate_with(&folder, &["--draft", drafter, "--json"]).json();
        assert_eq!((&report["ids"], &report["stats"]["drafter"]), (&expected(CASE)["ids"], &json!("heads")));
    }
    let printed = generate(&["--draft", &heads, "--draft-tree", "7,3"]).success();
    assert!(printed.stderr.contains("drafts right") && printed.stderr.contains("tokens a round"), "{}", printed.stderr);
}

/// Puts the files of heads, without what was computed of them, into a folder.
fn copy_heads(heads: &str, to: &Path) {
    for name in ["mtp_config.json", "mtp.safetensors"] {
        fs::copy(Path::new(&golden(heads)).join(name), to.join(name)).unwrap();
    }
}

#[test]
fn drafts_that_cannot_be_are_refused() {
    let cases: &[(&[&str], &str)] = &[
        (&["--draft", "lookup", "--draft-len", "40"], "at most 31"),
        (&["--draft", "lookup", "--draft-len", "-1"], "--draft-len"),
        (&["--draft", "lookup", "--draft-tree", "4,0"], "at least one child"),
        (&["--draft", "lookup", "--draft-tree", "8,8"], "at most 31"),
        (&["--draft", "lookup", "--draft-tree", "4;2"], "such as 4,2,1"),
        (&["--draft", "lookup", "--draft-tree", ""], "such as 4,2,1"),
        (&["--draft", "off", "--draft-len", "2"], "--draft-len cannot be used"),
        (&["--draft", "off", "--draft-tree", "2"], "--draft-tree cannot be used"),
        (&["--draft-len", "1", "--draft-tree", "1"], "cannot be used with"),
        (&["--draft", "/no/such/folder"], "or a folder with multi-token heads"),
    ];
    for (flags, message) in cases {
        generate(flags).fails_with_in(message, &format!("{flags:?}"));
        generate(&[flags, &["--json"][..]].concat()).fails_with_in(message, &format!("{flags:?}"));
    }
    generate(&["--trace"]).fails_with("--json");
    generate(&["--draft", "heads"]).fails_with("no multi-token heads");
    generate(&["--draft", "marginal", "--draft-len", "2"]).fails_with("at most 1");
    let heads = golden("heads-parallel");
    generate(&["--draft", &heads, "--draft-len", "3"]).fails_with("at most 2");
    // Unless it is anybody's: then lookup drafts them.
    let (temp, folder) = golden_copy(CASE);
    copy_heads("heads-parallel", temp.path());
    let run = generate_with(&folder, &["--draft-len", "3"]).success();
    assert!(run.stderr.contains("heads do not draft 3 tokens a round, so lookup does"), "{}", run.stderr);
    // A folder, but without heads.
    generate(&["--draft", &golden("llama-mha")]).fails_with("llama-mha");
}

#[test]
fn heads_that_do_not_fit_are_refused() {
    generate(&["--draft", &golden("heads-neox")]).fails_with("model_type");
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().to_str().unwrap();
    let config = temp.path().join("mtp_config.json");
    type Edit = fn(&mut Value);
    let edits: &[(&str, Edit)] = &[
        ("`version` 2: this program reads version 1", |config| config["version"] = json!(2)),
        ("`version`", |config| config["version"] = json!("1")),
        ("`format`", |config| config["format"] = json!("another")),
        ("vocab_size", |config| config["backbone"]["vocab_size"] = json!(97)),
        ("hidden_size", |config| config["backbone"]["hidden_size"] = json!(48)),
        ("offset", |config| config["heads"][1]["offset"] = json!(0)),
        ("rank", |config| config["lora"] = json!({"rank": 0, "alpha": 1.0, "blocks": [0], "targets": ["q_proj"]})),
        ("w_proj", |config| config["lora"] = json!({"rank": 2, "alpha": 1.0, "blocks": [0], "targets": ["w_proj"]})),
    ];
    for (message, edit) in edits {
        copy_heads("heads-parallel", temp.path());
        edit_json(&config, edit);
        generate(&["--draft", folder, "--json"]).fails_with_in(message, message);
    }
    copy_heads("heads-parallel", temp.path());
    fs::write(&config, "{").unwrap();
    generate(&["--draft", folder]).fails_with("mtp_config.json");
    copy_heads("heads-parallel", temp.path());
    fs::write(temp.path().join("mtp.safetensors"), b"short").unwrap();
    generate(&["--draft", folder]).fails_with("mtp.safetensors");
    fs::remove_file(temp.path().join("mtp.safetensors")).unwrap();
    generate(&["--draft", folder]).fails_with("mtp.safetensors is missing");
}

#[test]
fn a_lora_that_overflows_is_named() {
    let temp = tempfile::tempdir().unwrap();
    copy_heads("heads-lora", temp.path());
    crate::support::edit_weights(&temp.path().join("mtp.safetensors"), |header, data| {
        for part in ["a", "b"] {
            let at = &header[format!("lora.0.q_proj.{part}")]["data_offsets"];
            let [start, end] = [0, 1].map(|i| at[i].as_u64().unwrap() as usize);
            data[start..end].chunks_exact_mut(4).for_each(|weight| weight.copy_from_slice(&1e30f32.to_le_bytes()));
        }
    });
    let run = generate(&["--draft", temp.path().to_str().unwrap()]);
    run.fails_with("layers.0.self_attn.q_proj.weight");
    run.fails_with("f32 cannot hold");
}

#[test]
fn a_model_beside_broken_heads_runs_without_drafts() {
    let (temp, folder) = golden_copy(CASE);
    for broken in [br#"{"format": "foretoken-mtp", "version": 9}"#.to_vec(), b"{".to_vec(), Vec::new()] {
        copy_heads("heads-parallel", temp.path());
        fs::write(temp.path().join("mtp_config.json"), &broken).unwrap();
        // A version to come is left out; files that are damaged must not go unnoticed.
        let damaged = broken.len() < 2;
        generate_with(&folder, &["--draft", "heads"]).fails_with("heads");
        if damaged {
            generate_with(&folder, &["--draft", "lookup"]).fails_with("--draft off");
        }
        for drafter in if damaged { &["off"][..] } else { &["off", "lookup", "auto"] } {
            let run = generate_with(&folder, &["--draft", drafter, "--json"]);
            assert!(run.stderr.contains("note: ") && run.stderr.contains("mtp_config.json"), "{}", run.stderr);
            assert!(!run.stderr.contains("--draft off"), "{}", run.stderr);
            assert_eq!(run.json()["ids"], expected(CASE)["ids"]);
        }
    }
}

#[test]
fn the_embedded_model_drafts_with_its_head() {
    let story = |draft: &[&str]| {
        let prompt = "Once upon a time, there was a little girl named Lily.";
        foretoken(&[&["generate", "--json", "--prompt", prompt, "--max-tokens", "64"], draft].concat()).json()
    };
    let (plain, drafted) = (story(&["--draft", "off"]), story(&["--draft", "heads", "--draft-len", "1"]));
    assert_eq!(plain["ids"], drafted["ids"]);
    let stats = &drafted["stats"];
    check_stats(stats);
    assert_eq!(stats["drafter"], "heads");
    assert!(stats["tokens_per_round"].as_f64().unwrap() >= 1.5, "{stats}");
}
