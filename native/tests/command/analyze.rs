//! `foretoken analyze` as users run it: what it measures, how it goes on, how shards come together, what it refuses.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Run, foretoken, golden};
#[cfg(unix)]
use crate::support::{program, send};
use serde_json::{Value, json};
use tempfile::TempDir;

const STORIES: [&str; 6] = [
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, red \
     ball. She was very happy and wanted to play with it.",
    "Tom had a small dog. The dog liked to run and jump. One day, the dog saw a cat and ran after it. Tom called the dog, but \
     it did not come back.",
    "One day, a boy named Tim went to the park with his mom. He saw a big tree. He wanted to climb the tree, but his mom said \
     no. Tim was sad.",
    "There was a little bird who could not fly. Her mom said, \"Do not be sad. You will fly one day.\" The little bird was happy \
     and hugged her mom.",
    "Sara and Ben are friends. They like to play in the garden with their toys. They see a big frog. The frog jumps into the \
     water and they laugh.",
    "Too short.",
];

/// A folder with the stories as data, halves of the first ones as prompts.
fn data() -> (TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let line = |(number, story): (usize, &&str)| match number {
        0..3 => {
            let (prompt, completion) = story.split_at(story.find(". ").unwrap() + 1);
            json!({"prompt": prompt, "completion": completion}).to_string()
        }
        _ => json!({"text": story}).to_string(),
    };
    let lines: Vec<String> = STORIES.iter().enumerate().map(line).collect();
    let path = temp.path().join("stories.jsonl");
    fs::write(&path, lines.join("\n") + "\n").unwrap();
    (temp, path)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn analyze(data: &Path, out: &Path, more: &[&str]) -> Run {
    let base = ["analyze", "--data", text(data), "--context", "128", "--lens-samples", "2", "--resamples", "200"];
    foretoken(&[&base[..], &["--out", text(out)], more].concat())
}

fn report(out: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(out.join("report.json")).unwrap()).unwrap()
}

fn heads(temp: &TempDir, name: &str, flags: &[&str]) -> PathBuf {
    let out = temp.path().join(name);
    foretoken(&[&["init-heads", "--out", text(&out)], flags].concat()).success();
    out
}

/// The accuracy among the `top` likeliest of the column with this name and offset.
fn accuracy<'r>(report: &'r Value, name: &str, offset: u64, top: u64) -> &'r Value {
    let columns = report["columns"].as_array().unwrap();
    let column = columns.iter().find(|column| column["name"] == name && column["offset"] == offset);
    let column = column.unwrap_or_else(|| panic!("no {name} +{offset} in {columns:?}"));
    column["accuracy"].as_array().unwrap().iter().find(|found| found["top"] == top).unwrap()
}

#[test]
fn methods_stand_side_by_side() {
    let (temp, data) = data();
    let parallel = heads(&temp, "copies", &["--heads", "2"]);
    let sequential = heads(&temp, "chained", &["--kind", "sequential", "--heads", "1", "--source", "whs"]);
    let out = temp.path().join("out");
    let (parallel, sequential) = (text(&parallel), text(&sequential));
    let done =
        analyze(&data, &out, &["--heads", parallel, sequential, "--feed", "mix:3", "--mass", "0.5", "--last", "12"]);
    let report = report(&out);
    assert_eq!(done.success().stdout, fs::read_to_string(out.join("report.md")).unwrap());
    assert_eq!((&report["samples"], &report["targets"]), (&json!(6), &json!(5 * 12 + 3)));
    // The first offset of everything is the model's next token.
    for top in [1, 5] {
        let next = accuracy(&report, "next", 1, top);
        for name in ["marginal", "heads copies", "heads chained"] {
            assert_eq!(accuracy(&report, name, 1, top)["accuracy"], next["accuracy"], "{name}, top {top}");
        }
        let [low, value, high] = ["low", "value", "high"].map(|end| next["accuracy"][end].as_f64().unwrap());
        assert!(low < value && value < high, "{next}");
    }
    // The wiring is right: what the model says does not fit the token after.
    for (name, offset) in [("next", 1), ("marginal", 1)] {
        let found = accuracy(&report, name, offset, 1);
        assert_eq!(found["control_collapses"], true, "{name}: {found}");
    }
    assert!(accuracy(&report, "marginal", 2, 5)["accuracy"]["value"].as_f64().unwrap() > 0.2);
    // A copy of the last block predicts the next token, not the one after: held against that, nothing collapses.
    assert_eq!(accuracy(&report, "heads copies", 2, 1)["control_collapses"], false);
    // A sequential head has a column fed with its own expectation, and one that knows the text, which drafts.
    accuracy(&report, "heads chained, given the text", 2, 1);
    let drafting = report["drafting"].as_array().unwrap();
    let names: Vec<&str> = drafting.iter().map(|found| found["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["marginal", "heads copies", "heads chained, given the text"]);
    assert_eq!(report["lens"].as_array().unwrap().len(), 5);
    let mix = report["heads"][1]["heads"][0]["mix"].as_array().unwrap();
    assert!((mix.iter().map(|weight| weight.as_f64().unwrap()).sum::<f64>() - 1.0).abs() < 1e-5, "{mix:?}");
    let sizes: Vec<f64> =
        report["nucleus"].as_array().unwrap().iter().map(|found| found["size"]["value"].as_f64().unwrap()).collect();
    assert!(1.0 <= sizes[0] && sizes[0] <= sizes[1] && sizes[1] <= sizes[2], "{sizes:?}");
    for plot in ["accuracy", "acceptance", "calibration", "entropy", "lens", "nucleus", "whs"] {
        let svg = fs::read_to_string(out.join(format!("{plot}.svg"))).unwrap();
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n") && !svg.contains("NaN"), "{plot}");
    }
}

/// A process that a signal reaches among its samples, and the same command again.
#[cfg(unix)]
#[test]
fn a_signal_keeps_the_record() {
    use std::time::{Duration, Instant};

    let (temp, data) = data();
    let many = fs::read_to_string(&data).unwrap().repeat(30);
    fs::write(&data, many).unwrap();
    let [whole, cut] = ["whole", "cut"].map(|name| temp.path().join(name));
    let flags = ["--methods", "next", "--last", "8"];
    analyze(&data, &whole, &flags).success();
    let base = ["analyze", "--data", text(&data), "--context", "128", "--lens-samples", "2", "--resamples", "200"];
    let child = program(&[&base[..], &["--out", text(&cut)], &flags].concat()).spawn().unwrap();
    let records = || fs::read_to_string(cut.join("samples.jsonl")).map_or(0, |text| text.lines().count());
    let begun = Instant::now();
    while records() < 2 {
        assert!(begun.elapsed() < Duration::from_secs(120), "it has not come so far");
        std::thread::sleep(Duration::from_millis(5));
    }
    send("TERM", &child);
    let run = Run::from(child.wait_with_output().unwrap());
    assert_eq!((run.code, &run.stdout[..]), (Some(143), ""), "{}", run.stderr);
    let done = records();
    let told = format!("interrupted: {done} of 180 samples are done; the same command goes on\n");
    assert!(run.stderr.ends_with(&told), "{}", run.stderr);
    let again = analyze(&data, &cut, &flags).success();
    assert!(again.stderr.contains(&format!("going on: {done} of 180 samples are done")), "{}", again.stderr);
    assert!(report(&cut) == report(&whole), "the report");
}

#[test]
fn shards_and_interruptions_change_nothing() {
    let (temp, data) = data();
    let copies = heads(&temp, "copies", &["--heads", "1"]);
    let flags = ["--methods", "next,heads", "--heads", text(&copies), "--last", "8", "--top", "1,3"];
    let whole = temp.path().join("whole");
    analyze(&data, &whole, &flags).success();
    let want = fs::read_to_string(whole.join("report.json")).unwrap();

    let shards = ["a", "b", "c"].map(|name| temp.path().join(name));
    for (index, shard) in shards.iter().enumerate() {
        let part = format!("{}/3", index + 1);
        analyze(&data, shard, &[&flags[..], &["--shard", &part]].concat()).success();
        assert!(!shard.join("report.json").exists());
    }
    let merged = temp.path().join("merged");
    let merge = |folders: &[&PathBuf], out: &Path| {
        let folders: Vec<&str> = folders.iter().map(|folder| text(folder)).collect();
        foretoken(&[&["analyze", "--out", text(out), "--merge"], &folders[..]].concat())
    };
    // In any order.
    merge(&[&shards[2], &shards[0], &shards[1]], &merged).success();
    assert!(fs::read_to_string(merged.join("report.json")).unwrap() == want, "the merged report");
    let other = temp.path().join("other");
    merge(&[&shards[2], &shards[0]], &other).fails_with("missing: 2");
    merge(&[&shards[2], &shards[2]], &other).fails_with("shard 3 again");
    merge(&[&shards[0], &whole], &other).fails_with("shard 1 again");
    merge(&[&temp.path().join("none")], &other).fails_with("no run of `analyze`");
    // What was measured is settled, and a description that was changed by hand is not believed.
    let flag = foretoken(&["analyze", "--out", text(&other), "--top", "3", "--merge", text(&whole)]);
    flag.fails_with("cannot be used with");
    let (file, broken) = (whole.join("run.json"), temp.path().join("broken"));
    fs::create_dir(&broken).unwrap();
    let run: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    for (pointer, value, message) in [
        ("/shard/of", 0, "not of a run that this version knows"),
        ("/shard/index", 0, "not of a run that this version knows"),
        ("/settings/resamples", 100_000_000, "resamples 100000000"),
        ("/settings/offsets", 0, "offsets 0"),
    ] {
        let mut changed = run.clone();
        *changed.pointer_mut(pointer).unwrap() = json!(value);
        fs::write(broken.join("run.json"), changed.to_string()).unwrap();
        merge(&[&broken], &other).fails_with(message);
    }

    // Interrupted in the middle of a line.
    let records = fs::read_to_string(whole.join("samples.jsonl")).unwrap();
    let third = records.match_indices('\n').nth(2).unwrap().0;
    fs::write(whole.join("samples.jsonl"), &records[..third - 30]).unwrap();
    fs::remove_file(whole.join("report.json")).unwrap();
    let again = analyze(&data, &whole, &flags).success();
    assert!(again.stderr.contains("2 of 6 samples are done"), "{}", again.stderr);
    assert!(fs::read_to_string(whole.join("report.json")).unwrap() == want, "the resumed report");
    assert!(fs::read_to_string(whole.join("samples.jsonl")).unwrap() == records, "the records");

    // Other flags are another run, and nothing is touched.
    analyze(&data, &whole, &[&flags[..6], &["--top", "2"]].concat()).fails_with("top [1,3] there, [2] now");
    assert!(fs::read_to_string(whole.join("report.json")).unwrap() == want);
    fs::write(shards[0].join("samples.jsonl"), "").unwrap();
    merge(&[&shards[0], &shards[1], &shards[2]], &other).fails_with("2 samples are missing");
}

#[test]
fn the_paper_scores_long_targets_only() {
    let (temp, data) = data();
    let out = temp.path().join("out");
    analyze(&data, &out, &["--protocol", "paper", "--methods", "next"]).success();
    let report = report(&out);
    assert_eq!(report["settings"]["top"], json!([5]));
    let samples = report["samples"].as_u64().unwrap();
    assert!(samples >= 4 && report["too_short"].as_u64().unwrap() == 6 - samples, "{samples}");
    assert_eq!(report["targets"], 20 * samples);
}

#[test]
fn what_others_left_in_the_folder_stays() {
    let (temp, data) = data();
    for name in ["report.md", "accuracy.svg", "timing.json"] {
        let out = temp.path().join(name.replace('.', " "));
        fs::create_dir(&out).unwrap();
        fs::write(out.join(name), "mine").unwrap();
        analyze(&data, &out, &["--methods", "next"]).fails_with_in("use another --out", name);
        assert_eq!(fs::read_to_string(out.join(name)).unwrap(), "mine");
    }
    let file = temp.path().join("file");
    fs::write(&file, "mine").unwrap();
    analyze(&data, &file, &["--methods", "next"]).fails_with("file: expected the name of a folder");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let (temp, data) = data();
    let out = temp.path().join("out");
    let cases: &[(&[&str], &str)] = &[
        (&["--offsets", "0"], "offsets 0"),
        (&["--top", "0"], "top 0"),
        (&["--mass", "0"], "mass 0"),
        (&["--resamples", "3"], "resamples 3"),
        (&["--feed", "mix:0"], "mix:8"),
        (&["--feed", "text"], "mix:8"),
        (&["--shard", "3/2"], "I/N"),
        (&["--shard", "0/2"], "I/N"),
        (&["--protocol", "paper", "--top", "1"], "--protocol paper says what --top is"),
        (&["--methods", "next", "--heads", text(temp.path())], "--methods has no heads"),
        (&["--methods", "guess"], "guess"),
    ];
    for (flags, message) in cases {
        let base = ["analyze", "--data", text(&data), "--out", text(&out)];
        foretoken(&[&base[..], *flags].concat()).fails_with_in(message, &flags.join(" "));
    }
    analyze(&data, &out, &["--model", &golden("llama-mha"), "--methods", "heads"])
        .fails_with("brings no multi-token heads");
    let lines: &[(&str, &str)] = &[
        ("", "expected texts, got an empty file"),
        ("{\"text\": \"a\"}\n{\"text\": ", "line 2"),
        (
            "{\"text\": \"a\"}\n\n{\"prompt\": \"a\"}\n",
            "line 3: expected the fields prompt and completion, or text; got prompt",
        ),
        ("{\"text\": 3}", "line 1"),
        ("{\"text\": \"\"}", "line 1: expected a text to score"),
        ("{\"prompt\": \"a\", \"completion\": \"\"}", "line 1: expected a completion to score"),
        ("{\"text\": \"a\"}", "expected samples of 1 or more target tokens, but the longest has 0"),
    ];
    let bad = temp.path().join("bad.jsonl");
    for (number, (content, message)) in lines.iter().enumerate() {
        fs::write(&bad, content).unwrap();
        let out = temp.path().join(format!("out {number}"));
        analyze(&bad, &out, &["--methods", "next"]).fails_with_in(message, content);
    }
    fs::write(&bad, json!({"text": STORIES[0].repeat(8)}).to_string()).unwrap();
    analyze(&bad, &out, &["--methods", "next"]).fails_with("line 1:");
    analyze(&bad, &out, &["--methods", "next", "--truncate"]).success();
    analyze(&temp.path().join("none"), &temp.path().join("x"), &[]).fails_with("none: ");
    foretoken(&["analyze", "--out", text(&out)]).fails_with("--data");
}
