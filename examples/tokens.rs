//! The token ids of texts, and the texts of token ids.
//!
//! `cargo run --example tokens -- TOKENIZER.json`, or a GGUF file, with a text as a JSON string on each line of standard input; a line
//! of JSON comes back for each.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};

use foretoken::format::files::MemoryFiles;
use foretoken::format::layouts;
use foretoken::format::stream::StreamDecoder;
use foretoken::format::tokenizer::Tokenizer;
use pollster::block_on;
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: tokens TOKENIZER.json|FILE.gguf")?;
    let bytes = std::fs::read(&path)?;
    let tokenizer = if layouts::is_gguf(&path) {
        let files = BTreeMap::from([("model.gguf".to_owned(), bytes.into())]);
        block_on(layouts::tokenizer(&MemoryFiles { name: path, files }))?
    } else {
        Tokenizer::from_json(&bytes)?
    };
    let mut output = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let answer = match serde_json::from_str(&line?)? {
            Value::String(text) => ids(&tokenizer, &text),
            other => text(&tokenizer, &serde_json::from_value::<Vec<u32>>(other)?),
        };
        writeln!(output, "{}", answer.unwrap_or_else(|error| json!({ "error": error.to_string() })))?;
    }
    Ok(())
}

/// The ids of a text, with the tokens that the tokenizer puts around it.
fn ids(tokenizer: &Tokenizer, text: &str) -> foretoken::Result<Value> {
    Ok(json!(tokenizer.encode(text, true)?))
}

/// The text of ids, whole and as a stream, without special tokens and with them.
fn text(tokenizer: &Tokenizer, ids: &[u32]) -> foretoken::Result<Value> {
    let streamed = |skip| {
        let mut decoder = StreamDecoder::new(tokenizer, &[], skip)?;
        let pieces = ids.iter().map(|&id| decoder.push(id)).collect::<foretoken::Result<String>>()?;
        Ok::<_, foretoken::Error>(pieces + &decoder.finish()?)
    };
    Ok(json!({
        "text": [tokenizer.decode(ids, true)?, tokenizer.decode(ids, false)?],
        "streamed": [streamed(true)?, streamed(false)?],
    }))
}
