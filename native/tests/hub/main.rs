//! Models of the hub by their names, against a hub of ours on loopback that behaves and misbehaves. No adapter is opened.

mod keeping;
mod misbehaving;
mod naming;
mod processes;
mod server;
#[path = "../command/support/mod.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use server::{COMMIT, Server};
use support::{CASE, Run, golden, program, start};
use tempfile::TempDir;

/// The repository's name.
const NAME: &str = "owner/name";

/// A hub, and a machine of which nobody else knows.
struct Place {
    server: Server,
    home: TempDir,
}

impl Place {
    /// With the files of a golden checkpoint in Hugging Face layout.
    fn new() -> Self {
        Self::with(Vec::new())
    }

    /// With more files beside them.
    fn with(more: Vec<(String, Vec<u8>)>) -> Self {
        let folder = golden(CASE);
        let read = |name: &&str| ((*name).to_owned(), fs::read(Path::new(&folder).join(name)).unwrap());
        let files = ["config.json", "generation_config.json", "tokenizer.json", "model.safetensors"];
        Self::of(files.iter().map(read).chain(more))
    }

    /// With these files.
    fn of(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        Self { server: Server::start(files), home: tempfile::tempdir().unwrap() }
    }

    fn variables(&self) -> Vec<(&'static str, String)> {
        let home = self.home.path().to_str().unwrap().to_owned();
        let mut variables = vec![("HF_ENDPOINT", self.server.endpoint.clone())];
        variables.extend(["HOME", "USERPROFILE", "LOCALAPPDATA"].map(|name| (name, home.clone())));
        // None of the user's.
        let none = ["XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH"];
        variables.extend(none.map(|name| (name, String::new())));
        variables
            .extend(["HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "SSL_CERT_FILE"].map(|name| (name, String::new())));
        variables
    }

    /// Runs the command there, within this process.
    fn run(&self, flags: &[&str]) -> Run {
        self.run_with(flags, &[])
    }

    /// The same with more variables.
    fn run_with(&self, flags: &[&str], more: &[(&str, &str)]) -> Run {
        let mut start = start(flags);
        for (name, value) in self.variables() {
            start = start.variable(name, value);
        }
        for (name, value) in more {
            start = start.variable(name, value);
        }
        start.input(b"")
    }

    /// Runs the command there without a network.
    fn offline(&self, flags: &[&str]) -> Run {
        self.run_with(flags, &[("HF_HUB_OFFLINE", "1")])
    }

    /// The command there, to be run as a process.
    fn program(&self, flags: &[&str]) -> Command {
        let mut command = program(flags);
        command.envs(self.variables());
        command
    }

    /// The model's folder in the cache.
    fn repository(&self) -> PathBuf {
        self.home.path().join(".cache/huggingface/hub/models--owner--name")
    }

    /// The name of a file in the cache.
    fn snapshot(&self, file: &str) -> PathBuf {
        self.repository().join("snapshots").join(COMMIT).join(file)
    }

    /// The content of a file in the cache.
    fn blob(&self, file: &str) -> PathBuf {
        self.repository().join("blobs").join(self.server.hash(file))
    }

    /// The bytes of a file that was not downloaded whole.
    fn unfinished(&self, file: &str) -> PathBuf {
        self.blob(file).with_extension("incomplete")
    }

    /// Nothing that is here would be taken for the model, or for its weights.
    #[track_caller]
    fn nothing_is_trusted(&self) {
        let run = self.offline(&["inspect", "--model", NAME]);
        run.fails_with("HF_HUB_OFFLINE is set");
        assert!(!self.blob("model.safetensors").exists());
        assert!(!self.snapshot("model.safetensors").exists());
    }

    /// The model is here, every byte of it.
    #[track_caller]
    fn is_whole(&self) {
        for (file, content) in [("model.safetensors", "model.safetensors"), ("config.json", "config.json")] {
            let right = fs::read(Path::new(&golden(CASE)).join(content)).unwrap();
            assert!(fs::read(self.snapshot(file)).unwrap() == right, "{file}");
        }
        assert!(!self.unfinished("model.safetensors").exists());
        self.offline(&["inspect", "--model", NAME]).success();
    }

    fn models(&self, flags: &[&str]) -> Value {
        let run = self.run(&[&["models", "--json"], flags].concat());
        serde_json::from_str(&run.stdout).unwrap()
    }
}

/// The golden checkpoint in GGUF, whole or in parts.
fn gguf(name: &str) -> Vec<u8> {
    fs::read(Path::new(&golden("gguf")).join(name)).unwrap()
}
