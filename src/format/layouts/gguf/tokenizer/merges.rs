//! Merges that a vocabulary with scores implies, as transformers derives them.

use std::borrow::Cow;
use std::collections::HashMap;

use super::{push_text, separate};

/// Longer than any token: all ways to cut one in two are tried.
const MAX_TOKEN: usize = 1024;

/// Two tokens that make a third.
struct Merge {
    /// That of the third.
    score: f64,
    /// Characters of the two.
    lengths: [usize; 2],
    ids: [u32; 2],
}

/// Items of JSON: every way to make a token of two others, higher scores first.
///
/// Of equal scores the longer left part comes first, then the longer right part, then the earlier token.
pub(super) fn derive(tokens: &[Cow<'_, str>], scores: &[f64]) -> Result<Vec<u8>, String> {
    let ids: HashMap<&str, u32> = tokens.iter().enumerate().map(|(id, token)| (token.as_ref(), id as u32)).collect();
    let mut merges = Vec::new();
    for (token, &score) in tokens.iter().zip(scores) {
        if token.len() > MAX_TOKEN {
            return Err(format!("expected tokens of at most {MAX_TOKEN} bytes, got one of {}", token.len()));
        }
        let length = token.chars().count();
        for (before, (at, _)) in token.char_indices().enumerate().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(&left), Some(&right)) = (ids.get(left), ids.get(right)) {
                merges.push(Merge { score, lengths: [before, length - before], ids: [left, right] });
            }
        }
    }
    // In a stable order.
    merges.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| b.lengths.cmp(&a.lengths)));
    let (mut out, mut first) = (Vec::new(), true);
    for Merge { ids: [left, right], .. } in merges {
        separate(&mut out, &mut first);
        out.push(b'[');
        push_text(&mut out, &tokens[left as usize]);
        out.push(b',');
        push_text(&mut out, &tokens[right as usize]);
        out.push(b']');
    }
    Ok(out)
}
