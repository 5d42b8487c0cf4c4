//! Soft labels that are lists: for each row the likeliest tokens of what a head is to predict.

use std::collections::BTreeMap;

use crate::{Error, Result};

/// Tokens of a list.
pub const LABEL_TOKENS: usize = 32;

/// A token and its probability.
pub type Entry = (u32, f32);

/// The labels that heads are to predict in a micro-batch, where they were computed beforehand.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LabelLists {
    /// The lists by offset, for each row of the micro-batch [`LABEL_TOKENS`] entries: what the head of that offset is to
    /// predict there. Lists that are shorter end with a probability of 0; rows without a target have nothing else.
    pub by_offset: BTreeMap<usize, Vec<Entry>>,
}

impl LabelLists {
    /// The lists of `places` for the head of `offset`, each as shares of 1, as the kernels read them: `[most, LABEL_TOKENS, 2]`.
    pub(super) fn words(&self, offset: usize, places: &[usize], most: usize, vocab: u32) -> Result<Vec<u32>> {
        let wrong = |what: String| Error::input(format!("labels for token +{offset}: {what}"));
        let all = self.by_offset.get(&offset).ok_or_else(|| wrong("expected lists, got none".to_owned()))?;
        let mut words = vec![0; 2 * LABEL_TOKENS * most];
        for (&place, words) in places.iter().zip(words.chunks_exact_mut(2 * LABEL_TOKENS)) {
            let list = all.get(place * LABEL_TOKENS..(place + 1) * LABEL_TOKENS);
            let list =
                list.ok_or_else(|| wrong(format!("expected a list for row {place}, got {} entries", all.len())))?;
            let fits = |&(id, p): &Entry| p == 0.0 || (id < vocab && p.is_finite() && p > 0.0);
            if let Some((id, p)) = list.iter().find(|entry| !fits(entry)) {
                return Err(wrong(format!("row {place}: token {id} with probability {p}; the vocabulary has {vocab}")));
            }
            let sum: f64 = list.iter().map(|(_, p)| f64::from(*p)).sum();
            if sum == 0.0 {
                return Err(wrong(format!("row {place} has a target, but its list is empty")));
            }
            for (&(id, p), words) in list.iter().zip(words.chunks_exact_mut(2)) {
                words.copy_from_slice(&[id, ((f64::from(p) / sum) as f32).to_bits()]);
            }
        }
        Ok(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_become_shares_of_one() {
        let mut list = vec![(0, 0.0); 2 * LABEL_TOKENS];
        list[LABEL_TOKENS] = (7, 0.25);
        list[LABEL_TOKENS + 1] = (3, 0.125);
        let mut labels = LabelLists { by_offset: [(2, list)].into() };
        let words = labels.words(2, &[1], 2, 8).unwrap();
        let share = |n: usize| (words[2 * n], f32::from_bits(words[2 * n + 1]));
        assert_eq!((share(0), share(1), share(2)), ((7, 2.0 / 3.0), (3, 1.0 / 3.0), (0, 0.0)));
        assert!(words[2 * LABEL_TOKENS..].iter().all(|&word| word == 0), "rows that are left over");
        let mut refused = |offset, place, vocab, change: Option<Entry>| {
            if let Some(entry) = change {
                labels.by_offset.get_mut(&2).unwrap()[LABEL_TOKENS] = entry;
            }
            labels.words(offset, &[place], 2, vocab).unwrap_err().to_string()
        };
        assert!(refused(3, 1, 8, None).contains("+3: expected lists"));
        assert!(refused(2, 0, 8, None).contains("row 0 has a target"));
        assert!(refused(2, 2, 8, None).contains("list for row 2"));
        assert!(refused(2, 1, 7, None).contains("token 7"));
        assert!(refused(2, 1, 8, Some((7, f32::NAN))).contains("probability NaN"));
        assert!(refused(2, 1, 8, Some((7, -0.5))).contains("probability -0.5"));
    }
}
