//! `foretoken generate`: continues a prompt, as text while it comes or as one JSON object at the end.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::builder::NonEmptyStringValueParser;
use foretoken::decode::{DraftStats, Round, Stats, Stop};
use foretoken::{Drafter, Error, GenerateOptions, Sampling, Session};
use serde::Serialize;

use crate::console;
use crate::drafting::DraftFlags;
use crate::interactive;
use crate::interrupt::{self, Watch};
use crate::prompt::{Prompt, PromptFlags};
use crate::source::{Checked, EngineFlags, Loaded, advice};
use crate::terminal::{Meter, Outcome, SUCCESS, counted, print, print_json, print_status};

#[derive(clap::Args)]
#[command(allow_negative_numbers = true, args_override_self = true)]
pub struct Args {
    #[command(flatten)]
    engine: EngineFlags,
    #[command(flatten)]
    prompt: PromptFlags,
    /// The most tokens to generate
    #[arg(long, value_name = "TOKENS", default_value_t = 256)]
    max_tokens: usize,
    #[command(flatten)]
    sampling: SamplingFlags,
    #[command(flatten)]
    draft: DraftFlags,
    /// End the text before this one; may be given several times
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    stop: Vec<String>,
    /// Print one JSON object at the end instead of the text while it comes
    #[arg(long)]
    json: bool,
    /// With --json: what the target thought of every draft, round by round
    #[arg(long, requires = "json")]
    trace: bool,
}

#[derive(clap::Args)]
struct SamplingFlags {
    /// 0 always takes the likeliest token; 1 draws tokens as the model weighs them
    #[arg(long, value_name = "NUMBER", default_value_t = 0.0)]
    temperature: f32,
    /// Draw from the K likeliest tokens only; 0 for all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: u32,
    /// Draw from the likeliest tokens that together have this probability
    #[arg(long, value_name = "NUMBER", default_value_t = 1.0)]
    top_p: f32,
    /// Draw from tokens with at least this share of the likeliest token's probability
    #[arg(long, value_name = "NUMBER", default_value_t = 0.0)]
    min_p: f32,
    /// Make tokens of the prompt and the text less likely (above 1) or likelier (below 1)
    #[arg(long, value_name = "NUMBER", default_value_t = 1.0)]
    repetition_penalty: f32,
    /// The same seed draws the same text [default: another one each time]
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
}

impl SamplingFlags {
    fn sampling(&self) -> foretoken::Result<Sampling> {
        let &Self { temperature, top_k, top_p, min_p, repetition_penalty, seed } = self;
        let seed = seed.unwrap_or_else(some_seed);
        let sampling = Sampling::default()
            .temperature(temperature)
            .top_k(top_k)
            .top_p(top_p)
            .min_p(min_p)
            .repetition_penalty(repetition_penalty)
            .seed(seed);
        sampling.validate()?;
        Ok(sampling)
    }
}

/// Short enough to be typed again.
fn some_seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| u64::from(time.subsec_nanos()) % 1_000_000)
}

pub async fn run(args: &Args) -> Outcome<u8> {
    interrupt::install()?;
    // Whatever is wrong with the flags is said before the model loads.
    let sampling = args.sampling.sampling()?;
    let prompt = args.prompt.read()?;
    if prompt.is_none() && args.json {
        return Err(Error::input("--json needs a prompt: --prompt, --prompt-file, --ids or standard input").into());
    }
    let draft = args.draft.options(args.trace)?;
    let stop = args.stop.clone();
    let options = GenerateOptions::default().max_tokens(args.max_tokens).sampling(sampling).draft(draft).stop(stop);
    let checked = hinted(args, args.engine.check(args.draft.heads()).await).await?;
    let prompt_ids = match prompt {
        // Lines of a session are text.
        None if !checked.has_tokenizer => checked.tokenizer().await.map(|_| None)?,
        None => None,
        Some(prompt) => Some(prompt_ids(&checked, prompt).await?),
    };
    let loaded = hinted(args, checked.load(&mut Meter::default()).await).await?;
    match prompt_ids {
        None => interactive::run(&loaded, &options).await,
        Some(ids) => once(&loaded, &ids, &options, args.json).await,
    }
}

/// An error adds what would help where only the heads stand in the way.
async fn hinted<T>(args: &Args, result: foretoken::Result<T>) -> foretoken::Result<T> {
    match result {
        Err(error) if args.draft.wants_own_heads() && args.engine.only_heads_are_broken().await => {
            Err(Error::new(error.kind(), format!("{error}; without them the model runs: --draft off")))
        }
        result => result,
    }
}

async fn prompt_ids(checked: &Checked<'_>, prompt: Prompt) -> foretoken::Result<Vec<u32>> {
    let hint = |error: Error| Error::new(error.kind(), format!("{error}; or give the prompt as ids: --ids"));
    let without_tokenizer = matches!(prompt, Prompt::Text(_)) && !checked.has_tokenizer;
    let ids = checked.prompt_ids(prompt).await;
    if without_tokenizer { ids.map_err(hint) } else { ids }
}

async fn once(loaded: &Loaded, prompt_ids: &[u32], options: &GenerateOptions, json: bool) -> Outcome<u8> {
    let mut session = loaded.engine.session()?;
    let output = if json { Output::Kept } else { Output::Printed };
    let finished = generate(&mut session, prompt_ids, options, output).await?;
    if json {
        print_json(&finished.report(loaded, prompt_ids, options))?;
    } else {
        finished.end_line()?;
        finished.print_statistics(loaded, options);
    }
    Ok(finished.exit_code())
}

/// The use of the text while it comes: printed, or kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Printed,
    Kept,
}

/// A generation that came to its end.
pub struct Finished {
    pub ids: Vec<u32>,
    text: String,
    stop: Stop,
    stats: Stats,
    rounds: Vec<Round>,
}

/// Generates until the text ends, or a signal ends it.
pub async fn generate(
    session: &mut Session,
    prompt_ids: &[u32],
    options: &GenerateOptions,
    output: Output,
) -> Outcome<Finished> {
    let watch = Watch::start();
    let options = &options.clone().interrupt(watch.flag());
    let mut meter = Meter::default();
    let mut generation = session.generate(prompt_ids, options, &mut |progress| meter.update(progress)).await?;
    meter.clear();
    loop {
        let token = match generation.next().await {
            Ok(token) => token,
            Err(error) => {
                if output == Output::Kept {
                    print_status(format_args!("the text before the error: {}", generation.text()));
                }
                return Err(error.into());
            }
        };
        let Some(token) = token else { break };
        if output == Output::Printed {
            print(&token.text)?;
        }
    }
    let stop = generation.stop().unwrap_or(Stop::Interrupt);
    Ok(Finished {
        ids: generation.ids().to_vec(),
        text: generation.text().to_owned(),
        stop,
        stats: generation.stats(),
        rounds: generation.rounds().to_vec(),
    })
}

/// The contract of `generate --json`.
#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    adapter: &'a str,
    prompt_ids: &'a [u32],
    ids: &'a [u32],
    text: &'a str,
    stop: Stop,
    #[serde(skip_serializing_if = "Option::is_none")]
    rounds: Option<&'a [Round]>,
    stats: ReportStats<'a>,
}

#[derive(Serialize)]
struct ReportStats<'a> {
    load_s: f64,
    kernels: String,
    seed: u64,
    #[serde(flatten)]
    stats: &'a Stats,
}

impl Finished {
    fn report<'a>(&'a self, loaded: &'a Loaded, prompt_ids: &'a [u32], options: &GenerateOptions) -> Report<'a> {
        let Loaded { engine, adapter, model, load_s } = loaded;
        let kernels = engine.kernels().to_string();
        let stats = ReportStats { load_s: *load_s, kernels, seed: options.sampling.seed, stats: &self.stats };
        let rounds = options.draft.trace.then_some(&self.rounds[..]);
        let (adapter, ids, text, stop) = (&adapter.name[..], &self.ids[..], &self.text[..], self.stop);
        Report { model, adapter, prompt_ids, ids, text, stop, rounds, stats }
    }

    /// Ends the line on a terminal, so that what follows starts on a line of its own; a pipe gets the text alone.
    pub fn end_line(&self) -> Outcome<()> {
        let terminals = console::with(|console| console.terminals);
        if terminals.output {
            print("\n")?;
        } else if terminals.errors {
            print_status(format_args!(""));
        }
        Ok(())
    }

    /// A line of statistics on standard error, and a hint where the adapter is a slow one.
    fn print_statistics(&self, loaded: &Loaded, options: &GenerateOptions) {
        let Stats { prompt_tokens, new_tokens, prefill_s, tokens_per_s, ref drafts, .. } = self.stats;
        let (adapter, kernels, stop) = (&loaded.adapter, loaded.engine.kernels(), self.stop);
        let seed = match options.sampling.temperature {
            0.0 => String::new(),
            _ => format!(" · seed {}", options.sampling.seed),
        };
        let (prompt, new, load_s) = (counted(prompt_tokens, "token"), counted(new_tokens, "token"), loaded.load_s);
        print_status(format_args!(
            "[{adapter} · {kernels} kernels · loaded in {load_s:.1} s · prompt: {prompt} in {prefill_s:.2} s · text: {new}, \
             {tokens_per_s:.1} tokens/s{} · stop: {stop}{seed}]",
            drafted(drafts)
        ));
        if let (Drafter::Auto, Some(tree), Some(_)) =
            (&options.draft.drafter, &options.draft.tree, loaded.engine.heads_summary())
            && drafts.drafter == "lookup"
        {
            let depth = tree.depth();
            print_status(format_args!("note: the model's heads do not draft {depth} tokens a round, so lookup does"));
        }
        if let Some(reason) = &drafts.off_reason {
            print_status(format_args!("note: {reason}"));
        }
        if let Some(advice) = advice(adapter) {
            print_status(format_args!("note: {advice}"));
        }
    }

    /// Prints the speed in fewer words, for every turn of a session.
    pub fn print_speed(&self) {
        let Stats { new_tokens, tokens_per_s, ref drafts, .. } = self.stats;
        let (new, drafts) = (counted(new_tokens, "token"), drafted(drafts));
        print_status(format_args!("[{new}, {tokens_per_s:.1} tokens/s{drafts} · stop: {}]", self.stop));
    }

    fn exit_code(&self) -> u8 {
        match self.stop {
            Stop::Interrupt => interrupt::exit_code(),
            _ => SUCCESS,
        }
    }
}

/// How the drafts did: nothing where there were none.
fn drafted(drafts: &DraftStats) -> String {
    let DraftStats { drafter, drafted, accepted, tokens_per_round, off_reason, .. } = drafts;
    if *drafted == 0 {
        return String::new();
    }
    let off = if off_reason.is_some() { ", then off" } else { "" };
    format!(" · {drafter}: {accepted} of {drafted} drafts right, {tokens_per_round:.2} tokens a round{off}")
}
