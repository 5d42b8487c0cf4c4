//! What names mean, and where models by that name are kept.

use std::fs;
use std::path::Path;

use crate::server::{Answer, COMMIT, SIGNATURE};
use crate::support::{CASE, golden};
use crate::{NAME, Place, gguf};

#[test]
fn a_model_is_downloaded_once_and_found_by_its_name() {
    let place = Place::new();
    let run = place.run(&["pull", NAME]).success();
    let snapshot = place.snapshot("");
    assert_eq!(Path::new(run.stdout.trim_end()), snapshot);
    for part in [
        "owner/name at main (0123456), safetensors: 4 files, 101.4 KiB\n",
        "it needs ",
        " of memory (weights ",
        ", cache for 128 tokens ",
    ] {
        assert!(run.stderr.contains(part), "{part}: {}", run.stderr);
    }
    place.is_whole();
    // Each content once under its hash, and names as links to them.
    let link = fs::read_link(place.snapshot("config.json")).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(place.server.hash("config.json")));
    assert_eq!(fs::read_to_string(place.repository().join("refs/main")).unwrap(), COMMIT);
    // A store that is another host is not told who asks for what, beyond what its address says.
    place.server.behave_well();
    let report = place.run(&["inspect", "--model", NAME, "--json"]).json();
    assert_eq!(report["model_type"], "llama");
    assert!(place.server.requests().is_empty(), "a kept model is not asked for");
    place.run(&["pull", NAME]).success();
    assert_eq!(place.server.requests().len(), 1, "only what is there is asked");
}

#[test]
fn a_model_is_downloaded_by_whichever_command_names_it() {
    let place = Place::new();
    let run = place.run(&["inspect", "--model", NAME]).success();
    assert!(run.stdout.contains("llama") && run.stderr.contains("safetensors: 4 files"), "{}", run.stderr);
    place.is_whole();
    let heads = place.home.path().join("heads");
    place.run(&["init-heads", "--model", NAME, "--heads", "1", "--out", heads.to_str().unwrap()]).success();
    assert!(heads.join("mtp.safetensors").exists());
}

#[test]
fn revisions_are_branches_tags_and_commits() {
    let place = Place::new();
    let commit = format!("{NAME}@{COMMIT}");
    place.run(&["pull", &commit]).success();
    assert!(!place.repository().join("refs").exists());
    place.offline(&["inspect", "--model", &commit]).success();
    place.offline(&["inspect", "--model", "owner/name@v1"]).fails_with("does not have it whole");
    place.run(&["pull", "owner/name@v1"]).success();
    place.offline(&["inspect", "--model", "owner/name@v1"]).success();
    assert_eq!(place.server.downloads("model.safetensors"), 1);
    place.run(&["pull", "owner/name@v2"]).fails_with("has no revision 'v2' of it");
}

#[test]
fn quantisations_and_files_are_named() {
    let part = |index| format!("llama-sharded/llama-sharded-{index:05}-of-00003.gguf");
    let mut more: Vec<_> = (1..=3).map(|i| (format!("split/m-F32-{i:05}-of-00003.gguf"), gguf(&part(i)))).collect();
    more.push(("m-Q8_0.gguf".to_owned(), gguf("llama-gqa.gguf")));
    more.push(("m-bf16.gguf".to_owned(), gguf("llama-bf16.gguf")));
    let place = Place::with(more);
    let end = |run: crate::support::Run| {
        let path = run.success().stdout.trim_end().replace('\\', "/");
        path.rsplit(COMMIT).next().unwrap().to_owned()
    };
    assert_eq!(end(place.run(&["pull", "owner/name:q8_0"])), "/m-Q8_0.gguf");
    assert_eq!(end(place.run(&["pull", "owner/name@v1:BF16"])), "/m-bf16.gguf");
    assert_eq!(
        end(place.run(&["pull", "owner/name/split/m-F32-00002-of-00003.gguf"])),
        "/split/m-F32-00001-of-00003.gguf"
    );
    assert!(place.snapshot("split/m-F32-00003-of-00003.gguf").exists());
    assert!(!place.snapshot("model.safetensors").exists());
    let types = place.offline(&["inspect", "--model", "owner/name@v1:bf16", "--json"]).json()["dtypes"].to_string();
    assert!(types.contains("BF16"), "{types}");
    place.offline(&["inspect", "--model", "owner/name:f32"]).success();
    place.run(&["pull", "owner/name:q3_k"]).fails_with("owner/name:q3_k: it has no q3_k; there are: F32, Q8_0, bf16");
    place.run(&["pull", "owner/name/m-Q9.gguf"]).fails_with("it has no model m-Q9.gguf; there are: m-Q8_0.gguf, ");
    // Without a word it is the safetensors.
    assert_eq!(end(place.run(&["pull", NAME])), "");
}

#[test]
fn without_a_word_the_usual_quantisation_is_taken_where_there_is_no_other() {
    let files = [("m-Q4_K_M.gguf", "llama-gqa.gguf"), ("m-Q8_0.gguf", "llama-bf16.gguf")];
    let place = Place::of(files.map(|(name, content)| (name.to_owned(), gguf(content))));
    let run = place.run(&["inspect", "--model", NAME]).success();
    assert!(
        run.stderr.contains("Q4_K_M (m-Q4_K_M.gguf): 1 file, 100.4 KiB; to choose another, name it"),
        "{}",
        run.stderr
    );
    let again = place.run(&["inspect", "--model", NAME]).success();
    assert!(again.stderr.contains("Q4_K_M (m-Q4_K_M.gguf): 1 file, 100.4 KiB, all of it here"), "{}", again.stderr);
    let offline = place.offline(&["inspect", "--model", NAME]).success();
    assert!(offline.stderr.contains("note: owner/name is kept: Q4_K_M (m-Q4_K_M.gguf)"), "{}", offline.stderr);
    assert_eq!(place.server.downloads("m-Q4_K_M.gguf"), 1);
}

#[test]
fn what_is_here_under_that_name_comes_first() {
    let place = Place::new();
    let here = place.home.path().join("owner/name");
    fs::create_dir_all(&here).unwrap();
    for entry in fs::read_dir(golden(CASE)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), here.join(entry.file_name())).unwrap();
    }
    let run = place.program(&["inspect", "--model", NAME]).current_dir(&place.home).output().unwrap();
    let run = crate::support::Run::from(run).success();
    assert_eq!(run.stderr, "note: owner/name is here, so the hub is not asked for a model of this name\n");
    assert!(place.server.requests().is_empty());
}

#[test]
fn what_can_be_no_name_is_a_path() {
    let place = Place::new();
    for path in ["./owner/name", "../owner/name", "owner/..", "owner/name/", "owner", "owner/name.gguf", "owner/name/x"]
    {
        place.run(&["inspect", "--model", path]).fails_with("no such folder");
    }
    place.run(&["inspect", "--model", "owner/name/../../x.gguf"]).fails_with("'../../x.gguf' is no name of a file");
    place.run(&["pull", "owner/name@../../x"]).fails_with("'../../x' is no revision");
    place.run(&["pull", "../name"]).fails_with("'../name' is no name on the hub; expected owner/name, ");
    place.run(&["remove", "owner/.."]).fails_with("'owner/..' is no name on the hub");
    assert!(place.server.requests().is_empty());
}

#[test]
fn the_token_goes_to_the_hub_alone_and_into_no_message() {
    const TOKEN: &str = "hf_abcdefghijkl";
    let place = Place::new();
    let with_token = |flags: &[&str]| place.run_with(flags, &[("HF_TOKEN", TOKEN)]);
    with_token(&["pull", NAME]).success();
    let requests = place.server.requests().clone();
    assert!(requests.iter().any(|request| request.at_store));
    for request in requests {
        let expected = (!request.at_store).then(|| format!("Bearer {TOKEN}"));
        assert_eq!(request.header("authorization"), expected.as_deref(), "{request:?}");
    }
    // The hub at fault, then the store: neither token nor what the store's address shows is told.
    for at_store in [false, true] {
        fs::remove_dir_all(place.repository()).unwrap();
        fs::create_dir_all(place.repository()).unwrap();
        place
            .server
            .behave(move |request, usual| if request.at_store == at_store { Answer::new(500, "") } else { usual });
        let run = with_token(&["pull", NAME]);
        assert!(!run.stderr.contains(TOKEN) && !run.stderr.contains(SIGNATURE), "{}", run.stderr);
        run.fails_with("it answered 500 Internal Server Error, 5 times in a row");
    }
    // From the file that logging in writes.
    place.server.behave_well();
    fs::write(place.home.path().join(".cache/huggingface/token"), "hf_of_file\n").unwrap();
    place.run(&["pull", NAME]).success();
    assert_eq!(place.server.requests()[0].header("authorization"), Some("Bearer hf_of_file"));
}

#[test]
fn the_cache_is_where_the_variables_say() {
    let place = Place::new();
    let elsewhere = place.home.path().join("else where");
    let run = place.run_with(&["pull", NAME], &[("HF_HUB_CACHE", elsewhere.to_str().unwrap())]).success();
    assert!(run.stdout.starts_with(elsewhere.to_str().unwrap()), "{}", run.stdout);
    assert!(elsewhere.join("models--owner--name/refs/main").exists());
    place
        .offline(&["inspect", "--model", NAME])
        .fails_with("does not have it whole; unset it, or run `foretoken pull owner/name`");
    place.offline(&["pull", NAME]).fails_with("HF_HUB_OFFLINE is set, so the hub is not asked");
    place.run_with(&["pull", NAME], &[("HF_ENDPOINT", "hub")]).fails_with("HF_ENDPOINT: expected the address of a hub");
}
