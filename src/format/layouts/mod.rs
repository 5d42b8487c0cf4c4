//! The ways in which the files of a model are laid out, one file each. Nothing outside of them names a file of a model.
//!
//! To add one, write `NAME.rs` beside this file with a `Layout`, and let `open` and `tokenizer` tell it from the others.

#[cfg(feature = "gguf")]
pub(super) mod gguf;
pub(super) mod heads;
mod hugging_face;
pub(super) mod names;

#[cfg(feature = "gguf")]
use gguf::GgufFile;
pub(super) use hugging_face::CONFIG;
use hugging_face::HuggingFace;
pub use names::{Place, TensorNames, tensor_name};

use super::checkpoint::HeadKind;
use super::config::ModelConfig;
use super::files::Files;
use super::safetensors::Header;
use super::tensors::Tensors;
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};

/// A way to lay out the files of a model.
trait Layout {
    /// The files that must be there, for messages.
    const EXPECTED: &'static str;

    /// Reads the configuration and the headers of tensors.
    async fn open<'f, F: Files>(files: &'f F) -> Result<Opened<'f, F>>;

    /// Reads and builds the tokenizer.
    async fn tokenizer<F: Files>(files: &F) -> Result<Tokenizer>;
}

/// The files of a model as a layout opens them. With the names in its configuration, every role has its tensor.
pub(super) struct Opened<'f, F: Files> {
    pub config: ModelConfig,
    pub tensors: Tensors<'f, F>,
    /// The file that states the shapes of tensors, for messages.
    pub stated_by: &'static str,
    pub has_tokenizer: bool,
    /// Files of multi-token heads beside the model.
    pub head_files: Vec<(HeadKind, &'static str)>,
    /// What a user should know about them.
    pub notes: Vec<String>,
    /// What is wrong where a buffer is not what follows from the configuration.
    pub contradiction: Option<Error>,
    /// Files beside those of tensors that decide what the model computes.
    pub deciding: Vec<String>,
}

/// What files say of tensors that follow from the configuration.
#[derive(Clone, Debug, Default)]
pub(super) struct Derived {
    /// The name of an LM head that is not the embedding, though the configuration ties them.
    pub other_head: Option<String>,
    /// What is wrong where a buffer is not what follows from the configuration.
    pub contradiction: Option<Error>,
}

/// The files of a folder with a model, for messages.
pub const EXPECTED: &str = HuggingFace::EXPECTED;

/// Opens the files in the layout that they have.
pub(super) async fn open<F: Files>(files: &F) -> Result<Opened<'_, F>> {
    #[cfg(feature = "gguf")]
    if gguf::is_there(files) {
        return GgufFile::open(files).await;
    }
    HuggingFace::open(files).await
}

/// Reads and builds the tokenizer of a model, whatever its architecture.
///
/// # Errors
/// Where there is none, or it is broken or not supported.
pub async fn tokenizer<F: Files>(files: &F) -> Result<Tokenizer> {
    #[cfg(feature = "gguf")]
    if gguf::is_there(files) {
        return GgufFile::tokenizer(files).await;
    }
    HuggingFace::tokenizer(files).await
}

/// The tensors of a folder's checkpoint, in one file or several; `None` without either.
pub(super) async fn find_headers<F: Files>(files: &F) -> Result<Option<Header>> {
    #[cfg(feature = "gguf")]
    if gguf::is_there(files) {
        return Ok(Some(gguf::find_tensors(files).await?.0));
    }
    hugging_face::find_headers(files).await
}

/// The configuration and the files with tensors, as far as they are there.
pub(super) async fn files<F: Files>(files: &F) -> Result<Vec<String>> {
    #[cfg(feature = "gguf")]
    if gguf::is_there(files) {
        return Ok(gguf::find_tensors(files).await?.1);
    }
    hugging_face::files(files).await
}

/// Whether a file of this name may be a model in GGUF.
#[cfg(feature = "gguf")]
pub fn is_gguf(name: &str) -> bool {
    gguf::has_ending(name)
}

/// The files among `names` that the GGUF file `name` is read from: itself, or all parts of it.
#[cfg(feature = "gguf")]
pub fn gguf_files(name: &str, names: impl Iterator<Item = String>) -> std::collections::BTreeSet<String> {
    let whole = gguf::part_of(name);
    let beside = names.filter(|other| other == name || whole.is_some() && gguf::part_of(other) == whole);
    beside.collect()
}
