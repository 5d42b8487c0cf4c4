//! Which model, which adapter, which kernels: the flags that the commands share, and what they lead to.

use std::borrow::Cow;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Instant;

use foretoken::format::checkpoint::Checkpoint;
use foretoken::format::files::{Files, MemoryFiles};
use foretoken::format::mtp::HeadSet;
use foretoken::{AdapterSummary, Engine, EngineOptions, Gpu, GpuOptions, KernelSet, Result, WeightFormat};

use crate::drafting::HeadsWanted;
use crate::folder::Folder;
use crate::picks;
use crate::terminal::{Meter, say};

/// The model's flag.
#[derive(clap::Args)]
pub struct ModelFlag {
    /// A checkpoint folder in Hugging Face layout [default: the embedded model]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
}

impl ModelFlag {
    /// The checkpoint's files.
    pub fn files(&self) -> Result<Source> {
        Ok(match &self.model {
            Some(path) => Source::Folder(Folder::open(path)?),
            None => Source::Embedded(foretoken::default_model()),
        })
    }
}

/// The adapter's flags.
#[derive(clap::Args)]
pub struct AdapterFlags {
    /// The adapter to use: its number in `foretoken devices`, or a part of its name, backend or driver
    #[arg(long, value_name = "ADAPTER", env = "FORETOKEN_ADAPTER")]
    pub adapter: Option<String>,
    /// The kernels to use: software, workgroup or subgroup [default: the fastest, measured once]
    #[arg(long, value_name = "NAME")]
    pub kernels: Option<KernelSet>,
}

impl AdapterFlags {
    /// Opens the adapter.
    pub async fn open(&self) -> Result<Gpu> {
        Gpu::open(&GpuOptions { adapter: self.adapter.clone(), ..Default::default() }).await
    }

    /// The kernel set asked for, else the one known to be the fastest; none leaves it to the library.
    pub async fn kernel_set(&self, gpu: &Gpu) -> Result<Option<KernelSet>> {
        match self.kernels {
            Some(forced) => Ok(Some(forced)),
            None => picks::kernels(gpu).await,
        }
    }
}

/// What to do about a software adapter.
pub fn advice(adapter: &AdapterSummary) -> Option<String> {
    let driver = if cfg!(target_os = "linux") {
        "install its Vulkan driver (on Debian and Ubuntu mesa-vulkan-drivers for AMD and Intel, nvidia-driver for NVIDIA)"
    } else {
        "install its maker's driver"
    };
    let slow =
        format!("{} is a software adapter: it computes on the processor. If there is a GPU, {driver}", adapter.name);
    adapter.software.then_some(slow)
}

/// The flags of commands that compute with a model.
#[derive(clap::Args)]
pub struct EngineFlags {
    #[command(flatten)]
    model: ModelFlag,
    #[command(flatten)]
    adapter: AdapterFlags,
    /// The longest text in tokens, prompt included [default: the model's own, at most 4096]
    #[arg(long, value_name = "TOKENS")]
    context: Option<NonZeroUsize>,
    /// Pack matrices as they are loaded: q8_0 takes 8.5 bits a weight, and makes it another model [default: as they are stored]
    #[arg(long, value_name = "FORMAT")]
    quantize: Option<WeightFormat>,
}

/// A loaded model, and what to say about it.
pub struct Loaded {
    /// The model on the GPU.
    pub engine: Engine,
    /// The adapter it is on.
    pub adapter: AdapterSummary,
    /// What messages and JSON call the model.
    pub model: String,
    /// How long loading took, from opening the adapter on.
    pub load_s: f64,
}

impl EngineFlags {
    /// The checkpoint's files.
    pub fn files(&self) -> Result<Source> {
        self.model.files()
    }

    /// Loads the model, with a bar where that takes long and its warnings on standard error. It does not need heads, so broken
    /// ones do not stop it.
    pub async fn load(&self, meter: &mut Meter) -> Result<Loaded> {
        self.load_with(HeadsWanted::IfSound, meter).await
    }

    /// Whether the model could be loaded but for the heads that it brings.
    pub async fn only_heads_are_broken(&self) -> bool {
        let Ok(files) = self.model.files() else { return false };
        let Ok(checkpoint) = Checkpoint::open(&files).await else { return false };
        checkpoint.check().is_ok() && HeadSet::of_checkpoint(&checkpoint).await.is_err()
    }

    /// The same, with these heads.
    pub async fn load_with(&self, heads: HeadsWanted<'_>, meter: &mut Meter) -> Result<Loaded> {
        let started = Instant::now();
        let files = self.model.files()?;
        let heads_files = match heads {
            HeadsWanted::Folder(folder) => Some(Folder::open_heads(folder)?),
            HeadsWanted::Own | HeadsWanted::IfSound | HeadsWanted::Without => None,
        };
        let gpu = self.adapter.open().await?;
        let kernels = self.adapter.kernel_set(&gpu).await?;
        let context = self.context.map(NonZeroUsize::get);
        let own = !matches!(heads, HeadsWanted::Without);
        let options = EngineOptions { context, kernels, heads: own, quantize: self.quantize, ..Default::default() };
        let progress = &mut |progress| meter.update(progress);
        let engine = match &heads_files {
            Some(heads) => Engine::load_with_heads(&gpu, &files, heads, &options, progress).await?,
            None => match Engine::load(&gpu, &files, &options, progress).await {
                Ok(engine) => engine,
                Err(error) if !matches!(heads, HeadsWanted::IfSound) => return Err(error),
                Err(error) => {
                    let without = EngineOptions { heads: false, ..options };
                    // Where it is not the heads that are broken, the first error says more.
                    let engine = Engine::load(&gpu, &files, &without, progress).await.map_err(|_| error.clone())?;
                    say(format_args!("note: the model runs without its multi-token heads: {error}"));
                    engine
                }
            },
        };
        meter.clear();
        for note in engine.notes() {
            say(format_args!("note: {note}"));
        }
        let load_s = started.elapsed().as_secs_f64();
        Ok(Loaded { engine, adapter: gpu.summary().clone(), model: files.describe(), load_s })
    }
}

/// A checkpoint's files, wherever they are.
pub enum Source {
    /// In a folder of the user's.
    Folder(Folder),
    /// In this program.
    Embedded(MemoryFiles),
}

impl Source {
    /// The names of what is there, in order; not all need be files.
    pub fn names(&self) -> Vec<String> {
        match self {
            Self::Folder(files) => files.names().cloned().collect(),
            Self::Embedded(files) => files.files.keys().cloned().collect(),
        }
    }
}

impl Files for Source {
    async fn len(&self, name: &str) -> Result<Option<u64>> {
        match self {
            Self::Folder(files) => files.len(name).await,
            Self::Embedded(files) => files.len(name).await,
        }
    }

    async fn read(&self, name: &str, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        match self {
            Self::Folder(files) => files.read(name, range).await,
            Self::Embedded(files) => files.read(name, range).await,
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Folder(files) => files.describe(),
            Self::Embedded(files) => files.describe(),
        }
    }
}
