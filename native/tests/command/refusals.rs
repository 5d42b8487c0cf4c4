//! What the command refuses, and in which words: flags, prompts, and copies of a golden checkpoint that are broken in one way
//! each. All that the user sees is compared.

use std::fs;
use std::path::Path;

use crate::support::Refused::{self, Error, Usage};
use crate::support::{
    CASE, Q_PROJ, Run, WEIGHTS, config, edit_json, foretoken, generate, golden, golden_copy, gpu, not_found, program,
    rename, start, weights,
};
use serde_json::json;

fn remove(folder: &Path, name: &str) {
    fs::remove_file(folder.join(name)).unwrap();
}

/// What a run says where no adapter has the name that was asked for.
fn no_such_adapter() -> String {
    let adapters = pollster::block_on(foretoken::Gpu::adapters());
    let list: Vec<String> = adapters.iter().map(|adapter| format!("{}: {adapter}", adapter.index)).collect();
    format!("no adapter fits 'no such adapter'; there are: {}", list.join("; "))
}

#[test]
fn wrong_flags_are_refused() {
    let no_such_adapter = no_such_adapter();
    let cases: &[(&[&str], Refused<'_>)] = &[
        (&["--temperature", "-1"], Error("temperature -1: expected 0 (greedy) to 100")),
        (&["--temperature", "nan"], Error("temperature NaN: expected 0 (greedy) to 100")),
        (&["--temperature", "inf"], Error("temperature inf: expected 0 (greedy) to 100")),
        (&["--top-p", "0"], Error("top-p 0: expected above 0, at most 1 (off)")),
        (&["--top-p", "1.5"], Error("top-p 1.5: expected above 0, at most 1 (off)")),
        (&["--top-p", "NaN"], Error("top-p NaN: expected above 0, at most 1 (off)")),
        (&["--min-p", "-0.1"], Error("min-p -0.1: expected 0 (off) to 1")),
        (&["--min-p", "2"], Error("min-p 2: expected 0 (off) to 1")),
        (&["--repetition-penalty", "0"], Error("repetition-penalty 0: expected 0.01 to 100; 1 is off")),
        (&["--repetition-penalty", "-2"], Error("repetition-penalty -2: expected 0.01 to 100; 1 is off")),
        (&["--repetition-penalty", "nan"], Error("repetition-penalty NaN: expected 0.01 to 100; 1 is off")),
        (&["--top-k", "-1"], Usage("invalid value '-1' for '--top-k <K>': -1 is not in 0..=4294967295")),
        (&["--seed", "x"], Usage("invalid value 'x' for '--seed <NUMBER>': invalid digit found in string")),
        (&["--seed", "-1"], Usage("invalid value '-1' for '--seed <NUMBER>': invalid digit found in string")),
        (
            &["--max-tokens", "-1"],
            Usage("invalid value '-1' for '--max-tokens <TOKENS>': invalid digit found in string"),
        ),
        (&["--stop", ""], Usage("a value is required for '--stop <TEXT>' but none was supplied")),
        (
            &["--context", "0"],
            Usage("invalid value '0' for '--context <TOKENS>': number would be zero for non-zero type"),
        ),
        (&["--context", "129"], Error("context 129: expected 1 to 128, the model's max_position_embeddings")),
        (
            &["--kernels", "fastest"],
            Usage(
                "invalid value 'fastest' for '--kernels <NAME>': no kernel set 'fastest'; there are: software, workgroup, \
                 subgroup",
            ),
        ),
        (
            &["--prompt", "both"],
            Usage(
                "the argument '--ids <ID,ID,...>' cannot be used with '--prompt <TEXT>'\n\nUsage: foretoken generate --model \
                 <MODEL> --ids <ID,ID,...>",
            ),
        ),
        (&["--adapter", "no such adapter"], Error(&no_such_adapter)),
    ];
    for (flags, expected) in cases {
        generate(flags).refused(*expected, &[], &flags.join(" "));
    }
}

#[test]
fn wrong_prompts_are_refused() {
    const EMPTY: Refused<'_> = Error("the prompt is empty; to start from a token alone, give its id: --ids 1");
    let (folder, not_found) = (golden(CASE), not_found());
    let places = [("{not found}", &not_found[..])];
    let with = |flags: &[&str]| foretoken(&[&["generate", "--model", &folder], flags].concat());
    let cases: &[(&[&str], Refused<'_>)] = &[
        (&["--prompt", ""], EMPTY),
        (&[], EMPTY),
        (&["--ids", ""], Usage("invalid value '' for '--ids <ID,ID,...>': expected token ids, such as 1 or 1,403,407")),
        (
            &["--ids", "5,6,x"],
            Usage("invalid value 'x' for '--ids <ID,ID,...>': expected token ids, such as 1 or 1,403,407"),
        ),
        (
            &["--ids", "5,-6"],
            Usage("invalid value '-6' for '--ids <ID,ID,...>': expected token ids, such as 1 or 1,403,407"),
        ),
        (&["--ids", "1,96"], Error("token 1 of the prompt is 96: the model's vocabulary has ids 0 to 95")),
        (
            &["--ids", "4294967295"],
            Error("token 0 of the prompt is 4294967295: the model's vocabulary has ids 0 to 95"),
        ),
        (
            &["--ids", "4294967296"],
            Usage("invalid value '4294967296' for '--ids <ID,ID,...>': expected token ids, such as 1 or 1,403,407"),
        ),
        (
            &["--ids", "1,2,3,4,5,6,7,8,9", "--context", "8"],
            Error("the prompt has 9 tokens, the context holds 8; shorten it, or choose a longer context"),
        ),
        (&["--prompt-file", "no such file"], Error("no such file: {not found}")),
        (&["--json"], EMPTY),
    ];
    for (flags, expected) in cases {
        with(flags).refused(*expected, &places, &flags.join(" "));
    }
    start(&["generate", "--model", &folder]).input(b"\n").refused(EMPTY, &[], "a line break");
    let latin = start(&["generate", "--model", &folder]).input(b"caf\xE9");
    latin.refused(Error("standard input: expected UTF-8 text, but byte 3 is not"), &[], "Latin 1");
    with(&["--ids", "1", "--max-tokens", "2"]).success();
}

#[cfg(target_os = "linux")]
#[test]
fn endless_files_are_refused() {
    let folder = golden(CASE);
    for [command, flag] in [["generate", "--prompt-file"], ["score", "--text-file"]] {
        let expected = Error("/dev/zero: expected a text of at most 67108864 bytes, got more");
        foretoken(&[command, "--model", &folder, flag, "/dev/zero"]).refused(expected, &[], command);
    }
}

#[test]
fn without_a_tokenizer_each_command_says_what_it_can_do() {
    let (temp, folder) = golden_copy(CASE);
    remove(temp.path(), "tokenizer.json");
    let places = [("{folder}", &folder[..])];
    foretoken(&["generate", "--model", &folder, "--prompt", "the"]).refused(
        Error(
            "tokenizer.json not found in {folder}; without it there are token ids, but no text; or give the prompt as ids: --ids",
        ),
        &places,
        "generate",
    );
    let text = temp.path().join("text.txt");
    fs::write(&text, "the text").unwrap();
    // It has no such flag.
    foretoken(&["score", "--model", &folder, "--text-file", text.to_str().unwrap()]).refused(
        Error("tokenizer.json not found in {folder}; without it there are token ids, but no text"),
        &places,
        "score",
    );
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
    run("the <new>").refused(
        Error(
            "token 4 of the prompt is 96: the model's vocabulary has ids 0 to 95; tokenizer.json has ids up to 96: is it this \
             model's?",
        ),
        &[],
        "a token too many",
    );
}

#[test]
fn a_bench_refuses_a_broken_model_before_it_measures() {
    let (temp, folder) = golden_copy(CASE);
    weights(temp.path(), |header, _| rename(header, Q_PROJ, "renamed"));
    foretoken(&["bench", "--model", &folder]).refused(Error(MISSING), &[("{folder}", &folder)], "bench");
}

const MISSING: &str = "{folder}: tensor \"model.layers.0.self_attn.q_proj.weight\" is missing; expected shape [32, 32] by \
                       config.json";

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
    foretoken(&["score", "--model", &folder, "--text-file", text.to_str().unwrap()]).refused(
        Error("the model's logits are not finite: with these weights it computes numbers that f32 cannot hold"),
        &[],
        "score",
    );
}

#[test]
fn folders_that_are_none_are_refused() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    for (model, expected) in [
        (
            "no such folder",
            "no such folder: no such folder: expected one with config.json, tokenizer.json and model.safetensors",
        ),
        (file, "{file}: not a folder: expected one with config.json, tokenizer.json and model.safetensors"),
    ] {
        for command in ["generate", "inspect"] {
            let prompt: &[&str] = if command == "generate" { &["--prompt", "a"] } else { &[] };
            let run = foretoken(&[&[command, "--model", model], prompt].concat());
            run.refused(Error(expected), &[("{file}", file)], command);
        }
    }
}

#[test]
fn a_model_that_does_not_fit_is_refused() {
    let (_temp, folder) = golden_copy(CASE);
    let config = Path::new(&folder).join("config.json");
    edit_json(&config, |config| config["max_position_embeddings"] = json!(2_000_000_000u32));
    let expected = format!(
        "a context of 2000000000 needs 128000000000 bytes for the keys of a layer; the adapter binds at most {}; choose a \
         shorter context",
        gpu().summary().max_binding_bytes
    );
    let run = foretoken(&["generate", "--model", &folder, "--ids", "1", "--context", "2000000000"]);
    run.refused(Error(&expected), &[], "a long context");
}

#[cfg(target_os = "linux")]
#[test]
fn without_an_adapter_it_says_what_to_install() {
    for command in [&["devices"][..], &["generate", "--ids", "1"]] {
        let mut program = program(command);
        program.env("VK_DRIVER_FILES", "/nonexistent").env("VK_ICD_FILENAMES", "/nonexistent");
        Run::from(program.output().unwrap()).refused(
            Error(
                "no GPU adapter was found. Install a Vulkan driver (on Debian without a GPU: apt-get install \
                 mesa-vulkan-drivers libvulkan1), or use a browser with WebGPU switched on",
            ),
            &[],
            command[0],
        );
    }
}

/// Whatever is wrong with the command line, the files and the prompt is said before anybody looks for the adapter, which is not
/// there.
#[test]
fn no_adapter_is_opened_for_what_is_refused() {
    let (folder, temp) = (golden(CASE), tempfile::tempdir().unwrap());
    let data = temp.path().join("data.jsonl");
    fs::write(&data, "{\"text\": \"a\"}").unwrap();
    let (data, out) = (data.to_str().unwrap(), temp.path().join("out"));
    let out = out.to_str().unwrap();
    let cases: &[(&[&str], Refused<'_>)] = &[
        (&["generate", "--top-p", "2", "--ids", "1"], Error("top-p 2: expected above 0, at most 1 (off)")),
        (&["generate", "--ids", "1,96"], Error("token 1 of the prompt is 96: the model's vocabulary has ids 0 to 95")),
        (
            &["generate", "--prompt", "the red hen", "--context", "2"],
            Error("the prompt has 9 tokens, the context holds 2; shorten it, or choose a longer context"),
        ),
        (
            &["score", "--text-file", data, "--context", "2"],
            Error(
                "the text has 14 tokens, but the context only 2; raise --context, or score the start of the text with --truncate",
            ),
        ),
        (
            &["marginals", "--ids", "1,2", "--context", "2"],
            Error(
                "offset 2 after 2 tokens needs a context of 3, but it holds 2; shorten the prompt or choose a longer context",
            ),
        ),
        (
            &["analyze", "--data", data, "--out", out, "--methods", "heads"],
            Error("the model brings no multi-token heads: name folders with --heads"),
        ),
        (
            &["analyze", "--data", data, "--out", out, "--methods", "next"],
            Error(
                "{data}: expected samples of 1 or more target tokens, but the longest has 0: give longer texts, or fewer --offsets",
            ),
        ),
        (&["train", "--data", data, "--out", out, "--lr", "1", "--resume"], Error("{out}: there is no run to resume")),
        (
            &["train", "--data", data, "--out", out, "--lr", "1", "--dump-batches", data],
            Error("--dump-batches {data}: is there already; name a new file"),
        ),
        (&["audit", "--context", "129"], Error("context 129: expected 1 to 128, the model's max_position_embeddings")),
    ];
    for (flags, expected) in cases {
        let run = foretoken(&[*flags, &["--model", &folder, "--adapter", "no such adapter"]].concat());
        run.refused(*expected, &[("{data}", data), ("{out}", out)], &flags.join(" "));
    }
    let odd = golden("llama-odd");
    for command in [&["generate", "--ids", "1"][..], &["audit"], &["bench"]] {
        let flags = ["--model", &odd, "--quantize", "q8_0", "--adapter", "no such adapter"];
        let expected = "model.safetensors: tensor \"model.embed_tokens.weight\" cannot be packed in Q8_0: expected rows of a \
                        multiple of 32 weights, got shape [101, 36]; load this model without quantizing it";
        foretoken(&[command, &flags[..]].concat()).refused(Error(expected), &[], command[0]);
    }
}

#[test]
fn the_environment_chooses_the_adapter_too() {
    let mut program = program(&["devices"]);
    let run = Run::from(program.env("FORETOKEN_ADAPTER", "no such adapter").output().unwrap());
    run.refused(Error(&no_such_adapter()), &[], "devices");
}

/// The exit code and the words of wrong usage, as the system sees them.
#[test]
fn wrong_usage_has_an_exit_code_of_its_own() {
    let run = Run::from(program(&["generate", "--seed", "x"]).output().unwrap());
    run.refused(Usage("invalid value 'x' for '--seed <NUMBER>': invalid digit found in string"), &[], "a process");
    let help = foretoken(&["generate", "--help"]).success();
    assert!(
        help.stdout.starts_with("Continue a prompt with generated text\n") && help.stderr.is_empty(),
        "{}",
        help.stdout
    );
}

/// One way to break a checkpoint, and the error.
struct Broken {
    message: &'static str,
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
        Broken {
            message: "config.json not found in {folder}; expected a checkpoint in Hugging Face's layout",
            make: |folder| remove(folder, "config.json"),
        },
        Broken {
            message: "model.safetensors not found in {folder}; nor model.safetensors.index.json; no weights are there; if \
                      they have other formats, convert them to safetensors, else download them",
            make: |folder| remove(folder, WEIGHTS),
        },
        Broken {
            message: "config.json not found in {folder}; adapter_config.json is there: this is an adapter (a LoRA), not a model; \
                      merge it into its base model first (in Python: merge_and_unload, then save_pretrained), and name that folder",
            make: |folder| fs::rename(folder.join("config.json"), folder.join("adapter_config.json")).unwrap(),
        },
        Broken {
            message: "config.json not found in {folder}; tiny.gguf is a GGUF file: as a model it is named itself, and its name \
                      ends with .gguf",
            make: |folder| fs::rename(folder.join("config.json"), folder.join("tiny.gguf")).unwrap(),
        },
        Broken {
            message: "model.safetensors in {folder}: this is a Git LFS pointer, not the file itself: run `git lfs pull` in the \
                      repository, or download the file",
            make: |folder| bytes(folder, |bytes| *bytes = b"version https://git-lfs.github.com/spec/v1\n".to_vec()),
        },
        Broken {
            message: "{folder}: config.json: `quantization_config` = {\"bits\":4,\"quant_method\":\"awq\"}: the weights are packed by AWQ, which is not supported; \
                      take the model's checkpoint in BF16, F16 or F32",
            make: |folder| {
                config(folder, |config| config["quantization_config"] = json!({"quant_method": "awq", "bits": 4}));
            },
        },
        Broken {
            message: "{folder}: config.json: expected a JSON object: EOF while parsing an object at line 1 column 1",
            make: |folder| fs::write(folder.join("config.json"), "{").unwrap(),
        },
        Broken {
            message: "{folder}: tokenizer.json: missing field `model` at line 1 column 2",
            make: |folder| fs::write(folder.join("tokenizer.json"), "{}").unwrap(),
        },
        Broken {
            message: "{folder}: config.json: `model_type` \"mamba\" is not supported; there are: gemma2, gemma3_text, gpt_neox, granite, llama, mistral, phi3, qwen2, qwen3, qwen3_5_text, smollm3",
            make: |folder| config(folder, |config| config["model_type"] = json!("mamba")),
        },
        Broken {
            message: "{folder}: config.json: `hidden_act` \"relu\" is not supported in this family; silu, swish are",
            make: |folder| config(folder, |config| config["hidden_act"] = json!("relu")),
        },
        Broken {
            message: "{folder}: config.json: rope parameters: rope type \"yarn\" is not supported; default, llama3 and longrope are",
            make: |folder| {
                config(folder, |config| config["rope_parameters"] = json!({"rope_type": "yarn", "factor": 4.0}));
            },
        },
        Broken {
            message: "{folder}: config.json: `hidden_size`: expected a whole number from 1 to 2147483647, got 0",
            make: |folder| config(folder, |config| config["hidden_size"] = json!(0)),
        },
        Broken {
            message: "{folder}: model.safetensors: expected 8 bytes with the header's length, got 0; the file is truncated or \
                      broken: download it again",
            make: |folder| bytes(folder, Vec::clear),
        },
        Broken {
            message: "{folder}: model.safetensors: tensor \"model.norm.weight\": its bytes 98816..98944 exceed the 98934 bytes of \
                      data; the file is truncated or broken: download it again",
            make: |folder| bytes(folder, |bytes| bytes.truncate(bytes.len() - 10)),
        },
        Broken {
            message: "{folder}: model.safetensors: the header claims 18446744073709551615 bytes, at most 100000000 are allowed; \
                      not a safetensors file?",
            make: |folder| bytes(folder, |bytes| bytes[..8].fill(0xFF)),
        },
        Broken {
            message: "{folder}: model.safetensors: tensor \"model.layers.0.self_attn.q_proj.weight\": its bytes 4..4100 overlap \
                      another tensor's",
            make: |folder| {
                weights(folder, |header, _| {
                    let len = header[Q_PROJ]["data_offsets"][1].as_u64().unwrap()
                        - header[Q_PROJ]["data_offsets"][0].as_u64().unwrap();
                    header[Q_PROJ]["data_offsets"] = json!([4, 4 + len]);
                });
            },
        },
        Broken {
            message: "{folder}: model.safetensors: tensor \"model.layers.0.self_attn.q_proj.weight\": expected 0 bytes for shape \
                      [0, 32] of F32, got 4096",
            make: |folder| weights(folder, |header, _| header[Q_PROJ]["shape"] = json!([0, 32])),
        },
        Broken {
            message: "{folder}: model.safetensors: tensor \"model.layers.0.self_attn.q_proj.weight\": the size of shape \
                      [18446744073709551615, 18446744073709551615] overflows",
            make: |folder| weights(folder, |header, _| header[Q_PROJ]["shape"] = json!([u64::MAX, u64::MAX])),
        },
        Broken {
            message: "model.safetensors in {folder}: tensor \"model.layers.0.self_attn.q_proj.weight\": expected shape [32, 32] \
                      by config.json, got [16, 64]",
            make: |folder| weights(folder, |header, _| header[Q_PROJ]["shape"] = json!([16, 64])),
        },
        Broken {
            message: "{folder}: tensor \"model.layers.0.self_attn.q_proj.weight\": expected F32, F16 or BF16, got I32",
            make: |folder| weights(folder, |header, _| header[Q_PROJ]["dtype"] = json!("I32")),
        },
        Broken {
            message: "{folder}: tensor \"model.layers.0.self_attn.q_proj.weight\" is missing; expected shape [32, 32] by \
                      config.json; \"model.layers.0.self_attn.q_proj.base_layer.weight\" is there instead",
            make: |folder| {
                weights(folder, |header, _| rename(header, Q_PROJ, &Q_PROJ.replace(".weight", ".base_layer.weight")));
            },
        },
        Broken { message: MISSING, make: |folder| weights(folder, |header, _| rename(header, Q_PROJ, "renamed")) },
        Broken {
            message: "{folder}: tensor \"model.layers.0.self_attn.q_proj.weight\" is missing; expected shape [32, 32] by \
                      config.json; \"q.model.layers.0.self_attn.q_proj.weight\" is there instead",
            make: |folder| weights(folder, |header, _| rename(header, Q_PROJ, &format!("q.{Q_PROJ}"))),
        },
        Broken {
            message: "model.safetensors: tensor \"model.layers.0.self_attn.q_proj.weight\" (F32) holds NaN or infinite weights; \
                      the checkpoint is broken, or was converted to a type too small for its values",
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
        run.refused(Error(message), &[("{folder}", &folder)], &format!("case {number}"));
    }
}

#[cfg(unix)]
#[test]
fn folders_of_the_hubs_cache_are_known() {
    use std::os::unix::fs::symlink;

    let (_temp, folder) = golden_copy(CASE);
    let cache = tempfile::tempdir().unwrap();
    let snapshot = cache.path().join("snapshots/0123abc");
    fs::create_dir_all(snapshot.parent().unwrap()).unwrap();
    symlink(&folder, &snapshot).unwrap();
    let path = cache.path().to_str().unwrap();
    let generate = || foretoken(&["generate", "--model", path, "--ids", "1", "--max-tokens", "1"]);
    // The only one; of two the one that is the main; of two without a word of which, none.
    generate().success();
    fs::create_dir(cache.path().join("snapshots/other")).unwrap();
    let expected = "{cache}: a folder of the hub's cache with several snapshots: name {cache}/snapshots/0123abc or \
                    {cache}/snapshots/other";
    generate().refused(Error(expected), &[("{cache}", path)], "two snapshots");
    fs::create_dir(cache.path().join("refs")).unwrap();
    fs::write(cache.path().join("refs/main"), "0123abc\n").unwrap();
    generate().success();
    let snapshots = cache.path().join("snapshots");
    foretoken(&["generate", "--model", snapshots.to_str().unwrap(), "--ids", "1", "--max-tokens", "1"]).success();
    // Nothing that leads elsewhere.
    fs::write(cache.path().join("refs/main"), "../snapshots/0123abc").unwrap();
    generate().refused(Error(expected), &[("{cache}", path)], "a path");
    let link = Path::new(&folder).join("generation_config.json");
    let _ = fs::remove_file(&link);
    symlink("../../blobs/gone", &link).unwrap();
    foretoken(&["generate", "--model", &folder, "--ids", "1"]).refused(
        Error(
            "{folder}/generation_config.json: a link to ../../blobs/gone, which is not there; download the file again",
        ),
        &[("{folder}", &folder)],
        "a dead link",
    );
}

#[test]
fn what_is_no_folder_of_heads_is_named() {
    let (temp, folder) = golden_copy(CASE);
    let model = golden(CASE);
    let draft = |case: &str, message: &str| {
        let run = foretoken(&["generate", "--model", &model, "--ids", "1", "--draft", &folder]);
        run.refused(Error(message), &[("{folder}", &folder)], case);
    };
    draft(
        "a whole model",
        "no multi-token heads in {folder}: a whole model is there, and drafting with a second model is not implemented; give heads \
         that were made for this model, or draft by lookup",
    );
    weights(temp.path(), |header, _| rename(header, Q_PROJ, "midlayer.self_attn.q_proj.weight"));
    draft("EAGLE-3", "no multi-token heads in {folder}: heads in the EAGLE-3 layout are not implemented");
    remove(temp.path(), WEIGHTS);
    fs::write(temp.path().join("drafter.gguf"), "GGUF").unwrap();
    draft(
        "GGUF",
        "{folder}: drafter.gguf: byte 4: expected 4 times 1 bytes or more, 0 are left; the file is truncated or broken: download it \
         again",
    );
}

#[test]
fn a_missing_shard_is_named() {
    let (_temp, folder) = golden_copy("llama-sharded");
    remove(Path::new(&folder), "model-00002-of-00003.safetensors");
    foretoken(&["generate", "--model", &folder, "--ids", "1"]).refused(
        Error(
            "model-00002-of-00003.safetensors not found in {folder}; model.safetensors.index.json names it; download it too",
        ),
        &[("{folder}", &folder)],
        "generate",
    );
}

#[test]
fn a_format_that_a_matrix_cannot_have_is_refused() {
    let odd = golden("llama-odd");
    foretoken(&["generate", "--model", &odd, "--ids", "1", "--quantize", "q8_0"]).refused(
        Error(
            "model.safetensors: tensor \"model.embed_tokens.weight\" cannot be packed in Q8_0: expected rows of a multiple of \
             32 weights, got shape [101, 36]; load this model without quantizing it",
        ),
        &[],
        "rows that are no whole blocks",
    );
    for unknown in ["q4", "f16", ""] {
        let message = format!(
            "invalid value '{unknown}' for '--quantize <FORMAT>': no format '{unknown}' to pack weights in; there are: \
             q2_k, q3_k, q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0, iq4_nl, iq4_xs, mxfp4"
        );
        foretoken(&["generate", "--ids", "1", "--quantize", unknown]).refused(Usage(&message), &[], unknown);
    }
}

#[test]
fn a_cache_of_an_unknown_type_is_refused() {
    for (command, unknown) in [("generate", "q8_0"), ("bench", "f8"), ("score", "")] {
        let message =
            format!("invalid value '{unknown}' for '--cache <TYPE>': no cache type '{unknown}'; there are: f32, f16");
        foretoken(&[command, "--cache", unknown]).refused(Usage(&message), &[], unknown);
    }
}
