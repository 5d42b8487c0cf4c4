//! Training against PyTorch: three optimizer steps of every mode, on every adapter and with every kernel set.

use std::collections::BTreeMap;

use crate::common::{DiskFiles, each_adapter, each_own_device, golden};
use foretoken::format::files::MemoryFiles;
use foretoken::train::{LABEL_TOKENS, LabelLists, MicroBatch, Target};
use foretoken::{
    DraftOptions, DraftTree, Drafter, Engine, EngineOptions, ErrorKind, GenerateOptions, Gpu, KernelSet,
    MarginalOptions, Session, TrainOptions, Trainer,
};
use safetensors::SafeTensors;
use serde_json::Value;

/// Relative to the largest gradient or change of a tensor.
const TOLERANCE: f64 = 1e-3;

/// What a case expects.
struct Expected {
    bytes: Vec<u8>,
    step: Value,
}

impl Expected {
    fn of(case: &str) -> Self {
        let folder = golden("train").join(case);
        let bytes = std::fs::read(folder.join("step.safetensors")).expect("step.safetensors");
        let step = std::fs::read_to_string(folder.join("step.json")).expect("step.json");
        Self { bytes, step: serde_json::from_str(&step).expect("json") }
    }

    fn words(&self, name: &str) -> Vec<[u8; 4]> {
        let tensors = SafeTensors::deserialize(&self.bytes).expect("safetensors");
        let tensor = tensors.tensor(name).unwrap_or_else(|_| panic!("{name}"));
        tensor.data().as_chunks().0.to_vec()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        self.words(name).into_iter().map(f32::from_le_bytes).collect()
    }

    fn integers(&self, name: &str) -> Vec<u32> {
        self.words(name).into_iter().map(u32::from_le_bytes).collect()
    }

    fn names(&self, prefix: &str) -> Vec<String> {
        let tensors = SafeTensors::deserialize(&self.bytes).expect("safetensors");
        tensors.names().into_iter().filter_map(|name| name.strip_prefix(prefix)).map(str::to_owned).collect()
    }

    fn number(&self, key: &str) -> f64 {
        self.step[key].as_f64().unwrap_or_else(|| panic!("{key}"))
    }

    fn options(&self) -> TrainOptions {
        let size = |key: &str| self.number(key) as usize;
        let flag = |key: &str| self.step[key].as_bool().unwrap_or_else(|| panic!("{key}"));
        let betas = [0, 1].map(|i| self.step["betas"][i].as_f64().expect("a beta"));
        TrainOptions::default()
            .sequences(size("sequences"))
            .length(size("length"))
            .picked(0)
            .vocab_chunk(8192)
            .accumulate(size("accumulate"))
            .train_heads(flag("train_heads"))
            .train_lora(flag("train_lora"))
            .balance(flag("balance"))
            .detach(self.step["detach"].as_bool() == Some(true))
            .target(match self.step["target"].as_str() {
                None => Target::Tokens,
                Some("shifted") => Target::Shifted,
                Some("marginal") => Target::Marginal,
                Some(other) => panic!("target {other}"),
            })
            .head_rate(self.number("head_rate"))
            .weight_decay(self.number("weight_decay"))
            .betas(betas)
            .eps(self.number("eps"))
            .max_norm(self.step["max_norm"].as_f64())
    }

    fn batch(&self, step: usize, micro: usize) -> MicroBatch {
        let tensors = SafeTensors::deserialize(&self.bytes).expect("safetensors");
        let counts = tensors.tensor(&format!("counts.{step}.{micro}")).expect("counts").data().to_vec();
        MicroBatch {
            ids: self.integers(&format!("ids.{step}.{micro}")),
            counts: counts.into_iter().map(|count| count != 0).collect(),
        }
    }

    /// The labels of a micro-batch; none where tokens are.
    fn labels(&self, step: usize, micro: usize) -> Option<LabelLists> {
        let offsets = self.names(&format!("labels.{step}.{micro}."));
        let list = |offset: &String| {
            let tokens = self.integers(&format!("labels.{step}.{micro}.{offset}"));
            let shares = self.floats(&format!("shares.{step}.{micro}.{offset}"));
            (offset.parse().expect("an offset"), tokens.into_iter().zip(shares).collect())
        };
        (!offsets.is_empty()).then(|| LabelLists { by_offset: offsets.iter().map(list).collect() })
    }

    /// What the case trains, before the first step.
    fn start(&self, case: &str) -> BTreeMap<String, Vec<f32>> {
        let bytes = std::fs::read(golden("train").join(case).join("mtp.safetensors")).expect("mtp.safetensors");
        floats_of(&bytes)
    }

    fn base(&self) -> DiskFiles {
        DiskFiles(golden("train").join(self.step["base"].as_str().expect("a base")))
    }
}

/// Relative to how far the value that moves most is from where it began.
fn assert_close(what: &str, got: &[f32], want: &[f32], start: &[f32]) {
    assert_eq!((got.len(), start.len()), (want.len(), want.len()), "{what}");
    let far = |(&w, &s): (&f32, &f32)| (f64::from(w) - f64::from(s)).abs();
    let farthest = want.iter().zip(start).map(far).fold(0.0, f64::max);
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(g) - f64::from(w)).abs();
        assert!(error <= TOLERANCE * farthest.max(1e-6), "{what}[{i}]: {g}, not {w}; the farthest moves {farthest}");
    }
}

async fn tensors_of(trainer: &Trainer) -> BTreeMap<String, Vec<f32>> {
    floats_of(&trainer.save().await.expect("it saves")["mtp.safetensors"])
}

fn floats_of(file: &[u8]) -> BTreeMap<String, Vec<f32>> {
    let tensors = SafeTensors::deserialize(file).expect("safetensors");
    let floats = |data: &[u8]| data.as_chunks().0.iter().map(|word| f32::from_le_bytes(*word)).collect();
    tensors.tensors().into_iter().map(|(name, view)| (name, floats(view.data()))).collect()
}

/// Three steps, the vocabulary in chunks of `vocab_chunk`.
async fn check_with(gpu: &Gpu, case: &str, kernels: KernelSet, vocab_chunk: usize) {
    let what = format!("{case}, {kernels}, {}, chunks of {vocab_chunk}", gpu.summary());
    let expected = Expected::of(case);
    let options = expected.options().vocab_chunk(vocab_chunk);
    let start = expected.start(case);
    let (base, heads) = (expected.base(), DiskFiles(golden("train").join(case)));
    let mut trainer = Trainer::load(gpu, &base, &heads, Some(kernels), &options, &mut |_| {}).await.expect("a trainer");
    let rates = expected.step["rates"].as_array().expect("rates").clone();
    for (step, rate) in rates.iter().enumerate() {
        let batches: Vec<_> = (0..options.accumulate).map(|micro| expected.batch(step, micro)).collect();
        let labels: Vec<_> = (0..options.accumulate).filter_map(|micro| expected.labels(step, micro)).collect();
        let rate = rate.as_f64().expect("a rate");
        let report = trainer.step_with(&batches, &labels, rate).await.expect("a step");
        for (slot, loss) in report.losses.iter().enumerate() {
            let of = |micro: usize| {
                let nll = f64::from(expected.floats(&format!("losses.{step}.{micro}"))[slot]);
                let targets = f64::from(expected.integers(&format!("targets.{step}.{micro}"))[slot]);
                (nll * targets, targets)
            };
            let (sum, targets) = (0..options.accumulate).map(of).fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
            assert_eq!(loss.targets as f64, targets, "{what}: targets of +{}", loss.offset);
            let nll = sum / targets;
            assert!(
                (loss.nll - nll).abs() < 1e-4 * nll,
                "{what}: step {step}, +{}: {} not {nll}",
                loss.offset,
                loss.nll
            );
        }
        let norm = f64::from(expected.floats(&format!("gradient_norm.{step}"))[0]);
        if step == 0 {
            let gradients = trainer.gradients().await.expect("gradients");
            let names = expected.names("gradient.");
            assert_eq!(gradients.len(), names.len(), "{what}: tensors with gradients");
            for name in names {
                let want = expected.floats(&format!("gradient.{name}"));
                let (_, got) = gradients.get(&name).unwrap_or_else(|| panic!("{what}: no gradient of {name}"));
                assert_close(&format!("{what}: gradient of {name}"), got, &want, &vec![0.0; want.len()]);
            }
        }
        assert!((report.gradient_norm - norm).abs() < 1e-3 * norm, "{what}: norm {} not {norm}", report.gradient_norm);
        if step == 0 && kernels == KernelSet::Software {
            // Another trainer goes on from here, with the very same bits.
            let state = trainer.state().await.expect("a state");
            let mut other =
                Trainer::load(gpu, &base, &heads, Some(kernels), &options, &mut |_| {}).await.expect("a trainer");
            other.restore(&state).await.expect("it restores");
            assert!(other.state().await.expect("a state") == state, "{what}: a state restored is another");
            let next: Vec<_> = (0..options.accumulate).map(|micro| expected.batch(1, micro)).collect();
            let labels: Vec<_> = (0..options.accumulate).filter_map(|micro| expected.labels(1, micro)).collect();
            let reports =
                [other.step_with(&next, &labels, 0.006).await, trainer.step_with(&next, &labels, 0.006).await];
            assert_eq!(reports[0], reports[1], "{what}");
            let states = [other.state().await, trainer.state().await];
            assert!(states[0] == states[1], "{what}: a step after a restored state is another");
            trainer.restore(&state).await.expect("it restores");
        }
        if step == 0 || step == 2 {
            let tensors = tensors_of(&trainer).await;
            let after = format!("after.{}.", step + 1);
            for name in expected.names(&after) {
                let want = expected.floats(&format!("{after}{name}"));
                assert_close(&format!("{what}: {name} after {}", step + 1), &tensors[&name], &want, &start[&name]);
            }
        }
    }
}

#[test]
fn detached_heads_cost_the_next_token_nothing() {
    use foretoken::format::checkpoint::Checkpoint;
    use foretoken::format::mtp::{Init, InitOptions, InitSource, LoraOptions, add_lora, init_heads};
    let expected = Expected::of("baseline");
    each_adapter(|gpu| {
        let expected = &expected;
        async move {
            let base = expected.base();
            let checkpoint = Checkpoint::open(&base).await.expect("a checkpoint");
            let mut trained = Vec::new();
            for heads in [1, 2] {
                let (source, init) = (InitSource::Mix { temperature: 0.1 }, Init::Copy);
                let options = InitOptions::default()
                    .heads(heads)
                    .sequential(true)
                    .source(source)
                    .init(init)
                    .seed(1)
                    .backbone_first(true);
                let mut files = init_heads(&checkpoint, &options).await.expect("heads");
                let lora = LoraOptions::new(4, 3).seed(1);
                add_lora(&mut files, checkpoint.config(), &lora).expect("a LoRA");
                let files = files.into_iter().map(|(name, bytes)| (name, bytes.into())).collect();
                let heads = MemoryFiles { name: "heads".to_owned(), files };
                let options = expected.options().train_heads(true).detach(true).accumulate(1);
                let mut trainer =
                    Trainer::load(&gpu, &base, &heads, None, &options, &mut |_| {}).await.expect("a trainer");
                for step in 0..3 {
                    trainer.step(&[expected.batch(step, 0)], 0.01).await.expect("a step");
                }
                trained.push(tensors_of(&trainer).await);
            }
            let [alone, beside] = [&trained[0], &trained[1]];
            assert!(alone.keys().all(|name| name.starts_with("lora.")), "a backbone alone has no heads");
            assert!(alone.values().flatten().any(|value| *value != 0.0));
            for (name, values) in alone {
                assert_eq!(values, &beside[name], "{name} beside a head");
            }
        }
    });
}

#[test]
fn numbers_that_are_not_finite_change_nothing_and_are_named() {
    let expected = Expected::of("frozen-sequential");
    each_adapter(|gpu| {
        let expected = &expected;
        async move {
            let (base, heads) = (expected.base(), DiskFiles(golden("train/frozen-sequential")));
            let options = expected.options();
            let mut trainer = Trainer::load(&gpu, &base, &heads, None, &options, &mut |_| {}).await.expect("a trainer");
            trainer.step(&[expected.batch(0, 0)], 1e30).await.expect("a step");
            let before = trainer.state().await.expect("a state");
            let error = trainer.step(&[expected.batch(1, 0)], 1e30).await.expect_err("numbers overflow");
            assert_eq!(error.kind(), ErrorKind::NotFinite);
            let message = error.to_string();
            assert!(message.contains("step 2") && message.contains("tensor \"heads."), "{message}");
            assert!(trainer.state().await.expect("a state") == before);
        }
    });
}

#[test]
fn a_copy_of_the_last_block_has_nothing_to_learn_from_the_base() {
    let expected = Expected::of("frozen-parallel");
    each_adapter(|gpu| {
        let expected = &expected;
        async move {
            for kernels in KernelSet::available(gpu.summary()) {
                let (base, heads) = (expected.base(), DiskFiles(golden("train/frozen-parallel")));
                let options = expected.options().accumulate(1).target(Target::Shifted);
                let mut trainer =
                    Trainer::load(&gpu, &base, &heads, Some(kernels), &options, &mut |_| {}).await.expect("a trainer");
                trainer.step(&[expected.batch(0, 0)], 0.01).await.expect("a step");
                // Not nearly: AdamW would make steps of any rounding.
                for (name, (_, values)) in trainer.gradients().await.expect("gradients") {
                    let copy = name.starts_with("heads.0.");
                    assert_eq!(values.iter().all(|&value| value == 0.0), copy, "{name}, {kernels}, {}", gpu.summary());
                }
            }
        }
    });
}

/// The mean loss of each head over the targets of a micro-batch, from logits of the same model as it serves.
async fn losses_as_served(engine: &Engine, batch: &MicroBatch, length: usize) -> Vec<f64> {
    let offsets: Vec<usize> = engine.head_facts().iter().map(|head| head.offset).collect();
    let mut session = engine.session().expect("a session");
    let mut sums = vec![(0.0, 0_u32); offsets.len()];
    let counted = batch.counts.chunks_exact(length);
    for (ids, counts) in batch.ids.chunks_exact(length).zip(counted) {
        let logits = session.head_logits(ids).await.expect("logits");
        for ((rows, &offset), (sum, count)) in logits.iter().zip(&offsets).zip(&mut sums) {
            for (at, row) in rows.iter().enumerate().filter(|(at, _)| at + offset < length && counts[at + offset]) {
                let most = row.iter().copied().fold(f32::MIN, f32::max);
                let total: f64 = row.iter().map(|&logit| f64::from(logit - most).exp()).sum();
                *sum += total.ln() - f64::from(row[ids[at + offset] as usize] - most);
                *count += 1;
            }
        }
    }
    sums.into_iter().map(|(sum, count)| sum / f64::from(count)).collect()
}

/// The structure of a block is written twice: over rows and a cache, and over whole sequences.
#[test]
fn a_block_in_training_computes_what_it_serves() {
    let cases =
        ["frozen-parallel", "frozen-parallel-neox", "frozen-sequential-qwen2", "frozen-parallel-qwen3", "joint-window"];
    each_adapter(|gpu| async move {
        for case in cases {
            let expected = Expected::of(case);
            let (base, heads, options) = (expected.base(), DiskFiles(golden("train").join(case)), expected.options());
            let batch = expected.batch(0, 0);
            let mut trainer = Trainer::load(&gpu, &base, &heads, None, &options, &mut |_| {}).await.expect("a trainer");
            let trained = trainer.evaluate(&batch).await.expect("losses");
            let serving = EngineOptions::default().self_test(false);
            let engine = Engine::load_with_heads(&gpu, &base, &heads, &serving, &mut |_| {}).await.expect("an engine");
            let served = losses_as_served(&engine, &batch, options.length).await;
            assert_eq!(trained.len(), served.len(), "{case}");
            for (trained, served) in trained.iter().zip(served) {
                let (offset, error) = (trained.offset, (trained.nll - served).abs());
                assert!(
                    trained.targets > 0 && error < 1e-4,
                    "{case}, +{offset}: {} trained, {served} served",
                    trained.nll
                );
            }
        }
    });
}

#[test]
fn marginals_are_those_of_pytorch() {
    let expected = Expected::of("marginal");
    each_adapter(|gpu| {
        let expected = &expected;
        async move {
            let options = EngineOptions::default().self_test(false);
            let engine = Engine::load(&gpu, &expected.base(), &options, &mut |_| {}).await.expect("an engine");
            let mut session = engine.session().expect("a session");
            let (batch, labels) = (expected.batch(0, 0), expected.labels(0, 0).expect("labels"));
            let length = expected.options().length;
            for (&offset, lists) in &labels.by_offset {
                for (sequence, ids) in batch.ids.chunks_exact(length).enumerate() {
                    let options =
                        MarginalOptions::default().offset(offset).mass(1.0).max_branches(16).top(LABEL_TOKENS);
                    let mut reader = session.read_marginals(ids, &options, 0).await.expect("a reader");
                    while let Some(found) = reader.next().await.expect("a position") {
                        let Some(marginal) = found.marginal else { continue };
                        let row = (sequence * length + found.position) * LABEL_TOKENS;
                        let want: BTreeMap<u32, f32> = lists[row..row + LABEL_TOKENS].iter().copied().collect();
                        for token in &marginal.top {
                            // The last of a list may be others where they are as likely.
                            let want = want.get(&token.id).copied().unwrap_or(lists[row + LABEL_TOKENS - 1].1);
                            let error = (token.p - f64::from(want)).abs();
                            assert!(error < 1e-5, "+{offset}, row {row}, token {}: {}, not {want}", token.id, token.p);
                        }
                    }
                }
            }
            let trainer = |target| {
                let options = expected.options().target(target);
                let (gpu, base, heads) = (gpu.clone(), expected.base(), DiskFiles(golden("train/marginal")));
                async move { Trainer::load(&gpu, &base, &heads, None, &options, &mut |_| {}).await.expect("a trainer") }
            };
            let mut wanting = trainer(Target::Marginal).await;
            let error = wanting.step(std::slice::from_ref(&batch), 0.01).await.expect_err("no labels");
            assert!(error.to_string().contains("labels for 0 micro-batches: expected them for 1"), "{error}");
            let error = trainer(Target::Tokens).await.step_with(&[batch], &[labels], 0.01).await.expect_err("labels");
            assert!(error.to_string().contains("labels for 1 micro-batches: expected them for 0"), "{error}");
        }
    });
}

/// A case's heads, the first of which takes the place of the backbone's last block.
fn with_target(case: &str) -> MemoryFiles {
    let folder = golden("train").join(case);
    let read = |name: &str| std::fs::read(folder.join(name)).expect("a file of heads");
    let mut config: Value = serde_json::from_slice(&read("mtp_config.json")).expect("json");
    config["heads"][0]["target"] = true.into();
    let config = serde_json::to_vec(&config).expect("json");
    let files = [("mtp_config.json", config), ("mtp.safetensors", read("mtp.safetensors"))];
    let files = files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes.into())).collect();
    MemoryFiles { name: case.to_owned(), files }
}

#[test]
fn the_first_head_of_a_joint_training_is_what_the_model_generates_with() {
    for case in ["joint", "joint-whs", "joint-neox", "joint-tied"] {
        let expected = Expected::of(case);
        each_adapter(|gpu| {
            let expected = &expected;
            async move {
                let options = expected.options().accumulate(1);
                let (base, heads) = (expected.base(), with_target(case));
                let mut trainer =
                    Trainer::load(&gpu, &base, &heads, None, &options, &mut |_| {}).await.expect("a trainer");
                for step in 0..3 {
                    trainer.step(&[expected.batch(step, 0)], 0.01).await.expect("a step");
                }
                let ids = expected.batch(0, 0).ids[..options.length].to_vec();
                let counts = vec![true; options.length * options.sequences];
                let batch = MicroBatch { ids: ids.repeat(options.sequences), counts };
                let losses = trainer.evaluate(&batch).await.expect("losses");
                let files = trainer.save().await.expect("files");
                let files = files.into_iter().map(|(name, bytes)| (name, bytes.into())).collect();
                let heads = MemoryFiles { name: "trained".to_owned(), files };
                let options = EngineOptions::default().self_test(false);
                let engine = Engine::load_with_heads(&gpu, &base, &heads, &options, &mut |_| {}).await;
                let mut session = engine.expect("an engine").session().expect("a session");
                let scores = session.score(&ids, &mut |_| {}).await.expect("scores");
                let nll = -scores.iter().map(|&score| f64::from(score)).sum::<f64>() / scores.len() as f64;
                let loss = losses[0].nll;
                assert!((loss - nll).abs() < 1e-4 * loss, "{case}, {}: trained {loss}, served {nll}", gpu.summary());
            }
        });
    }
}

#[test]
fn a_gated_lora_changes_what_heads_draft_and_nothing_that_the_model_says() {
    for case in ["gated", "gated-neox"] {
        let expected = Expected::of(case);
        each_adapter(|gpu| {
            let expected = &expected;
            async move {
                let what = format!("{case}, {}", gpu.summary());
                let options = expected.options().accumulate(1);
                let (base, heads) = (expected.base(), DiskFiles(golden("train").join(case)));
                let mut trainer =
                    Trainer::load(&gpu, &base, &heads, None, &options, &mut |_| {}).await.expect("a trainer");
                let ids = expected.batch(0, 0).ids[..options.length].to_vec();
                let counts = vec![true; options.length * options.sequences];
                let batch = MicroBatch { ids: ids.repeat(options.sequences), counts };
                let before = trainer.evaluate(&batch).await.expect("losses");
                for step in 0..3 {
                    trainer.step(&[expected.batch(step, 0)], 0.01).await.expect("a step");
                }
                let losses = trainer.evaluate(&batch).await.expect("losses");
                assert_eq!(losses[0], before[0], "{what}: the model's own");
                assert!(losses[1..].iter().zip(&before[1..]).all(|(now, then)| now.nll != then.nll), "{what}: heads");
                let files = trainer.save().await.expect("files");
                let files = files.into_iter().map(|(name, bytes)| (name, bytes.into())).collect();
                let heads = MemoryFiles { name: "trained".to_owned(), files };
                let serving = EngineOptions::default().self_test(false);
                let plain = Engine::load(&gpu, &base, &serving, &mut |_| {}).await.expect("an engine");
                let engine = Engine::load_with_heads(&gpu, &base, &heads, &serving, &mut |_| {}).await;
                let [mut plain, mut session] =
                    [plain, engine.expect("an engine")].map(|engine| engine.session().expect("a session"));
                let served = session.head_logits(&ids).await.expect("logits");
                assert_eq!(served[0], plain.logits(&ids).await.expect("logits"), "{what}");
                for (loss, rows) in losses.iter().zip(&served) {
                    let targets = &ids[loss.offset..];
                    let score = |(row, &target): (&Vec<f32>, &u32)| {
                        let sum: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
                        sum.ln() - f64::from(row[target as usize])
                    };
                    let nll = rows.iter().zip(targets).map(score).sum::<f64>() / targets.len() as f64;
                    let trained = loss.nll;
                    assert!(
                        (trained - nll).abs() < 1e-4 * nll,
                        "{what}, +{}: trained {trained}, served {nll}",
                        loss.offset
                    );
                }
                let text = |session: &mut Session, draft: DraftOptions| {
                    let options = GenerateOptions::default().max_tokens(20).draft(draft);
                    pollster::block_on(async {
                        let mut generation = session.generate(&ids, &options, &mut |_| {}).await.expect("it begins");
                        while generation.next().await.expect("a token").is_some() {}
                        (generation.ids().to_vec(), generation.stats().drafts.drafted)
                    })
                };
                let (own, _) = text(&mut plain, DraftOptions::off());
                for tree in [DraftTree::chain(1), DraftTree::new(&[3])] {
                    let tree = Some(tree.expect("a tree"));
                    let draft = DraftOptions::default().drafter(Drafter::Heads).tree(tree);
                    let (drafted, count) = text(&mut session, draft);
                    assert!(count > 0 && drafted == own, "{what}: {count} drafts, {drafted:?}, not {own:?}");
                }
            }
        });
    }
}

fn check(case: &str) {
    each_adapter(|gpu| async move {
        for kernels in KernelSet::available(gpu.summary()) {
            check_with(&gpu, case, kernels, TrainOptions::default().vocab_chunk).await;
        }
        // Three chunks, the last of them not full.
        check_with(&gpu, case, KernelSet::default_for(gpu.summary()), 16).await;
    });
}

macro_rules! cases {
    ($($test:ident: $case:literal),* $(,)?) => {
        const CASES: &[&str] = &[$($case),*];

        $(
            #[test]
            fn $test() {
                check($case);
            }
        )*
    };
}

cases! {
    heads_on_a_frozen_backbone: "frozen-parallel",
    heads_on_a_frozen_tied_backbone: "frozen-parallel-tied",
    heads_on_a_frozen_neox: "frozen-parallel-neox",
    heads_on_a_frozen_qwen3: "frozen-parallel-qwen3",
    heads_and_a_lora_of_a_smollm3: "joint-smollm3",
    sequential_heads_on_a_frozen_qwen2: "frozen-sequential-qwen2",
    deep_heads: "frozen-deep",
    sequential_heads: "frozen-sequential",
    sequential_heads_on_neox: "frozen-sequential-neox",
    heads_and_lora_together: "joint",
    heads_and_lora_on_a_tied_backbone: "joint-tied",
    heads_and_lora_on_neox: "joint-neox",
    deep_heads_and_lora: "joint-deep",
    heads_and_lora_on_qwen3: "joint-qwen3",
    heads_and_lora_on_a_window: "joint-window",
    mixed_hidden_states: "joint-whs",
    a_backbone_that_heads_follow: "joint-detached",
    a_lora_alone: "baseline",
    heads_that_learn_what_the_base_thinks: "shifted-parallel",
    sequential_heads_that_learn_what_the_base_thinks: "shifted-sequential-neox",
    heads_that_learn_marginals: "marginal",
    a_gated_lora: "gated",
    a_gated_lora_under_sequential_heads_of_neox: "gated-neox",
    joint_heads_that_learn_what_the_base_thinks: "shifted-joint",
}

/// What a dry device has counted is what a device counts.
#[test]
fn a_training_takes_the_bytes_that_were_estimated() {
    each_own_device(|gpu| async move {
        for (case, vocab_chunk) in
            CASES.iter().flat_map(|case| [(case, TrainOptions::default().vocab_chunk), (case, 16)])
        {
            let expected = Expected::of(case);
            let options = expected.options().vocab_chunk(vocab_chunk);
            let (base, heads) = (expected.base(), DiskFiles(golden("train").join(case)));
            let memory = Trainer::memory(&gpu, &base, &heads, &options).await.expect("an estimate");
            let load =
                async || Trainer::load(&gpu, &base, &heads, None, &options, &mut |_| {}).await.expect("a trainer");
            // The first time the self-test has buffers too.
            let trained = load().await.trained();
            let before = gpu.counts().buffer_bytes;
            let trainer = load().await;
            let what = format!("{case}, {}, chunks of {vocab_chunk}: {memory:?}", gpu.summary());
            assert_eq!(gpu.counts().buffer_bytes - before, memory.total(), "{what}");
            assert_eq!(trainer.bytes(), memory.trained + memory.activations, "{what}");
            assert!(memory.trained >= 12 * trained && memory.largest <= memory.total(), "{what}");
        }
    });
}

#[test]
fn what_training_knows_no_way_back_through_is_refused() {
    use foretoken::format::checkpoint::Checkpoint;
    use foretoken::format::mtp::{InitOptions, init_heads};
    let models = [("gemma2", "soft caps of scores or logits"), ("gemma3", "norms after attention and MLP")];
    each_adapter(|gpu| async move {
        for (name, part) in models {
            let (base, heads) = (DiskFiles(golden(name)), DiskFiles(golden("heads-qwen3")));
            let what = format!("training is not supported for models with {part}");
            let options = TrainOptions::default();
            let error = Trainer::load(&gpu, &base, &heads, None, &options, &mut |_| {}).await;
            assert_eq!(error.err().expect("it is refused").to_string(), what);
            let error = Trainer::memory(&gpu, &base, &heads, &options).await.expect_err("it is refused");
            assert_eq!(error.to_string(), what);
            let checkpoint = Checkpoint::open(&base).await.expect("a checkpoint");
            let error = init_heads(&checkpoint, &InitOptions::default()).await.expect_err("it is refused");
            assert_eq!(error.to_string(), format!("heads to be trained: {what}"));
        }
    });
}
