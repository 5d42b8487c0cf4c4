//! A head that learns, on the GPU, to draft for the embedded model; then a text that it drafts.
//!
//! `cargo run --release --example train_heads -- [STEPS]`

use foretoken::format::checkpoint::Checkpoint;
use foretoken::format::files::MemoryFiles;
use foretoken::format::mtp::{InitOptions, init_heads};
use foretoken::train::data::{Counted, DataFormat, Dataset, Vocabulary, read};
use foretoken::{
    DraftOptions, Drafter, Engine, EngineOptions, GenerateOptions, Gpu, GpuOptions, Result, TrainOptions, Trainer,
};

/// Far too little to learn from, but enough to see the loss fall.
const TEXTS: &str =
    "Once upon a time, there was a little fox who liked red apples. The fox ran to the tree and ate an apple.
<|endoftext|>
Tom likes red apples. Tom likes green apples. One day, Tom saw a big tree with red apples and was very happy.
";

fn main() -> Result<()> {
    let steps = std::env::args().nth(1).and_then(|steps| steps.parse().ok()).unwrap_or(20);
    pollster::block_on(train(steps))
}

async fn train(steps: u64) -> Result<()> {
    let gpu = Gpu::open(&GpuOptions::default()).await?;
    let base = foretoken::default_model();
    let checkpoint = Checkpoint::open(&base).await?;

    // One sequential head of one layer, which begins as a copy of the model's last block.
    let init = InitOptions::default().heads(1).sequential(true).seed(1);
    let heads = in_memory("new heads", init_heads(&checkpoint, &init).await?);

    let tokenizer = checkpoint.tokenizer().await?;
    let end = checkpoint.config().eos_token_ids.first().copied();
    let vocabulary = Vocabulary { tokenizer: &tokenizer, size: checkpoint.config().vocab_size, end };
    let documents = read(TEXTS.as_bytes(), DataFormat::Text, &vocabulary)?;
    let options = TrainOptions::default().sequences(2).length(16);
    let data = Dataset::new(&documents, DataFormat::Text, options.length, Counted::All)?;

    // What it needs is known before anything is loaded.
    println!("{} bytes of memory", Trainer::memory(&gpu, &base, &heads, &options).await?.total());
    let mut trainer = Trainer::load(&gpu, &base, &heads, None, &options, &mut |_| {}).await?;
    let mut batches = data.batches(1, options.sequences, options.accumulate);
    for step in 0..steps {
        let report = trainer.step(&batches.step(step), 1e-3).await?;
        for loss in &report.losses {
            println!("step {}: the head for token +{} has a loss of {:.3} nats", step + 1, loss.offset, loss.nll);
        }
    }

    // What a folder of heads holds; the command's --draft takes the same files.
    let trained = in_memory("trained heads", trainer.save().await?);
    drop(trainer);
    let engine = Engine::load_with_heads(&gpu, &base, &trained, &EngineOptions::default(), &mut |_| {}).await?;
    let prompt = engine.tokenizer()?.encode("Once upon a time, there was a little fox", true)?;
    let draft = DraftOptions::default().drafter(Drafter::Heads);
    let options = GenerateOptions::default().max_tokens(40).draft(draft);
    let mut session = engine.session()?;
    let mut text = session.generate(&prompt, &options, &mut |_| {}).await?;
    while text.next().await?.is_some() {}
    println!("{}\n{:?}", text.text(), text.stats().drafts);
    Ok(())
}

fn in_memory(name: &str, files: impl IntoIterator<Item = (String, Vec<u8>)>) -> MemoryFiles {
    let files = files.into_iter().map(|(name, bytes)| (name, bytes.into())).collect();
    MemoryFiles { name: name.to_owned(), files }
}
