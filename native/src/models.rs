//! `foretoken models`: the models of the hub that are kept.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use foretoken::Result;
use serde::Serialize;

use crate::hub::{self, ContentHash, Repository, Settings};
use crate::output::io_error;
use crate::terminal::{FAILURE, Outcome, SUCCESS, bar, bytes, print, print_json, print_status, visible};

#[derive(clap::Args)]
pub struct Args {
    /// Check the files that are not verified yet against their hashes, which takes as long as reading them
    #[arg(long)]
    verify: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// The contract of `models --json`.
#[derive(Serialize)]
struct Report {
    /// The folder of the cache.
    cache: PathBuf,
    models: Vec<Model>,
}

/// A commit of a model.
#[derive(Serialize)]
struct Model {
    /// `owner/name`.
    model: String,
    /// Branches and tags that are this commit.
    revisions: Vec<String>,
    /// Empty where only a download has begun.
    commit: String,
    files: usize,
    bytes: u64,
    state: State,
    /// Bytes of downloads that were not finished, of all commits of this model.
    unfinished_bytes: u64,
}

/// The state of the files of a commit, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// Every file has the hash that it is kept by.
    Verified,
    /// Some file was not checked.
    NotVerified,
    /// Nothing of it is whole yet.
    Unfinished,
    /// The content of some file is gone.
    Missing,
    /// Some file has other content than it should have.
    Wrong,
}

impl State {
    fn words(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::NotVerified => "not verified",
            Self::Unfinished => "unfinished: pull it to go on",
            Self::Missing => "files are missing: pull it again",
            Self::Wrong => "a file is wrong: pull it again",
        }
    }
}

pub fn run(args: &Args) -> Outcome<u8> {
    let cache = Settings::of_environment()?.cache;
    let mut models = Vec::new();
    for repository in Repository::all(&cache)? {
        models.extend(of_repository(&repository, args.verify)?);
    }
    let wrong = models.iter().any(|model| model.state == State::Wrong);
    let report = Report { cache, models };
    if args.json {
        print_json(&report)?;
    } else {
        print(&visible(&listing(&report)))?;
    }
    Ok(if wrong { FAILURE } else { SUCCESS })
}

fn of_repository(repository: &Repository, verify: bool) -> Result<Vec<Model>> {
    let mut revisions = repository.revisions();
    let length = |path: &PathBuf| fs::metadata(path).map_or(0, |file| file.len());
    let unfinished_bytes = repository.blobs().1.iter().map(length).sum();
    let mut models = Vec::new();
    for commit in repository.commits() {
        let files = repository.names_of(&commit);
        let mut state = State::Verified;
        for file in &files {
            state = state.max(state_of(repository, file, verify)?);
        }
        models.push(Model {
            model: repository.name.clone(),
            revisions: revisions.remove(&commit).unwrap_or_default(),
            commit,
            files: files.len(),
            bytes: files.iter().map(length).sum(),
            state,
            unfinished_bytes,
        });
    }
    if models.is_empty() && unfinished_bytes > 0 {
        let (model, state) = (repository.name.clone(), State::Unfinished);
        models.push(Model {
            model,
            revisions: vec![],
            commit: String::new(),
            files: 0,
            bytes: 0,
            state,
            unfinished_bytes,
        });
    }
    Ok(models)
}

/// The state of one file, as far as it is known.
fn state_of(repository: &Repository, file: &Path, verify: bool) -> Result<State> {
    // Without links there is no hash to hold it against.
    let Some((hash, blob)) = repository.blob_of(file) else { return Ok(State::NotVerified) };
    Ok(match fs::metadata(&blob) {
        Err(_) => State::Missing,
        Ok(_) if hub::is_noted(&blob, &hash) => State::Verified,
        Ok(_) if !verify => State::NotVerified,
        Ok(found) if is_right(&blob, &hash, found.len())? => {
            hub::note(&blob, &hash);
            State::Verified
        }
        Ok(_) => {
            let (name, hash) = (file.display(), hash.name());
            print_status(format_args!("note: {name}: its content has another hash than {hash}"));
            State::Wrong
        }
    })
}

fn is_right(blob: &Path, hash: &ContentHash, len: u64) -> Result<bool> {
    let bar = bar("verify {bar:30} {bytes} of {total_bytes} · {eta} left", len);
    let found = hub::digits(blob, hash, &mut |read| bar.inc(read));
    bar.finish_and_clear();
    Ok(found.map_err(|error| io_error(blob, &error))? == hash.name())
}

fn listing(report: &Report) -> String {
    let cache = report.cache.display();
    if report.models.is_empty() {
        return format!("no models in {cache}\n");
    }
    let of = |model: &Model| match (&model.revisions[..], model.commit.get(..7)) {
        ([], commit) => commit.unwrap_or_default().to_owned(),
        (names, commit) => format!("{} ({})", names.join(", "), commit.unwrap_or_default()),
    };
    let wide = |cells: &mut dyn Iterator<Item = usize>, title: &str| cells.max().unwrap_or(0).max(title.len());
    let first = wide(&mut report.models.iter().map(|model| model.model.chars().count()), "model");
    let second = wide(&mut report.models.iter().map(|model| of(model).chars().count()), "revision");
    let mut text = format!("{:first$}  {:second$}  {:>5}  {:>10}  state\n", "model", "revision", "files", "size");
    for model in &report.models {
        let Model { model: name, files, bytes: size, state, .. } = model;
        let _ =
            writeln!(text, "{name:first$}  {:second$}  {files:>5}  {:>10}  {}", of(model), bytes(*size), state.words());
    }
    let mut unfinished: Vec<_> = report.models.iter().map(|model| (&model.model, model.unfinished_bytes)).collect();
    unfinished.dedup();
    for (name, size) in unfinished.into_iter().filter(|(_, size)| *size > 0) {
        let _ = writeln!(text, "{} of downloads for {name} are not finished", bytes(size));
    }
    let _ = writeln!(text, "in {cache}");
    text
}
