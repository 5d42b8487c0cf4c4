//! Several programs, and programs that are ended.

use std::fs;
use std::io::{BufRead, BufReader};
use std::sync::Condvar;
use std::sync::{Arc, Mutex};

use crate::server::{Answer, Request};
use crate::support::Run;
use crate::{NAME, Place};

const WEIGHTS: &str = "model.safetensors";

/// A gate that requests wait at.
#[derive(Default)]
struct Gate {
    open: Mutex<(bool, bool)>,
    changed: Condvar,
}

impl Gate {
    /// Waits until it is opened.
    fn pass(&self) {
        let mut open = self.open.lock().unwrap();
        open.0 = true;
        self.changed.notify_all();
        drop(self.changed.wait_while(open, |open| !open.1).unwrap());
    }

    /// Waits until somebody waits.
    fn wait_for_somebody(&self) {
        drop(self.changed.wait_while(self.open.lock().unwrap(), |open| !open.0).unwrap());
    }

    fn open(&self) {
        self.open.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

#[test]
fn two_programs_download_a_model_once() {
    let place = Place::new();
    let gate = Arc::<Gate>::default();
    let at_gate = Arc::clone(&gate);
    place.server.behave(move |request, usual| {
        if request.downloads(WEIGHTS) {
            at_gate.pass();
        }
        usual
    });
    let first = place.program(&["pull", NAME]).spawn().unwrap();
    gate.wait_for_somebody();
    let mut second = place.program(&["pull", NAME]).spawn().unwrap();
    let mut said = BufReader::new(second.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.any(|line| line == "note: waiting for another program, which downloads model.safetensors"));
    place.run(&["remove", NAME]).fails_with("owner/name: another program is downloading it");
    gate.open();
    Run::from(first.wait_with_output().unwrap()).success();
    let rest: Vec<String> = said.collect();
    assert!(second.wait().unwrap().success(), "{rest:?}");
    place.is_whole();
    assert_eq!(place.server.downloads(WEIGHTS), 1);
}

#[cfg(unix)]
#[test]
fn ctrl_c_loses_nothing() {
    let place = Place::new();
    let gate = Arc::<Gate>::default();
    let at_gate = Arc::clone(&gate);
    let begun = Mutex::new(false);
    place.server.behave(move |request: &Request, usual| match request.downloads(WEIGHTS) {
        false => usual,
        true if !std::mem::replace(&mut *begun.lock().unwrap(), true) => Answer { cut: Some(70_000), ..usual },
        true => {
            at_gate.pass();
            usual
        }
    });
    let child = place.program(&["pull", NAME]).spawn().unwrap();
    gate.wait_for_somebody();
    crate::support::send("INT", &child);
    let run = Run::from(child.wait_with_output().unwrap());
    assert_eq!((run.code, &run.stdout[..]), (Some(130), ""));
    gate.open();
    place.nothing_is_trusted();
    assert_eq!(fs::metadata(place.unfinished(WEIGHTS)).unwrap().len(), 70_000);
    place.server.behave_well();
    place.run(&["pull", NAME]).success();
    place.is_whole();
    let requests = place.server.requests();
    let range = requests.iter().find(|request| request.downloads(WEIGHTS)).unwrap().header("range");
    assert_eq!(range, Some("bytes=70000-"));
}
