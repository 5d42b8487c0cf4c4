//! Low-rank changes of the backbone: merged into its matrices as they are read, or kept apart for the rows that want them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::upload::{Arrangement, Matrix, Tensor, padded};
use super::weights::Loader;
use crate::format::config::ModelConfig;
use crate::format::files::Files;
use crate::format::layouts::tensor_name;
use crate::format::mtp::{HeadSet, Lora, LoraPart};
use crate::format::spec::Part;
use crate::format::stored::StoredType;
use crate::gpu::{Buffer, Gpu};
use crate::kernels::NO_ADAPTER;
use crate::{Error, Result};

/// `scale * B A`, to be added to a matrix.
pub(super) struct Change {
    /// `[rank, inputs]`
    a: Vec<f32>,
    /// `[outputs, rank]`
    b: Vec<f32>,
    rank: usize,
    scale: f64,
}

/// A low-rank change of a layer's queries, keys and values that acts on some rows only.
#[derive(Clone)]
pub(crate) struct Adapter {
    /// `A` of each changed product, one after the other.
    pub a: Matrix,
    /// `scale * B`, `[rank, columns]`.
    pub b: Buffer,
    /// The place where the values of each block of four columns begin in a row of `A x`, or [`NO_ADAPTER`].
    pub starts: Buffer,
    pub rank: u32,
}

impl Adapter {
    /// Values of a row of `A x`, padded to a multiple of four.
    pub fn width(&self) -> u32 {
        self.a.shards.iter().map(|shard| 4 * shard.columns4).sum()
    }
}

/// Reads the changes of a gated LoRA for the products `names` of a layer, which `columns` joins to one matrix.
pub(super) async fn adapter<F: Files>(
    gpu: &Gpu,
    loader: &mut Loader<'_, '_, F>,
    lora: &Lora,
    names: &[String],
    columns: &Arrangement,
) -> Result<Option<Adapter>> {
    let part = |name: &String| lora.parts.iter().find(|part| part.linear == *name);
    let parts: Vec<Option<&LoraPart>> = names.iter().map(part).collect();
    let present: Vec<&LoraPart> = parts.iter().copied().flatten().collect();
    if present.is_empty() {
        return Ok(None);
    }
    let mut factors = Vec::with_capacity(present.len());
    for part in &present {
        factors.push(loader.tensor(&part.b).await?.to_f32());
    }
    // The n-th product with a change has the n-th stretch of A x.
    let nth = |tensor: usize| parts[tensor].map(|_| parts[..tensor].iter().flatten().count());
    let width = columns.columns.len();
    let mut packed = vec![0.0; lora.rank * width];
    let mut starts = vec![NO_ADAPTER; width / 4];
    for (column, place) in columns.columns.iter().enumerate() {
        let Some((n, row)) = place.and_then(|(tensor, row)| Some((nth(tensor)?, row))) else { continue };
        starts[column / 4] = (n * lora.rank) as u32;
        for r in 0..lora.rank {
            packed[r * width + column] = (lora.scale() * f64::from(factors[n][row * lora.rank + r])) as f32;
        }
    }
    let b = gpu.storage_with("lora b", &packed);
    let of = |tensor: usize, row| Some((nth(tensor)?, row));
    let places = columns.columns.iter().map(|place| place.and_then(|(tensor, row)| of(tensor, row))).collect();
    let inputs = (0..lora.rank).map(Some).collect();
    let shapes = present.iter().map(|part| (part.b.clone(), vec![part.outputs, lora.rank])).collect();
    loader.note_origin(&b, shapes, Arrangement { columns: places, inputs });
    let rows = present.iter().enumerate().flat_map(|(n, _)| (0..lora.rank).map(move |row| Some((n, row))));
    let arrangement = Arrangement { columns: padded(rows), inputs: columns.inputs.clone() };
    let names: Vec<&str> = present.iter().map(|part| part.a.as_str()).collect();
    // Few weights, and the only ones that a change of the backbone has.
    let quantize = loader.quantize.take();
    let a = loader.matrix(&names, &arrangement, 4).await?;
    loader.quantize = quantize;
    Ok(Some(Adapter { a, b, starts: gpu.storage_with("lora starts", &starts), rank: lora.rank as u32 }))
}

/// The changes that heads make to their backbone.
#[derive(Default)]
pub(super) struct Changes {
    /// Changes by the name of the weight that they are added to.
    added: BTreeMap<String, Change>,
    /// Tensors of a head whose layers take the place of the backbone's last ones, by the names of these.
    replaced: BTreeMap<String, Tensor<'static>>,
}

impl Changes {
    /// Reads those that heads bring for every row; the gated ones are no change of the base model.
    pub async fn read<F: Files>(set: &HeadSet<'_, F>, config: &ModelConfig) -> Result<Self> {
        let mut changes = Self::default();
        for head in set.heads.iter().filter(|head| head.target) {
            let first = config.num_hidden_layers - head.layers.len();
            for (index, layer) in head.layers.iter().enumerate() {
                let place = config.layer_name(first + index);
                for (name, _) in config.layer_tensors(layer) {
                    let info = set.tensors.get(&name).expect("HeadSet has checked its tensors");
                    let bytes = set.tensors.read(info).await?.into_owned();
                    let tensor = Tensor::new(info, Cow::Owned(bytes))?;
                    changes.replaced.insert(name.replacen(layer, &place, 1), tensor);
                }
            }
        }
        let Some(lora) = set.lora.as_ref().filter(|lora| !lora.gated) else { return Ok(changes) };
        for part in &lora.parts {
            let [a, b] = [values(set, &part.a).await?, values(set, &part.b).await?];
            let change = Change { a, b, rank: lora.rank, scale: lora.scale() };
            changes.added.insert(tensor_name(&part.linear, Part::Weight), change);
        }
        Ok(changes)
    }

    /// The change of the weight `name`.
    pub fn of(&self, name: &str) -> Option<&Change> {
        self.added.get(name)
    }

    /// The tensor that stands in place of the tensor `name`.
    pub fn instead_of(&self, name: &str) -> Option<&Tensor<'static>> {
        self.replaced.get(name)
    }

    /// Everything that stands in place of something else, by its name.
    pub fn replaced(&self) -> impl Iterator<Item = (&String, &Tensor<'static>)> {
        self.replaced.iter()
    }
}

async fn values<F: Files>(set: &HeadSet<'_, F>, name: &str) -> Result<Vec<f32>> {
    let info = set.tensors.get(name).expect("HeadSet has checked its tensors");
    let bytes = set.tensors.read(info).await?;
    Ok(Tensor::new(info, bytes)?.to_f32())
}

impl Change {
    /// The changed matrix, in f32 whatever it was stored in; the sums are f64.
    ///
    /// # Errors
    /// Where an element of the matrix, which is called `name`, becomes too large for f32.
    pub fn apply<'a>(&self, name: &str, tensor: &Tensor<'_>) -> Result<Tensor<'a>> {
        let mut matrix = tensor.to_f32();
        let inputs = tensor.row_len;
        for (row, out) in matrix.chunks_exact_mut(inputs).enumerate() {
            let mut sums = vec![0.0; inputs];
            for (r, a) in self.a.chunks_exact(inputs).enumerate() {
                let b = f64::from(self.b[row * self.rank + r]);
                sums.iter_mut().zip(a).for_each(|(sum, &a)| *sum += b * f64::from(a));
            }
            for (out, sum) in out.iter_mut().zip(sums) {
                let value = f64::from(*out) + self.scale * sum;
                *out = value as f32;
                if !out.is_finite() {
                    return Err(Error::format(format!(
                        "tensor \"{name}\" with the LoRA that the multi-token heads bring: row {row} gets {value:e}, which f32 \
                         cannot hold"
                    )));
                }
            }
        }
        let bytes = matrix.iter().flat_map(|value| value.to_le_bytes()).collect();
        let (rows, bytes) = (tensor.rows, Some(Cow::Owned(bytes)));
        Ok(Tensor { name: name.to_owned(), dtype: StoredType::F32, rows, row_len: inputs, bytes })
    }
}
