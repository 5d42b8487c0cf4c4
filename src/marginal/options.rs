//! Options of marginalization: what to sum over, and how thoroughly.

use crate::analysis::check_mass;
use crate::error::counted;
use crate::options::setters;
use crate::{Error, Result};

/// The distribution that is wanted, and how much of it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct MarginalOptions {
    /// How many places ahead: 1 is the model's own distribution of the next token, 3 the most.
    pub offset: usize,
    /// The sum runs over the fewest most probable tokens that reach this probability, the crossing one included, ties by
    /// id. 1: over every token.
    pub mass: f32,
    /// The most branches, heaviest first. Default: all for offset 2, 4096 for offset 3.
    pub max_branches: Option<usize>,
    /// How many of the likeliest tokens are listed.
    pub top: usize,
}

setters!(MarginalOptions { offset: usize, mass: f32, top: usize; or none max_branches: usize });

impl Default for MarginalOptions {
    fn default() -> Self {
        Self { offset: 2, mass: 0.99, max_branches: None, top: 10 }
    }
}

/// The most branches of a tree, where none are asked for.
const TREE_BRANCHES: usize = 4096;

impl MarginalOptions {
    /// Checks every value.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input), naming the value and its range.
    pub fn validate(&self) -> Result<()> {
        let fail = |message| Err(Error::input(message));
        match self {
            Self { offset, .. } if !(1..=3).contains(offset) => {
                fail(format!("offset {offset}: expected 1, 2 or 3; 1 is the next token, 2 the one after it"))
            }
            Self { max_branches: Some(0), .. } => fail("max-branches 0: expected at least 1".to_owned()),
            Self { top: 0, .. } => fail("top 0: expected at least 1 token to list".to_owned()),
            _ => check_mass(self.mass),
        }
    }

    /// Checks that a context of `context` tokens has room after a text of so many: for the tokens in between.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) if not.
    pub fn check_room(&self, tokens: usize, context: usize) -> Result<()> {
        let needed = tokens + self.offset - 1;
        if needed <= context {
            return Ok(());
        }
        Err(Error::input(format!(
            "offset {} after {} needs a context of {needed}, but it holds {context}; shorten the prompt or choose a longer \
             context",
            self.offset,
            counted(tokens, "token")
        )))
    }

    /// The mass as kernels take it: any smaller one keeps the likeliest token alone, too.
    pub(super) fn kernel_mass(&self) -> f32 {
        self.mass.max(1e-9)
    }

    /// The most branches, of a vocabulary.
    pub(super) fn branches(&self, vocab: usize) -> usize {
        match (self.max_branches, self.offset) {
            (Some(most), _) => most,
            (None, 3) => TREE_BRANCHES,
            (None, _) => vocab,
        }
    }
}
