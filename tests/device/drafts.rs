//! Drafts never change the text: every drafter, chain and tree, right, wrong and random, at every temperature.

use std::borrow::Cow;
use std::sync::Arc;

use crate::common::{DiskFiles, each_adapter, each_own_device, golden, golden_in_memory};
use foretoken::decode::{RecordedDrafts, Stats, Stop};
use foretoken::format::checkpoint::Checkpoint;
use foretoken::format::files::{Files, MemoryFiles};
use foretoken::format::mtp::{InitOptions, init_heads};
use foretoken::{
    DraftOptions, DraftTree, Drafter, Engine, EngineOptions, GenerateOptions, Gpu, MarginalOptions, Sampling, Session,
};

/// Base models of tests/golden: all but those that differ from these in nothing that drafts meet.
const FIXTURES: [&str; 25] = [
    "gemma2",
    "granite",
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
    "mistral-long",
    "neox-f16",
    "neox-fast",
    "neox-parallel",
    "neox-sequential",
    "neox-tanh",
    "phi3",
    "qwen2-window",
    "qwen3",
    "qwen3-bias",
    "qwen3_5",
    "smollm3-window",
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
    GenerateOptions::default().max_tokens(max_tokens).sampling(sampling).draft(DraftOptions::off())
}

/// A model of 1024 tokens that ends no text by itself.
async fn load_endless(gpu: &Gpu, name: &str) -> Engine {
    let mut files = golden_in_memory(name);
    let config = files.files.get_mut("config.json").expect("a config").to_mut();
    let mut json: serde_json::Value = serde_json::from_slice(config).expect("json");
    json["max_position_embeddings"] = 1024.into();
    *config = json.to_string().into();
    files.files.insert("generation_config.json".into(), br#"{"eos_token_id": []}"#.into());
    Engine::load(gpu, &files, &EngineOptions::default(), &mut |_| {}).await.expect("the model loads")
}

fn drafting(plain: &GenerateOptions, drafter: Drafter, tree: &str) -> GenerateOptions {
    let tree = Some(tree.parse::<DraftTree>().expect("a tree"));
    plain.clone().draft(DraftOptions::default().drafter(drafter).tree(tree))
}

fn samplings() -> [Sampling; 3] {
    let warm = Sampling::default().temperature(0.9).top_k(60).top_p(0.95).min_p(0.01).repetition_penalty(1.1).seed(7);
    [Sampling::default(), Sampling::default().repetition_penalty(1.3), warm]
}

/// Recorded drafts after a known text: all right, all wrong, right at every other place, and right as the third candidate.
fn recorded(text: &[u32], vocab: u32) -> [(&'static str, Drafter); 4] {
    let recorded = |candidates: &dyn Fn(usize, u32) -> [u32; 4]| {
        Drafter::Recorded(Arc::new(RecordedDrafts(
            text.iter().enumerate().map(|(at, &id)| candidates(at, id)).collect(),
        )))
    };
    let other = |id: u32, by: u32| (id + by) % vocab;
    [
        ("right", recorded(&|_, id| [id; 4])),
        ("wrong", recorded(&|_, id| [1, 2, 3, 4].map(|by| other(id, by)))),
        ("half", recorded(&|at, id| [other(id, at as u32 * 7 % 3 % 2), other(id, 2), other(id, at as u32 % 2), id])),
        ("third", recorded(&|_, id| [other(id, 1), u32::MAX, id, other(id, 3)])),
    ]
}

/// Fixtures, one of each family, on which every drafter drafts every tree at every sampling.
const IN_FULL: [&str; 2] = ["llama-gqa", "neox-parallel"];

/// The length of a fixture's texts: those that are not done in full, and see no long window, just pass 32 positions.
fn new_tokens(name: &str) -> usize {
    if IN_FULL.contains(&name) || name == "mistral-long" { 48 } else { 32 }
}

/// Every fixture at every sampling. Each of the others meets every drafter with a chain and with a tree, but each of those pairs
/// at one of the three samplings only, another one from fixture to fixture.
#[test]
fn drafts_never_change_the_text() {
    each_adapter(|gpu| async move {
        for (number, name) in FIXTURES.into_iter().enumerate() {
            let engine = load(&gpu, name).await;
            let vocab = engine.config().vocab_size as u32;
            let (mut plain_session, mut session) = (engine.session().expect("one"), engine.session().expect("another"));
            for (row, sampling) in samplings().into_iter().enumerate() {
                let plain = options(new_tokens(name), sampling);
                let expected = run(&mut plain_session, &PROMPT, &plain).await;
                let text = [&PROMPT[..], &expected.ids].concat();
                let mut pair = number + row;
                let mut drafters = recorded(&text, vocab).to_vec();
                drafters.push(("lookup", Drafter::Lookup));
                // It goes over rows that are never committed.
                if !engine.config().spec.is_recurrent() {
                    drafters.push(("marginal", Drafter::Marginal));
                }
                for (what, drafter) in drafters {
                    for tree in if what == "marginal" { ["1", "3"] } else { ["1,1,1,1", "3,2,1"] } {
                        pair += 1;
                        if pair % 3 != 0 && !IN_FULL.contains(&name) {
                            continue;
                        }
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
const HEADS: [(&str, &str); 13] = [
    ("llama-gqa", "heads-parallel"),
    ("llama-sharded", "heads-whs"),
    ("llama-gqa", "heads-lora"),
    ("neox-parallel", "heads-neox"),
    ("neox-f16", "heads-neox-lora"),
    ("neox-parallel", "heads-sequential"),
    ("qwen3", "heads-qwen3-sequential"),
    ("mistral-window", "heads-window"),
    ("llama-odd", "heads-deepseek"),
    ("llama-bias", "heads-mimo"),
    ("llama-gqa", "heads-qwen"),
    ("qwen3_5", "heads-qwen3_5"),
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

/// Greedily with every tree; at each of the other samplings with every other one.
#[test]
fn heads_draft_what_they_say_and_never_change_the_text() {
    each_adapter(|gpu| async move {
        for (backbone, heads) in HEADS {
            let engine = load_heads(&gpu, backbone, heads).await;
            let deepest = if ["heads-whs", "heads-lora", "heads-neox-lora"].contains(&heads) { 1 } else { 2 };
            let (mut plain_session, mut session) = (engine.session().expect("one"), engine.session().expect("another"));
            for (row, sampling) in samplings().into_iter().enumerate() {
                let plain = options(48, sampling);
                let expected = run(&mut plain_session, &PROMPT, &plain).await;
                let trees = ["1", "7", "1,1", "7,3"].into_iter().enumerate();
                let trees = trees.filter(|(at, _)| row == 0 || at % 2 == row % 2).map(|(_, tree)| tree);
                for tree in trees.filter(|tree| tree.contains(',') <= (deepest > 1)) {
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
        let small = EngineOptions::default().context(40);
        let engine = Engine::load(&gpu, &DiskFiles(golden("llama-mha")), &small, &mut |_| {}).await.expect("it loads");
        let vocab = engine.config().vocab_size as u32;
        let (mut plain_session, mut session) = (engine.session().expect("one"), engine.session().expect("another"));
        // To the end of the context, and to each length shortly before it.
        let to_the_end = run(&mut plain_session, &PROMPT, &options(1000, samplings()[2])).await;
        for max_tokens in [1000, 33, 32, 31, 30, 2, 1, 0] {
            let plain = options(max_tokens, samplings()[2]);
            let expected = run(&mut plain_session, &PROMPT, &plain).await;
            let text = [&PROMPT[..], &to_the_end.ids].concat();
            for (what, drafter) in recorded(&text, vocab) {
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
        let options_of = EngineOptions::default().context(256);
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
            let plain = options(250, Sampling::default()).stop(vec![stop.clone()]);
            let expected = run(&mut plain_session, &prompt, &plain).await;
            for (what, drafter) in recorded(&text, vocab) {
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

#[test]
fn what_heads_cannot_draft_lookup_drafts_and_no_drafts_have_a_reason() {
    each_adapter(|gpu| async move {
        let engine = load_heads(&gpu, "llama-gqa", "heads-parallel").await;
        let mut session = engine.session().expect("a session");
        let plain = options(12, Sampling::default());
        for (tree, drafter) in [("1,1", "heads"), ("1,1,1", "lookup")] {
            let found = run(&mut session, &PROMPT, &drafting(&plain, Drafter::Auto, tree)).await;
            assert_eq!(found.stats.drafts.drafter, drafter, "{tree}");
        }
        let draft = DraftOptions::default().drafter(Drafter::Heads).tree(DraftTree::chain(0).ok());
        let drafts = run(&mut session, &PROMPT, &plain.draft(draft)).await.stats.drafts;
        assert_eq!((drafts.drafter, drafts.drafted), ("heads", 0));
        assert!(drafts.off_reason.is_some_and(|reason| reason.contains("0 tokens")));
    });
}

/// The value that chi-square with `bins - 1` degrees of freedom exceeds once in 10,000 times (Wilson and Hilferty).
fn chi_square_limit(bins: usize) -> f64 {
    let freedom = (bins - 1) as f64;
    let spread = 2.0 / (9.0 * freedom);
    freedom * (1.0 - spread + 3.719 * spread.sqrt()).powi(3)
}

#[test]
fn the_distribution_with_drafts_is_the_targets() {
    const SEEDS: u64 = 800;
    each_adapter(|gpu| async move {
        let engine = load_endless(&gpu, "llama-mha").await;
        let vocab = engine.config().vocab_size;
        let mut session = engine.session().expect("a session");
        let every = MarginalOptions::default().mass(1.0).top(vocab);
        let distribution = session.marginals(&PROMPT, &every, &mut |_| {}).await.expect("marginals").top;
        assert_eq!(distribution.len(), vocab);
        let mut counts = vec![0u64; vocab];
        let (mut drafted, mut accepted) = (0, 0);
        // What the last four seeds said is drafted for the next one.
        let mut recorded = vec![[u32::MAX; 4]; PROMPT.len() + 4];
        for seed in 0..SEEDS {
            let plain = options(4, Sampling::default().temperature(1.0).seed(seed));
            let drafter = Drafter::Recorded(Arc::new(RecordedDrafts(recorded.clone())));
            let found = run(&mut session, &PROMPT, &drafting(&plain, drafter, "4,2")).await;
            assert_eq!(found.ids.len(), 4);
            counts[found.ids[1] as usize] += 1;
            drafted += found.stats.drafts.drafted;
            accepted += found.stats.drafts.accepted;
            for (place, &id) in recorded[PROMPT.len()..].iter_mut().zip(&found.ids) {
                if !place.contains(&id) {
                    place[seed as usize % 4] = id;
                }
            }
        }
        // Tokens in the order of their probability, as many together as are expected five times.
        let (mut chi_square, mut bins) = (0.0, 0);
        let (mut expected, mut seen) = (0.0, 0.0);
        for (at, token) in distribution.iter().enumerate() {
            expected += token.p * SEEDS as f64;
            seen += counts[token.id as usize] as f64;
            let rest: f64 = distribution[at + 1..].iter().map(|token| token.p * SEEDS as f64).sum();
            if at + 1 == vocab || (expected >= 5.0 && rest >= 5.0) {
                chi_square += (seen - expected).powi(2) / expected;
                bins += 1;
                (expected, seen) = (0.0, 0.0);
            }
        }
        let limit = chi_square_limit(bins);
        let case = format!("{}: chi-square {chi_square:.1} of {bins} bins, at most {limit:.1}", gpu.summary());
        println!("{case}; {accepted} of {drafted} drafts accepted");
        assert!(bins > 10 && accepted > 20, "the test says nothing: {case}, {accepted} accepted");
        assert!(chi_square < limit, "{case}");
    });
}

/// What holds of the statistics of every generation.
fn check_stats(stats: &Stats, case: &str) {
    let drafts = &stats.drafts;
    assert_eq!(drafts.rounds + drafts.accepted, stats.new_tokens as u64 - 1, "{case}");
    assert_eq!(drafts.accepted_histogram.iter().sum::<u64>(), drafts.rounds, "{case}");
    let accepted = drafts.accepted_histogram.iter().enumerate().map(|(count, rounds)| count as u64 * rounds);
    assert_eq!(accepted.sum::<u64>(), drafts.accepted, "{case}");
    assert!(drafts.accepted <= drafts.drafted, "{case}");
    assert!(drafts.acceptance.iter().all(|share| (0.0..=1.0).contains(share)), "{case}: {drafts:?}");
    let per_round = 1.0 + drafts.accepted as f64 / drafts.rounds as f64;
    assert!(
        (drafts.tokens_per_round - per_round).abs() < 1e-9 && drafts.rounds_per_submit >= 1.0,
        "{case}: {drafts:?}"
    );
    if let Some(reason) = &drafts.off_reason {
        assert!(reason.contains("do not pay") && drafts.drafted <= drafts.rounds * 31, "{case}: {reason}");
    }
}

#[test]
fn drafts_as_deep_as_pays_never_change_the_text() {
    each_adapter(|gpu| async move {
        let small = EngineOptions::default().context(256);
        let engine = Engine::load(&gpu, &foretoken::default_model(), &small, &mut |_| {}).await.expect("it loads");
        let story = engine.tokenizer().expect("one").encode("Once upon a time", true).expect("ids");
        let heads = load_heads(&gpu, "llama-gqa", "heads-parallel").await;
        let without = load_endless(&gpu, "llama-mha").await;
        let cases = [
            ("the default model", &engine, &story[..], "heads"),
            ("parallel heads", &heads, &PROMPT[..], "heads"),
            ("no heads", &without, &PROMPT[..], "lookup"),
        ];
        for (what, engine, prompt, drafter) in cases {
            let (mut plain_session, mut session) = (engine.session().expect("one"), engine.session().expect("another"));
            for sampling in samplings() {
                let plain = options(200, sampling);
                let expected = run(&mut plain_session, prompt, &plain).await;
                let found = run(&mut session, prompt, &plain.draft(DraftOptions::default())).await;
                let case = format!("{what}, {sampling:?}, {}", gpu.summary());
                assert_eq!((found.ids, found.text, found.stop), (expected.ids, expected.text, expected.stop), "{case}");
                check_stats(&found.stats, &case);
                check_stats(&expected.stats, &case);
                let drafts = found.stats.drafts;
                assert_eq!(drafts.drafter, drafter, "{case}");
                println!(
                    "{case}: {} of {} accepted, {:.2} tokens a round, {:?}",
                    drafts.accepted, drafts.drafted, drafts.tokens_per_round, drafts.off_reason
                );
            }
        }
    });
}

#[test]
fn drafts_that_are_never_right_are_switched_off() {
    each_adapter(|gpu| async move {
        // Long enough that drafts are tried out whatever the device does in a submit.
        let engine = load_endless(&gpu, "llama-mha").await;
        let vocab = engine.config().vocab_size as u32;
        let (mut plain_session, mut session) = (engine.session().expect("one"), engine.session().expect("another"));
        let plain = options(900, Sampling::default());
        let expected = run(&mut plain_session, &PROMPT, &plain).await;
        assert_eq!(expected.ids.len(), 900);
        let text = [&PROMPT[..], &expected.ids].concat();
        for (what, drafter) in recorded(&text, vocab) {
            let draft = DraftOptions::default().drafter(drafter);
            let found = run(&mut session, &PROMPT, &plain.clone().draft(draft)).await;
            let case = format!("{what}, {}", gpu.summary());
            assert_eq!(found.ids, expected.ids, "{case}");
            check_stats(&found.stats, &case);
            let drafts = found.stats.drafts;
            println!("{case}: {:.2} tokens a round, {:?}", drafts.tokens_per_round, drafts.off_reason);
            match what {
                "wrong" => {
                    assert!(drafts.drafted > 0 && drafts.accepted == 0, "{case}: {drafts:?}");
                    assert!(drafts.off_reason.is_some(), "{case}: {drafts:?}");
                }
                // How often they are tried is the device's affair. Only what the last round drafts beyond the text is lost.
                "right" => {
                    let lost = drafts.drafted - drafts.accepted;
                    assert!(drafts.accepted > 0 && lost <= drafts.acceptance.len() as u64, "{case}: {drafts:?}");
                }
                _ => {}
            }
        }
    });
}

#[test]
fn nothing_is_created_in_a_round() {
    each_own_device(|gpu| async move {
        let engine = load_heads(&gpu, "llama-gqa", "heads-parallel").await;
        let loaded = gpu.counts().pipelines;
        let mut session = engine.session().expect("a session");
        let plain = options(60, Sampling::default());
        let text = [&PROMPT[..], &run(&mut session, &PROMPT, &plain).await.ids].concat();
        let [_, _, (_, half), _] = recorded(&text, engine.config().vocab_size as u32);
        let plan = [(Drafter::Lookup, "3,2"), (half.clone(), "1,1,1"), (half, "2,2,1"), (Drafter::Heads, "5,2")];
        for (drafter, tree) in plan.into_iter().chain([(Drafter::Heads, "1,1"), (Drafter::Marginal, "1")]) {
            let options = drafting(&plain, drafter, tree);
            let mut generation = session.generate(&PROMPT, &options, &mut |_| {}).await.expect("a prompt");
            let created = || {
                let counts = gpu.counts();
                (counts.pipelines, counts.bind_groups, counts.buffers)
            };
            let before = created();
            while generation.next().await.expect("a round").is_some() {}
            let (after, stats) = (created(), generation.stats());
            let Stats { ref drafts, submits, passes, dispatches, readbacks, .. } = stats;
            let case = format!("{}: {} {tree}", gpu.summary(), drafts.drafter);
            assert_eq!(after, before, "{case}");
            // The marginal brings its own kernels when it is first asked for.
            assert!(after.0 == loaded || drafts.drafter == "marginal", "{case}: a pipeline was compiled after loading");
            assert_eq!(passes, submits, "{case}: one pass a submit");
            // The prompt's submit and, with heads, what they take to go over the prompt.
            assert!(readbacks <= submits && submits <= drafts.rounds + 4, "{case}: {stats:?}");
            let rounds = drafts.rounds as f64;
            println!(
                "{case}: {:.1} dispatches and {:.2} submits a round",
                dispatches as f64 / rounds,
                submits as f64 / rounds
            );
        }
    });
}

#[test]
fn a_step_and_a_round_have_the_dispatches_that_layers_need() {
    each_own_device(|gpu| async move {
        let engine = load(&gpu, "llama-gqa").await;
        let mut session = engine.session().expect("a session");
        let layers = engine.config().num_hidden_layers as u64;
        let plain = options(60, Sampling::default());
        let text = [&PROMPT[..], &run(&mut session, &PROMPT, &plain).await.ids].concat();
        let [(_, drafts), ..] = recorded(&text, engine.config().vocab_size as u32);
        // A layer takes ten; then rows are set up, the embedding, the last norm, the LM head, the sample, and the round's end. Drafts
        // add one that looks them up, and a tree that is no chain moves each layer's cache.
        let step = 10 * layers + 6;
        let of_trees =
            [(None, step), (Some("1"), step + 1), (Some("1,1,1"), step + 1), (Some("2,2,1"), step + 1 + layers)];
        for (tree, wanted) in of_trees {
            let mut counted = Vec::new();
            for tokens in [12, 60] {
                let plain = options(tokens, Sampling::default());
                let options = tree.map_or(plain.clone(), |tree| drafting(&plain, drafts.clone(), tree));
                let mut generation = session.generate(&PROMPT, &options, &mut |_| {}).await.expect("a prompt");
                while generation.next().await.expect("a round").is_some() {}
                let stats = generation.stats();
                counted.push((stats.dispatches, stats.drafts.rounds_sent));
            }
            let [(few, short), (many, long)] = counted[..] else { unreachable!("two texts") };
            let (found, rounds) = (many - few, long - short);
            // Near its end a text has room for fewer drafts, so some of its rounds are plain steps.
            let right = if tree.is_none() { found == wanted * rounds } else { found <= wanted * rounds };
            assert!(right, "{}: {tree:?}: {found} dispatches in {rounds} rounds, {counted:?}", gpu.summary());
        }
    });
}

/// Untrained heads for `base`, in memory.
async fn new_heads(base: &impl Files) -> MemoryFiles {
    let checkpoint = Checkpoint::open(base).await.expect("a checkpoint");
    let options = InitOptions::default().heads(3).seed(1).backbone_first(true);
    let files = init_heads(&checkpoint, &options).await.expect("heads");
    let files = files.into_iter().map(|(name, bytes)| (name, Cow::Owned(bytes))).collect();
    MemoryFiles { name: "new heads".to_owned(), files }
}

/// Every drafter with a chain and with a tree, one of them greedily and the other one drawn.
#[test]
fn the_default_model_writes_one_text_to_the_end_of_its_context() {
    each_adapter(|gpu| async move {
        let base = foretoken::default_model();
        let small = EngineOptions::default().context(80);
        let heads = new_heads(&base).await;
        let engine = Engine::load_with_heads(&gpu, &base, &heads, &small, &mut |_| {}).await.expect("it loads");
        let vocab = engine.config().vocab_size as u32;
        let prompt = engine.tokenizer().expect("one").encode("Once upon a time", true).expect("ids");
        let (mut plain_session, mut session) = (engine.session().expect("one"), engine.session().expect("another"));
        for (row, sampling) in [Sampling::default(), samplings()[2]].into_iter().enumerate() {
            let plain = options(1000, sampling);
            let expected = run(&mut plain_session, &prompt, &plain).await;
            assert_eq!((expected.stop, prompt.len() + expected.ids.len()), (Stop::Length, 80), "{}", expected.text);
            let text = [&prompt[..], &expected.ids].concat();
            let half = recorded(&text, vocab)[2].clone();
            let drafters = [
                ("lookup", Drafter::Lookup, ["1,1,1", "3,2,1"]),
                ("heads", Drafter::Heads, ["1,1", "4,2"]),
                ("marginal", Drafter::Marginal, ["1", "4"]),
                (half.0, half.1, ["1,1,1,1,1,1,1", "2,2,2,1"]),
            ];
            for (number, (what, drafter, trees)) in drafters.into_iter().enumerate() {
                let tree = trees[(number + row) % 2];
                let drafted = run(&mut session, &prompt, &drafting(&plain, drafter, tree)).await;
                let case = format!("{what} {tree}, {sampling:?}, {}", gpu.summary());
                assert_eq!(drafted.ids, expected.ids, "{case}");
                assert_eq!((drafted.text, drafted.stop), (expected.text.clone(), expected.stop), "{case}");
            }
        }
    });
}
