//! The samples: JSON lines with a prompt and its completion, or with a text.

use std::fs;
use std::path::Path;

use foretoken::analysis::DataFacts;
use foretoken::format::tokenizer::Tokenizer;
use foretoken::{Error, ErrorKind, Result};
use serde::Deserialize;

use super::fingerprint::Fingerprint;

/// A sample's tokens.
pub struct Sample {
    pub ids: Vec<u32>,
    /// The first token that is no part of the prompt.
    pub first_target: usize,
}

#[derive(Deserialize)]
struct Line {
    prompt: Option<String>,
    completion: Option<String>,
    text: Option<String>,
}

/// Reads every sample of a file. Texts of more than `context` tokens are refused, or cut at their end.
pub fn read(path: &Path, tokenizer: &Tokenizer, context: usize, truncate: bool) -> Result<(Vec<Sample>, DataFacts)> {
    let place = path.display();
    let fail = |error: std::io::Error| Error::new(ErrorKind::Io, format!("{place}: {error}"));
    // A pipe or a device may have no end.
    if !fs::metadata(path).map_err(fail)?.is_file() {
        return Err(Error::new(ErrorKind::Io, format!("{place}: expected a file")));
    }
    let bytes = fs::read(path).map_err(fail)?;
    let mut samples = Vec::new();
    for (number, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let within = |error: Error| error.within(format!("{place}: line {}", number + 1));
        let mut sample = sample(line, tokenizer).map_err(within)?;
        if sample.ids.len() > context {
            if !truncate {
                let message = format!(
                    "{} tokens, but the context holds {context}; raise --context, or score the start of long texts with \
                     --truncate",
                    sample.ids.len()
                );
                return Err(within(Error::new(ErrorKind::Input, message)));
            }
            sample.ids.truncate(context);
        }
        samples.push(sample);
    }
    if samples.is_empty() {
        let message =
            format!("{place}: no samples: expected lines like {{\"prompt\": \"...\", \"completion\": \"...\"}}");
        return Err(Error::new(ErrorKind::Input, message));
    }
    let mut fingerprint = Fingerprint::default();
    fingerprint.add(&bytes);
    let name = path.file_name().map_or_else(|| place.to_string(), |name| name.to_string_lossy().into_owned());
    let facts = DataFacts { name, fingerprint: fingerprint.text(), samples: samples.len() };
    Ok((samples, facts))
}

fn sample(line: &[u8], tokenizer: &Tokenizer) -> Result<Sample> {
    let form = "expected {\"prompt\": \"...\", \"completion\": \"...\"} or {\"text\": \"...\"}";
    let fail = |message: String| Error::new(ErrorKind::Input, message);
    let line: Line = serde_json::from_slice(line).map_err(|error| fail(format!("{form}: {error}")))?;
    match line {
        Line { prompt: Some(prompt), completion: Some(completion), text: None } => {
            if completion.is_empty() {
                return Err(fail("the completion is empty".to_owned()));
            }
            let ids = tokenizer.encode(&format!("{prompt}{completion}"), true)?;
            // A token may span the seam; it belongs to the completion then.
            let prompt = tokenizer.encode(&prompt, true)?;
            let first_target = prompt.iter().zip(&ids).take_while(|(a, b)| a == b).count();
            Ok(Sample { ids, first_target })
        }
        Line { prompt: None, completion: None, text: Some(text) } => {
            if text.is_empty() {
                return Err(fail("the text is empty".to_owned()));
            }
            Ok(Sample { ids: tokenizer.encode(&text, true)?, first_target: 0 })
        }
        _ => Err(fail(form.to_owned())),
    }
}
