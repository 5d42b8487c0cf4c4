//! `foretoken marginals` as users run it: what it prints, and what it refuses.

use crate::support::{CASE, Run, expected, foretoken, golden, ids_flag, start};
use serde_json::Value;

/// `marginals` on the golden checkpoint with its prompt.
fn marginals(more: &[&str]) -> Run {
    let (folder, prompt) = (golden(CASE), ids_flag(&expected(CASE)["prompt_ids"]));
    foretoken(&[&["marginals", "--model", &folder, "--ids", &prompt], more].concat())
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

#[test]
fn json_is_the_contract() {
    for (flags, offset, listed) in
        [(&[][..], 2, 10), (&["--offset", "1", "--top", "3"], 1, 3), (&["--offset", "3", "--mass", "0.3"], 3, 10)]
    {
        let report = marginals(&[flags, &["--json"]].concat()).json();
        assert_eq!(report["offset"], offset);
        let mass = number(&report["mass_covered"]);
        assert!(mass > 0.0 && mass < 1.0 + 1e-6 && number(&report["entropy"]) > 0.0, "{report}");
        assert!(report["branches"].as_u64().unwrap() > 0 && report["capped"].is_boolean(), "{report}");
        let top = report["top"].as_array().unwrap();
        assert_eq!(top.len(), listed);
        for token in top {
            let [p, low, high] = ["p", "low", "high"].map(|name| number(&token[name]));
            assert!(0.0 <= low && low <= p && p <= high && high <= 1.0, "{token}");
            assert!(token["id"].is_u64() && token["text"].is_string(), "{token}");
        }
        assert!(top.windows(2).all(|pair| number(&pair[0]["p"]) >= number(&pair[1]["p"])), "{report}");
        assert_eq!(report["cost"]["rows"].as_u64().unwrap() > 0, offset > 1, "{report}");
    }
}

#[test]
fn the_first_offset_is_what_generate_takes() {
    let report = marginals(&["--offset", "1", "--top", "1", "--json"]).json();
    assert_eq!(report["top"][0]["id"], expected(CASE)["ids"][0]);
    assert_eq!((report["mass_covered"].as_f64(), report["branches"].as_u64()), (Some(1.0), Some(1)));
}

#[test]
fn every_token_may_be_summed_and_listed() {
    let report = marginals(&["--mass", "1", "--top", "100000", "--json"]).json();
    assert_eq!(report["branches"], 96);
    let top = report["top"].as_array().unwrap();
    assert_eq!(top.len(), 96);
    assert!((top.iter().map(|token| number(&token["p"])).sum::<f64>() - 1.0).abs() < 1e-5);
    assert!(top.iter().all(|token| number(&token["high"]) - number(&token["low"]) < 5e-5), "nothing was left out");
    assert_eq!(report["capped"], false);
}

#[test]
fn a_cap_that_bites_is_reported() {
    let report = marginals(&["--max-branches", "4", "--json"]).json();
    assert_eq!((&report["branches"], &report["capped"]), (&4.into(), &true.into()));
    let text = marginals(&["--max-branches", "4"]).success();
    assert!(text.stdout.contains("4 branches of mass"), "{}", text.stdout);
    assert!(text.stderr.contains("--max-branches"), "{}", text.stderr);
    let text = marginals(&[]).success();
    assert!(!text.stderr.contains("note"), "{}", text.stderr);
    assert!(text.stderr.contains("chunks"), "{}", text.stderr);
}

#[test]
fn text_becomes_the_tokenizers_ids() {
    let (golden_values, folder) = (expected(CASE), golden(CASE));
    let base = ["marginals", "--model", &folder, "--json"];
    let text = golden_values["text"].as_str().unwrap();
    let by_ids = foretoken(&[&base[..], &["--ids", &ids_flag(&golden_values["text_ids"])]].concat()).json();
    assert_eq!(foretoken(&[&base[..], &["--prompt", text]].concat()).json(), by_ids);
    // The text's own line break stays, the one that `echo` adds goes.
    assert_eq!(start(&base).input(format!("{text}\n").as_bytes()).json(), by_ids);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let cases: &[(&[&str], &str)] = &[
        (&["--mass", "0"], "mass 0"),
        (&["--mass", "-0.5"], "mass -0.5"),
        (&["--mass", "1.5"], "mass 1.5"),
        (&["--mass", "nan"], "mass NaN"),
        (&["--mass", "much"], "mass"),
        (&["--offset", "0"], "offset 0"),
        (&["--offset", "4"], "offset 4"),
        (&["--offset", "-1"], "offset"),
        (&["--top", "0"], "top 0"),
        (&["--max-branches", "0"], "max-branches"),
        (&["--prompt", "both"], "cannot be used with"),
    ];
    for (flags, message) in cases {
        marginals(flags).fails_with(message);
        // Before the model loads: there is none.
        foretoken(&[&["marginals", "--model", "no such folder", "--ids", "1"], *flags].concat()).fails_with(message);
    }
    let folder = golden(CASE);
    let with = |flags: &[&str]| foretoken(&[&["marginals", "--model", &folder], flags].concat());
    with(&["--prompt", ""]).fails_with("empty");
    with(&[]).fails_with("empty");
    with(&["--ids", "1,96"]).fails_with("0 to 95");
    with(&["--ids", "1,2,3", "--context", "3"]).fails_with("context of 4");
    with(&["--ids", "1,2,3", "--context", "4", "--offset", "3"]).fails_with("context of 5");
    with(&["--ids", "1,2,3", "--context", "3", "--offset", "1"]).success();
}
