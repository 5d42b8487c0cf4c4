//! Two texts at once on one engine, each its own session, from one thread.
//!
//! `cargo run --release --example two_sessions`

use foretoken::{Engine, EngineOptions, GenerateOptions, Gpu, GpuOptions, Result};
use futures_util::{StreamExt, stream};

fn main() -> Result<()> {
    pollster::block_on(both())
}

async fn both() -> Result<()> {
    let gpu = Gpu::open(&GpuOptions::default()).await?;
    let engine = Engine::load(&gpu, &foretoken::default_model(), &EngineOptions::default(), &mut |_| {}).await?;
    let tokenizer = engine.tokenizer()?;
    let options = GenerateOptions::default().max_tokens(40);

    // A session has a cache of its own; the weights are there once.
    let (mut first, mut second) = (engine.session()?, engine.session()?);
    let prompts = ["Once upon a time, there was a fox", "Tom likes red apples"];
    let [fox, tom] = prompts.map(|prompt| tokenizer.encode(prompt, true));
    let fox = first.generate(&fox?, &options, &mut |_| {}).await?;
    let tom = second.generate(&tom?, &options, &mut |_| {}).await?;

    // The one that has a token comes first. Neither text depends on that.
    let mut texts = prompts.map(str::to_owned);
    let mut tokens = stream::select(fox.map(|token| (0, token)), tom.map(|token| (1, token)));
    while let Some((which, token)) = tokens.next().await {
        texts[which] += &token?.text;
    }
    texts.iter().for_each(|text| println!("{text}\n"));
    Ok(())
}
