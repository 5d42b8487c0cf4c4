//! What the kernels and a model reach on this machine's adapter: a table for people, and one JSON line last.
//!
//! `cargo bench -- [--quick] [--model DIR|default] [--dtype f32|f16|bf16] [--adapter NAME] [--kernels SET]`
//!
//! Without `--model` a random Llama of 15 million weights is made in memory; `default` is the embedded model.

use std::borrow::Cow;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::PathBuf;
use std::process::Command;

use foretoken::bench::{self, BenchOptions, RandomLlama, Report};
use foretoken::format::files::Files;
use foretoken::format::stored::StoredType;
use foretoken::{Error, ErrorKind, Gpu, GpuOptions, Result};

fn main() -> Result<()> {
    // The first is the program's own name.
    let args = Args::parse(std::env::args().skip(1))?;
    let report = pollster::block_on(measure(&args))?;
    println!("{report}");
    println!("{}", serde_json::to_string(&report).expect("numbers and text are JSON"));
    Ok(())
}

struct Args {
    model: Option<String>,
    dtype: StoredType,
    gpu: GpuOptions,
    options: BenchOptions,
}

impl Args {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut args =
            Self { model: None, dtype: StoredType::F32, gpu: GpuOptions::default(), options: BenchOptions::default() };
        while let Some(word) = words.next() {
            let mut value =
                || words.next().ok_or_else(|| Error::new(ErrorKind::Input, format!("{word} needs a value")));
            match word.as_str() {
                "--quick" => args.options.quick = true,
                "--model" => args.model = Some(value()?),
                "--dtype" => args.dtype = value()?.parse()?,
                "--adapter" => args.gpu.adapter = Some(value()?),
                "--kernels" => args.options.kernels = Some(value()?.parse()?),
                // What `cargo bench` adds.
                "--bench" => {}
                _ => return Err(Error::new(ErrorKind::Input, format!("unknown argument {word}"))),
            }
        }
        args.options.commit = commit();
        Ok(args)
    }
}

/// The commit of the folder that `cargo bench` runs this in; `None` without git.
fn commit() -> Option<String> {
    let words = ["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"];
    let output = Command::new("git").args(words).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

async fn measure(args: &Args) -> Result<Report> {
    let gpu = Gpu::open(&args.gpu).await?;
    let progress = &mut |what: &str| eprintln!("... {what}");
    match args.model.as_deref() {
        None => {
            let shape = if args.options.quick { RandomLlama::tiny(args.dtype) } else { RandomLlama::s15m(args.dtype) };
            bench::run(&gpu, &shape.files(), &args.options, progress).await
        }
        Some("default") => bench::run(&gpu, &foretoken::default_model(), &args.options, progress).await,
        Some(folder) => bench::run(&gpu, &Folder(folder.into()), &args.options, progress).await,
    }
}

struct Folder(PathBuf);

impl Folder {
    fn fail(&self, name: &str, error: &std::io::Error) -> Error {
        Error::new(ErrorKind::Io, format!("{}: {error}", self.0.join(name).display()))
    }
}

impl Files for Folder {
    async fn len(&self, name: &str) -> Result<Option<u64>> {
        Ok(std::fs::metadata(self.0.join(name)).ok().map(|metadata| metadata.len()))
    }

    async fn read(&self, name: &str, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let read = || {
            let mut file = File::open(self.0.join(name))?;
            file.seek(SeekFrom::Start(range.start))?;
            let mut bytes = Vec::new();
            file.take(range.end - range.start).read_to_end(&mut bytes)?;
            Ok(Cow::Owned(bytes))
        };
        read().map_err(|error| self.fail(name, &error))
    }

    fn describe(&self) -> String {
        self.0.display().to_string()
    }
}
