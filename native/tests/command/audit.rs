//! `foretoken audit` as users run it: what it prints, and its exit code.

use crate::support::{CASE, foretoken, golden, golden_copy};
use serde_json::{Value, json};

/// A report that says that all is well, whatever was audited.
fn check(report: &Value, drafters: &[&str]) {
    assert_eq!((&report["equal"], &report["width_invariant"]), (&json!(true), &json!(true)), "{report}");
    assert_eq!(report["first_difference"], Value::Null, "{report}");
    assert!(report["model"].is_string() && report["adapter"].is_string(), "{report}");
    assert!(["software", "workgroup", "subgroup"].iter().any(|set| report["kernels"] == *set), "{report}");
    let logits = &report["logits"];
    assert_eq!(
        (&logits["equal"], &logits["widths"]),
        (&json!(true), &json!([1, 2, 3, 4, 5, 6, 7, 8, 17, 32, 64])),
        "{report}"
    );
    assert!(logits["positions"].as_u64().unwrap() > 0, "{report}");
    let cases = report["cases"].as_array().unwrap();
    for case in cases {
        assert_eq!(case["equal"], true, "{case}");
        assert!(case["tree"].is_string() && case["tokens"].as_u64().unwrap() > 0, "{case}");
        assert!(case["accepted"].is_u64() && case["rounds"].is_u64() && case["temperature"].is_f64(), "{case}");
        assert_eq!(case["accepted"] == 0, case["drafter"] == "recorded, wrong", "{case}");
    }
    // A chain and a tree, greedily and drawn.
    for drafter in drafters {
        assert_eq!(cases.iter().filter(|case| case["drafter"] == *drafter).count(), 4, "{drafter}: {report}");
    }
    assert_eq!(cases.len(), 4 * drafters.len(), "{report}");
}

const RECORDED: [&str; 3] = ["recorded, right", "recorded, wrong", "recorded, half right"];

#[test]
fn the_embedded_model_passes() {
    let mut report = foretoken(&["audit", "--context", "24", "--full", "--json"]).json();
    // In so short a text there may be nothing to look up.
    for case in report["cases"].as_array_mut().unwrap().iter_mut().filter(|case| case["drafter"] == "lookup") {
        case["accepted"] = 1.into();
    }
    check(&report, &[&["lookup", "heads"], &RECORDED[..]].concat());
}

#[test]
fn heads_are_audited_too() {
    let (folder, heads) = (golden(CASE), golden("heads-parallel"));
    let flags = ["audit", "--model", &folder, "--heads", &heads, "--context", "64"];
    let mut report = foretoken(&[&flags[..], &["--json"]].concat()).json();
    // Heads that no training has seen are rarely right.
    for case in report["cases"].as_array_mut().unwrap() {
        if case["drafter"] == "heads" || case["drafter"] == "lookup" {
            assert!(case["drafter"] != "heads" || ["1,1", "3,2"].contains(&case["tree"].as_str().unwrap()), "{case}");
            case["accepted"] = 1.into();
        }
    }
    check(&report, &[&["lookup", "heads"], &RECORDED[..]].concat());
    // The same as a table, of a shorter audit.
    let table = foretoken(&["audit", "--model", &folder, "--heads", &heads, "--context", "16"]).success().stdout;
    assert_eq!(table.lines().count(), 1 + 2 * 2 * 5 + 2, "{table}");
    assert!(table.ends_with("\nequal: drafts change nothing\n"), "{table}");
}

#[test]
fn a_checkpoint_without_a_tokenizer_is_audited_by_ids() {
    let (temp, folder) = golden_copy("llama-mha");
    std::fs::remove_file(temp.path().join("tokenizer.json")).unwrap();
    let report = foretoken(&["audit", "--model", &folder, "--context", "20", "--json"]).json();
    assert_eq!((&report["equal"], &report["cases"][0]["prompts"]), (&json!(true), &json!(3)), "{report}");
}

#[test]
fn what_cannot_be_audited_is_refused() {
    let folder = golden(CASE);
    foretoken(&["audit", "--model", "no such folder"]).fails_with("no such folder");
    foretoken(&["audit", "--model", &folder, "--heads", "no such folder"]).fails_with("no such folder");
    foretoken(&["audit", "--model", &folder, "--heads", &golden("heads-neox")]).fails_with("heads");
    foretoken(&["audit", "--model", &folder, "--context", "1"]).fails_with("nothing to compare");
}
