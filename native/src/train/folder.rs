//! The output folder of a training: its checkpoint, its log, and whose run it is.
//!
//! A checkpoint is `checkpoint/state.json` and the file of parameters and moments that it names. Both are written under other names
//! first; the description takes its name last, so the checkpoint before is whole until the new one is.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use foretoken::format::mtp::{CONFIG, TENSORS};
use foretoken::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{distill, marginal};
use crate::output::{check_folder, io_error, lock, make_folder, write_whole};
use foretoken::format::hash::Hash;

const STATE: &str = "checkpoint/state.json";
const FORMAT: &str = "foretoken-train";
const VERSION: u32 = 1;

/// The log.
pub const LOG: &str = "log.jsonl";
/// The plot of the log's losses.
pub const PLOT: &str = "loss.svg";

/// What decides the model's own texts.
const DISTILLING: [&str; 5] = ["--model ", "--data ", "--self-distill ", "--distill-", "--seq-len "];

/// What decides the outcome of a run: the same again is needed to go on with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Of the checkpoint's configuration, tokenizer and weights.
    pub model: String,
    pub data: String,
    /// Of the heads that it began with, where they came from a folder.
    pub warmup_heads: Option<String>,
    /// Those that decide.
    pub flags: Map<String, Value>,
}

/// What computed: another one may give other bits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    pub adapter: String,
    pub driver: String,
    pub kernels: String,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}, {} kernels", self.adapter, self.driver, self.kernels)
    }
}

/// `checkpoint/state.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    format: String,
    version: u32,
    #[serde(flatten)]
    identity: Identity,
    /// What computed last.
    #[serde(default)]
    device: Option<Device>,
    /// Steps done.
    step: u64,
    /// The file beside it with parameters and moments; none before the first checkpoint.
    state: Option<String>,
    /// That file's hash.
    #[serde(default)]
    hash: Option<String>,
}

/// Checks that there is a run in `path` to resume, or a place for a new one.
///
/// # Errors
/// [`ErrorKind::Input`] for a folder that holds a run when none should be resumed, or something else that a new one would
/// overwrite, and for one that holds none when one should be resumed.
pub fn check(path: &Path, resume: bool) -> Result<()> {
    match find(path)? {
        Some(_) if resume => Ok(()),
        None if resume => Err(refusal(path, "there is no run to resume")),
        Some(_) => Err(refusal(path, "holds another run; go on with it (--resume), or name another folder")),
        None => {
            let names = [CONFIG, TENSORS, LOG, PLOT, distill::FILE, marginal::FILE];
            match names.into_iter().find(|name| path.join(name).exists()) {
                Some(name) => Err(refusal(path, &format!("there is {name} already; name another folder"))),
                None => check_folder(&path.join("checkpoint")),
            }
        }
    }
}

/// The run in `path`. One that ended before it did anything, for want of memory perhaps, is none.
fn find(path: &Path) -> Result<Option<State>> {
    let begun = [LOG, distill::FILE, marginal::FILE].iter().any(|name| path.join(name).exists());
    Ok(read_state(path)?.filter(|state| state.state.is_some() || begun))
}

fn refusal(path: &Path, what: &str) -> Error {
    Error::input(format!("{}: {what}", path.display()))
}

/// The output folder of this run.
#[derive(Debug)]
pub struct OutFolder {
    path: PathBuf,
    state: State,
    /// Nobody else writes here.
    _lock: Option<File>,
}

impl OutFolder {
    /// Begins a run in `path`, or takes up the one that is there.
    ///
    /// # Errors
    /// As [`check`]; also for a run that was begun with something else: it is said with what.
    pub fn open(path: &Path, identity: Identity, resume: bool) -> Result<Self> {
        let checkpoint = path.join("checkpoint");
        let held = if path.join(STATE).exists() { lock(&checkpoint)? } else { None };
        check(path, resume)?;
        match find(path)? {
            Some(state) => {
                let untrained = state.state.is_none() && !path.join(LOG).exists();
                let mut differ = differences(&state.identity, &identity);
                if untrained {
                    // There are only texts of the model's own yet.
                    differ.retain(|what| DISTILLING.iter().any(|flag| what.starts_with(flag)));
                }
                if !differ.is_empty() {
                    let differ = differ.join("; ");
                    return Err(refusal(
                        path,
                        &format!(
                            "holds a run that was begun with something else: {differ}; --resume needs the same again"
                        ),
                    ));
                }
                let changed = state.identity != identity;
                let folder = Self { path: path.to_owned(), state: State { identity, ..state }, _lock: held };
                if changed {
                    folder.write_state(&folder.state)?;
                }
                Ok(folder)
            }
            None => {
                make_folder(&checkpoint)?;
                let held = held.map_or_else(|| lock(&checkpoint), |held| Ok(Some(held)))?;
                let (format, version) = (FORMAT.to_owned(), VERSION);
                let state = State { format, version, identity, device: None, step: 0, state: None, hash: None };
                let folder = Self { path: path.to_owned(), state, _lock: held };
                folder.write_state(&folder.state)?;
                Ok(folder)
            }
        }
    }

    /// The file `name` in the folder.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Steps of the last checkpoint.
    pub fn step(&self) -> u64 {
        self.state.step
    }

    /// Parameters and moments of the last checkpoint; `None` before the first.
    ///
    /// # Errors
    /// Where the file cannot be read, or is not as it was written.
    pub fn parameters(&self) -> Result<Option<Vec<u8>>> {
        let Some(name) = &self.state.state else { return Ok(None) };
        let path = self.path.join("checkpoint").join(name);
        let bytes = fs::read(&path).map_err(|error| io_error(&path, &error))?;
        if self.state.hash.as_ref().is_some_and(|expected| *expected != hash(&bytes)) {
            let message = format!(
                "{}: not as this run has written it; bring back the file, or begin anew in another folder",
                path.display()
            );
            return Err(Error::format(message));
        }
        Ok(Some(bytes))
    }

    /// Notes what computes from now on; the one before, if that was another.
    pub fn computed_by(&mut self, device: Device) -> Result<Option<Device>> {
        if self.state.device.as_ref() == Some(&device) {
            return Ok(None);
        }
        let before = self.state.device.replace(device);
        self.write_state(&self.state)?;
        Ok(before)
    }

    /// Writes a checkpoint after `step` steps. Where that fails, the one before stays.
    pub fn checkpoint(&mut self, step: u64, parameters: &[u8]) -> Result<()> {
        let name = format!("state-{step:08}.safetensors");
        let earlier = self.state.state.clone();
        write_whole(&self.path.join("checkpoint").join(&name), parameters)?;
        let state = State { step, state: Some(name.clone()), hash: Some(hash(parameters)), ..self.state.clone() };
        self.write_state(&state)?;
        self.state = state;
        if let Some(earlier) = earlier.filter(|earlier| *earlier != name) {
            // Nothing needs it any more; should it stay, it only takes room.
            let _ = fs::remove_file(self.path.join("checkpoint").join(earlier));
        }
        Ok(())
    }

    fn write_state(&self, state: &State) -> Result<()> {
        let path = self.path.join(STATE);
        let json =
            serde_json::to_string_pretty(state).map_err(|error| Error::io(format!("{}: {error}", path.display())))?;
        write_whole(&path, format!("{json}\n").as_bytes())
    }

    /// The log, as far as the checkpoint goes: what comes after it is taken out of the file, as is half a line.
    ///
    /// # Errors
    /// Where the file cannot be read or written, or holds other lines than such a run writes.
    pub fn log(&self) -> Result<Log> {
        let path = self.join(LOG);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(io_error(&path, &error)),
        };
        let (mut lines, mut kept, mut reached) = (Vec::new(), 0, 0);
        for (number, line) in (1..).zip(bytes.split_inclusive(|&byte| byte == b'\n')) {
            if !line.ends_with(b"\n") {
                break;
            }
            let value =
                serde_json::from_slice::<Value>(line).ok().and_then(|value| Some((value["step"].as_u64()?, value)));
            let Some((step, value)) = value else {
                if reached == self.state.step {
                    break;
                }
                let message = format!(
                    "{}: line {number}: expected an object with a step, as this program writes them; mend the line, or move the \
                     file away to go on without it",
                    path.display()
                );
                return Err(Error::format(message));
            };
            if step > self.state.step {
                break;
            }
            lines.push(value);
            kept += line.len();
            reached = step;
        }
        if kept < bytes.len() {
            write_whole(&path, &bytes[..kept])?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(|error| io_error(&path, &error))?;
        Ok(Log { path, file, lines })
    }
}

/// `log.jsonl`: an object for each step, and one for each time that the validation texts were measured.
pub struct Log {
    path: PathBuf,
    file: File,
    lines: Vec<Value>,
}

impl Log {
    /// All lines.
    pub fn lines(&self) -> &[Value] {
        &self.lines
    }

    /// The last line with this field.
    pub fn last(&self, field: &str) -> Option<&Value> {
        self.lines.iter().rev().find(|line| !line[field].is_null())
    }

    /// Adds a line.
    pub fn add(&mut self, line: Value) -> Result<()> {
        self.file.write_all(format!("{line}\n").as_bytes()).map_err(|error| io_error(&self.path, &error))?;
        self.lines.push(line);
        Ok(())
    }

    /// Returns once everything has reached the disk.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|error| io_error(&self.path, &error))
    }
}

fn hash(bytes: &[u8]) -> String {
    let mut hash = Hash::new();
    hash.add(bytes);
    hash.text()
}

fn read_state(path: &Path) -> Result<Option<State>> {
    let file = path.join(STATE);
    let bytes = match fs::read(&file) {
        Ok(bytes) => bytes,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(io_error(&file, &error)),
    };
    let broken = |what: String| Error::format(format!("{}: {what}", file.display()));
    let value: Value = serde_json::from_slice(&bytes)
        .map_err(|error| broken(format!("{error}: not as a run has written it; begin anew in another folder")))?;
    if value["format"] != FORMAT || value["version"] != VERSION {
        return Err(broken(format!(
            "expected \"format\": \"{FORMAT}\", \"version\": {VERSION}: another program wrote it"
        )));
    }
    serde_json::from_value(value).map(Some).map_err(|error| broken(error.to_string()))
}

/// What differs, in the user's words.
fn differences(then: &Identity, now: &Identity) -> Vec<String> {
    let mut differ = Vec::new();
    if then.model != now.model {
        differ.push("--model has other files".to_owned());
    }
    if then.data != now.data {
        differ.push("--data has another content".to_owned());
    }
    let shown = |value: Option<&Value>| match value {
        None | Some(Value::Null) => "not given".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    match (&then.warmup_heads, &now.warmup_heads) {
        (then, now) if then == now => {}
        (Some(_), Some(_)) => differ.push("--warmup-heads has another content".to_owned()),
        (Some(_), None) => differ.push("--warmup-heads was given then".to_owned()),
        (None, _) => differ.push("--warmup-heads was not given then".to_owned()),
    }
    let mut names: Vec<&String> = then.flags.keys().chain(now.flags.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let [before, after] = [&then.flags, &now.flags].map(|flags| flags.get(name));
        if before != after {
            differ.push(format!("{name} was {}, is {}", shown(before), shown(after)));
        }
    }
    differ
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn identity(lr: f64) -> Identity {
        let Value::Object(flags) = json!({"--lr": lr, "--clip": null, "--mode": "frozen"}) else { unreachable!() };
        Identity { model: "m".to_owned(), data: "d".to_owned(), warmup_heads: None, flags }
    }

    fn refused(path: &Path, identity: Identity, resume: bool) -> String {
        OutFolder::open(path, identity, resume).unwrap_err().to_string()
    }

    #[test]
    fn a_run_is_taken_up_where_its_checkpoint_is() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a/out");
        assert!(refused(&path, identity(0.1), true).contains("no run to resume"));
        let mut folder = OutFolder::open(&path, identity(0.1), false).unwrap();
        assert_eq!((folder.step(), folder.parameters().unwrap()), (0, None));
        folder.checkpoint(4, b"four").unwrap();
        folder.checkpoint(8, b"eight").unwrap();
        drop(folder);
        let folder = OutFolder::open(&path, identity(0.1), true).unwrap();
        assert_eq!((folder.step(), folder.parameters().unwrap().as_deref()), (8, Some(&b"eight"[..])));
        assert!(!path.join("checkpoint/state-00000004.safetensors").exists(), "the earlier state is gone");
        // One at a time.
        assert!(refused(&path, identity(0.1), true).contains("at work there"));
        fs::write(path.join("checkpoint/state-00000008.safetensors"), b"eighT").unwrap();
        let message = folder.parameters().unwrap_err().to_string();
        assert!(message.contains("state-00000008.safetensors: not as this run has written it"), "{message}");
    }

    #[test]
    fn numbers_come_back_as_they_were() {
        let temp = tempfile::tempdir().unwrap();
        // A reader that rounds twice takes this one for its neighbour.
        let rate = 9.965995890527009e-05;
        OutFolder::open(temp.path(), identity(rate), false).unwrap().checkpoint(2, b"two").unwrap();
        assert_eq!(OutFolder::open(temp.path(), identity(rate), true).unwrap().step(), 2);
    }

    #[test]
    fn another_device_is_told_once() {
        let temp = tempfile::tempdir().unwrap();
        let device =
            |kernels: &str| Device { adapter: "a".to_owned(), driver: "d".to_owned(), kernels: kernels.to_owned() };
        let mut folder = OutFolder::open(temp.path(), identity(0.1), false).unwrap();
        assert_eq!(folder.computed_by(device("subgroup")).unwrap(), None);
        folder.checkpoint(2, b"two").unwrap();
        drop(folder);
        let resumed = || OutFolder::open(temp.path(), identity(0.1), true).unwrap();
        assert_eq!(resumed().computed_by(device("subgroup")).unwrap(), None);
        let before = resumed().computed_by(device("workgroup")).unwrap();
        assert_eq!(before.map(|device| device.to_string()).as_deref(), Some("a, d, subgroup kernels"));
        assert_eq!(resumed().computed_by(device("workgroup")).unwrap(), None);
        // Runs from before there was a note of it.
        let path = temp.path().join(STATE);
        let mut state: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        state.as_object_mut().unwrap().remove("device");
        fs::write(&path, state.to_string()).unwrap();
        assert_eq!(resumed().computed_by(device("workgroup")).unwrap(), None);
    }

    #[test]
    fn what_differs_is_named_and_nothing_is_touched() {
        let temp = tempfile::tempdir().unwrap();
        OutFolder::open(temp.path(), identity(0.1), false).unwrap().checkpoint(2, b"two").unwrap();
        let before = fs::read(temp.path().join(STATE)).unwrap();
        assert!(refused(temp.path(), identity(0.1), false).contains("holds another run"));
        let message = refused(temp.path(), identity(0.25), true);
        assert!(message.contains("--lr was 0.1, is 0.25") && !message.contains("--mode"), "{message}");
        let mut other = Identity { model: "n".to_owned(), data: "e".to_owned(), ..identity(0.1) };
        other.warmup_heads = Some("h".to_owned());
        other.flags["--clip"] = json!(1.0);
        let message = refused(temp.path(), other, true);
        for part in ["--model", "--data", "--warmup-heads", "--clip was not given, is 1"] {
            assert!(message.contains(part), "{part}: {message}");
        }
        assert_eq!(fs::read(temp.path().join(STATE)).unwrap(), before);
        fs::write(temp.path().join(STATE), "{").unwrap();
        assert!(refused(temp.path(), identity(0.1), true).contains("state.json"));
        fs::write(temp.path().join(STATE), "{\"format\": \"foretoken-train\", \"version\": 2}").unwrap();
        assert!(refused(temp.path(), identity(0.1), true).contains("\"version\": 1"));
    }

    #[test]
    fn until_something_is_trained_flags_may_change() {
        let temp = tempfile::tempdir().unwrap();
        OutFolder::open(temp.path(), identity(0.1), false).unwrap();
        // Nothing has happened yet: as if the folder were new.
        assert!(refused(temp.path(), identity(0.1), true).contains("no run to resume"));
        OutFolder::open(temp.path(), identity(0.2), false).unwrap();
        // The model's own texts stay good for other training flags, not for other data.
        fs::write(temp.path().join(distill::FILE), b"").unwrap();
        assert!(refused(temp.path(), identity(0.3), false).contains("holds another run"));
        OutFolder::open(temp.path(), identity(0.3), true).unwrap();
        let other = Identity { data: "e".to_owned(), ..identity(0.4) };
        let message = refused(temp.path(), other, true);
        assert!(message.contains("--data has") && !message.contains("--lr"), "{message}");
        OutFolder::open(temp.path(), identity(0.4), true).unwrap().checkpoint(1, b"").unwrap();
        assert!(refused(temp.path(), identity(0.3), true).contains("--lr was 0.4, is 0.3"));
    }

    #[test]
    fn heads_that_are_there_are_not_overwritten() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join(CONFIG), b"{}").unwrap();
        assert!(refused(temp.path(), identity(0.1), false).contains(CONFIG));
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_checkpoint_that_cannot_be_written_leaves_the_one_before() {
        let temp = tempfile::tempdir().unwrap();
        let mut folder = OutFolder::open(temp.path(), identity(0.1), false).unwrap();
        folder.checkpoint(4, b"four").unwrap();
        // Folders in the way: of the new state, then of its description.
        let checkpoint = temp.path().join("checkpoint");
        for name in ["state-00000008.safetensors", "state.json"] {
            let blocked = checkpoint.join(format!(".{name}.unfinished"));
            fs::create_dir(&blocked).unwrap();
            let error = folder.checkpoint(8, b"eight").unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
            drop(folder);
            folder = OutFolder::open(temp.path(), identity(0.1), true).unwrap();
            assert_eq!((folder.step(), folder.parameters().unwrap().as_deref()), (4, Some(&b"four"[..])));
            fs::remove_dir(&blocked).unwrap();
        }
        folder.checkpoint(8, b"eight").unwrap();
        assert_eq!(folder.step(), 8);
    }

    #[test]
    fn the_log_ends_where_the_checkpoint_does() {
        let temp = tempfile::tempdir().unwrap();
        let mut folder = OutFolder::open(temp.path(), identity(0.1), false).unwrap();
        assert_eq!(folder.log().unwrap().lines(), Vec::<Value>::new());
        folder.checkpoint(2, b"").unwrap();
        fs::write(folder.join(LOG), "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n{\"st").unwrap();
        assert_eq!(folder.log().unwrap().lines(), [json!({"step": 1}), json!({"step": 2})]);
        assert_eq!(fs::read_to_string(folder.join(LOG)).unwrap(), "{\"step\":1}\n{\"step\":2}\n");
        // What stands beyond the checkpoint may be broken, but a broken line before is not taken for the end.
        fs::write(folder.join(LOG), "{\"step\":1}\n{\"step\":2}\n\0\0\n{\"step\":4}\n").unwrap();
        assert_eq!(folder.log().unwrap().lines().len(), 2);
        let broken = "{\"step\":1}\nstep 2\n{\"step\":2}\n";
        fs::write(folder.join(LOG), broken).unwrap();
        assert!(folder.log().err().unwrap().to_string().contains("line 2: expected an object with a step"));
        assert_eq!(fs::read_to_string(folder.join(LOG)).unwrap(), broken);
    }
}
