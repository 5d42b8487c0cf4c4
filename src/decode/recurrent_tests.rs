//! A model with a recurrent layer among its others: drafts, going back, restoring and a lost device change no bit, and what such
//! a layer does not allow is refused.

use std::sync::Arc;

use serde_json::json;

use super::head_tests::{gated, golden};
use super::room_tests::{configured, drafting, engine, half_right, on_every_adapter_by_default, options, run, text};
use super::{AuditOptions, DraftOptions, Drafter, GenerateOptions, ReadOptions, Sampling, Session};
use crate::gpu::{Buffer, Kernel};
use crate::kernels::{Grid, MAX_CHUNK_ROWS, Op};
use crate::marginal::MarginalOptions;
use crate::model::{CommitIo, Committed, LayerState, MixIo, Recurrence, Recurrent};
use crate::{CacheType, Engine, ErrorKind, Gpu, GpuOptions, Result};

/// Elements of the state: the model's hidden size.
const WIDTH: u32 = 32;

/// The step that both kernels share. It is neither linear nor does it forget what came long before.
const STEP: &str = "
const WIDTH: u32 = 32u;

fn step(h: f32, x: f32, i: u32) -> f32 {
    return clamp(fma(h, select(0.75, -0.984375, i % 3u == 0u), x), -2.0, 2.0);
}
";

const MIX: &str = "
@group(0) @binding(0) var<storage, read> state: State;
@group(0) @binding(1) var<storage, read> rows: array<Row>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> committed: array<f32>;
@group(0) @binding(4) var<storage, read_write> inputs: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(32)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) i: u32) {
    if (state.done != 0u) {
        return;
    }
    let mask = rows[group.y].mask;
    var h = committed[i];
    for (var row = 0u; row <= group.y; row++) {
        if (mask == 0u || (mask >> row & 1u) == 1u) {
            h = step(h, x[row * WIDTH + i], i);
        }
    }
    inputs[group.y * WIDTH + i] = x[group.y * WIDTH + i];
    out[group.y * WIDTH + i] = h;
}
";

const COMMIT: &str = "
@group(0) @binding(0) var<uniform> all: vec4<u32>;
@group(0) @binding(1) var<storage, read> state: State;
@group(0) @binding(2) var<storage, read> path: array<u32>;
@group(0) @binding(3) var<storage, read> inputs: array<f32>;
@group(0) @binding(4) var<storage, read_write> committed: array<f32>;

@compute @workgroup_size(32)
fn main(@builtin(local_invocation_index) i: u32) {
    let every = all.x == 1u;
    let count = select(path[0], state.num_rows, every);
    var h = committed[i];
    for (var n = 0u; n < count; n++) {
        let row = select(path[1u + n], n, every);
        h = step(h, inputs[row * WIDTH + i], i);
    }
    committed[i] = h;
}
";

/// A recurrence of each element by itself.
struct Toy {
    mix: Arc<Kernel>,
    commit: Arc<Kernel>,
    committed: Buffer,
    inputs: Buffer,
}

impl Toy {
    fn new(gpu: &Gpu) -> Self {
        let batch = include_str!("../../shaders/lib/batch.wgsl");
        let kernel = |label: &str, main: &str| Arc::new(gpu.compile(label.to_owned(), [batch, STEP, main].concat()));
        Self {
            mix: kernel("toy mix", MIX),
            commit: kernel("toy commit", COMMIT),
            committed: gpu.storage("toy state", 4 * u64::from(WIDTH)),
            inputs: gpu.storage("toy inputs", 4 * u64::from(WIDTH) * MAX_CHUNK_ROWS as u64),
        }
    }
}

impl Recurrence for Toy {
    fn state(&self) -> &Buffer {
        &self.committed
    }

    fn bytes(&self) -> u64 {
        self.committed.size() + self.inputs.size()
    }

    fn mix(&self, gpu: &Gpu, MixIo { state, rows, x, out }: MixIo<'_>) -> Vec<Op> {
        let bind_group = gpu.bind(&self.mix, &[state, rows, x, &self.committed, &self.inputs, out]);
        vec![Op::single(Arc::clone(&self.mix), bind_group, Grid::Rows { x: 1 })]
    }

    fn commit(&self, gpu: &Gpu, rows: Committed, CommitIo { state, path }: CommitIo<'_>) -> Op {
        let all = gpu.uniform("toy commit", &[u32::from(rows == Committed::Rows), 0, 0, 0]);
        let bind_group = gpu.bind(&self.commit, &[&all, state, path, &self.inputs, &self.committed]);
        Op::single(Arc::clone(&self.commit), bind_group, Grid::One)
    }
}

/// How [`run`] draws tokens.
fn sampling() -> Sampling {
    Sampling { temperature: 1.0, seed: 3, ..Sampling::default() }
}

fn with_toy(engine: &Engine) -> Session {
    let mut session = engine.session().expect("a session");
    let gpu = engine.gpu();
    let sizes = &session.model.sizes;
    assert_eq!((sizes.hidden, sizes.attention_out), (WIDTH, WIDTH));
    session.buffers.layers[0] = LayerState::Recurrent(Recurrent::new(gpu, Box::new(Toy::new(gpu))));
    session.plan_anew();
    session
}

/// Bits of the committed state.
fn state_bits(session: &Session) -> Vec<u32> {
    let LayerState::Recurrent(kept) = &session.buffers.layers[0] else { panic!("another layer") };
    pollster::block_on(session.model.gpu.read(kept.mixer.state())).expect("a state")
}

#[test]
fn a_recurrent_layer_keeps_every_guarantee() {
    on_every_adapter_by_default(|gpu, set| {
        let files = configured("llama-gqa", &[("max_position_embeddings", json!(1024))]);
        let options = options(set, CacheType::F32);
        let engine = engine(gpu, &files, &options);
        let check = async {
            let (mut plain, mut session) = (with_toy(&engine), with_toy(&engine));
            let prompt = text(90);
            let all = run(&mut plain, &prompt, 250, DraftOptions::off()).await?;
            assert_eq!(all.len(), 340);
            assert!(all != run(&mut engine.session()?, &prompt, 250, DraftOptions::off()).await?, "nobody reads it");

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
                with_toy(&engine).marginals(&all[..210], &marginal, &mut |_| {}).await?,
            ];
            assert_eq!(first.top, second.top, "{set}");
            assert!(run(&mut session, &all[..230], 110, DraftOptions::off()).await? == all, "{set}: after a marginal");

            // An interrupted text; another session.
            let mut generation = session.generate(&all[..150], &GenerateOptions::default(), &mut |_| {}).await?;
            generation.next().await?;
            drop(generation);
            assert!(run(&mut session, &all[..150], 190, DraftOptions::off()).await? == all, "{set}: interrupted");
            for session in [&mut session, &mut with_toy(&engine)] {
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
        let (files, options) = (golden("llama-gqa"), options(set, CacheType::F32));
        let check = async {
            let mut plain = with_toy(&engine(gpu, &files, &options));
            let prompt = text(20);
            let all = run(&mut plain, &prompt, 60, DraftOptions::off()).await?;

            let lost = opened(gpu).await?;
            let mut session = with_toy(&Engine::load(&lost, &files, &options, &mut |_| {}).await?);
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
            let mut session = with_toy(&Engine::load(&found, &files, &options, &mut |_| {}).await?);
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
        let engine = engine(gpu, &golden("llama-gqa"), &options(set, CacheType::F32));
        let check = async {
            let (mut one, mut other) = (with_toy(&engine), with_toy(&engine));
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
        let (files, options) = (golden("llama-gqa"), options(set, CacheType::F32));
        let check = async {
            for heads in ["heads-parallel", "heads-qwen"] {
                let expected = std::str::from_utf8(&golden(heads).files["expected.json"]).expect("text").to_owned();
                assert!(expected.contains("llama-gqa"), "{heads} is of another backbone");
                let engine = Engine::load_with_heads(gpu, &files, &golden(heads), &options, &mut |_| {}).await?;
                let (mut plain, mut session) = (with_toy(&engine), with_toy(&engine));
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
        let mut session = with_toy(&engine(gpu, &golden("llama-gqa"), &options));
        let ids = text(9);
        let refused = pollster::block_on(async {
            let audit = AuditOptions { prompts: vec![ids.clone()], tokens: Some(4) };
            let (files, heads, _) = gated("heads-lora");
            let with_heads =
                Engine::load_with_heads(gpu, &files, &heads, &options, &mut |_| {}).await.expect("it loads");
            let mut with_heads = with_toy(&with_heads);
            let drafts = drafting(Drafter::Heads, &[1]);
            let read = ReadOptions { positions: 0..9, depths: true, heads: false, feed: None };
            [
                ("an audit", session.audit(&audit, &mut |_| {}).await.err()),
                (
                    "reading the logits of streams and heads",
                    session.read_logits(&ids, &read, &mut |_, _, _| {}).await.err(),
                ),
                (
                    "reading the marginals of a text",
                    session.read_marginals(&ids, &MarginalOptions::default(), 0).await.err(),
                ),
                (
                    "drafting with the marginal",
                    run(&mut session, &ids, 4, drafting(Drafter::Marginal, &[1])).await.err(),
                ),
                ("drafting with heads whose LoRA is gated", run(&mut with_heads, &ids, 4, drafts).await.err()),
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
