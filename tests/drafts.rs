//! Drafts never change the text: every drafter, chain and tree, right, wrong and random, at every temperature.

mod common;

use std::sync::Arc;

use common::{DiskFiles, each_adapter, golden};
use foretoken::{
    DraftOptions, DraftTree, Drafter, Engine, EngineOptions, GenerateOptions, Gpu, Sampling, Script, Session, Stats,
    Stop,
};

/// Every base model of tests/golden.
const FIXTURES: [&str; 16] = [
    "llama-bf16",
    "llama-bias",
    "llama-f16",
    "llama-gqa",
    "llama-head-dim",
    "llama-mha",
    "llama-odd",
    "llama-odd-f16",
    "llama-rope3",
    "llama-sharded",
    "mistral",
    "neox-f16",
    "neox-fast",
    "neox-parallel",
    "neox-sequential",
    "neox-tanh",
];

const PROMPT: [u32; 7] = [1, 5, 9, 13, 17, 21, 25];

async fn load(gpu: &Gpu, name: &str) -> Engine {
    let files = DiskFiles(golden(name));
    Engine::load(gpu, &files, &EngineOptions::default(), &mut |_| {}).await.expect("the model loads")
}

struct Run {
    ids: Vec<u32>,
    text: String,
    stop: Stop,
    stats: Stats,
}

async fn run(session: &mut Session, prompt: &[u32], options: &GenerateOptions) -> Run {
    let mut generation = session.generate(prompt, options, &mut |_| {}).await.expect("the prompt is read");
    while generation.next().await.expect("a round").is_some() {}
    let stop = generation.stop().expect("it ended");
    Run { ids: generation.ids().to_vec(), text: generation.text().to_owned(), stop, stats: generation.stats() }
}

fn options(max_tokens: usize, sampling: Sampling) -> GenerateOptions {
    GenerateOptions { max_tokens, sampling, draft: DraftOptions::off(), ..GenerateOptions::default() }
}

fn drafting(plain: &GenerateOptions, drafter: Drafter, tree: &str) -> GenerateOptions {
    let tree = Some(tree.parse::<DraftTree>().expect("a tree"));
    GenerateOptions { draft: DraftOptions { drafter, tree, trace: false }, ..plain.clone() }
}

fn samplings() -> [Sampling; 3] {
    let warm = Sampling { temperature: 0.9, top_k: 60, top_p: 0.95, min_p: 0.01, repetition_penalty: 1.1, seed: 7 };
    [Sampling::default(), Sampling { repetition_penalty: 1.3, ..Sampling::default() }, warm]
}

/// Scripts after a known text: all right, all wrong, right at every other place, and right as the third candidate.
fn scripts(text: &[u32], vocab: u32) -> [(&'static str, Drafter); 4] {
    let script = |candidates: &dyn Fn(usize, u32) -> [u32; 4]| {
        Drafter::Script(Arc::new(Script(text.iter().enumerate().map(|(at, &id)| candidates(at, id)).collect())))
    };
    let other = |id: u32, by: u32| (id + by) % vocab;
    [
        ("right", script(&|_, id| [id; 4])),
        ("wrong", script(&|_, id| [1, 2, 3, 4].map(|by| other(id, by)))),
        ("half", script(&|at, id| [other(id, at as u32 * 7 % 3 % 2), other(id, 2), other(id, at as u32 % 2), id])),
        ("third", script(&|_, id| [other(id, 1), u32::MAX, id, other(id, 3)])),
    ]
}

#[test]
fn drafts_never_change_the_text() {
    each_adapter(|gpu| async move {
        for name in FIXTURES {
            let engine = load(&gpu, name).await;
            let vocab = engine.config().vocab_size as u32;
            let (mut plain_session, mut session) = (engine.session().expect("one"), engine.session().expect("another"));
            for sampling in samplings() {
                let plain = options(48, sampling);
                let expected = run(&mut plain_session, &PROMPT, &plain).await;
                let text = [&PROMPT[..], &expected.ids].concat();
                let mut drafters = scripts(&text, vocab).to_vec();
                drafters.push(("lookup", Drafter::Lookup));
                for (what, drafter) in drafters {
                    for tree in ["1,1,1,1", "3,2,1"] {
                        let drafted = run(&mut session, &PROMPT, &drafting(&plain, drafter.clone(), tree)).await;
                        let case = format!("{name}, {what} {tree}, {sampling:?}, {}", gpu.summary());
                        assert_eq!(drafted.ids, expected.ids, "{case}");
                        assert_eq!((drafted.text, drafted.stop), (expected.text.clone(), expected.stop), "{case}");
                        let drafts = drafted.stats.drafts;
                        let new = drafted.ids.len() as u64;
                        assert_eq!(drafts.rounds + drafts.accepted, new - 1, "{case}");
                        match what {
                            // The last round may draft past the end of the text.
                            "right" if tree == "1,1,1,1" => assert_eq!(drafts.rounds, (new - 1).div_ceil(5), "{case}"),
                            "wrong" => assert_eq!(drafts.accepted, 0, "{case}"),
                            "third" if tree == "1,1,1,1" => assert_eq!(drafts.accepted, 0, "{case}"),
                            "third" => assert!(drafts.accepted > 0 || new < 4, "{case}"),
                            _ => {}
                        }
                    }
                }
            }
        }
    });
}
