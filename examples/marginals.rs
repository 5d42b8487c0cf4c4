//! The tokens that may stand two places ahead, summed over all that may stand in between.
//!
//! `cargo run --release --example marginals -- [PROMPT]`

use foretoken::model::Progress;
use foretoken::{Engine, EngineOptions, Gpu, GpuOptions, MarginalOptions, Result};

fn main() -> Result<()> {
    let prompt = std::env::args().nth(1).unwrap_or_else(|| "Once upon a time, there was a little".to_owned());
    pollster::block_on(look(&prompt))
}

async fn look(prompt: &str) -> Result<()> {
    let gpu = Gpu::open(&GpuOptions::default()).await?;
    let engine = Engine::load(&gpu, &foretoken::default_model(), &EngineOptions::default(), &mut |_| {}).await?;
    let tokenizer = engine.tokenizer()?;
    let ids = tokenizer.encode(prompt, true)?;

    let options = MarginalOptions::default().offset(2).top(5);
    let mut told = |progress| {
        if let Progress::Branches { done, total } = progress {
            eprintln!("{done} of {total} tokens in between");
        }
    };
    let found = engine.session()?.marginals(&ids, &options, &mut told).await?;
    println!("{prompt} ... and after the next token:");
    for token in &found.top {
        // The sum over every token in between lies within the bounds for certain.
        println!(
            "{:.4}  [{:.4}, {:.4}]  {}",
            token.p,
            token.low,
            token.high,
            tokenizer.token_text(token.id).unwrap_or_default()
        );
    }
    Ok(())
}
