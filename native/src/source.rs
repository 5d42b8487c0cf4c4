//! Which model, which adapter, which kernels: the flags that the commands share, and what they lead to.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use foretoken::decode::check_prompt;
use foretoken::format::checkpoint::Checkpoint;
use foretoken::format::config::ModelConfig;
use foretoken::format::files::{Files, Known, MemoryFiles};
use foretoken::format::layouts;
use foretoken::format::mtp::HeadSet;
use foretoken::format::tokenizer::Tokenizer;
use foretoken::gpu::AdapterSummary;
use foretoken::{CacheType, Engine, EngineOptions, Error, ErrorKind, Gpu, KernelSet, Result, WeightFormat, model};

use crate::console;
use crate::drafting::HeadsWanted;
use crate::folder::Folder;
use crate::hub::{self, HubName};
use crate::picks;
use crate::prompt::Prompt;
use crate::terminal::{Meter, print_status};

/// The model's flag.
#[derive(clap::Args)]
pub struct ModelFlag {
    /// A checkpoint folder in Hugging Face layout, a GGUF file, or a name on the Hugging Face hub: owner/name, owner/name:Q4_K_M,
    /// owner/name@revision, owner/name/file.gguf [default: the embedded model]
    #[arg(long, value_name = "MODEL")]
    model: Option<PathBuf>,
    /// Where the model is: found once.
    #[arg(skip)]
    found: OnceCell<PathBuf>,
}

impl ModelFlag {
    /// The checkpoint's files; a model of the hub's is downloaded where it is not kept.
    pub async fn files(&self) -> Result<Source> {
        let Some(model) = &self.model else { return Ok(Source::Embedded(foretoken::default_model())) };
        let path = match self.found.get() {
            Some(path) => path,
            None => {
                let path = locate(model).await?;
                self.found.get_or_init(|| path)
            }
        };
        Ok(Source::Folder(Folder::open(path)?))
    }
}

/// The path of a model. What is there under that name comes before the hub's.
pub async fn locate(model: &Path) -> Result<PathBuf> {
    let is_there = fs::symlink_metadata(model).is_ok();
    let name = match model.to_str().map(HubName::parse) {
        Some(name) if is_there => name.ok().flatten(),
        Some(name) => name?,
        None => None,
    };
    match name {
        Some(name) if !is_there => hub::find(&name).await,
        Some(name) => {
            print_status(format_args!("note: {name} is here, so the hub is not asked for a model of this name"));
            Ok(model.to_owned())
        }
        None => Ok(model.to_owned()),
    }
}

/// The environment's word on which adapter to use.
const ADAPTER_VARIABLE: &str = "FORETOKEN_ADAPTER";

/// The adapter's flags.
#[derive(clap::Args)]
pub struct AdapterFlags {
    /// The adapter to use: its number in `foretoken devices`, or a part of its name, backend or driver [env: FORETOKEN_ADAPTER]
    #[arg(long, value_name = "ADAPTER")]
    adapter: Option<String>,
    /// The kernels to use: software, workgroup or subgroup [default: the fastest, measured once]
    #[arg(long, value_name = "NAME")]
    pub kernels: Option<KernelSet>,
}

impl AdapterFlags {
    /// The adapter that the flag or the environment names.
    ///
    /// # Errors
    /// For a variable that is no text.
    pub fn wanted(&self) -> Result<Option<String>> {
        if let Some(adapter) = &self.adapter {
            return Ok(Some(adapter.clone()));
        }
        let value = console::with(|console| (console.variable)(ADAPTER_VARIABLE));
        value.map(OsString::into_string).transpose().map_err(|value| {
            let message = format!("{ADAPTER_VARIABLE} is no UTF-8 text: {}", value.to_string_lossy());
            Error::new(ErrorKind::Input, message)
        })
    }

    /// Opens the adapter.
    pub async fn open(&self) -> Result<Gpu> {
        let wanted = self.wanted()?;
        let gpus = console::with(|console| Arc::clone(&console.gpus));
        gpus.open(wanted.as_deref()).await
    }

    /// The kernel set asked for, else the one known to be the fastest; none leaves it to the library.
    pub async fn kernel_set(&self, gpu: &Gpu) -> Result<Option<KernelSet>> {
        match self.kernels {
            Some(forced) => Ok(Some(forced)),
            None => picks::kernels(gpu).await,
        }
    }
}

/// Prints what is notable about the token ids of texts, each note once.
pub fn print_notes<'a>(tokenizer: &Tokenizer, texts: impl IntoIterator<Item = &'a [u32]>) {
    let (mut notes, mut all) = (BTreeMap::<String, usize>::new(), 0);
    for ids in texts {
        all += 1;
        for note in tokenizer.notes(ids) {
            *notes.entry(note).or_default() += 1;
        }
    }
    for (note, count) in notes {
        let of = if all == 1 { String::new() } else { format!("{count} of {all} texts: ") };
        print_status(format_args!("note: {of}{note}"));
    }
}

/// Advice about a software adapter.
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
    /// Pack matrices as they are loaded: q8_0, q6_k, q4_k, ..., which makes it another model [default: as they are stored]
    #[arg(long, value_name = "FORMAT")]
    quantize: Option<WeightFormat>,
    /// What keys and values are kept in: f32, or f16, which takes half the memory and may change texts
    #[arg(long, value_name = "TYPE", default_value_t)]
    cache: CacheType,
}

/// A loaded model, and what to say about it.
pub struct Loaded {
    /// The model on the GPU.
    pub engine: Engine,
    /// The adapter it is on.
    pub adapter: AdapterSummary,
    /// The name of the model in messages and JSON.
    pub model: String,
    /// How long loading took, from opening the adapter on.
    pub load_s: f64,
}

impl EngineFlags {
    /// The checkpoint's files.
    pub async fn files(&self) -> Result<Source> {
        self.model.files().await
    }

    /// Checks the model with these heads, as far as its files tell, which takes no GPU: what is wrong with a model, a context or
    /// a prompt is said at once, and not after a device was opened and tested.
    pub async fn check<'a>(&'a self, wanted: HeadsWanted<'a>) -> Result<Checked<'a>> {
        let files = self.model.files().await?;
        let head_files = match wanted {
            HeadsWanted::Folder(folder) => Some(Folder::open_heads(folder)?),
            HeadsWanted::Own | HeadsWanted::IfSound | HeadsWanted::Without => None,
        };
        let checkpoint = Checkpoint::open(&files).await?;
        checkpoint.check()?;
        let config = checkpoint.config().clone();
        let own = match (&head_files, wanted) {
            (None, HeadsWanted::Own) => match HeadSet::of_checkpoint(&checkpoint).await {
                // Loading leaves them out, and says so.
                Err(error) if error.kind() == ErrorKind::Unsupported => None,
                found => found.map_err(|error| error.within("multi-token heads"))?,
            },
            _ => None,
        };
        model::check_packing(&checkpoint, own.as_ref(), self.quantize)?;
        if let Some(heads) = &head_files {
            model::check_packing(&checkpoint, Some(&HeadSet::open(heads, &config).await?), self.quantize)?;
        }
        let has_heads = own.is_some() || head_files.is_some();
        let context = model::context(&config, self.context.map(NonZeroUsize::get))?;
        let has_tokenizer = checkpoint.has_tokenizer();
        let tokenizer = OnceCell::new();
        Ok(Checked { flags: self, wanted, files, head_files, tokenizer, config, context, has_tokenizer, has_heads })
    }

    /// Whether the model could be loaded but for the heads that it brings.
    pub async fn only_heads_are_broken(&self) -> bool {
        let Ok(files) = self.model.files().await else { return false };
        let Ok(checkpoint) = Checkpoint::open(&files).await else { return false };
        checkpoint.check().is_ok() && HeadSet::of_checkpoint(&checkpoint).await.is_err()
    }
}

/// A model whose files are as they should be.
pub struct Checked<'a> {
    flags: &'a EngineFlags,
    wanted: HeadsWanted<'a>,
    files: Source,
    head_files: Option<Folder>,
    /// Its tokenizer, once somebody has asked for it: reading a large one takes seconds.
    tokenizer: OnceCell<Arc<Tokenizer>>,
    /// The configuration of the model.
    pub config: ModelConfig,
    /// Tokens that a session will hold.
    pub context: usize,
    /// Whether text can be given to it, not ids alone.
    pub has_tokenizer: bool,
    /// Whether it will have multi-token heads, where they were asked for.
    pub has_heads: bool,
}

impl Checked<'_> {
    /// The tokenizer.
    ///
    /// # Errors
    /// Where there is none, or it is broken.
    pub async fn tokenizer(&self) -> Result<&Tokenizer> {
        if let Some(known) = self.tokenizer.get() {
            return Ok(known);
        }
        let read = layouts::tokenizer(&self.files).await?;
        Ok(self.tokenizer.get_or_init(|| Arc::new(read)))
    }

    /// The ids of a prompt.
    ///
    /// # Errors
    /// Where no session on this model can read them.
    pub async fn prompt_ids(&self, prompt: Prompt) -> Result<Vec<u32>> {
        let (ids, tokenizer) = match prompt {
            Prompt::Ids(ids) => (ids, None),
            Prompt::Text(text) => {
                let tokenizer = self.tokenizer().await?;
                (tokenizer.encode(&text, true)?, Some(tokenizer))
            }
        };
        check_prompt(&ids, &self.config, tokenizer, self.context)?;
        if let Some(tokenizer) = tokenizer {
            print_notes(tokenizer, [&ids[..]]);
        }
        Ok(ids)
    }

    /// Loads the model, with a bar where that takes long and its warnings on standard error.
    pub async fn load(&self, meter: &mut Meter) -> Result<Loaded> {
        let Self { flags, wanted, files, head_files, .. } = self;
        let started = Instant::now();
        let gpu = flags.adapter.open().await?;
        let kernels = flags.adapter.kernel_set(&gpu).await?;
        let context = flags.context.map(NonZeroUsize::get);
        let own = !matches!(wanted, HeadsWanted::Without);
        let (quantize, cache) = (flags.quantize, flags.cache);
        let tokenizer = self.tokenizer.get().cloned();
        let options = EngineOptions::default()
            .context(context)
            .kernels(kernels)
            .heads(own)
            .quantize(quantize)
            .cache(cache)
            .tokenizer(tokenizer);
        let progress = &mut |progress| meter.update(progress);
        let engine = match head_files {
            Some(heads) => Engine::load_with_heads(&gpu, files, heads, &options, progress).await?,
            None => match Engine::load(&gpu, files, &options, progress).await {
                Ok(engine) => engine,
                Err(error) if !matches!(wanted, HeadsWanted::IfSound) => return Err(error),
                Err(error) => {
                    let without = options.heads(false);
                    // Where it is not the heads that are broken, the first error says more.
                    let engine = Engine::load(&gpu, files, &without, progress).await.map_err(|_| error.clone())?;
                    print_status(format_args!("note: the model runs without its multi-token heads: {error}"));
                    engine
                }
            },
        };
        meter.clear();
        for note in engine.notes() {
            print_status(format_args!("note: {note}"));
        }
        let load_s = started.elapsed().as_secs_f64();
        Ok(Loaded { engine, adapter: gpu.summary().clone(), model: files.describe(), load_s })
    }
}

/// A checkpoint's files, wherever they are.
pub enum Source {
    /// Files in a folder of the user's.
    Folder(Folder),
    /// Files in this program.
    Embedded(MemoryFiles),
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

    fn names(&self) -> Vec<String> {
        match self {
            Self::Folder(files) => files.names(),
            Self::Embedded(files) => files.names(),
        }
    }

    fn known(&self) -> Option<&Known> {
        match self {
            Self::Folder(files) => files.known(),
            Self::Embedded(files) => files.known(),
        }
    }
}
