//! A story from the embedded model, token by token.
//!
//! `cargo run --release --example generate -- [PROMPT]`

use std::io::{self, Write};

use foretoken::{Engine, EngineOptions, GenerateOptions, Gpu, GpuOptions, Sampling};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let prompt = std::env::args().nth(1).unwrap_or_else(|| "Once upon a time, there was a little fox".to_owned());
    // Any executor will do; this one has no threads.
    pollster::block_on(tell(&prompt))
}

async fn tell(prompt: &str) -> Result<(), Box<dyn std::error::Error>> {
    let gpu = Gpu::open(&GpuOptions::default()).await?;
    let model = foretoken::default_model();
    let engine = Engine::load(&gpu, &model, &EngineOptions::default(), &mut |_| {}).await?;
    let ids = engine.tokenizer()?.encode(prompt, true)?;

    // To the end of the story or of the context, whichever comes first.
    let sampling = Sampling::default().temperature(0.7).top_p(0.95).seed(1);
    let options = GenerateOptions::default().sampling(sampling);
    let mut session = engine.session()?;
    let mut story = session.generate(&ids, &options, &mut |_| {}).await?;
    print!("{prompt}");
    while let Some(token) = story.next().await? {
        // Empty while a character is incomplete.
        print!("{}", token.text);
        io::stdout().flush()?;
    }
    let stats = story.stats();
    println!(
        "\n[{} tokens, {:.1} tokens/s, {} of {} drafts right]",
        stats.new_tokens, stats.tokens_per_s, stats.drafts.accepted, stats.drafts.drafted
    );
    Ok(())
}
