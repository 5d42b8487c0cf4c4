//! The model's own text as data: its greedy continuations of the prompts, a line each in a file that grows.
//!
//! A line is written once its text is complete, so whatever ends the program in between costs one text: the next run reads the
//! lines that are there and goes on after them.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use foretoken::decode::Stop;
use foretoken::train::data::{Counted, Document};
use foretoken::{Error, GenerateOptions, Result, Session};
use serde::{Deserialize, Serialize};

use crate::output::io_error;
use crate::terminal::Work;

/// The file's name in the output folder.
pub const FILE: &str = "distilled.jsonl";

/// A prompt and what the model makes of it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distilled {
    /// The line of the data that the prompt comes from.
    line: usize,
    pub prompt_ids: Vec<u32>,
    /// The continuation, an end token included; none where the prompt leaves no room, or is empty.
    pub ids: Vec<u32>,
}

/// The form of the texts that are asked of the model.
pub struct Wanted {
    /// The most tokens of a continuation.
    pub tokens: usize,
    /// Tokens that a text without a prompt gives as one.
    pub prompt: usize,
    /// Prompt and continuation have at most so many tokens together.
    pub length: usize,
    /// Tokens that the model has.
    pub vocabulary: usize,
    /// Which of their tokens count.
    pub counted: Counted,
}

/// The lines that an earlier run has completed; what it left of one more is cut off.
///
/// # Errors
/// Where the file cannot be read, or holds other lines than this run would write.
pub fn completed(path: &Path, documents: &[Document], wanted: &Wanted) -> Result<Vec<Distilled>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error(path, &error)),
    };
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(bytes[..whole].split_inclusive(|&byte| byte == b'\n')) {
        let place = || format!("{}, line {number}", path.display());
        let line: Distilled = serde_json::from_slice(line)
            .map_err(|error| Error::format(format!("{}: {error}; delete the file to make it anew", place())))?;
        let expected = documents.get(number - 1).map(|document| document.opening(wanted.prompt));
        if expected != Some(&line.prompt_ids[..]) {
            let message =
                format!("{}: a prompt that is not the one of the data; delete the file to make it anew", place());
            return Err(Error::input(message));
        }
        if line.ids.len() > wanted.tokens || line.ids.iter().any(|&id| id as usize >= wanted.vocabulary) {
            let message = format!("{}: expected tokens of the model, --distill-tokens of them at most", place());
            return Err(Error::format(format!("{message}; delete the file to make it anew")));
        }
        lines.push(line);
    }
    if whole < bytes.len() {
        let file = OpenOptions::new().write(true).open(path);
        file.and_then(|file| file.set_len(whole as u64)).map_err(|error| io_error(path, &error))?;
    }
    Ok(lines)
}

/// Lets the model continue the prompts that `lines` does not hold yet. False if it was interrupted.
///
/// # Errors
/// If the device fails, or the file cannot be written; the lines until then stay.
pub async fn go_on(
    session: &mut Session,
    path: &Path,
    documents: &[Document],
    wanted: &Wanted,
    lines: &mut Vec<Distilled>,
    interrupt: &Arc<AtomicBool>,
) -> Result<bool> {
    let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(|error| io_error(path, &error))?;
    let mut bar = Work::new("own texts", lines.len() as u64, documents.len() as u64);
    let mut tokens = 0;
    for document in &documents[lines.len()..] {
        let prompt = document.opening(wanted.prompt);
        let room = wanted.length.min(session.context()).saturating_sub(prompt.len()).min(wanted.tokens);
        let Some(ids) = continuation(session, prompt, room, interrupt).await? else {
            file.sync_all().map_err(|error| io_error(path, &error))?;
            return Ok(false);
        };
        tokens += ids.len() as u64;
        let line = Distilled { line: document.line, prompt_ids: prompt.to_vec(), ids };
        write_line(&mut file, &line).map_err(|error| io_error(path, &error))?;
        lines.push(line);
        bar.update(lines.len() as u64, tokens, "");
    }
    file.sync_all().map_err(|error| io_error(path, &error))?;
    Ok(true)
}

/// The greedy continuation of `prompt`; `None` if it was interrupted.
async fn continuation(
    session: &mut Session,
    prompt: &[u32],
    tokens: usize,
    interrupt: &Arc<AtomicBool>,
) -> Result<Option<Vec<u32>>> {
    if interrupt.load(SeqCst) {
        return Ok(None);
    }
    if tokens == 0 || prompt.is_empty() {
        return Ok(Some(Vec::new()));
    }
    // Drafts change no text, and where they pay they save time.
    let options = GenerateOptions::default().max_tokens(tokens).interrupt(Arc::clone(interrupt));
    let mut generation = session.generate(prompt, &options, &mut |_| {}).await?;
    while generation.next().await?.is_some() {}
    Ok((generation.stop() != Some(Stop::Interrupt)).then(|| generation.ids().to_vec()))
}

fn write_line(file: &mut File, line: &Distilled) -> std::io::Result<()> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    file.write_all(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_line_is_cut_off_and_foreign_ones_are_refused() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join(FILE);
        let wanted = Wanted { tokens: 4, prompt: 2, length: 16, vocabulary: 10, counted: Counted::All };
        let document = |line: usize, ids: &[u32]| Document { line, ids: ids.to_vec(), prompt: None, ended: false };
        let documents = [document(1, &[1, 5, 6]), document(2, &[1, 7])];
        assert_eq!(completed(&path, &documents, &wanted).unwrap(), []);
        let first = Distilled { line: 1, prompt_ids: vec![1, 5], ids: vec![8, 9] };
        let line = serde_json::to_string(&first).unwrap() + "\n";
        fs::write(&path, format!("{line}{{\"line\":2,\"pro")).unwrap();
        assert_eq!(completed(&path, &documents, &wanted).unwrap(), [first]);
        assert_eq!(fs::read_to_string(&path).unwrap(), line);
        let other = [document(1, &[1, 4, 6])];
        let error = completed(&path, &other, &wanted).unwrap_err().to_string();
        assert!(error.contains("line 1") && error.contains("not the one of the data"), "{error}");
        for ids in ["[8,10]", "[1,2,3,4,5]"] {
            fs::write(&path, format!("{{\"line\":1,\"prompt_ids\":[1,5],\"ids\":{ids}}}\n")).unwrap();
            let error = completed(&path, &documents, &wanted).unwrap_err().to_string();
            assert!(error.contains("line 1: expected tokens of the model"), "{error}");
        }
        fs::write(&path, "{}\n").unwrap();
        assert!(completed(&path, &documents, &wanted).unwrap_err().to_string().contains("line 1"));
    }
}
