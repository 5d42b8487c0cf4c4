//! The flags that say how tokens are drafted.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use foretoken::{DraftOptions, DraftTree, Drafter, Error, Result};

/// Where drafts come from: a drafter's name, or a folder with heads.
#[derive(Clone, Debug)]
enum DraftFlag {
    Drafter(Drafter),
    Folder(PathBuf),
}

impl FromStr for DraftFlag {
    type Err = foretoken::Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "auto" => Self::Drafter(Drafter::Auto),
            "off" => Self::Drafter(Drafter::Off),
            "heads" => Self::Drafter(Drafter::Heads),
            "marginal" => Self::Drafter(Drafter::Marginal),
            "lookup" => Self::Drafter(Drafter::Lookup),
            folder if Path::new(folder).is_dir() => Self::Folder(PathBuf::from(folder)),
            other => {
                return Err(Error::input(format!(
                    "'{other}': expected auto, off, heads, marginal, lookup, or a folder with multi-token heads"
                )));
            }
        })
    }
}

#[derive(clap::Args)]
pub struct DraftFlags {
    /// Where drafts come from: auto, off, heads, marginal, lookup, or a folder with multi-token heads
    ///
    /// Drafts never change the text of the model that is loaded; heads may bring a LoRA, which makes it another model. auto
    /// takes the model's heads, else lookup, also where heads do not draft as many tokens as asked for; it drafts as many
    /// tokens as pay on this device, and none where none do.
    #[arg(long, value_name = "DRAFTER", default_value = "auto")]
    draft: DraftFlag,
    /// Draft this many tokens a round, instead of as many as pay
    #[arg(long, value_name = "TOKENS", conflicts_with = "draft_tree")]
    draft_len: Option<usize>,
    /// Draft a tree: children of each node by depth, such as 4,2,1; at most 31 nodes
    #[arg(long, value_name = "COUNTS")]
    draft_tree: Option<DraftTree>,
}

impl DraftFlags {
    /// The options that the library is asked for.
    ///
    /// # Errors
    /// For a chain that is too long, and for drafts of a shape where there are to be none.
    pub fn options(&self, trace: bool) -> Result<DraftOptions> {
        let fixed = match (self.draft_len, &self.draft_tree) {
            (Some(_), _) => Some("--draft-len"),
            (None, tree) => tree.as_ref().map(|_| "--draft-tree"),
        };
        if let (DraftFlag::Drafter(Drafter::Off), Some(flag)) = (&self.draft, fixed) {
            let message = format!("--draft off drafts nothing, so {flag} cannot be used with it");
            return Err(Error::input(message));
        }
        let drafter = match &self.draft {
            DraftFlag::Drafter(drafter) => drafter.clone(),
            DraftFlag::Folder(_) => Drafter::Heads,
        };
        let chain = self.draft_len.map(DraftTree::chain).transpose()?;
        Ok(DraftOptions::default().drafter(drafter).tree(self.draft_tree.clone().or(chain)).trace(trace))
    }

    /// Whether the checkpoint's own heads must be sound.
    pub fn wants_own_heads(&self) -> bool {
        matches!(self.heads(), HeadsWanted::Own)
    }

    /// Which heads the model is loaded with.
    pub fn heads(&self) -> HeadsWanted<'_> {
        match &self.draft {
            DraftFlag::Folder(folder) => HeadsWanted::Folder(folder),
            DraftFlag::Drafter(Drafter::Off) => HeadsWanted::IfSound,
            DraftFlag::Drafter(_) => HeadsWanted::Own,
        }
    }
}

/// The multi-token heads that a command loads its model with.
#[derive(Clone, Copy, Debug)]
pub enum HeadsWanted<'a> {
    /// The heads that the checkpoint brings.
    Own,
    /// No heads, whatever the checkpoint brings.
    Without,
    /// The heads that the checkpoint brings, but a model with broken heads loads without them. LoRA that heads bring
    /// belongs to the model, so heads are loaded even where nobody drafts.
    IfSound,
    /// Heads in a folder of their own.
    Folder(&'a Path),
}
