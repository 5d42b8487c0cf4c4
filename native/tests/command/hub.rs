//! Commands that compute with a model of the hub's, downloaded by the first of them.

use std::fs;
use std::path::Path;

use crate::server::Server;
use crate::support::{CASE, Run, expected, golden, ids_flag, start};

#[test]
fn commands_take_names_on_the_hub() {
    let (folder, home) = (golden(CASE), tempfile::tempdir().unwrap());
    let files = ["config.json", "generation_config.json", "tokenizer.json", "model.safetensors"];
    let read = |name: &str| (name.to_owned(), fs::read(Path::new(&folder).join(name)).unwrap());
    let server = Server::start(files.map(read));
    let cache = home.path().join("hub");
    let run = |flags: &[&str], endpoint: &str| -> Run {
        let flags = [flags, &["--model", "owner/name"]].concat();
        start(&flags).variable("HF_ENDPOINT", endpoint).variable("HF_HUB_CACHE", &cache).input(b"").success()
    };
    let ids = ids_flag(&expected(CASE)["prompt_ids"]);
    let generated = run(&["generate", "--ids", &ids, "--max-tokens", "24", "--json"], &server.endpoint);
    assert!(generated.stderr.contains("owner/name at main (0123456), safetensors: 4 files"), "{}", generated.stderr);
    assert_eq!(generated.json()["ids"], expected(CASE)["ids"]);
    // The hub is not asked any more: this one would not answer.
    let nobody = "http://127.0.0.1:9";
    let data = home.path().join("data.jsonl");
    fs::write(&data, "{\"text\": \"the red hen\"}\n").unwrap();
    let (data, heads) = (data.to_str().unwrap(), home.path().join("heads"));
    let text = home.path().join("text.txt");
    fs::write(&text, "the red hen").unwrap();
    run(&["score", "--text-file", text.to_str().unwrap()], nobody);
    run(&["marginals", "--ids", &ids], nobody);
    run(&["bench", "--quick", "--json"], nobody);
    let flags = ["train", "--data", data, "--lr", "1e-3", "--steps", "1", "--seq-len", "8", "--out"];
    run(&[&flags[..], &[heads.to_str().unwrap()]].concat(), nobody);
}
