//! Models with recurrent layers: drafts, going back, restoring and a lost device change no bit, and what such a layer does not allow
//! is refused.

use serde_json::json;

use super::head_tests::golden;
use super::room_tests::{configured, drafting, engine, half_right, on_every_adapter_by_default, options, run, text};
use super::{AuditOptions, DraftOptions, Drafter, GenerateOptions, ReadOptions, Sampling, Session};
use crate::marginal::MarginalOptions;
use crate::model::LayerState;
use crate::{CacheType, Engine, ErrorKind, Gpu, GpuOptions, Result};

/// Bits of the committed states of the first layer and of the last recurrent one.
fn state_bits(session: &Session) -> Vec<u32> {
    let recurrent = session.buffers.layers.iter().filter_map(|layer| match layer {
        LayerState::Recurrent(kept) => Some(&kept.delta.kept),
        LayerState::Kv(_) | LayerState::Window(_) => None,
    });
    let states: Vec<_> = recurrent.collect();
    assert!(states.len() > 1, "another model");
    let bits = |at: usize| pollster::block_on(session.model.gpu.read::<u32>(states[at])).expect("a state");
    [bits(0), bits(states.len() - 1)].concat()
}

/// How [`run`] draws tokens.
fn sampling() -> Sampling {
    Sampling { temperature: 1.0, seed: 3, ..Sampling::default() }
}

#[test]
fn a_recurrent_layer_keeps_every_guarantee() {
    on_every_adapter_by_default(|gpu, set| {
        let files = configured("qwen3_5", &[("max_position_embeddings", json!(1024))]);
        let options = options(set, CacheType::F32);
        let engine = engine(gpu, &files, &options);
        let check = async {
            let (mut plain, mut session) = (engine.session()?, engine.session()?);
            let prompt = text(90);
            let all = run(&mut plain, &prompt, 250, DraftOptions::off()).await?;
            assert_eq!(all.len(), 340);

            // Drafts: chains, trees, none; each begins again from a snapshot or the beginning.
            for draft in [
                drafting(half_right(&all), &[1, 1, 1]),
                drafting(half_right(&all), &[2, 2, 1]),
                drafting(Drafter::Lookup, &[3, 1]),
                DraftOptions::off(),
            ] {
                let got = run(&mut session, &prompt, 250, draft.clone()).await?;
                assert!(got == all, "{set}: {:?}", draft.tree);
                assert!(state_bits(&session) == state_bits(&plain), "{set}: {:?}", draft.tree);
            }

            // The text goes on without anything being read again; a shorter one begins at a snapshot.
            session.set_text(&[&all[..], &[7, 8]].concat());
            assert_eq!(session.cached, all.len() - 1);
            session.set_text(&all[..339]);
            assert!((1..=90).contains(&session.cached), "{}", session.cached);
            for length in [91, 200, 90, 300] {
                let tree = drafting(half_right(&all), &[2, 1]);
                assert!(run(&mut session, &all[..length], 340 - length, tree).await? == all, "{set}: from {length}");
            }
            run(&mut session, &text(3), 9, DraftOptions::off()).await?;
            // A marginal, whose siblings are never committed, and the same text after it.
            let marginal = MarginalOptions { offset: 3, max_branches: Some(20), ..MarginalOptions::default() };
            let [first, second] = [
                session.marginals(&all[..210], &marginal, &mut |_| {}).await?,
                engine.session()?.marginals(&all[..210], &marginal, &mut |_| {}).await?,
            ];
            assert_eq!(first.top, second.top, "{set}");
            assert!(run(&mut session, &all[..230], 110, DraftOptions::off()).await? == all, "{set}: after a marginal");

            // Reading and auditing leave another text behind.
            let read = ReadOptions::at(0..210);
            let mut rows = Vec::new();
            session.read_logits(&all, &read, &mut |_, _, row| rows.push(row.to_vec())).await?;
            assert!(rows == plain.logits(&all).await?[..210], "{set}: logits of a text");
            let audit = AuditOptions { prompts: vec![all[..50].to_vec(), text(3)], tokens: Some(20) };
            let audit = session.audit(&audit, &mut |_| {}).await?;
            assert!(audit.equal && audit.logits.positions == 93, "{set}: {audit:?}");
            assert!(run(&mut session, &all[..230], 110, DraftOptions::off()).await? == all, "{set}: after an audit");
            assert!(run(&mut plain, &prompt, 250, DraftOptions::off()).await? == all, "{set}: after its logits");

            // An interrupted text; another session.
            let mut generation = session.generate(&all[..150], &GenerateOptions::default(), &mut |_| {}).await?;
            generation.next().await?;
            drop(generation);
            assert!(run(&mut session, &all[..150], 190, DraftOptions::off()).await? == all, "{set}: interrupted");
            for session in [&mut session, &mut engine.session()?] {
                session.restore(&all[..280], &mut |_| {}).await?;
                assert_eq!(session.cached, 279);
                let expected = run(session, &all[..280], 60, drafting(Drafter::Lookup, &[2, 1])).await?;
                assert!(expected == all && state_bits(session) == state_bits(&plain), "{set}: restored");
            }
            Result::Ok(())
        };
        pollster::block_on(check).expect("no error");
    });
}

/// A device of its own on the adapter of `gpu`.
async fn opened(gpu: &Gpu) -> Result<Gpu> {
    Gpu::open(&GpuOptions { adapter: Some(gpu.summary().index.to_string()), ..GpuOptions::default() }).await
}

#[test]
fn a_lost_device_changes_no_bit_of_a_recurrent_text() {
    on_every_adapter_by_default(|gpu, set| {
        let (files, options) = (golden("qwen3_5"), options(set, CacheType::F32));
        let check = async {
            let mut plain = engine(gpu, &files, &options).session()?;
            let prompt = text(20);
            let all = run(&mut plain, &prompt, 60, DraftOptions::off()).await?;

            let lost = opened(gpu).await?;
            let mut session = Engine::load(&lost, &files, &options, &mut |_| {}).await?.session()?;
            let generate = GenerateOptions {
                draft: drafting(half_right(&all), &[2, 1]),
                sampling: sampling(),
                ..GenerateOptions::default()
            };
            let mut generation = session.generate(&prompt, &generate, &mut |_| {}).await?;
            for _ in 0..9 {
                generation.next().await?;
            }
            lost.device().destroy();
            let error = loop {
                match generation.next().await {
                    Ok(token) => assert!(token.is_some(), "the text ended without a word"),
                    Err(error) => break error,
                }
            };
            assert_eq!(error.kind(), ErrorKind::Device, "{error}");
            drop(generation);
            let so_far = session.tokens().to_vec();
            assert!((29..80).contains(&so_far.len()) && all.starts_with(&so_far), "{set}: {so_far:?}");
            assert!(session.restore(&so_far, &mut |_| {}).await.is_err(), "what was on it is gone");

            let found = opened(gpu).await?;
            let mut session = Engine::load(&found, &files, &options, &mut |_| {}).await?.session()?;
            session.restore(&so_far, &mut |_| {}).await?;
            let new = all.len() - so_far.len();
            assert!(run(&mut session, &so_far, new, drafting(Drafter::Lookup, &[2, 1])).await? == all, "{set}");
            assert!(state_bits(&session) == state_bits(&plain), "{set}: the state");
            Result::Ok(())
        };
        pollster::block_on(check).expect("no error");
    });
}

#[test]
fn a_recurrent_state_is_copied_for_another_session() {
    on_every_adapter_by_default(|gpu, set| {
        let engine = engine(gpu, &golden("qwen3_5"), &options(set, CacheType::F32));
        let check = async {
            let (mut one, mut other) = (engine.session()?, engine.session()?);
            let all = run(&mut one, &text(20), 30, DraftOptions::off()).await?;
            other.buffers.copy_text(gpu, &one.buffers);
            (other.tokens, other.cached) = (one.tokens.clone(), one.cached);
            (other.written, other.reported) = (one.written, one.reported);
            assert!(state_bits(&other) == state_bits(&one), "{set}");
            let longer = run(&mut one, &all, 10, DraftOptions::off()).await?;
            assert!(run(&mut other, &all, 10, DraftOptions::off()).await? == longer, "{set}");
            Result::Ok(())
        };
        pollster::block_on(check).expect("no error");
    });
}

#[test]
fn heads_draft_over_recurrent_layers() {
    on_every_adapter_by_default(|gpu, set| {
        let (files, options) = (golden("qwen3_5"), options(set, CacheType::F32));
        let check = async {
            for heads in ["heads-qwen3_5"] {
                let engine = Engine::load_with_heads(gpu, &files, &golden(heads), &options, &mut |_| {}).await?;
                let (mut plain, mut session) = (engine.session()?, engine.session()?);
                let all = run(&mut plain, &text(20), 60, DraftOptions::off()).await?;
                for tree in [&[1][..], &[2]] {
                    let got = run(&mut session, &text(20), 60, drafting(Drafter::Heads, tree)).await?;
                    assert!(got == all && state_bits(&session) == state_bits(&plain), "{set}, {heads}: {tree:?}");
                }
            }
            Result::Ok(())
        };
        pollster::block_on(check).expect("no error");
    });
}

#[test]
fn what_goes_over_rows_that_are_never_committed_is_refused() {
    on_every_adapter_by_default(|gpu, set| {
        let options = options(set, CacheType::F32);
        let mut session = engine(gpu, &golden("qwen3_5"), &options).session().expect("a session");
        let ids = text(9);
        let refused = pollster::block_on(async {
            [
                (
                    "reading the marginals of a text",
                    session.read_marginals(&ids, &MarginalOptions::default(), 0).await.err(),
                ),
                (
                    "drafting with the marginal",
                    run(&mut session, &ids, 4, drafting(Drafter::Marginal, &[1])).await.err(),
                ),
            ]
        });
        for (what, error) in refused {
            let error = error.unwrap_or_else(|| panic!("{what} was done"));
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert_eq!(
                error.to_string(),
                format!(
                    "{what} is not supported for a model with recurrent layers: it goes over rows that are never committed, and \
                     the state of these layers moves on with committed rows only"
                )
            );
        }
    });
}
