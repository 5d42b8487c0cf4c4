//! The end of a round.

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
    /// Rounds of this submit.
    pub rounds: u32,
}

/// The outcome of a round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Committed {
    /// The rows that were committed.
    pub path: Vec<u32>,
    /// The tokens that joined the text: those sampled after each row of the path.
    pub ids: Vec<u32>,
}

/// Ends a round over a tree of rows: token and parent of each, the first without. `sampled[i]` is what the target samples
/// after row i. Rows that lie at slot `context` or beyond cannot be taken.
pub(crate) fn commit(
    text: &mut Text,
    tree: &[(u32, Option<usize>)],
    sampled: &[u32],
    context: u32,
    end_tokens: &[u32],
) -> Committed {
    let mut done = Committed::default();
    if text.done != 0 {
        return done;
    }
    let mut row = Some(0);
    while let Some(at) = row {
        let id = sampled[at];
        done.path.push(at as u32);
        done.ids.push(id);
        append(text, id, end_tokens);
        let child =
            |&next: &usize| tree[next] == (id, Some(at)) && text.done == 0 && text.committed + (next as u32) < context;
        row = (0..tree.len()).find(child);
    }
    text.committed += done.path.len() as u32;
    text.rounds += 1;
    done
}

/// Ends the reading of a prompt: its `num_rows` rows are committed and `id` follows it.
pub(crate) fn commit_prompt(text: &mut Text, num_rows: u32, id: u32, end_tokens: &[u32]) -> Committed {
    if text.done != 0 {
        return Committed::default();
    }
    append(text, id, end_tokens);
    text.committed += num_rows;
    text.rounds += 1;
    Committed { path: (0..num_rows).collect(), ids: vec![id] }
}

fn append(text: &mut Text, id: u32, end_tokens: &[u32]) {
    text.length += 1;
    text.emitted += 1;
    text.done = match (end_tokens.contains(&id), text.length >= text.limit) {
        (true, _) => 1,
        (false, true) => 2,
        (false, false) => 0,
    };
}
