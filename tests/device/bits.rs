//! Ids and logits, bit for bit as they were recorded: what a change of design must not move.
//!
//! The default model is checked always; every fixture, and texts with drafts, with `FORETOKEN_ALL_BITS=1` (minutes on a slow adapter). A software
//! adapter computes on the processor, so hashes are kept by adapter, driver and processor, in `tests/golden/bits.json`. On a
//! machine without a record this says so and checks nothing; `FORETOKEN_RECORD_BITS=1` adds one.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use crate::common::{DiskFiles, each_adapter, golden, shared};
use foretoken::format::files::Files;
use foretoken::{
    DraftOptions, DraftTree, Drafter, Engine, EngineOptions, GenerateOptions, Gpu, KernelSet, Sampling, Session,
};

/// Hashes by what was computed.
type Hashes = BTreeMap<String, String>;

/// Hashes by adapter, driver and processor.
type Record = BTreeMap<String, Hashes>;

fn record_path() -> PathBuf {
    golden("bits.json")
}

fn read_record() -> Record {
    fs::read(record_path()).map_or_else(|_| Record::new(), |bytes| serde_json::from_slice(&bytes).expect("bits.json"))
}

/// The adapter, its driver, and the processor, on which a software adapter computes.
fn device(gpu: &Gpu) -> String {
    let cpu_info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu_info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown processor");
    let summary = gpu.summary();
    format!("{}, {}, {}", summary.name, summary.driver_info, model.trim_start_matches([' ', '\t', ':']))
}

/// FNV-1a, 64 bits.
fn hash(words: impl Iterator<Item = u32>) -> String {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    format!("{:016x}", words.flat_map(u32::to_le_bytes).fold(0xcbf2_9ce4_8422_2325, step))
}

async fn generate(session: &mut Session, prompt: &[u32], sampling: Sampling, drafter: Option<Drafter>) -> Vec<u32> {
    let draft = match drafter {
        Some(drafter) => DraftOptions::default().drafter(drafter).tree("2".parse::<DraftTree>().expect("a tree")),
        None => DraftOptions::off(),
    };
    let options = GenerateOptions::default().max_tokens(24).sampling(sampling).draft(draft);
    let mut generation = session.generate(prompt, &options, &mut |_| {}).await.expect("the prompt is read");
    while generation.next().await.expect("a round").is_some() {}
    generation.ids().to_vec()
}

/// Hashes of one model on one kernel set: logits of a text, and texts, which must be the same with `drafts`.
async fn add_model(gpu: &Gpu, name: &str, files: &impl Files, kernels: KernelSet, drafts: bool, hashes: &mut Hashes) {
    let options = EngineOptions::default().kernels(kernels).context(64).self_test(false);
    let engine =
        Engine::load(gpu, files, &options, &mut |_| {}).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut session = engine.session().expect("a session");
    let vocab = engine.config().vocab_size as u32;
    let prompt: Vec<u32> = (0..41).map(|at| (1 + at * 37 % 90) % vocab).collect();
    let logits = session.logits(&prompt).await.expect("logits");
    hashes.insert(format!("{name}, {kernels}, logits"), hash(logits.iter().flatten().map(|logit| logit.to_bits())));
    let warm = Sampling::default().temperature(0.9).top_k(60).top_p(0.95).min_p(0.01).repetition_penalty(1.1).seed(7);
    for (how, sampling) in [("greedy", Sampling::default()), ("drawn", warm)] {
        let plain = generate(&mut session, &prompt[..9], sampling, None).await;
        let mut drafters = vec![Drafter::Lookup];
        // It goes over rows that are never committed.
        drafters.extend((!engine.config().spec.is_recurrent()).then_some(Drafter::Marginal));
        drafters.extend(engine.heads_summary().map(|_| Drafter::Heads));
        for drafter in drafters.into_iter().filter(|_| drafts) {
            let what = format!("{name}, {kernels}, {how}, {drafter:?}, {}", gpu.summary());
            assert_eq!(generate(&mut session, &prompt[..9], sampling, Some(drafter)).await, plain, "{what}");
        }
        hashes.insert(format!("{name}, {kernels}, {how}"), hash(plain.into_iter()));
    }
}

/// Every folder of `tests/golden` with a model of its own.
fn fixtures() -> Vec<String> {
    let entries = fs::read_dir(golden("")).expect("tests/golden").map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = entries.map(|name| name.into_string().expect("a name")).collect();
    names.retain(|name| !name.starts_with("heads-") && golden(name).join("config.json").is_file());
    names.sort();
    names
}

/// Hashes of the default model, and of `all` models.
async fn hashes_of(gpu: &Gpu, all: bool) -> Hashes {
    let mut hashes = Hashes::new();
    for kernels in KernelSet::available(gpu.summary()) {
        add_model(gpu, "default", &foretoken::default_model(), kernels, all, &mut hashes).await;
        if !all {
            continue;
        }
        for name in fixtures() {
            add_model(gpu, &name, &DiskFiles(golden(&name)), kernels, all, &mut hashes).await;
        }
        if let Some(folder) = shared("models/stories260K") {
            add_model(gpu, "stories260K", &DiskFiles(folder), kernels, all, &mut hashes).await;
        }
    }
    hashes
}

#[test]
fn ids_and_logits_are_the_recorded_bits() {
    let [recording, all] = ["FORETOKEN_RECORD_BITS", "FORETOKEN_ALL_BITS"].map(|name| std::env::var_os(name).is_some());
    each_adapter(|gpu| async move {
        let (device, mut record) = (device(&gpu), read_record());
        if recording {
            record.insert(device, hashes_of(&gpu, true).await);
            let json = serde_json::to_string_pretty(&record).expect("json");
            fs::write(record_path(), json + "\n").expect("bits.json is written");
            return;
        }
        let Some(expected) = record.get(&device) else {
            eprintln!("SKIPPED: no recorded bits of {device}");
            return;
        };
        let found = hashes_of(&gpu, all).await;
        let kept = |what: &str| found.contains_key(what) || !all;
        let lost: Vec<_> = expected.keys().filter(|what| !kept(what)).collect();
        assert!(lost.is_empty(), "{device}: recorded and not found: {lost:?}");
        // Fixtures that came after the record are held by the tests against transformers.
        let differ: Vec<_> =
            found.iter().filter(|(what, hash)| expected.get(*what).is_some_and(|e| e != *hash)).collect();
        assert!(differ.is_empty(), "{device}: other bits than recorded: {differ:#?}");
    });
}
