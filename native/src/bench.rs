//! `foretoken bench`: what the kernels and a model reach on an adapter.

use std::path::{Path, PathBuf};

use foretoken::bench::{self, BenchOptions, RandomLlama, Report};
use foretoken::format::checkpoint::Checkpoint;
use foretoken::format::files::Files;
use foretoken::format::mtp::HeadSet;
use foretoken::format::stored::StoredType;
use foretoken::{CacheType, Engine, EngineOptions, Gpu, Result, WeightFormat, model};

use crate::folder::Folder;
use crate::source::{AdapterFlags, Source, locate};
use crate::terminal::{Outcome, SUCCESS, print, print_json, print_status};

#[derive(clap::Args)]
pub struct Args {
    /// A checkpoint folder, a GGUF file or a name on the Hugging Face hub [default: random weights, made in memory]
    #[arg(long, value_name = "MODEL", conflicts_with = "embedded")]
    model: Option<PathBuf>,
    /// Measure the embedded model
    #[arg(long)]
    embedded: bool,
    /// The type of random weights: f32, f16 or bf16
    #[arg(long, value_name = "DTYPE", default_value = "f32", conflicts_with_all = ["model", "embedded"])]
    dtype: StoredType,
    /// The shape of the random model
    #[arg(long, value_name = "SHAPE", default_value = "15m", value_parser = RandomLlama::NAMES, conflicts_with_all = ["model", "embedded", "quick"])]
    shape: String,
    /// Blocks of the random model, in place of as many as its shape has
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["model", "embedded", "quick"], value_parser = clap::value_parser!(u16).range(1..=200))]
    layers: Option<u16>,
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
    /// The shape of the random model.
    fn shape(&self) -> RandomLlama {
        if self.quick {
            return RandomLlama::tiny(self.dtype);
        }
        let shape = RandomLlama::named(&self.shape, self.dtype).expect("the parser takes names that there are");
        RandomLlama { layers: self.layers.map_or(shape.layers, usize::from), ..shape }
    }

    fn options(&self) -> BenchOptions {
        let commit = option_env!("FORETOKEN_COMMIT").map(str::to_owned);
        BenchOptions::default().quick(self.quick).commit(commit)
    }
}

pub async fn run(args: &Args) -> Outcome<u8> {
    let model = match &args.model {
        Some(model) => Some(locate(model).await?),
        None => None,
    };
    let model = model.as_deref();
    check_model(args, model).await?;
    let gpu = args.adapter.open().await?;
    if args.drafts {
        return drafts(args, model, &gpu).await;
    }
    let report = measure(args, model, &gpu).await?;
    if !args.json {
        print(&format!("{report}\n"))?;
    }
    print_json(&report)?;
    Ok(SUCCESS)
}

/// Checks the folders that are named, before an adapter is opened.
async fn check_model(args: &Args, model: Option<&Path>) -> Result<()> {
    let random = model.is_none() && !args.embedded && !args.drafts;
    if random {
        return Ok(());
    }
    let files = match model {
        Some(path) => Source::Folder(Folder::open(path)?),
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

async fn drafts(args: &Args, model: Option<&Path>, gpu: &Gpu) -> Outcome<u8> {
    let files = match model {
        Some(path) => Source::Folder(Folder::open(path)?),
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

async fn measure(args: &Args, model: Option<&Path>, gpu: &Gpu) -> Result<Report> {
    let (kernels, quantize, cache) = (args.adapter.kernel_set(gpu).await?, args.quantize, args.cache);
    let options = args.options().kernels(kernels).quantize(quantize).cache(cache);
    let progress = &mut |what: &str| print_status(format_args!("... {what}"));
    match model {
        Some(path) => bench::run(gpu, &Folder::open(path)?, &options, progress).await,
        None if args.embedded => bench::run(gpu, &foretoken::default_model(), &options, progress).await,
        None => {
            progress("making random weights");
            bench::run(gpu, &args.shape().files(), &options, progress).await
        }
    }
}
