//! Running the command, and checkpoints for it.
//!
//! Most tests run it within their own process, on a device that the whole test program shares: opening one and compiling kernels
//! takes longer than what they are about. What only a process has (signals, pipes, a terminal, an exit code that the system
//! sees) is tested on the built program, with [`program`].

#![allow(dead_code, reason = "each test program uses a part")]

use std::cell::RefCell;
use std::ffi::OsString;
use std::io::{self, Cursor, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use std::{env, fs};

use foretoken::Gpu;
use foretoken_native::{Console, Gpus, Terminals};
use serde_json::Value;
use tempfile::TempDir;

/// The golden checkpoint that most tests use.
pub const CASE: &str = "llama-gqa";

/// The file that holds its weights.
pub const WEIGHTS: &str = "model.safetensors";

/// One of its tensors.
pub const Q_PROJ: &str = "model.layers.0.self_attn.q_proj.weight";

/// Where the command keeps its kernel picks in tests, so that none of the user's is used or changed.
const HOME: &str = env!("CARGO_TARGET_TMPDIR");

/// The variables that say where that is.
const HOMES: [&str; 3] = ["HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"];

/// The devices of this test program.
static GPUS: LazyLock<Arc<Gpus>> = LazyLock::new(Arc::default);

/// What a run of the command came to.
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    /// What it would have waited, had there been time.
    pub waits: Vec<Duration>,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr), waits: Vec::new() }
    }
}

impl Run {
    #[track_caller]
    pub fn success(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self
    }

    /// The one JSON object on standard output.
    #[track_caller]
    pub fn json(self) -> Value {
        serde_json::from_str(&self.success().stdout).expect("standard output is JSON")
    }

    /// It failed with an error that says `part`, without a panic and without a half result.
    #[track_caller]
    pub fn fails_with(&self, part: &str) {
        self.fails_with_in(part, "");
    }

    #[track_caller]
    pub fn fails_with_in(&self, part: &str, case: &str) {
        let Self { code, stdout, stderr, .. } = self;
        assert!(matches!(code, Some(1 | 2)), "{case}: exit code {code:?}: {stdout}{stderr}");
        assert!(stderr.contains("error: "), "{case}: {stderr}");
        assert!(stderr.contains(part), "{case}: expected \"{part}\" in: {stderr}");
        assert_eq!(stdout, "", "{case}");
    }
}

/// How a run that is refused ends: its exit code and all of standard error. Standard output stays empty.
#[derive(Clone, Copy, Debug)]
pub enum Refused<'a> {
    /// Exit code 1, and after `error: ` this.
    Error(&'a str),
    /// Exit code 2, and between what clap says of every wrong usage this.
    Usage(&'a str),
}

impl Run {
    /// It was refused in these very words, in which names such as `{folder}` stand for what `places` has beside them.
    #[track_caller]
    pub fn refused(&self, expected: Refused<'_>, places: &[(&str, &str)], case: &str) {
        let (code, screen) = match expected {
            Refused::Error(message) => (1, format!("error: {message}\n")),
            Refused::Usage(message) => (2, format!("error: {message}\n\nFor more information, try '--help'.\n")),
        };
        let shown = places.iter().fold(self.stderr.clone(), |shown, (name, place)| shown.replace(place, name));
        let got = (self.code, &self.stdout[..], &shown[..]);
        assert_eq!(got, (Some(code), "", &screen[..]), "{case}");
    }
}

/// The command, not yet run.
pub struct Start {
    args: Vec<OsString>,
    terminals: Terminals,
    variables: Vec<(String, OsString)>,
}

impl Start {
    /// Lets it believe that somebody sits at a terminal.
    pub fn at_a_terminal(self) -> Self {
        Self { terminals: Terminals { input: true, output: true, errors: true }, ..self }
    }

    /// Gives it a variable of the environment.
    pub fn variable(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    /// Runs it within this process, with `input` as standard input.
    #[must_use = "it may have failed"]
    pub fn input(self, input: &[u8]) -> Run {
        let [stdout, stderr] = [Screen::default(), Screen::default()];
        let mut console = Console::apart(Cursor::new(input.to_owned()), stdout.clone(), stderr.clone());
        let variables = self.variables;
        console.variable = Box::new(move |name| match variables.iter().rfind(|(other, _)| other == name) {
            Some((_, value)) => Some(value.clone()),
            None if HOMES.contains(&name) => Some(HOME.into()),
            None => env::var_os(name),
        });
        console.gpus = Arc::clone(&GPUS);
        console.terminals = self.terminals;
        let waits = Rc::<RefCell<Vec<Duration>>>::default();
        let log = Rc::clone(&waits);
        console.sleep = Box::new(move |pause| log.borrow_mut().push(pause));
        let code = foretoken_native::run(self.args, console);
        Run { code: Some(code.into()), stdout: stdout.text(), stderr: stderr.text(), waits: waits.take() }
    }
}

/// An output that keeps what is written to it.
#[derive(Clone, Default)]
struct Screen(Rc<RefCell<Vec<u8>>>);

impl Screen {
    fn text(self) -> String {
        String::from_utf8(self.0.take()).expect("output is UTF-8")
    }
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub fn start<S: AsRef<str>>(flags: &[S]) -> Start {
    let args = ["foretoken"].into_iter().chain(flags.iter().map(AsRef::as_ref)).map(OsString::from).collect();
    Start { args, terminals: Terminals::default(), variables: Vec::new() }
}

/// The device that the commands compute on.
pub fn gpu() -> Gpu {
    pollster::block_on(GPUS.open(env::var("FORETOKEN_ADAPTER").ok().as_deref())).unwrap()
}

/// What the system says of a file that is not there.
pub fn not_found() -> String {
    fs::metadata("no such file").unwrap_err().to_string()
}

/// Runs the command with nothing on standard input.
#[must_use = "it may have failed"]
pub fn foretoken(flags: &[&str]) -> Run {
    start(flags).input(b"")
}

/// The built program, to be run as a process of its own: nothing on standard input, pipes for what it writes.
pub fn program<S: AsRef<str>>(flags: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_foretoken"));
    command.args(flags.iter().map(AsRef::as_ref));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for home in HOMES {
        command.env(home, HOME);
    }
    command
}

/// Sends a signal, such as `TERM`, to a process.
#[cfg(unix)]
pub fn send(signal: &str, child: &std::process::Child) {
    let kill = format!("kill -{signal} {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success(), "{kill}");
}

fn golden_path(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(case)
}

/// The folder of a golden checkpoint.
pub fn golden(case: &str) -> String {
    golden_path(case).to_str().unwrap().to_owned()
}

/// What transformers computed of a golden checkpoint.
pub fn expected(case: &str) -> Value {
    serde_json::from_slice(&fs::read(golden_path(case).join("expected.json")).unwrap()).unwrap()
}

/// A copy to break; gone with the first of the pair.
pub fn golden_copy(case: &str) -> (TempDir, String) {
    let temp = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden_path(case)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), temp.path().join(entry.file_name())).unwrap();
    }
    let folder = temp.path().to_str().unwrap().to_owned();
    (temp, folder)
}

/// `generate` on the golden checkpoint with its prompt.
pub fn generate(more: &[&str]) -> Run {
    let (folder, prompt) = (golden(CASE), ids_flag(&expected(CASE)["prompt_ids"]));
    foretoken(&[&["generate", "--model", &folder, "--ids", &prompt], more].concat())
}

/// Token ids as `--ids` takes them.
pub fn ids_flag(ids: &Value) -> String {
    let ids = ids.as_array().unwrap().iter().map(Value::to_string);
    ids.collect::<Vec<_>>().join(",")
}

pub fn edit_json(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut json = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut json);
    fs::write(path, json.to_string()).unwrap();
}

/// Changes the header and the data of a safetensors file.
pub fn edit_weights(path: &Path, change: impl FnOnce(&mut Value, &mut Vec<u8>)) {
    let bytes = fs::read(path).unwrap();
    let (len, rest) = bytes.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*len) as usize);
    let (mut header, mut data) = (serde_json::from_slice(header).unwrap(), data.to_owned());
    change(&mut header, &mut data);
    let header = header.to_string();
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    fs::write(path, file).unwrap();
}

/// Changes a checkpoint's configuration.
pub fn config(folder: &Path, change: impl FnOnce(&mut Value)) {
    edit_json(&folder.join("config.json"), change);
}

/// Changes a checkpoint's weights, as [`edit_weights`] does.
pub fn weights(folder: &Path, change: impl FnOnce(&mut Value, &mut Vec<u8>)) {
    edit_weights(&folder.join(WEIGHTS), change);
}

/// Gives a tensor of a safetensors header another name.
pub fn rename(header: &mut Value, from: &str, to: &str) {
    let tensors = header.as_object_mut().unwrap();
    let tensor = tensors.remove(from).unwrap();
    tensors.insert(to.to_owned(), tensor);
}
