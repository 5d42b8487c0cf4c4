//! Marginals against brute force: what the model says after every token in between, weighted and added in f64.

use crate::common::{DiskFiles, each_adapter, golden};
use foretoken::marginal::TextPosition;
use foretoken::model::Progress;
use foretoken::{
    Engine, EngineOptions, ErrorKind, GenerateOptions, Gpu, KernelSet, MarginalOptions, Marginals, Session,
};

/// What the issue allows a sum over a whole vocabulary to be off.
const TOLERANCE: f64 = 1e-5;

async fn load(gpu: &Gpu, name: &str, context: Option<usize>, kernels: Option<KernelSet>) -> Engine {
    let options = EngineOptions::default().context(context).kernels(kernels).self_test(false);
    Engine::load(gpu, &DiskFiles(golden(name)), &options, &mut |_| {}).await.expect("the model loads")
}

async fn default_engine(gpu: &Gpu) -> Engine {
    let options = EngineOptions::default().context(200).self_test(false);
    Engine::load(gpu, &foretoken::default_model(), &options, &mut |_| {}).await.expect("the default model loads")
}

fn softmax(logits: &[f32]) -> Vec<f64> {
    let highest = logits.iter().fold(f64::MIN, |highest, &logit| highest.max(logit.into()));
    let weights: Vec<f64> = logits.iter().map(|&logit| (f64::from(logit) - highest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

/// The model's own distribution after `ids`.
async fn next(session: &mut Session, ids: &[u32]) -> Vec<f64> {
    softmax(session.logits(ids).await.expect("logits").last().expect("a row"))
}

/// Eq. 6 over every token of the vocabulary, with nothing but `Session::logits`.
async fn two_ahead(session: &mut Session, ids: &[u32]) -> Vec<f64> {
    let weights = next(session, ids).await;
    let mut mixture = vec![0.0; weights.len()];
    for (y, weight) in weights.iter().enumerate() {
        let after = next(session, &[ids, &[y as u32]].concat()).await;
        mixture.iter_mut().zip(after).for_each(|(sum, p)| *sum += weight * p);
    }
    mixture
}

fn options(offset: usize, mass: f32, max_branches: Option<usize>) -> MarginalOptions {
    // Every token is listed.
    MarginalOptions::default().offset(offset).mass(mass).max_branches(max_branches).top(usize::MAX)
}

async fn marginals(session: &mut Session, ids: &[u32], options: &MarginalOptions) -> Marginals {
    session.marginals(ids, options, &mut |_| {}).await.expect("marginals")
}

/// Three places ahead: the marginals two ahead of every next token, which another test compares with brute force.
async fn three_ahead(session: &mut Session, ids: &[u32]) -> Vec<f64> {
    let weights = next(session, ids).await;
    let mut mixture = vec![0.0; weights.len()];
    for (y, weight) in weights.iter().enumerate() {
        let after = marginals(session, &[ids, &[y as u32]].concat(), &options(2, 1.0, None)).await;
        after.top.iter().for_each(|token| mixture[token.id as usize] += weight * token.p);
    }
    mixture
}

fn worst(found: &Marginals, want: &[f64]) -> f64 {
    assert_eq!(found.top.len(), want.len(), "every token is listed");
    found.top.iter().map(|token| (token.p - want[token.id as usize]).abs()).fold(0.0, f64::max)
}

/// The answer is a distribution in order, its bounds are not empty and hold what is true.
fn check_bounds(found: &Marginals, want: &[f64], what: &str) {
    assert_eq!(found.top.len(), want.len(), "{what}");
    assert!((found.top.iter().map(|token| token.p).sum::<f64>() - 1.0).abs() < 1e-5, "{what}");
    assert!(found.top.windows(2).all(|pair| (pair[1].p, pair[0].id) < (pair[0].p, pair[1].id)), "{what}: order");
    for token in &found.top {
        let truth = want[token.id as usize];
        assert!(token.low <= truth && truth <= token.high, "{what}: {truth} is not within {token:?}");
        assert!(token.low <= token.p && token.p <= token.high, "{what}: {token:?}");
        // Bounds are as far apart as what was left out, and not by much more.
        assert!(token.high - token.low <= 1.0 - found.mass_covered + 2e-4, "{what}: {token:?}");
    }
    let entropy: f64 = found.top.iter().map(|token| -token.p * token.p.max(1e-300).ln()).sum();
    assert!((entropy - found.entropy).abs() < 1e-4, "{what}: {entropy} and {}", found.entropy);
}

const PROMPT: [u32; 5] = [1, 5, 9, 13, 17];

#[test]
fn every_branch_of_a_small_vocabulary_is_the_exact_sum() {
    each_adapter(|gpu| async move {
        for kernels in KernelSet::available(gpu.summary()) {
            // Brute force takes its time: the other sets do with one model.
            let most = if kernels == KernelSet::Software { 4 } else { 1 };
            for name in &["llama-gqa", "llama-odd", "neox-parallel", "gemma2"][..most] {
                let engine = load(&gpu, name, None, Some(kernels)).await;
                let mut session = engine.session().expect("a session");
                let want = two_ahead(&mut session, &PROMPT).await;
                let found = marginals(&mut session, &PROMPT, &options(2, 1.0, None)).await;
                let error = worst(&found, &want);
                println!("{name}, {kernels}, {}: {error:.1e}", gpu.summary());
                assert!(error < TOLERANCE, "{name}, {kernels}, {}: {error:e}", gpu.summary());
                assert_eq!((found.branches, found.capped), (want.len(), false));
                assert!((found.mass_covered - 1.0).abs() < 1e-6, "{}", found.mass_covered);
                check_bounds(&found, &want, name);
                assert_eq!(found.cost.rows, want.len() as u64);
                assert_eq!(found.cost.chunks, want.len().div_ceil(32) as u64);
                let own = marginals(&mut session, &PROMPT, &options(1, 0.99, None)).await;
                assert!(worst(&own, &next(&mut session, &PROMPT).await) < 1e-6, "{name}: offset 1");
            }
        }
    });
}

#[test]
fn truncated_sums_lie_within_their_bounds() {
    each_adapter(|gpu| async move {
        for name in ["llama-gqa", "neox-tanh"] {
            let engine = load(&gpu, name, None, None).await;
            let mut session = engine.session().expect("a session");
            for seed in 0..4u32 {
                let ids: Vec<u32> = (0..3 + 4 * seed).map(|i| (i * i * 7 + seed * 31 + 3) % 90).collect();
                let want = two_ahead(&mut session, &ids).await;
                for mass in [0.01, 0.3, 0.5, 0.9, 0.99, 0.999] {
                    let found = marginals(&mut session, &ids, &options(2, mass, None)).await;
                    check_bounds(&found, &want, &format!("{name}, {ids:?}, mass {mass}"));
                    assert!(found.mass_covered > f64::from(mass) - 1e-6 && !found.capped, "{found:?}");
                    let capped = marginals(&mut session, &ids, &options(2, mass, Some(9))).await;
                    check_bounds(&capped, &want, &format!("{name}, {ids:?}, mass {mass}, 9 branches"));
                    assert_eq!((capped.branches, capped.capped), (found.branches.min(9), found.branches > 9));
                }
            }
        }
    });
}

#[test]
fn trees_of_nuclei_lie_within_their_bounds() {
    each_adapter(|gpu| async move {
        let engine = load(&gpu, "llama-gqa", None, None).await;
        let mut session = engine.session().expect("a session");
        let want = three_ahead(&mut session, &PROMPT).await;
        let all = want.len() * want.len();
        let whole = marginals(&mut session, &PROMPT, &options(3, 1.0, Some(all))).await;
        println!("{}: {:.1e}, {:?}", gpu.summary(), worst(&whole, &want), whole.cost);
        assert!(worst(&whole, &want) < TOLERANCE);
        assert_eq!((whole.branches, whole.capped), (all, false));
        check_bounds(&whole, &want, "the whole tree");
        for (mass, most) in [(0.2, None), (0.6, None), (0.9, Some(1)), (0.9, Some(77)), (1.0, None), (1.0, Some(200))] {
            let found = marginals(&mut session, &PROMPT, &options(3, mass, most)).await;
            check_bounds(&found, &want, &format!("mass {mass}, at most {most:?}"));
            let limit = most.unwrap_or(4096);
            assert!(found.branches <= limit && (!found.capped || found.branches == limit), "{found:?}");
        }
        // The heaviest paths there are, wherever they hang.
        let first = next(&mut session, &PROMPT).await;
        let mut weights = Vec::new();
        for (y, weight) in first.iter().enumerate() {
            let second = next(&mut session, &[&PROMPT[..], &[y as u32]].concat()).await;
            weights.extend(second.iter().map(|p| weight * p));
        }
        weights.sort_by(|a, b| b.total_cmp(a));
        let heaviest: f64 = weights[..200].iter().sum();
        let found = marginals(&mut session, &PROMPT, &options(3, 1.0, Some(200))).await;
        assert!((found.mass_covered - heaviest).abs() < 1e-5, "{} and {heaviest}", found.mass_covered);
    });
}

#[test]
fn a_context_that_is_nearly_full_changes_nothing() {
    each_adapter(|gpu| async move {
        let roomy = load(&gpu, "llama-gqa", None, None).await;
        for (offset, room) in [(2, 1), (2, 5), (3, 2), (3, 3)] {
            let tight = load(&gpu, "llama-gqa", Some(PROMPT.len() + room), None).await;
            let options = options(offset, 0.5, Some(60));
            let want = marginals(&mut roomy.session().expect("a session"), &PROMPT, &options).await;
            let found = marginals(&mut tight.session().expect("a session"), &PROMPT, &options).await;
            assert_eq!(found.branches, want.branches);
            for token in &found.top {
                let same = want.top.iter().find(|other| other.id == token.id).expect("listed");
                assert!((same.p - token.p).abs() < 1e-6, "offset {offset}, room {room}: {same:?}, {token:?}");
            }
        }
    });
}

/// What must be the same wherever a reader began.
fn numbers(position: &TextPosition) -> Vec<u64> {
    let of = |prediction: &foretoken::marginal::Prediction| {
        let tokens = prediction.top.iter().chain([&prediction.reference.token]);
        let tokens = tokens.flat_map(|token| [token.id.into(), token.p.to_bits(), token.high.to_bits()]);
        tokens.chain([prediction.reference.rank as u64, prediction.entropy.to_bits()]).collect::<Vec<_>>()
    };
    let marginal = position.marginal.as_ref().map(of).unwrap_or_default();
    [of(&position.next), marginal, vec![position.position as u64, position.branches as u64]].concat()
}

async fn read_text(session: &mut Session, ids: &[u32], options: &MarginalOptions, start: usize) -> Vec<TextPosition> {
    let mut reader = session.read_marginals(ids, options, start).await.expect("a reader");
    let mut found = Vec::new();
    while let Some(position) = reader.next().await.expect("a position") {
        found.push(position);
        let done = Progress::Positions { done: start + found.len(), total: ids.len() - 1 };
        assert_eq!(reader.progress(), done);
    }
    found
}

#[test]
fn a_text_is_read_position_by_position_from_anywhere() {
    each_adapter(|gpu| async move {
        for (name, offset, length) in
            [("llama-gqa", 2, 45), ("neox-parallel", 2, 20), ("llama-gqa", 3, 12), ("llama-mha", 1, 12)]
        {
            let engine = load(&gpu, name, None, None).await;
            let mut session = engine.session().expect("a session");
            let ids: Vec<u32> = (0..length as u32).map(|i| (i * i * 5 + 3 * i + 1) % 90).collect();
            let options = MarginalOptions::default().offset(offset).mass(0.6).max_branches(100).top(5);
            let whole = read_text(&mut session, &ids, &options, 0).await;
            assert_eq!(whole.len(), length - 1);
            for start in [1, 7, 8, 9, length - 3, length - 1] {
                let part = read_text(&mut session, &ids, &options, start).await;
                let same = part.iter().map(numbers).eq(whole[start.min(whole.len())..].iter().map(numbers));
                assert!(same, "{name}, offset {offset}: from {start} on");
            }
            let scores = session.score(&ids, &mut |_| {}).await.expect("scores");
            for (position, (found, score)) in whole.iter().zip(&scores).enumerate() {
                assert_eq!((found.position, found.next.top.len()), (position, 5));
                let p = found.next.reference.token.p;
                assert!((p - f64::from(*score).exp()).abs() < 1e-5, "{name}, {position}: {p}");
                assert_eq!(found.marginal.is_some(), position + offset < length);
            }
            // The same as asking for one position at a time.
            for position in [0, 5, length - 1 - offset] {
                let every = options.clone().top(usize::MAX);
                let asked = marginals(&mut session, &ids[..=position], &every).await;
                let read = whole[position].marginal.as_ref().expect("a marginal");
                assert_eq!(read.top.len(), 5);
                assert!(offset == 1 || asked.branches == whole[position].branches);
                let target = ids[position + offset];
                let rank = 1 + asked.top.iter().position(|token| token.id == target).expect("listed");
                assert_eq!((read.reference.token.id, read.reference.rank), (target, rank));
                for token in read.top.iter().chain([&read.reference.token]) {
                    let same = asked.top.iter().find(|other| other.id == token.id).expect("listed");
                    let (p, low, high) = (same.p - token.p, same.low - token.low, same.high - token.high);
                    assert!([p, low, high].iter().all(|difference| difference.abs() < 1e-6), "{token:?}, {same:?}");
                }
            }
        }
    });
}

#[test]
fn the_session_goes_on_as_if_nothing_had_been_asked() {
    each_adapter(|gpu| async move {
        let engine = default_engine(&gpu).await;
        let prompt = engine.tokenizer().expect("a tokenizer").encode("Once upon a time", true).expect("ids");
        let options = GenerateOptions::default().max_tokens(12);
        let text = async |session: &mut Session| {
            let mut generation = session.generate(&prompt, &options, &mut |_| {}).await.expect("a prompt");
            while generation.next().await.expect("a step").is_some() {}
            generation.ids().to_vec()
        };
        let want = text(&mut engine.session().expect("a session")).await;
        let mut session = engine.session().expect("a session");
        let asked = MarginalOptions::default().mass(0.9);
        let fresh = marginals(&mut session, &prompt, &asked).await;
        assert_eq!(text(&mut session).await, want);
        // Now with a text whose beginning is in the cache.
        let again = marginals(&mut session, &prompt, &asked).await;
        assert_eq!(again, fresh);
        let longer = [&prompt[..], &want[..3]].concat();
        let cached = marginals(&mut session, &longer, &asked).await;
        assert_eq!(marginals(&mut engine.session().expect("a session"), &longer, &asked).await, cached);
        println!("{}: {} branches, {:?}", gpu.summary(), fresh.branches, fresh.cost);
    });
}

#[test]
fn what_makes_no_sense_is_refused() {
    each_adapter(|gpu| async move {
        let engine = load(&gpu, "llama-gqa", Some(8), None).await;
        let mut session = engine.session().expect("a session");
        let good = MarginalOptions::default();
        let cases: [(&[u32], MarginalOptions, &str); 12] = [
            (&PROMPT, good.clone().offset(0), "offset 0"),
            (&PROMPT, good.clone().offset(4), "offset 4"),
            (&PROMPT, good.clone().mass(0.0), "mass 0"),
            (&PROMPT, good.clone().mass(1.01), "mass 1.01"),
            (&PROMPT, good.clone().mass(f32::NAN), "mass NaN"),
            (&PROMPT, good.clone().max_branches(0), "max-branches 0"),
            (&PROMPT, good.clone().top(0), "top 0"),
            (&[], good.clone(), "empty"),
            (&[5, 96], good.clone(), "96"),
            (&[1; 9], good.clone(), "context"),
            (&[1; 8], good.clone(), "context of 9"),
            (&[1; 7], good.clone().offset(3), "context of 9"),
        ];
        for (ids, options, message) in cases {
            let error = session.marginals(ids, &options, &mut |_| {}).await.expect_err(message);
            assert_eq!(error.kind(), ErrorKind::Input, "{message}");
            assert!(error.to_string().contains(message), "{message}: {error}");
        }
        assert!(session.read_marginals(&[1], &good, 0).await.is_err());
        // The smallest mass keeps the likeliest token.
        let tiny = good.clone().mass(1e-40);
        assert_eq!(marginals(&mut session, &PROMPT, &tiny).await.branches, 1);
        assert_eq!(marginals(&mut session, &[1; 7], &good).await.top.len(), 10);
    });
}
