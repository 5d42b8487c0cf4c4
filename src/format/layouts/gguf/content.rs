//! What a model becomes as a GGUF file, whatever layout it lies in: metadata, and where each tensor comes from.

use super::{Parts, describe, names, tokenizer, understood, vocabulary};
use crate::error::{Error, Result};
use crate::format::checkpoint::Checkpoint;
use crate::format::files::Files;
use crate::format::gguf::write::Head;
use crate::format::layouts::hugging_face::TokenizerFiles;
use crate::format::safetensors::{SkippedTensor, TensorInfo};
use crate::format::spec::{BlockRole, Role};

/// The metadata and the tensors of a file to be written.
pub(in crate::format) struct Content {
    /// The metadata.
    pub head: Head,
    /// The tensors, in order.
    pub tensors: Vec<Tensor>,
    /// What a user should know.
    pub notes: Vec<String>,
    /// Whether the embedding is the LM head.
    pub tied: bool,
    /// Blocks of the backbone.
    pub blocks: usize,
}

/// A tensor of the file.
pub(in crate::format) struct Tensor {
    /// The name in the file.
    pub name: String,
    /// Its sizes, outermost first.
    pub shape: Vec<usize>,
    /// Where it comes from.
    pub from: Origin,
}

/// Where a tensor comes from.
pub(in crate::format) enum Origin {
    /// A tensor of the model's, written as it is unless its type is to change.
    File(TensorInfo),
    /// A tensor of a type that is not computed with: bytes to be copied.
    Bytes(SkippedTensor),
    /// A tensor of another layout's.
    Other {
        /// Where it lies.
        info: TensorInfo,
        /// The rows of a head, if the halves of each are to lie in turn.
        interleave: Option<usize>,
        /// A number that is added to each.
        plus: f32,
    },
    /// Numbers.
    Numbers(Vec<f32>),
}

/// Reads what the files of a model say.
///
/// # Errors
/// Where a file cannot say it, with what to do.
pub(in crate::format) async fn read<F: Files>(files: &F) -> Result<Content> {
    if super::is_there(files) { of_file(files).await } else { of_folder(files).await }
}

/// A GGUF file's own, but for what says that it is in parts.
async fn of_file<F: Files>(files: &F) -> Result<Content> {
    let Parts { first, tensors, .. } = Parts::read(files).await?;
    if !tokenizer::is_in(&first) {
        let message = format!("{}: it holds no tokenizer, and a file without one can be given no text", first.file());
        return Err(Error::unsupported(format!("{message}: take one that does")).within(files.describe()));
    }
    let (config, _) = understood(files, &first, tensors.clone())?;
    let mut head = Head::like(&first);
    let parts = first.keys().filter(|key| key.starts_with("split.")).chain(["general.alignment"]);
    parts.for_each(|key| head.remove(key));
    let mut found: Vec<(String, u64, Tensor)> = Vec::new();
    for (name, info) in tensors.tensors {
        let place = (info.file.clone(), info.range.start);
        found.push((place.0, place.1, Tensor { name, shape: info.shape.clone(), from: Origin::File(info) }));
    }
    for (name, skipped) in tensors.skipped {
        if skipped.range.is_empty() {
            let message = format!("tensor \"{name}\" is of {}, whose bytes are not known here", skipped.dtype);
            return Err(Error::unsupported(format!("{}: {message}", skipped.file)).within(files.describe()));
        }
        let place = (skipped.file.clone(), skipped.range.start);
        found.push((place.0, place.1, Tensor { name, shape: skipped.shape.clone(), from: Origin::Bytes(skipped) }));
    }
    found.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    let tensors = found.into_iter().map(|(.., tensor)| tensor).collect();
    Ok(Content { head, tensors, notes: Vec::new(), tied: config.spec.tied, blocks: config.spec.blocks.len() })
}

/// What a folder's configuration, tokenizer and tensors become.
async fn of_folder<F: Files>(files: &F) -> Result<Content> {
    let checkpoint = Checkpoint::open(files).await?;
    checkpoint.check()?;
    let config = checkpoint.config();
    let mut head = Head::default();
    let place = |error: Error| error.within(files.describe());
    let architecture = describe::describe(config, &mut head).map_err(place)?;
    let mut notes = vocabulary::describe(&TokenizerFiles::read(files).await?, config, &mut head).map_err(place)?;
    notes.extend(checkpoint.notes().iter().cloned());
    let mut tensors = Vec::new();
    for (role, shape) in config.spec.tensors() {
        let name = names::of_role(role);
        let name = name.ok_or_else(|| place(Error::unsupported(format!("GGUF files have no tensor for {role:?}"))))?;
        let info = checkpoint.tensor_of(role).filter(|info| info.shape == shape);
        let info = info.cloned().ok_or_else(|| {
            place(Error::unsupported(format!("tensor \"{}\" is not stored apart", config.name_of(role))))
        })?;
        let turns = architecture.interleaved && matches!(role, Role::Block(_, BlockRole::Query | BlockRole::Key, _));
        let interleave = turns.then_some(config.head_dim);
        let is_norm = name.ends_with("_norm.weight");
        let plus = if is_norm && architecture.takes_scales_whole() { config.spec.final_norm.offset() } else { 0.0 };
        tensors.push(Tensor { name, shape, from: Origin::Other { info, interleave, plus } });
    }
    let rope = &config.spec.last_attention().rope;
    if let Some(divisors) = describe::rope_divisors(rope) {
        if !architecture.interleaved {
            let message = format!("a GGUF file of a {} cannot say that its rope is stretched", config.model_type);
            return Err(place(Error::unsupported(message)));
        }
        let shape = vec![divisors.len()];
        tensors.push(Tensor { name: names::ROPE.to_owned(), shape, from: Origin::Numbers(divisors) });
    }
    let left_out = checkpoint.multi_token_heads();
    if !left_out.is_empty() {
        notes.push("the multi-token heads beside the model are not in the file: it is the backbone alone".to_owned());
    }
    let mut trial = head.clone();
    for tensor in &tensors {
        trial.add(&tensor.name, "F32", &tensor.shape, 4 * tensor.shape.iter().product::<usize>() as u64);
    }
    let data = trial.data_bytes();
    let checked = describe::check(config, trial.bytes(), data).await;
    let gguf = checked.map_err(|error| place(error.within("as a GGUF file")))?;
    vocabulary::check(&gguf, &checkpoint.tokenizer().await?).map_err(place)?;
    Ok(Content { head, tensors, notes, tied: config.spec.tied, blocks: config.spec.blocks.len() })
}
