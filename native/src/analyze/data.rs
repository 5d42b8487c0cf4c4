//! The samples: JSON lines with a prompt and its completion, or with a text.

use std::fs;
use std::ops::Range;
use std::path::Path;

use foretoken::analysis::DataFacts;
use foretoken::train::data::{DataFormat, Vocabulary, read as read_documents};
use foretoken::{Error, Result};

use crate::output::io_error;
use crate::prompt::{MARK, print_mark};
use crate::source::{Checked, print_notes};
use foretoken::format::hash::Hash;

/// A sample's tokens.
pub struct Sample {
    pub ids: Vec<u32>,
    /// The first token that is no part of the prompt.
    pub first_target: usize,
}

impl Sample {
    /// The tokens that can be scored at every offset up to `offsets`: there must be something before the first of them.
    pub fn targets(&self, offsets: usize) -> Range<usize> {
        self.first_target.max(offsets).min(self.ids.len())..self.ids.len()
    }
}

/// Reads every sample of a file. Texts of more tokens than the context holds are refused, or cut at their end.
pub async fn read(path: &Path, model: &Checked<'_>, truncate: bool) -> Result<(Vec<Sample>, DataFacts)> {
    let place = path.display();
    let fail = |message: String| Error::input(message).within(&place);
    // A pipe or a device may have no end.
    if !fs::metadata(path).map_err(|error| io_error(path, &error))?.is_file() {
        return Err(Error::io(format!("{place}: expected a file")));
    }
    let bytes = fs::read(path).map_err(|error| io_error(path, &error))?;
    let (context, tokenizer) = (model.context, model.tokenizer().await?);
    let vocabulary = Vocabulary { tokenizer, size: model.config.vocab_size, end: None };
    let documents = read_documents(&bytes, DataFormat::Lines, &vocabulary).map_err(|error| error.within(&place))?;
    if bytes.starts_with(MARK.to_string().as_bytes()) {
        print_mark(&place);
    }
    print_notes(tokenizer, documents.iter().map(|document| &document.ids[..]));
    let mut samples = Vec::with_capacity(documents.len());
    for document in documents {
        let (line, first_target, text) = (document.line, document.first_target(), document.prompt.is_none());
        let mut ids = document.ids;
        // An empty text may have a begin token.
        let begin = text && ids.len() == 1 && vocabulary.tokenizer.is_special(ids[0]);
        if ids.len() == first_target || begin {
            let what = if text { "text" } else { "completion" };
            return Err(fail(format!("line {line}: expected a {what} to score, but there is none")));
        }
        if ids.len() > context {
            if !truncate {
                let larger = if context < model.config.max_position_embeddings { "raise --context, or " } else { "" };
                return Err(fail(format!(
                    "line {line}: {} tokens, but the context holds {context}; {larger}score the start of long texts with --truncate",
                    ids.len()
                )));
            }
            ids.truncate(context);
        }
        samples.push(Sample { ids, first_target });
    }
    let mut hash = Hash::new();
    hash.add(&bytes);
    let name = path.file_name().map_or_else(|| place.to_string(), |name| name.to_string_lossy().into_owned());
    let facts = DataFacts { name, fingerprint: hash.text(), samples: samples.len() };
    Ok((samples, facts))
}
