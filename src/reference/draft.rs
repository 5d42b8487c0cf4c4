//! Where drafts come from, and what becomes of the cache.

/// Prompt lookup: the `rank`-th best place where the last tokens of `text` stood before, and the `depth` tokens after it. A
/// place is better the longer the match is, up to `ngram` tokens, then the later. Past the end of the text the stretch since
/// the match repeats.
pub(crate) fn lookup(text: &[u32], ngram: usize, rank: usize, depth: usize) -> Option<Vec<u32>> {
    let matched =
        |end: usize| (0..ngram.min(end + 1)).take_while(|back| text[end - back] == text[text.len() - 1 - back]).count();
    let mut places: Vec<(usize, usize)> = (0..text.len() - 1).map(|end| (matched(end), end)).collect();
    places.retain(|(matched, _)| *matched > 0);
    places.sort_unstable_by(|a, b| b.cmp(a));
    let (_, end) = *places.get(rank)?;
    let period = text.len() - 1 - end;
    Some((0..depth).map(|at| text[end + 1 + at % period]).collect())
}

/// The slots `first + path[i]` of a cache move to `first + i`; everything else stays.
pub(crate) fn compact(cache: &mut [Vec<f32>], first: usize, path: &[usize]) {
    for (at, row) in path.iter().enumerate() {
        cache[first + at] = cache[first + row].clone();
    }
}
