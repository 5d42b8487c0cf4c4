//! `foretoken bench`: what the kernels and a model reach on an adapter.

use std::path::PathBuf;
use std::process::ExitCode;

use foretoken::bench::{self, BenchOptions, RandomLlama, Report};
use foretoken::format::safetensors::Dtype;
use foretoken::{Gpu, Result};

use crate::folder::Folder;
use crate::source::AdapterFlags;
use crate::terminal::{Outcome, print, print_json, say};

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
    dtype: Dtype,
    #[command(flatten)]
    adapter: AdapterFlags,
    /// A small model and few samples: shows that everything runs, not how fast
    #[arg(long)]
    quick: bool,
    /// Print the JSON line only
    #[arg(long)]
    json: bool,
}

pub async fn run(args: &Args) -> Outcome<ExitCode> {
    let gpu = args.adapter.open().await?;
    let report = measure(args, &gpu).await?;
    if !args.json {
        print(&format!("{report}\n"))?;
    }
    print_json(&report)?;
    Ok(ExitCode::SUCCESS)
}

async fn measure(args: &Args, gpu: &Gpu) -> Result<Report> {
    let options = BenchOptions { kernels: args.adapter.kernel_set(gpu).await?, quick: args.quick };
    let progress = &mut |what: &str| say(format_args!("... {what}"));
    match &args.model {
        Some(folder) => bench::run(gpu, &Folder::open(folder)?, &options, progress).await,
        None if args.embedded => bench::run(gpu, &foretoken::default_model(), &options, progress).await,
        None => {
            let shape = if args.quick { RandomLlama::tiny(args.dtype) } else { RandomLlama::s15m(args.dtype) };
            bench::run(gpu, &shape.files(), &options, progress).await
        }
    }
}
