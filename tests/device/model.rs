//! The forward pass and the greedy loop against what `transformers` computes, on every adapter and with every kernel set.

use crate::common::{DiskFiles, Npz, each_adapter, golden, note, shared};
use foretoken::{Engine, EngineOptions, GenerateOptions, Gpu, KernelSet, Sampling};
use serde_json::{Value, json};

/// Largest logit difference over the range of the logits. Weights are used as stored and all arithmetic is f32 with
/// other summation orders than torch's: a rerun of the fixtures in f64 moves them by less than 1e-6 of the range.
const LOGITS_TOLERANCE: f64 = 2e-4;

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().expect("an array").iter().map(|v| v.as_f64().expect("a number")).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().expect("an array").iter().map(|v| v.as_u64().expect("an id") as u32).collect()
}

fn worst(got: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    got.iter().zip(expected).map(|(g, e)| (f64::from(*g) - e).abs()).fold(0.0, f64::max)
}

async fn load(gpu: &Gpu, folder: std::path::PathBuf, kernels: KernelSet) -> Engine {
    let files = DiskFiles(folder);
    let options = EngineOptions::default().kernels(kernels).self_test(false);
    Engine::load(gpu, &files, &options, &mut |_| {}).await.expect("the model loads")
}

/// Greedy ids, ignoring end tokens as the fixtures do: the fixtures' end tokens never come up.
async fn greedy(engine: &Engine, prompt: &[u32], count: usize, repetition_penalty: f32) -> Vec<u32> {
    let sampling = Sampling::default().repetition_penalty(repetition_penalty);
    let options = GenerateOptions::default().max_tokens(count).sampling(sampling);
    let mut session = engine.session().expect("a session");
    let mut generation = session.generate(prompt, &options, &mut |_| {}).await.expect("the prompt is read");
    while generation.next().await.expect("a step").is_some() {}
    generation.ids().to_vec()
}

async fn check_case(gpu: &Gpu, name: &str, kernels: KernelSet) {
    let folder = golden(name);
    let expected: Value =
        serde_json::from_str(&std::fs::read_to_string(folder.join("expected.json")).expect("expected.json"))
            .expect("json");
    let engine = load(gpu, folder, kernels).await;
    let what = format!("{name}, {kernels}, {}", gpu.summary());
    let range = expected["logits_range"].as_f64().expect("a range");
    let tolerance = LOGITS_TOLERANCE * range;
    let prompt = ids(&expected["prompt_ids"]);
    let mut session = engine.session().expect("a session");
    let logits = session.logits(&prompt).await.expect("logits");
    let rows = expected["logits"].as_array().expect("rows");
    let error = logits.iter().zip(rows).map(|(got, row)| worst(got, &floats(row))).fold(0.0, f64::max);
    assert!(error <= tolerance, "{what}: logits differ by {error:e}, allowed {tolerance:e}");
    let long = session.logits(&ids(&expected["long_prompt_ids"])).await.expect("logits");
    let apart = error / range;
    let error = worst(long.last().expect("a row"), &floats(&expected["long_logits"]));
    assert!(error <= tolerance, "{what}: long logits differ by {error:e}, allowed {tolerance:e}");
    let scores = session.score(&prompt, &mut |_| {}).await.expect("scores");
    let error = worst(&scores, &floats(&expected["score_logprobs"]));
    assert!(error <= tolerance, "{what}: log-probabilities differ by {error:e}, allowed {tolerance:e}");
    let greedy_ids = ids(&expected["ids"]);
    assert_eq!(greedy(&engine, &prompt, greedy_ids.len(), 1.0).await, greedy_ids, "{what}: greedy ids");
    let penalty = expected["repetition_penalty"].as_f64().expect("a penalty") as f32;
    assert_eq!(greedy(&engine, &prompt, 24, penalty).await, ids(&expected["penalty_ids"]), "{what}: penalised ids");
    let apart = apart.max(error / range);
    let (model_type, adapter) = (&engine.config().model_type, &gpu.summary().name);
    note(&json!({
        "kind": "golden", "name": name, "family": model_type, "kernels": kernels.to_string(), "adapter": adapter,
        "logits_apart": apart, "greedy_ids": greedy_ids.len(),
    }));
}

fn check(name: &str) {
    each_adapter(|gpu| async move {
        for kernels in KernelSet::available(gpu.summary()) {
            check_case(&gpu, name, kernels).await;
        }
    });
}

macro_rules! cases {
    ($($test:ident: $name:literal),* $(,)?) => {
        $(#[test] fn $test() { check($name); })*
    };
}

cases![
    gemma2: "gemma2",
    qwen3_5: "qwen3_5",
    qwen3_5_in_a_model_of_images: "qwen3_5-wrapped",
    gemma3: "gemma3",
    granite: "granite",
    llama_mha: "llama-mha",
    llama_gqa: "llama-gqa",
    llama_head_dim: "llama-head-dim",
    llama_bias: "llama-bias",
    llama_rope3: "llama-rope3",
    llama_f16: "llama-f16",
    llama_bf16: "llama-bf16",
    llama_sharded: "llama-sharded",
    llama_odd: "llama-odd",
    llama_odd_f16: "llama-odd-f16",
    mistral: "mistral",
    mistral_window: "mistral-window",
    mistral_long: "mistral-long",
    neox_parallel: "neox-parallel",
    neox_sequential: "neox-sequential",
    neox_fast: "neox-fast",
    neox_tanh: "neox-tanh",
    neox_f16: "neox-f16",
    phi3: "phi3",
    phi3_window: "phi3-window",
    qwen2_gqa: "qwen2-gqa",
    qwen2_window: "qwen2-window",
    qwen3: "qwen3",
    qwen3_bias: "qwen3-bias",
    smollm3: "smollm3",
    smollm3_window: "smollm3-window",
];

#[test]
fn stories260k_is_what_transformers_computes() {
    let Some(folder) = shared("models/stories260K") else { return };
    each_adapter(|gpu| {
        let folder = folder.clone();
        async move {
            let engine = load(&gpu, folder.clone(), KernelSet::default_for(gpu.summary())).await;
            let greedy_json = std::fs::read_to_string(folder.join("reference/greedy.json")).expect("greedy.json");
            let reference: Value = serde_json::from_str(&greedy_json).expect("json");
            let mut arrays = Npz::open(&folder.join("reference/greedy_logits.npz"));
            for (number, case) in reference["cases"].as_array().expect("cases").iter().enumerate() {
                let what = format!("{}: prompt {}", gpu.summary(), case["prompt"]);
                let (prompt, expected) = (ids(&case["prompt_ids"]), ids(&case["generated_ids"]));
                assert_eq!(greedy(&engine, &prompt, expected.len(), 1.0).await, expected, "{what}");
                let mut session = engine.session().expect("a session");
                let logits = session.logits(&[prompt, expected].concat()).await.expect("logits");
                let positions: Vec<i32> = arrays.read(&format!("case{number}_positions"));
                let rows: Vec<f32> = arrays.read(&format!("case{number}_logits"));
                assert!(positions.len() >= 4 && rows.len() == positions.len() * 512, "{what}: {positions:?}");
                for (&position, row) in positions.iter().zip(rows.chunks_exact(512)) {
                    let row: Vec<f64> = row.iter().copied().map(f64::from).collect();
                    let (low, high) = row.iter().fold((f64::MAX, f64::MIN), |(l, h), &v| (l.min(v), h.max(v)));
                    let (error, tolerance) = (worst(&logits[position as usize], &row), LOGITS_TOLERANCE * (high - low));
                    assert!(error <= tolerance, "{what}: logits at {position} differ by {error:e}, not {tolerance:e}");
                }
            }
        }
    });
}
