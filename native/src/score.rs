//! `foretoken score`: how probable a text is under a model.

use std::fmt::Write;
use std::path::PathBuf;

use foretoken::decode::check_prompt;
use foretoken::format::tokenizer::Tokenizer;
use foretoken::{Error, Result};
use serde::Serialize;

use crate::drafting::HeadsWanted;
use crate::prompt::read_text;
use crate::source::{EngineFlags, print_notes};
use crate::terminal::{Meter, Outcome, SUCCESS, counted, print, print_json, print_status, visible};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    engine: EngineFlags,
    /// The text to score
    #[arg(long, value_name = "FILE")]
    text_file: PathBuf,
    /// Score the start of a text that is longer than the context
    #[arg(long)]
    truncate: bool,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// The contract of `score --json`: `logprobs[i]` is the natural logarithm of the probability of `ids[i + 1]`.
#[derive(Serialize)]
struct Report {
    ids: Vec<u32>,
    logprobs: Vec<f32>,
    nll: f64,
    bits_per_byte: f64,
    /// Bytes of the text that the tokens with a log-probability stand for.
    bytes: usize,
    tokens: usize,
}

pub async fn run(args: &Args) -> Outcome<u8> {
    let text = read_text(&args.text_file)?;
    if text.is_empty() {
        return Err(Error::input(format!("{}: the text is empty", args.text_file.display())).into());
    }
    let checked = args.engine.check(HeadsWanted::IfSound).await?;
    let tokenizer = checked.tokenizer().await?;
    let (ids, bytes) = scored_part(tokenizer, &text, checked.context, args.truncate)?;
    check_prompt(&ids, &checked.config, Some(tokenizer), checked.context)?;
    print_notes(tokenizer, [&ids[..]]);
    let scored = tokenizer.bytes_after_first(&ids, bytes);
    if scored == 0 {
        return Err(
            Error::input("nothing to score: all of the text is its first token, and nothing comes before it").into()
        );
    }
    if scored < bytes {
        let (first, bytes) = (tokenizer.token_text(ids[0]).unwrap_or_default(), counted(bytes - scored, "byte"));
        print_status(format_args!(
            "note: this tokenizer puts nothing before a text, so its first token (\"{first}\", {bytes}) has no probability: nats and \
             bits are those of the rest"
        ));
    }
    let bytes = scored;
    let mut meter = Meter::default();
    let loaded = checked.load(&mut meter).await?;
    let logprobs = loaded.engine.session()?.score(&ids, &mut |progress| meter.update(progress)).await?;
    meter.clear();
    let report = report(ids, logprobs, bytes);
    if args.json {
        print_json(&report)?
    } else {
        print(&visible(&table(&report, tokenizer)))?
    }
    Ok(SUCCESS)
}

/// The ids to score, and the bytes of the text that they stand for.
fn scored_part(tokenizer: &Tokenizer, text: &str, context: usize, truncate: bool) -> Result<(Vec<u32>, usize)> {
    let fail = |message| Err(Error::input(message));
    let mut ids = tokenizer.encode(text, true)?;
    let mut bytes = text.len();
    let tokens = ids.len();
    if tokens.min(context) < 2 {
        return fail(format!("nothing to score: expected at least 2 tokens, got {tokens} in a context of {context}"));
    }
    if tokens > context {
        if !truncate {
            return fail(format!(
                "the text has {tokens} tokens, but the context only {context}; raise --context, or score the start of \
                 the text with --truncate"
            ));
        }
        ids.truncate(context);
        bytes = tokenizer.decode(&ids, true)?.len().min(bytes);
        print_status(format_args!("note: only the first {context} of {tokens} tokens are scored"));
    }
    Ok((ids, bytes))
}

fn report(ids: Vec<u32>, logprobs: Vec<f32>, bytes: usize) -> Report {
    let total: f64 = logprobs.iter().map(|&logprob| -f64::from(logprob)).sum();
    Report {
        tokens: ids.len(),
        nll: total / logprobs.len() as f64,
        bits_per_byte: total / std::f64::consts::LN_2 / bytes as f64,
        bytes,
        ids,
        logprobs,
    }
}

fn table(report: &Report, tokenizer: &Tokenizer) -> String {
    let mut lines = String::from("  logprob      id  token\n");
    // Nothing comes before the first token, so it has no log-probability.
    for (id, logprob) in report.ids.iter().skip(1).zip(&report.logprobs) {
        let token = tokenizer.token_text(*id).unwrap_or_default();
        let _ = writeln!(lines, "{logprob:9.4}  {id:6}  {token}");
    }
    let Report { nll, bits_per_byte, tokens, .. } = report;
    let _ = writeln!(lines, "{}, {nll:.4} nats a token, {bits_per_byte:.4} bits per byte", counted(*tokens, "token"));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_over_what_was_scored() {
        let half = 0.5f32.ln();
        let report = report(vec![1, 5, 6], vec![half, half], 4);
        assert_eq!(report.tokens, 3);
        assert!((report.nll - std::f64::consts::LN_2).abs() < 1e-7, "{}", report.nll);
        assert!((report.bits_per_byte - 0.5).abs() < 1e-7, "{}", report.bits_per_byte);
    }
}
