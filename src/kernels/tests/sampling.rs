//! sample: the same token as the reference, and the distribution of the filtered softmax.

use serde::Deserialize;

use super::adapters::{on_every_adapter, on_every_set, pass};
use crate::gpu::Gpu;
use crate::kernels::{Extent, Grid, KernelSet, NO_ID, Op};
use crate::reference::random::{gumbel_of, pcg4d};
use crate::reference::sample::{self as reference, Settings};
use crate::self_test::bench::{read, run};
use crate::self_test::sampling::{Draw, NOISE_MARGIN, PLAIN, some_logits};

/// A case of tests/golden/sampling.json: which tokens stay, and their probabilities.
#[derive(Deserialize)]
struct Golden {
    name: String,
    kind: String,
    logits: Vec<f32>,
    seen: Vec<usize>,
    repetition_penalty: f32,
    temperature: f32,
    top_k: u32,
    top_p: f32,
    min_p: f32,
    kept: Vec<usize>,
    probs: Vec<f64>,
}

fn golden_cases() -> Vec<Golden> {
    #[derive(Deserialize)]
    struct File {
        cases: Vec<Golden>,
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/sampling.json");
    let text = std::fs::read_to_string(path).expect("tests/golden/sampling.json");
    serde_json::from_str::<File>(&text).expect("the documented form").cases
}

impl Golden {
    fn draw(&self) -> Draw {
        let &Self { repetition_penalty, temperature, top_k, top_p, min_p, .. } = self;
        let settings = Settings { repetition_penalty, temperature, top_k, top_p, min_p };
        let mut draw = Draw::new(settings, self.logits.clone());
        self.seen.iter().for_each(|&id| draw.counts[id] += 1);
        draw
    }
}

#[test]
fn the_reference_keeps_what_the_golden_cases_keep() {
    for case in golden_cases() {
        let draw = case.draw();
        let mut distribution = reference::distribution(&draw.scores(), draw.settings);
        distribution.sort_by_key(|(id, _)| *id);
        assert_eq!(distribution.iter().map(|(id, _)| *id).collect::<Vec<_>>(), case.kept, "{}", case.name);
        for ((_, p), want) in distribution.iter().zip(&case.probs) {
            assert!((p - want).abs() < 1e-6, "{}: {p} and {want}", case.name);
        }
    }
}

/// Runs `test` for every form of the kernel; the set with subgroups has the form of the one without.
fn on_every_form(test: impl Fn(&'static Gpu, KernelSet)) {
    on_every_set(|gpu, set| {
        if set != KernelSet::Subgroup {
            test(gpu, set);
        }
    });
}

/// Rows to sample at once. Barriers of many lanes take a software adapter some 50 ms a row.
fn some_rows(gpu: &Gpu, set: KernelSet) -> u32 {
    match (gpu.summary().software, set) {
        (false, _) => 64,
        (true, KernelSet::Software) => 12,
        (true, _) => 4,
    }
}

#[test]
fn golden_cases_give_the_tokens_of_the_reference() {
    on_every_form(|gpu, set| {
        for case in golden_cases() {
            let positions: Vec<u32> = (1..=some_rows(gpu, set)).collect();
            pass(gpu, case.draw().check(gpu, set, &positions));
        }
    });
}

#[test]
fn logits_that_are_not_finite_give_no_id() {
    let hot = Settings { temperature: 0.8, ..PLAIN };
    let filtered = Settings { top_k: 20, top_p: 0.9, min_p: 0.05, ..hot };
    on_every_form(|gpu, set| {
        for settings in [PLAIN, hot, filtered] {
            let sampled = |logits: Vec<f32>| {
                pollster::block_on(Draw::new(settings, logits).sampled(gpu, set, &[1, 2])).expect("the device works")
            };
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let what = format!("{} {set}, {settings}: {bad}", gpu.summary());
                assert_eq!(sampled(vec![bad; 300]), [NO_ID; 2], "{what}, all");
                let mut logits = some_logits(3, 300);
                logits[217] = bad;
                assert_eq!(sampled(logits), [NO_ID; 2], "{what}, one");
            }
            assert!(sampled(vec![-1e30; 300]).iter().all(|id| *id < 300), "{set}: large, but finite");
        }
    });
}

const SEEDS: [[u32; 2]; 4] = [[0, 0], [1, 0], [0xdead_beef, 7], [42, u32::MAX]];

/// Tallies `positions` draws for each seed and holds them against the case's probabilities.
fn check_distribution(case: &Golden, positions: u32, sampled: impl Fn(&Draw, &[u32]) -> Vec<u32>) {
    let mut tally = vec![0; case.logits.len()];
    for seed in SEEDS {
        let draw = Draw { seed, ..case.draw() };
        let ids = sampled(&draw, &(1..=positions).collect::<Vec<_>>());
        ids.into_iter().for_each(|id| tally[id as usize] += 1);
    }
    let outside: Vec<_> = (0..tally.len()).filter(|id| tally[*id] > 0 && !case.kept.contains(id)).collect();
    assert!(outside.is_empty(), "{}: {outside:?} are not kept, but sampled", case.name);
    let observed: Vec<u32> = case.kept.iter().map(|&id| tally[id]).collect();
    let z = chi_square_z(&observed, &case.probs);
    println!("{:25} z = {z:.2}", case.name);
    assert!(z < SIGNIFICANT_Z, "{}: z = {z}, {observed:?}", case.name);
}

#[test]
fn the_distribution_of_the_reference_is_the_filtered_softmax() {
    for case in golden_cases() {
        check_distribution(&case, 5000, |draw, positions| {
            let scores = draw.scores();
            let sample = |&position| reference::sample(&scores, draw.settings, draw.seed, position).0 as u32;
            positions.iter().map(sample).collect()
        });
    }
}

#[test]
fn the_distribution_of_the_kernel_is_the_filtered_softmax() {
    on_every_form(|gpu, set| {
        if gpu.summary().software && set != KernelSet::Software {
            println!("left out: a minute a case");
            return;
        }
        for case in golden_cases().iter().filter(|case| case.kind == "transformers") {
            check_distribution(case, 200, |draw, positions| {
                pollster::block_on(draw.sampled(gpu, set, positions)).expect("the device works")
            });
        }
    });
}

/// One in 10,000 right samplers lies beyond, per case; the seeds are fixed, so a pass stays a pass.
const SIGNIFICANT_Z: f64 = 3.719;

/// The chi-square statistic of counts against probabilities as a standard normal deviate (Wilson and Hilferty 1931).
/// Tokens expected less than five times are pooled.
fn chi_square_z(observed: &[u32], probs: &[f64]) -> f64 {
    let n: f64 = observed.iter().map(|&count| f64::from(count)).sum();
    let (mut statistic, mut cells, mut rest) = (0.0, 0, (0.0, 0.0));
    let mut cell = |observed: f64, expected: f64| {
        statistic += (observed - expected).powi(2) / expected;
        cells += 1;
    };
    for (&count, p) in observed.iter().zip(probs) {
        if n * p >= 5.0 {
            cell(count.into(), n * p);
        } else {
            rest = (rest.0 + f64::from(count), rest.1 + n * p);
        }
    }
    if rest.1 > 0.0 {
        cell(rest.0, rest.1);
    }
    if cells < 2 {
        return 0.0;
    }
    let freedom = f64::from(cells - 1);
    let spread = 2.0 / (9.0 * freedom);
    ((statistic / freedom).cbrt() - (1.0 - spread)) / spread.sqrt()
}

#[test]
fn the_chi_square_test_sees_a_wrong_distribution() {
    let probs = [0.5, 0.3, 0.2];
    assert!(chi_square_z(&[1600, 960, 640], &probs) < 0.0);
    assert!(chi_square_z(&[1600, 1060, 540], &probs) > SIGNIFICANT_Z);
}

#[test]
fn tokens_are_those_of_the_reference() {
    on_every_form(|gpu, set| {
        let positions: Vec<u32> = (1..some_rows(gpu, set)).chain([u32::MAX / 2]).collect();
        for vocab in [1, 2, 63, 65, 257, 1000, 5003] {
            for settings in [
                PLAIN,
                Settings { temperature: 0.0, ..PLAIN },
                Settings { temperature: 0.5, repetition_penalty: 1.3, ..PLAIN },
                Settings { top_k: 20, ..PLAIN },
                Settings { top_p: 0.7, ..PLAIN },
                Settings { min_p: 0.05, ..PLAIN },
                Settings { repetition_penalty: 1.1, temperature: 1.5, top_k: 100, top_p: 0.95, min_p: 0.01 },
            ] {
                let mut draw = Draw::new(settings, some_logits(vocab, vocab as usize));
                draw.counts.iter_mut().step_by(3).for_each(|count| *count = 2);
                pass(gpu, draw.check(gpu, set, &positions));
            }
        }
    });
}

#[test]
fn a_large_vocabulary_is_searched_to_its_end() {
    // Each filter scans the vocabulary some 35 times, or 60 when ids are tied; lavapipe ends loops after 65,535 rounds.
    let vocab = 200_000;
    let settings = Settings { top_k: 50, top_p: 0.99, ..PLAIN };
    on_every_form(|gpu, set| {
        let mut draw = Draw::new(settings, some_logits(5, vocab));
        draw.logits[vocab - 200..].fill(5.0);
        pass(gpu, draw.check(gpu, set, &[1, 2]));
        let greedy = Draw::new(Settings { temperature: 0.0, ..PLAIN }, draw.logits);
        pass(gpu, greedy.check(gpu, set, &[1]));
    });
}

#[test]
fn greedy_ties_go_to_the_lower_id_wherever_they_lie() {
    on_every_form(|gpu, set| {
        for (vocab, tied) in [(600, [299, 43]), (600, [256, 0]), (600, [257, 256]), (5000, [4999, 4743]), (2, [1, 0])] {
            let mut draw = Draw::new(Settings { temperature: 0.0, ..PLAIN }, vec![-1.0; vocab]);
            tied.iter().for_each(|&id| draw.logits[id] = 3.5);
            let sampled = pollster::block_on(draw.sampled(gpu, set, &[1])).expect("the device works");
            assert_eq!(sampled, [*tied.iter().min().expect("two") as u32], "{} {vocab}", gpu.summary());
        }
        // The two zeros are one value.
        let draw = Draw::new(Settings { temperature: 0.0, ..PLAIN }, vec![-0.0, 0.0]);
        assert_eq!(pollster::block_on(draw.sampled(gpu, set, &[1])), Ok(vec![0]));
    });
}

#[test]
fn a_token_depends_on_its_position_and_on_nothing_beside_it() {
    on_every_form(|gpu, set| {
        let rows = some_rows(gpu, set);
        let draw = Draw::new(Settings { top_p: 0.95, ..PLAIN }, some_logits(3, 300));
        let sampled =
            |positions: &[u32]| pollster::block_on(draw.sampled(gpu, set, positions)).expect("the device works");
        let together = sampled(&(1..=rows).collect::<Vec<_>>());
        assert_eq!(together, sampled(&(1..=rows).collect::<Vec<_>>()));
        let alone: Vec<u32> = (1..=rows).flat_map(|position| sampled(&[position])).collect();
        assert_eq!(together, alone);
        assert!(together.iter().any(|id| *id != together[0]), "{together:?}");
    });
}

/// Bits at the ends, around the switch between the two formulas at u = 1/8, and in between.
fn probe_bits() -> Vec<u32> {
    let ends = (0..200).chain(u32::MAX - 600..=u32::MAX);
    let switch = (1 << 29) - 300..(1 << 29) + 300;
    ends.chain(switch).chain((0..3000).map(|i| pcg4d([i, 1, 1, 1])[0])).collect()
}

#[test]
fn noise_is_gumbel_to_the_last_digits() {
    let wgsl = concat!(include_str!("../../../shaders/lib/random.wgsl"), include_str!("gumbel_probe.wgsl"));
    let inputs: Vec<[u32; 4]> = probe_bits().into_iter().map(|bits| [bits / 3, !bits, bits % 1000, bits]).collect();
    on_every_adapter(|gpu| {
        let kernel = std::sync::Arc::new(gpu.compile("gumbel_probe".to_owned(), wgsl.to_owned()));
        let n = inputs.len();
        let (hashes, variates) = (gpu.storage("hashes", 16 * n as u64), gpu.storage("variates", 4 * n as u64));
        let bind_group = gpu.bind(&kernel, &[&gpu.storage_with("inputs", &inputs), &hashes, &variates]);
        let op = Op::single(kernel, bind_group, Grid::Rows { x: n.div_ceil(64) as u32 });
        run(gpu, &[&op], Extent { rows: 1, logit_rows: 1, keys: 0 });
        let hashes: Vec<[u32; 4]> = pollster::block_on(read(gpu, &hashes, n)).expect("the device works");
        assert_eq!(hashes, inputs.iter().map(|&input| pcg4d(input)).collect::<Vec<_>>());
        check_variates(gpu, &inputs, &pollster::block_on(read(gpu, &variates, n)).expect("the device works"));
    });
}

fn check_variates(gpu: &Gpu, inputs: &[[u32; 4]], variates: &[f32]) {
    let mut worst: f64 = 0.0;
    for (&[.., bits], &got) in inputs.iter().zip(variates) {
        let want = gumbel_of(bits);
        worst = worst.max((f64::from(got) - want).abs());
        assert!((f64::from(got) - want).abs() < NOISE_MARGIN / 2.0, "{}: {bits:#x}: {got}, not {want}", gpu.summary());
    }
    println!("{}: {worst:.1e}", gpu.summary());
}
