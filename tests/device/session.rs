//! Sessions: what stays the same however the work is cut, what a step may create, stopping, and limits.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::{DiskFiles, each_adapter, each_own_device, golden, golden_in_memory, shared};
use foretoken::decode::{AuditOptions, Stop};
use foretoken::format::files::MemoryFiles;
use foretoken::{
    DraftOptions, Drafter, Engine, EngineOptions, ErrorKind, GenerateOptions, Gpu, GpuOptions, KernelSet, Sampling,
    Session,
};

async fn load(gpu: &Gpu, name: &str) -> Engine {
    let files = DiskFiles(golden(name));
    Engine::load(gpu, &files, &EngineOptions::default(), &mut |_| {}).await.expect("the model loads")
}

async fn default_engine(gpu: &Gpu) -> Engine {
    let options = EngineOptions::default().context(256);
    Engine::load(gpu, &foretoken::default_model(), &options, &mut |_| {}).await.expect("the default model loads")
}

fn options(max_tokens: usize, sampling: Sampling) -> GenerateOptions {
    GenerateOptions::default().max_tokens(max_tokens).sampling(sampling)
}

fn warm(seed: u64) -> Sampling {
    Sampling::default().temperature(0.9).top_k(60).top_p(0.95).min_p(0.01).repetition_penalty(1.1).seed(seed)
}

async fn run(session: &mut Session, prompt: &[u32], options: &GenerateOptions) -> (Vec<u32>, String, Stop) {
    let mut generation = session.generate(prompt, options, &mut |_| {}).await.expect("the prompt is read");
    while generation.next().await.expect("a step").is_some() {}
    (generation.ids().to_vec(), generation.text().to_owned(), generation.stop().expect("it ended"))
}

const PROMPT: [u32; 7] = [1, 5, 9, 13, 17, 21, 25];

#[test]
fn a_seed_gives_one_text_however_the_work_is_cut() {
    each_adapter(|gpu| async move {
        for name in ["llama-gqa", "neox-parallel"] {
            let engine = load(&gpu, name).await;
            for sampling in [Sampling::default(), warm(7), warm(8)] {
                let (whole, _, _) =
                    run(&mut engine.session().expect("a session"), &PROMPT, &options(40, sampling)).await;
                let mut session = engine.session().expect("a session");
                let mut text = PROMPT.to_vec();
                let mut stop = Stop::Length;
                while text.len() < PROMPT.len() + 40 && stop == Stop::Length {
                    let (ids, _, why) = run(&mut session, &text, &options(1, sampling)).await;
                    text.extend(ids);
                    stop = why;
                }
                assert_eq!(text[PROMPT.len()..], whole, "{name}, {}, {sampling:?}", gpu.summary());
            }
            let mut session = engine.session().expect("a session");
            let (a, _, _) = run(&mut session, &PROMPT, &options(40, warm(7))).await;
            let (b, _, _) = run(&mut session, &PROMPT, &options(40, warm(8))).await;
            assert_ne!(a, b, "{name}: two seeds, one text");
        }
    });
}

/// The prompt of a fixture whose greedy text holds no end token.
fn endless_prompt() -> Vec<u32> {
    let expected = std::fs::read(golden("llama-gqa").join("expected.json")).expect("expected.json");
    let expected: serde_json::Value = serde_json::from_slice(&expected).expect("json");
    serde_json::from_value(expected["prompt_ids"].clone()).expect("ids")
}

#[test]
fn unless_told_otherwise_a_text_goes_on_to_the_end_of_the_context() {
    each_adapter(|gpu| async move {
        let prompt = endless_prompt();
        let context = prompt.len() + 20;
        let options = EngineOptions::default().context(context);
        let files = DiskFiles(golden("llama-gqa"));
        let engine = Engine::load(&gpu, &files, &options, &mut |_| {}).await.expect("it loads");
        let mut session = engine.session().expect("a session");
        let (ids, _, stop) = run(&mut session, &prompt, &GenerateOptions::default()).await;
        assert_eq!((ids.len(), stop), (20, Stop::Length));
        assert_eq!(session.tokens().len(), context);
        let audit = AuditOptions::default().prompts(vec![prompt]);
        let audit = session.audit(&audit, &mut |_| {}).await.expect("an audit");
        assert!(audit.cases.iter().all(|case| case.tokens == 20), "{audit:?}");
        let (none, _, stop) = run(&mut session, &[1, 2], &self::options(0, Sampling::default())).await;
        assert_eq!((none.len(), stop), (0, Stop::Length), "an empty text can still be asked for");
    });
}

#[test]
fn an_abandoned_generation_leaves_a_usable_session() {
    each_adapter(|gpu| async move {
        let engine = load(&gpu, "llama-mha").await;
        let (expected, _, _) = run(&mut engine.session().expect("a session"), &PROMPT, &options(30, warm(3))).await;
        let mut session = engine.session().expect("a session");
        {
            let mut generation = session.generate(&PROMPT, &options(90, warm(4)), &mut |_| {}).await.expect("a prompt");
            for _ in 0..9 {
                generation.next().await.expect("a step");
            }
        }
        assert_eq!(session.tokens().len(), PROMPT.len() + 9);
        assert_eq!(run(&mut session, &PROMPT, &options(30, warm(3))).await.0, expected);
    });
}

#[test]
fn nothing_is_created_in_a_step() {
    each_own_device(|gpu| async move {
        let engine = load(&gpu, "llama-gqa").await;
        let loaded = gpu.counts();
        let mut session = engine.session().expect("a session");
        assert_eq!(gpu.counts().pipelines, loaded.pipelines, "a session compiled a pipeline");
        let before = gpu.counts();
        let prompt = endless_prompt();
        let options = options(24, Sampling::default());
        let mut generation = session.generate(&prompt, &options, &mut |_| {}).await.expect("a prompt");
        while generation.next().await.expect("a step").is_some() {}
        let stats = generation.stats();
        let after = gpu.counts();
        assert_eq!(after.pipelines, before.pipelines);
        assert_eq!(after.bind_groups, before.bind_groups);
        assert_eq!(after.buffers, before.buffers);
        let tokens = stats.new_tokens as u64;
        assert_eq!(tokens, 24);
        assert_eq!(stats.passes, stats.submits, "one pass a submit");
        assert!(stats.readbacks <= stats.submits && stats.submits <= tokens + 2, "{stats:?}");
        println!(
            "{}: {:.1} dispatches, {:.2} passes, {:.2} submits, {:.2} readbacks a token",
            gpu.summary(),
            stats.dispatches as f64 / tokens as f64,
            stats.passes as f64 / tokens as f64,
            stats.submits as f64 / tokens as f64,
            stats.readbacks as f64 / tokens as f64,
        );
    });
}

#[test]
fn the_end_of_the_context_ends_the_text() {
    each_adapter(|gpu| async move {
        let files = DiskFiles(golden("llama-mha"));
        let small = EngineOptions::default().context(24);
        let engine = Engine::load(&gpu, &files, &small, &mut |_| {}).await.expect("the model loads");
        let mut session = engine.session().expect("a session");
        let (ids, _, stop) = run(&mut session, &PROMPT, &options(1000, Sampling::default())).await;
        assert_eq!((ids.len(), stop), (24 - PROMPT.len(), Stop::Length));
        let full: Vec<u32> = (0..24).collect();
        let nothing = (Vec::new(), String::new(), Stop::Length);
        assert_eq!(run(&mut session, &full, &options(5, Sampling::default())).await, nothing);
        assert_eq!(session.tokens(), full);
        let mut fresh = engine.session().expect("a session");
        assert_eq!(run(&mut fresh, &full, &options(5, Sampling::default())).await, nothing);
        assert_eq!(run(&mut fresh, &PROMPT, &options(0, Sampling::default())).await, nothing);
        assert_eq!(run(&mut fresh, &PROMPT, &options(17, Sampling::default())).await.0, ids);
        let error =
            session.generate(&[1; 25], &options(5, Sampling::default()), &mut |_| {}).await.err().expect("too long");
        assert_eq!(error.kind(), ErrorKind::Input);
        assert!(error.to_string().contains("25 tokens, the context holds 24"), "{error}");
    });
}

#[test]
fn a_prompt_can_be_interrupted() {
    each_adapter(|gpu| async move {
        let engine = load(&gpu, "llama-mha").await;
        let mut session = engine.session().expect("a session");
        let (expected, _, _) = run(&mut session, &PROMPT, &options(8, Sampling::default())).await;
        let flag = Arc::new(AtomicBool::new(false));
        let interrupted = options(8, Sampling::default()).interrupt(Arc::clone(&flag));
        let long: Vec<u32> = (0..100).map(|i| i % 90).collect();
        // The first chunk has begun when its progress is heard.
        let mut generation = session
            .generate(&long, &interrupted, &mut |_| flag.store(true, Ordering::Relaxed))
            .await
            .expect("a prompt");
        assert_eq!(generation.next().await.expect("no step"), None);
        assert_eq!((generation.stop(), generation.ids().len()), (Some(Stop::Interrupt), 0));
        assert_eq!(run(&mut session, &PROMPT, &options(8, Sampling::default())).await.0, expected);
    });
}

#[test]
fn bad_prompts_are_refused_and_lose_nothing() {
    each_adapter(|gpu| async move {
        let engine = load(&gpu, "llama-mha").await;
        let mut session = engine.session().expect("a session");
        let (expected, _, _) = run(&mut session, &PROMPT, &options(8, Sampling::default())).await;
        let kept = session.tokens().to_vec();
        let vocab = engine.config().vocab_size as u32;
        for (prompt, word) in [(vec![], "empty"), (vec![1, vocab], "vocabulary"), (vec![u32::MAX], "vocabulary")] {
            let error =
                session.generate(&prompt, &options(8, Sampling::default()), &mut |_| {}).await.err().expect("bad");
            assert!(error.to_string().contains(word), "{error}");
            assert_eq!(session.tokens(), kept);
        }
        let hot = Sampling::default().temperature(f32::NAN);
        assert!(session.generate(&PROMPT, &options(8, hot), &mut |_| {}).await.is_err());
        assert_eq!(run(&mut session, &PROMPT, &options(8, Sampling::default())).await.0, expected);
        let few = EngineOptions::default().context(0);
        assert!(Engine::load(&gpu, &DiskFiles(golden("llama-mha")), &few, &mut |_| {}).await.is_err());
    });
}

#[test]
fn the_default_model_tells_a_story_and_stops_where_asked() {
    each_adapter(|gpu| async move {
        let engine = default_engine(&gpu).await;
        let tokenizer = engine.tokenizer().expect("a tokenizer");
        let prompt = tokenizer.encode("Once upon a time, there was a little girl", true).expect("it encodes");
        let mut session = engine.session().expect("a session");
        let (ids, text, _) = run(&mut session, &prompt, &options(40, Sampling::default())).await;
        assert_eq!(
            text,
            tokenizer.decode(&[prompt.clone(), ids.clone()].concat(), true).expect("it decodes")
                [tokenizer.decode(&prompt, true).expect("it decodes").len()..]
        );
        assert!(text.starts_with(' ') && text.split_whitespace().count() > 10, "{text:?}");
        // A stop string in the middle of the text, begun within one token and ended within another.
        let stop: String = text.chars().skip(20).take(9).collect();
        let stopping = options(40, Sampling::default()).stop(vec![stop.clone()]);
        let (stopped_ids, stopped, why) = run(&mut session, &prompt, &stopping).await;
        assert_eq!(why, Stop::StopText);
        assert_eq!(stopped, text[..text.find(&stop).expect("it is there")]);
        assert_eq!(stopped_ids, ids[..stopped_ids.len()]);
        let upto = tokenizer.decode(&[prompt.clone(), stopped_ids.clone()].concat(), true).expect("it decodes");
        assert!(upto.contains(&stop));
    });
}

#[test]
fn scores_are_those_of_the_reference() {
    // About 11,000 tokens, enough to see a wrong position or mask at any of them.
    check_scores(25);
}

#[test]
#[ignore = "a minute and more on a software adapter; the 25 stories above already reach every position"]
fn all_scores_are_those_of_the_reference() {
    check_scores(100);
}

/// Holds the scores of the first `count` stories against those of the reference.
fn check_scores(count: usize) {
    let Some(folder) = shared("models/stories260K") else { return };
    let Some(texts) = shared("text/tinystories/valid.txt.gz") else { return };
    let reference =
        std::fs::read_to_string(folder.join("reference/nll_tinystories_valid100.json")).expect("the reference");
    let reference: serde_json::Value = serde_json::from_str(&reference).expect("json");
    let unpacked = std::process::Command::new("gzip").arg("-dc").arg(texts).output().expect("gzip runs");
    let text = String::from_utf8(unpacked.stdout).expect("UTF-8");
    let stories: Vec<&str> =
        text.split("<|endoftext|>").map(|story| story.trim_matches('\n')).filter(|story| !story.is_empty()).collect();
    each_adapter(|gpu| {
        let (folder, stories, reference) = (folder.clone(), stories.clone(), &reference);
        async move {
            let engine =
                Engine::load(&gpu, &DiskFiles(folder), &EngineOptions::default(), &mut |_| {}).await.expect("it loads");
            let mut session = engine.session().expect("a session");
            let (mut total, mut predicted) = (0.0, 0);
            let expected = reference["per_story"].as_array().expect("stories");
            for (number, (story, expected)) in stories.iter().zip(expected).take(count).enumerate() {
                let what = format!("{}, story {number}", gpu.summary());
                let mut ids = engine.tokenizer().expect("a tokenizer").encode(story, true).expect("it encodes");
                ids.truncate(512);
                assert_eq!(ids.len() as u64, expected["tokens"].as_u64().expect("a number"), "{what}");
                let scores = session.score(&ids, &mut |_| {}).await.expect("scores");
                let sum = -scores.iter().map(|p| f64::from(*p)).sum::<f64>();
                let expected = expected["sum_nll"].as_f64().expect("a number");
                assert!(((sum - expected) / scores.len() as f64).abs() < 1e-3, "{what}: {sum} against {expected}");
                total += sum;
                predicted += scores.len();
            }
            if count == expected.len() {
                assert_eq!(predicted as u64, reference["predicted_tokens"].as_u64().expect("a number"));
                let (mean, expected) = (total / predicted as f64, reference["mean_nll"].as_f64().expect("a number"));
                println!("{}: {mean} nats a token, the reference {expected}", gpu.summary());
                assert!((mean - expected).abs() < 1e-5, "{}: {mean} against {expected}", gpu.summary());
            }
        }
    });
}

/// A model of one layer whose embedding, 262,144 x 136 of f32, exceeds the 128 MiB that WebGPU binds by default.
fn large_embedding() -> MemoryFiles {
    let config = r#"{"model_type":"llama","hidden_size":136,"intermediate_size":64,"num_hidden_layers":1,
        "num_attention_heads":2,"num_key_value_heads":1,"head_dim":16,"vocab_size":262144,"max_position_embeddings":64,
        "rms_norm_eps":1e-5,"rope_theta":10000.0,"hidden_act":"silu","tie_word_embeddings":true,"eos_token_id":0}"#;
    let tensors = [
        ("model.embed_tokens.weight", vec![262_144, 136]),
        ("model.layers.0.input_layernorm.weight", vec![136]),
        ("model.layers.0.mlp.down_proj.weight", vec![136, 64]),
        ("model.layers.0.mlp.gate_proj.weight", vec![64, 136]),
        ("model.layers.0.mlp.up_proj.weight", vec![64, 136]),
        ("model.layers.0.post_attention_layernorm.weight", vec![136]),
        ("model.layers.0.self_attn.k_proj.weight", vec![16, 136]),
        ("model.layers.0.self_attn.o_proj.weight", vec![136, 32]),
        ("model.layers.0.self_attn.q_proj.weight", vec![32, 136]),
        ("model.layers.0.self_attn.v_proj.weight", vec![16, 136]),
        ("model.norm.weight", vec![136]),
    ];
    let mut header = serde_json::Map::new();
    let mut data: Vec<u8> = Vec::new();
    let mut noise = 1u32;
    for (name, shape) in tensors {
        let start = data.len();
        for _ in 0..shape.iter().product::<usize>() {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            data.extend(((noise >> 8) as f32 / 8_388_608.0 - 1.0).to_le_bytes());
        }
        header.insert(
            name.into(),
            serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]}),
        );
    }
    let header = serde_json::to_vec(&header).expect("json");
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend(data);
    let files = [
        ("config.json".to_owned(), Cow::Borrowed(config.as_bytes())),
        ("model.safetensors".to_owned(), Cow::Owned(file)),
    ];
    MemoryFiles { name: "a large embedding".into(), files: files.into() }
}

#[test]
fn an_embedding_beyond_the_binding_limit_is_split() {
    let files = large_embedding();
    each_adapter(|gpu| {
        let files = &files;
        async move {
            let adapter = Some(gpu.summary().index.to_string());
            let default_limits = GpuOptions::default().adapter(adapter).webgpu_limits(true);
            let limited = Gpu::open(&default_limits).await.expect("the default limits are enough");
            assert_eq!(limited.summary().max_binding_bytes, 128 << 20);
            let engine = Engine::load(&limited, files, &EngineOptions::default(), &mut |_| {}).await.expect("it loads");
            // Tokens of both shards, at both ends of each.
            let ids = [0, 1, 246_722, 246_723, 246_724, 246_725, 262_142, 262_143, 5];
            let split = engine.session().expect("a session").logits(&ids).await.expect("logits");
            assert!(split.iter().flatten().all(|logit| logit.is_finite()));
            if gpu.summary().max_binding_bytes > 262_144 * 136 * 4 {
                let options = EngineOptions::default().kernels(engine.kernels());
                let whole = Engine::load(&gpu, files, &options, &mut |_| {}).await.expect("it loads");
                let whole = whole.session().expect("a session").logits(&ids).await.expect("logits");
                assert!(split == whole, "{}: a split embedding computes other logits", gpu.summary());
            }
        }
    });
}

/// Multiplies the f32 elements of a tensor.
fn scale(files: &mut MemoryFiles, tensor: &str, by: f32) {
    let file = files.files.get_mut("model.safetensors").expect("weights").to_mut();
    let (length, rest) = file.split_first_chunk_mut::<8>().expect("a length");
    let (header, data) = rest.split_at_mut(u64::from_le_bytes(*length) as usize);
    let header: serde_json::Value = serde_json::from_slice(header).expect("a header");
    let [start, end] = [0, 1].map(|at| header[tensor]["data_offsets"][at].as_u64().expect("an offset") as usize);
    for element in data[start..end].chunks_exact_mut(4) {
        let scaled = f32::from_le_bytes([element[0], element[1], element[2], element[3]]) * by;
        assert!(scaled.is_finite());
        element.copy_from_slice(&scaled.to_le_bytes());
    }
}

#[test]
fn logits_that_overflow_end_a_text_with_an_error() {
    each_adapter(|gpu| async move {
        let options = options(24, Sampling::default());
        let load = async |files: &MemoryFiles| {
            Engine::load(&gpu, files, &EngineOptions::default(), &mut |_| {}).await.expect("the model loads")
        };
        let sound = load(&golden_in_memory("llama-gqa")).await;
        let (ids, whole, _) = run(&mut sound.session().expect("a session"), &PROMPT, &options).await;
        // Where in the text the logits are larger than anywhere before, so that they can overflow there first.
        let text = [&PROMPT[..], &ids].concat();
        let logits = sound.session().expect("a session").logits(&text).await.expect("logits");
        let largest: Vec<f32> =
            logits.iter().map(|row| row.iter().fold(0.0, |most: f32, x| most.max(x.abs()))).collect();
        let before = |at: usize| largest[PROMPT.len() - 1..at].iter().copied().fold(0.0, f32::max);
        let ratio = |at: usize| largest[at] / before(at);
        let record = (PROMPT.len()..text.len() - 1).max_by(|&a, &b| ratio(a).total_cmp(&ratio(b))).expect("a place");
        let threshold = f32::MAX / (largest[record] * before(record)).sqrt();
        println!("{}: token {record}, {} times what came before", gpu.summary(), ratio(record));

        let mut later = golden_in_memory("llama-gqa");
        scale(&mut later, "lm_head.weight", threshold);
        let mut at_once = golden_in_memory("llama-mha");
        // The head's weights are the embedding's; norms take the embedding's size out, and the last one brings it back.
        scale(&mut at_once, "model.embed_tokens.weight", 1e16);
        scale(&mut at_once, "model.norm.weight", 1e30);
        for (files, least) in [(later, 1), (at_once, 0)] {
            let engine = load(&files).await;
            let mut session = engine.session().expect("a session");
            for draft in [DraftOptions::off(), DraftOptions::default().drafter(Drafter::Lookup)] {
                let options = options.clone().draft(draft);
                let mut generation = session.generate(&PROMPT, &options, &mut |_| {}).await.expect("a prompt");
                let error = loop {
                    match generation.next().await {
                        Ok(token) => assert!(token.is_some(), "{}: the text ended", files.name),
                        Err(error) => break error,
                    }
                };
                assert!(error.to_string().contains("not finite"), "{error}");
                // What came before is there, and asking again says the same.
                assert!(generation.ids().len() >= least, "{}", files.name);
                if least > 0 {
                    assert_eq!(generation.ids(), &ids[..generation.ids().len()]);
                    assert!(whole.starts_with(generation.text()), "{:?} of {whole:?}", generation.text());
                }
                assert!(generation.next().await.is_err());
                assert_eq!(generation.stop(), None);
            }
            let error = session.score(&text, &mut |_| {}).await.expect_err("no score");
            assert!(error.to_string().contains("not finite"), "{error}");
        }
    });
}

#[test]
fn every_kernel_set_reads_a_long_prompt_as_it_reads_a_short_one() {
    each_adapter(|gpu| async move {
        for kernels in KernelSet::available(gpu.summary()) {
            let options = EngineOptions::default().kernels(kernels).context(128);
            let engine =
                Engine::load(&gpu, &DiskFiles(golden("llama-rope3")), &options, &mut |_| {}).await.expect("it loads");
            let prompt: Vec<u32> = (0..100).map(|i| (i * 7 + 3) % 90).collect();
            let (whole, _, _) =
                run(&mut engine.session().expect("a session"), &prompt, &self::options(6, warm(5))).await;
            // The cache of a prefix, grown by a few tokens at a time: other chunks, the same text.
            let mut session = engine.session().expect("a session");
            for end in [3, 40, 41, 90, 100] {
                let (ids, _, _) = run(&mut session, &prompt[..end], &self::options(6, warm(5))).await;
                if end == 100 {
                    assert_eq!(ids, whole, "{kernels}, {}", gpu.summary());
                }
            }
        }
    });
}
