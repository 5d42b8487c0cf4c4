//! What can be shared: a caller's own device, an engine among sessions, and threads among generations.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use crate::common::{DiskFiles, each_adapter, golden};
use foretoken::decode::Token;
use foretoken::{
    DraftOptions, Drafter, Engine, EngineOptions, GenerateOptions, Generation, Gpu, Sampling, Session, wgpu,
};
use futures_executor::ThreadPool;
use futures_util::StreamExt;
use futures_util::future::join_all;

#[test]
fn a_caller_can_share_its_device() {
    pollster::block_on(async {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let adapter = instance.request_adapter(&wgpu::RequestAdapterOptions::default()).await.expect("an adapter");
        let (device, queue) = adapter.request_device(&wgpu::DeviceDescriptor::default()).await.expect("a device");
        let gpu = Gpu::from_device(&adapter, device, queue);
        assert_eq!(gpu.summary().max_binding_bytes, 128 << 20, "the limits are those of the device");
        let files = DiskFiles(golden("llama-mha"));
        let engine = Engine::load(&gpu, &files, &EngineOptions::default(), &mut |_| {}).await.expect("it loads");
        let mut session = engine.session().expect("a session");
        let options = GenerateOptions::default().max_tokens(4);
        let mut generation = session.generate(&[1, 2], &options, &mut |_| {}).await.expect("a prompt");
        let mut count = 0;
        while generation.next().await.expect("a step").is_some() {
            count += 1;
        }
        assert!((1..=4).contains(&count));
    });
}

#[test]
fn a_lost_device_is_an_error_and_the_text_so_far_stays() {
    pollster::block_on(async {
        let gpu = Gpu::open(&foretoken::GpuOptions::default()).await.expect("an adapter");
        let files = DiskFiles(golden("llama-mha"));
        let engine = Engine::load(&gpu, &files, &EngineOptions::default(), &mut |_| {}).await.expect("it loads");
        let mut session = engine.session().expect("a session");
        let options = GenerateOptions::default().max_tokens(100);
        let mut generation = session.generate(&[1, 2, 3], &options, &mut |_| {}).await.expect("a prompt");
        for _ in 0..3 {
            generation.next().await.expect("a step");
        }
        gpu.device().destroy();
        let error = loop {
            match generation.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a lost device ended the text without a word"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), foretoken::ErrorKind::Device, "{error}");
        assert!(generation.ids().len() >= 3);
        assert!(engine.session().is_err());
    });
}

const PROMPTS: [&str; 2] =
    ["Once upon a time, there was a little fox", "Tom likes red apples. Tom likes green apples."];

/// Ways to continue a text: with drafts and without, the likeliest tokens and drawn ones.
fn ways() -> Vec<GenerateOptions> {
    let warm = Sampling::default().temperature(0.9).top_p(0.95).repetition_penalty(1.1).seed(5);
    let drafters = [Drafter::Off, Drafter::Heads, Drafter::Lookup];
    let way = |drafter: Drafter, sampling| {
        GenerateOptions::default().max_tokens(32).sampling(sampling).draft(DraftOptions::default().drafter(drafter))
    };
    drafters.iter().flat_map(|drafter| [Sampling::default(), warm].map(|s| way(drafter.clone(), s))).collect()
}

async fn default_engine(gpu: &Gpu) -> Engine {
    let options = EngineOptions::default().context(128);
    Engine::load(gpu, &foretoken::default_model(), &options, &mut |_| {}).await.expect("it loads")
}

fn prompts(engine: &Engine) -> [Vec<u32>; 2] {
    PROMPTS.map(|text| engine.tokenizer().expect("a tokenizer").encode(text, true).expect("ids"))
}

/// The ids that follow `prompt`, and their text.
async fn streamed(session: &mut Session, prompt: &[u32], options: &GenerateOptions) -> (Vec<u32>, String) {
    let generation = session.generate(prompt, options, &mut |_| {}).await.expect("a prompt");
    let tokens: Vec<_> = generation.collect().await;
    let tokens: Vec<Token> = tokens.into_iter().map(|token| token.expect("a token")).collect();
    let text = tokens.iter().map(|token| token.text.as_str()).collect();
    (tokens.iter().map(|token| token.id).collect(), text)
}

#[test]
fn sessions_that_take_turns_write_what_they_write_alone() {
    each_adapter(|gpu| async move {
        let engine = default_engine(&gpu).await;
        let prompts = prompts(&engine);
        for options in ways() {
            let mut alone = Vec::new();
            for prompt in &prompts {
                alone.push(streamed(&mut engine.session().expect("a session"), prompt, &options).await);
            }
            assert_ne!(alone[0], alone[1]);
            let mut sessions = prompts.each_ref().map(|_| engine.session().expect("a session"));
            let mut together = Vec::new();
            for (session, prompt) in sessions.iter_mut().zip(&prompts) {
                together.push(session.generate(prompt, &options, &mut |_| {}).await.expect("a prompt"));
            }
            // Token by token, as long as any goes on.
            let mut going = true;
            while going {
                going = false;
                for generation in &mut together {
                    going |= generation.next().await.expect("a token").is_some();
                }
            }
            for (generation, (ids, text)) in together.iter().zip(&alone) {
                assert_eq!((generation.ids(), generation.text()), (&ids[..], text.as_str()), "{options:?}");
            }
        }
    });
}

#[test]
fn generations_stream_on_the_threads_of_an_executor() {
    let pool = ThreadPool::builder().pool_size(2).create().expect("threads");
    each_adapter(|gpu| {
        let pool = pool.clone();
        async move {
            let engine = default_engine(&gpu).await;
            let ways = ways();
            let mut alone = Vec::new();
            for (prompt, options) in prompts(&engine).iter().zip(&ways[2..]) {
                alone.push(streamed(&mut engine.session().expect("a session"), prompt, options).await);
            }
            let (results, heard) = std::sync::mpsc::channel();
            for (at, prompt) in prompts(&engine).into_iter().enumerate() {
                let (engine, options, results) = (engine.clone(), ways[2 + at].clone(), results.clone());
                pool.spawn_ok(async move {
                    let mut session = engine.session().expect("a session");
                    let result = streamed(&mut session, &prompt, &options).await;
                    results.send((at, result)).expect("somebody listens");
                });
            }
            drop(results);
            for (at, result) in heard {
                assert_eq!(result, alone[at]);
            }
            // Two on one thread: neither keeps it from the other.
            let mut sessions = [0, 1].map(|_| engine.session().expect("a session"));
            let prompts = prompts(&engine);
            let both = sessions.iter_mut().zip(&prompts).zip(&ways[2..]);
            let both = join_all(both.map(|((session, prompt), options)| streamed(session, prompt, options))).await;
            assert_eq!(both, alone);
        }
    });
}

#[test]
fn a_token_that_nobody_waited_for_comes_next_time() {
    each_adapter(|gpu| async move {
        let engine = default_engine(&gpu).await;
        let prompt = &prompts(&engine)[0];
        for options in ways() {
            let mut session = engine.session().expect("a session");
            let (ids, _) = streamed(&mut session, prompt, &options).await;
            let mut generation = session.generate(prompt, &options, &mut |_| {}).await.expect("a prompt");
            let mut found = Vec::new();
            loop {
                // Asked once, and dropped where it is not ready.
                let mut context = Context::from_waker(Waker::noop());
                let asked = pin!(generation.next()).poll(&mut context);
                let token = match asked {
                    Poll::Ready(token) => token,
                    Poll::Pending => generation.next().await,
                };
                let Some(Token { id, .. }) = token.expect("a token") else { break };
                found.push(id);
            }
            assert_eq!(found, ids, "{options:?}");
        }
    });
}

#[test]
fn everything_can_be_sent_to_another_thread() {
    fn sent<T: Send>(thing: T) -> T {
        thing
    }
    fn shared<T: Send + Sync>() {}
    shared::<Gpu>();
    shared::<Engine>();
    shared::<Session>();
    shared::<foretoken::Error>();
    // Never run: that it compiles is the test.
    #[allow(dead_code, reason = "its compiling is the test")]
    async fn futures(mut generation: Generation<'_>, session: &mut Session) {
        let _ = sent(generation.next()).await;
        let _ = sent(sent(generation).collect::<Vec<_>>()).await;
        let options = GenerateOptions::default();
        let _ = sent(session.generate(&[1], &options, &mut |_| {})).await;
        let _ = sent(session.resume(1, &options, &mut |_| {})).await;
        let _ = sent(session.restore(&[1], &mut |_| {})).await;
        let _ = sent(session.score(&[1, 2], &mut |_| {})).await;
        let _ = sent(session.marginals(&[1], &foretoken::MarginalOptions::default(), &mut |_| {})).await;
        let _ = sent(session.audit(&foretoken::decode::AuditOptions::default(), &mut |_| {})).await;
        let _ = sent(Gpu::open(&foretoken::GpuOptions::default())).await;
    }
}

#[test]
fn loading_can_move_between_threads() {
    fn sendable<F: Future + Send>(future: F) -> F {
        future
    }
    each_adapter(|gpu| async move {
        let (files, options) = (DiskFiles(golden("llama-mha")), EngineOptions::default());
        let loading = sendable(Engine::load(&gpu, &files, &options, &mut |_| {})).await;
        loading.expect("the model loads");
    });
}
