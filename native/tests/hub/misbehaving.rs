//! A hub, its store and what stands in between at their worst: an error that says what to do, or the right file in the end.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use crate::server::{Answer, COMMIT, Request};
use crate::{NAME, Place};
use serde_json::{Value, json};

const WEIGHTS: &str = "model.safetensors";

fn is_list(request: &Request) -> bool {
    request.path.starts_with("/api/")
}

/// Small numbers that look drawn.
fn drawn(seed: &Mutex<u64>, below: u64) -> u64 {
    let mut seed = seed.lock().unwrap();
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) % below
}

#[test]
fn a_hundred_cut_connections_lose_nothing() {
    let place = Place::new();
    let (seed, cuts) = (Mutex::new(1), AtomicUsize::new(0));
    place.server.behave(move |request, usual| {
        if !request.downloads(WEIGHTS) || cuts.fetch_add(1, SeqCst) >= 100 {
            return usual;
        }
        // At least a byte, so that there is progress; every third time an end that looks like one.
        let cut = 1 + drawn(&seed, 1000) as usize;
        Answer { cut: Some(cut), unbounded: cut.is_multiple_of(3), ..usual }
    });
    let run = place.run(&["pull", NAME]).success();
    assert!(run.waits.is_empty(), "{:?}", run.waits);
    place.is_whole();
    let mut starts = Vec::new();
    for request in place.server.requests().iter().filter(|request| request.downloads(WEIGHTS)) {
        let range = request.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
        starts.push(range.unwrap().parse::<u64>().unwrap());
    }
    assert_eq!((starts.len(), starts[0]), (101, 0));
    assert!(starts.is_sorted_by(|a, b| a < b), "each goes on where the one before broke off: {starts:?}");
}

#[test]
fn a_download_that_was_given_up_goes_on_the_next_time() {
    let place = Place::new();
    let cut = AtomicUsize::new(0);
    place.server.behave(move |request, usual| match request.downloads(WEIGHTS) {
        true if cut.fetch_add(1, SeqCst) == 0 => Answer { cut: Some(40_000), ..usual },
        true => Answer::new(500, ""),
        false => usual,
    });
    let run = place.run(&["inspect", "--model", NAME]);
    let waits: Vec<_> = run.waits.iter().map(Duration::as_millis).collect();
    assert_eq!(waits, [500, 1000, 2000, 4000]);
    run.fails_with(
        "it answered 500 Internal Server Error, 5 times in a row; try again later: what was downloaded is kept",
    );
    place.nothing_is_trusted();
    assert_eq!(fs::metadata(place.unfinished(WEIGHTS)).unwrap().len(), 40_000);
    assert_eq!(place.models(&[])["models"][0]["state"], "unfinished");
    place.server.behave_well();
    let run = place.run(&["inspect", "--model", NAME]).success();
    assert!(run.stderr.contains("101.4 KiB, of which 39.1 KiB are here"), "{}", run.stderr);
    place.is_whole();
    let requests = place.server.requests();
    let download = requests.iter().find(|request| request.downloads(WEIGHTS)).unwrap();
    assert_eq!(download.header("range"), Some("bytes=40000-"));
}

#[test]
fn a_beginning_of_something_else_is_thrown_away() {
    let place = Place::new();
    for beginning in [vec![7; 500], vec![7; 200_000]] {
        fs::create_dir_all(place.repository().join("blobs")).unwrap();
        fs::write(place.unfinished(WEIGHTS), beginning).unwrap();
        place.run(&["pull", NAME]).success();
        place.is_whole();
        fs::remove_dir_all(place.repository()).unwrap();
    }
}

#[test]
fn content_with_another_hash_is_not_kept() {
    let place = Place::new();
    place.server.behave(|request, mut usual| {
        if request.downloads(WEIGHTS) {
            usual.body[50_000] ^= 1;
        }
        usual
    });
    place.run(&["inspect", "--model", NAME]).fails_with("model.safetensors of owner/name: what 127.0.0.1:");
    place
        .run(&["inspect", "--model", NAME])
        .fails_with("has another hash than it says, so it was thrown away; try again");
    place.nothing_is_trusted();
    // A wrong git hash is found, too.
    place.server.behave(|request, mut usual| {
        if request.downloads("tokenizer.json") {
            usual.body[10] ^= 1;
        }
        usual
    });
    place.run(&["inspect", "--model", NAME]).fails_with("tokenizer.json of owner/name: what 127.0.0.1:");
    place.offline(&["inspect", "--model", NAME]).fails_with("does not have it whole");
    place.server.behave_well();
    place.run(&["pull", NAME]).success();
    place.is_whole();
}

#[test]
fn refusals_say_what_to_do() {
    let place = Place::new();
    let gated = "gives it only to those who have accepted its terms: open http://127.0.0.1:";
    let code = |status, code: &str| Answer::new(status, "").with("X-Error-Code", code);
    let token = [("HF_TOKEN", "hf_x")];
    for (answer, token, part) in [
        (
            code(401, "RepoNotFound"),
            &[][..],
            "knows no such model, nor is there a folder of this name here; check the name; for a private one set HF_TOKEN",
        ),
        (
            Answer::new(401, ""),
            &token,
            "does not accept the token of HF_TOKEN or of the token file, or knows no such model",
        ),
        (
            Answer::new(404, "<html>"),
            &token,
            "knows no such model, nor is there a folder of this name here; check the name\n",
        ),
        (code(401, "GatedRepo"), &[], gated),
        (code(403, "GatedRepo"), &token, gated),
        (Answer::new(403, ""), &[], "and accept them, and set HF_TOKEN to a token of yours"),
        (code(404, "RevisionNotFound"), &[], "has no revision 'main' of it; http://127.0.0.1:"),
        (Answer::new(418, ""), &[], "it answered 418 I'm a teapot"),
    ] {
        place.server.behave(move |request, usual| if is_list(request) { answer.clone() } else { usual });
        let run = place.run_with(&["inspect", "--model", NAME], token);
        assert!(run.waits.is_empty());
        run.fails_with(part);
        // The same of a single file.
        let before = place.server.requests().len();
        place.run_with(&["inspect", "--model", "owner/other"], token).fails_with("owner/other: ");
        assert!(place.server.requests().len() > before);
    }
    // The list is for all to see, the files are not.
    place.server.behave(move |request, usual| match is_list(request) {
        true => usual,
        false => Answer::new(401, "").with("X-Error-Code", "GatedRepo"),
    });
    place.run(&["pull", NAME]).fails_with(gated);
    place.nothing_is_trusted();
    place.server.behave(|request, usual| match request.downloads("tokenizer.json") {
        true => Answer::new(404, "").with("X-Error-Code", "EntryNotFound"),
        false => usual,
    });
    place.run(&["pull", NAME]).fails_with("has no file tokenizer.json of it");
    place.offline(&["inspect", "--model", NAME]).fails_with("does not have it whole");
}

#[test]
fn a_hub_that_asks_to_wait_is_waited_for() {
    let place = Place::new();
    let asked = AtomicUsize::new(0);
    place.server.behave(move |request, usual| match is_list(request) && asked.fetch_add(1, SeqCst) < 2 {
        true => Answer::new(429, "").with("Retry-After", 7),
        false => usual,
    });
    let run = place.run(&["pull", NAME]).success();
    assert_eq!(run.waits, [Duration::from_secs(7); 2]);
    assert!(
        run.stderr.contains("429 Too Many Requests (it limits how much one may ask); the next attempt is in 7 s"),
        "{}",
        run.stderr
    );
    place.server.behave(|_, _| Answer::new(429, "").with("Retry-After", 100_000));
    let run = place.run(&["pull", NAME]);
    assert!(run.waits.is_empty());
    run.fails_with("and asks to wait 100000 seconds; try again then");
    place.server.behave(|_, _| Answer::new(429, "").with("Retry-After", "Wed, 21 Oct 2065 07:28:00 GMT"));
    place.run(&["pull", NAME]).fails_with("429 Too Many Requests (it limits how much one may ask), 5 times in a row");
}

#[test]
fn what_is_kept_serves_while_the_hub_is_away() {
    let files = [("m-Q8_0.gguf".to_owned(), crate::gguf("llama-gqa.gguf"))];
    let place = Place::of(files);
    place.run(&["pull", NAME]).success();
    for answer in [Answer::new(503, ""), Answer { cut: Some(0), ..Answer::new(200, "{}") }] {
        place.server.behave(move |_, _| answer.clone());
        let run = place.run(&["inspect", "--model", NAME]).success();
        assert_eq!(run.waits, [Duration::from_millis(500)]);
        assert!(
            run.stderr.contains("the copy of owner/name that is kept is taken: Q8_0 (m-Q8_0.gguf)"),
            "{}",
            run.stderr
        );
        // `pull` wants what is new, and says that it cannot tell.
        place.run(&["pull", NAME]).fails_with("5 times in a row");
    }
    let nobody = [("HF_ENDPOINT", "http://127.0.0.1:9")];
    place
        .run_with(&["inspect", "--model", "owner/other"], &nobody)
        .fails_with("there is no owner/other here, and the hub cannot be asked: 127.0.0.1:9: no connection");
    let run = place.run_with(&["inspect", "--model", NAME], &nobody).success();
    assert!(run.stderr.contains("127.0.0.1:9: no connection"), "{}", run.stderr);
}

#[test]
fn a_proxy_that_gives_whole_files_only_is_put_up_with() {
    let place = Place::new();
    let content = fs::read(std::path::Path::new(&crate::golden(crate::CASE)).join(WEIGHTS)).unwrap();
    let asked = AtomicUsize::new(0);
    place.server.behave(move |request, usual| {
        if !request.at_store {
            return usual;
        }
        let whole = Answer { status: 200, body: content.clone(), ..usual }.without("Content-Range");
        match asked.fetch_add(1, SeqCst) {
            // The look at the header is not to be had; then twice it breaks off.
            1 => Answer { cut: Some(30_000), ..whole },
            2 => Answer { cut: Some(60_000), ..whole },
            _ => whole,
        }
    });
    place.run(&["pull", NAME]).success();
    place.is_whole();
}

#[test]
fn a_file_of_another_length_than_listed_is_refused() {
    let place = Place::new();
    let listed = |size: u64| {
        move |request: &Request, usual: Answer| match is_list(request) {
            false => usual.without("X-Linked-Size"),
            true => change_list(usual, |files| {
                for file in files.iter_mut().filter(|file| file["rfilename"] == WEIGHTS) {
                    (file["size"], file["lfs"]["size"]) = (json!(size), json!(size));
                }
            }),
        }
    };
    for size in [100_000, 101_049] {
        place.server.behave(listed(size));
        let part =
            format!("model.safetensors of owner/name: the hub's list says that it has {size} bytes, but got 98.7 KiB");
        place.run(&["inspect", "--model", NAME]).fails_with(&part);
        place.nothing_is_trusted();
    }
    // Nothing says how long it is: it ends too early, or it does not end.
    for (size, part) in [(101_049, "the rest of the file is not to be had"), (100_000, "bytes, but got more")] {
        let list = listed(size);
        place.server.behave(move |request, usual| match list(request, usual) {
            Answer { status: 206, headers, body, .. } if request.downloads(WEIGHTS) => {
                let part = Answer { status: 206, headers, body, unbounded: true, cut: None };
                part.with("Content-Range", format!("bytes {}/*", span(request)))
            }
            answer if request.downloads(WEIGHTS) => answer.without("Content-Range"),
            answer => answer,
        });
        place.run(&["inspect", "--model", NAME]).fails_with(part);
        place.nothing_is_trusted();
    }
}

/// What stands before the length in the header of a part from somewhere to the end.
fn span(request: &Request) -> String {
    let start = request.header("range").unwrap_or_default().trim_start_matches("bytes=").trim_end_matches('-');
    format!("{start}-101047")
}

/// Another list of files.
fn change_list(usual: Answer, change: impl Fn(&mut Vec<Value>)) -> Answer {
    let mut list: Value = serde_json::from_slice(&usual.body).unwrap();
    change(list["siblings"].as_array_mut().unwrap());
    Answer { body: list.to_string().into_bytes(), ..usual }
}

#[test]
fn a_list_that_is_none_is_refused() {
    let place = Place::new();
    let page = Answer::new(200, "<!doctype html><title>Log in</title>").with("Content-Type", "text/html");
    let list = |body: &str| Answer::new(200, body).with("Content-Type", "application/json");
    for (answer, part) in [
        (page, "a web page instead of JSON; does the network ask to log in, or is HF_ENDPOINT no hub?"),
        (list("[1]"), "what is no list of a model's files"),
        (list(r#"{"sha": "../../../x", "siblings": []}"#), "the commit '../../../x', which is no hash"),
        (list(&json!({"sha": COMMIT}).to_string()), "owner/name: it holds no model"),
    ] {
        place.server.behave(move |request, usual| if is_list(request) { answer.clone() } else { usual });
        place.run(&["inspect", "--model", NAME]).fails_with(part);
    }
}

#[test]
fn names_that_lead_out_of_the_cache_are_refused() {
    let place = Place::new();
    let name = |name: &'static str| {
        move |request: &Request, usual: Answer| match is_list(request) {
            false => usual,
            true => change_list(usual, |files| files[0]["rfilename"] = json!(name)),
        }
    };
    for evil in ["../../../../evil.gguf", "/evil.gguf", "a/../../evil.gguf"] {
        place.server.behave(name(evil));
        place.run(&["pull", "owner/name:evil.gguf"]).fails_with("which leads out of its folder");
    }
    for (evil, asked) in [("a\\..\\evil-Q8_0.gguf", "owner/name:q8_0"), ("a:b-Q8_0.gguf", "owner/name:q8_0")] {
        place.server.behave(name(evil));
        place.run(&["pull", asked]).fails_with("is no name of a file below its folder");
    }
    place.server.behave(|request, usual| match is_list(request) {
        false => usual,
        true => change_list(usual, |files| files[0]["blobId"] = json!("../../evil")),
    });
    place.run(&["pull", NAME]).fails_with("the hash '../../evil', which is none that is known");
    assert!(!place.repository().exists());
}

#[test]
fn a_hundred_thousand_files_are_no_hindrance() {
    let place = Place::new();
    place.server.behave(|request, usual| match is_list(request) {
        false => usual,
        true => change_list(usual, |files| {
            let file = |i| json!({"rfilename": format!("data/{i}.json"), "size": i, "blobId": COMMIT});
            files.extend((0..100_000).map(file));
        }),
    });
    place.run(&["pull", NAME]).success();
    place.is_whole();
}

#[test]
fn a_list_without_lengths_and_hashes_is_completed() {
    let place = Place::new();
    place.server.behave(|request, usual| match is_list(request) {
        false => usual,
        true => change_list(usual, |files| {
            for file in files {
                *file = json!({"rfilename": file["rfilename"]});
            }
        }),
    });
    place.run(&["pull", NAME]).success();
    place.is_whole();
    // A server that says neither is not believed.
    fs::remove_dir_all(place.repository()).unwrap();
    place.server.behave(|request, usual| match is_list(request) {
        false => usual.without("X-Linked-Etag").without("ETag"),
        true => change_list(usual, |files| {
            files.iter_mut().for_each(|file| *file = json!({"rfilename": file["rfilename"]}))
        }),
    });
    place.run(&["pull", NAME]).fails_with("does not say how long it is and which hash it has");
}

#[test]
fn redirects_end_somewhere() {
    let place = Place::new();
    for (location, part) in [
        ("/again", "sent on 10 times without an answer"),
        ("ftp://elsewhere/", "sent on to what is no address of the web"),
        ("nowhere", "sent on to what is no address of the web"),
    ] {
        place.server.behave(move |_, _| Answer::new(302, "").with("Location", location));
        place.run(&["pull", NAME]).fails_with(part);
    }
    // A model of a new name is found by its old one.
    place.server.behave(|request, usual| match request.path.contains("owner/old") {
        true => Answer::new(307, "").with("Location", request.path.replace("owner/old", "owner/name")),
        false => usual,
    });
    place.run(&["pull", "owner/old"]).success();
}

#[test]
fn the_addresses_of_a_store_are_asked_for_anew() {
    let place = Place::new();
    let asked = AtomicUsize::new(0);
    place.server.behave(move |request, usual| match request.at_store && request.downloads(WEIGHTS) {
        true if asked.fetch_add(1, SeqCst) == 0 => Answer::new(403, "expired"),
        _ => usual,
    });
    place.run(&["pull", NAME]).success();
    place.is_whole();
}

#[test]
fn a_model_that_cannot_run_is_not_downloaded() {
    let read = |name: &str| fs::read(std::path::Path::new(&crate::golden(crate::CASE)).join(name)).unwrap();
    let mut config: Value = serde_json::from_slice(&read("config.json")).unwrap();
    config["model_type"] = json!("unheard_of");
    let files = [("config.json", config.to_string().into_bytes()), (WEIGHTS, read(WEIGHTS))];
    let place = Place::of(files.map(|(name, content)| (name.to_owned(), content)));
    let run = place.run(&["pull", NAME]);
    assert!(run.stderr.contains("unheard_of"), "{}", run.stderr);
    run.fails_with("; nothing was downloaded");
    assert_eq!(place.server.downloads(WEIGHTS), 0);
    let place =
        Place::of([("m-Q8_0.gguf".to_owned(), b"GGUF, or so they say, but nothing of the kind at all".to_vec())]);
    place.run(&["pull", NAME]).fails_with("; nothing was downloaded");
}

#[test]
fn a_repository_without_a_tokenizer_is_told() {
    let read = |name: &str| fs::read(std::path::Path::new(&crate::golden(crate::CASE)).join(name)).unwrap();
    let place = Place::of(["config.json", WEIGHTS].map(|name| (name.to_owned(), read(name))));
    let run = place.run(&["inspect", "--model", NAME]).success();
    assert!(
        run.stderr.contains("note: it has no tokenizer.json: without it there are token ids, but no text"),
        "{}",
        run.stderr
    );
    place.offline(&["inspect", "--model", NAME]).success();
}

/// A device that is always full.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told() {
    let place = Place::new();
    fs::create_dir_all(place.repository().join("blobs")).unwrap();
    std::os::unix::fs::symlink("/dev/full", place.unfinished(WEIGHTS)).unwrap();
    place
        .run(&["inspect", "--model", NAME])
        .fails_with("98.7 KiB are missing; make room (`foretoken models` lists what is kept)");
    place.nothing_is_trusted();
    fs::remove_file(place.unfinished(WEIGHTS)).unwrap();
    place.run(&["inspect", "--model", NAME]).success();
    place.is_whole();
}

#[cfg(unix)]
#[test]
fn a_model_larger_than_the_disk_is_not_begun() {
    let place = Place::new();
    for size in [1 << 60, u64::MAX] {
        place.server.behave(move |request, usual| match is_list(request) {
            false => usual,
            true => change_list(usual, |files| {
                for file in files.iter_mut().filter(|file| file["rfilename"] == WEIGHTS) {
                    (file["size"], file["lfs"]["size"]) = (json!(size), json!(size));
                }
            }),
        });
        let run = place.run(&["pull", NAME]);
        run.fails_with(" are to be downloaded, and the disk of ");
    }
    assert_eq!(place.server.downloads(WEIGHTS), 0);
}

#[test]
fn an_answer_about_another_file_is_refused() {
    let place = Place::new();
    for (header, value, part) in [
        ("X-Linked-Etag", "ab".repeat(32), "its hash is another than in the hub's list of files"),
        ("X-Repo-Commit", "ab".repeat(20), "came from another commit than was asked for"),
    ] {
        place.server.behave(move |request, usual| match request.path.contains(WEIGHTS) && !request.at_store {
            true => usual.with(header, &value),
            false => usual,
        });
        place.run(&["pull", NAME]).fails_with(part);
        place.nothing_is_trusted();
    }
    // Another part than was asked for.
    place.server.behave(|request, usual| match request.downloads(WEIGHTS) {
        true => usual.with("Content-Range", "bytes 5-101047/101048"),
        false => usual,
    });
    place.run(&["pull", NAME]).fails_with("sent another part than was asked for");
    place.nothing_is_trusted();
}
