//! `foretoken analyze`: how well a model, its marginals and its heads predict ahead, with intervals.

mod data;
mod markdown;
mod measure;
mod plots;
mod store;
mod timing;

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::Ordering::SeqCst;

use clap::ValueEnum;
use foretoken::analysis::{FolderFacts, Method, Report, Run, Settings, Shard};
use foretoken::format::checkpoint::Checkpoint;
use foretoken::format::mtp;
use foretoken::{Engine, Error, Result};

use crate::drafting::HeadsWanted;
use crate::folder::Folder;
use crate::interrupt::{self, Watch};
use crate::source::{Checked, EngineFlags, Loaded};
use crate::terminal::{Meter, Outcome, SUCCESS, bar, print, print_status};
use data::Sample;
use measure::Measurer;
use store::Store;
use timing::Timing;

/// The message where heads are to be measured and there are none.
const NO_HEADS: &str = "the model brings no multi-token heads: name folders with --heads";

/// Flags of a measurement, of no use where shards are put together. An adapter may be named for every command.
const MEASURING: [&str; 16] = [
    "model",
    "kernels",
    "context",
    "heads",
    "data",
    "methods",
    "offsets",
    "top",
    "last",
    "mass",
    "protocol",
    "feed",
    "lens_samples",
    "truncate",
    "resamples",
    "seed",
];

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    engine: EngineFlags,
    /// A folder with multi-token heads; may be given several times, the first are those that others are compared with [default:
    /// the heads that the model brings]
    #[arg(long, value_name = "DIR", num_args = 1..)]
    heads: Vec<PathBuf>,
    /// JSON lines: {"prompt", "completion"}, of which the completion is scored, or {"text"}
    #[arg(long, value_name = "FILE", required_unless_present = "merge")]
    data: Option<PathBuf>,
    /// What to compare [default: next,marginal, and heads where there are --heads]
    #[arg(long, value_name = "METHODS", value_delimiter = ',')]
    methods: Vec<MethodArg>,
    /// The farthest token that is predicted; marginals go up to 3
    #[arg(long, value_name = "N", default_value_t = 2)]
    offsets: usize,
    /// Accuracy: the target is among so many of the likeliest tokens [default: 1,5]
    #[arg(long, value_name = "N,N,...", value_delimiter = ',')]
    top: Vec<usize>,
    /// Score the last so many target tokens of a sample, the same at every offset; 0 for all [default: 20]
    #[arg(long, value_name = "TOKENS")]
    last: Option<usize>,
    /// Marginals sum over the likeliest tokens that together have this probability [default: 0.99]
    #[arg(long, value_name = "NUMBER")]
    mass: Option<f32>,
    /// paper: top 5, mass 0.99, the last 20 target tokens of samples that have at least 20
    #[arg(long, value_enum, default_value = "own")]
    protocol: Protocol,
    /// What a head that reads the next token is given for it: argmax, the likeliest, or mix:K, K of the likeliest weighted
    #[arg(long, value_name = "FEED", default_value = "argmax")]
    feed: Feed,
    /// The logit lens is of the first so many samples
    #[arg(long, value_name = "N", default_value_t = 100)]
    lens_samples: usize,
    /// Cut texts that are longer than the context
    #[arg(long)]
    truncate: bool,
    /// Resamples of the bootstrap
    #[arg(long, value_name = "N", default_value_t = 2000)]
    resamples: usize,
    /// Seed of the bootstrap
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Do a part of the samples only: the I-th of N, from 1
    #[arg(long, value_name = "I/N", conflicts_with = "merge")]
    shard: Option<ShardArg>,
    /// Put the shards in these folders together
    #[arg(long, value_name = "DIR", num_args = 1.., conflicts_with_all = MEASURING)]
    merge: Vec<PathBuf>,
    /// The folder of the results; a run that was interrupted goes on
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum MethodArg {
    Next,
    Marginal,
    Heads,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Protocol {
    Own,
    Paper,
}

/// How many next tokens a sequential head is fed.
#[derive(Clone, Copy)]
struct Feed(usize);

impl FromStr for Feed {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.strip_prefix("mix:").map(str::parse) {
            Some(Ok(tokens)) if tokens > 0 => Ok(Self(tokens)),
            None if text == "argmax" => Ok(Self(1)),
            _ => Err("expected argmax, or mix: and a number from 1, such as mix:8".to_owned()),
        }
    }
}

#[derive(Clone, Copy)]
struct ShardArg(Shard);

impl FromStr for ShardArg {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let parts = text.split_once('/').and_then(|(index, of)| Some((index.parse().ok()?, of.parse().ok()?)));
        match parts.map(|(index, of)| Shard { index, of }).filter(|shard| shard.is_sound()) {
            Some(shard) => Ok(Self(shard)),
            None => Err("expected I/N, I from 1 to N, such as 2/8".to_owned()),
        }
    }
}

pub async fn run(args: &Args) -> Outcome<u8> {
    interrupt::install()?;
    if !args.merge.is_empty() {
        let (run, records) = store::merge(&args.merge)?;
        let mut timings = Vec::new();
        for folder in &args.merge {
            timings.extend(read_timings(folder));
        }
        let mut store = Store::open(&args.out, &run)?;
        for record in
            records.values().filter(|record| !store.records.contains_key(&record.sample)).cloned().collect::<Vec<_>>()
        {
            store.add(&record)?;
        }
        return finish(&store, &run, &timings);
    }
    let mut settings = settings(args)?;
    let methods = &settings.methods;
    let wants_base = methods.iter().any(|method| *method != Method::Heads);
    let base = if wants_base { Some(args.engine.check(HeadsWanted::Without).await?) } else { None };
    let with_heads = checked_heads(args, methods).await?;
    let first = base.as_ref().or(with_heads.first().map(|(_, checked)| checked));
    let first = first.ok_or_else(|| input("nothing to measure: name --methods"))?;
    let path = args.data.as_deref().unwrap_or(Path::new(""));
    let (samples, data) = data::read(path, first, args.truncate).await?;
    check_targets(&samples, &settings).map_err(|error| error.within(path.display()))?;
    store::check(&args.out)?;
    let mut meter = Meter::default();
    let base = match base {
        Some(base) => Some(base.load(&mut meter).await?),
        None => None,
    };
    let (loaded, heads) = heads(args, &with_heads, &mut meter).await?;
    let first: &Loaded = base.as_ref().or(loaded.first()).ok_or_else(|| input("nothing to measure: name --methods"))?;
    let files = args.engine.files().await?;
    settings.model = name_of(&first.model);
    settings.model_fingerprint = Checkpoint::open(&files).await?.identity().await?;
    (settings.data, settings.context) = (data, first.engine.context());
    let columns = Run::columns(&settings, &heads);
    let shard = args.shard.map_or(Shard::WHOLE, |shard| shard.0);
    let run = Run { version: Run::VERSION, settings, heads, columns, shard };
    let mut store = Store::open(&args.out, &run)?;
    let base_engine = base.as_ref().map(|loaded| &loaded.engine);
    let engines: Vec<Engine> = loaded.iter().map(|loaded| loaded.engine.clone()).collect();
    if !measure_all(&run, &samples, base_engine, &engines, &mut store).await? {
        return Ok(interrupt::exit_code());
    }
    let mut drafts = Vec::new();
    // Half a text, so that it does not end at once.
    let prompt = &samples[0].ids[..samples[0].ids.len().div_ceil(2)];
    for (engine, facts) in engines.iter().zip(&run.heads) {
        let drafts_offset = |offset: &usize| facts.heads.iter().any(|head| head.offset == *offset);
        let depth = (2..=run.settings.offsets).take_while(drafts_offset).count();
        if depth > 0 {
            drafts.extend(timing::draft(engine, &facts.label, depth, prompt).await?);
        }
    }
    let (adapter, kernels) = (first.adapter.to_string(), first.engine.kernels().to_string());
    let timings = [Timing { adapter, kernels, drafts }];
    finish(&store, &run, &timings)
}

/// The settings that flags alone decide; the rest is filled in once the model is there.
fn settings(args: &Args) -> Result<Settings> {
    let paper = args.protocol == Protocol::Paper;
    let fixed = [("--top", !args.top.is_empty()), ("--last", args.last.is_some()), ("--mass", args.mass.is_some())];
    if let Some((flag, _)) = fixed.iter().find(|(_, given)| paper && *given) {
        return Err(input(format!("--protocol paper says what {flag} is; leave one of the two out")));
    }
    let mut methods: Vec<Method> = args
        .methods
        .iter()
        .map(|method| match method {
            MethodArg::Next => Method::Next,
            MethodArg::Marginal => Method::Marginal,
            MethodArg::Heads => Method::Heads,
        })
        .collect();
    if methods.is_empty() {
        methods = vec![Method::Next, Method::Marginal];
        methods.extend((!args.heads.is_empty()).then_some(Method::Heads));
    }
    let methods = without_repeats(methods);
    if !args.heads.is_empty() && !methods.contains(&Method::Heads) {
        return Err(input("--heads were given, but --methods has no heads"));
    }
    let top = match (paper, args.top.is_empty()) {
        (true, _) => vec![5],
        (false, true) => vec![1, 5],
        (false, false) => args.top.clone(),
    };
    let top = without_repeats(top);
    let settings = Settings {
        protocol: if paper { "paper" } else { "own" }.to_owned(),
        model: String::new(),
        model_fingerprint: String::new(),
        data: foretoken::analysis::DataFacts { name: String::new(), fingerprint: String::new(), samples: 0 },
        methods,
        offsets: args.offsets,
        top,
        last: args.last.unwrap_or(20),
        min_target: if paper { 20 } else { 1 },
        mass: args.mass.unwrap_or(0.99),
        feed: args.feed.0,
        lens_samples: args.lens_samples,
        context: 0,
        truncate: args.truncate,
        resamples: args.resamples,
        seed: args.seed,
    };
    settings.check()?;
    Ok(settings)
}

fn without_repeats<T: PartialEq>(list: Vec<T>) -> Vec<T> {
    list.into_iter().fold(Vec::new(), |mut kept, item| {
        if !kept.contains(&item) {
            kept.push(item);
        }
        kept
    })
}

/// Checks that there is something to score, before anything is measured.
fn check_targets(samples: &[Sample], settings: &Settings) -> Result<()> {
    let longest = samples.iter().map(|sample| sample.targets(settings.offsets).len()).max().unwrap_or(0);
    match settings.min_target.max(1) {
        needed if longest < needed => Err(input(format!(
            "expected samples of {needed} or more target tokens, but the longest has {longest}: give longer texts, or fewer \
             --offsets"
        ))),
        _ => Ok(()),
    }
}

/// The model with each of the heads that are to be measured; those of a folder with its name.
async fn checked_heads<'a>(args: &'a Args, methods: &[Method]) -> Result<Vec<(Option<&'a PathBuf>, Checked<'a>)>> {
    let folders: Vec<Option<&PathBuf>> = match methods.contains(&Method::Heads) {
        false => Vec::new(),
        true if args.heads.is_empty() => vec![None],
        true => args.heads.iter().map(Some).collect(),
    };
    let mut all = Vec::with_capacity(folders.len());
    for folder in folders {
        let wanted = folder.map_or(HeadsWanted::Own, |folder| HeadsWanted::Folder(folder));
        let checked = args.engine.check(wanted).await?;
        if !checked.has_heads {
            return Err(input(NO_HEADS));
        }
        all.push((folder, checked));
    }
    Ok(all)
}

/// Loads the model with each of the heads, and tells what they are.
async fn heads(
    args: &Args,
    checked: &[(Option<&PathBuf>, Checked<'_>)],
    meter: &mut Meter,
) -> Result<(Vec<Loaded>, Vec<FolderFacts>)> {
    let (mut all, mut facts) = (Vec::new(), Vec::<FolderFacts>::new());
    for (folder, checked) in checked {
        let loaded = checked.load(meter).await?;
        let Some(summary) = loaded.engine.heads_summary() else {
            return Err(input(NO_HEADS));
        };
        let fingerprint = match folder {
            Some(folder) => mtp::identity(&Folder::open_heads(folder)?).await?,
            None => mtp::identity(&args.engine.files().await?).await?,
        };
        let name = folder.map_or("of the model".to_owned(), |folder| name_of(&folder.display().to_string()));
        let same =
            facts.iter().filter(|other| other.label == name || other.label.starts_with(&format!("{name} ("))).count();
        facts.push(FolderFacts {
            label: if same == 0 { name } else { format!("{name} ({})", same + 1) },
            fingerprint,
            summary: summary.to_owned(),
            parameters: loaded.engine.head_parameters(),
            heads: loaded.engine.head_facts(),
        });
        all.push(loaded);
    }
    Ok((all, facts))
}

/// Measures the samples that are not done. False if a signal came.
async fn measure_all(
    run: &Run,
    samples: &[Sample],
    base: Option<&Engine>,
    engines: &[Engine],
    store: &mut Store,
) -> Result<bool> {
    let watch = Watch::start();
    let interrupt = watch.flag();
    let mine: Vec<usize> = (0..samples.len()).filter(|&sample| run.shard.holds(sample)).collect();
    let left: Vec<usize> = mine.iter().copied().filter(|sample| !store.records.contains_key(sample)).collect();
    if left.len() < mine.len() {
        print_status(format_args!("going on: {} of {} samples are done", mine.len() - left.len(), mine.len()));
    }
    let bar = bar("samples {bar:30} {pos} of {len}, {eta} left", mine.len() as u64);
    bar.set_position((mine.len() - left.len()) as u64);
    bar.reset_eta();
    let mut measurer = Measurer::new(run, base, engines)?;
    for sample in left {
        if interrupt.load(SeqCst) {
            bar.finish_and_clear();
            let (done, all) = (store.records.len(), mine.len());
            print_status(format_args!("interrupted: {done} of {all} samples are done; the same command goes on"));
            return Ok(false);
        }
        let within = |error: Error| error.within(format!("sample {}", sample + 1));
        let record = measurer.record(sample, &samples[sample]).await.map_err(within)?;
        store.add(&record)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(true)
}

/// Writes the report of all records; a shard has none of its own.
fn finish(store: &Store, run: &Run, timings: &[Timing]) -> Outcome<u8> {
    store.write(store::TIMING, &store::pretty(&timings)?)?;
    if run.shard != Shard::WHOLE {
        let Shard { index, of } = run.shard;
        print_status(format_args!(
            "shard {index} of {of} is done: {} samples; put shards together with `foretoken analyze --merge DIR... --out DIR`",
            store.records.len()
        ));
        return Ok(SUCCESS);
    }
    let records: Vec<_> = store.records.values().cloned().collect();
    let report = Report::new(run, &records)?;
    let text = markdown::text(&report, timings);
    for (name, plot) in plots::all(&report) {
        store.write(name, &plot)?;
    }
    store.write(store::TEXT, &text)?;
    store.write(store::REPORT, &store::pretty(&report)?)?;
    print(&text)?;
    Ok(SUCCESS)
}

/// The times of a shard; they are not needed for the report.
fn read_timings(folder: &Path) -> Vec<Timing> {
    let json = fs::read(folder.join(store::TIMING)).ok();
    json.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default()
}

/// The last part of a path: it may lie elsewhere on another machine.
fn name_of(path: &str) -> String {
    Path::new(path).file_name().map_or_else(|| path.to_owned(), |name| name.to_string_lossy().into_owned())
}

fn input(message: impl Into<String>) -> Error {
    Error::input(message)
}
