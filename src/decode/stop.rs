//! Stop strings in streamed text.

use std::ops::Range;

/// Holds text back while it may be the beginning of a stop string.
///
/// Special tokens are no part of a text that is shown, but of what is compared with stop strings: they are held as hidden text.
pub(super) struct StopStrings {
    stops: Vec<String>,
    held: String,
    /// The parts of `held` that are not shown, in order.
    hidden: Vec<Range<usize>>,
}

impl StopStrings {
    pub fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        Self { stops, held: String::new(), hidden: Vec::new() }
    }

    /// Adds `piece`. Gives what may be shown, and whether a stop string was completed; the text ends before it.
    pub fn push(&mut self, piece: &str) -> (String, bool) {
        self.push_hiding(piece, 0)
    }

    /// [`push`](Self::push) of a piece whose last `hidden` bytes are a special token's.
    pub fn push_hiding(&mut self, piece: &str, hidden: usize) -> (String, bool) {
        self.held.push_str(piece);
        if hidden > 0 {
            self.hidden.push(self.held.len() - hidden..self.held.len());
        }
        if let Some(at) = self.found(&self.held) {
            self.held.truncate(at);
            return (self.finish(), true);
        }
        let keep = self.held.len() - self.beginning_of_a_stop();
        (self.take(keep), false)
    }

    /// Whether there are stop strings at all.
    pub fn any(&self) -> bool {
        !self.stops.is_empty()
    }

    /// [`push`](Self::push) of text that may still change, taken in only where it completes a stop string.
    pub fn peek(&mut self, pending: &str) -> (String, bool) {
        match self.found(&format!("{}{pending}", self.held)) {
            Some(_) => self.push(pending),
            None => (String::new(), false),
        }
    }

    /// Takes the text that is still held back, at the end of the text.
    pub fn finish(&mut self) -> String {
        self.take(self.held.len())
    }

    /// Takes the first bytes that are held, and gives those of them that are shown.
    fn take(&mut self, bytes: usize) -> String {
        let rest = self.held.split_off(bytes);
        let taken = std::mem::replace(&mut self.held, rest);
        let (mut shown, mut at) = (String::new(), 0);
        for hidden in self.hidden.iter().filter(|hidden| hidden.start < bytes) {
            shown += &taken[at..hidden.start];
            at = hidden.end.min(bytes);
        }
        shown += &taken[at..];
        let left = self.hidden.iter().filter(|hidden| hidden.end > bytes);
        self.hidden = left.map(|hidden| hidden.start.saturating_sub(bytes)..hidden.end - bytes).collect();
        // Tokens cut off at a stop string are not shown any more.
        self.hidden.retain(|hidden| hidden.end <= self.held.len());
        shown
    }

    fn found(&self, text: &str) -> Option<usize> {
        self.stops.iter().filter_map(|stop| text.find(stop.as_str())).min()
    }

    /// Length of the longest end of the held text that begins a stop string.
    fn beginning_of_a_stop(&self) -> usize {
        let starts = self.held.char_indices().map(|(at, _)| &self.held[at..]);
        let begins = |end: &&str| self.stops.iter().any(|stop| stop.starts_with(*end));
        starts.filter(begins).map(str::len).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(stops: &[&str], pieces: &[&str], expected: &str, stopped: bool) {
        let stops: Vec<_> = stops.iter().map(|s| (*s).to_owned()).collect();
        let mut filter = StopStrings::new(&stops);
        let mut shown = String::new();
        for piece in pieces {
            let (text, stop) = filter.push(piece);
            shown += &text;
            if stop {
                assert!(stopped, "stopped in {pieces:?}");
                assert_eq!(shown, expected);
                return;
            }
        }
        shown += &filter.finish();
        assert!(!stopped, "did not stop in {pieces:?}");
        assert_eq!(shown, expected);
    }

    #[test]
    fn special_tokens_are_compared_and_not_shown() {
        let run = |stops: &[&str], pieces: &[(&str, usize)]| {
            let stops: Vec<_> = stops.iter().map(|stop| (*stop).to_owned()).collect();
            let mut filter = StopStrings::new(&stops);
            let mut shown = String::new();
            for (piece, hidden) in pieces {
                let (text, stop) = filter.push_hiding(piece, *hidden);
                shown += &text;
                if stop {
                    return (shown, true);
                }
            }
            (shown + &filter.finish(), false)
        };
        let ends = |shown: &str| (shown.to_owned(), true);
        assert_eq!(run(&["<|e|>"], &[("a", 0), ("<|e|>", 5), ("b", 0)]), ends("a"));
        assert_eq!(run(&["<|e|>"], &[("a<|e|>", 5)]), ends("a"));
        assert_eq!(run(&["x<|e|>\ny"], &[("a", 0), ("x", 0), ("<|e|>", 5), ("\ny", 0)]), ends("a"));
        assert_eq!(run(&["x<|e|>\ny"], &[("x", 0), ("<|e|>", 5), ("\nz", 0)]), ("x\nz".to_owned(), false));
        assert_eq!(run(&["|>z"], &[("<|e|>", 5), ("y", 0), ("<|e|>", 5), ("z", 0)]), ends("y"));
        assert_eq!(run(&["zz"], &[("z", 0), ("<|e|>", 5), ("z", 0)]), ("zz".to_owned(), false));
    }

    #[test]
    fn text_ends_before_the_first_stop_string() {
        check(&["END"], &["a E", "N", "D b"], "a ", true);
        check(&["END"], &["a E", "N", "X b"], "a ENX b", false);
        check(&["b", "a b"], &["x a", " b"], "x ", true);
        check(&["üx"], &["ü", "ü", "x"], "ü", true);
        check(&["aab"], &["a", "a", "a", "b"], "a", true);
        check(&[], &["a", "b"], "ab", false);
        check(&[""], &["a"], "a", false);
        check(&["zz"], &["a z"], "a z", false);
    }
}
