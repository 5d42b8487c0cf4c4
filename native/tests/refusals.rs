//! What the command refuses, and how: flags, prompts, and copies of a golden checkpoint that are broken in one way each.

mod support;

use std::fs;
use std::path::Path;

use serde_json::json;
use support::{
    CASE, Q_PROJ, WEIGHTS, config, edit_json, foretoken, generate, golden, golden_copy, rename, start, weights,
};

fn remove(folder: &Path, name: &str) {
    fs::remove_file(folder.join(name)).unwrap();
}

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
    edit_json(&temp.path().join("tokenizer.json"), |tokenizer| {
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
    edit_json(&config, |config| config["max_position_embeddings"] = json!(2_000_000_000u32));
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
fn a_format_that_a_matrix_cannot_have_is_refused() {
    let odd = golden("llama-odd");
    let run = foretoken(&["generate", "--model", &odd, "--ids", "1", "--quantize", "q8_0"]);
    for part in ["model.embed_tokens.weight", "[101, 36]", "a multiple of 32", "without quantizing"] {
        assert!(run.stderr.contains(part), "{part}: {}", run.stderr);
    }
    run.fails_with("Q8_0");
    for unknown in ["q4_0", "f16", ""] {
        foretoken(&["generate", "--ids", "1", "--quantize", unknown]).fails_with("q8_0");
    }
}
