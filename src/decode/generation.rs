//! The continuation of a text, token by token.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use web_time::Instant;

use super::depth::Depth;
use super::draft::{DraftOptions, DraftTree, Drafter};
use super::round::{Received, Source, Work};
use super::sampling::Sampling;
use super::session::{IN_FLIGHT, Session};
use super::stats::{DraftStats, Round, Stats};
use super::stop::StopStrings;
use crate::format::stream::StreamDecoder;
use crate::format::tokenizer::Tokenizer;
use crate::gpu::Counts;
use crate::kernels::{DONE_END_TOKEN, DONE_LIMIT, DONE_NOT_FINITE, Emitted};
use crate::model::{Body, HeadWeights, Progress};
use crate::options::setters;
use crate::{Error, Result};

/// Options of a generation.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct GenerateOptions {
    /// The most tokens to add to the prompt. `None`: as many as the context holds.
    pub max_tokens: Option<usize>,
    /// The sampling that chooses each token.
    pub sampling: Sampling,
    /// Options of drafting. No draft changes the text.
    pub draft: DraftOptions,
    /// The text ends before the first of these; special tokens count by their names.
    pub stop: Vec<String>,
    /// Once true, the text ends: after the prompt's next chunk while it is read, or after the tokens taken so far.
    pub interrupt: Option<Arc<AtomicBool>>,
}

setters!(GenerateOptions {
    sampling: Sampling, draft: DraftOptions, stop: Vec<String>;
    or none max_tokens: usize, interrupt: Arc<AtomicBool>
});

impl GenerateOptions {
    /// The longest that the text may become, in a context of `context` tokens.
    pub(super) fn limit(&self, prompt_tokens: usize, context: usize) -> usize {
        self.max_tokens.map_or(context, |most| context.min(prompt_tokens.saturating_add(most)))
    }
}

/// One token of a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Token {
    /// The token's id.
    pub id: u32,
    /// Whether it was drafted and found right.
    pub drafted: bool,
    /// The text that may be shown now: empty while a character is incomplete or a stop string may be forming.
    pub text: String,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
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

/// A text being continued: tokens, through [`Generation::next`] or as a [`Stream`].
///
/// It can be sent to another thread. Dropping it leaves the session with the tokens that were taken.
pub struct Generation<'s> {
    session: &'s mut Session,
    decoder: Option<StreamDecoder<Arc<Tokenizer>>>,
    stops: StopStrings,
    interrupt: Option<Arc<AtomicBool>>,
    prompt_tokens: usize,
    limit: usize,
    source: Source,
    depth: Depth,
    /// Chosen, but not yet on its way.
    next_tree: Option<DraftTree>,
    trace: bool,
    drafts: DraftStats,
    rounds: Vec<Round>,
    /// Tokens that came and were not taken yet, and whether they were drafted.
    arrived: VecDeque<(u32, bool)>,
    /// The GPU has ended the text; what has arrived is all there is.
    done: Option<Stop>,
    /// The GPU has ended the text, for want of finite logits.
    overflowed: bool,
    stop: Option<Stop>,
    /// The stream has ended with an error.
    failed: bool,
    text: String,
    started: Instant,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    /// Since when the oldest submit in flight has been waited for.
    waited: Option<Instant>,
    before: Counts,
}

/// The longest chain that is drafted unless the user says otherwise: with the text's last token it makes 8 rows, as many as
/// a product takes at a time.
const DEEPEST: usize = 7;

/// Settles where drafts come from, and why not if they do not.
///
/// # Errors
/// For heads or a depth that the model does not have, and drafts that its layers do not allow.
fn settle(draft: &DraftOptions, session: &Session) -> Result<(Source, Option<String>)> {
    let depth = draft.tree.as_ref().map(DraftTree::depth);
    let source = match &draft.drafter {
        Drafter::Off => Source::None,
        // Where a tree is asked for that goes deeper than the heads, somebody else drafts it.
        Drafter::Auto if session.deepest(Source::Heads) >= depth.unwrap_or(1).max(1) => Source::Heads,
        Drafter::Auto | Drafter::Lookup => Source::Lookup,
        Drafter::Heads if session.deepest(Source::Heads) > 0 => Source::Heads,
        Drafter::Heads if only_next_token(session) => {
            let reason = "these heads predict the next token only, which is the model's own";
            return Ok((Source::None, Some(reason.to_owned())));
        }
        Drafter::Heads => {
            let message =
                "this model has no multi-token heads that draft; draft with lookup, or give a folder of heads";
            return Err(Error::input(message));
        }
        Drafter::Marginal => Source::Marginal,
        Drafter::Recorded(_) => Source::Recorded,
    };
    if source == Source::Marginal {
        session.check_committing("drafting with the marginal")?;
    }
    if source != Source::None && !session.model.width_invariant {
        let reason = "this driver computes a row differently beside other rows, so drafts would change the text";
        return Ok((Source::None, Some(reason.to_owned())));
    }
    match depth {
        Some(depth) if source != Source::None && depth > session.deepest(source) => Err(Error::input(format!(
            "drafts of {depth} tokens: {} can draft at most {} here",
            source.name(),
            session.deepest(source)
        ))),
        Some(0) if source != Source::None => Ok((source, Some("drafts of 0 tokens were asked for".to_owned()))),
        _ => Ok((source, None)),
    }
}

/// Whether the model's heads are its own last block, with a LoRA perhaps, and nothing else.
fn only_next_token(session: &Session) -> bool {
    let own = |heads: &HeadWeights| heads.heads.iter().all(|head| matches!(head.body, Body::LastLayer));
    session.model.heads.as_ref().is_some_and(own)
}

/// Whether somebody wants the text to end.
pub(super) fn is_set(interrupt: Option<&AtomicBool>) -> bool {
    interrupt.is_some_and(|flag| flag.load(Ordering::Relaxed))
}

impl<'s> Generation<'s> {
    /// After a prompt that is to be read.
    pub(super) async fn start(
        session: &'s mut Session,
        prompt: &[u32],
        limit: usize,
        options: &GenerateOptions,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Self> {
        let mut generation = Self::new(session, prompt, limit, options)?;
        if limit <= prompt.len() {
            generation.session.set_text(prompt);
            generation.stop = Some(Stop::Length);
        } else {
            let interrupt = options.interrupt.as_deref();
            if !generation.session.prefill(prompt, limit, interrupt, progress).await? {
                generation.stop = Some(Stop::Interrupt);
            }
        }
        Ok(generation)
    }

    /// Goes on in the middle of a text: all its tokens but the last are cached.
    pub(super) fn resume(
        session: &'s mut Session,
        prompt_tokens: usize,
        limit: usize,
        options: &GenerateOptions,
    ) -> Result<Self> {
        let tokens = session.tokens.clone();
        let (prompt, ids) = tokens.split_at(prompt_tokens);
        let mut generation = Self::new(session, prompt, limit, options)?;
        let mut stopped = false;
        for &id in ids {
            let (text, ends) = generation.text_of(id)?;
            generation.text += &text;
            stopped |= ends;
        }
        let ended = ids.last().is_some_and(|id| generation.session.model.config.eos_token_ids.contains(id));
        generation.stop = match () {
            () if stopped => Some(Stop::StopText),
            () if ended => Some(Stop::Eos),
            () if limit <= tokens.len() => Some(Stop::Length),
            () => None,
        };
        if generation.stop.is_none() {
            generation.session.stage_end(limit);
        } else if !stopped {
            let rest = generation.rest()?;
            generation.text += &rest;
        }
        Ok(generation)
    }

    fn new(session: &'s mut Session, prompt: &[u32], limit: usize, options: &GenerateOptions) -> Result<Self> {
        let started = Instant::now();
        let before = session.model.gpu.counts();
        let tokenizer = session.model.tokenizer.clone();
        let decoder = tokenizer.map(|tokenizer| {
            // Stop strings see the special tokens that they name.
            let kept = tokenizer.special_in(&options.stop);
            StreamDecoder::keeping(tokenizer, prompt, true, kept)
        });
        let decoder = decoder.transpose()?;
        let (source, off_reason) = settle(&options.draft, session)?;
        let drafts = DraftStats { drafter: source.name(), off_reason, ..DraftStats::default() };
        let most = session.deepest(source).min(DEEPEST);
        let fixed = if source == Source::None { Some(DraftTree::default()) } else { options.draft.tree.clone() };
        Ok(Self {
            session,
            decoder,
            stops: StopStrings::new(&options.stop),
            interrupt: options.interrupt.clone(),
            prompt_tokens: prompt.len(),
            limit,
            source,
            depth: Depth::new(fixed, most),
            next_tree: None,
            trace: options.draft.trace,
            drafts,
            rounds: Vec::new(),
            arrived: VecDeque::new(),
            done: None,
            overflowed: false,
            stop: None,
            failed: false,
            text: String::new(),
            started,
            first_token: None,
            last_token: None,
            waited: None,
            before,
        })
    }

    /// The next token, or `None` at the end of the text. Where the future is dropped before it is ready, nothing is lost:
    /// the token comes next time.
    ///
    /// # Errors
    /// If the device fails. The text so far stays available.
    pub async fn next(&mut self) -> Result<Option<Token>> {
        poll_fn(|context| self.poll_token(context)).await
    }

    fn poll_token(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Token>>> {
        if is_set(self.interrupt.as_deref()) {
            self.interrupt();
        }
        while self.stop.is_none() {
            if let Some((id, drafted)) = self.arrived.pop_front() {
                return Poll::Ready(self.take(id, drafted).map(Some));
            }
            if let Some(done) = self.done {
                self.stop = Some(done);
                break;
            }
            if self.overflowed {
                let place = self.session.tokens.len();
                return Poll::Ready(Err(Error::format(format!(
                    "the logits after token {place} are not finite: this model's weights overflow f32, or the driver \
                     computes wrongly (foretoken devices tells)"
                ))));
            }
            ready!(self.poll_refill(context))?;
        }
        Poll::Ready(Ok(None))
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

    /// Statistics of the generation so far.
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
            drafts: DraftStats { off_reason: self.off_reason(), ..self.drafts.clone() },
            submits: now.submits - self.before.submits,
            passes: now.passes - self.before.passes,
            dispatches: now.dispatches - self.before.dispatches,
            readbacks: now.readbacks - self.before.readbacks,
        }
    }

    /// The rounds so far, where [`DraftOptions::trace`] asked for them.
    pub fn rounds(&self) -> &[Round] {
        &self.rounds
    }

    fn off_reason(&self) -> Option<String> {
        self.depth.verdict().map(str::to_owned).or_else(|| self.drafts.off_reason.clone())
    }

    /// Keeps submits in flight and takes up the oldest once it is done.
    fn poll_refill(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        loop {
            if self.session.is_timing() {
                ready!(self.session.poll_timing(context))?;
                self.session.round_pacing.restart();
            }
            self.send()?;
            if !self.session.is_timing() {
                break;
            }
        }
        let waited = *self.waited.get_or_insert_with(Instant::now);
        let received = ready!(self.session.poll_receive(context));
        self.waited = None;
        if let Some(received) = received? {
            self.drafts.sync_s += waited.elapsed().as_secs_f64();
            self.end_submit(received);
        }
        Poll::Ready(Ok(()))
    }

    /// Sends rounds on their way until enough are in flight, or a draft must be measured first.
    fn send(&mut self) -> Result<()> {
        while self.session.waiting() < IN_FLIGHT {
            let known = self.session.tokens.len() + self.arrived.len();
            // Tokens that nothing on its way is expected to bring.
            let coming = self.session.expected_in_flight(|tree| self.depth.expected(tree));
            let left = self.limit as f64 - known as f64 - coming;
            if left < 0.5 {
                break;
            }
            let tree = self.next_tree.take().unwrap_or_else(|| self.depth.next(&self.session.round_pacing));
            let mut waits = self.session.waiting() == 0 && self.drafts.rounds_sent > 0;
            let refills = self.source == Source::Heads && !self.session.heads_current();
            let times = self.session.draft_seconds(self.source, tree.depth()).is_none();
            if tree.depth() > 0 && (refills || times) {
                if self.session.waiting() > 0 {
                    // Where the text stands must be known first.
                    self.next_tree = Some(tree);
                    break;
                }
                if refills {
                    self.session.refill_heads(known, self.limit);
                }
                if times {
                    self.session.time_draft(self.source, &tree, known)?;
                    self.next_tree = Some(tree);
                    break;
                }
                self.session.round_pacing.restart();
                waits = false;
            }
            self.drafts.gaps += u64::from(waits);
            let tokens = self.depth.expected(&tree);
            let enough = (left / tokens).ceil() as usize;
            let most = self.depth.most_rounds().min(self.depth.most_planned(&tree)).min(enough);
            let rounds = self.session.rounds(&tree, most, self.trace);
            let longest = (known + self.session.most_tokens_in_flight()).min(self.limit);
            self.drafts.rounds_sent += rounds as u64;
            self.session.submit_rounds(rounds, tree, self.source, longest, self.trace)?;
        }
        Ok(())
    }

    fn end_submit(&mut self, Received { work, emitted, seconds }: Received) {
        match work {
            // The prompt's submit says nothing of how long a round takes.
            Work::Prompt { .. } => {
                self.session.round_pacing.restart();
                self.arrived.extend(emitted.ids.iter().map(|&id| (id, false)));
            }
            Work::Rounds { tree, .. } => self.end_rounds(&tree, &emitted, seconds),
        }
        self.done = match emitted.done {
            DONE_END_TOKEN => Some(Stop::Eos),
            DONE_LIMIT => Some(Stop::Length),
            _ => None,
        };
        self.overflowed = emitted.done == DONE_NOT_FINITE;
    }

    /// Takes up what the rounds of a submit brought.
    fn end_rounds(&mut self, tree: &DraftTree, emitted: &Emitted, seconds: f64) {
        let mut ids = emitted.ids.iter();
        self.drafts.submits += 1;
        let draft = self.session.draft_seconds(self.source, tree.depth()).unwrap_or(0.0) * emitted.rounds.len() as f64;
        self.drafts.draft_s += draft;
        self.drafts.verify_s += (seconds - draft).max(0.0);
        for (at, &[drafted, accepted]) in emitted.rounds.iter().enumerate() {
            let accepted = accepted as usize;
            self.depth.ended(tree.depth(), drafted > 0, accepted);
            self.drafts.ended(tree.depth(), drafted as usize, accepted);
            // The accepted drafts, and what the target said after them; less where the text ended at a draft.
            self.arrived.extend(ids.by_ref().take(accepted + 1).enumerate().map(|(i, &id)| (id, i < accepted)));
            if self.trace {
                let drafts = (1..tree.rows()).map(|row| emitted.traced(at, row));
                self.rounds.push(Round::new(drafts, accepted));
            }
        }
        if self.source == Source::Heads && tree.depth() > 0 {
            self.session.heads_drafted(self.session.tokens.len() + self.arrived.len());
        }
    }

    fn take(&mut self, id: u32, drafted: bool) -> Result<Token> {
        let now = Instant::now();
        self.first_token.get_or_insert(now);
        self.last_token = Some(now);
        self.session.push(id);
        let (mut text, stopped) = self.text_of(id)?;
        if stopped {
            self.stop = Some(Stop::StopText);
        } else if self.arrived.is_empty() && self.done.is_some() {
            self.stop = self.done;
            text += &self.rest()?;
        }
        self.text += &text;
        Ok(Token { id, drafted, text })
    }

    /// The text that token `id` lets show, and whether it completes a stop string.
    fn text_of(&mut self, id: u32) -> Result<(String, bool)> {
        let mut text = String::new();
        let mut stopped = false;
        if let Some(decoder) = &mut self.decoder {
            let special = decoder.kept_text(id)?;
            let piece = decoder.push(id)?;
            let hidden = special.filter(|special| piece.ends_with(special.as_str())).map_or(0, |special| special.len());
            (text, stopped) = self.stops.push_hiding(&piece, hidden);
            if !stopped && self.stops.any() {
                // A stop string ends the text when its last byte is there, though the decoder may still hold it.
                let (rest, completed) = self.stops.peek(&decoder.pending()?);
                text += &rest;
                stopped = completed;
            }
        }
        Ok((text, stopped))
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

/// The tokens. After an error the stream has ended, though [`Generation::next`] may be asked again.
impl Stream for Generation<'_> {
    type Item = Result<Token>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let generation = self.get_mut();
        if generation.failed {
            return Poll::Ready(None);
        }
        let token = ready!(generation.poll_token(context));
        generation.failed = token.is_err();
        Poll::Ready(token.transpose())
    }
}
