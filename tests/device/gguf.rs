//! GGUF files on the GPU: bit for bit what the folders compute that they were made from.

use std::borrow::Cow;
use std::collections::BTreeMap;

use foretoken::format::files::{Files, MemoryFiles};
use foretoken::format::quantize::Quantization;
use foretoken::{Engine, EngineOptions, GenerateOptions, Gpu, WeightFormat};
use serde_json::Value;

use crate::common::{each_adapter, golden, golden_in_memory, note};

/// Logits of some tokens, and the greedy ids after them.
async fn computed(gpu: &Gpu, files: &impl Files, quantize: Option<WeightFormat>) -> (Vec<Vec<f32>>, Vec<u32>) {
    let options = EngineOptions::default().self_test(false).quantize(quantize);
    let engine = Engine::load(gpu, files, &options, &mut |_| {}).await.expect("the model loads");
    let prompt: Vec<u32> = (0..30).map(|place| place * 7 % 90 + 3).collect();
    let mut session = engine.session().expect("a session");
    let logits = session.logits(&prompt).await.expect("logits");
    let options = GenerateOptions::default().max_tokens(24);
    let mut generation = session.generate(&prompt, &options, &mut |_| {}).await.expect("the prompt is read");
    while generation.next().await.expect("a step").is_some() {}
    (logits, generation.ids().to_vec())
}

async fn check(gpu: &Gpu, name: &str, file: &MemoryFiles) {
    check_packed(gpu, name, file, None).await;
}

/// Fails unless the file computes what the folder does with its matrices packed so.
async fn check_packed(gpu: &Gpu, name: &str, file: &MemoryFiles, quantize: Option<WeightFormat>) {
    let folder = computed(gpu, &golden_in_memory(name), quantize).await;
    let gguf = computed(gpu, file, None).await;
    let bits = |logits: &[Vec<f32>]| logits.iter().flatten().map(|logit| logit.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&gguf.0), bits(&folder.0), "{name}, {}", gpu.summary());
    assert_eq!(gguf.1, folder.1, "{name}, {}", gpu.summary());
    note(&serde_json::json!({"kind": "gguf", "name": name, "adapter": gpu.summary().name}));
}

/// The value heads of the file's DeltaNets lie in another order than in the folder, so sums do too.
#[test]
fn delta_nets_compute_what_transformers_does() {
    let name = "qwen3_5";
    let expected = std::fs::read_to_string(golden(name).join("expected.json")).expect("expected.json");
    let expected: Value = serde_json::from_str(&expected).expect("json");
    let numbers = |row: &Value| -> Vec<f64> {
        row.as_array().expect("a row").iter().map(|x| x.as_f64().expect("a number")).collect()
    };
    let prompt: Vec<u32> = numbers(&expected["prompt_ids"]).into_iter().map(|id| id as u32).collect();
    let bytes = std::fs::read(golden("gguf").join(format!("{name}.gguf"))).expect("the file");
    let files = BTreeMap::from([(format!("{name}.gguf"), Cow::Owned(bytes))]);
    let file = MemoryFiles { name: name.to_owned(), files };
    each_adapter(|gpu| {
        let (file, expected, prompt) = (&file, &expected, &prompt);
        async move {
            let engine = Engine::load(&gpu, file, &EngineOptions::default(), &mut |_| {}).await.expect("it loads");
            assert!(engine.notes().is_empty(), "{:?}", engine.notes());
            let logits = engine.session().expect("a session").logits(prompt).await.expect("logits");
            let rows = expected["logits"].as_array().expect("rows");
            let off = logits.iter().zip(rows).flat_map(|(got, row)| {
                got.iter().zip(numbers(row)).map(|(got, want)| (f64::from(*got) - want).abs()).collect::<Vec<_>>()
            });
            let error = off.fold(0.0, f64::max) / expected["logits_range"].as_f64().expect("a range");
            assert!(logits.len() == rows.len() && error < 2e-4, "{}: {error:e}", gpu.summary());
        }
    });
}

#[test]
fn files_compute_what_their_folders_do() {
    each_adapter(|gpu| async move {
        for name in
            ["llama-gqa", "llama-bias", "llama-head-dim", "qwen2-gqa", "qwen3", "mistral-window", "granite", "smollm3"]
        {
            let bytes = std::fs::read(golden("gguf").join(format!("{name}.gguf"))).expect("the file");
            let files = BTreeMap::from([(format!("{name}.gguf"), Cow::Owned(bytes))]);
            check(&gpu, name, &MemoryFiles { name: name.to_owned(), files }).await;
        }
        check(&gpu, "llama-sharded", &golden_in_memory("gguf/llama-sharded")).await;
    });
}

/// The file that a model becomes.
async fn written(files: &impl Files, to: &str) -> MemoryFiles {
    let plan = Quantization::plan(files, to.parse().expect("a type")).await.expect("a plan");
    let mut bytes = Vec::new();
    let sink = &mut |part: &[u8]| {
        bytes.extend_from_slice(part);
        Ok(())
    };
    plan.write(1, sink).await.expect("the file");
    let files = BTreeMap::from([("model.gguf".to_owned(), Cow::Owned(bytes))]);
    MemoryFiles { name: to.to_owned(), files }
}

#[test]
fn written_files_compute_what_their_models_do() {
    each_adapter(|gpu| async move {
        for (name, to) in [("llama-gqa", "f32"), ("llama-bias", "f32"), ("llama-f16", "f16"), ("qwen3", "bf16")] {
            check(&gpu, name, &written(&golden_in_memory(name), to).await).await;
        }
        // Q8_0 leaves nothing to search for: to pack the folder is the same.
        for name in ["llama-gqa", "qwen2-gqa"] {
            let packed = "q8_0".parse().expect("a format");
            check_packed(&gpu, name, &written(&golden_in_memory(name), "q8_0").await, Some(packed)).await;
        }
    });
}
