//! Drafts: where they come from and the tree that a round verifies.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::kernels::{MAX_BATCH_ROWS, RECORDED_RANKS, Tree};
use crate::options::setters;
use crate::{Error, Result};

/// Where drafts come from. None of them changes the text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Drafter {
    /// Multi-token heads where the model has them and they reach as deep as [`DraftOptions::tree`], else [`Drafter::Lookup`].
    #[default]
    Auto,
    /// No drafts.
    Off,
    /// The model's multi-token heads.
    Heads,
    /// The most probable token of the marginal over what the text's last token may have been. It shows how far heads that do
    /// not see that token can come, and cannot pay: the row of the branch that came true is the next step already.
    Marginal,
    /// Prompt lookup: what followed the text's last tokens where they stood before.
    Lookup,
    /// Drafts known beforehand. For audits: right ones, wrong ones and random ones must all give the same text.
    Recorded(Arc<RecordedDrafts>),
}

/// Up to four candidates for each position of a text, prompt included, the likeliest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordedDrafts(pub Vec<[u32; RECORDED_RANKS]>);

/// Options of drafting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DraftOptions {
    /// Where drafts come from.
    pub drafter: Drafter,
    /// The tree of every round. `None`: chains, as long as pays on this device, or none.
    pub tree: Option<DraftTree>,
    /// Keep what the target thought of every draft, for [`Generation::rounds`](super::Generation::rounds).
    pub trace: bool,
}

setters!(DraftOptions { drafter: Drafter, trace: bool; or none tree: DraftTree });

impl DraftOptions {
    /// No drafts.
    pub fn off() -> Self {
        Self { drafter: Drafter::Off, ..Self::default() }
    }
}

/// The shape of the drafts of a round: how many children each node has, by depth. A chain has one everywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DraftTree {
    children: Vec<usize>,
}

impl DraftTree {
    /// Drafts that a round can hold: the rows of a batch without the text's last token.
    pub const MAX_DRAFTS: usize = MAX_BATCH_ROWS - 1;

    /// `depth` drafts, one after the other; 0 for none.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) for more than [`DraftTree::MAX_DRAFTS`].
    pub fn chain(depth: usize) -> Result<Self> {
        if depth > Self::MAX_DRAFTS {
            return Err(Error::input(format!("{depth} drafts: a round verifies at most {}", Self::MAX_DRAFTS)));
        }
        Ok(Self { children: vec![1; depth] })
    }

    /// A tree whose nodes at depth d have `children[d]` children.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) for a depth without children, or more than
    /// [`DraftTree::MAX_DRAFTS`] nodes.
    pub fn new(children: &[usize]) -> Result<Self> {
        let mut nodes = 0usize;
        let mut level = 1usize;
        for &count in children {
            level = level.saturating_mul(count);
            nodes = nodes.saturating_add(level);
        }
        if children.contains(&0) {
            return Err(Error::input("a draft tree has at least one child a node: 4,2,1 is a tree, 4,0 is not"));
        }
        if nodes > Self::MAX_DRAFTS {
            return Err(Error::input(format!(
                "a draft tree of {nodes} nodes or more: a round verifies at most {} drafts",
                Self::MAX_DRAFTS
            )));
        }
        Ok(Self { children: children.to_vec() })
    }

    /// Tokens from the root to a leaf.
    pub fn depth(&self) -> usize {
        self.children.len()
    }

    /// Rows of a round: the drafts and the text's last token.
    pub fn rows(&self) -> usize {
        self.layout().num_rows as usize
    }

    /// Whether no node has siblings, so that accepted drafts lie together in the cache already.
    pub fn is_chain(&self) -> bool {
        self.children.iter().all(|&count| count == 1)
    }

    /// Children of a node, at most.
    pub fn widest(&self) -> usize {
        self.children.iter().copied().max().unwrap_or(0)
    }

    /// The rows for the GPU.
    pub(crate) fn layout(&self) -> Tree {
        Tree::new(&self.children)
    }
}

impl fmt::Display for DraftTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts: Vec<_> = self.children.iter().map(usize::to_string).collect();
        f.write_str(&counts.join(","))
    }
}

impl FromStr for DraftTree {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let count = |part: &str| part.trim().parse::<usize>().ok();
        let children: Option<Vec<usize>> = text.split(',').map(count).collect();
        match children {
            Some(children) => Self::new(&children),
            None => Err(Error::input(format!("draft tree '{text}': expected children a node by depth, such as 4,2,1"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_lie_level_by_level() {
        let tree: DraftTree = "2,1".parse().expect("a tree");
        let layout = tree.layout();
        assert_eq!((tree.rows(), tree.depth(), tree.widest(), tree.is_chain()), (5, 2, 2, false));
        let expected = [[1, 0, 0, 0], [0b11, 1, 0, 0], [0b101, 1, 1, 0], [0b1011, 2, 0, 0], [0b10101, 2, 0, 0]];
        assert_eq!(layout.nodes[..5], expected);
        assert_eq!((layout.num_rows, layout.depth, layout.ranks), (5, 2, 2));
        assert_eq!(DraftTree::default().rows(), 1);
        assert!(DraftTree::chain(31).is_ok_and(|chain| chain.is_chain() && chain.rows() == 32));
    }

    #[test]
    fn trees_that_do_not_fit_are_refused() {
        for (text, part) in [
            ("4,0", "at least one child"),
            ("4,2,x", "expected children"),
            ("", "expected children"),
            ("32", "32 nodes"),
            ("5,5,5", "155 nodes"),
            ("99999999999,99999999999", "at most 31"),
        ] {
            let message = text.parse::<DraftTree>().expect_err(text).to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
        let message = DraftTree::chain(32).expect_err("one too many").to_string();
        assert!(message.contains("32 drafts: a round verifies at most 31"), "{message}");
        assert!(DraftTree::chain(usize::MAX).is_err());
    }
}
