//! Where the prompt comes from: a flag, a file, token ids, or standard input.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use foretoken::{Error, Result};

use crate::console;
use crate::terminal::print_status;

/// More than the longest context of any model holds, and little enough to read at once: some files have no end.
const MAX_TEXT_BYTES: u64 = 64 << 20;

/// The flags that give a prompt; at most one of them may be used.
#[derive(clap::Args)]
#[group(multiple = false)]
pub struct PromptFlags {
    /// The text to continue
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// A file with the text to continue
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// The prompt as token ids, separated by commas
    #[arg(long, value_name = "ID,ID,...", value_delimiter = ',', value_parser = token_id)]
    ids: Option<Vec<u32>>,
}

fn token_id(text: &str) -> std::result::Result<u32, String> {
    text.trim().parse().map_err(|_| "expected token ids, such as 1 or 1,403,407".to_owned())
}

/// The beginning of the text.
pub enum Prompt {
    Text(String),
    Ids(Vec<u32>),
}

impl PromptFlags {
    /// The prompt of the flags, else of standard input; none where that is a terminal.
    pub fn read(&self) -> Result<Option<Prompt>> {
        let text = if let Some(ids) = &self.ids {
            return Ok(Some(Prompt::Ids(ids.clone())));
        } else if let Some(text) = &self.prompt {
            text.clone()
        } else if let Some(path) = &self.prompt_file {
            without_line_break(read_text(path)?)
        } else if console::with(|console| console.terminals.input) {
            return Ok(None);
        } else {
            without_line_break(read_stdin()?)
        };
        if text.is_empty() {
            return Err(Error::input("the prompt is empty; to start from a token alone, give its id: --ids 1"));
        }
        Ok(Some(Prompt::Text(text)))
    }
}

/// The text of a file; fails where it is not UTF-8, or too long for any model.
pub fn read_text(path: &Path) -> Result<String> {
    let text = File::open(path).map_err(io_error).and_then(read_all).map_err(|error| error.within(path.display()))?;
    Ok(without_mark(text, path.display()))
}

fn read_stdin() -> Result<String> {
    let place = "standard input";
    let text = console::with(|console| read_all(&mut console.input)).map_err(|error| error.within(place))?;
    Ok(without_mark(text, place))
}

/// The text without a byte order mark, which is the file's and no text; says so.
fn without_mark(mut text: String, place: impl Display) -> String {
    if text.starts_with(MARK) {
        print_mark(place);
        text.drain(..MARK.len_utf8());
    }
    text
}

/// Says that a text's byte order mark was left out.
pub fn print_mark(place: impl Display) {
    print_status(format_args!("note: {place} begins with a byte order mark, which is no text and was left out"));
}

/// What Windows writes before a text.
pub const MARK: char = '\u{FEFF}';

fn read_all(source: impl Read) -> Result<String> {
    let mut bytes = Vec::new();
    source.take(MAX_TEXT_BYTES + 1).read_to_end(&mut bytes).map_err(io_error)?;
    if bytes.len() as u64 > MAX_TEXT_BYTES {
        let message = format!("expected a text of at most {MAX_TEXT_BYTES} bytes, got more");
        return Err(Error::input(message));
    }
    utf8(bytes)
}

fn io_error(error: io::Error) -> Error {
    Error::io(error.to_string()).caused_by(error)
}

/// The text of `bytes`.
pub fn utf8(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let bytes = error.as_bytes();
        let wide = bytes.starts_with(&[0xFF, 0xFE]) || bytes.starts_with(&[0xFE, 0xFF]);
        let advice = if wide { "; it begins as UTF-16 does: save it as UTF-8" } else { "" };
        Error::input(format!("expected UTF-8 text, but byte {at} is not{advice}"))
    })
}

/// Editors and `echo` end a text with a line break that is no part of what was written.
fn without_line_break(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_break_is_no_part_of_a_prompt() {
        for (given, expected) in [("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a\r", "a\r"), ("\n", ""), ("", "")]
        {
            assert_eq!(without_line_break(given.to_owned()), expected);
        }
    }

    #[test]
    fn endless_text_is_refused() {
        let error = read_all(io::repeat(0)).unwrap_err().to_string();
        assert!(error.contains("at most 67108864 bytes"), "{error}");
    }

    #[test]
    fn text_must_be_utf8() {
        assert_eq!(utf8("é".into()).unwrap(), "é");
        assert!(utf8(vec![b'a', 0xE9]).unwrap_err().to_string().contains("byte 1"));
        assert!(utf8(vec![0xFF, 0xFE, b'a', 0]).unwrap_err().to_string().contains("UTF-16"));
    }
}
