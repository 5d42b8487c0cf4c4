//! `foretoken train` as users run it: what it writes.

use std::fs;
use std::path::PathBuf;

use crate::support::{CASE, Run, edit_json, expected, foretoken, golden, golden_copy, ids_flag, not_found};
use serde_json::{Value, json};
use tempfile::TempDir;

mod interrupted;
mod refused;

/// A folder with texts, for outputs too.
struct Place {
    temp: TempDir,
    model: String,
}

impl Place {
    fn new() -> Self {
        let place = Self { temp: tempfile::tempdir().unwrap(), model: golden(CASE) };
        let story = "The red hen was in the cafe.\nTom paid and the hen was red.\n<|endoftext|>\n";
        place.write("story.txt", &story.repeat(8));
        // For what takes long for each of its sequences.
        place.write("few.txt", &story.repeat(2));
        let pairs = ["The red", "hen was in", "Tom paid", "the"].map(|prompt| pair(prompt, " hen was red"));
        place.write("pairs.jsonl", &pairs.join("\n"));
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn command(&self, data: &str, out: &str, more: &[&str]) -> Vec<String> {
        let (data, out) = (self.text(data), self.text(out));
        let flags =
            ["train", "--model", &self.model, "--data", &data, "--out", &out, "--seq-len", "16", "--batch", "2"];
        let rate = if more.contains(&"--lr") || more.contains(&"no lr") { &[][..] } else { &["--lr", "0.01"] };
        let more = more.iter().filter(|flag| **flag != "no lr");
        flags.iter().chain(rate).chain(more).map(|flag| (*flag).to_owned()).collect()
    }

    #[must_use = "it may have failed"]
    fn train(&self, data: &str, out: &str, more: &[&str]) -> Run {
        let flags = self.command(data, out, more);
        foretoken(&flags.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// A training that succeeds.
    fn trained(&self, data: &str, out: &str, more: &[&str]) -> Run {
        let run = self.train(data, out, more);
        run.success()
    }

    fn generate(&self, flags: &[&str]) -> Value {
        Self::generate_with(&self.model, flags)
    }

    fn generate_with(model: &str, flags: &[&str]) -> Value {
        let prompt = ids_flag(&expected(CASE)["prompt_ids"]);
        let base = ["generate", "--model", model, "--ids", &prompt, "--max-tokens", "16", "--json"];
        foretoken(&[&base, flags].concat()).json()
    }
}

fn pair(prompt: &str, completion: &str) -> String {
    json!({"prompt": prompt, "completion": completion}).to_string()
}

fn json_lines(bytes: &[u8]) -> Vec<Value> {
    std::str::from_utf8(bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Checks the lines against what `generate` says.
fn check_own_texts(place: &Place, lines: &[Value], most: usize) {
    for line in lines {
        let (prompt, ids) = (line["prompt_ids"].as_array().unwrap(), &line["ids"]);
        let tokens = most.min(16 - prompt.len()).to_string();
        let flags = ["--ids", &ids_flag(&line["prompt_ids"]), "--max-tokens", &tokens, "--json"];
        let report = foretoken(&[&["generate", "--model", &place.model], &flags[..]].concat()).json();
        assert_eq!(report["ids"], *ids, "{line}");
    }
}

#[test]
fn own_texts_are_what_generate_says_and_go_on_where_they_ended() {
    let place = Place::new();
    let flags = ["--self-distill", "--distill-tokens", "6", "--distill-prompt", "5", "--steps", "1"];
    place.trained("pairs.jsonl", "out", &flags);
    let whole = place.read("out/distilled.jsonl");
    let lines = json_lines(&whole);
    assert_eq!(lines.len(), 4);
    check_own_texts(&place, &lines, 6);
    // The end of a run that was cut off within its third line.
    let ends: Vec<usize> = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1).collect();
    place.write("out/distilled.jsonl", std::str::from_utf8(&whole[..ends[1] + 7]).unwrap());
    // Whether something was trained on it already or not: with --resume the texts are completed to the same bytes.
    place.trained("pairs.jsonl", "out", &[&flags[..], &["--resume"]].concat());
    assert_eq!(place.read("out/distilled.jsonl"), whole);
    // Not without --resume, and not for other texts.
    place.train("pairs.jsonl", "out", &flags).fails_with("holds another run");
    place.write("pairs.jsonl", &pair("hen", "x"));
    place.train("pairs.jsonl", "out", &[&flags[..], &["--resume"]].concat()).fails_with("--data has another content");
    assert_eq!(place.read("out/distilled.jsonl"), whole);
    // Where all tokens count, those of the prompts do too.
    place.write("pairs.jsonl", &[pair("The red", "x"), pair("hen was in", "x")].join("\n"));
    let targets = |out: &str, more: &[&str]| {
        place.trained("pairs.jsonl", out, &[&flags[..], more].concat());
        json_lines(&place.read(&format!("{out}/log.jsonl")))[0]["tokens"].as_u64().unwrap()
    };
    assert!(targets("all", &["--loss", "all"]) > targets("completion", &[]));
    // Plain texts give their first tokens.
    place.trained("story.txt", "plain", &flags);
    let lines = json_lines(&place.read("plain/distilled.jsonl"));
    assert!(lines.len() == 8 && lines.iter().all(|line| line["prompt_ids"].as_array().unwrap().len() == 5));
    check_own_texts(&place, &lines[..1], 6);
}

#[test]
fn training_writes_heads_a_log_and_a_plot() {
    let place = Place::new();
    let flags = ["--steps", "4", "--checkpoint-every", "2", "--json"];
    let valid = place.text("pairs.jsonl");
    let run = place.trained("story.txt", "out", &[&flags[..], &["--valid", &valid]].concat());
    assert!(run.stderr.contains("of memory; ") && run.stderr.contains("for gradients and moments"), "{}", run.stderr);
    let report = run.json();
    assert_eq!((&report["step"], &report["steps"], &report["stopped"]), (&json!(4), &json!(4), &json!("finished")));
    let log = json_lines(&place.read("out/log.jsonl"));
    let (log, valid): (Vec<_>, Vec<_>) = log.into_iter().partition(|line| line.get("valid").is_none());
    assert_eq!(valid.iter().map(|line| &line["step"]).collect::<Vec<_>>(), [2, 4]);
    assert!(valid.iter().all(|line| line["valid"]["2"].as_f64().unwrap() > 0.0), "{valid:?}");
    assert_eq!(report["valid"], valid[1]["valid"]);
    assert_eq!(log.len(), 4);
    for (n, line) in log.iter().enumerate() {
        assert_eq!(line["step"], n + 1);
        assert!(line["losses"]["1"].as_f64().unwrap() > 0.0 && line["losses"]["2"].as_f64().unwrap() > 0.0, "{line}");
        assert!(["rate", "gradient_norm", "tokens", "seconds"].iter().all(|name| line[name].as_f64().unwrap() > 0.0));
    }
    assert_eq!(report["losses"], log[3]["losses"]);
    let plot = String::from_utf8(place.read("out/loss.svg")).unwrap();
    assert!(plot.contains("token +2") && plot.contains("validation"), "{plot}");
    let names = |folder: &str| {
        let mut names: Vec<_> = fs::read_dir(place.path(folder)).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names("out"), ["checkpoint", "log.jsonl", "loss.svg", "mtp.safetensors", "mtp_config.json"]);
    assert_eq!(names("out/checkpoint"), [".lock", "state-00000004.safetensors", "state.json"]);
    // The folder is one of heads, and a frozen backbone says what it said.
    let heads = place.text("out");
    let report = place.generate(&["--draft", &heads]);
    assert_eq!((&report["ids"], &report["stats"]["drafter"]), (&place.generate(&[])["ids"], &json!("heads")));
    foretoken(&["inspect", "--model", &place.model, "--heads", &heads]).success();
    // And no draft of theirs changes a text, at any temperature.
    let flags = ["audit", "--model", &place.model, "--heads", &heads, "--context", "40", "--json"];
    assert_eq!(foretoken(&flags).json()["equal"], true);
    // A finished run stays as it is.
    let before = place.read("out/mtp.safetensors");
    place.train("story.txt", "out", &["--steps", "4"]).fails_with("holds another run");
    place.train("story.txt", "out", &["--steps", "5", "--resume"]).fails_with("--steps was 4, is 5");
    place.train("story.txt", "out", &["--steps", "4", "--resume"]).success();
    assert_eq!(place.read("out/mtp.safetensors"), before);
}

#[test]
fn sequences_longer_than_any_text_are_pointed_out() {
    let place = Place::new();
    place.write("few.jsonl", &[pair("a", "hen"), pair("a", "red")].join("\n"));
    let run = place.trained("few.jsonl", "long", &["--steps", "2"]);
    let (_, advice) = run.stderr.split_once("no sequence has more than ").expect("the note");
    let longest: usize = advice.split_once(':').unwrap().0.parse().unwrap();
    assert!(longest < 16, "{longest}");
    let mut flags = place.command("few.jsonl", "short", &["--steps", "2"]);
    let length = flags.iter().position(|flag| flag == "16").unwrap();
    flags[length] = longest.to_string();
    let short = foretoken(&flags.iter().map(String::as_str).collect::<Vec<_>>()).success();
    assert!(!short.stderr.contains("no sequence has more"), "{}", short.stderr);
    // It learns the same.
    let losses = |out: &str| json_lines(&place.read(&format!("{out}/log.jsonl")))[1]["losses"].clone();
    for (offset, loss) in losses("long").as_object().unwrap() {
        let (long, short) = (loss.as_f64().unwrap(), losses("short")[offset].as_f64().unwrap());
        assert!((long - short).abs() < 1e-4 * long, "+{offset}: {long} and {short}");
    }
}

#[test]
fn batches_are_written_as_they_are_trained_on() {
    let place = Place::new();
    let dump = place.text("batches");
    let flags = ["--steps", "3", "--accumulate", "2", "--dump-batches", &dump];
    place.trained("story.txt", "out", &flags);
    let bytes = place.read("batches");
    let (header, rest) = bytes.split_at(bytes.iter().position(|&byte| byte == b'\n').unwrap() + 1);
    assert_eq!(serde_json::from_slice::<Value>(header).unwrap(), json!({ "sequences": 2, "length": 16 }));
    let (batch, tokens) = (5 * 2 * 16, 2 * 16);
    assert_eq!(rest.len(), 3 * 2 * batch);
    let log = json_lines(&place.read("out/log.jsonl"));
    for (step, line) in rest.chunks_exact(2 * batch).zip(&log) {
        let counted: usize =
            step.chunks_exact(batch).flat_map(|batch| &batch[4 * tokens..]).map(|&c| usize::from(c)).sum();
        assert_eq!(json!(counted), line["tokens"], "{line}");
        let ids = step.chunks_exact(batch).flat_map(|batch| batch[..4 * tokens].as_chunks().0);
        assert!(ids.map(|id: &[u8; 4]| u32::from_le_bytes(*id)).any(|id| id > 0));
    }
    place.train("story.txt", "other", &flags).fails_with("batches");
    assert!(!place.path("other/mtp_config.json").exists());
}

#[test]
fn one_seed_gives_one_result_and_another_one_another() {
    let place = Place::new();
    let flags = ["--steps", "3", "--init", "random", "--heads", "3"];
    place.trained("story.txt", "a", &flags);
    place.trained("story.txt", "b", &[&flags[..], &["--checkpoint-every", "1"]].concat());
    place.trained("story.txt", "c", &[&flags[..], &["--seed", "1"]].concat());
    assert_eq!(place.read("a/mtp.safetensors"), place.read("b/mtp.safetensors"));
    assert_ne!(place.read("a/mtp.safetensors"), place.read("c/mtp.safetensors"));
}

#[test]
fn every_mode_loads_in_generate() {
    let place = Place::new();
    for (n, flags) in [
        &["--whs"][..],
        &["--kind", "sequential"],
        &["--mode", "joint", "--lora-rank", "2", "--clip", "1"],
        &["--mode", "joint", "--whs", "--half"],
        &["--mode", "joint", "--kind", "sequential"],
        &["--target", "shifted"],
        &["--target", "shifted", "--mode", "joint", "--whs"],
        &["--mode", "baseline", "--lora-rank", "2"],
        &["--half", "--accumulate", "2", "--warmup-steps", "1"],
        &["--self-distill", "--distill-tokens", "6", "--distill-prompt", "5"],
    ]
    .into_iter()
    .enumerate()
    {
        let out = n.to_string();
        place.trained("story.txt", &out, &[flags, &["--steps", "2"]].concat());
        let heads = place.text(&out);
        // What was trained without heads has none to draft with.
        let drafter = if flags.contains(&"baseline") { "off" } else { "heads" };
        assert_eq!(place.generate(&["--draft", &heads])["stats"]["drafter"], drafter, "{flags:?}");
        let config: Value = serde_json::from_slice(&place.read(&format!("{out}/mtp_config.json"))).unwrap();
        let (joint, baseline) = (flags.contains(&"joint"), flags.contains(&"baseline"));
        let blocks = match (joint || baseline, flags.contains(&"sequential") || baseline) {
            (true, true) => json!([0, 1]),
            (true, false) => json!([0]),
            (false, _) => Value::Null,
        };
        assert_eq!(config["lora"]["blocks"], blocks, "{flags:?}");
        if joint || baseline {
            let merged = place.text(&format!("merged-{out}"));
            foretoken(&["merge", "--model", &place.model, "--heads", &heads, "--out", &merged]).success();
            let merged = Place::generate_with(&merged, &[])["ids"].clone();
            assert_eq!(merged, place.generate(&["--draft", &heads])["ids"], "{flags:?}");
        }
    }
    // Heads that were warmed up begin another training.
    let heads = place.text("0");
    place.trained("story.txt", "warm", &["--warmup-heads", &heads, "--mode", "joint", "--steps", "2"]);
    edit_json(&place.path("0/mtp_config.json"), |config| config["backbone"]["vocab_size"] = json!(95));
    place
        .train("story.txt", "warm", &["--warmup-heads", &heads, "--mode", "joint", "--resume"])
        .fails_with("vocab_size");
}

#[test]
fn heads_are_trained_over_a_packed_model_and_a_lora_is_not() {
    let place = Place::new();
    let flags = ["--steps", "2", "--heads", "2", "--quantize", "q8_0"];
    place.trained("story.txt", "packed", &flags);
    let heads = place.text("packed");
    let report = foretoken(&[
        "generate",
        "--model",
        &place.model,
        "--draft",
        &heads,
        "--quantize",
        "q8_0",
        "--ids",
        "1,2",
        "--json",
    ]);
    assert_eq!(report.json()["stats"]["drafter"], "heads");
    // It is part of what a run is.
    place.train("story.txt", "packed", &["--steps", "2", "--heads", "2", "--resume"]).fails_with("--quantize");
    let joint = ["--steps", "2", "--mode", "joint", "--quantize", "q8_0"];
    place.train("story.txt", "joint", &joint).fails_with("gated");
}

#[test]
fn a_lora_that_heads_bring_is_trained_on() {
    let place = Place::new();
    for (out, mode) in [("joint", &["--mode", "joint"][..]), ("apart", &["--mode", "joint", "--kind", "sequential"])] {
        place.trained("story.txt", out, &[mode, &["--lora-rank", "2", "--steps", "2"]].concat());
        let (heads, on) = (place.text(out), format!("{out}-on"));
        let flags = ["--warmup-heads", &heads, "--mode", "joint", "--steps", "1"];
        place.train("story.txt", &on, &[&flags[..], &["--lora-rank", "4"]].concat()).fails_with("a LoRA of rank 2");
        place.trained("story.txt", &on, &[&flags[..], &["--lora-rank", "2"]].concat());
        assert_eq!(place.read(&format!("{on}/mtp_config.json")), place.read(&format!("{out}/mtp_config.json")));
        assert_ne!(place.read(&format!("{on}/mtp.safetensors")), place.read(&format!("{out}/mtp.safetensors")));
        // Named or not, its rank is the same.
        place.trained("story.txt", &on, &[&flags[..], &["--resume"]].concat());
    }
}

#[test]
fn joint_training_goes_on_from_heads_that_left_the_next_token_alone() {
    let place = Place::new();
    place.trained("story.txt", "frozen", &["--kind", "sequential", "--heads", "3", "--steps", "2"]);
    let heads = place.text("frozen");
    place.trained("story.txt", "joint", &["--warmup-heads", &heads, "--mode", "joint", "--steps", "2"]);
    let config: Value = serde_json::from_slice(&place.read("joint/mtp_config.json")).unwrap();
    let offsets: Vec<_> = config["heads"].as_array().unwrap().iter().map(|head| &head["offset"]).collect();
    assert_eq!(
        (offsets, &config["heads"][0]["backbone_last_layer"]),
        (vec![&json!(1), &json!(2), &json!(3)], &json!(true))
    );
    assert_eq!(config["lora"]["blocks"], json!([0, 1]), "all of them");
    let log = json_lines(&place.read("joint/log.jsonl"));
    assert!(["1", "2", "3"].iter().all(|offset| log[0]["losses"][offset].is_f64()), "{log:?}");
    // A head for the next token that the model does not speak with cannot keep it where it is.
    place.trained("story.txt", "apart", &["--source", "final-norm", "--steps", "2"]);
    let heads = place.text("apart");
    place
        .train("story.txt", "on", &["--warmup-heads", &heads, "--mode", "joint", "--steps", "2"])
        .fails_with("no head of --warmup-heads is what the model says next");
    place.trained("story.txt", "new", &["--source", "final-norm", "--mode", "joint", "--steps", "2"]);
    let config: Value = serde_json::from_slice(&place.read("new/mtp_config.json")).unwrap();
    assert_eq!(config["heads"][0]["backbone_last_layer"], json!(true));
}

#[test]
fn marginals_are_computed_once_and_go_on_where_they_ended() {
    let place = Place::new();
    let flags = ["--target", "marginal", "--heads", "3", "--steps", "3"];
    for data in ["few.txt", "pairs.jsonl"] {
        let (whole, cut) = (format!("{data}-whole"), format!("{data}-cut"));
        place.trained(data, &whole, &flags);
        let labels = place.read(&format!("{whole}/marginals.labels"));
        // As if it had ended within the third record, before any step.
        fs::create_dir_all(place.path(&cut).join("checkpoint")).unwrap();
        let state: Value = serde_json::from_slice(&place.read(&format!("{whole}/checkpoint/state.json"))).unwrap();
        let state = json!({"step": 0, "state": null, "format": state["format"], "version": state["version"],
            "model": state["model"], "data": state["data"], "warmup_heads": null, "flags": state["flags"]});
        place.write(&format!("{cut}/checkpoint/state.json"), &state.to_string());
        fs::write(place.path(&cut).join("marginals.labels"), &labels[..labels.len() * 2 / 3]).unwrap();
        place.train(data, &cut, &flags).fails_with("holds another run");
        place.trained(data, &cut, &[&flags[..], &["--resume"]].concat());
        assert!(place.read(&format!("{cut}/marginals.labels")) == labels, "{data}");
        assert_eq!(place.read(&format!("{cut}/mtp.safetensors")), place.read(&format!("{whole}/mtp.safetensors")));
    }
    let heads = place.text("few.txt-whole");
    assert_eq!(place.generate(&["--draft", &heads])["ids"], place.generate(&[])["ids"]);
    // Another target gives other heads.
    place.trained("few.txt", "tokens", &["--heads", "3", "--steps", "3"]);
    assert_ne!(place.read("tokens/mtp.safetensors"), place.read("few.txt-whole/mtp.safetensors"));
}

#[test]
fn a_gated_lora_leaves_the_text_as_it_is() {
    let place = Place::new();
    let gated = ["--mode", "joint", "--gated", "--lora-rank", "2", "--steps", "3"];
    place.trained("story.txt", "frozen", &["--steps", "1"]);
    let frozen = place.text("frozen");
    // Two prompts, greedily and drawn, to where a text and its drafts no longer fit the context.
    let golden = expected(CASE);
    let prompts = ["prompt_ids", "text_ids"].map(|name| ids_flag(&golden[name]));
    let warm = ["--temperature", "0.9", "--top-p", "0.95", "--repetition-penalty", "1.1", "--seed", "7"];
    let ways: Vec<(&str, &[&str])> = prompts.iter().flat_map(|ids| [(&ids[..], &[][..]), (ids, &warm)]).collect();
    let story = |(ids, sampling): (&str, &[&str]), draft: &[&str]| {
        let base =
            ["generate", "--model", &place.model, "--ids", ids, "--context", "64", "--max-tokens", "64", "--json"];
        foretoken(&[&base, sampling, draft].concat()).json()
    };
    let own: Vec<Value> = ways.iter().map(|way| story(*way, &["--draft", "off"])["ids"].clone()).collect();
    for (out, more) in [
        ("parallel", &[][..]),
        ("sequential", &["--kind", "sequential", "--target", "shifted"]),
        ("mixed", &["--whs", "--heads", "3"]),
        ("final", &["--source", "final-norm", "--half"]),
        // What it begins with has a head 1 of its own, which gives way to the model's last block.
        ("warm", &["--warmup-heads", &frozen]),
    ] {
        place.trained("story.txt", out, &[&gated, more].concat());
        let heads = place.text(out);
        let config: Value = serde_json::from_slice(&place.read(&format!("{out}/mtp_config.json"))).unwrap();
        let blocks = if out == "final" { json!([0, 1]) } else { json!([0]) };
        assert_eq!((&config["lora"]["gated"], &config["lora"]["blocks"]), (&json!(true), &blocks), "{out}");
        assert_eq!(config["heads"][0]["backbone_last_layer"], true, "{out}");
        let offsets = config["heads"].as_array().unwrap().iter().map(|head| head["offset"].as_u64().unwrap());
        let (chain, tree) = if offsets.max() == Some(3) { ("2", "3,2") } else { ("1", "3") };
        for (way, own) in ways.iter().zip(&own) {
            for shape in [["--draft-len", chain], ["--draft-tree", tree]] {
                let report = story(*way, &[&["--draft", &heads], &shape[..]].concat());
                assert_eq!(
                    (&report["ids"], &report["stats"]["drafter"]),
                    (own, &json!("heads")),
                    "{out} {shape:?} {way:?}"
                );
                assert!(report["stats"]["drafted"].as_u64().unwrap() > 0, "{out} {shape:?} {way:?}");
            }
        }
        let inspected = foretoken(&["inspect", "--model", &place.model, "--heads", &heads]).success();
        assert!(inspected.stdout.contains("on drafting rows only"), "{out}: {}", inspected.stdout);
        // What the model itself says is reported, and does not change.
        let log = json_lines(&place.read(&format!("{out}/log.jsonl")));
        assert!(log[0]["losses"]["1"].as_f64().unwrap() > 0.0, "{out}");
    }
    // With every other drafter beside them, over several prompts, and the logits bit by bit.
    let heads = place.text("mixed");
    let flags = ["audit", "--model", &place.model, "--heads", &heads, "--context", "40", "--json"];
    assert_eq!(foretoken(&flags).json()["equal"], true);
    let heads = place.text("parallel");
    let on = ["--warmup-heads", &heads, "--mode", "joint", "--steps", "1"];
    place.train("story.txt", "on", &on).fails_with("add --gated");
    place.trained("story.txt", "on", &[&on[..], &["--gated"]].concat());
    assert_ne!(place.read("on/mtp.safetensors"), place.read("parallel/mtp.safetensors"));
}
