//! `foretoken merge` as users run it: what it writes generates what heads with an unmerged LoRA generate.

use std::fs;
use std::path::Path;

use crate::support::{CASE, edit_json, expected, foretoken, golden, golden_copy, ids_flag};
use serde_json::{Value, json};

fn generate(case: &str, flags: &[&str]) -> Value {
    let prompt = ids_flag(&expected(case)["prompt_ids"]);
    foretoken(&[&["generate", "--ids", &prompt, "--max-tokens", "24", "--json"], flags].concat()).json()
}

#[test]
fn the_merged_model_generates_what_the_heads_make_of_it() {
    for (case, heads) in [(CASE, "heads-lora"), ("neox-f16", "heads-neox-lora")] {
        let (model, heads) = (golden(case), golden(heads));
        let temp = tempfile::tempdir().unwrap();
        let out = temp.path().join("merged");
        let merged = out.to_str().unwrap();
        let run = foretoken(&["merge", "--model", &model, "--heads", &heads, "--out", merged]).success();
        assert!(run.stdout.is_empty() && run.stderr.contains("merged"), "{}", run.stderr);
        let expected = generate(case, &["--model", &model, "--draft", &heads]);
        assert_ne!(expected["ids"], generate(case, &["--model", &model])["ids"], "{case}: a LoRA that does nothing");
        // The heads lie beside it; with drafts and without it is one text.
        for draft in ["off", "heads", "lookup"] {
            let got = generate(case, &["--model", merged, "--draft", draft]);
            assert_eq!(got["ids"], expected["ids"], "{case} {draft}");
        }
        assert!(!fs::read_to_string(out.join("mtp_config.json")).unwrap().contains("lora"));
        let header = |folder: &str, name: &str| {
            let bytes = fs::read(Path::new(folder).join(name)).unwrap();
            let (len, rest) = bytes.split_first_chunk::<8>().unwrap();
            rest[..u64::from_le_bytes(*len) as usize].to_vec()
        };
        assert_eq!(header(merged, "model.safetensors"), header(&model, "model.safetensors"));
        assert!(!String::from_utf8(header(merged, "mtp.safetensors")).unwrap().contains("lora"));
        assert_eq!(fs::read(out.join("tokenizer.json")).unwrap(), fs::read(format!("{model}/tokenizer.json")).unwrap());
        // The LoRA is gone: it cannot be merged twice.
        let again = temp.path().join("again");
        let again = again.to_str().unwrap();
        foretoken(&["merge", "--model", merged, "--heads", merged, "--out", again]).fails_with("no LoRA");
        foretoken(&["merge", "--model", &model, "--heads", &heads, "--out", merged]).fails_with("already");
    }
}

#[test]
fn every_way_of_storing_is_kept() {
    for case in ["llama-sharded", "llama-f16", "llama-bf16"] {
        let (model, temp) = (golden(case), tempfile::tempdir().unwrap());
        let out = temp.path().join("merged");
        let (folder, heads) = golden_copy("heads-lora");
        let sizes: Value = serde_json::from_slice(&fs::read(format!("{model}/config.json")).unwrap()).unwrap();
        edit_json(&folder.path().join("mtp_config.json"), |stated| fit(stated, &sizes));
        foretoken(&["merge", "--model", &model, "--heads", &heads, "--out", out.to_str().unwrap()]).success();
        let mut changed = 0;
        for entry in fs::read_dir(&model).unwrap() {
            let path = entry.unwrap().path();
            let merged = fs::read(out.join(path.file_name().unwrap())).unwrap();
            let stored = fs::read(&path).unwrap();
            assert_eq!(merged.len(), stored.len(), "{}", path.display());
            changed += usize::from(merged != stored);
        }
        assert!(changed > 0, "{case}");
        // A head that is the last block drafts nothing, so these heads cannot be named: they lie in a model's folder.
        let (copy, with) = golden_copy(case);
        for name in ["mtp_config.json", "mtp.safetensors"] {
            fs::copy(folder.path().join(name), copy.path().join(name)).unwrap();
        }
        let [with, merged] = [&with, out.to_str().unwrap()].map(|model| generate(case, &["--model", model]));
        assert_eq!(merged["ids"], with["ids"], "{case}");
        assert_ne!(merged["ids"], generate(case, &["--model", &model])["ids"], "{case}: a LoRA that does nothing");
    }
}

/// Makes the heads say that they are for another model: the LoRA of queries fits all, the second head none.
fn fit(stated: &mut Value, config: &Value) {
    let backbone = stated["backbone"].as_object_mut().unwrap();
    for (key, size) in backbone.iter_mut().filter(|(key, _)| *key != "head_dim") {
        *size = config[key].clone();
    }
    stated["heads"].as_array_mut().unwrap().truncate(1);
    stated["lora"]["targets"] = json!(["q_proj"]);
}

#[test]
fn what_cannot_be_merged_is_refused() {
    let (model, temp) = (golden(CASE), tempfile::tempdir().unwrap());
    let out = temp.path().join("out");
    let merge = |heads: &str| {
        let run = foretoken(&["merge", "--model", &model, "--heads", heads, "--out", out.to_str().unwrap()]);
        assert!(fs::read_dir(temp.path()).unwrap().next().is_none(), "nothing is left");
        run
    };
    merge(&golden("heads-parallel")).fails_with("no LoRA");
    merge(&golden("heads-neox-lora")).fails_with("model_type");
    merge(&golden(CASE)).fails_with("no multi-token heads");
    let (folder, gated) = golden_copy("heads-lora");
    edit_json(&folder.path().join("mtp_config.json"), |config| config["lora"]["gated"] = json!(true));
    merge(&gated).fails_with("gated");
}
