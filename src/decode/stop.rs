//! Stop strings in streamed text.

/// Holds text back while it may be the beginning of a stop string.
pub(super) struct StopStrings {
    stops: Vec<String>,
    held: String,
}

impl StopStrings {
    pub fn new(stops: &[String]) -> Self {
        Self { stops: stops.iter().filter(|stop| !stop.is_empty()).cloned().collect(), held: String::new() }
    }

    /// Adds `piece`. Gives what may be shown, and whether a stop string was completed; the text ends before it.
    pub fn push(&mut self, piece: &str) -> (String, bool) {
        self.held.push_str(piece);
        if let Some(at) = self.found(&self.held) {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let keep = self.held.len() - self.beginning_of_a_stop();
        let rest = self.held.split_off(keep);
        (std::mem::replace(&mut self.held, rest), false)
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
        std::mem::take(&mut self.held)
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
