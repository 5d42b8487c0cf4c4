//! Text of a growing list of token ids, piece by piece.
//!
//! The pieces together are what decoding all ids at once gives; no piece ends inside a character.

use std::borrow::Borrow;
use std::collections::HashSet;

use super::tokenizer::Tokenizer;
use crate::error::Result;

/// Ids kept before the newest, so that decoders which treat a text's start differently never see a start. Eight tokens
/// also hold the at most four bytes of a character.
const CONTEXT: usize = 8;

/// Beyond this many ids the window is cut back to [`CONTEXT`].
const MAX_WINDOW: usize = 4 * CONTEXT;

/// Turns token ids into text as they come.
///
/// `T` is how the tokenizer is held: `&Tokenizer`, `Arc<Tokenizer>` or the like.
#[derive(Debug)]
pub struct StreamDecoder<T> {
    tokenizer: T,
    skip_special: bool,
    /// Special tokens that are not left out.
    kept: HashSet<u32>,
    /// The last ids that decoding takes into account.
    window: Vec<u32>,
    /// The part of the window's text that was given out or belongs to the prompt.
    shown: String,
}

impl<T: Borrow<Tokenizer>> StreamDecoder<T> {
    /// A decoder for what follows `prompt_ids` (may be empty); the prompt's own text is not repeated. Special tokens are
    /// left out if `skip_special`.
    ///
    /// If the prompt ends inside a character, the first piece holds the whole character.
    pub fn new(tokenizer: T, prompt_ids: &[u32], skip_special: bool) -> Result<Self> {
        Self::keeping(tokenizer, prompt_ids, skip_special, HashSet::new())
    }

    /// Begins to decode after `prompt_ids`, with the special tokens `kept` as text.
    pub(crate) fn keeping(tokenizer: T, prompt_ids: &[u32], skip_special: bool, kept: HashSet<u32>) -> Result<Self> {
        let mut decoder = Self { tokenizer, skip_special, kept, window: Vec::new(), shown: String::new() };
        decoder.window = decoder.prompt_window(prompt_ids);
        let text = decoder.window_text()?;
        decoder.shown = settled(&text).to_owned();
        Ok(decoder)
    }

    /// Adds a token and gives out the text that no later token can change: often the token's own, nothing inside a
    /// character, more when a character is complete.
    ///
    /// Where a tokenizer falls back to bytes (sentencepiece's `<0x0A>`), a run of byte tokens is given out when it ends,
    /// because one bad byte spoils all of it; [`pending`](Self::pending) shows it earlier. The cost of a call does not
    /// grow with the text.
    pub fn push(&mut self, id: u32) -> Result<String> {
        let tokenizer = self.tokenizer.borrow();
        if !self.is_visible(id) {
            return Ok(String::new());
        }
        let in_byte_run = tokenizer.is_byte(id);
        self.window.push(id);
        if in_byte_run {
            return Ok(String::new());
        }
        let text = self.window_text()?;
        let end = settled(&text).len();
        let piece = text[..end].get(self.shown_len(&text)..).unwrap_or_default().to_owned();
        self.shown.clear();
        self.shown.push_str(&text[..end]);
        self.trim(&text[end..])?;
        Ok(piece)
    }

    /// The text that [`push`](Self::push) still holds back, as it would be if no token followed: to look for a stop string
    /// right when it is complete.
    pub fn pending(&self) -> Result<String> {
        let text = self.window_text()?;
        Ok(text[self.shown_len(&text)..].to_owned())
    }

    /// Gives out what is still held back, such as the bytes of a character that never became complete (as U+FFFD).
    pub fn finish(self) -> Result<String> {
        self.pending()
    }

    fn window_text(&self) -> Result<String> {
        self.decode(&self.window)
    }

    fn decode(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer.borrow().decode_but(ids, |id| self.is_left_out(id))
    }

    fn is_left_out(&self, id: u32) -> bool {
        self.skip_special && self.tokenizer.borrow().is_special(id) && !self.kept.contains(&id)
    }

    /// Whether decoding takes the id into account.
    fn is_visible(&self, id: u32) -> bool {
        !self.is_left_out(id) && self.tokenizer.borrow().has(id)
    }

    /// The text of a special token that is kept; `None` for every other token.
    pub(crate) fn kept_text(&self, id: u32) -> Result<Option<String>> {
        let kept = self.kept.contains(&id);
        kept.then(|| self.tokenizer.borrow().decode(&[id], false)).transpose()
    }

    /// Bytes of `text` that were shown already. Shown text stays as it is, except where the prompt ended inside a character
    /// or a run of bytes that later tokens change: there the common start counts.
    fn shown_len(&self, text: &str) -> usize {
        let common = |(a, b): &(char, char)| a == b;
        text.chars().zip(self.shown.chars()).take_while(common).map(|(c, _)| c.len_utf8()).sum()
    }

    /// The end of the prompt that decoding what follows depends on: a few ids, and never only a part of a run of bytes.
    fn prompt_window(&self, prompt_ids: &[u32]) -> Vec<u32> {
        let visible = prompt_ids.iter().copied().rev().filter(|&id| self.is_visible(id));
        let mut others = 0;
        let mut window: Vec<u32> = visible
            .take_while(|&id| {
                let wanted = others < CONTEXT;
                others += usize::from(!self.tokenizer.borrow().is_byte(id));
                wanted
            })
            .collect();
        window.reverse();
        window
    }

    /// Cuts a long window back, if its end then still reads `pending`.
    fn trim(&mut self, pending: &str) -> Result<()> {
        if self.window.len() <= MAX_WINDOW {
            return Ok(());
        }
        let context = self.window.split_off(self.window.len() - CONTEXT);
        let text = self.decode(&context)?;
        match text.strip_suffix(pending) {
            Some(shown) => {
                self.shown = shown.to_owned();
                self.window = context;
            }
            None => self.window.extend(context),
        }
        Ok(())
    }
}

/// The part of `text` that later tokens cannot change: all but a last U+FFFD, which may be the start of a character.
fn settled(text: &str) -> &str {
    text.strip_suffix('\u{FFFD}').unwrap_or(text)
}
