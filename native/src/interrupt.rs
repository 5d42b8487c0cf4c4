//! Ctrl-C: the first one ends a generation cleanly, a second one, or one at any other time, ends the program.

use std::process;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, LazyLock, OnceLock};

use foretoken::{Error, Result};

use crate::console;

/// The exit code that a shell reports of a program that Ctrl-C ended.
pub const EXIT_CODE: u8 = 130;

static WATCHING: AtomicBool = AtomicBool::new(false);
static ASKED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Takes over Ctrl-C, which can be done once in a process, and only matters at the process's own console.
pub fn install() -> Result<()> {
    static INSTALLED: OnceLock<Result<()>> = OnceLock::new();
    if !is_of_process() {
        return Ok(());
    }
    let handler = || {
        if !WATCHING.load(SeqCst) || ASKED.swap(true, SeqCst) {
            process::exit(EXIT_CODE.into());
        }
    };
    let install =
        || ctrlc::set_handler(handler).map_err(|error| Error::io(format!("Ctrl-C cannot be caught: {error}")));
    INSTALLED.get_or_init(install).clone()
}

fn is_of_process() -> bool {
    console::with(|console| console.is_of_process())
}

/// While this lives, one Ctrl-C is not the end of the program.
pub struct Watch {
    asked: Arc<AtomicBool>,
    of_process: bool,
}

impl Watch {
    /// Forgets earlier interrupts and begins to watch.
    pub fn start() -> Self {
        let of_process = is_of_process();
        let asked = if of_process { Arc::clone(&ASKED) } else { Arc::default() };
        if of_process {
            ASKED.store(false, SeqCst);
            WATCHING.store(true, SeqCst);
        }
        Self { asked, of_process }
    }

    /// True once Ctrl-C was pressed.
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
