//! `foretoken bench`: what the kernels and a model reach on an adapter.

use std::path::PathBuf;

use foretoken::bench::{self, BenchOptions, RandomLlama, Report};
use foretoken::format::checkpoint::Checkpoint;
use foretoken::format::files::Files;
use foretoken::format::mtp::HeadSet;
use foretoken::format::stored::StoredType;
use foretoken::{CacheType, Engine, EngineOptions, Gpu, Result, WeightFormat, model};

use crate::folder::Folder;
use crate::source::{AdapterFlags, Source};
use crate::terminal::{Outcome, SUCCESS, print, print_json, print_status};

#[derive(clap::Args)]
pub struct Args {
    /// A checkpoint folder in Hugging Face layout [default: random weights, made in memory]
    #[arg(long, value_name = "DIR", conflicts_with = "embedded")]
    model: Option<PathBuf>,
    /// Measure the embedded model
    #[arg(long)]
    embedded: bool,
    /// The type of random weights: f32, f16 or bf16
    #[arg(long, value_name = "DTYPE", default_value = "f32", conflicts_with_all = ["model", "embedded"])]
    dtype: StoredType,
    #[command(flatten)]
    adapter: AdapterFlags,
    /// Pack the model's matrices as they are loaded: q8_0, q4_0, ... [default: as they are stored]
    #[arg(long, value_name = "FORMAT")]
    quantize: Option<WeightFormat>,
    /// What keys and values are kept in: f32 or f16
    #[arg(long, value_name = "TYPE", default_value_t)]
    cache: CacheType,
    /// Measure the drafters only: tokens a round, and what a round costs over a plain step [default model: the embedded one]
    #[arg(long)]
    drafts: bool,
    /// With --drafts: a folder with multi-token heads
    #[arg(long, value_name = "DIR", requires = "drafts")]
    heads: Option<PathBuf>,
    /// With --drafts: what the texts begin with
    #[arg(long, value_name = "TEXT", requires = "drafts", default_value = "Once upon a time")]
    prompt: String,
    /// A small model and few samples: shows that everything runs, not how fast
    #[arg(long)]
    quick: bool,
    /// Print the JSON line only
    #[arg(long)]
    json: bool,
}

impl Args {
    fn options(&self) -> BenchOptions {
        let commit = option_env!("FORETOKEN_COMMIT").map(str::to_owned);
        BenchOptions::default().quick(self.quick).commit(commit)
    }
}

pub async fn run(args: &Args) -> Outcome<u8> {
    check_model(args).await?;
    let gpu = args.adapter.open().await?;
    if args.drafts {
        return drafts(args, &gpu).await;
    }
    let report = measure(args, &gpu).await?;
    if !args.json {
        print(&format!("{report}\n"))?;
    }
    print_json(&report)?;
    Ok(SUCCESS)
}

/// Checks the folders that are named, before an adapter is opened.
async fn check_model(args: &Args) -> Result<()> {
    let files = match &args.model {
        Some(folder) => Source::Folder(Folder::open(folder)?),
        None => Source::Embedded(foretoken::default_model()),
    };
    let checkpoint = Checkpoint::open(&files).await?;
    checkpoint.check()?;
    match &args.heads {
        Some(heads) => {
            let heads = Folder::open_heads(heads)?;
            let set = HeadSet::open(&heads, checkpoint.config()).await?;
            model::check_packing(&checkpoint, Some(&set), args.quantize)?;
        }
        None => model::check_packing(&checkpoint, None::<&HeadSet<'_, Source>>, args.quantize)?,
    }
    Ok(())
}

async fn drafts(args: &Args, gpu: &Gpu) -> Outcome<u8> {
    let files = match &args.model {
        Some(folder) => Source::Folder(Folder::open(folder)?),
        None => Source::Embedded(foretoken::default_model()),
    };
    let (kernels, quantize, cache) = (args.adapter.kernel_set(gpu).await?, args.quantize, args.cache);
    let options = EngineOptions::default().kernels(kernels).quantize(quantize).cache(cache);
    let engine = match &args.heads {
        Some(heads) => Engine::load_with_heads(gpu, &files, &Folder::open_heads(heads)?, &options, &mut |_| {}).await?,
        None => Engine::load(gpu, &files, &options, &mut |_| {}).await?,
    };
    let prompt = engine.tokenizer()?.encode(&args.prompt, true)?;
    let progress = &mut |what: &str| print_status(format_args!("... {what}"));
    let report = bench::drafts(&engine, files.describe(), &prompt, &args.options(), progress).await?;
    if !args.json {
        print(&format!("{report}\n"))?;
    }
    print_json(&report)?;
    Ok(SUCCESS)
}

async fn measure(args: &Args, gpu: &Gpu) -> Result<Report> {
    let (kernels, quantize, cache) = (args.adapter.kernel_set(gpu).await?, args.quantize, args.cache);
    let options = args.options().kernels(kernels).quantize(quantize).cache(cache);
    let progress = &mut |what: &str| print_status(format_args!("... {what}"));
    match &args.model {
        Some(folder) => bench::run(gpu, &Folder::open(folder)?, &options, progress).await,
        None if args.embedded => bench::run(gpu, &foretoken::default_model(), &options, progress).await,
        None => {
            let shape = if args.quick { RandomLlama::tiny(args.dtype) } else { RandomLlama::s15m(args.dtype) };
            bench::run(gpu, &shape.files(), &options, progress).await
        }
    }
}
