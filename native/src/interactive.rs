//! A session at the terminal: the user and the model write one text in turns, and the cache is kept between them.

use std::io::{self, Write};
use std::process::ExitCode;

use foretoken::{Error, ErrorKind, GenerateOptions, Result};

use crate::generate::{Output, generate};
use crate::source::{Loaded, advice};
use crate::terminal::{Outcome, say};

/// Takes turns until the user ends the input.
pub async fn run(loaded: &Loaded, options: &GenerateOptions) -> Outcome<ExitCode> {
    say(format_args!("{} on {}. Write how the text goes on; Ctrl-D ends it.", loaded.model, loaded.adapter));
    if let Some(advice) = advice(&loaded.adapter) {
        say(format_args!("note: {advice}"));
    }
    let mut session = loaded.engine.session()?;
    let mut ids = Vec::new();
    while let Some(line) = read_line()? {
        if line.is_empty() {
            continue;
        }
        extend(&mut ids, loaded, &line)?;
        let finished = generate(&mut session, &ids, options, Output::Printed).await?;
        ids.extend(&finished.ids);
        finished.end_line()?;
        finished.say_speed();
    }
    Ok(ExitCode::SUCCESS)
}

/// Adds the user's line: on a line of its own, as the terminal shows it.
fn extend(ids: &mut Vec<u32>, loaded: &Loaded, line: &str) -> Result<()> {
    let tokenizer = loaded.engine.tokenizer()?;
    if !ids.is_empty() {
        ids.extend(tokenizer.encode(&format!("\n{line}"), false)?);
        if ids.len() < loaded.engine.context() {
            return Ok(());
        }
        say(format_args!("note: the context of {} tokens is full: the text starts anew", loaded.engine.context()));
    }
    *ids = tokenizer.encode(line, true)?;
    Ok(())
}

/// The next line, without its end; `None` when the input ends.
fn read_line() -> Result<Option<String>> {
    let _ = write!(io::stderr(), "> ");
    let mut line = String::new();
    match io::stdin().read_line(&mut line) {
        Ok(0) => {
            say(format_args!(""));
            Ok(None)
        }
        Ok(_) => Ok(Some(line.trim_end_matches(['\r', '\n']).to_owned())),
        Err(error) => Err(Error::new(ErrorKind::Io, format!("standard input: {error}"))),
    }
}
