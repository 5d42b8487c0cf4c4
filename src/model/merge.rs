//! A LoRA that heads bring, merged into a checkpoint's own tensors as they are stored.
//!
//! A merged tensor has the type and shape it had, so it takes the very bytes of the file that the old one took: whoever
//! holds the files copies them and overwrites a few ranges.

use std::ops::Range;

use super::lora::Changes;
use super::upload::Tensor;
use crate::format::checkpoint::Checkpoint;
use crate::format::files::Files;
use crate::format::layouts::tensor_name;
use crate::format::mtp::{HeadSet, HeadSource};
use crate::format::safetensors::TensorInfo;
use crate::format::spec::Part;
use crate::{Error, Result};

/// New bytes for a part of a checkpoint's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    /// The tensor that lies there.
    pub tensor: String,
    /// The file's name.
    pub file: String,
    /// The range in the file.
    pub range: Range<u64>,
    /// The new bytes, as many as the range is long.
    pub bytes: Vec<u8>,
}

/// Hands every tensor of `checkpoint` that the LoRA of `heads` changes to `take`, changed: the sums are f64, rounded to f32 as
/// they are at load, then to what the tensor is stored in.
///
/// # Errors
/// [`ErrorKind::Input`](crate::ErrorKind::Input) where there is nothing that could be merged; what reading the files or `take` gives.
pub async fn merge_lora<F: Files, H: Files>(
    checkpoint: &Checkpoint<'_, F>,
    heads: &HeadSet<'_, H>,
    take: &mut dyn FnMut(Patch) -> Result<()>,
) -> Result<()> {
    let Some(lora) = &heads.lora else {
        return Err(Error::input("these heads bring no LoRA: there is nothing to merge, and the model is what it was"));
    };
    if lora.gated {
        return Err(Error::input(
            "the LoRA of these heads is gated: it acts on drafting rows only, and merged it would change the model's own text",
        ));
    }
    checkpoint.check()?;
    let changes = Changes::read(heads, checkpoint.config()).await?;
    for (name, tensor) in changes.replaced().filter(|_| !target_reads_mix(heads)) {
        let missing = || Error::format(format!("{}: tensor \"{name}\" is missing", checkpoint.describe()));
        let info = checkpoint.tensor(name).ok_or_else(missing)?;
        check_stored(info)?;
        let bytes = info.dtype.encode(&tensor.to_f32());
        info.check_finite(&bytes).map_err(|error| error.within("of the head in the last block's place"))?;
        take(Patch { tensor: name.clone(), file: info.file.clone(), range: info.range.clone(), bytes })?;
    }
    for part in &lora.parts {
        let name = tensor_name(&part.linear, Part::Weight);
        let missing = || Error::format(format!("{}: tensor \"{name}\" is missing", checkpoint.describe()));
        let info = checkpoint.tensor(&name).ok_or_else(missing)?;
        check_stored(info)?;
        let change = changes.of(&name).ok_or_else(missing)?;
        let changed = change.apply(&name, &Tensor::new(info, checkpoint.read(info).await?)?)?;
        let bytes = info.dtype.encode(&changed.to_f32());
        info.check_finite(&bytes).map_err(|error| error.within("with the LoRA merged"))?;
        take(Patch { tensor: name, file: info.file.clone(), range: info.range.clone(), bytes })?;
    }
    Ok(())
}

/// Fails for a tensor that is not in the file as it is read.
fn check_stored(info: &TensorInfo) -> Result<()> {
    let TensorInfo { file, name, dtype, interleaved, .. } = info;
    match interleaved.is_some() || dtype.blocks().is_some() {
        true => Err(Error::unsupported(format!(
            "{file}: tensor \"{name}\" ({dtype}): a LoRA is merged into safetensors files alone; take the model's checkpoint in \
             Hugging Face's layout"
        ))),
        false => Ok(()),
    }
}

/// Whether the head that is the target reads a mix. Such a head stays a head: no other program could mix the streams.
fn target_reads_mix<H: Files>(heads: &HeadSet<'_, H>) -> bool {
    heads.heads.iter().any(|head| head.target && matches!(head.source, HeadSource::Mix { .. }))
}
