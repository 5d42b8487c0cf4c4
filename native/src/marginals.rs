//! `foretoken marginals`: what may stand two or three places ahead, given only the prompt.

use std::fmt::Write;
use std::num::NonZeroUsize;
use std::time::Instant;

use foretoken::format::tokenizer::Tokenizer;
use foretoken::marginal::{Cost, TopToken};
use foretoken::{Error, MarginalOptions, Marginals};
use serde::Serialize;

use crate::drafting::HeadsWanted;
use crate::prompt::PromptFlags;
use crate::source::{EngineFlags, Loaded};
use crate::terminal::{Meter, Outcome, SUCCESS, bytes, counted, print, print_json, print_status, visible};

#[derive(clap::Args)]
#[command(allow_negative_numbers = true, args_override_self = true)]
pub struct Args {
    #[command(flatten)]
    engine: EngineFlags,
    #[command(flatten)]
    prompt: PromptFlags,
    /// How many places ahead: 1 is the next token, 3 the most
    #[arg(long, value_name = "PLACES", default_value_t = 2)]
    offset: usize,
    /// Sum over the likeliest tokens in between that together have this probability; 1 for all
    #[arg(long, value_name = "NUMBER", default_value_t = 0.99)]
    mass: f32,
    /// The most branches, heaviest first [default: all, and 4096 for --offset 3]
    #[arg(long, value_name = "N")]
    max_branches: Option<NonZeroUsize>,
    /// How many of the likeliest tokens to list
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

pub async fn run(args: &Args) -> Outcome<u8> {
    // Whatever is wrong with the flags is said before the model loads.
    let max_branches = args.max_branches.map(NonZeroUsize::get);
    let options =
        MarginalOptions::default().offset(args.offset).mass(args.mass).max_branches(max_branches).top(args.top);
    options.validate()?;
    let prompt = args
        .prompt
        .read()?
        .ok_or_else(|| Error::input("no prompt: give --prompt, --prompt-file, --ids or standard input"))?;
    let checked = args.engine.check(HeadsWanted::IfSound).await?;
    let ids = checked.prompt_ids(prompt).await?;
    options.check_room(ids.len(), checked.context)?;
    let mut meter = Meter::default();
    let loaded = checked.load(&mut meter).await?;
    let started = Instant::now();
    let mut session = loaded.engine.session()?;
    let found = session.marginals(&ids, &options, &mut |progress| meter.update(progress)).await?;
    let seconds = started.elapsed().as_secs_f64();
    meter.clear();
    let tokenizer = loaded.engine.tokenizer().ok();
    if args.json {
        print_json(&report(&found, tokenizer))?;
    } else {
        print(&visible(&table(&found, tokenizer)))?;
        print_cost(&found, &loaded, seconds);
    }
    Ok(SUCCESS)
}

/// The contract of `marginals --json`.
#[derive(Serialize)]
struct Report {
    offset: usize,
    mass_covered: f64,
    branches: usize,
    capped: bool,
    top: Vec<Entry>,
    entropy: f64,
    cost: Cost,
}

#[derive(Serialize)]
struct Entry {
    id: u32,
    /// Null where the model has no tokenizer, or the tokenizer no such token.
    text: Option<String>,
    p: f64,
    low: f64,
    high: f64,
}

fn report(found: &Marginals, tokenizer: Option<&Tokenizer>) -> Report {
    let &Marginals { offset, mass_covered, branches, capped, entropy, cost, .. } = found;
    let entry = |&TopToken { id, p, low, high, .. }: &TopToken| Entry { id, text: text(tokenizer, id), p, low, high };
    Report { offset, mass_covered, branches, capped, top: found.top.iter().map(entry).collect(), entropy, cost }
}

fn text(tokenizer: Option<&Tokenizer>, id: u32) -> Option<String> {
    tokenizer.and_then(|tokenizer| tokenizer.token_text(id))
}

fn table(found: &Marginals, tokenizer: Option<&Tokenizer>) -> String {
    let mut lines = String::from("       p       low      high      id  token\n");
    for &TopToken { id, p, low, high, .. } in &found.top {
        let token = text(tokenizer, id).unwrap_or_default();
        let _ = writeln!(lines, "{p:8.5}  {low:8.5}  {high:8.5}  {id:6}  {token}");
    }
    let Marginals { offset, mass_covered, branches, entropy, .. } = found;
    let summed = match (offset, branches) {
        (1, _) => String::new(),
        (_, 1) => format!(", 1 branch of mass {mass_covered:.4}"),
        _ => format!(", {branches} branches of mass {mass_covered:.4}"),
    };
    let _ = writeln!(lines, "offset {offset}{summed}, entropy {entropy:.4} nats");
    lines
}

/// Prints on standard error where, how long and how much it was; and that a cap has cut something off.
fn print_cost(found: &Marginals, Loaded { engine, adapter, .. }: &Loaded, seconds: f64) {
    let (Cost { rows, chunks, bytes: read, .. }, kernels) = (found.cost, engine.kernels());
    let (read, rows, chunks) = (bytes(read), counted(rows, "row"), counted(chunks, "chunk"));
    print_status(format_args!(
        "[{adapter} · {kernels} kernels · beyond the prompt: {rows} in {chunks}, {read} read · \
         {seconds:.2} s]"
    ));
    if found.capped {
        let branches = found.branches;
        print_status(format_args!(
            "note: only the heaviest {branches} branches were summed, so the bounds are wide; raise --max-branches for more"
        ));
    }
}
