//! The continuation of a text, token by token.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use web_time::Instant;

use super::sampling::Sampling;
use super::session::{IN_FLIGHT, Session};
use super::stop::StopStrings;
use crate::Result;
use crate::format::stream::StreamDecoder;
use crate::format::tokenizer::Tokenizer;
use crate::gpu::Counts;
use crate::kernels::{DONE_END_TOKEN, DONE_LIMIT};
use crate::model::{MAX_STEPS, Progress};

/// What to generate.
#[derive(Clone, Debug, Default)]
pub struct GenerateOptions {
    /// The most tokens to add to the prompt.
    pub max_tokens: usize,
    /// How each is chosen.
    pub sampling: Sampling,
    /// The text ends before the first of these.
    pub stop: Vec<String>,
    /// Once true, the text ends: after the prompt's next chunk while it is read, or after the tokens taken so far.
    pub interrupt: Option<Arc<AtomicBool>>,
}

/// One token of a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// The text that may be shown now: empty while a character is incomplete or a stop string may be forming.
    pub text: String,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// The model produced an end token.
    Eos,
    /// `max_tokens` or the end of the context.
    Length,
    /// A stop string.
    StopText,
    /// [`Generation::interrupt`] or [`GenerateOptions::interrupt`].
    Interrupt,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Eos => "eos",
            Self::Length => "length",
            Self::StopText => "stop_text",
            Self::Interrupt => "interrupt",
        })
    }
}

/// What a generation took.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Stats {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens added.
    pub new_tokens: usize,
    /// Seconds until the first token.
    pub prefill_s: f64,
    /// Seconds from the first token to the last.
    pub decode_s: f64,
    /// Tokens after the first, over `decode_s`.
    pub tokens_per_s: f64,
    /// Submits, prefill included; likewise the next three.
    pub submits: u64,
    /// Compute passes.
    pub passes: u64,
    /// Dispatches.
    pub dispatches: u64,
    /// Readbacks the host waited for.
    pub readbacks: u64,
}

/// A text being continued. Dropping it leaves the session with the tokens that were taken.
pub struct Generation<'s> {
    session: &'s mut Session,
    decoder: Option<StreamDecoder<Arc<Tokenizer>>>,
    stops: StopStrings,
    interrupt: Option<Arc<AtomicBool>>,
    prompt_tokens: usize,
    limit: usize,
    /// Bounds the text's length once everything in flight is done.
    planned: usize,
    arrived: VecDeque<u32>,
    /// The GPU has ended the text; what has arrived is all there is.
    done: Option<Stop>,
    stop: Option<Stop>,
    text: String,
    started: Instant,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    before: Counts,
}

/// Whether somebody wants the text to end.
pub(super) fn is_set(interrupt: Option<&AtomicBool>) -> bool {
    interrupt.is_some_and(|flag| flag.load(Ordering::Relaxed))
}

impl<'s> Generation<'s> {
    pub(super) async fn start(
        session: &'s mut Session,
        prompt: &[u32],
        limit: usize,
        options: &GenerateOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self> {
        let started = Instant::now();
        let before = session.model.gpu.counts();
        let tokenizer = session.model.tokenizer.clone();
        let decoder = tokenizer.map(|tokenizer| StreamDecoder::new(tokenizer, prompt, true)).transpose()?;
        let mut generation = Self {
            session,
            decoder,
            stops: StopStrings::new(&options.stop),
            interrupt: options.interrupt.clone(),
            prompt_tokens: prompt.len(),
            limit,
            planned: prompt.len(),
            arrived: VecDeque::new(),
            done: None,
            stop: None,
            text: String::new(),
            started,
            first_token: None,
            last_token: None,
            before,
        };
        if limit <= prompt.len() {
            generation.session.set_text(prompt);
            generation.stop = Some(Stop::Length);
        } else {
            let interrupt = options.interrupt.as_deref();
            if !generation.session.prefill(prompt, limit, interrupt, progress).await? {
                generation.stop = Some(Stop::Interrupt);
            }
            generation.planned += 1;
        }
        Ok(generation)
    }

    /// The next token, or `None` at the end of the text.
    ///
    /// # Errors
    /// If the device fails. The text so far stays available.
    pub async fn next(&mut self) -> Result<Option<Token>> {
        if is_set(self.interrupt.as_deref()) {
            self.interrupt();
        }
        while self.stop.is_none() {
            if let Some(id) = self.arrived.pop_front() {
                return self.take(id).map(Some);
            }
            if let Some(done) = self.done {
                self.stop = Some(done);
                break;
            }
            self.refill().await?;
        }
        Ok(None)
    }

    /// Ends the text after the tokens taken so far.
    pub fn interrupt(&mut self) {
        self.stop.get_or_insert(Stop::Interrupt);
    }

    /// Why the text ended, once it has.
    pub fn stop(&self) -> Option<Stop> {
        self.stop
    }

    /// The new tokens, an end token included.
    pub fn ids(&self) -> &[u32] {
        &self.session.tokens[self.prompt_tokens..]
    }

    /// The new text: without special tokens, and ending before a stop string.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What it took so far.
    pub fn stats(&self) -> Stats {
        let now = self.session.model.gpu.counts();
        let first = self.first_token.unwrap_or(self.started);
        let decode_s = self.last_token.map_or(0.0, |last| last.duration_since(first).as_secs_f64());
        let new_tokens = self.ids().len();
        Stats {
            prompt_tokens: self.prompt_tokens,
            new_tokens,
            prefill_s: first.duration_since(self.started).as_secs_f64(),
            decode_s,
            tokens_per_s: if decode_s > 0.0 { (new_tokens - 1) as f64 / decode_s } else { 0.0 },
            submits: now.submits - self.before.submits,
            passes: now.passes - self.before.passes,
            dispatches: now.dispatches - self.before.dispatches,
            readbacks: now.readbacks - self.before.readbacks,
        }
    }

    /// Keeps submits in flight and waits for the oldest.
    async fn refill(&mut self) -> Result<()> {
        while self.session.waiting() < IN_FLIGHT && self.planned < self.limit {
            let steps = self.session.step_pacing.units(1, MAX_STEPS).min(self.limit - self.planned);
            self.session.submit_steps(steps, self.planned);
            self.planned += steps;
        }
        let emitted = self.session.receive().await?;
        if self.first_token.is_none() {
            // The prompt's submit says nothing of how long a step takes.
            self.session.step_pacing.restart();
        } else {
            self.session.step_pacing.ended(emitted.ids.len());
        }
        self.arrived.extend(&emitted.ids);
        self.done = match emitted.done {
            DONE_END_TOKEN => Some(Stop::Eos),
            DONE_LIMIT => Some(Stop::Length),
            _ => None,
        };
        Ok(())
    }

    fn take(&mut self, id: u32) -> Result<Token> {
        let now = Instant::now();
        self.first_token.get_or_insert(now);
        self.last_token = Some(now);
        self.session.push(id);
        let mut text = String::new();
        let mut stopped = false;
        if let Some(decoder) = &mut self.decoder {
            (text, stopped) = self.stops.push(&decoder.push(id)?);
            if !stopped && self.stops.any() {
                // A stop string ends the text when its last byte is there, though the decoder may still hold it.
                let (rest, completed) = self.stops.peek(&decoder.pending()?);
                text += &rest;
                stopped = completed;
            }
        }
        if stopped {
            self.stop = Some(Stop::StopText);
        } else if self.arrived.is_empty() && self.done.is_some() {
            self.stop = self.done;
            text += &self.rest()?;
        }
        self.text += &text;
        Ok(Token { id, text })
    }

    /// Text that was held back, at the end.
    fn rest(&mut self) -> Result<String> {
        let pending = match self.decoder.take() {
            Some(decoder) => decoder.finish()?,
            None => String::new(),
        };
        let (shown, _) = self.stops.push(&pending);
        Ok(shown + &self.stops.finish())
    }
}
