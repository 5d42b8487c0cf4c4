//! Models of the Hugging Face hub by their names, kept where Python's `huggingface_hub` keeps them.
//!
//! A name is looked for in the cache first; what is there whole is used as it is, and the hub hears nothing of it. Else the hub is
//! asked for the files of the repository, those that make a model are chosen, what they need is read from their headers and told,
//! and they are downloaded one after the other.

mod cache;
mod choice;
mod download;
mod hash;
mod http;
mod listing;
mod name;
mod remote;
mod settings;
mod verified;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use foretoken::model::{self, Inspection};
use foretoken::{Error, ErrorKind, Result};
use serde_json::Value;

pub use cache::Repository;
use choice::{Choice, Sized, choose, total};
use download::{Wanted, address};
pub use hash::ContentHash;
use http::Client;
use listing::{Listing, RemoteFile, refused};
pub use name::{HubName, Pick};
use remote::RemoteFiles;
pub use settings::Settings;
pub use verified::{digits, is_noted, note};

use crate::machine;
use crate::output::io_error;
use crate::terminal::{bar, bytes, counted, print_status};

/// The file that names the shards of a checkpoint.
const INDEX: &str = "model.safetensors.index.json";

/// The model that `name` means, as a path for [`Folder::open`](crate::folder::Folder::open): the kept one if it is whole, else it is
/// downloaded.
///
/// # Errors
/// Where it is not kept and cannot be downloaded.
pub async fn find(name: &HubName) -> Result<PathBuf> {
    let hub = Hub::new(name)?;
    match hub.kept() {
        // Which of several files in GGUF suit best, the hub's list tells, not what happens to be here.
        Some(kept) if hub.settings.offline || name.pick != Pick::Any || !kept.path.is_file() => {
            if name.pick == Pick::Any {
                print_status(format_args!("note: {name} is kept: {}", kept.what));
            }
            Ok(kept.path)
        }
        None if hub.settings.offline => Err(hub.not_kept()),
        kept => hub.ask(kept).await,
    }
}

/// The model that `name` means as the hub has it now, every file checked by its hash.
///
/// # Errors
/// As [`find`].
pub async fn pull(name: &HubName) -> Result<PathBuf> {
    let hub = Hub::new(name)?;
    if hub.settings.offline {
        return Err(Error::input(format!("{name}: HF_HUB_OFFLINE is set, so the hub is not asked")));
    }
    let listing = Listing::ask(&Client::new(&hub.settings)?, name)?;
    hub.download(listing, true).await
}

/// The files of a kept model that `name` means, below the folder of its commit.
///
/// # Errors
/// Where they are not kept.
pub fn kept_files(name: &HubName, repository: &Repository) -> Result<Vec<PathBuf>> {
    let none = || Error::input(format!("{name}: is not kept; `foretoken models` lists what is"));
    let commit =
        repository.commit(name.revision()).filter(|commit| repository.snapshot(commit).is_dir()).ok_or_else(none)?;
    if name.pick == Pick::Any {
        return Ok(repository.names_of(&commit));
    }
    let choice = choose(&repository.kept(&commit), &name.pick, |_| true);
    let choice = choice.map_err(|what| Error::input(format!("{name}: of what is kept, {what}")))?;
    Ok(choice.files.iter().map(|file| repository.snapshot(&commit).join(file)).collect())
}

/// One model on the hub and in the cache.
struct Hub<'a> {
    name: &'a HubName,
    settings: Settings,
    repository: Repository,
}

/// A model in the cache.
struct Kept {
    path: PathBuf,
    /// What it is, for people.
    what: String,
}

/// A download: a choice of files at a commit.
struct Plan {
    commit: String,
    choice: Choice,
    files: Vec<Planned>,
}

/// A file with its length and hash.
type Planned = (String, u64, ContentHash);

impl<'a> Hub<'a> {
    fn new(name: &'a HubName) -> Result<Self> {
        let settings = Settings::of_environment()?;
        let repository = Repository::new(&settings.cache, &name.repository);
        Ok(Self { name, settings, repository })
    }

    /// Whether weights of so many bytes suit this machine. Drivers do not tell what a GPU has: rarely more than its machine.
    fn fits(bytes: u64) -> bool {
        machine::memory().is_none_or(|memory| bytes <= memory)
    }

    /// The model in the cache, if all of it is there.
    fn kept(&self) -> Option<Kept> {
        let commit = self.repository.commit(self.name.revision())?;
        let files = self.repository.kept(&commit);
        let choice = choose(&files, &self.name.pick, Self::fits).ok()?;
        self.is_whole(&commit, &choice).then(|| Kept { path: self.path(&commit, &choice), what: choice.what })
    }

    /// Whether what was chosen among kept files is all that belongs to it.
    fn is_whole(&self, commit: &str, choice: &Choice) -> bool {
        if choice.open.is_some() {
            return true;
        }
        let has = |name: &str| choice.files.iter().any(|file| file == name);
        let shards = || {
            let index = fs::read(self.repository.snapshot(commit).join(INDEX)).ok()?;
            let index: Value = serde_json::from_slice(&index).ok()?;
            Some(index.get("weight_map")?.as_object()?.values().all(|shard| shard.as_str().is_some_and(has)))
        };
        let tensors = if has(INDEX) { shards().unwrap_or(false) } else { has("model.safetensors") };
        tensors && (has("tokenizer.json") || self.settings.offline)
    }

    fn path(&self, commit: &str, choice: &Choice) -> PathBuf {
        let folder = self.repository.snapshot(commit);
        choice.open.as_ref().map_or(folder.clone(), |file| folder.join(file))
    }

    fn not_kept(&self) -> Error {
        Error::input(format!(
            "{}: HF_HUB_OFFLINE is set, and {} does not have it whole; unset it, or run `foretoken pull {}` where there is a network",
            self.name,
            self.settings.cache.display(),
            self.name
        ))
    }

    /// The model as the hub has it; the kept one, where the hub does not answer.
    async fn ask(&self, kept: Option<Kept>) -> Result<PathBuf> {
        let client = Client::new(&self.settings)?;
        let client = if kept.is_some() { client.impatient() } else { client };
        match (Listing::ask(&client, self.name), kept) {
            (Ok(listing), _) => self.download(listing, false).await,
            (Err(error), Some(Kept { path, what })) if error.kind() == ErrorKind::Io => {
                print_status(format_args!("note: {error}; the copy of {} that is kept is taken: {what}", self.name));
                Ok(path)
            }
            (Err(error), _) if error.kind() == ErrorKind::Io => {
                Err(error.within(format_args!("there is no {} here, and the hub cannot be asked", self.name)))
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Downloads what is missing. With `checked`, what is here already is held against its hash.
    async fn download(&self, listing: Listing, checked: bool) -> Result<PathBuf> {
        let client = Client::new(&self.settings)?;
        let plan = self.plan(&client, listing).await?;
        self.fetch(&client, &plan, checked)?;
        for (file, _, hash) in &plan.files {
            self.repository.link(&plan.commit, file, hash)?;
        }
        self.repository.set_commit(self.name.revision(), &plan.commit)?;
        Ok(self.path(&plan.commit, &plan.choice))
    }

    /// Chooses what to fetch, and says what it is and needs.
    async fn plan(&self, client: &Client, Listing { commit, files }: Listing) -> Result<Plan> {
        let wrong = |what: String| Error::input(format!("{}: {what}", self.name));
        let sized: Vec<Sized> = files.iter().map(|file| (file.name.clone(), file.size.unwrap_or(0))).collect();
        let mut choice = choose(&sized, &self.name.pick, Self::fits).map_err(wrong)?;
        let known: BTreeMap<&str, &RemoteFile> = files.iter().map(|file| (&file.name[..], file)).collect();
        let mut wanted = self.wanted(client, &commit, &choice, &known)?;
        let mut look = match wanted.iter().all(|file| self.is_there(&commit, file)) {
            true => None,
            false => self.look(client, &commit, &wanted).await?,
        };
        let other =
            look.as_ref().filter(|look| !Self::fits(needs(look))).map(|_| choose(&sized, &self.name.pick, |_| false));
        if let Some(Ok(other)) = other.filter(|other| other.as_ref().is_ok_and(|other| other.open != choice.open)) {
            choice = other;
            wanted = self.wanted(client, &commit, &choice, &known)?;
            look = self.look(client, &commit, &wanted).await?;
        }
        let plan = Plan { commit, choice, files: wanted };
        self.announce(&plan, look.as_ref())?;
        Ok(plan)
    }

    /// The chosen files with length and hash.
    fn wanted(
        &self,
        client: &Client,
        commit: &str,
        choice: &Choice,
        known: &BTreeMap<&str, &RemoteFile>,
    ) -> Result<Vec<Planned>> {
        let complete = |file: &String| {
            name::check_file(file).map_err(|what| Error::io(format!("{}: {what}", self.name)))?;
            match known.get(&file[..]).map(|file| (file.size, file.hash.clone())) {
                Some((Some(size), Some(hash))) => Ok((file.clone(), size, hash)),
                _ => self.ask_about(client, commit, file),
            }
        };
        choice.files.iter().map(complete).collect()
    }

    fn wanted_file<'b>(&'b self, commit: &'b str, (file, size, hash): &'b Planned) -> Wanted<'b> {
        Wanted { model: self.name, commit, file, size: *size, hash }
    }

    fn is_there(&self, commit: &str, file: &Planned) -> bool {
        self.wanted_file(commit, file).is_there(&self.repository)
    }

    /// Length and hash of a file of which the list does not have them.
    fn ask_about(&self, client: &Client, commit: &str, file: &str) -> Result<Planned> {
        let reply = client.patience.persist(|| client.get(&address(self.name, commit, file), None))?;
        if reply.status != 200 {
            return Err(refused(client, self.name, Some(file), &reply));
        }
        let size = reply.linked_size.or_else(|| reply.header("content-length")?.parse().ok());
        let hash = reply.etag.as_deref().and_then(|etag| ContentHash::read(etag).ok());
        match (size, hash) {
            (Some(size), Some(hash)) => Ok((file.to_owned(), size, hash)),
            _ => Err(Error::io(format!(
                "{file} of {}: {} does not say how long it is and which hash it has, so it could not be checked",
                self.name.repository,
                client.host()
            ))),
        }
    }

    /// What the headers of the files say; nothing where whoever answers gives no parts of files.
    async fn look(&self, client: &Client, commit: &str, files: &[Planned]) -> Result<Option<Inspection>> {
        let files: Vec<Sized> = files.iter().map(|(name, size, _)| (name.clone(), *size)).collect();
        let found = model::inspect(&RemoteFiles::new(client, self.name, commit, &files), None).await;
        let problem = match found {
            Ok(Inspection { problem: None, .. }) => return found.map(Some),
            Err(error) if error.kind() == ErrorKind::Io => return Ok(None),
            Ok(Inspection { problem: Some(problem), .. }) => Error::format(problem),
            Err(error) => error,
        };
        Err(Error::new(problem.kind(), format!("{problem}; nothing was downloaded")))
    }

    /// Says what will be downloaded and what the model needs.
    fn announce(&self, plan: &Plan, look: Option<&Inspection>) -> Result<()> {
        let (name, revision, commit) = (&self.name.repository, self.name.revision(), &plan.commit[..7]);
        let whole = total(plan.files.iter().map(|(_, size, _)| *size));
        let here = |file: &Planned| {
            let wanted = self.wanted_file(&plan.commit, file);
            if wanted.is_there(&self.repository) { file.1 } else { wanted.begun(&self.repository) }
        };
        let here = total(plan.files.iter().map(here));
        let missing = whole - here;
        let kept = match here {
            0 => String::new(),
            here if here == whole => ", all of it here".to_owned(),
            here => format!(", of which {} are here", bytes(here)),
        };
        let files = counted(plan.files.len(), "file");
        let chosen = if plan.choice.chosen { "; to choose another, name it" } else { "" };
        print_status(format_args!(
            "{name} at {revision} ({commit}), {}: {files}, {}{kept}{chosen}",
            plan.choice.what,
            bytes(whole)
        ));
        if let Some(look) = look {
            print_status(format_args!("{}", memory(look)));
            if plan.choice.open.is_none() && !plan.files.iter().any(|(file, ..)| file == "tokenizer.json") {
                print_status(format_args!(
                    "note: it has no tokenizer.json: without it there are token ids, but no text"
                ));
            }
        }
        match machine::free_disk(&self.settings.cache).filter(|free| missing > *free) {
            None => Ok(()),
            Some(free) => Err(Error::io(format!(
                "{}: {} are to be downloaded, and the disk of {} has room for {}; make room (`foretoken models` lists what is kept), \
                 or name a larger disk in HF_HUB_CACHE",
                self.name,
                bytes(missing),
                self.settings.cache.display(),
                bytes(free)
            ))),
        }
    }

    /// Downloads the files of a plan that are not here.
    fn fetch(&self, client: &Client, plan: &Plan, checked: bool) -> Result<()> {
        let bar = bar(
            "download {bar:30} {bytes} of {total_bytes} · {bytes_per_sec} · {eta} left",
            total(plan.files.iter().map(|(_, size, _)| *size)),
        );
        let _clear = Clear(&bar);
        for file in &plan.files {
            let wanted = self.wanted_file(&plan.commit, file);
            if checked {
                self.check(&wanted)?;
            }
            wanted.fetch(client, &self.repository, &bar)?;
        }
        Ok(())
    }

    /// Throws a file away that is here, but not with the content that it should have.
    fn check(&self, wanted: &Wanted<'_>) -> Result<()> {
        let Some(path) = wanted.place(&self.repository).filter(|path| !is_noted(path, wanted.hash)) else {
            return Ok(());
        };
        let found = digits(&path, wanted.hash, &mut |_| {}).map_err(|error| io_error(&path, &error))?;
        if found == wanted.hash.name() {
            note(&path, wanted.hash);
            return Ok(());
        }
        print_status(format_args!(
            "note: {} was kept with another content than it should have; it is downloaded again",
            wanted.file
        ));
        fs::remove_file(&path).map_err(|error| io_error(&path, &error))
    }
}

/// Takes a bar away, so that what is said next starts on a clean line.
struct Clear<'a>(&'a indicatif::ProgressBar);

impl Drop for Clear<'_> {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Bytes of memory that a model needs.
fn needs(look: &Inspection) -> u64 {
    look.weights_bytes.saturating_add(look.cache_bytes).saturating_add(look.work_bytes)
}

/// What running a model takes, and whether this machine has it.
fn memory(look: &Inspection) -> String {
    let needs = needs(look);
    let parts = format!(
        "it needs {} of memory (weights {}, cache for {} {}, work {})",
        bytes(needs),
        bytes(look.weights_bytes),
        counted(look.context, "token"),
        bytes(look.cache_bytes),
        bytes(look.work_bytes)
    );
    match machine::memory() {
        None => parts,
        Some(memory) if needs <= memory => {
            format!("{parts}: it fits the {} of this machine; what a GPU has, no driver tells", bytes(memory))
        }
        Some(memory) => format!(
            "note: {parts}, but this machine has {}; a shorter --context, --cache f16 or a smaller quantisation needs less",
            bytes(memory)
        ),
    }
}
