//! GGUF files on the GPU: bit for bit what the folders compute that they were made from.

use std::borrow::Cow;
use std::collections::BTreeMap;

use foretoken::format::files::{Files, MemoryFiles};
use foretoken::{Engine, EngineOptions, GenerateOptions, Gpu};

use crate::common::{each_adapter, golden, golden_in_memory, note};

/// Logits of some tokens, and the greedy ids after them.
async fn computed(gpu: &Gpu, files: &impl Files) -> (Vec<Vec<f32>>, Vec<u32>) {
    let options = EngineOptions::default().self_test(false);
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
    let (gguf, folder) = (computed(gpu, file).await, computed(gpu, &golden_in_memory(name)).await);
    let bits = |logits: &[Vec<f32>]| logits.iter().flatten().map(|logit| logit.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&gguf.0), bits(&folder.0), "{name}, {}", gpu.summary());
    assert_eq!(gguf.1, folder.1, "{name}, {}", gpu.summary());
    note(&serde_json::json!({"kind": "gguf", "name": name, "adapter": gpu.summary().name}));
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
