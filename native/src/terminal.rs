//! The output that the user sees: results on standard output, everything else on standard error.

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::io;
use std::time::{Duration, Instant};

use foretoken::model::Progress;
use foretoken::{Error, ErrorKind};
use indicatif::{ProgressBar, ProgressStyle};

use crate::console::{self, Console};

/// The exit code of a run that did what was asked.
pub const SUCCESS: u8 = 0;

/// The exit code of a run that did not.
pub const FAILURE: u8 = 1;

/// Why a command ends early.
pub enum Failure {
    /// Something went wrong; the message is for the user.
    Error(Error),
    /// The reader of standard output has stopped reading (`foretoken ... | head`): nobody is left to tell.
    ReaderGone,
}

/// The outcome of a command, or of a part of one.
pub type Outcome<T> = Result<T, Failure>;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// Writes a part of the result to standard output, at once: as it is to a pipe, but [visible] to a terminal.
pub fn print(text: &str) -> Outcome<()> {
    let write = |console: &mut Console| {
        let text = if console.terminals.output { visible(text) } else { text.into() };
        console.output.write_all(text.as_bytes()).and_then(|()| console.output.flush())
    };
    let written = console::with(write);
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::ReaderGone,
        _ => Error::new(ErrorKind::Io, format!("standard output: {error}")).into(),
    })
}

/// Writes `value` as one line of JSON to standard output.
pub fn print_json(value: &impl serde::Serialize) -> Outcome<()> {
    let json = serde_json::to_string(value)
        .map_err(|error| Error::new(ErrorKind::Io, format!("the result cannot be written as JSON: {error}")))?;
    // JSON allows control characters above those of ASCII.
    let json = escaped(&json, |c| format!("\\u{:04x}", u32::from(c)));
    print(&format!("{json}\n"))
}

/// Writes a line to standard error, for people only. Unlike `eprintln!` it does not panic where that is closed.
pub fn print_status(line: fmt::Arguments<'_>) {
    print_status_inline(&format!("{}\n", visible(&line.to_string())));
}

/// Writes to standard error and leaves the line open.
pub fn print_status_inline(text: &str) {
    console::with(|console| console.write_error(text));
}

/// A progress bar of this style; invisible where standard error is no terminal.
pub fn bar(template: &str, length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    console::with(|console| console.bar(length)).with_style(style)
}

/// `text` with its control characters escaped, all but line breaks and tabs: names in files are anybody's, and a terminal
/// takes such characters for orders.
pub fn visible(text: &str) -> Cow<'_, str> {
    escaped(text, |c| c.escape_default().to_string())
}

/// `text` with its control characters written in some way.
fn escaped(text: &str, write: impl Fn(char) -> String) -> Cow<'_, str> {
    let obeyed = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !text.contains(obeyed) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if obeyed(c) { shown += &write(c) } else { shown.push(c) }
    }
    shown.into()
}

/// `1 token`, `2 tokens`.
pub fn counted<N: Display + PartialEq<N> + From<u8>>(count: N, what: &str) -> String {
    if count == N::from(1) { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// `1536` as `1.5 KiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let power = (count.max(1).ilog2() / 10).min(UNITS.len() as u32 - 1);
    match power {
        0 => format!("{count} {}", UNITS[0]),
        _ => format!("{:.1} {}", count as f64 / 1024f64.powi(power as i32), UNITS[power as usize]),
    }
}

/// Waits shorter than this show nothing: a bar that only flashes up tells nothing.
const MOMENT: Duration = Duration::from_millis(500);

/// A bar on standard error for waits that last longer than a moment; invisible where that is no terminal.
#[derive(Default)]
pub struct Meter {
    since: Option<Instant>,
    bar: Option<(&'static str, ProgressBar)>,
}

impl Meter {
    /// Shows how far the wait has come.
    pub fn update(&mut self, progress: Progress) {
        let (template, at, total) = match progress {
            Progress::Weights { bytes, total } => ("weights {bar:30} {bytes} of {total_bytes}", bytes, total),
            Progress::Pipelines { done, total } => ("kernels {bar:30} {pos} of {len}", done as u64, total as u64),
            Progress::Prefill { tokens, total } => {
                ("prompt {bar:30} {pos} of {len} tokens", tokens as u64, total as u64)
            }
            Progress::Branches { done, total } => ("branches {bar:30} {pos} of {len}", done as u64, total as u64),
            Progress::Positions { done, total } => ("positions {bar:30} {pos} of {len}", done as u64, total as u64),
        };
        if self.since.get_or_insert_with(Instant::now).elapsed() < MOMENT {
            return;
        }
        if self.bar.as_ref().is_none_or(|(shown, _)| *shown != template) {
            self.show(template);
        }
        if let Some((_, bar)) = &self.bar {
            bar.set_length(total);
            bar.set_position(at);
        }
    }

    fn show(&mut self, template: &'static str) {
        self.hide();
        self.bar = Some((template, bar(template, 0)));
    }

    fn hide(&mut self) {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// The wait is over: takes the bar away.
    pub fn clear(&mut self) {
        self.hide();
        self.since = None;
    }
}

impl Drop for Meter {
    /// An error message that follows starts on a clean line.
    fn drop(&mut self) {
        self.hide();
    }
}

/// A bar for long work: how much is done, how fast, and the time left; invisible where standard error is no terminal.
pub struct Work {
    bar: ProgressBar,
    since: Instant,
}

impl Work {
    /// Work of `total` parts, of which `done` were done before.
    pub fn new(name: &'static str, done: u64, total: u64) -> Self {
        let bar =
            bar("{prefix} {bar:30} {pos} of {len} · {msg} · {eta} left", total).with_position(done).with_prefix(name);
        bar.reset_eta();
        Self { bar, since: Instant::now() }
    }

    /// `done` parts are done now, with so many tokens in this run.
    pub fn update(&mut self, done: u64, tokens: u64, remark: &str) {
        let rate = tokens as f64 / self.since.elapsed().as_secs_f64().max(1e-9);
        let dot = if remark.is_empty() { "" } else { " · " };
        self.bar.set_message(format!("{remark}{dot}{rate:.0} tokens/s"));
        self.bar.set_position(done);
    }
}

impl Drop for Work {
    /// Clears the line, so that what is said next starts on a clean one.
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::{bytes, print, print_json, visible};
    use crate::console::{Console, Scope};
    use std::cell::RefCell;
    use std::io::{self, Write};
    use std::rc::Rc;

    #[derive(Clone, Default)]
    struct Written(Rc<RefCell<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_pipe_gets_what_a_terminal_is_only_shown() {
        let said = "a\x1b[2j\u{9b}b\n\tc";
        for (output, expected) in [(false, said), (true, "a\\u{1b}[2j\\u{9b}b\n\tc")] {
            let written = Written::default();
            let mut console = Console::apart(io::empty(), written.clone(), io::sink());
            console.terminals.output = output;
            let _scope = Scope::enter(console);
            assert!(print(said).is_ok());
            assert_eq!(String::from_utf8(written.0.take()).unwrap(), expected);
            assert!(print_json(&said).is_ok());
            let json = String::from_utf8(written.0.take()).unwrap();
            assert!(!json.trim_end().contains(char::is_control), "{json:?}");
            assert_eq!(serde_json::from_str::<String>(&json).unwrap(), said);
        }
    }

    #[test]
    fn nothing_orders_the_terminal_about() {
        assert_eq!(visible("a\x1b[2J\r\u{9b}\0\x7f"), "a\\u{1b}[2J\\r\\u{9b}\\u{0}\\u{7f}");
        assert_eq!(visible("größer 日本 🦊\n\tend"), "größer 日本 🦊\n\tend");
    }

    #[test]
    fn bytes_are_short() {
        let cases = [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (134_217_728, "128.0 MiB")];
        for (count, expected) in cases {
            assert_eq!(bytes(count), expected);
        }
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
    }
}
