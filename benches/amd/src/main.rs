//! What an AMD compiler makes of foretoken's shaders, on a machine without such a card.
//!
//! Mesa's RADV compiles for hardware that is not there. This program takes every shader of foretoken, translates it as wgpu does,
//! and holds what the driver tells of it against a committed table. `docs/amd.md` says what the figures mean.

mod driver;
mod figures;
mod isa;
mod page;
mod shaders;
mod spirv;
mod table;
mod vulkan;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use clap::{Parser, Subcommand};
use driver::Radv;
use table::Table;

/// The variable that makes a missing driver an error.
const REQUIRE: &str = "FORETOKEN_REQUIRE_RADV";

const UPDATE: &str = "scripts/amd.sh update --reason 'WHY'";

/// What an AMD compiler makes of foretoken's shaders, on a machine without such a card.
#[derive(Parser)]
struct Flags {
    /// The folder with the driver's file, radeon_icd*.json; by default where Vulkan's loader looks
    #[arg(long, global = true, value_name = "DIR")]
    drivers: Option<PathBuf>,
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Fails if a shader spills registers, or if a kernel's figures are worse than in the table by more than a tenth
    Check,
    /// Writes the table and docs/amd.md anew
    Update {
        /// Why the figures may change: one line, kept with the table
        #[arg(long, value_name = "TEXT", value_parser = one_line)]
        reason: String,
    },
    /// Prints the instructions of a shader
    Isa {
        #[arg(value_parser = driver::FAMILIES.map(|family| family.name))]
        family: String,
        /// A kernel of the table, a shader's own name, or a file NAME.wgsl, as FORETOKEN_DUMP_WGSL writes them
        kernel: String,
    },
    /// In a process that sees one card: prints the driver's version
    #[command(hide = true)]
    Probe,
    /// In a process that sees one card: prints the figures of a part of the shaders
    #[command(hide = true)]
    Compile { part: usize, parts: usize },
    /// In a process that sees one card: prints a shader
    #[command(hide = true)]
    Show { label: String },
}

fn one_line(text: &str) -> Result<String, String> {
    let text = text.trim();
    let one = !text.is_empty() && !text.contains(['\n', '\t']);
    if one { Ok(text.to_owned()) } else { Err("a reason is one line of text".to_owned()) }
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let done = match flags.command {
        Task::Check => check(flags.drivers.as_deref()),
        Task::Update { reason } => update(flags.drivers.as_deref(), &reason),
        Task::Isa { family, kernel } => {
            Radv::find(flags.drivers.as_deref()).and_then(|radv| radv.print_isa(&family, &kernel))
        }
        Task::Probe => driver::probe(),
        Task::Compile { part, parts } => driver::compile(part, parts),
        Task::Show { label } => driver::show(&label),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("amd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn check(drivers: Option<&Path>) -> Result<(), String> {
    let recorded = Table::read(&read(TABLE)?).map_err(|error| format!("{TABLE}: {error}"))?;
    let page = read(PAGE)?;
    if page::update(&page, &recorded)? != page {
        return Err(format!("{PAGE} is not what {TABLE} makes of it: {UPDATE}"));
    }
    let radv = match Radv::find(drivers) {
        Err(why) if env::var(REQUIRE).is_err() => {
            println!("SKIPPED: what an AMD compiler makes of the shaders: {why}");
            return Ok(());
        }
        radv => radv?,
    };
    let now = radv.table()?;
    let mut found = now.spills();
    let shaders: u64 = now.rows.values().map(|row| row.shaders).sum();
    println!("{}: {shaders} shaders compiled, {} rows", now.driver, now.rows.len());
    if now.driver == recorded.driver {
        found.extend(now.spills_no_more());
        found.extend(now.worse_than(&recorded));
    } else {
        println!("SKIPPED: figures against {TABLE}, which {} has made: this is another driver", recorded.driver);
    }
    if found.is_empty() { Ok(()) } else { Err(failure(&found)) }
}

/// Findings, and what to do about them.
fn failure(found: &[String]) -> String {
    const LINES: usize = 40;
    let more = found.len().saturating_sub(LINES);
    let rest = if more == 0 { String::new() } else { format!("\n  and {more} more") };
    let lines = found[..found.len() - more].join("\n  ");
    format!(
        "{} findings against {TABLE}, a tenth allowed:\n  {lines}{rest}\nSpilled registers have to go. If the rest is meant: {UPDATE}",
        found.len()
    )
}

fn update(drivers: Option<&Path>, reason: &str) -> Result<(), String> {
    let before = match fs::exists(path(TABLE)) {
        Ok(true) => Table::read(&read(TABLE)?).map_err(|error| format!("{TABLE}: {error}"))?,
        _ => Table { driver: String::new(), reasons: Vec::new(), rows: Default::default() },
    };
    let page = read(PAGE)?;
    let (after, changed) = Radv::find(drivers)?.table()?.after(&before, reason);
    let spills = after.spills();
    if !spills.is_empty() {
        return Err(format!("spilled registers have to go, nothing was written:\n  {}", spills.join("\n  ")));
    }
    if changed == 0 && after.driver == before.driver {
        println!("nothing has changed");
        return Ok(());
    }
    write(TABLE, &after.write())?;
    write(PAGE, &page::update(&page, &after)?)?;
    println!("{changed} of {} rows have changed: {TABLE}, {PAGE}", after.rows.len());
    Ok(())
}

const TABLE: &str = "benches/amd/table.tsv";
const PAGE: &str = "docs/amd.md";

/// A file of the repository.
fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name)
}

fn read(name: &str) -> Result<String, String> {
    fs::read_to_string(path(name)).map_err(|error| format!("{name} cannot be read: {error}"))
}

fn write(name: &str, text: &str) -> Result<(), String> {
    fs::write(path(name), text).map_err(|error| format!("{name} cannot be written: {error}"))
}
