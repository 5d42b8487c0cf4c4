//! A session at the terminal: the user and the model write one text in turns, and the cache is kept between them.

use foretoken::format::tokenizer::Tokenizer;
use foretoken::{Error, GenerateOptions, Result};

use crate::console;
use crate::generate::{Output, generate};
use crate::prompt::utf8;
use crate::source::{Loaded, advice, print_notes};
use crate::terminal::{Outcome, SUCCESS, print_status, print_status_inline};

/// Takes turns until the user ends the input.
pub async fn run(loaded: &Loaded, options: &GenerateOptions) -> Outcome<u8> {
    print_status(format_args!("{} on {}. Write how the text goes on; Ctrl-D ends it.", loaded.model, loaded.adapter));
    if let Some(advice) = advice(&loaded.adapter) {
        print_status(format_args!("note: {advice}"));
    }
    let tokenizer = loaded.engine.tokenizer()?;
    let mut session = loaded.engine.session()?;
    let mut ids = Vec::new();
    while let Some(line) = read_line()? {
        let longer = match line.and_then(|line| extended(&ids, tokenizer, &line, loaded.engine.context())) {
            Ok(Some(longer)) => longer,
            Ok(None) => continue,
            Err(error) => {
                print_status(format_args!("error: {error}; the line was left out"));
                continue;
            }
        };
        let finished = generate(&mut session, &longer, options, Output::Printed).await?;
        ids = longer;
        ids.extend(&finished.ids);
        finished.end_line()?;
        finished.print_speed();
    }
    Ok(SUCCESS)
}

/// The text with the user's line: on a line of its own, as the terminal shows it. Nothing for an empty line.
fn extended(ids: &[u32], tokenizer: &Tokenizer, line: &str, context: usize) -> Result<Option<Vec<u32>>> {
    if line.is_empty() {
        return Ok(None);
    }
    if !ids.is_empty() {
        let longer = [ids, &tokenizer.encode(&format!("\n{line}"), false)?].concat();
        if longer.len() < context {
            return Ok(Some(longer));
        }
    }
    let alone = tokenizer.encode(line, true)?;
    if alone.len() >= context {
        let message = format!("{} tokens, but the context holds {context} and the answer needs room", alone.len());
        return Err(Error::input(message));
    }
    if !ids.is_empty() {
        print_status(format_args!("note: the context of {context} tokens is full: the text starts anew"));
    }
    print_notes(tokenizer, [&alone[..]]);
    Ok(Some(alone))
}

/// The next line without its end, or what is wrong with it; `None` when the input ends.
fn read_line() -> Result<Option<Result<String>>> {
    print_status_inline("> ");
    let mut line = Vec::new();
    match console::with(|console| console.input.read_until(b'\n', &mut line)) {
        Ok(0) => {
            print_status(format_args!(""));
            Ok(None)
        }
        Ok(_) => Ok(Some(utf8(line).map(|line| line.trim_end_matches(['\r', '\n']).to_owned()))),
        Err(error) => Err(Error::io(format!("standard input: {error}"))),
    }
}
