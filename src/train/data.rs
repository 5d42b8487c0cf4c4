//! Texts to train on: from the bytes of a file to the micro-batches of every step.
//!
//! A prompt and its completion are encoded as one text, with the tokens that the tokenizer's file puts around a text, exactly as
//! `foretoken generate` reads one; the model's first end token follows. So the completion's tokens are those that a text has there,
//! also where a tokenizer puts a space before every text it is given; a token that spans the seam is the completion's. Text that
//! spells a special token becomes that token.
//!
//! In which order sequences are seen is a function of the seed and the number of the step alone: whoever resumes needs no
//! more than these two.

use std::ops::Range;

use serde_json::{Map, Value};

use super::MicroBatch;
use crate::format::tokenizer::Tokenizer;
use crate::kernels::train::MAX_TRAINED_ROWS;
use crate::{Error, Result};

/// The line between two documents of a plain text.
pub const SEPARATOR: &str = "<|endoftext|>";

/// Tokens of a micro-batch, at most: those of all its sequences together.
pub const MAX_TOKENS: usize = MAX_TRAINED_ROWS as usize;

/// The format in which a file holds texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataFormat {
    /// Plain text; a line that is [`SEPARATOR`] ends a document.
    Text,
    /// An object a line: `{"prompt": ..., "completion": ...}` or `{"text": ...}`; other fields are passed over.
    Lines,
}

impl DataFormat {
    /// The format by the end of a file's name: `.txt` or `.jsonl`.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) for other names.
    pub fn of_name(name: &str) -> Result<Self> {
        let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending).to_ascii_lowercase();
        match ending.as_str() {
            "txt" => Ok(Self::Text),
            "jsonl" => Ok(Self::Lines),
            _ => Err(Error::input(format!("{name}: expected a file whose name ends in .txt or .jsonl"))),
        }
    }
}

/// The tokens that a loss counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// The completion and its end token, of a text with a prompt; all tokens of any other text.
    Completion,
    /// All tokens of every text.
    All,
}

/// The vocabulary that texts must fit.
#[derive(Clone, Copy, Debug)]
pub struct Vocabulary<'a> {
    /// Text to tokens.
    pub tokenizer: &'a Tokenizer,
    /// Ids are below this.
    pub size: usize,
    /// The token that ends a text; `None` where the model has no such token.
    pub end: Option<u32>,
}

/// One text in tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The line of the file it begins on, from 1.
    pub line: usize,
    /// The text's tokens, the end token included.
    pub ids: Vec<u32>,
    /// The text's prompt, if it has one.
    pub prompt: Option<Prompt>,
    /// Whether the last of them is the model's end token, which the file does not have.
    pub ended: bool,
}

/// The prompt of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// The prompt's tokens, encoded alone, as `foretoken generate` does.
    pub ids: Vec<u32>,
    /// The number of these tokens that the document begins with.
    pub shared: usize,
}

impl Document {
    /// The first of its tokens that is no part of the prompt.
    pub fn first_target(&self) -> usize {
        self.prompt.as_ref().map_or(0, |prompt| prompt.shared)
    }

    /// The tokens that the model is asked to continue when it writes its own text: the prompt, else the first `tokens`
    /// tokens.
    pub fn opening(&self, tokens: usize) -> &[u32] {
        match &self.prompt {
            Some(prompt) => &prompt.ids,
            None => &self.ids[..tokens.min(self.ids.len() - usize::from(self.ended))],
        }
    }
}

/// The texts in the bytes of a file, in order.
///
/// # Errors
/// [`ErrorKind::Input`](crate::ErrorKind::Input) with the number of the line, what was expected and what was found: no text at all,
/// malformed JSON, fields that are missing or of another type, tokens that the model does not have.
pub fn read(bytes: &[u8], format: DataFormat, vocabulary: &Vocabulary<'_>) -> Result<Vec<Document>> {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
        let byte = before.iter().rev().take_while(|&&byte| byte != b'\n').count() + 1;
        Error::input(format!("line {line}: expected UTF-8 text, but its byte {byte} is not")).caused_by(error)
    })?;
    let documents = match format {
        DataFormat::Text => plain(text, vocabulary)?,
        DataFormat::Lines => lines(text, vocabulary)?,
    };
    if documents.is_empty() {
        return Err(Error::input("expected texts, got an empty file"));
    }
    Ok(documents)
}

fn plain(text: &str, vocabulary: &Vocabulary<'_>) -> Result<Vec<Document>> {
    let mut documents = Vec::new();
    let mut add = |line: usize, part: Range<usize>| -> Result<()> {
        let part = &text[part];
        // The line break before a separator, or at the end of the file, is the file's.
        let part = part.strip_suffix('\n').unwrap_or(part);
        let part = part.strip_suffix('\r').unwrap_or(part);
        if !part.trim().is_empty() {
            documents.push(whole(line, part, vocabulary)?);
        }
        Ok(())
    };
    let (mut start, mut first_line, mut at) = (0, 1, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if line.trim_end() == SEPARATOR {
            add(first_line, start..at)?;
            start = at + line.len();
            first_line = number + 2;
        }
        at += line.len();
    }
    add(first_line, start..text.len())?;
    Ok(documents)
}

fn lines(text: &str, vocabulary: &Vocabulary<'_>) -> Result<Vec<Document>> {
    let mut documents = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        let wrong = |what: String| Error::input(format!("line {number}: {what}"));
        let map: Map<String, Value> = serde_json::from_str(line).map_err(|error| {
            wrong(format!("expected a JSON object: {}, in {}", in_a_line(&error), cut(line))).caused_by(error)
        })?;
        let field = |name: &str| match map.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(other) => Err(wrong(format!("`{name}`: expected a text, got {}", cut(&other.to_string())))),
        };
        let document = match (field("prompt")?, field("completion")?, field("text")?) {
            (Some(prompt), Some(completion), None) => pair(number, prompt, completion, vocabulary)?,
            (None, None, Some(text)) => whole(number, text, vocabulary)?,
            _ => {
                let there = map.iter().filter(|(_, value)| !value.is_null());
                let got: Vec<&str> = there.map(|(key, _)| key.as_str()).collect();
                let got = if got.is_empty() { "no field".to_owned() } else { got.join(" and ") };
                return Err(wrong(format!("expected the fields prompt and completion, or text; got {got}")));
            }
        };
        documents.push(document);
    }
    Ok(documents)
}

/// The message of serde_json, without a line of its own.
fn in_a_line(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column ", " at column ")
}

/// A quotation for a message.
fn cut(text: &str) -> String {
    const LENGTH: usize = 40;
    let short: String = text.chars().take(LENGTH).collect();
    if short.len() < text.len() { format!("{short}...") } else { short }
}

fn whole(line: usize, text: &str, vocabulary: &Vocabulary<'_>) -> Result<Document> {
    let ids = vocabulary.tokenizer.encode(text, true).map_err(|error| error.within(format!("line {line}")))?;
    document(line, ids, None, vocabulary)
}

fn pair(line: usize, prompt: &str, completion: &str, vocabulary: &Vocabulary<'_>) -> Result<Document> {
    let encode = |text: &str| {
        let ids = vocabulary.tokenizer.encode(text, true);
        ids.map_err(|error| error.within(format!("line {line}")))
    };
    let (whole, ids) = (encode(&format!("{prompt}{completion}"))?, encode(prompt)?);
    let shared = ids.iter().zip(&whole).take_while(|(a, b)| a == b).count();
    document(line, whole, Some(Prompt { ids, shared }), vocabulary)
}

fn document(line: usize, mut ids: Vec<u32>, prompt: Option<Prompt>, vocabulary: &Vocabulary<'_>) -> Result<Document> {
    // Some tokenizers end a text themselves.
    ids.extend(vocabulary.end.filter(|end| ids.last() != Some(end)));
    match ids.iter().find(|&&id| id as usize >= vocabulary.size) {
        Some(id) => Err(Error::input(format!(
            "line {line}: token {id} (\"{}\") lies outside the model's vocabulary of {} tokens: is the tokenizer this model's?",
            vocabulary.tokenizer.token_text(*id).unwrap_or_default(),
            vocabulary.size
        ))),
        None => Ok(Document { line, ids, prompt, ended: vocabulary.end.is_some() }),
    }
}

/// Sequences of one length to train on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    length: usize,
    ids: Vec<u32>,
    samples: Vec<Sample>,
    /// Sequences that had no token to count, and were left out.
    pub dropped: usize,
    /// Sequences that were longer, and lost their end.
    pub truncated: usize,
    /// Tokens at the end of plain text that fill no sequence, and were left out.
    pub unused: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Sample {
    ids: Range<usize>,
    /// Tokens from here on count, from the sample's start.
    counted: usize,
}

impl Sample {
    /// The number of targets of a head that predicts the token `offset` places ahead.
    fn targets(&self, offset: usize) -> usize {
        self.ids.len().saturating_sub(self.counted.max(offset))
    }
}

impl Dataset {
    /// Documents as sequences of `length` tokens: those of plain text laid end to end and cut into windows, the last token of
    /// each the first of the next; lines each a sequence of its own.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) for a text that is shorter than one window, and where no token counts.
    pub fn new(documents: &[Document], format: DataFormat, length: usize, counted: Counted) -> Result<Self> {
        match format {
            DataFormat::Text => Self::windows(documents, length),
            DataFormat::Lines => {
                let texts = documents.iter().map(|document| (&document.ids[..], document.first_target()));
                Self::each(texts, length, counted)
            }
        }
    }

    /// Sequences of their own: tokens, and how many of them are a prompt.
    ///
    /// # Errors
    /// As [`Dataset::new`].
    pub fn each<'a>(texts: impl Iterator<Item = (&'a [u32], usize)>, length: usize, counted: Counted) -> Result<Self> {
        check_length(length)?;
        let mut data = Self { length, ids: Vec::new(), samples: Vec::new(), dropped: 0, truncated: 0, unused: 0 };
        for (ids, prompt) in texts {
            let kept = ids.len().min(length);
            // Nothing predicts the first token.
            let first = if counted == Counted::All { 1 } else { prompt.max(1) };
            if first >= kept {
                data.dropped += 1;
                continue;
            }
            data.truncated += usize::from(kept < ids.len());
            let start = data.ids.len();
            data.ids.extend_from_slice(&ids[..kept]);
            data.samples.push(Sample { ids: start..data.ids.len(), counted: first });
        }
        if data.samples.is_empty() {
            return Err(Error::input(format!(
                "no sequence has a token to learn from: all {} prompts fill the {length} tokens of a sequence (`length`), or \
                 nothing follows them",
                data.dropped
            )));
        }
        Ok(data)
    }

    fn windows(documents: &[Document], length: usize) -> Result<Self> {
        check_length(length)?;
        let (mut ids, mut end): (Vec<u32>, _) = (Vec::new(), None);
        for document in documents {
            // One token may end a text and begin the next.
            let both = end.is_some() && document.ids.first() == end.as_ref();
            ids.extend_from_slice(&document.ids[usize::from(both)..]);
            end = document.ids.last().copied().filter(|_| document.ended);
        }
        let count = ids.len().saturating_sub(1) / (length - 1);
        if count == 0 {
            return Err(Error::input(format!(
                "the text has {} tokens, a sequence {length}: give more text, or a smaller `length`",
                ids.len()
            )));
        }
        let sample = |n: usize| Sample { ids: n * (length - 1)..(n + 1) * (length - 1) + 1, counted: 1 };
        let unused = ids.len() - 1 - count * (length - 1);
        Ok(Self { length, samples: (0..count).map(sample).collect(), ids, dropped: 0, truncated: 0, unused })
    }

    /// Tokens of the longest sequence, at most [`Self::length`].
    pub fn longest(&self) -> usize {
        self.samples.iter().map(|sample| sample.ids.len()).max().unwrap_or(0)
    }

    /// Sequences.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Tokens of a sequence at most.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Whether there is none, which never is.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Tokens that count as targets, over all sequences.
    pub fn targets(&self) -> u64 {
        self.targets_at(1)
    }

    /// Targets of a head that predicts the token `offset` places ahead: the first ones of a sequence are out of its reach.
    pub fn targets_at(&self, offset: usize) -> u64 {
        self.samples.iter().map(|sample| sample.targets(offset) as u64).sum()
    }

    /// Targets of a micro-batch of so many sequences of [`Dataset::batches`], at most.
    pub fn most_targets(&self, sequences: usize) -> usize {
        // Each epoch has its own order: a sequence may end one and begin the next.
        self.most(sequences, sequences.div_ceil(self.samples.len()) + 1)
    }

    /// Targets of a micro-batch of so many sequences of [`Dataset::in_order`], at most.
    pub fn most_targets_in_order(&self, sequences: usize) -> usize {
        self.most(sequences, 1)
    }

    /// Targets of `sequences` sequences, each of them up to `times` times.
    fn most(&self, sequences: usize, times: usize) -> usize {
        let mut targets: Vec<usize> = self.samples.iter().map(|sample| sample.targets(1)).collect();
        targets.sort_unstable_by(|a, b| b.cmp(a));
        targets.into_iter().flat_map(|targets| std::iter::repeat_n(targets, times)).take(sequences).sum()
    }

    /// The tokens of a sequence, and from which of them on they count as targets.
    pub fn sequence(&self, index: usize) -> (&[u32], usize) {
        let sample = &self.samples[index];
        (&self.ids[sample.ids.clone()], sample.counted)
    }

    /// The micro-batches of every step.
    pub fn batches(&self, seed: u64, sequences: usize, accumulate: usize) -> Batches<'_> {
        Batches { data: self, seed, sequences, accumulate, order: None }
    }

    /// All sequences once, in their own order, the last micro-batch filled up with sequences in which nothing counts.
    pub fn in_order(&self, sequences: usize) -> impl Iterator<Item = MicroBatch> + '_ {
        let batches = self.samples.len().div_ceil(sequences.max(1));
        (0..batches).map(move |batch| {
            let first = batch * sequences;
            self.micro_batch((first..first + sequences).map(|n| self.samples.get(n)))
        })
    }

    fn micro_batch<'a>(&self, samples: impl Iterator<Item = Option<&'a Sample>>) -> MicroBatch {
        let (mut ids, mut counts) = (Vec::new(), Vec::new());
        for sample in samples {
            let end = ids.len() + self.length;
            if let Some(sample) = sample {
                ids.extend_from_slice(&self.ids[sample.ids.clone()]);
                counts.resize(counts.len() + sample.counted, false);
                counts.resize(ids.len(), true);
            }
            ids.resize(end, 0);
            counts.resize(end, false);
        }
        MicroBatch { ids, counts }
    }
}

fn check_length(length: usize) -> Result<()> {
    if length < 2 {
        return Err(Error::input(format!("sequences of {length} tokens: expected at least 2")));
    }
    Ok(())
}

/// The micro-batches of every step of a training.
#[derive(Clone, Debug)]
pub struct Batches<'d> {
    data: &'d Dataset,
    seed: u64,
    sequences: usize,
    accumulate: usize,
    /// The order of the epoch last asked for.
    order: Option<(u64, Vec<u32>)>,
}

impl Batches<'_> {
    /// Steps that see as many sequences as there are; the last one may begin the next epoch.
    pub fn steps_an_epoch(&self) -> u64 {
        self.data.len().div_ceil(self.sequences * self.accumulate) as u64
    }

    /// The micro-batches of step `step`, from 0: the same whatever was asked for before.
    pub fn step(&mut self, step: u64) -> Vec<MicroBatch> {
        let samples = &self.data.samples;
        let batches = self.sequences_of(step);
        batches.iter().map(|batch| self.data.micro_batch(batch.iter().map(|&n| Some(&samples[n])))).collect()
    }

    /// The sequences that the micro-batches of step `step` hold.
    pub fn sequences_of(&mut self, step: u64) -> Vec<Vec<usize>> {
        let each = (self.sequences * self.accumulate) as u64;
        let places: Vec<usize> = (step * each..(step + 1) * each).map(|place| self.sequence(place)).collect();
        places.chunks(self.sequences).map(<[usize]>::to_vec).collect()
    }

    /// The sequence that has this place in the stream of all epochs.
    fn sequence(&mut self, place: u64) -> usize {
        let count = self.data.len() as u64;
        let epoch = place / count;
        if self.order.as_ref().is_none_or(|(of, _)| *of != epoch) {
            self.order = Some((epoch, shuffled(self.data.len(), self.seed, epoch)));
        }
        self.order.as_ref().map_or(0, |(_, order)| order[(place % count) as usize] as usize)
    }
}

/// The numbers below `count` in an order of this seed and epoch: Fisher and Yates, with SplitMix64.
fn shuffled(count: usize, seed: u64, epoch: u64) -> Vec<u32> {
    let mut state = seed.wrapping_mul(0xd134_2543_de82_ef95) ^ epoch.wrapping_mul(0xaf25_1af3_b0f0_25b5);
    let mut random = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let mut order: Vec<u32> = (0..count as u32).collect();
    for last in (1..count).rev() {
        // The high half of a product: as good as even for so few numbers.
        let other = ((u128::from(random()) * (last as u128 + 1)) >> 64) as usize;
        order.swap(last, other);
    }
    order
}

#[cfg(test)]
mod tests;
