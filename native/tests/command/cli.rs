//! The command as users run it: its output, its exit code, and the built program as a process among others.
//!
//! The checkpoints under `tests/golden` say what is right; what is refused is in `refusals.rs`.

use std::fs;
use std::io::Read;
use std::path::Path;

#[cfg(unix)]
use crate::support::send;
use crate::support::{
    CASE, Run, edit_json, expected, foretoken, generate, golden, golden_copy, ids_flag, program, start,
};
use serde_json::json;

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
fn a_gguf_file_is_a_model() {
    for (case, file) in
        [("llama-gqa", "llama-gqa.gguf"), ("llama-sharded", "llama-sharded/llama-sharded-00002-of-00003.gguf")]
    {
        let (golden_values, path) = (expected(case), golden("gguf") + "/" + file);
        let run = |more: &[&str]| {
            foretoken(&[&["generate", "--model", &path, "--max-tokens", "24", "--json"], more].concat()).json()
        };
        let report = run(&["--ids", &ids_flag(&golden_values["prompt_ids"])]);
        assert_eq!((&report["ids"], &report["model"]), (&golden_values["ids"], &json!(path)));
        let text = golden_values["text"].as_str().unwrap();
        assert_eq!(run(&["--prompt", text])["prompt_ids"], golden_values["text_ids"]);
    }
    // Beside others it is the file that was named.
    let (temp, folder) = golden_copy("gguf/llama-sharded");
    let other = temp.path().join("other.gguf");
    fs::copy(golden("gguf") + "/qwen3.gguf", &other).unwrap();
    let report = foretoken(&["inspect", "--model", other.to_str().unwrap(), "--json"]).json();
    assert!(report.to_string().contains("qwen3"), "{report}");
    foretoken(&["inspect", "--model", &folder]).fails_with(
        "several GGUF files are there: llama-sharded-00001-of-00003.gguf, other.gguf; name the one that is meant",
    );
    fs::remove_file(temp.path().join("llama-sharded-00003-of-00003.gguf")).unwrap();
    let first = temp.path().join("llama-sharded-00001-of-00003.gguf");
    foretoken(&["inspect", "--model", first.to_str().unwrap()])
        .fails_with("llama-sharded-00003-of-00003.gguf not found in");
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

/// A golden checkpoint with another tokenizer.
fn with_tokenizer(change: impl FnOnce(&mut serde_json::Value)) -> (tempfile::TempDir, String) {
    let (temp, folder) = golden_copy(CASE);
    edit_json(&temp.path().join("tokenizer.json"), change);
    (temp, folder)
}

/// What decoding leaves out ends a text all the same, by itself and within a longer stop string, drafted or not.
#[test]
fn a_stop_string_may_be_a_special_token() {
    let golden = expected(CASE);
    let ids: Vec<u64> = golden["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
    let letters = |tokenizer: &serde_json::Value, id: u64| {
        let vocab = tokenizer["model"]["vocab"].as_object().unwrap();
        vocab.iter().find(|(_, known)| known.as_u64() == Some(id)).map(|(token, _)| token.clone()).unwrap()
    };
    let text = fs::read(crate::support::golden(CASE) + "/tokenizer.json").unwrap();
    let tokenizer: serde_json::Value = serde_json::from_slice(&text).unwrap();
    // The first three are special tokens.
    let shown = |id: u64| if id < 3 { String::new() } else { letters(&tokenizer, id).replace('Ġ', " ") };
    let before = |at: usize| ids[..at].iter().map(|&id| shown(id)).collect::<String>();
    let plain = |at: &usize| {
        let token = letters(&tokenizer, ids[*at]);
        token.chars().all(|c| c.is_ascii_alphanumeric()) && !before(*at).contains(&token) && before(*at).is_ascii()
    };
    let at = (2..ids.len()).find(plain).expect("a token that comes for the first time");
    let (stop, shown) = (letters(&tokenizer, ids[at]), before(at));
    let (_temp, folder) = with_tokenizer(|tokenizer| {
        let mut token = tokenizer["added_tokens"][0].clone();
        (token["id"], token["content"]) = (json!(ids[at]), json!(stop));
        tokenizer["added_tokens"].as_array_mut().unwrap().push(token);
    });
    let prompt = ids_flag(&golden["prompt_ids"]);
    let run = |more: &[&str]| {
        let flags = ["generate", "--model", &folder, "--ids", &prompt, "--json", "--max-tokens", "24"];
        foretoken(&[&flags[..], more].concat()).json()
    };
    let last = shown.chars().last().unwrap().to_string();
    for draft in ["off", "lookup"] {
        let report = run(&["--draft", draft, "--stop", &stop]);
        assert_eq!((&report["stop"], &report["text"]), (&json!("stop_text"), &json!(shown)), "{draft}");
        assert_eq!(report["ids"].as_array().unwrap().len(), at + 1, "{draft}");
        let report = run(&["--draft", draft, "--stop", &format!("{last}{stop}")]);
        assert_eq!(report["stop"], "stop_text", "{draft}");
        assert_eq!(report["text"], shown[..shown.len() - last.len()], "{draft}");
        let report = run(&["--draft", draft, "--stop", &format!("{stop}<|im_end|>")]);
        assert_eq!(report["stop"], "length", "{draft}");
        assert!(report["text"].as_str().unwrap().starts_with(&shown), "{draft}: {report}");
    }
}

#[test]
fn what_becomes_of_a_prompt_is_said() {
    const TWICE: &str =
        "note: the text begins with \"<s>\", which the tokenizer puts there too: now it is there twice\n";
    let plain = golden(CASE);
    let run = |folder: &str, prompt: &[u8]| {
        start(&["generate", "--model", folder, "--max-tokens", "1", "--json"]).input(prompt)
    };
    let ids = |run: Run| run.json()["prompt_ids"].clone();
    let the = run(&plain, b"the");
    assert_eq!(the.stderr, "");
    let the = ids(the);
    let twice = run(&plain, b"<s>the");
    assert_eq!(twice.stderr, TWICE);
    assert_eq!(ids(twice).as_array().unwrap()[..2], [json!(1), json!(1)]);
    let marked = run(&plain, "\u{feff}the".as_bytes());
    assert_eq!(
        marked.stderr,
        "note: standard input begins with a byte order mark, which is no text and was left out\n"
    );
    assert_eq!(ids(marked), the);
    let (_temp, ends) = with_tokenizer(|tokenizer| {
        tokenizer["post_processor"]["single"]
            .as_array_mut()
            .unwrap()
            .push(json!({"SpecialToken": {"id": "</s>", "type_id": 0}}));
        tokenizer["post_processor"]["special_tokens"]["</s>"] = json!({"id": "</s>", "ids": [2], "tokens": ["</s>"]});
    });
    let ended = run(&ends, b"the");
    assert_eq!(ended.stderr, "note: the tokenizer puts \"</s>\" after every text: the token ids end with it\n");
    assert_eq!(ids(ended), json!([the.as_array().unwrap().clone(), vec![json!(2)]].concat()));
    // The same of the texts of a file.
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data.jsonl");
    fs::write(&data, "\u{feff}{\"text\": \"<s>the red hen\"}\n{\"text\": \"the red hen was red\"}\n").unwrap();
    let (data, out) = (data.to_str().unwrap(), temp.path().join("out"));
    let analyzed =
        foretoken(&["analyze", "--model", &plain, "--data", data, "--out", out.to_str().unwrap(), "--methods", "next"]);
    let notes = format!(
        "note: {data} begins with a byte order mark, which is no text and was left out\n{}",
        TWICE.replace("note: ", "note: 1 of 2 texts: ")
    );
    assert!(analyzed.success().stderr.starts_with(&notes));
}

/// Nothing comes before the first token of a text that a tokenizer puts nothing before.
#[test]
fn bits_are_over_the_bytes_that_were_scored() {
    let (temp, folder) = with_tokenizer(|tokenizer| tokenizer["post_processor"] = serde_json::Value::Null);
    let file = temp.path().join("text.txt");
    let file = file.to_str().unwrap();
    let score = || foretoken(&["score", "--model", &folder, "--text-file", file, "--json"]);
    // "é" is a token of two bytes, "the" two of one and two, and "â" the first of three bytes of a character.
    for (text, unscored, token) in [("éa", 2, "Ã©"), ("the", 1, "t"), ("€ a", 1, "â")] {
        fs::write(file, text).unwrap();
        let run = score();
        let bytes = if unscored == 1 { "1 byte".to_owned() } else { format!("{unscored} bytes") };
        assert_eq!(
            run.stderr,
            format!(
                "note: this tokenizer puts nothing before a text, so its first token (\"{token}\", {bytes}) has no probability: nats \
                 and bits are those of the rest\n"
            )
        );
        let report = run.json();
        let bits: f64 =
            report["logprobs"].as_array().unwrap().iter().map(|p| -p.as_f64().unwrap()).sum::<f64>() / 2f64.ln();
        let scored = text.len() - unscored;
        assert_eq!(report["bytes"], scored, "{text}");
        assert!((report["bits_per_byte"].as_f64().unwrap() - bits / scored as f64).abs() < 1e-4, "{text}: {report}");
    }
}

/// A checkpoint and flags that generate for a long time.
fn endless() -> (tempfile::TempDir, Vec<String>) {
    let (temp, folder) = golden_copy(CASE);
    let config = Path::new(&folder).join("config.json");
    crate::support::edit_json(&config, |config| config["max_position_embeddings"] = json!(100_000));
    fs::write(Path::new(&folder).join("generation_config.json"), r#"{"eos_token_id": []}"#).unwrap();
    let flags = ["generate", "--model", &folder, "--ids", "1,5,6", "--context", "32000", "--max-tokens", "31000"];
    (temp, flags.map(str::to_owned).to_vec())
}

#[cfg(unix)]
#[test]
fn a_signal_ends_a_generation_cleanly() {
    let (_temp, flags) = endless();
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let mut child = program(&flags).spawn().unwrap();
        let mut first = [0];
        child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
        send(signal, &child);
        let run = Run::from(child.wait_with_output().unwrap());
        assert_eq!(run.code, Some(code), "{signal}: {}", run.stderr);
        assert!(run.stderr.contains("stop: interrupt"), "{signal}: {}", run.stderr);
        assert!(!run.stdout.is_empty(), "{signal}: what the text has");
    }
}

/// `nohup` and the like switch a signal off for the programs they start.
#[cfg(unix)]
#[test]
fn an_ignored_signal_stays_ignored() {
    let (_temp, flags) = endless();
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "trap '' HUP; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_foretoken")]).args(&flags);
    let mut child = shell.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut text = [0; 64];
    let mut output = child.stdout.take().unwrap();
    output.read_exact(&mut text[..1]).unwrap();
    send("HUP", &child);
    output.read_exact(&mut text).unwrap();
    send("TERM", &child);
    std::io::copy(&mut output, &mut std::io::sink()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

/// `script` gives it a terminal. Two lines are two turns, and the end of the input ends the session.
#[cfg(target_os = "linux")]
#[test]
fn from_a_terminal_it_takes_turns() {
    use std::io::Write;
    use std::process::{Command, Stdio};

    let command = format!("{} generate --max-tokens 5", env!("CARGO_BIN_EXE_foretoken"));
    let mut script = Command::new("script");
    script.args(["-qec", &command, "/dev/null"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    script.stdin(Stdio::piped());
    let mut child = script.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"Once upon a time\nThen\n\x04").unwrap();
    let run = Run::from(child.wait_with_output().unwrap()).success();
    assert_eq!(run.stdout.matches("stop: ").count(), 2, "{}", run.stdout);
    assert_eq!(run.stdout.matches("> ").count(), 3, "{}", run.stdout);
}

/// What makes no line of a text is said, and the session goes on: bytes that are no UTF-8, and more than the context holds.
#[test]
fn a_session_goes_on_after_a_line_it_cannot_use() {
    let long = "the fox and the dog ".repeat(20);
    let input = [b"caf\xE9\n", long.as_bytes(), b"\nOnce upon\n", long.as_bytes(), b"\nThen\n"].concat();
    let run = start(&["generate", "--max-tokens", "3", "--context", "16"]).at_a_terminal().input(&input).success();
    let text = &run.stderr;
    assert_eq!(text.matches("expected UTF-8 text, but byte 3 is not").count(), 1, "{text}");
    assert_eq!(text.matches("but the context holds 16").count(), 2, "{text}");
    assert_eq!(text.matches("stop: ").count(), 2, "{text}");
    assert_eq!(text.matches("> ").count(), 6, "{text}");
    // Each answer ends its line.
    assert_eq!(run.stdout.lines().count(), 2, "{}", run.stdout);
}

#[test]
fn a_reader_that_stops_reading_ends_it_quietly() {
    let (_temp, flags) = endless();
    let mut child = program(&flags).spawn().unwrap();
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
    let run = Run::from(program(&["generate", "--model", &folder, "--ids", "1"]).stdout(full).output().unwrap());
    run.fails_with("standard output");
}

#[test]
fn standard_error_may_be_closed() {
    let folder = golden(CASE);
    let mut child = program(&["generate", "--model", &folder, "--ids", "1"]).spawn().unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
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
