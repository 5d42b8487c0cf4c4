//! Where drafts come from, and what becomes of the cache.

use super::random::gumbel;

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

/// Candidates from a head: the `count` likeliest tokens after penalty and temperature, with the noise of `position`, and how
/// far each lies above the next one. `scores` are those of [`super::sample::scores`].
pub(crate) fn likeliest(scores: &[f64], greedy: bool, seed: [u32; 2], position: u32, count: usize) -> Vec<(u32, f64)> {
    let noise = |id: u32| if greedy { 0.0 } else { gumbel(seed, position, id) };
    let mut noisy: Vec<(u32, f64)> = (0..).zip(scores).map(|(id, score)| (id, score + noise(id))).collect();
    noisy.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    (0..count).map(|at| (noisy[at].0, noisy.get(at + 1).map_or(f64::INFINITY, |next| noisy[at].1 - next.1))).collect()
}

/// The slots `first + path[i]` of a cache move to `first + i`; everything else stays.
pub(crate) fn compact(cache: &mut [Vec<f32>], first: usize, path: &[usize]) {
    for (at, row) in path.iter().enumerate() {
        cache[first + at] = cache[first + row].clone();
    }
}
