//! `foretoken quantize`: a model as one GGUF file, its matrices in another type. No GPU is used.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::SeqCst;
use std::thread;

use foretoken::format::files::Files;
use foretoken::format::layouts;
use foretoken::format::quantize::{Quantization, Target, TypeCount};
use foretoken::model::Progress;
use foretoken::{Error, Result};

use crate::interrupt::{self, Watch};
use crate::output::NewFile;
use crate::source::ModelFlag;
use crate::terminal::{Meter, Outcome, SUCCESS, bytes, counted, print_status};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelFlag,
    /// What matrices become: q8_0, q6_k, q5_k, q5_1, q5_0, q4_k, q4_1, q4_0, f16, bf16 or f32
    #[arg(long, value_name = "TYPE")]
    to: Target,
    /// The GGUF file to write, which must not be there yet
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub async fn run(args: &Args) -> Outcome<u8> {
    interrupt::install()?;
    let files = args.model.files().await?;
    check_name(&args.out)?;
    let plan = Quantization::plan(&files, args.to).await?;
    for note in plan.notes() {
        print_status(format_args!("note: {note}"));
    }
    let watch = Watch::start();
    let interrupted = watch.flag();
    let total = plan.bytes();
    let mut out = NewFile::begin(&args.out, total)?;
    let mut meter = Meter::default();
    let mut done = 0;
    let threads = thread::available_parallelism().map_or(1, Into::into);
    let mut sink = |part: &[u8]| {
        if interrupted.load(SeqCst) {
            return Err(Error::io("interrupted"));
        }
        out.write(part)?;
        done += part.len() as u64;
        meter.update(Progress::Weights { bytes: done, total });
        Ok(())
    };
    let written = plan.write(threads, &mut sink).await;
    meter.clear();
    if interrupted.load(SeqCst) {
        print_status(format_args!("interrupted: {} was not written", args.out.display()));
        return Ok(interrupt::exit_code());
    }
    written?;
    out.finish()?;
    print_status(format_args!("{}: {}", args.out.display(), description(&plan)));
    Ok(SUCCESS)
}

/// Fails where no program would take the file for a model.
fn check_name(out: &Path) -> Result<()> {
    match out.file_name().and_then(|name| name.to_str()).filter(|name| layouts::is_gguf(name)) {
        Some(_) => Ok(()),
        None => Err(Error::input(format!("{}: expected the name of a file that ends with .gguf", out.display()))),
    }
}

fn description<F: Files>(plan: &Quantization<'_, F>) -> String {
    let types = plan.types();
    let of_type = |(name, count): (&String, &TypeCount)| format!("{} of {name}", counted(count.tensors, "tensor"));
    let sum = |of: fn(&TypeCount) -> u64| types.values().map(of).sum::<u64>();
    let bits = 8.0 * sum(|count| count.bytes) as f64 / sum(|count| count.weights).max(1) as f64;
    let list: Vec<String> = types.iter().map(of_type).collect();
    format!("{}, {bits:.2} bits a weight: {}", bytes(plan.bytes()), list.join(", "))
}
