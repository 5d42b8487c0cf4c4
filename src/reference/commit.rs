//! The end of a step.

/// Where a text stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Text {
    /// Tokens in the cache.
    pub committed: u32,
    /// Tokens of the text: one more has been sampled than has been through the model.
    pub length: u32,
    /// The length at which the text ends.
    pub limit: u32,
    /// 0 while running, 1 after an end token, 2 at the limit.
    pub done: u32,
    /// Ids emitted in this submit.
    pub emitted: u32,
}

/// Appends the sampled `id` after a step of `num_rows` rows, unless the text has ended.
pub(crate) fn commit(text: &mut Text, num_rows: u32, id: u32, end_tokens: &[u32]) {
    if text.done != 0 {
        return;
    }
    text.committed += num_rows;
    text.length += 1;
    text.emitted += 1;
    text.done = match (end_tokens.contains(&id), text.length >= text.limit) {
        (true, _) => 1,
        (false, true) => 2,
        (false, false) => 0,
    };
}
