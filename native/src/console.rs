//! Where a run of the command reads and writes: standard input and outputs, the environment, devices.
//!
//! A run blocks on one thread from its first line to its last, and nothing writes from another: no progress bar ticks by
//! itself, and the thread that signals are told to only sets a flag or ends the process. So the console belongs to the thread, as
//! standard output belongs to the process, and `print` and `print_status` need nobody to hand it to them through every function.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{env, mem, thread};

use foretoken::{Gpu, GpuOptions, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, WeakProgressBar};

use crate::terminal::visible;

/// The surroundings of a run of the command.
pub struct Console {
    /// Standard input.
    pub input: Box<dyn BufRead>,
    /// Standard output: results only.
    pub output: Box<dyn Write>,
    /// Standard error: for people.
    pub errors: Box<dyn Write>,
    /// Which of the three are terminals.
    pub terminals: Terminals,
    /// The value of an environment variable.
    pub variable: Box<Environment>,
    /// The devices.
    pub gpus: Arc<Gpus>,
    /// Waits.
    pub sleep: Box<Sleep>,
    /// The bar that was drawn last.
    shown: WeakProgressBar,
    /// Whether it is the process's own: Ctrl-C reaches no other one, and progress bars are drawn on no other one.
    process: bool,
}

/// Tells the value of a variable by its name.
pub type Environment = dyn Fn(&str) -> Option<OsString>;

/// Lets time pass before somebody is asked again.
pub type Sleep = dyn Fn(Duration);

/// The streams of a console that people sit at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terminals {
    /// Standard input.
    pub input: bool,
    /// Standard output.
    pub output: bool,
    /// Standard error.
    pub errors: bool,
}

impl Console {
    /// The console of this process.
    pub fn of_process() -> Self {
        Self {
            input: Box::new(BufReader::new(io::stdin())),
            output: Box::new(io::stdout()),
            errors: Box::new(io::stderr()),
            terminals: Terminals {
                input: io::stdin().is_terminal(),
                output: io::stdout().is_terminal(),
                errors: io::stderr().is_terminal(),
            },
            variable: Box::new(|name| env::var_os(name)),
            gpus: Arc::default(),
            sleep: Box::new(thread::sleep),
            shown: WeakProgressBar::new(),
            process: true,
        }
    }

    /// A console apart from the process's: no terminals, an empty environment, and nobody there to press Ctrl-C.
    pub fn apart(input: impl BufRead + 'static, output: impl Write + 'static, errors: impl Write + 'static) -> Self {
        Self {
            input: Box::new(input),
            output: Box::new(output),
            errors: Box::new(errors),
            terminals: Terminals::default(),
            variable: Box::new(|_| None),
            gpus: Arc::default(),
            sleep: Box::new(thread::sleep),
            shown: WeakProgressBar::new(),
            process: false,
        }
    }

    /// Says what is wrong with a command line, or prints the help or version that it asks for.
    pub(crate) fn print_usage(&mut self, error: &clap::Error) {
        if self.process && is_harmless(error) {
            // In the colours that its terminal has.
            let _ = error.print();
            return;
        }
        let to = if error.use_stderr() { &mut self.errors } else { &mut self.output };
        let _ = write!(to, "{}", visible(&error.render().to_string()));
    }

    /// A progress bar; it shows only where standard error is a terminal.
    pub(crate) fn bar(&mut self, length: u64) -> ProgressBar {
        let shows = self.process && self.terminals.errors;
        let target = if shows { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(length), target);
        self.shown = bar.downgrade();
        bar
    }

    /// Writes to standard error; a bar makes room for it.
    pub(crate) fn write_error(&mut self, text: &str) {
        let mut write = || {
            let _ = self.errors.write_all(text.as_bytes()).and_then(|()| self.errors.flush());
        };
        match self.shown.upgrade() {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Whether it is the process's own.
    pub(crate) fn is_of_process(&self) -> bool {
        self.process
    }
}

/// Whether nothing that a message repeats of a command line could order a terminal about: file names are anybody's.
fn is_harmless(error: &clap::Error) -> bool {
    error.context().all(|(_, value)| visible(&value.to_string()) == value.to_string())
}

/// Open devices, by the adapter that was asked for: whoever asks again, another run perhaps, gets the same one, on which
/// kernels are compiled already.
#[derive(Default)]
pub struct Gpus(Mutex<BTreeMap<Option<String>, Gpu>>);

impl Gpus {
    /// The device of the adapter that `adapter` names.
    ///
    /// # Errors
    /// As [`Gpu::open`].
    pub async fn open(&self, adapter: Option<&str>) -> Result<Gpu> {
        let adapter = adapter.map(str::to_owned);
        let opened = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gpu) = opened().get(&adapter) {
            return Ok(gpu.clone());
        }
        let gpu = Gpu::open(&GpuOptions::default().adapter(adapter.clone())).await?;
        // Another thread may have been quicker.
        Ok(opened().entry(adapter).or_insert(gpu).clone())
    }
}

thread_local! {
    /// The console of the run on this thread; outside of a run the process's.
    static CURRENT: RefCell<Console> = RefCell::new(Console::of_process());
}

/// Does something with the console of this thread. Within `action` nothing else may.
pub(crate) fn with<T>(action: impl FnOnce(&mut Console) -> T) -> T {
    CURRENT.with_borrow_mut(action)
}

/// Makes a console that of this thread until it is dropped.
pub(crate) struct Scope(Option<Console>);

impl Scope {
    pub fn enter(console: Console) -> Self {
        Self(Some(CURRENT.replace(console)))
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        if let Some(before) = self.0.take() {
            // Dropped outside of the borrow: streams are other people's.
            drop(with(|current| mem::replace(current, before)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_lasts_as_long_as_its_scope() {
        let environment = || with(|console| (console.variable)("WHOSE"));
        let console = |whose: &'static str| Console {
            variable: Box::new(move |name| (name == "WHOSE").then(|| whose.into())),
            ..Console::apart(io::empty(), io::sink(), io::sink())
        };
        let outer = Scope::enter(console("outer"));
        let inner = std::panic::catch_unwind(|| {
            let _inner = Scope::enter(console("inner"));
            assert_eq!(environment(), Some("inner".into()));
            std::thread::spawn(|| assert!(with(|console| console.process))).join().unwrap();
            panic!("also where a run ends like this");
        });
        assert!(inner.is_err());
        assert_eq!(environment(), Some("outer".into()));
        drop(outer);
        assert!(with(|console| console.process));
    }

    #[test]
    fn what_a_message_repeats_of_a_command_line_is_looked_at() {
        let number = clap::Arg::new("n").long("number").value_parser(clap::value_parser!(u32));
        let command = clap::Command::new("x").arg(number);
        for (flag, expected) in [
            ("--number=y", true),
            ("größer", true),
            ("--number=\x1b[2J", false),
            ("--numb\x07er", false),
            ("\u{9b}", false),
        ] {
            let error = command.clone().try_get_matches_from(["x", flag]).unwrap_err();
            assert_eq!(is_harmless(&error), expected, "{flag:?}");
        }
    }
}
