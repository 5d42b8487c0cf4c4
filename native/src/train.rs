//! `foretoken train`: heads that a model learns to draft with, written to a folder of their own.

mod distill;
mod dump;
mod flags;
mod folder;
mod marginal;
mod plot;
mod steps;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use foretoken::format::checkpoint::Checkpoint;
use foretoken::format::files::{Files, MemoryFiles, read_exact, read_whole};
use foretoken::format::mtp::{CONFIG, Head, HeadSet, TENSORS, add_lora, init_heads};
use foretoken::train::data::{DataFormat, Dataset, Document, Vocabulary, read};
use foretoken::train::schedule::Schedule;
use foretoken::train::{Memory, Trainer};
use foretoken::{Engine, EngineOptions, Error, Gpu, KernelSet, Result, TrainOptions};
use serde_json::Value;

use crate::folder::Folder;
use crate::interrupt::{self, Watch};
use crate::machine;
use crate::output::io_error;
use crate::prompt::{MARK, print_mark};
use crate::source::{Source, advice, print_notes};
use crate::terminal::{Failure, Meter, Outcome, SUCCESS, bytes, print_status};
use distill::{Distilled, Wanted};
pub use flags::Args;
use folder::{Device, Identity, OutFolder};
use foretoken::format::hash::Hash;
use marginal::Labels;
use steps::{Stopped, Training};

/// What a model folder may say about its own training.
const RECORD: &str = "training.json";

const MAX_RECORD_BYTES: u64 = 16 << 20;

/// The flags for the options that messages of the library name.
const FLAGS: [(&str, &str); 5] = [
    ("sequences", "--batch"),
    ("length", "--seq-len"),
    ("accumulate", "--accumulate"),
    ("max_norm", "--clip"),
    ("rate", "--lr"),
];

pub async fn run(args: &Args) -> Outcome<u8> {
    train(args).await.map_err(|failure| match failure {
        Failure::Error(error) => error.with_names(&FLAGS).into(),
        Failure::ReaderGone => Failure::ReaderGone,
    })
}

async fn train(args: &Args) -> Outcome<u8> {
    interrupt::install()?;
    args.check()?;
    let files = args.model.files().await?;
    let checkpoint = Checkpoint::open(&files).await?;
    checkpoint.check()?;
    for note in checkpoint.notes() {
        print_status(format_args!("note: {note}"));
    }
    let config = checkpoint.config();
    let length = args.seq_len(config)?;
    let rate = match args.lr {
        Some(rate) => rate,
        None => recorded_rate(&files).await?,
    };
    let tokenizer = checkpoint.tokenizer().await?;
    let end = config.eos_token_ids.first().copied();
    let vocabulary = Vocabulary { tokenizer: &tokenizer, size: config.vocab_size, end };
    let (documents, format, data_hash) = texts(&args.data, &vocabulary)?;
    // Before the model is hashed, which takes long: what is wrong with the texts.
    let data = if args.self_distill {
        None
    } else {
        let data = Dataset::new(&documents, format, length, args.counted());
        Some(data.map_err(|error| error.within(args.data.display()))?)
    };
    let valid = match &args.valid {
        Some(path) => {
            let (documents, format, _) = texts(path, &vocabulary)?;
            Some(
                Dataset::new(&documents, format, length, args.counted())
                    .map_err(|error| error.within(path.display()))?,
            )
        }
        None => None,
    };
    let first = FirstHeads::new(args, &checkpoint).await?;
    args.check_target(&first.heads)?;
    check_reach(&first.heads, length, data.as_ref())?;
    if let Some(valid) = &valid {
        let unseen = |head: &&Head| valid.targets_at(head.offset) == 0;
        for Head { offset, .. } in first.heads.iter().filter(unseen) {
            print_status(format_args!("note: no token of --valid counts for the head for token +{offset}"));
        }
    }
    folder::check(&args.out, args.resume)?;
    if let Some(path) = &args.dump_batches {
        dump::check(path)?;
    }
    let gpu = args.adapter.open().await?;
    let in_valid = valid.as_ref().map_or(0, |valid| valid.most_targets_in_order(args.batch));
    let options = |picked: usize| args.train_options(length, picked.max(in_valid), &first.heads);
    // Before hours go into own texts or marginals. Of texts that are not there yet a batch has at least one target.
    let least = data.as_ref().map_or(1, |data| data.most_targets(args.batch));
    memory_needed(&gpu, &files, &first, &options(least)).await?;
    let identity = Identity {
        model: checkpoint.identity().await?,
        data: data_hash,
        warmup_heads: first.hash.clone(),
        flags: args.deciding(length, rate, first.rank),
    };
    let mut out = OutFolder::open(&args.out, identity, args.resume)?;
    let watch = Watch::start();
    let interrupt = watch.flag();
    let kernels = args.adapter.kernel_set(&gpu).await?;
    // What texts and labels are made with: the model alone, whatever heads lie beside it.
    let base = EngineOptions::default().kernels(kernels).heads(false).quantize(args.quantize);
    let set = kernels.unwrap_or_else(|| KernelSet::default_for(gpu.summary()));
    if let Some(before) = out.computed_by(device(&gpu, set))? {
        let now = device(&gpu, set);
        print_status(format_args!(
            "note: until now {before} computed, now {now}: bits may differ from those of a run on one alone"
        ));
    }
    let data = match data {
        Some(data) => data,
        None => {
            let (tokens, prompt, counted) = (args.distill_tokens, args.distill_prompt, args.counted());
            let wanted = Wanted { tokens, prompt, length, vocabulary: config.vocab_size, counted };
            match own_texts(&out, &gpu, &base, &files, &documents, &wanted, &interrupt).await? {
                Some(data) => {
                    check_reach(&first.heads, length, Some(&data))?;
                    data
                }
                None => return Ok(interrupt::exit_code()),
            }
        }
    };
    print_left_out(&data);
    let batches = data.batches(args.seed, args.batch, args.accumulate);
    let schedule = Schedule::new(rate, args.warmup_steps, args.steps(batches.steps_an_epoch()))?;
    if let Some(path) = &args.dump_batches {
        dump::write(path, batches, schedule.steps(), [args.batch, length])?;
    }
    let options = options(data.most_targets(args.batch));
    let memory = memory_needed(&gpu, &files, &first, &options).await?;
    print_status(format_args!(
        "[training on {}: {} of memory; {} for the model, {} for gradients and moments, {} for a batch]",
        gpu.summary().name,
        bytes(memory.total()),
        bytes(memory.weights),
        bytes(memory.trained),
        bytes(memory.activations)
    ));
    let labels = if args.needs_marginals() {
        let layout = marginal::Layout::new(&data, first.heads.iter().map(|head| head.offset), length);
        match marginals(&out, &gpu, &base, &files, &data, layout, &interrupt).await? {
            Some(labels) => Some(labels),
            None => return Ok(interrupt::exit_code()),
        }
    } else {
        None
    };
    let mut meter = Meter::default();
    let trainer =
        Trainer::load(&gpu, &files, &first.files, kernels, &options, &mut |progress| meter.update(progress)).await?;
    meter.clear();
    let (data, valid) = (&data, valid.as_ref());
    let mut training = Training { args, trainer, data, valid, labels, schedule, log: out.log()?, seconds: 0.0 };
    let stopped = training.go_on(&mut out, &interrupt).await?;
    let model = files.describe();
    training.report(&out, &gpu, &model, stopped)?;
    if let Some(advice) = advice(gpu.summary()).filter(|_| !args.json) {
        print_status(format_args!("note: {advice}"));
    }
    Ok(match stopped {
        Stopped::Finished => SUCCESS,
        Stopped::Interrupt => interrupt::exit_code(),
    })
}

/// The memory that the training needs, if the adapter has it.
async fn memory_needed(gpu: &Gpu, files: &Source, first: &FirstHeads, options: &TrainOptions) -> Result<Memory> {
    let memory = Trainer::memory(gpu, files, &first.files, options).await?;
    // A software adapter has what the machine has. WebGPU does not say how much a GPU has.
    let limit = if gpu.summary().software { machine::memory() } else { None };
    memory.check(gpu.summary().max_binding_bytes, limit)?;
    Ok(memory)
}

/// Half the learning rate of the pre-training, where the model folder records one.
async fn recorded_rate(files: &Source) -> Result<f64> {
    let place = || format!("{RECORD} in {}", files.describe());
    let Some(json) = read_whole(files, RECORD, MAX_RECORD_BYTES).await? else {
        let message = format!("--lr is needed: there is no {}, which could record \"learning_rate\"", place());
        return Err(Error::input(message));
    };
    let wrong = |what: String| Error::format(format!("{}: {what}; or give --lr", place()));
    let record: Value = serde_json::from_slice(&json).map_err(|error| wrong(error.to_string()))?;
    match record["learning_rate"].as_f64().filter(|rate| rate.is_finite() && *rate > 0.0) {
        Some(rate) => Ok(rate / 2.0),
        None => Err(wrong(format!("\"learning_rate\": expected a number above 0, got {}", record["learning_rate"]))),
    }
}

/// The texts of a file, and the hash of its bytes.
fn texts(path: &Path, vocabulary: &Vocabulary<'_>) -> Result<(Vec<Document>, DataFormat, String)> {
    let format = DataFormat::of_name(&path.to_string_lossy())?;
    let bytes = fs::read(path).map_err(|error| io_error(path, &error))?;
    let documents = read(&bytes, format, vocabulary).map_err(|error| error.within(path.display()))?;
    if bytes.starts_with(MARK.to_string().as_bytes()) {
        print_mark(path.display());
    }
    // The end that training puts behind each text is nothing to speak of.
    let own = |document: &Document| document.ids.len() - usize::from(vocabulary.end.is_some());
    print_notes(vocabulary.tokenizer, documents.iter().map(|document| &document.ids[..own(document)]));
    let mut hash = Hash::new();
    hash.add_part("data", &bytes);
    Ok((documents, format, hash.text()))
}

/// The device that computes.
fn device(gpu: &Gpu, kernels: KernelSet) -> Device {
    let summary = gpu.summary();
    let driver = format!("{} {}", summary.driver, summary.driver_info).trim().to_owned();
    Device { adapter: summary.name.clone(), driver, kernels: kernels.to_string() }
}

/// The heads to begin with.
struct FirstHeads {
    /// The heads' files, in memory.
    files: MemoryFiles,
    /// The hash of those that came from a folder on disk.
    hash: Option<String>,
    heads: Vec<Head>,
    /// The rank of the LoRA that is trained.
    rank: Option<usize>,
}

impl FirstHeads {
    async fn new(args: &Args, checkpoint: &Checkpoint<'_, Source>) -> Result<Self> {
        let config = checkpoint.config();
        let (made, hash) = match &args.warmup_heads {
            None => (init_heads(checkpoint, &args.init_options(config)?).await?, None),
            Some(path) => {
                let folder = Folder::open_heads(path)?;
                HeadSet::open(&folder, config).await?;
                let (mut read, mut hash) = (BTreeMap::new(), Hash::new());
                for name in [CONFIG, TENSORS] {
                    let Some(len) = folder.len(name).await? else {
                        let message = format!(
                            "{}: {name} is missing; expected heads in this program's own layout",
                            path.display()
                        );
                        return Err(Error::input(message));
                    };
                    let bytes = read_exact(&folder, name, 0..len).await?;
                    hash.add_part(name, &bytes);
                    read.insert(name.to_owned(), bytes.into_owned());
                }
                (read, Some(hash.text()))
            }
        };
        let name = args.warmup_heads.as_ref().map_or("new heads".to_owned(), |path| path.display().to_string());
        let files =
            |made: BTreeMap<String, Vec<u8>>| made.into_iter().map(|(name, bytes)| (name, bytes.into())).collect();
        let mut made = MemoryFiles { name, files: files(made) };
        let HeadSet { mut heads, lora, .. } = HeadSet::open(&made, config).await?;
        let mut rank = args.brought_rank(lora.as_ref())?;
        if rank.is_none() && args.has_lora() {
            let options = args.lora_options(config, &heads)?;
            let mut owned =
                std::mem::take(&mut made.files).into_iter().map(|(name, bytes)| (name, bytes.into_owned())).collect();
            add_lora(&mut owned, config, &options)?;
            made.files = files(owned);
            heads = HeadSet::open(&made, config).await?.heads;
            rank = Some(options.rank);
        }
        args.check_next_token(&heads, lora.is_some())?;
        Ok(Self { files: made, hash, heads, rank })
    }
}

/// Checks that each head has something to learn: where `data` is not known yet, as far as the length of a sequence tells.
fn check_reach(heads: &[Head], length: usize, data: Option<&Dataset>) -> Result<()> {
    for offset in heads.iter().map(|head| head.offset) {
        let message = if offset >= length {
            format!(
                "the head for token +{offset} sees none in sequences of {length} tokens: use a larger --seq-len, or fewer heads"
            )
        } else if data.is_some_and(|data| data.targets_at(offset) == 0) {
            format!("no token of the data counts for the head for token +{offset}: use longer texts, or fewer heads")
        } else {
            continue;
        };
        return Err(Error::input(message));
    }
    Ok(())
}

/// The model's own continuations, as far as they are not there yet; `None` if interrupted.
async fn own_texts(
    out: &OutFolder,
    gpu: &Gpu,
    base: &EngineOptions,
    files: &Source,
    documents: &[Document],
    wanted: &Wanted,
    interrupt: &Arc<AtomicBool>,
) -> Result<Option<Dataset>> {
    let path = out.join(distill::FILE);
    let mut lines = distill::completed(&path, documents, wanted)?;
    if lines.len() < documents.len() {
        let mut meter = Meter::default();
        let options = base.clone().context(wanted.length);
        let engine = Engine::load(gpu, files, &options, &mut |progress| meter.update(progress)).await?;
        meter.clear();
        let mut session = engine.session()?;
        if !distill::go_on(&mut session, &path, documents, wanted, &mut lines, interrupt).await? {
            let (done, total) = (lines.len(), documents.len());
            print_status(format_args!(
                "interrupted: {done} of {total} own texts are in {}; --resume goes on",
                path.display()
            ));
            return Ok(None);
        }
    }
    let texts: Vec<(Vec<u32>, usize)> = lines
        .into_iter()
        .map(|Distilled { prompt_ids, ids, .. }| ([&prompt_ids[..], &ids].concat(), prompt_ids.len()))
        .collect();
    let texts = texts.iter().map(|(ids, prompt)| (&ids[..], *prompt));
    Dataset::each(texts, wanted.length, wanted.counted).map(Some).map_err(|error| error.within(path.display()))
}

/// The marginals of all sequences, computed as far as they are not there yet; `None` if interrupted.
async fn marginals(
    out: &OutFolder,
    gpu: &Gpu,
    base: &EngineOptions,
    files: &Source,
    data: &Dataset,
    layout: marginal::Layout,
    interrupt: &Arc<AtomicBool>,
) -> Result<Option<Labels>> {
    let path = out.join(marginal::FILE);
    let done = marginal::completed(&path, &layout)?;
    if done < data.len() {
        print_status(format_args!("marginals of {} sequences as labels: {}", data.len(), bytes(layout.bytes())));
        let mut meter = Meter::default();
        let options = base.clone().context(data.length());
        let engine = Engine::load(gpu, files, &options, &mut |progress| meter.update(progress)).await?;
        meter.clear();
        let mut session = engine.session()?;
        if !marginal::go_on(&mut session, &path, data, &layout, done, interrupt).await? {
            print_status(format_args!("interrupted: the labels so far are in {}; --resume goes on", path.display()));
            return Ok(None);
        }
    }
    Labels::open(&path, layout).map(Some)
}

fn print_left_out(data: &Dataset) {
    if data.dropped > 0 {
        print_status(format_args!("note: {} sequences have no token to learn from and are left out", data.dropped));
    }
    if data.truncated > 0 {
        print_status(format_args!("note: {} sequences are cut to --seq-len", data.truncated));
    }
    if data.unused > 0 {
        print_status(format_args!("note: the last {} tokens fill no sequence and are left out", data.unused));
    }
    let (longest, length) = (data.longest(), data.length());
    if longest < length {
        print_status(format_args!(
            "note: every batch is computed at the {length} tokens of --seq-len, but no sequence has more than {longest}: --seq-len \
             {longest} learns the same in less time"
        ));
    }
}
