//! Whole models over rows: a row's logits do not feel the rows beside it, and what happens where a driver breaks that.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{DraftOptions, Drafter, GenerateOptions, RecordedDrafts, Sampling, Session};
use crate::Engine;
use crate::format::files::MemoryFiles;
use crate::format::tokenizer::Tokenizer;
use crate::gpu::Recorder;
use crate::kernels::tests::adapters::{on_every_adapter, on_every_set};
use crate::kernels::{Extent, Row, State, Tree, Widths};
use crate::marginal::MarginalOptions;
use crate::model::{LayerState, Progress};
use crate::reference::random::pcg4d;
use crate::self_test::InjectedFault;
use crate::{CacheType, EngineOptions, ErrorKind, Gpu, GpuOptions, KernelSet};

/// Committed tokens before each batch: attention deals keys to 16 threads in turn, so 21 leaves some with one more.
const COMMITTED: usize = 21;

/// Numbers below a bound, the same in every run.
struct Dice(u32);

impl Dice {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 += 1;
        pcg4d([self.0, 2, 3, 4])[0] % bound
    }
}

fn golden(name: &str) -> MemoryFiles {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let read = |file: &str| (file.to_owned(), Cow::Owned(std::fs::read(folder.join(file)).expect("a golden file")));
    let files = ["config.json", "model.safetensors", "tokenizer.json"].map(read);
    MemoryFiles { name: name.to_owned(), files: files.into() }
}

pub(super) fn load(gpu: &Gpu, name: &str, kernels: Option<KernelSet>, fault: Option<InjectedFault>) -> Engine {
    let options = EngineOptions { kernels, ..EngineOptions::default() };
    pollster::block_on(Engine::load_with_fault(gpu, &golden(name), &options, &mut |_| {}, fault)).expect("it loads")
}

/// Bits of the logits of `rows` after the committed tokens.
fn bits(session: &Session, rows: &[Row]) -> Vec<Vec<u32>> {
    let (model, buffers) = (&session.model, &session.buffers);
    let count = rows.len() as u32;
    model.gpu.write(&buffers.rows, 0, rows);
    session.write_state(State { committed: COMMITTED as u32, num_rows: count, ..State::default() });
    let extent = Extent { rows: count, logit_rows: count, keys: COMMITTED as u32 + count };
    let ops = || session.plan.body.iter().chain(&session.plan.lm_head);
    model.gpu.submit(None, |recorder| ops().for_each(|op| op.record(recorder, extent)), None);
    let logits: Vec<u32> = pollster::block_on(model.gpu.read(&buffers.logits)).expect("logits");
    let stride = model.sizes.vocab_stride() as usize;
    logits.chunks_exact(stride).take(rows.len()).map(|row| row[..model.sizes.vocab as usize].to_vec()).collect()
}

/// A random forest: each row hangs from the committed text or from an earlier row.
fn forest(dice: &mut Dice, count: usize, vocab: u32) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for index in 0..count {
        let parent = (dice.below(index as u32 + 1) as usize).checked_sub(1).map(|parent| rows[parent]);
        let ancestors = parent.map_or(0, |parent| parent.mask);
        rows.push(Row {
            token: dice.below(vocab),
            position: COMMITTED as u32 + ancestors.count_ones(),
            mask: ancestors | 1 << index,
            ..Row::default()
        });
    }
    rows
}

/// The path of a row as a chain on its own.
fn path(rows: &[Row], index: usize) -> Vec<Row> {
    let ancestors = (0..=index).filter(|ancestor| rows[index].mask >> ancestor & 1 == 1);
    ancestors.enumerate().map(|(depth, at)| Row { mask: u32::MAX >> (31 - depth), ..rows[at] }).collect()
}

#[test]
fn a_row_does_not_feel_the_rows_beside_it() {
    on_every_set(|gpu, set| {
        for name in ["llama-gqa", "llama-bf16", "llama-odd-f16", "neox-parallel", "neox-sequential", "gemma2"] {
            let mut dice = Dice(0);
            let mut session = load(gpu, name, Some(set), None).session().expect("a session");
            let vocab = session.model.sizes.vocab;
            let text: Vec<u32> = (0..COMMITTED).map(|_| dice.below(vocab)).collect();
            pollster::block_on(session.logits(&text)).expect("the committed tokens");
            for width in [2, 3, 5, 8, 9, 17, 32] {
                let rows = forest(&mut dice, width, vocab);
                let together = bits(&session, &rows);
                for index in [width - 1, dice.below(width as u32) as usize] {
                    let alone = bits(&session, &path(&rows, index)).pop().expect("a row");
                    assert!(alone == together[index], "{name}, {set}, {}: row {index} of {width}", gpu.summary());
                }
            }
        }
    });
}

#[test]
fn a_driver_that_breaks_invariance_is_worked_around_or_reported() {
    on_every_adapter(|gpu| {
        let check = |fault, widths, invariant, note: &str| {
            let engine = load(gpu, "llama-mha", None, fault);
            let notes = engine.notes().join("; ");
            assert_eq!(engine.width_invariant(), invariant, "{fault:?}");
            assert!(notes.contains(note), "{fault:?}: {notes:?}");
            let mut session = engine.session().expect("a session");
            assert_eq!(session.model.widths, widths, "{fault:?}");
            let options = GenerateOptions { max_tokens: Some(12), ..GenerateOptions::default() };
            pollster::block_on(async {
                let mut generation = session.generate(&[1, 2, 3], &options, &mut |_| {}).await.expect("a prompt");
                while generation.next().await.expect("a step").is_some() {}
                generation.ids().to_vec()
            })
        };
        let each = check(None, Widths::Each, true, "");
        let narrow = check(Some(InjectedFault::Tiled), Widths::Narrow, true, "8 rows at a time");
        let fixed = check(Some(InjectedFault::Each), Widths::Fixed, true, "one pipeline of 8 rows");
        let none = check(Some(InjectedFault::Both), Widths::Fixed, false, "stay off");
        // The sums run in the same order whatever the pipeline, so on a sound driver the text is the same too.
        assert_eq!(each, narrow);
        assert_eq!(each, fixed);
        assert_eq!(each, none);
    });
}

/// A device of its own on the adapter of `gpu`, with no kernel and no count yet.
fn fresh(gpu: &Gpu) -> Gpu {
    let options = GpuOptions { adapter: Some(gpu.summary().index.to_string()), ..GpuOptions::default() };
    pollster::block_on(Gpu::open(&options)).expect("the adapter opens")
}

#[test]
fn loading_leaves_nothing_for_the_driver_to_compile() {
    let check = |gpu, name, cache| {
        let gpu = fresh(gpu);
        let options = EngineOptions { self_test: false, cache, ..EngineOptions::default() };
        let mut seen = None;
        let mut on_progress = |progress| seen = Some(progress);
        let engine = pollster::block_on(Engine::load(&gpu, &golden(name), &options, &mut on_progress));
        let compiled = gpu.counts().pipelines;
        assert!(compiled > 0 && matches!(seen, Some(Progress::Pipelines { done, total }) if done == total), "{seen:?}");
        assert_eq!(gpu.idle_kernels(), [""; 0], "compiled and never dispatched");
        // What a text runs with and without drafts was all there.
        let mut session = engine.expect("it loads").session().expect("a session");
        for drafter in [Drafter::Off, Drafter::Lookup] {
            let draft = DraftOptions { drafter, tree: Some("2".parse().expect("a tree")), trace: false };
            let options = GenerateOptions { max_tokens: Some(8), draft, ..GenerateOptions::default() };
            let text: Vec<u32> = (0..70).map(|at| 1 + at * 7 % 90).collect();
            pollster::block_on(async {
                let mut generation = session.generate(&text, &options, &mut |_| {}).await.expect("a prompt");
                while generation.next().await.expect("a round").is_some() {}
            });
        }
        assert_eq!(gpu.counts().pipelines, compiled, "a text compiled a pipeline");
    };
    on_every_adapter(|gpu| {
        check(gpu, "llama-gqa", CacheType::F32);
        check(gpu, "mistral-window", CacheType::F16);
    });
}

#[test]
fn the_self_test_runs_once_a_device_for_each_type_of_weights() {
    on_every_adapter(|gpu| {
        let gpu = fresh(gpu);
        let dispatches = |name, self_test| {
            let before = gpu.counts().dispatches;
            let cache = if name == "mistral-window" { CacheType::F16 } else { CacheType::F32 };
            let options = EngineOptions { self_test, cache, ..EngineOptions::default() };
            pollster::block_on(Engine::load(&gpu, &golden(name), &options, &mut |_| {})).expect("it loads");
            gpu.counts().dispatches - before
        };
        // Types of weights, and a type of cache.
        for name in ["llama-gqa", "llama-bf16", "mistral-window"] {
            let without = dispatches(name, false);
            assert!(dispatches(name, true) > without, "{name}: no self-test at the first load");
            assert_eq!(dispatches(name, true), without, "{name}: a self-test at the second load");
        }
        // The first two models had these types.
        assert_eq!(dispatches("llama-mha", true), dispatches("llama-mha", false));
    });
}

#[test]
fn the_marginal_drafts_what_the_marginal_says() {
    on_every_set(|gpu, set| {
        let mut session = load(gpu, "llama-gqa", Some(set), None).session().expect("a session");
        for text in [vec![1, 5, 9, 13], vec![3; 9], vec![7]] {
            let options = MarginalOptions { mass: 1.0, max_branches: Some(8), top: 3, ..Default::default() };
            let want = pollster::block_on(session.marginals(&text, &options, &mut |_| {})).expect("marginals");
            // As a round finds it: the text's last token has not been through the model, and is not looked at.
            let (length, known) = (text.len() as u32 + 1, text.len() as u32 - 1);
            session.write_state(State { committed: known + 1, length, limit: 90, num_rows: 1, ..State::default() });
            gpu.write(&session.buffers.text, 0, &text);
            gpu.write(&session.rounds.buffers.tree, 0, &[Tree::new(&[3])]);
            let (vocab, stride) = (session.model.sizes.vocab, session.model.sizes.vocab_stride());
            gpu.write(&session.buffers.sample_params, 0, &[Sampling::default().params(vocab, stride)]);
            let work = session.marginal.as_ref().expect("it was made");
            work.ask_draft(gpu);
            let steps = work.draft(&session.plan, length);
            let record = |recorder: &mut Recorder<'_>| {
                steps.iter().for_each(|(ops, extent)| ops.iter().for_each(|op| op.record(recorder, *extent)));
            };
            gpu.submit(None, record, None);
            let drafted: Vec<u32> = pollster::block_on(gpu.read(&session.buffers.candidates)).expect("candidates");
            let want: Vec<u32> = want.top.iter().map(|token| token.id).collect();
            assert_eq!(drafted[..3], want, "{text:?}");
        }
    });
}

/// Bits of the keys and values that the session's text has in the last layer, which all others have a part in.
fn cache_bits(session: &Session) -> [Vec<Vec<u32>>; 2] {
    let kept = session.buffers.layers.last().and_then(LayerState::key_values).expect("a layer with keys");
    let shape = kept.shape;
    let rows = |buffer, row: u32, used: usize| -> Vec<Vec<u32>> {
        let bits: Vec<u32> = pollster::block_on(session.model.gpu.read(buffer)).expect("a cache");
        bits.chunks_exact(row as usize).map(|row| row[..used].to_vec()).collect()
    };
    // `[heads, head_dim / 4, slots, 4]` and `[heads, slots, head_dim]`
    let values = rows(&kept.values, shape.slots * shape.head_dim, session.cached * shape.head_dim as usize);
    [rows(&kept.keys, shape.slots * 4, session.cached * 4), values]
}

#[test]
fn a_text_goes_on_elsewhere_as_if_nothing_had_happened() {
    on_every_set(|gpu, set| {
        let engine = load(gpu, "llama-gqa", Some(set), None);
        let sampling = Sampling { temperature: 0.9, repetition_penalty: 1.2, seed: 5, ..Sampling::default() };
        let options = GenerateOptions { max_tokens: Some(20), sampling, ..GenerateOptions::default() };
        let run = async {
            // A long prompt, what it brought, and a long addition: there the forms of products alternate, here they do not.
            let mut session = engine.session()?;
            let first: Vec<u32> = (0..40).map(|at| 1 + at * 7 % 90).collect();
            let mut generation = session.generate(&first, &options, &mut |_| {}).await?;
            while generation.next().await?.is_some() {}
            drop(generation);
            let prompt: Vec<u32> = session.tokens().iter().copied().chain((0..34).map(|at| 1 + at * 11 % 90)).collect();
            let before = session.tokens().to_vec();
            let mut generation = session.generate(&prompt, &options, &mut |_| {}).await?;
            for _ in 0..9 {
                generation.next().await?;
            }
            drop(generation);
            let middle = session.tokens().to_vec();
            let expected = cache_bits(&session);

            let mut other = engine.session()?;
            other.restore(&middle, &mut |_| {}).await?;
            assert_eq!(other.tokens(), middle);
            assert!(cache_bits(&other) == expected, "{set}: the cache differs");

            // To the end: here, there, and where nothing had been generated yet.
            let mut texts = Vec::new();
            for session in [&mut session, &mut other] {
                let mut generation = session.resume(prompt.len(), &options, &mut |_| {}).await?;
                while generation.next().await?.is_some() {}
                texts.push((generation.ids().to_vec(), generation.text().to_owned()));
            }
            other.restore(&before, &mut |_| {}).await?;
            let mut generation = other.generate(&prompt, &options, &mut |_| {}).await?;
            while generation.next().await?.is_some() {}
            texts.push((generation.ids().to_vec(), generation.text().to_owned()));
            assert_eq!(texts[0].0.len(), 20, "{set}");
            assert_eq!(texts[0], texts[1], "{set}: resumed elsewhere");
            assert_eq!(texts[0], texts[2], "{set}: never interrupted");
            crate::Result::Ok(())
        };
        pollster::block_on(run).expect("no error");
    });
}

#[test]
fn a_device_that_hangs_ends_a_text_with_an_error() {
    on_every_adapter(|gpu| {
        let options = GpuOptions {
            adapter: Some(gpu.summary().index.to_string()),
            deadline: Duration::from_millis(300),
            ..GpuOptions::default()
        };
        let gpu = pollster::block_on(Gpu::open(&options)).expect("it opens");
        // Without the self-test, whose submits a busy machine may not finish within so short a deadline.
        let options = EngineOptions { self_test: false, ..EngineOptions::default() };
        let files = golden("llama-gqa");
        let engine = pollster::block_on(Engine::load(&gpu, &files, &options, &mut |_| {})).expect("it loads");
        let mut session = engine.session().expect("a session");
        pollster::block_on(async {
            let options = GenerateOptions::default();
            let mut generation = session.generate(&[1, 2, 3], &options, &mut |_| {}).await.expect("a prompt");
            let first = generation.next().await.expect("a token");
            gpu.stall();
            let error = loop {
                match generation.next().await {
                    Ok(token) => assert!(token.is_some(), "the text ended without a word"),
                    Err(error) => break error,
                }
            };
            assert!(error.kind() == ErrorKind::Device && error.to_string().contains("`deadline`"), "{error}");
            assert_eq!(generation.ids().first().copied(), first.map(|token| token.id), "what came stays");
        });
        assert!(engine.session().is_err());
    });
}

/// The golden model without an end token and with a longer context.
fn endless(name: &str) -> MemoryFiles {
    let mut files = golden(name);
    let config = files.files.get_mut("config.json").expect("a config").to_mut();
    let mut json: serde_json::Value = serde_json::from_slice(config).expect("json");
    json["max_position_embeddings"] = 1024.into();
    *config = json.to_string().into();
    files.files.insert("generation_config.json".into(), br#"{"eos_token_id": []}"#.into());
    files
}

#[test]
fn few_rounds_find_the_text_ended_and_the_gpu_seldom_waits() {
    const TOKENS: usize = 300;
    on_every_adapter(|gpu| {
        let engine =
            pollster::block_on(Engine::load(gpu, &endless("llama-gqa"), &EngineOptions::default(), &mut |_| {}));
        let mut session = engine.expect("it loads").session().expect("a session");
        let prompt = [1, 5, 9, 13];
        let mut run = |drafter: Drafter, tree: &str| {
            // A GPU on which a submit could hold the whole text.
            (1..=8).for_each(|rows| session.round_pacing.know(rows, 1e-4));
            let draft = DraftOptions { drafter, tree: Some(tree.parse().expect("a tree")), trace: false };
            let options = GenerateOptions { max_tokens: Some(TOKENS), draft, ..GenerateOptions::default() };
            pollster::block_on(async {
                let mut generation = session.generate(&prompt, &options, &mut |_| {}).await.expect("a prompt");
                while generation.next().await.expect("a round").is_some() {}
                (generation.ids().to_vec(), generation.stats().drafts)
            })
        };
        let (ids, plain) = run(Drafter::Off, "1");
        assert_eq!(
            (ids.len(), plain.rounds_sent, plain.rounds, plain.gaps),
            (TOKENS, 299, 299, 0),
            "{}",
            gpu.summary()
        );
        let text: Vec<u32> = prompt.iter().chain(&ids).copied().collect();
        // Right at every place, at three of four, at every other one, at none.
        for (right, of) in [(1, 1), (3, 4), (1, 2), (0, 1)] {
            for tree in ["1", "1,1,1", "1,1,1,1,1,1,1"] {
                let draft = |(at, &id): (usize, &u32)| [if at % of < right { id } else { (id + 1) % 90 }; 4];
                let recorded = RecordedDrafts(text.iter().enumerate().map(draft).collect());
                let (drafted, stats) = run(Drafter::Recorded(Arc::new(recorded)), tree);
                assert_eq!(drafted, ids);
                let idle = stats.rounds_sent - stats.rounds;
                let what = format!("{tree}, {right} of {of} right, {}: {stats:?}", gpu.summary());
                assert!(idle * 10 <= stats.rounds.max(10), "{idle} rounds found the text ended: {what}");
                // What the last rounds bring is known when they have ended.
                assert!(stats.gaps <= 2, "the GPU waited {} times: {what}", stats.gaps);
            }
        }
    });
}

#[test]
fn a_tokenizer_that_was_read_already_is_not_read_again() {
    on_every_adapter(|gpu| {
        let mut files = golden("llama-gqa");
        let broken = Cow::Borrowed(&b"no JSON"[..]);
        let json = files.files.insert("tokenizer.json".to_owned(), broken).expect("a tokenizer");
        let tokenizer = Arc::new(Tokenizer::from_json(&json).expect("a tokenizer"));
        let load = |tokenizer| {
            let options = EngineOptions { tokenizer, self_test: false, ..EngineOptions::default() };
            pollster::block_on(Engine::load(gpu, &files, &options, &mut |_| {}))
        };
        let engine = load(Some(Arc::clone(&tokenizer))).expect("it loads");
        assert!(std::ptr::eq(engine.tokenizer().expect("a tokenizer"), &*tokenizer));
        let error = load(None).err().expect("what is in the files is none");
        assert!(error.to_string().contains("tokenizer.json"), "{error}");
    });
}
