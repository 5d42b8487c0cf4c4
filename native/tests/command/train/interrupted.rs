//! Runs that are cut off, and how they go on.

use super::*;
use crate::support::Refused::Error;
#[cfg(unix)]
use std::process::Child;

/// Runs the built program until it has come so far.
#[cfg(unix)]
fn begun(flags: &[String], so_far: impl Fn() -> bool) -> Child {
    use std::time::{Duration, Instant};

    let child = crate::support::program(flags).spawn().unwrap();
    let begun = Instant::now();
    while !so_far() {
        assert!(begun.elapsed() < Duration::from_secs(120), "it has not come so far");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

/// Sends a signal to a process, and waits for it.
#[cfg(unix)]
fn interrupted(child: Child, signal: &str) -> Run {
    crate::support::send(signal, &child);
    child.wait_with_output().unwrap().into()
}

/// The losses of each line of a log.
fn losses(place: &Place, out: &str) -> Vec<Value> {
    json_lines(&place.read(&format!("{out}/log.jsonl"))).into_iter().map(|line| line["losses"].clone()).collect()
}

/// The run in the folder `cut` has ended after `step` steps with a checkpoint and without heads.
fn check_cut(place: &Place, run: &Run, code: i32, step: std::ops::Range<u64>) -> u64 {
    assert_eq!(run.code, Some(code), "{}", run.stderr);
    let state: Value = serde_json::from_slice(&place.read("cut/checkpoint/state.json")).unwrap();
    let at = state["step"].as_u64().unwrap();
    assert!(step.contains(&at), "{state}");
    assert!(["adapter", "driver", "kernels"].iter().all(|name| state["device"][name].is_string()), "{state}");
    assert!(!place.path("cut/mtp_config.json").exists());
    at
}

/// Trains 12 steps in one go, and as many with a stop after `stop` of them.
fn goes_on_bit_for_bit(data: &str, mode: &[&str], stop: u64) {
    let place = Place::new();
    let flags = [&["--steps", "12", "--checkpoint-every", "0"], mode].concat();
    place.trained(data, "whole", &flags);
    let run = place.train(data, "cut", &[&flags[..], &["--stop-after", &stop.to_string()]].concat());
    check_cut(&place, &run, 130, stop..stop + 1);
    place.trained(data, "cut", &[&flags[..], &["--resume"]].concat());
    for name in ["mtp.safetensors", "checkpoint/state-00000012.safetensors"] {
        assert!(place.read(&format!("cut/{name}")) == place.read(&format!("whole/{name}")), "{mode:?}: {name}");
    }
    assert_eq!(losses(&place, "cut"), losses(&place, "whole"), "{mode:?}");
}

#[test]
fn an_interrupted_training_goes_on_bit_for_bit() {
    for (data, mode, stop) in [
        ("story.txt", &["--mode", "joint", "--whs", "--accumulate", "2"][..], 5),
        ("story.txt", &["--whs"], 1),
        ("story.txt", &["--mode", "baseline"], 11),
        ("story.txt", &["--kind", "sequential"], 6),
        ("story.txt", &["--target", "shifted", "--mode", "joint"], 3),
        ("few.txt", &["--mode", "joint", "--gated", "--target", "marginal"], 8),
    ] {
        goes_on_bit_for_bit(data, mode, stop);
    }
}

/// A process that a signal reaches somewhere in its steps, and another process that goes on.
#[test]
#[cfg(unix)]
fn a_signal_leaves_a_checkpoint_to_go_on_from() {
    let place = Place::new();
    // More steps than it can do before the signal arrives.
    let flags = ["--steps", "1000000", "--checkpoint-every", "0", "--mode", "joint", "--whs"];
    let log = place.path("cut/log.jsonl");
    let two_steps = || fs::read_to_string(&log).map_or(0, |log| log.lines().count()) >= 2;
    let child = begun(&place.command("story.txt", "cut", &flags), two_steps);
    // Meanwhile nobody else may go on with it.
    let busy = "{cut}: another run of this program is at work there; wait for its end";
    let places = [("{cut}", &place.text("cut/checkpoint")[..])];
    place.train("story.txt", "cut", &[&flags[..], &["--resume"]].concat()).refused(
        Error(busy),
        &places,
        "a second run",
    );
    let run = interrupted(child, "TERM");
    let step = check_cut(&place, &run, 143, 2..1_000_000);
    let resumed = place.command("story.txt", "cut", &[&flags[..], &["--resume", "--stop-after", "1"]].concat());
    assert_eq!(crate::support::program(&resumed).status().unwrap().code(), Some(130));
    let steps = (step + 1).to_string();
    let run = place.train("story.txt", "whole", &[&flags[..], &["--stop-after", &steps]].concat());
    assert_eq!(run.code, Some(130), "{}", run.stderr);
    let name = format!("checkpoint/state-{:08}.safetensors", step + 1);
    assert!(place.read(&format!("cut/{name}")) == place.read(&format!("whole/{name}")), "{name}");
    assert_eq!(losses(&place, "cut"), losses(&place, "whole"));
}

#[test]
#[cfg(unix)]
fn an_interrupt_ends_a_long_validation() {
    let place = Place::new();
    let line = format!("{}\n", pair("The red", " hen was red"));
    place.write("long.jsonl", &line.repeat(100_000));
    let (valid, state) = (place.text("long.jsonl"), place.path("out/checkpoint/state-00000002.safetensors"));
    let flags = ["--steps", "4", "--checkpoint-every", "2", "--valid", &valid];
    let run = interrupted(begun(&place.command("story.txt", "out", &flags), || state.exists()), "INT");
    assert_eq!(run.code, Some(130), "{}", run.stderr);
    let log = json_lines(&place.read("out/log.jsonl"));
    assert_eq!((log.len(), log[1].get("valid")), (2, None), "{log:?}");
    let state: Value = serde_json::from_slice(&place.read("out/checkpoint/state.json")).unwrap();
    assert_eq!(state["step"], 2);
    // The run that goes on measures first what that one did not.
    place.write("long.jsonl", &line);
    place.trained("story.txt", "out", &[&flags[..], &["--resume"]].concat());
    let log = json_lines(&place.read("out/log.jsonl"));
    let valid: Vec<_> = log.iter().map(|line| (line["step"].as_u64().unwrap(), line.get("valid").is_some())).collect();
    assert_eq!(valid, [(1, false), (2, false), (2, true), (3, false), (4, false), (4, true)]);
}

#[test]
fn numbers_that_are_not_finite_leave_a_checkpoint_of_the_step_before() {
    let place = Place::new();
    let flags = ["--steps", "9", "--checkpoint-every", "0", "--lr", "1e30"];
    let run = place.train("story.txt", "out", &flags);
    run.fails_with("not a finite number");
    run.fails_with("begin anew with a smaller --lr, or --clip 1");
    let state: Value = serde_json::from_slice(&place.read("out/checkpoint/state.json")).unwrap();
    let logged = json_lines(&place.read("out/log.jsonl")).len();
    assert!(logged > 0 && state["step"] == logged, "{state}");
    place.train("story.txt", "out", &[&flags[..], &["--resume"]].concat()).fails_with("not a finite number");
}

#[test]
fn a_checkpoint_that_cannot_be_written_costs_no_earlier_one() {
    let place = Place::new();
    // Where the state of step 4 is to be written lies a folder: nobody can write there.
    fs::create_dir_all(place.path("out/checkpoint/.state-00000004.safetensors.unfinished")).unwrap();
    let flags = ["--steps", "6", "--checkpoint-every", "2"];
    let run = place.train("story.txt", "out", &flags);
    run.fails_with("state-00000004");
    let state: Value = serde_json::from_slice(&place.read("out/checkpoint/state.json")).unwrap();
    assert_eq!(state["step"], 2);
    fs::remove_dir(place.path("out/checkpoint/.state-00000004.safetensors.unfinished")).unwrap();
    place.train("story.txt", "out", &[&flags[..], &["--resume"]].concat()).success();
    place.trained("story.txt", "whole", &flags);
    assert_eq!(place.read("out/mtp.safetensors"), place.read("whole/mtp.safetensors"));
}
