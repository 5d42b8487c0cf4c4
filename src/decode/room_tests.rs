//! Caches that grow, rings of windows, and caches in halves: the bits are those of a cache that was there from the start.

use std::sync::Arc;

use serde_json::{Value, json};

use super::head_tests::golden;
use super::{
    AuditOptions, DraftOptions, DraftTree, Drafter, GenerateOptions, ReadOptions, RecordedDrafts, Sampling, Session,
};
use crate::format::files::MemoryFiles;
use crate::kernels::tests::adapters::on_every_adapter;
use crate::marginal::MarginalOptions;
use crate::model::LayerState;
use crate::{CacheType, Engine, EngineOptions, Gpu, GpuOptions, KernelSet, Result};

/// Slots of the ring that `windowed` models have: what a position sees, and the room beside it.
const RING: usize = 8 + 256;

/// A golden model with other values in its configuration, whose texts have no end.
pub(super) fn configured(name: &str, changes: &[(&str, Value)]) -> MemoryFiles {
    let mut files = golden(name);
    let mut config: Value = serde_json::from_slice(&files.files["config.json"]).expect("JSON");
    config.as_object_mut().expect("an object").remove("eos_token_id");
    files.files.remove("generation_config.json");
    changes.iter().for_each(|(key, value)| config[*key] = value.clone());
    files.files.insert("config.json".to_owned(), config.to_string().into_bytes().into());
    files
}

/// A model whose positions see eight, for texts that are much longer than that.
fn windowed() -> MemoryFiles {
    configured("mistral-window", &[("max_position_embeddings", json!(2048)), ("sliding_window", json!(8))])
}

pub(super) fn options(set: KernelSet, cache: CacheType) -> EngineOptions {
    EngineOptions { kernels: Some(set), cache, self_test: false, ..EngineOptions::default() }
}

pub(super) fn engine(gpu: &Gpu, files: &MemoryFiles, options: &EngineOptions) -> Engine {
    pollster::block_on(Engine::load(gpu, files, options, &mut |_| {})).expect("it loads")
}

/// A session that keeps every position of every layer, from the start for the whole context.
fn whole(engine: &Engine) -> Session {
    let mut session = engine.session().expect("a session");
    session.room(session.context()).expect("room");
    let (gpu, sizes) = (&session.model.gpu, &session.model.sizes);
    let blocks = session.model.config.spec.blocks.iter();
    let layer = |mixer| LayerState::whole(gpu, mixer, sizes.context, sizes.cache);
    session.buffers.layers = blocks.map(|block| layer(&block.mixer)).collect();
    session.plan_anew();
    session
}

pub(super) fn text(length: usize) -> Vec<u32> {
    (0..length).map(|at| (1 + at * at * 7 % 89 + at % 5) as u32).collect()
}

/// Drafts that are right at some positions and wrong at others.
pub(super) fn half_right(text: &[u32]) -> Drafter {
    let candidates = |(at, &id): (usize, &u32)| match at % 5 {
        0 => [id + 1, id + 2, id + 3, id + 4].map(|id| id % 90),
        1 | 2 => [id, 5, 6, 7],
        _ => [5, id, 6, 7],
    };
    Drafter::Recorded(Arc::new(RecordedDrafts(text.iter().enumerate().map(candidates).collect())))
}

pub(super) fn drafting(drafter: Drafter, tree: &[usize]) -> DraftOptions {
    DraftOptions { drafter, tree: Some(DraftTree::new(tree).expect("a tree")), trace: false }
}

pub(super) async fn run(session: &mut Session, prompt: &[u32], new: usize, draft: DraftOptions) -> Result<Vec<u32>> {
    let sampling = Sampling { temperature: 1.0, seed: 3, ..Sampling::default() };
    let options = GenerateOptions { max_tokens: Some(new), sampling, draft, ..GenerateOptions::default() };
    let mut generation = session.generate(prompt, &options, &mut |_| {}).await?;
    while generation.next().await?.is_some() {}
    Ok([prompt, generation.ids()].concat())
}

/// Runs `test` for every adapter, with the kernels it has by default: the kernels' own tests go over rings and halves in every set.
pub(super) fn on_every_adapter_by_default(test: impl Fn(&'static Gpu, KernelSet)) {
    on_every_adapter(|gpu| test(gpu, KernelSet::default_for(gpu.summary())));
}

#[test]
fn a_ring_gives_the_bits_of_a_whole_cache() {
    on_every_adapter_by_default(|gpu, set| {
        for cache in CacheType::ALL {
            let engine = engine(gpu, &windowed(), &options(set, cache));
            let (mut ring, mut whole) = (engine.session().expect("a session"), whole(&engine));
            let check = async {
                let all = text(3 * RING);
                let (got, want) = (ring.logits(&all).await?, whole.logits(&all).await?);
                assert!(got == want, "{set}, {cache}: logits");
                assert!(ring.cache_bytes() * 3 < whole.cache_bytes(), "{} bytes", ring.cache_bytes());

                let marginal = MarginalOptions { offset: 3, max_branches: Some(12), ..MarginalOptions::default() };
                for offset in [2, 3] {
                    let marginal = MarginalOptions { offset, ..marginal.clone() };
                    let got = ring.marginals(&all, &marginal, &mut |_| {}).await?;
                    let want = whole.marginals(&all, &marginal, &mut |_| {}).await?;
                    assert_eq!((got.top, got.entropy.to_bits()), (want.top, want.entropy.to_bits()), "{set}, {cache}");
                }
                let mut found = Vec::new();
                for session in [&mut ring, &mut whole] {
                    let mut reader = session.read_marginals(&all, &marginal, all.len() - 12).await?;
                    let mut positions = Vec::new();
                    while let Some(position) = reader.next().await? {
                        positions.push(format!("{:?} {:?}", position.next, position.marginal));
                    }
                    found.push(positions);
                }
                assert!(found[0] == found[1] && found[0].len() == 11, "{set}, {cache}: marginals of a text");

                let reading = ReadOptions { positions: 530..560, depths: true, heads: false, feed: None };
                let mut rows = Vec::new();
                for session in [&mut ring, &mut whole] {
                    let mut of_session = Vec::new();
                    session.read_logits(&all, &reading, &mut |_, _, row| of_session.push(row.to_vec())).await?;
                    rows.push(of_session);
                }
                assert!(rows[0] == rows[1] && rows[0].len() == 2 * 30, "{set}, {cache}: depths");
                Result::Ok(())
            };
            pollster::block_on(check).expect("no error");
        }
    });
}

#[test]
fn drafts_leave_a_text_in_a_ring_as_it_is() {
    on_every_adapter_by_default(|gpu, set| {
        for cache in CacheType::ALL {
            let engine = engine(gpu, &windowed(), &options(set, cache));
            let (mut ring, mut whole) = (engine.session().expect("a session"), whole(&engine));
            let check = async {
                let (prompt, new) = (text(300), RING);
                let all = run(&mut whole, &prompt, new, DraftOptions::off()).await?;
                assert_eq!(all.len(), 300 + new);
                for draft in [
                    DraftOptions::off(),
                    drafting(half_right(&all), &[1, 1, 1]),
                    drafting(half_right(&all), &[2, 2, 1]),
                    drafting(half_right(&all), &[4, 2, 1]),
                    drafting(Drafter::Lookup, &[2, 1, 1]),
                ] {
                    let got = run(&mut ring, &prompt, new, draft.clone()).await?;
                    assert!(got == all, "{set}, {cache}: {:?}", draft.tree);
                }
                let got = run(&mut ring, &all[..all.len() - 20], 20, drafting(Drafter::Marginal, &[3])).await?;
                assert!(got == all, "{set}, {cache}: drafts of the marginal");
                Result::Ok(())
            };
            pollster::block_on(check).expect("no error");
        }
    });
}

#[test]
fn a_ring_goes_back_as_far_as_it_reaches() {
    on_every_adapter_by_default(|gpu, set| {
        let engine = engine(gpu, &windowed(), &options(set, CacheType::F32));
        let (mut ring, mut whole) = (engine.session().expect("a session"), whole(&engine));
        let check = async {
            let prompt = text(150);
            let all = run(&mut whole, &prompt, 500, DraftOptions::off()).await?;
            let back = |session: &mut Session, length: usize| {
                session.set_text(&all[..length]);
                session.cached
            };
            assert!(run(&mut ring, &prompt, 500, DraftOptions::off()).await? == all);
            // The ring still holds what the row after 599 sees; what the row after 299 sees is overwritten.
            assert_eq!(back(&mut ring, 600), 599);
            assert_eq!(back(&mut ring, 300), 0);
            assert_eq!(ring.written, 0);
            for length in [640, 600, 430, 200, 610] {
                let again = run(&mut ring, &all[..length], all.len() - length, drafting(Drafter::Lookup, &[2, 1]));
                assert!(again.await? == all, "{set}: from {length}");
            }
            // An interrupted text, and the same session after others.
            let options = GenerateOptions { max_tokens: Some(500), ..GenerateOptions::default() };
            let mut generation = ring.generate(&all[..400], &options, &mut |_| {}).await?;
            generation.next().await?;
            drop(generation);
            assert!(run(&mut ring, &all[..395], all.len() - 395, DraftOptions::off()).await? == all);
            // Restored, there and on another device.
            let other_options = GpuOptions { adapter: Some(gpu.summary().index.to_string()), ..GpuOptions::default() };
            let other = Gpu::open(&other_options).await?;
            let other = Engine::load(&other, &windowed(), &self::options(set, CacheType::F32), &mut |_| {}).await?;
            for session in [&mut ring, &mut other.session()?] {
                session.restore(&all[..620], &mut |_| {}).await?;
                let sampling = Sampling { temperature: 1.0, seed: 3, ..Sampling::default() };
                let options = GenerateOptions { max_tokens: Some(500), sampling, ..GenerateOptions::default() };
                let mut generation = session.resume(prompt.len(), &options, &mut |_| {}).await?;
                while generation.next().await?.is_some() {}
                assert!(generation.ids() == &all[prompt.len()..], "{set}: resumed");
            }
            Result::Ok(())
        };
        pollster::block_on(check).expect("no error");
    });
}

#[test]
fn a_cache_grows_with_its_text() {
    on_every_adapter_by_default(|gpu, set| {
        let longer = [("max_position_embeddings", json!(2048))];
        for (backbone, heads) in [("llama-gqa", "heads-parallel"), ("neox-parallel", "heads-sequential")] {
            let (files, heads) = (configured(backbone, &longer), golden(heads));
            let options = options(set, CacheType::F32);
            let engine = pollster::block_on(Engine::load_with_heads(gpu, &files, &heads, &options, &mut |_| {}));
            let engine = engine.expect("it loads");
            let (mut growing, mut whole) = (engine.session().expect("a session"), whole(&engine));
            let check = async {
                let prompt = text(200);
                let all = run(&mut whole, &prompt, 400, DraftOptions::off()).await?;
                let bytes = |session: &Session| (session.cache_bytes(), session.buffers.capacity);
                let (first, capacity) = bytes(&growing);
                assert_eq!(capacity, 256);
                assert!(
                    run(&mut growing, &prompt, 400, drafting(Drafter::Heads, &[2])).await? == all,
                    "{set}, {backbone}"
                );
                assert_eq!(bytes(&growing), (4 * first, 1024));
                // A prompt that is long from the start, and what was read before it.
                let mut other = engine.session()?;
                assert!(run(&mut other, &prompt, 3, DraftOptions::off()).await?.len() == prompt.len() + 3);
                assert!(run(&mut other, &all[..450], 150, drafting(Drafter::Heads, &[2])).await? == all, "{set}");
                assert_eq!(other.buffers.capacity, 1024);
                // A copy goes on as the session would have, and neither feels the other.
                let mut fork = growing.fork().await?;
                assert_eq!((fork.tokens(), fork.cached), (&all[..], all.len() - 1));
                assert!(run(&mut growing, &text(300), 9, DraftOptions::off()).await?.len() == 309);
                let fresh = run(&mut whole, &[&all[..], &text(30)].concat(), 9, DraftOptions::off()).await?;
                let forked = run(&mut fork, &[&all[..], &text(30)].concat(), 9, drafting(Drafter::Heads, &[2])).await?;
                assert!(forked == fresh, "{set}, {backbone}: forked");
                Result::Ok(())
            };
            pollster::block_on(check).expect("no error");
        }
    });
}

#[test]
fn halves_take_half_the_memory_and_are_another_model() {
    on_every_adapter_by_default(|gpu, set| {
        for name in ["llama-gqa", "neox-sequential"] {
            let files = golden(name);
            let [singles, halves] = [CacheType::F32, CacheType::F16].map(|cache| {
                let engine = engine(gpu, &files, &options(set, cache));
                let mut session = engine.session().expect("a session");
                let logits = pollster::block_on(session.logits(&text(60))).expect("logits");
                // Within either, drafts change nothing, and rows do not feel each other.
                let audit = AuditOptions { prompts: vec![text(12)], tokens: Some(10) };
                let audit = pollster::block_on(session.audit(&audit, &mut |_| {})).expect("an audit");
                assert!(audit.equal && audit.logits.equal && audit.width_invariant, "{name}, {cache}: {audit:?}");
                (session.cache_bytes(), logits.concat())
            });
            assert_eq!(singles.0, 2 * halves.0, "{name}");
            let largest = singles.1.iter().fold(0f32, |largest, x| largest.max(x.abs()));
            let apart = singles.1.iter().zip(&halves.1).fold(0f32, |apart, (a, b)| apart.max((a - b).abs()));
            println!("{name}, {set}: {:.1e} of the largest logit", apart / largest);
            assert!(apart > 0.0 && apart < 5e-3 * largest, "{name}, {set}: {apart} of {largest}");
        }
    });
}
