//! Multi-token heads against plain PyTorch, on every adapter and with every kernel set.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use crate::common::{DiskFiles, each_adapter, golden};
use foretoken::format::checkpoint::Checkpoint;
use foretoken::format::files::{Files, MemoryFiles};
use foretoken::format::mtp::{Init, InitOptions, InitSource, init_heads};
use foretoken::{Engine, EngineOptions, ErrorKind, Gpu, KernelSet, Session};
use serde_json::{Value, json};

/// As for the backbone's logits, relative to their range.
const TOLERANCE: f64 = 2e-4;

fn options(kernels: Option<KernelSet>) -> EngineOptions {
    EngineOptions::default().kernels(kernels).self_test(false)
}

fn expected(name: &str) -> Value {
    let text = std::fs::read_to_string(golden(name).join("expected.json")).expect("expected.json");
    serde_json::from_str(&text).expect("json")
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().expect("ids").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

async fn check_logits(session: &mut Session, expected: &Value, what: &str) {
    let ids = ids(&expected["ids"]);
    let got = session.head_logits(&ids).await.expect("logits");
    let heads = expected["heads"].as_array().expect("heads");
    assert_eq!(got.len(), heads.len(), "{what}");
    for (got, head) in got.iter().zip(heads) {
        assert_eq!(got.len() as u64, head["positions"].as_u64().expect("a count"), "{what}");
        let range = head["logits_range"].as_f64().expect("a range");
        let places = expected["checked_positions"].as_array().expect("positions");
        for (row, at) in head["logits"].as_array().expect("rows").iter().zip(places) {
            let row = row.as_array().expect("a row");
            let got = &got[at.as_u64().expect("a position") as usize];
            assert_eq!(got.len(), row.len());
            let error = got.iter().zip(row).map(|(g, e)| (f64::from(*g) - e.as_f64().expect("a number")).abs());
            let error = error.fold(0.0, f64::max) / range;
            assert!(error <= TOLERANCE, "{what}, +{}: position {at} is off by {error:e}", head["offset"]);
        }
    }
}

fn check(name: &str) {
    let expected = expected(name);
    let backbone = expected["backbone"].as_str().expect("a name");
    each_adapter(|gpu| {
        let expected = &expected;
        async move {
            for kernels in KernelSet::available(gpu.summary()) {
                let what = format!("{name}, {kernels}, {}", gpu.summary());
                let (base, heads) = (DiskFiles(golden(backbone)), DiskFiles(golden(name)));
                let engine = Engine::load_with_heads(&gpu, &base, &heads, &options(Some(kernels)), &mut |_| {}).await;
                let engine = engine.unwrap_or_else(|error| panic!("{what}: {error}"));
                assert!(engine.heads_summary().is_some(), "{what}");
                check_logits(&mut engine.session().expect("a session"), expected, &what).await;
            }
        }
    });
}

macro_rules! cases {
    ($($test:ident: $name:literal),* $(,)?) => {
        $(#[test] fn $test() { check($name); })*
    };
}

cases![
    parallel_heads: "heads-parallel",
    parallel_heads_of_gpt_neox: "heads-neox",
    heads_on_a_mix_of_streams: "heads-whs",
    heads_with_lora: "heads-lora",
    heads_with_lora_of_fused_rows: "heads-neox-lora",
    own_sequential_heads: "heads-sequential",
    own_parallel_heads_on_qwen3: "heads-qwen3",
    own_sequential_heads_on_qwen3: "heads-qwen3-sequential",
    own_sequential_heads_on_qwen2: "heads-qwen2",
    own_heads_with_a_window: "heads-window",
    deepseek_modules: "heads-deepseek",
    mimo_modules: "heads-mimo",
    qwen_modules: "heads-qwen",
    qwen_modules_on_qwen3_5: "heads-qwen3_5",
    medusa_heads: "heads-medusa",
];

/// The files of a folder, in memory.
fn folder(path: &Path) -> MemoryFiles {
    let entries = std::fs::read_dir(path).expect("a folder").map(|entry| entry.expect("an entry"));
    let read = |entry: std::fs::DirEntry| {
        let bytes = std::fs::read(entry.path()).expect("a file");
        (entry.file_name().into_string().expect("a name"), Cow::Owned(bytes))
    };
    MemoryFiles { name: path.display().to_string(), files: entries.map(read).collect() }
}

/// The names of the tensors in a safetensors file.
fn tensor_names(bytes: &[u8]) -> Vec<String> {
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    let header: BTreeMap<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).expect("a header");
    header.into_keys().filter(|name| name != "__metadata__").collect()
}

/// One checkpoint of a backbone and the heads' own files. Where both have a `model.safetensors`, they become two shards.
fn beside(backbone: &str, heads: &str) -> MemoryFiles {
    let mut all = folder(&golden(backbone));
    for (name, bytes) in folder(&golden(heads)).files {
        if name != "model.safetensors" {
            all.files.insert(name, bytes);
            continue;
        }
        let base = all.files.remove(&name).expect("a backbone in one file");
        let mut map = BTreeMap::new();
        for (file, bytes) in [("base.safetensors", base), ("heads.safetensors", bytes)] {
            map.extend(tensor_names(&bytes).into_iter().map(|name| (name, file)));
            all.files.insert(file.to_owned(), bytes);
        }
        let index = json!({"weight_map": map}).to_string().into_bytes();
        all.files.insert("model.safetensors.index.json".to_owned(), Cow::Owned(index));
    }
    all
}

#[test]
fn heads_beside_the_model_are_found_and_can_be_left_out() {
    each_adapter(|gpu| async move {
        for name in ["heads-parallel", "heads-deepseek", "heads-mimo", "heads-qwen", "heads-medusa"] {
            let expected = expected(name);
            let files = beside(expected["backbone"].as_str().expect("a name"), name);
            let engine = Engine::load(&gpu, &files, &options(None), &mut |_| {}).await.expect("it loads");
            assert!(engine.notes().iter().all(|note| !note.contains("not used")), "{name}: {:?}", engine.notes());
            check_logits(&mut engine.session().expect("a session"), &expected, name).await;
            let without = options(None).heads(false);
            let engine = Engine::load(&gpu, &files, &without, &mut |_| {}).await.expect("it loads");
            assert!(engine.heads_summary().is_none());
            assert!(engine.notes().iter().any(|note| note.contains("not used")), "{name}: {:?}", engine.notes());
            let error = engine.session().expect("a session").head_logits(&[1, 2]).await.expect_err("no heads");
            assert_eq!(error.kind(), ErrorKind::Input);
        }
    });
}

/// Two copies of the last block.
fn copies() -> InitOptions {
    InitOptions::default().heads(2).seed(1)
}

async fn initialised(base: &impl Files, options: &InitOptions) -> foretoken::Result<MemoryFiles> {
    let checkpoint = Checkpoint::open(base).await?;
    let files = init_heads(&checkpoint, options).await?;
    let files = files.into_iter().map(|(name, bytes)| (name, Cow::Owned(bytes))).collect();
    Ok(MemoryFiles { name: "new heads".to_owned(), files })
}

async fn with_heads(gpu: &Gpu, base: &DiskFiles, init: &InitOptions) -> Session {
    let heads = initialised(base, init).await.expect("new heads");
    let engine = Engine::load_with_heads(gpu, base, &heads, &options(None), &mut |_| {}).await.expect("they load");
    engine.session().expect("a session")
}

#[test]
fn copies_of_the_last_blocks_compute_what_the_model_does() {
    let text: Vec<u32> = (0..50).map(|i| 3 + i * 17 % 90).collect();
    each_adapter(|gpu| {
        let text = text.clone();
        async move {
            for name in ["llama-gqa", "llama-odd-f16", "neox-parallel", "neox-sequential", "llama-bf16"] {
                let base = DiskFiles(golden(name));
                let depths = if name.contains("16") { 1..=2 } else { 1..=1 };
                for depth in depths {
                    let mut session = with_heads(&gpu, &base, &copies().depth(depth)).await;
                    let own = session.logits(&text).await.expect("logits");
                    let heads = session.head_logits(&text).await.expect("logits");
                    // The same sums from weights in f32 instead of halves; without halves, the same bits.
                    for (at, (head, own)) in heads[0].iter().zip(&own).enumerate() {
                        let worst = head.iter().zip(own).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                        assert!(worst < 1e-4, "{name}, depth {depth}, position {at}: {worst:e}");
                        assert!(name.contains("16") || head == own, "{name}: position {at}");
                    }
                    assert_eq!(heads[0], heads[1]);
                }
            }
        }
    });
}

#[test]
fn new_heads_of_every_kind_load_and_differ() {
    let text = [5, 9, 33, 7, 60, 41];
    each_adapter(|gpu| async move {
        let base = DiskFiles(golden("llama-sharded"));
        let random = copies().init(Init::Random);
        for init in [
            random,
            random.backbone_first(true),
            random.source(InitSource::Mix { temperature: 0.1 }).depth(2),
            random.source(InitSource::Layer(3)),
            random.sequential(true),
            random.sequential(true).source(InitSource::FinalNorm).init(Init::Copy),
        ] {
            let logits = with_heads(&gpu, &base, &init).await.head_logits(&text).await.expect("logits");
            assert_eq!(logits.len(), 2, "{init:?}");
            assert!(init.init == Init::Copy || logits[0] != logits[1], "{init:?}");
            let again = with_heads(&gpu, &base, &init).await.head_logits(&text).await.expect("logits");
            assert_eq!(logits, again, "{init:?}");
            let reseeded = init.seed(2);
            let other = with_heads(&gpu, &base, &reseeded).await.head_logits(&text).await.expect("logits");
            assert_eq!(init.init == Init::Copy, logits == other, "{init:?}");
        }
    });
}

#[test]
fn senseless_new_heads_are_refused() {
    pollster::block_on(async {
        let base = DiskFiles(golden("llama-gqa"));
        for (init, part) in [
            (copies().heads(0), "0 heads"),
            (copies().heads(40), "1 to 32"),
            (copies().depth(3), "1 to 2"),
            (copies().depth(2), "embedding"),
            (copies().source(InitSource::Layer(3)), "source 3"),
            (copies().source(InitSource::Mix { temperature: 0.0 }), "temperature"),
        ] {
            let error = initialised(&base, &init).await.expect_err("refused");
            assert!(error.to_string().contains(part), "{error}");
            assert_eq!(error.kind(), ErrorKind::Input);
        }
    });
}
