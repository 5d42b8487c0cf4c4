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
                drafters.extend([("lookup", Drafter::Lookup), ("marginal", Drafter::Marginal)]);
                for (what, drafter) in drafters {
                    for tree in if what == "marginal" { ["1", "3"] } else { ["1,1,1,1", "3,2,1"] } {
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

/// Fixtures of heads with their backbones.
const HEADS: [(&str, &str); 10] = [
    ("llama-gqa", "heads-parallel"),
    ("llama-sharded", "heads-whs"),
    ("llama-gqa", "heads-lora"),
    ("neox-parallel", "heads-neox"),
    ("neox-f16", "heads-neox-lora"),
    ("neox-parallel", "heads-sequential"),
    ("llama-odd", "heads-deepseek"),
    ("llama-bias", "heads-mimo"),
    ("llama-gqa", "heads-qwen"),
    ("mistral", "heads-medusa"),
];

async fn load_heads(gpu: &Gpu, backbone: &str, heads: &str) -> Engine {
    let (base, heads) = (DiskFiles(golden(backbone)), DiskFiles(golden(heads)));
    Engine::load_with_heads(gpu, &base, &heads, &EngineOptions::default(), &mut |_| {}).await.expect("heads load")
}

/// Ids of the highest logits, ties by id.
fn likeliest(logits: &[f32], count: usize) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    ids.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
    ids.truncate(count);
    ids
}

#[test]
fn heads_draft_what_they_say_and_never_change_the_text() {
    each_adapter(|gpu| async move {
        for (backbone, heads) in HEADS {
            let engine = load_heads(&gpu, backbone, heads).await;
            let deepest = if ["heads-whs", "heads-lora", "heads-neox-lora"].contains(&heads) { 1 } else { 2 };
            let (mut plain_session, mut session) = (engine.session().expect("one"), engine.session().expect("another"));
            for sampling in samplings() {
                let plain = options(48, sampling);
                let expected = run(&mut plain_session, &PROMPT, &plain).await;
                for tree in ["1", "7", "1,1", "7,3"].iter().filter(|tree| tree.contains(',') <= (deepest > 1)) {
                    let case = format!("{heads}, {tree}, {sampling:?}, {}", gpu.summary());
                    let mut options = drafting(&plain, Drafter::Heads, tree);
                    options.draft.trace = true;
                    let mut generation = session.generate(&PROMPT, &options, &mut |_| {}).await.expect("a prompt");
                    while generation.next().await.expect("a round").is_some() {}
                    assert_eq!(generation.ids(), expected.ids, "{case}");
                    let rounds = generation.rounds().to_vec();
                    let stats = generation.stats();
                    assert_eq!(stats.drafts.rounds as usize, rounds.len(), "{case}");
                    if sampling != Sampling::default() {
                        continue;
                    }
                    let accepted: usize = rounds.iter().map(|round| round.accepted).sum();
                    println!("{case}: {accepted} accepted in {} rounds", rounds.len());
                    // The first level is what the first drafting head says, with the text as it turned out to be.
                    let text = [&PROMPT[..], &expected.ids].concat();
                    let said = plain_session.head_logits(&text).await.expect("logits");
                    let offset_2 = said.len() - if heads == "heads-medusa" { 3 } else { deepest };
                    let mut length = PROMPT.len() + 1;
                    for round in &rounds {
                        let wide = tree.split(',').next().and_then(|count| count.parse().ok()).expect("a count");
                        let level: Vec<u32> = round.drafted.iter().take(wide).copied().collect();
                        assert_eq!(
                            level,
                            likeliest(&said[offset_2][length - 2], wide),
                            "{case}, after {length} tokens"
                        );
                        length += round.accepted + 1;
                    }
                }
            }
        }
    });
}

#[test]
fn heads_catch_up_after_a_time_without_them() {
    each_adapter(|gpu| async move {
        for (backbone, heads) in [("llama-gqa", "heads-parallel"), ("llama-odd", "heads-deepseek")] {
            let engine = load_heads(&gpu, backbone, heads).await;
            let plain = options(40, Sampling::default());
            let drafted = |tree: &str| {
                let mut options = drafting(&plain, Drafter::Heads, tree);
                options.draft.trace = true;
                options
            };
            let rounds = async |session: &mut Session, prompt: &[u32]| {
                let mut generation = session.generate(prompt, &drafted("5,2"), &mut |_| {}).await.expect("a prompt");
                while generation.next().await.expect("a round").is_some() {}
                generation.rounds().to_vec()
            };
            let mut session = engine.session().expect("a session");
            let first = run(&mut session, &PROMPT, &plain).await;
            let text = [&PROMPT[..], &first.ids].concat();
            // Of that text the heads have seen nothing; a session that begins with it reads all of it.
            let fresh = rounds(&mut engine.session().expect("another"), &text).await;
            assert!(rounds(&mut session, &text).await == fresh, "{heads}: going on");
            // Going back: what they saw of the text that was given up does not count.
            let other = [&text[..20], &[3, 4, 5, 6]].concat();
            let fresh = rounds(&mut engine.session().expect("another"), &other).await;
            assert!(rounds(&mut session, &other).await == fresh, "{heads}: going back");
        }
    });
}

#[test]
fn a_text_ends_in_a_draft_as_without_it() {
    each_adapter(|gpu| async move {
        let small = EngineOptions { context: Some(40), ..EngineOptions::default() };
        let engine = Engine::load(&gpu, &DiskFiles(golden("llama-mha")), &small, &mut |_| {}).await.expect("it loads");
        let vocab = engine.config().vocab_size as u32;
        let (mut plain_session, mut session) = (engine.session().expect("one"), engine.session().expect("another"));
        // To the end of the context, and to each length shortly before it.
        let to_the_end = run(&mut plain_session, &PROMPT, &options(1000, samplings()[2])).await;
        for max_tokens in [1000, 33, 32, 31, 30, 2, 1, 0] {
            let plain = options(max_tokens, samplings()[2]);
            let expected = run(&mut plain_session, &PROMPT, &plain).await;
            let text = [&PROMPT[..], &to_the_end.ids].concat();
            for (what, drafter) in scripts(&text, vocab) {
                for tree in ["1,1,1,1,1,1", "3,2,1,1"] {
                    let drafted = run(&mut session, &PROMPT, &drafting(&plain, drafter.clone(), tree)).await;
                    assert_eq!(drafted.ids, expected.ids, "{what} {tree}, {max_tokens} tokens");
                    assert_eq!(drafted.stop, expected.stop, "{what} {tree}, {max_tokens} tokens");
                }
            }
        }
    });
}

#[test]
fn a_stop_string_or_an_end_token_inside_a_draft_ends_the_text() {
    each_adapter(|gpu| async move {
        let options_of = EngineOptions { context: Some(256), ..EngineOptions::default() };
        let engine =
            Engine::load(&gpu, &foretoken::default_model(), &options_of, &mut |_| {}).await.expect("the default model");
        let vocab = engine.config().vocab_size as u32;
        let prompt = engine.tokenizer().expect("one").encode("Once upon a time", true).expect("ids");
        let (mut plain_session, mut session) = (engine.session().expect("one"), engine.session().expect("another"));
        let story = run(&mut plain_session, &prompt, &options(250, Sampling::default())).await;
        assert_eq!(story.stop, Stop::Eos, "{}", story.text);
        let text = [&prompt[..], &story.ids].concat();
        // Stop strings that end in different places of a round.
        let words: Vec<&str> = story.text.split_inclusive(' ').collect();
        let stops: Vec<String> = (4..10).map(|at| words[at..at + 2].concat()).chain(["zzz".to_owned()]).collect();
        for stop in stops {
            let plain = GenerateOptions { stop: vec![stop.clone()], ..options(250, Sampling::default()) };
            let expected = run(&mut plain_session, &prompt, &plain).await;
            for (what, drafter) in scripts(&text, vocab) {
                let drafted = run(&mut session, &prompt, &drafting(&plain, drafter, "1,1,1,1,1")).await;
                assert_eq!((drafted.ids, drafted.text), (expected.ids.clone(), expected.text.clone()), "{what} {stop}");
                assert_eq!(drafted.stop, expected.stop, "{what} {stop}");
                // What comes next builds on the text as it ended, not on what was computed beyond it.
                assert_eq!(session.tokens().len(), prompt.len() + expected.ids.len());
            }
        }
    });
}

#[test]
fn drafts_that_cannot_be_are_refused() {
    each_adapter(|gpu| async move {
        let bare = load(&gpu, "llama-mha").await;
        let with = load_heads(&gpu, "llama-gqa", "heads-parallel").await;
        for (engine, drafter, tree, part) in [
            (&bare, Drafter::Heads, "1", "no multi-token heads"),
            (&with, Drafter::Heads, "1,1,1", "at most 2"),
            (&with, Drafter::Marginal, "1,1", "at most 1"),
        ] {
            let mut session = engine.session().expect("a session");
            let options = drafting(&options(5, Sampling::default()), drafter, tree);
            let error = session.generate(&PROMPT, &options, &mut |_| {}).await.err().expect("refused");
            assert!(error.to_string().contains(part), "{error}");
            // Nothing is lost: the model goes on without drafts.
            assert_eq!(run(&mut session, &PROMPT, &self::options(5, Sampling::default())).await.ids.len(), 5);
        }
    });
}
