//! Packing weight matrices for the kernels, and sending them to the GPU a few megabytes at a time.
//!
//! On the GPU a matrix is `[inputs / 4, columns, 4]` with columns in blocks of four: neighbouring threads then read
//! neighbouring memory and no thread needs another's sum. Checkpoints keep `[columns, inputs]`, so packing transposes;
//! it also joins matrices that share an input, reorders their columns, and pads with zeros.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::format::blocks::{Blocks, Plane};
use crate::format::safetensors::TensorInfo;
use crate::format::stored::StoredType;
use crate::gpu::{Buffer, Gpu};
use crate::kernels::WeightFormat;
use crate::kernels::weights::{Shape, TOGETHER};
use crate::{Error, ErrorKind, Result};

/// Bytes packed at a time.
const CHUNK_BYTES: usize = 4 << 20;

/// Bytes written before the queue is flushed, which bounds the driver's staging memory.
const FLUSH_BYTES: u64 = 32 << 20;

/// A tensor of a checkpoint with its bytes, row-major `[rows, row_len]`.
#[derive(Clone)]
pub(super) struct Tensor<'a> {
    pub name: String,
    pub dtype: StoredType,
    pub rows: usize,
    pub row_len: usize,
    /// `None` for a dry device: nobody reads them.
    pub bytes: Option<Cow<'a, [u8]>>,
}

impl<'a> Tensor<'a> {
    /// Checks that every element is finite.
    pub fn new(info: &TensorInfo, bytes: Cow<'a, [u8]>) -> Result<Self> {
        info.check_finite(&bytes)?;
        let (rows, row_len) = rows_of(info, bytes.len());
        Ok(Self { name: info.name.clone(), dtype: info.dtype, rows, row_len, bytes: Some(bytes) })
    }

    /// A tensor as a dry device needs to know it.
    pub fn dry(info: &TensorInfo) -> Self {
        let (rows, row_len) = rows_of(info, info.byte_len() as usize);
        Self { name: info.name.clone(), dtype: info.dtype, rows, row_len, bytes: None }
    }

    /// `[rows, row_len]`
    pub fn shape(&self) -> Vec<usize> {
        vec![self.rows, self.row_len]
    }

    /// The elements as f32; zeros of a dry tensor.
    pub fn to_f32(&self) -> Vec<f32> {
        let bytes = self.bytes.as_deref();
        bytes.map_or_else(|| vec![0.0; self.rows * self.row_len], |bytes| self.dtype.decode(bytes))
    }

    /// The elements of a row as f32.
    fn row(&self, row: usize) -> Vec<f32> {
        let bytes = self.dtype.bytes_of(self.row_len);
        self.dtype.decode(&self.content()[row * bytes..][..bytes])
    }

    fn content(&self) -> &[u8] {
        self.bytes.as_deref().expect("a dry device takes no content")
    }

    /// The same elements as f32.
    pub fn widened(self) -> Self {
        if self.dtype == StoredType::F32 {
            return self;
        }
        let bytes = self.bytes.is_some().then(|| Cow::Owned(StoredType::F32.encode(&self.to_f32())));
        Self { dtype: StoredType::F32, bytes, ..self }
    }
}

/// How many rows a tensor, or a part of one, of so many bytes has, and their length.
fn rows_of(info: &TensorInfo, bytes: usize) -> (usize, usize) {
    let row_len = info.shape.last().copied().unwrap_or(1);
    (info.dtype.count_in(bytes as u64) as usize / row_len, row_len)
}

/// The origin of each column and input of a packed matrix; `None` is padding.
#[derive(Clone)]
pub(crate) struct Arrangement {
    /// Tensor and row of each column; a multiple of four long.
    pub columns: Vec<Option<(usize, usize)>>,
    /// Element of the row for each input; a multiple of four long.
    pub inputs: Vec<Option<usize>>,
}

impl Arrangement {
    /// All rows of the only tensor, with `inputs` inputs.
    pub fn plain(columns: usize, inputs: usize) -> Self {
        Self { columns: padded((0..columns).map(|row| Some((0, row)))), inputs: padded((0..inputs).map(Some)) }
    }
}

/// A buffer and where its values come from: how trained values find back into tensors.
#[derive(Clone)]
pub(crate) struct Placed {
    pub buffer: Buffer,
    /// Name and shape of each tensor.
    pub tensors: Vec<(String, Vec<usize>)>,
    pub arrangement: Arrangement,
    /// Inputs of a column that lie side by side.
    pub together: usize,
}

impl Placed {
    /// Values in the buffer, padding included.
    pub fn count(&self) -> usize {
        self.arrangement.columns.len() * self.arrangement.inputs.len()
    }

    /// Puts the buffer's `values` where they belong in the tensors of that name; row-major, made where they are missing.
    pub fn unpack(&self, values: &[f32], tensors: &mut BTreeMap<String, (Vec<usize>, Vec<f32>)>) {
        let (Arrangement { columns, inputs }, together) = (&self.arrangement, self.together);
        for (index, (name, shape)) in self.tensors.iter().enumerate() {
            let (_, tensor) =
                tensors.entry(name.clone()).or_insert_with(|| (shape.clone(), vec![0.0; shape.iter().product()]));
            let row_len: usize = shape[1..].iter().product();
            for (n, column) in columns.iter().enumerate() {
                let Some((_, row)) = column.filter(|&(of, _)| of == index) else { continue };
                for (k, input) in inputs.iter().enumerate() {
                    if let Some(input) = *input {
                        let at = (k / together * columns.len() + n) * together + k % together;
                        tensor[row * row_len + input] = values[at];
                    }
                }
            }
        }
    }
}

/// Fills up to a multiple of four.
pub(super) fn padded<T>(items: impl Iterator<Item = Option<T>>) -> Vec<Option<T>> {
    let mut items: Vec<_> = items.collect();
    let length = items.len().next_multiple_of(4);
    items.resize_with(length, || None);
    items
}

/// A part of a matrix that fits one binding, in one format.
#[derive(Clone)]
pub(crate) struct Shard {
    pub format: WeightFormat,
    pub buffer: Buffer,
    /// The first block of four columns, and how many.
    pub first4: u32,
    pub columns4: u32,
}

/// A matrix on the GPU, split by columns where it exceeds a binding or joins matrices of several formats.
#[derive(Clone)]
pub(crate) struct Matrix {
    pub inputs4: u32,
    pub shards: Vec<Shard>,
}

impl Matrix {
    /// Blocks of four columns of all shards.
    pub fn columns4(&self) -> u32 {
        self.shards.iter().map(|shard| shard.columns4).sum()
    }

    /// Weights, padding included.
    pub fn weights(&self) -> u64 {
        16 * u64::from(self.columns4()) * u64::from(self.inputs4)
    }

    /// Bytes on the GPU.
    pub fn bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.format.bytes(self.shape(shard))).sum()
    }

    /// Inputs and columns of a shard.
    fn shape(&self, shard: &Shard) -> Shape {
        Shape { inputs: 4 * self.inputs4 as usize, columns: 4 * shard.columns4 as usize }
    }
}

/// Sends matrices and vectors to the GPU and keeps count.
pub(super) struct Uploader<'a> {
    gpu: &'a Gpu,
    unflushed: u64,
    chunk_bytes: usize,
}

impl<'a> Uploader<'a> {
    pub fn new(gpu: &'a Gpu) -> Self {
        Self { gpu, unflushed: 0, chunk_bytes: CHUNK_BYTES }
    }

    /// Packs and sends a matrix, in `quantize` or as it is stored. `block` columns (4, or 8 when gated) stay in one shard.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`] if even one block of columns exceeds a binding, or the GPU runs out of memory;
    /// [`ErrorKind::Unsupported`] where the format cannot hold it.
    pub async fn matrix(
        &mut self,
        name: &str,
        mut tensors: Vec<Tensor<'_>>,
        arrangement: &Arrangement,
        block: usize,
        quantize: Option<WeightFormat>,
    ) -> Result<Matrix> {
        let formats: Vec<_> = tensors.iter().map(|tensor| quantize.unwrap_or(WeightFormat::of(tensor.dtype))).collect();
        let mut parts = parts(arrangement, &formats);
        if parts.iter().any(|(_, columns)| !columns.is_multiple_of(block)) {
            tensors = tensors.into_iter().map(Tensor::widened).collect();
            parts = vec![(WeightFormat::F32, arrangement.columns.len())];
        }
        let mut matrix = Matrix { inputs4: (arrangement.inputs.len() / 4) as u32, shards: Vec::new() };
        for (format, columns) in parts {
            self.reserve_part(name, &mut matrix, format, columns, block, usize::MAX)?;
        }
        self.fill(&matrix, 0, &tensors, arrangement).await?;
        Ok(matrix)
    }

    /// The buffers of a matrix of one format, of zeros; at most `most` columns in a shard.
    ///
    /// # Errors
    /// Those of [`Uploader::matrix`].
    pub fn reserve(
        &self,
        name: &str,
        format: WeightFormat,
        arrangement: &Arrangement,
        block: usize,
        most: usize,
    ) -> Result<Matrix> {
        let mut matrix = Matrix { inputs4: (arrangement.inputs.len() / 4) as u32, shards: Vec::new() };
        self.reserve_part(name, &mut matrix, format, arrangement.columns.len(), block, most)?;
        Ok(matrix)
    }

    /// Adds the buffers of `columns` columns to a matrix.
    fn reserve_part(
        &self,
        name: &str,
        matrix: &mut Matrix,
        format: WeightFormat,
        columns: usize,
        block: usize,
        most: usize,
    ) -> Result<()> {
        let inputs = 4 * matrix.inputs4 as usize;
        if !inputs.is_multiple_of(format.block_inputs()) {
            let expected = format.block_inputs();
            let message =
                format!("{name}: {inputs} inputs cannot be packed in {format}: expected a multiple of {expected}");
            return Err(Error::unsupported(message));
        }
        let limit = self.gpu.summary().max_binding_bytes;
        let fit = format.columns_within(inputs, limit).min(most) / block * block;
        if fit == 0 {
            let bytes = format.bytes(Shape { inputs, columns: block });
            let message = format!("{name}: {block} columns take {bytes} bytes, the adapter binds at most {limit}");
            return Err(Error::new(ErrorKind::OutOfMemory, message));
        }
        let begin = matrix.columns4();
        matrix.shards.extend((0..columns).step_by(fit).map(|first| {
            let columns = fit.min(columns - first);
            let buffer = self.gpu.storage(name, format.bytes(Shape { inputs, columns }));
            Shard { format, buffer, first4: begin + (first / 4) as u32, columns4: (columns / 4) as u32 }
        }));
        self.gpu.check()
    }

    /// Whether nothing is sent, because the device is dry.
    pub fn is_dry(&self) -> bool {
        self.gpu.is_dry()
    }

    /// Packs and sends the columns of a matrix from `first` on, in `arrangement` of their own tensors.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for a weight that is too large for the format; those of a device in trouble.
    pub async fn fill(
        &mut self,
        matrix: &Matrix,
        first: usize,
        tensors: &[Tensor<'_>],
        arrangement: &Arrangement,
    ) -> Result<()> {
        if self.is_dry() {
            return Ok(());
        }
        let Arrangement { columns, inputs } = arrangement;
        for shard in &matrix.shards {
            let (begin, length) = (shard.first4 as usize * 4, shard.columns4 as usize * 4);
            let (from, to) = (begin.max(first), (begin + length).min(first + columns.len()));
            if from < to {
                let columns = &columns[from - first..to - first];
                self.fill_shard(matrix, shard, from - begin, tensors, columns, inputs).await?;
            }
        }
        Ok(())
    }

    /// Packs and sends columns of a shard from `first` on, some inputs at a time: each time a small matrix of its own, whose planes
    /// are parts of the shard's.
    async fn fill_shard(
        &mut self,
        matrix: &Matrix,
        shard: &Shard,
        first: usize,
        tensors: &[Tensor<'_>],
        columns: &[Option<(usize, usize)>],
        inputs: &[Option<usize>],
    ) -> Result<()> {
        let (format, whole) = (shard.format, matrix.shape(shard));
        let block = format.padded(1);
        let bytes_of = |inputs| format.bytes(Shape { inputs, columns: columns.len() }) as usize;
        let step = (self.chunk_bytes / bytes_of(block) * block).clamp(block, inputs.len());
        let mut packed = vec![0; bytes_of(step)];
        for begin in (0..inputs.len()).step_by(step) {
            let inputs = &inputs[begin..inputs.len().min(begin + step)];
            packed.fill(0);
            pack(format, &mut packed, tensors, columns, inputs)?;
            let part = Shape { inputs: inputs.len(), columns: columns.len() };
            for ((plane, from), (_, to)) in format.planes(part).zip(format.planes(whole)) {
                let Plane { inputs: shared, bytes } = plane;
                let (row_bytes, stride) = (part.columns * bytes, whole.columns * bytes);
                let rows = part.inputs / shared;
                // All columns of some inputs lie side by side, and so do the inputs.
                let together = if row_bytes == stride { rows * row_bytes } else { row_bytes };
                for (row, pieces) in packed[from as usize..][..rows * row_bytes].chunks(together).enumerate() {
                    let at = to + ((begin / shared + row) * stride + first * bytes) as u64;
                    self.gpu.write(&shard.buffer, at, pieces);
                }
            }
            self.written(bytes_of(part.inputs) as u64).await?;
        }
        Ok(())
    }

    /// Sends a vector as f32, padded with zeros to a multiple of four.
    pub async fn vector(&mut self, name: &str, values: &[f32]) -> Result<Buffer> {
        let mut values = values.to_vec();
        values.resize(values.len().next_multiple_of(4), 0.0);
        let buffer = self.gpu.storage_with(name, &values);
        self.written(values.len() as u64 * 4).await?;
        Ok(buffer)
    }

    /// Counts what was written, and waits where much is on its way.
    async fn written(&mut self, bytes: u64) -> Result<()> {
        self.unflushed += bytes;
        if self.unflushed >= FLUSH_BYTES {
            self.gpu.flush_writes().await?;
            self.unflushed = 0;
        }
        Ok(())
    }
}

/// Formats of neighbouring columns, and how many there are of each; padding belongs to the columns before it.
fn parts(arrangement: &Arrangement, formats: &[WeightFormat]) -> Vec<(WeightFormat, usize)> {
    let mut parts: Vec<(WeightFormat, usize)> = Vec::new();
    for column in &arrangement.columns {
        let format = column.map(|(tensor, _)| formats[tensor]);
        match parts.last_mut() {
            Some((last, columns)) if format.is_none_or(|format| format == *last) => *columns += 1,
            _ => parts.push((format.unwrap_or(formats[0]), 1)),
        }
    }
    parts
}

/// Packs `inputs` of `columns`, a whole number of blocks of the format.
fn pack(
    format: WeightFormat,
    packed: &mut [u8],
    tensors: &[Tensor<'_>],
    columns: &[Option<(usize, usize)>],
    inputs: &[Option<usize>],
) -> Result<()> {
    match (format.blocks(), format.element_bytes()) {
        (Some(blocks), _) => return pack_blocks(format, blocks, packed, tensors, columns, inputs),
        // Elements that stay what they are need not become numbers.
        (None, 2) => transpose::<2>(packed, tensors, columns, inputs),
        (None, _) => transpose::<4>(packed, tensors, columns, inputs),
    }
    Ok(())
}

/// Packs column by column: the blocks of the file, or, where it has others or elements, blocks of the numbers that are stored.
fn pack_blocks(
    format: WeightFormat,
    blocks: &Blocks,
    packed: &mut [u8],
    tensors: &[Tensor<'_>],
    columns: &[Option<(usize, usize)>],
    inputs: &[Option<usize>],
) -> Result<()> {
    let shape = Shape { inputs: inputs.len(), columns: columns.len() };
    for (n, column) in columns.iter().enumerate() {
        let Some((tensor, at)) = *column else { continue };
        let tensor = &tensors[tensor];
        if WeightFormat::of(tensor.dtype) == format {
            let first = in_order(inputs).ok_or_else(|| {
                let name = &tensor.name;
                Error::unsupported(format!(
                    "tensor \"{name}\" ({format}): its blocks hold inputs that have to be moved apart, as heads of a size that is \
                     no multiple of 4 have to be; convert the model to f16"
                ))
            })?;
            let row = &tensor.content()[tensor.dtype.bytes_of(at * tensor.row_len + first)..];
            format.place(blocks, &row[..tensor.dtype.bytes_of(inputs.len())], n, shape, packed);
            continue;
        }
        let row = tensor.row(at);
        let values: Vec<f32> = inputs.iter().map(|input| input.map_or(0.0, |input| row[input])).collect();
        if let Some(value) = values.iter().find(|value| value.abs() > blocks.largest) {
            let (name, largest) = (&tensor.name, blocks.largest);
            return Err(Error::unsupported(format!(
                "tensor \"{name}\" cannot be packed in {format}: row {at} has {value:e}, the largest is {largest:e}; load this model \
                 without quantizing it"
            )));
        }
        format.place(blocks, &blocks.encoded(&values), n, shape, packed);
    }
    Ok(())
}

/// The first of inputs that follow one another.
fn in_order(inputs: &[Option<usize>]) -> Option<usize> {
    let first = (*inputs.first()?)?;
    inputs.iter().zip(first..).all(|(input, expected)| *input == Some(expected)).then_some(first)
}

/// Transposes elements of `SIZE` bytes into `packed`, `[inputs / 4, columns, 4]`.
fn transpose<const SIZE: usize>(
    packed: &mut [u8],
    tensors: &[Tensor<'_>],
    columns: &[Option<(usize, usize)>],
    inputs: &[Option<usize>],
) {
    let pieces = packed.as_chunks_mut::<SIZE>().0.as_chunks_mut::<TOGETHER>().0;
    for (n, column) in columns.iter().enumerate() {
        let Some((tensor, row)) = *column else { continue };
        let tensor = &tensors[tensor];
        let row = &tensor.content().as_chunks::<SIZE>().0[row * tensor.row_len..][..tensor.row_len];
        for (index, inputs) in inputs.chunks(TOGETHER).enumerate() {
            for (to, input) in pieces[index * columns.len() + n].iter_mut().zip(inputs) {
                if let Some(input) = *input {
                    *to = row[input];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::adapters::on_every_adapter;
    use std::ops::Range;

    const ROWS: usize = 30;

    /// Formats, what a file stores, and the length of its rows.
    const KINDS: [(StoredType, StoredType, usize); 10] = [
        (StoredType::F32, StoredType::F32, 5),
        (StoredType::F16, StoredType::F16, 5),
        (StoredType::BF16, StoredType::BF16, 8),
        (StoredType::Q8_0, StoredType::F32, 96),
        (StoredType::Q8_0, StoredType::F16, 32),
        (StoredType::Q8_0, StoredType::Q8_0, 64),
        (StoredType::Q5_1, StoredType::Q8_0, 32),
        (StoredType::Iq4Xs, StoredType::Iq4Xs, 256),
        (StoredType::Q6K, StoredType::Q6K, 512),
        (StoredType::Q5K, StoredType::F32, 256),
    ];

    #[test]
    fn matrices_come_whole_or_in_parts() {
        // Parts that end within shards, and shards that end within parts; few inputs at a time and many.
        let divisions =
            [(ROWS, usize::MAX, CHUNK_BYTES), (4, usize::MAX, 1), (8, 12, CHUNK_BYTES), (12, 8, 1), (ROWS, 8, 700)];
        on_every_adapter(|gpu| {
            for ((format, dtype, row_len), (part, most, chunk_bytes)) in
                KINDS.into_iter().flat_map(|kind| divisions.map(|at| (kind, at)))
            {
                let format = WeightFormat::of(format);
                let stays = format.blocks().is_some() && format == WeightFormat::of(dtype);
                let mut uploader = Uploader { chunk_bytes, ..Uploader::new(gpu) };
                let plain = Arrangement::plain(ROWS, row_len);
                let matrix = uploader.reserve("places", format, &plain, 4, most).expect("it fits");
                let places = |rows: Range<usize>| -> Vec<f32> {
                    (rows.start * row_len..rows.end * row_len).map(|place| (place % 509) as f32).collect()
                };
                for first in (0..ROWS).step_by(part) {
                    let rows = first..ROWS.min(first + part);
                    let arrangement = Arrangement::plain(rows.len(), row_len);
                    let (bytes, rows) = (Some(dtype.encode(&places(rows.clone())).into()), rows.len());
                    let tensor = Tensor { name: "places".to_owned(), dtype, rows, row_len, bytes };
                    pollster::block_on(uploader.fill(&matrix, first, &[tensor], &arrangement))
                        .expect("every place can be held");
                }
                pollster::block_on(gpu.flush_writes()).expect("the device works");
                for Shard { buffer, first4, columns4, .. } in &matrix.shards {
                    let rows = 4 * *first4 as usize..ROWS.min(4 * (first4 + columns4) as usize);
                    let stored = dtype.encode(&places(rows));
                    let (want, _) = match stays {
                        true => format.packed_stored(&stored, row_len),
                        false => format.packed(&dtype.decode(&stored), row_len),
                    };
                    let found: Vec<u8> = pollster::block_on(gpu.read(buffer)).expect("the device works");
                    let what =
                        format!("{format} of {dtype}, parts of {part}, at most {most} a shard, {chunk_bytes} bytes");
                    assert_eq!(found, want, "{what}");
                }
            }
        });
    }

    #[test]
    fn joined_matrices_of_several_types_are_packed_alike() {
        let values: Vec<f32> = (0..4 * 32).map(|at| (at as f32 * 0.37).sin()).collect();
        on_every_adapter(|gpu| {
            let tensor = |dtype: StoredType| {
                let bytes = dtype.encode(&values).into();
                Tensor { name: dtype.to_string(), dtype, rows: 4, row_len: 32, bytes: Some(bytes) }
            };
            // The rows of the one and of the other in turn.
            let columns = (0..8).map(|column| Some((column % 2, column / 2))).collect();
            let arrangement = Arrangement { columns, inputs: (0..32).map(Some).collect() };
            let tensors = vec![tensor(StoredType::F32), tensor(StoredType::BF16)];
            let found: Vec<u8> = pollster::block_on(async {
                let mut uploader = Uploader::new(gpu);
                let q8_0 = Some(WeightFormat::Q8_0);
                let matrix = uploader.matrix("both", tensors, &arrangement, 4, q8_0).await.expect("it fits");
                gpu.flush_writes().await.expect("the device works");
                gpu.read(&matrix.shards[0].buffer).await.expect("the device works")
            });
            let halves = StoredType::BF16.decode(&StoredType::BF16.encode(&values));
            let rows: Vec<f32> =
                (0..8).flat_map(|row| [&values, &halves][row % 2][row / 2 * 32..][..32].to_vec()).collect();
            assert_eq!(found, WeightFormat::Q8_0.packed(&rows, 32).0);
        });
    }
}
