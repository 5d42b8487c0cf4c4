//! Ctrl-C, and the signals by which systems end programs: the first one ends a generation, a training or a measurement cleanly, a
//! second one, or one at any other time, ends the program.

use std::process;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::SeqCst};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use foretoken::{Error, Result};

use crate::console;

static WATCHING: AtomicBool = AtomicBool::new(false);
static ASKED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
/// The last signal that came.
static SIGNAL: AtomicU8 = AtomicU8::new(CTRL_C);
/// The first signal while somebody watches, and when it came.
static FIRST: Mutex<Option<(u8, Instant)>> = Mutex::new(None);

/// The number of Ctrl-C's signal everywhere.
const CTRL_C: u8 = 2;

/// What a shell reports of a program that the last signal ended: 130 after Ctrl-C.
pub fn exit_code() -> u8 {
    128 + SIGNAL.load(SeqCst)
}

/// Takes over the signals that end programs, which can be done once in a process, and only matters at the process's own console.
pub fn install() -> Result<()> {
    static INSTALLED: OnceLock<Result<()>> = OnceLock::new();
    if !is_of_process() {
        return Ok(());
    }
    let failed = |error: String| Error::io(format!("Ctrl-C cannot be caught: {error}"));
    INSTALLED.get_or_init(|| system::install(came).map_err(failed)).clone()
}

/// The answer to a signal.
fn came(signal: u8) {
    SIGNAL.store(signal, SeqCst);
    let now = Instant::now();
    let mut first = FIRST.lock().unwrap_or_else(PoisonError::into_inner);
    if WATCHING.load(SeqCst) && !ASKED.swap(true, SeqCst) {
        *first = Some((signal, now));
    } else if !first.is_some_and(|(before, at)| is_echo(before, signal, now.duration_since(at))) {
        process::exit(exit_code().into());
    }
}

/// Whether a signal is the one before once more: `timeout` sends its own to the program and to the group that it is in, and of
/// a terminal that is closed the shell tells, and the system too. Nobody is so quick but with Ctrl-C.
fn is_echo(before: u8, signal: u8, since: Duration) -> bool {
    signal == before && signal != CTRL_C && since < Duration::from_secs(1)
}

fn is_of_process() -> bool {
    console::with(|console| console.is_of_process())
}

/// While this lives, one signal is not the end of the program.
pub struct Watch {
    asked: Arc<AtomicBool>,
    of_process: bool,
}

impl Watch {
    /// Forgets earlier signals and begins to watch.
    pub fn start() -> Self {
        let of_process = is_of_process();
        let asked = if of_process { Arc::clone(&ASKED) } else { Arc::default() };
        if of_process {
            ASKED.store(false, SeqCst);
            WATCHING.store(true, SeqCst);
        }
        Self { asked, of_process }
    }

    /// True once a signal came.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.asked)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.of_process {
            WATCHING.store(false, SeqCst);
        }
    }
}

#[cfg(unix)]
mod system {
    use std::{mem, ptr, thread};

    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;

    /// Calls `came` with the number of each signal, on a thread of its own.
    pub fn install(came: fn(u8)) -> Result<(), String> {
        // What whoever started the program has switched off (nohup; the shell of a script, for what runs in the background) stays so.
        let signals: Vec<i32> = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|&signal| !is_ignored(signal)).collect();
        let mut signals = Signals::new(signals).map_err(|error| error.to_string())?;
        let wait = move || signals.forever().for_each(|signal| came(u8::try_from(signal).unwrap_or(super::CTRL_C)));
        thread::Builder::new().name("signals".to_owned()).spawn(wait).map(drop).map_err(|error| error.to_string())
    }

    #[allow(unsafe_code, reason = "the standard library does not tell what becomes of a signal")]
    fn is_ignored(signal: i32) -> bool {
        // SAFETY: all zeros is a `sigaction`, which the call fills in; nothing is changed where no new one is given.
        unsafe {
            let mut now: libc::sigaction = mem::zeroed();
            libc::sigaction(signal, ptr::null(), &raw mut now) == 0 && now.sa_sigaction == libc::SIG_IGN
        }
    }
}

#[cfg(not(unix))]
mod system {
    /// Calls `came` at Ctrl-C and where the console is closed, the system shuts down or the user logs off.
    pub fn install(came: fn(u8)) -> Result<(), String> {
        ctrlc::set_handler(move || came(super::CTRL_C)).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_quick_repetition_is_no_second_signal() {
        let (term, hup) = (15, 1);
        let ms = Duration::from_millis;
        assert!(is_echo(term, term, ms(3)) && is_echo(hup, hup, ms(900)));
        assert!(!is_echo(term, term, ms(1500)) && !is_echo(hup, term, ms(3)));
        assert!(!is_echo(CTRL_C, CTRL_C, ms(3)), "a key is pressed twice by somebody who means it");
    }
}
