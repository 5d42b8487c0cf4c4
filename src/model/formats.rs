//! The formats that the matrices of a model have on the GPU, known from headers before anything is loaded.

use std::collections::BTreeSet;

use crate::format::checkpoint::Checkpoint;
use crate::format::files::Files;
use crate::format::mtp::HeadSet;
use crate::format::safetensors::TensorInfo;
use crate::kernels::WeightFormat;
use crate::kernels::weights::Shape;
use crate::{Error, Result};

/// The tensors of a backbone that is complete.
pub(super) fn of_backbone<'a, F: Files>(checkpoint: &'a Checkpoint<'_, F>) -> impl Iterator<Item = &'a TensorInfo> {
    let expected = checkpoint.config().expected_tensors();
    expected.into_iter().filter_map(|(name, _)| checkpoint.tensor(&name))
}

/// The tensors of heads whose matrices are packed: those of a LoRA stay what they are.
fn of_heads<'a, F: Files>(
    checkpoint: &Checkpoint<'_, impl Files>,
    set: &'a HeadSet<'_, F>,
) -> impl Iterator<Item = &'a TensorInfo> {
    let in_lora =
        |name: &str| set.lora.iter().flat_map(|lora| &lora.parts).any(|part| part.a == name || part.b == name);
    set.infos(checkpoint.config()).into_iter().filter(move |info| !in_lora(&info.name))
}

/// Rows and inputs, if it is a matrix.
fn matrix(info: &TensorInfo) -> Option<(usize, usize)> {
    match info.shape[..] {
        [rows, inputs] => Some((rows, inputs)),
        _ => None,
    }
}

/// Bytes of a tensor on the GPU, its matrix packed in `quantize`.
fn bytes(info: &TensorInfo, quantize: Option<WeightFormat>) -> u64 {
    match (quantize, matrix(info)) {
        (Some(format), Some((rows, inputs))) => {
            format.bytes(Shape { inputs: format.padded(inputs), columns: rows.next_multiple_of(4) })
        }
        _ => info.byte_len(),
    }
}

/// Bytes of the backbone's weights on the GPU.
pub(super) fn backbone_bytes<F: Files>(checkpoint: &Checkpoint<'_, F>, quantize: Option<WeightFormat>) -> u64 {
    of_backbone(checkpoint).map(|info| bytes(info, quantize)).sum()
}

/// Bytes of the weights of heads on the GPU.
pub(super) fn heads_bytes<H: Files>(
    checkpoint: &Checkpoint<'_, impl Files>,
    set: &HeadSet<'_, H>,
    quantize: Option<WeightFormat>,
) -> u64 {
    let packed: BTreeSet<&str> = of_heads(checkpoint, set).map(|info| &info.name[..]).collect();
    let format = |info: &TensorInfo| quantize.filter(|_| packed.contains(&info.name[..]));
    set.infos(checkpoint.config()).into_iter().map(|info| bytes(info, format(info))).sum()
}

/// Checks that every matrix can be packed in `quantize`.
///
/// # Errors
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for the first that cannot, by name, shape and what was expected.
pub(super) fn check<'a>(tensors: impl Iterator<Item = &'a TensorInfo>, quantize: Option<WeightFormat>) -> Result<()> {
    let Some(format) = quantize else { return Ok(()) };
    let block = format.block_inputs();
    for info in tensors {
        if matrix(info).is_some_and(|(_, inputs)| !inputs.is_multiple_of(block)) {
            let TensorInfo { name, file, shape, .. } = info;
            return Err(Error::unsupported(format!(
                "{file}: tensor \"{name}\" cannot be packed in {format}: expected rows of a multiple of {block} weights, got \
                 shape {shape:?}; load this model without quantizing it"
            )));
        }
    }
    Ok(())
}

/// Checks from headers alone that the matrices of a backbone, and of the heads that are loaded with it, can be packed in
/// `quantize`. Loading does so too.
///
/// # Errors
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for the first that cannot, by name, shape and what was expected.
pub fn check_packing<H: Files>(
    checkpoint: &Checkpoint<'_, impl Files>,
    set: Option<&HeadSet<'_, H>>,
    quantize: Option<WeightFormat>,
) -> Result<()> {
    check(of_backbone(checkpoint), quantize)?;
    set.map_or(Ok(()), |set| check(of_heads(checkpoint, set), quantize))
}

/// Every format that a matrix of the model has, and perhaps one more: matrices that are joined or changed come in f32 where
/// they are not packed.
pub(super) fn in_use<H: Files>(
    checkpoint: &Checkpoint<'_, impl Files>,
    set: Option<&HeadSet<'_, H>>,
    quantize: Option<WeightFormat>,
) -> BTreeSet<WeightFormat> {
    let format = |info: &TensorInfo| quantize.unwrap_or(WeightFormat::of(info.dtype));
    let matrices = |info: &&TensorInfo| matrix(info).is_some();
    let mut formats: BTreeSet<_> = of_backbone(checkpoint).filter(matrices).map(format).collect();
    if let Some(set) = set {
        formats.extend(of_heads(checkpoint, set).filter(matrices).map(format));
        let all = set.infos(checkpoint.config());
        let factors = set.lora.iter().flat_map(|lora| &lora.parts);
        let factors = factors.filter_map(|part| all.iter().find(|info| info.name == part.a));
        match &set.lora {
            Some(lora) if lora.gated => formats.extend(factors.map(|info| WeightFormat::of(info.dtype))),
            Some(_) if quantize.is_none() => formats.extend([WeightFormat::F32]),
            _ => {}
        }
    }
    if formats.len() > 1 && quantize.is_none() {
        formats.insert(WeightFormat::F32);
    }
    formats
}
