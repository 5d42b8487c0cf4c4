//! Ctrl-C: the first one ends a generation cleanly, a second one, or one at any other time, ends the program.

use std::process;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, LazyLock};

use foretoken::{Error, Result};

/// What a shell reports of a program that Ctrl-C ended.
pub const EXIT_CODE: u8 = 130;

static WATCHING: AtomicBool = AtomicBool::new(false);
static ASKED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Takes over Ctrl-C; to be called once.
pub fn install() -> Result<()> {
    let handler = || {
        if !WATCHING.load(SeqCst) || ASKED.swap(true, SeqCst) {
            process::exit(EXIT_CODE.into());
        }
    };
    ctrlc::set_handler(handler).map_err(|error| Error::io(format!("Ctrl-C cannot be caught: {error}")))
}

/// While this lives, one Ctrl-C is not the end of the program.
pub struct Watch(());

impl Watch {
    /// Forgets earlier interrupts and begins to watch.
    pub fn start() -> Self {
        ASKED.store(false, SeqCst);
        WATCHING.store(true, SeqCst);
        Self(())
    }

    /// True once Ctrl-C was pressed.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&ASKED)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        WATCHING.store(false, SeqCst);
    }
}
