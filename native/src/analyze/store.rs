//! The folder of a run: what it measures, and the records so far. A record is one line, written whole when its sample is done.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use foretoken::analysis::{Record, Run, Shard};
use foretoken::{Error, Result};
use serde_json::Value;

use super::plots;
use crate::output::{check_folder, io_error, lock, make_folder, write_whole};

const RUN: &str = "run.json";
const RECORDS: &str = "samples.jsonl";

/// The names of the files that a run leaves beside its records and plots.
pub const REPORT: &str = "report.json";
pub const TEXT: &str = "report.md";
pub const TIMING: &str = "timing.json";
const WRITTEN: [&str; 3] = [REPORT, TEXT, TIMING];

/// An open folder.
pub struct Store {
    folder: PathBuf,
    /// The records, by sample.
    pub records: BTreeMap<usize, Record>,
    file: File,
    /// Nobody else writes here.
    _lock: Option<File>,
}

impl Store {
    /// Makes the folder for a run, or goes on with the run in it if it is the same.
    pub fn open(folder: &Path, run: &Run) -> Result<Self> {
        check(folder)?;
        make_folder(folder)?;
        let lock = lock(folder)?;
        let records = match load_run(folder)? {
            Some(there) => {
                if there != *run {
                    let differences = differences(&there, run);
                    let message = format!(
                        "{}: there is another run; {differences}. Use the same flags to go on with it, or another --out",
                        folder.display()
                    );
                    return Err(Error::input(message));
                }
                load_records(folder, run)?
            }
            None => {
                write_whole(&folder.join(RUN), pretty(run)?.as_bytes())?;
                BTreeMap::new()
            }
        };
        // Whatever was cut off goes.
        let mut lines = String::new();
        for record in records.values() {
            lines += &line(record)?;
        }
        let path = folder.join(RECORDS);
        write_whole(&path, lines.as_bytes())?;
        let file = File::options().append(true).open(&path).map_err(|error| io_error(&path, &error))?;
        Ok(Self { folder: folder.to_owned(), records, file, _lock: lock })
    }

    /// Keeps a record.
    pub fn add(&mut self, record: &Record) -> Result<()> {
        let line = line(record)?;
        self.file.write_all(line.as_bytes()).map_err(|error| io_error(&self.folder.join(RECORDS), &error))?;
        // As it will be read again, so that a report does not depend on interruptions.
        let record: Record = parse(&line, &self.folder.join(RECORDS), 0)?;
        self.records.insert(record.sample, record);
        Ok(())
    }

    /// Writes a file of the report.
    pub fn write(&self, name: &str, content: &str) -> Result<()> {
        write_whole(&self.folder.join(name), content.as_bytes())
    }
}

/// Checks that a run may write to `folder`, which need not be there: it must not hold what others have left.
pub fn check(folder: &Path) -> Result<()> {
    check_folder(folder)?;
    let strange = [RECORDS].into_iter().chain(WRITTEN).chain(plots::NAMES).map(|name| folder.join(name));
    match strange.into_iter().find(|path| path.exists()).filter(|_| !folder.join(RUN).exists()) {
        Some(path) => {
            let message = format!("{}: not of a run that this version knows; use another --out", path.display());
            Err(Error::input(message))
        }
        None => Ok(()),
    }
}

/// The run that is measured in `folder`; none where nothing is.
pub fn load_run(folder: &Path) -> Result<Option<Run>> {
    let path = folder.join(RUN);
    if !path.exists() {
        return Ok(None);
    }
    let bytes = fs::read(&path).map_err(|error| io_error(&path, &error))?;
    let run = serde_json::from_slice::<Run>(&bytes).ok();
    let run = run.filter(|run| run.version == Run::VERSION && run.shard.is_sound());
    let run = run.ok_or_else(|| {
        let message = format!("{}: not of a run that this version knows; use another --out", path.display());
        Error::format(message)
    })?;
    run.settings.check().map_err(|error| error.within(path.display()))?;
    Ok(Some(run))
}

/// The records in `folder`. A last line without an end was cut off and does not count.
pub fn load_records(folder: &Path, run: &Run) -> Result<BTreeMap<usize, Record>> {
    let path = folder.join(RECORDS);
    if !path.exists() {
        return Ok(BTreeMap::new());
    }
    let text = fs::read_to_string(&path).map_err(|error| io_error(&path, &error))?;
    let mut records = BTreeMap::new();
    for (number, line) in text.split_inclusive('\n').enumerate().filter(|(_, line)| line.ends_with('\n')) {
        let record = parse(line, &path, number)?;
        let mine = run.shard.holds(record.sample) && record.sample < run.settings.data.samples;
        if !mine || !record.is_whole(run.columns.len()) {
            let message = format!("{}: line {}: no record of this run", path.display(), number + 1);
            return Err(Error::format(message));
        }
        if let Some(record) = records.insert(record.sample, record) {
            let (line, sample) = (number + 1, record.sample + 1);
            let message = format!("{}: line {line}: sample {sample} again; take one of its lines out", path.display());
            return Err(Error::format(message));
        }
    }
    Ok(records)
}

/// The whole run that shards are parts of, and all their records.
pub fn merge(folders: &[PathBuf]) -> Result<(Run, BTreeMap<usize, Record>)> {
    let fail = |folder: &Path, message: String| Err(Error::input(format!("{}: {message}", folder.display())));
    let mut whole: Option<Run> = None;
    let mut records = BTreeMap::new();
    let mut seen = BTreeMap::new();
    for folder in folders {
        let Some(run) = load_run(folder)? else {
            return fail(folder, "no run of `analyze` is here: expected run.json".to_owned());
        };
        if let Some(other) = seen.insert(run.shard.index, folder.clone()) {
            return fail(folder, format!("shard {} again, as in {}", run.shard.index, other.display()));
        }
        let found = load_records(folder, &run)?;
        let missing = (0..run.settings.data.samples).filter(|&sample| run.shard.holds(sample)).count() - found.len();
        if missing > 0 {
            return fail(folder, format!("{missing} samples are missing; run the same command again to go on"));
        }
        records.extend(found);
        match &whole {
            None => whole = Some(run),
            Some(first) => {
                let mut there = run.clone();
                there.shard.index = first.shard.index;
                if there != *first {
                    return fail(folder, format!("not a part of the same run: {}", differences(first, &there)));
                }
            }
        }
    }
    let Some(run) = whole else {
        return Err(Error::input("nothing to merge: name the folders of the shards"));
    };
    let absent: Vec<String> =
        (1..=run.shard.of).filter(|index| !seen.contains_key(index)).map(|index| index.to_string()).collect();
    if !absent.is_empty() {
        let message = format!("of {} shards these are missing: {}", run.shard.of, absent.join(", "));
        return Err(Error::input(message));
    }
    Ok((Run { shard: Shard::WHOLE, ..run }, records))
}

/// The differences of two runs, for people.
fn differences(there: &Run, now: &Run) -> String {
    let [there, now] = [there, now].map(|run| serde_json::to_value(run).unwrap_or_default());
    let mut found = Vec::new();
    compare("", &there, &now, &mut found);
    // What follows from the heads would only repeat it.
    let own = |line: &&String| !line.starts_with("columns");
    let mut lines: Vec<&str> = found.iter().filter(own).map(String::as_str).collect();
    lines.truncate(6);
    lines.join("; ")
}

fn compare(name: &str, there: &Value, now: &Value, found: &mut Vec<String>) {
    match (there, now) {
        _ if there == now => {}
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let name = if name.is_empty() || name == "settings" { key.clone() } else { format!("{name} {key}") };
                let value = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                compare(&name, &value(a), &value(b), found);
            }
        }
        _ => {
            let [there, now] = [there, now].map(|value| shortened(&value.to_string()));
            found.push(format!("{name} {there} there, {now} now"));
        }
    }
}

/// Enough of a value to recognise it.
fn shortened(text: &str) -> String {
    const LENGTH: usize = 60;
    let short: String = text.chars().take(LENGTH).collect();
    if short.len() < text.len() { format!("{short}...") } else { short }
}

fn line(record: &Record) -> Result<String> {
    serde_json::to_string(record).map(|json| json + "\n").map_err(|error| Error::io(error.to_string()))
}

fn parse(line: &str, path: &Path, number: usize) -> Result<Record> {
    let fail = |error| Error::format(format!("{}: line {}: {error}", path.display(), number + 1));
    serde_json::from_str(line).map_err(fail)
}

/// JSON for people.
pub fn pretty(value: &impl serde::Serialize) -> Result<String> {
    let json = serde_json::to_string_pretty(value);
    json.map(|json| json + "\n").map_err(|error| Error::io(error.to_string()))
}
