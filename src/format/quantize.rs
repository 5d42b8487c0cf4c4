//! A model as a GGUF file with its matrices in another type: which tensor gets which, and the bytes, a part at a time.
//!
//! Types are mixed as llama.cpp mixes them. The LM head is finer than the rest, or the embedding that it is; `q4_k` and `q5_k` are
//! finer in some blocks' values and down projections too. Where rows are no whole blocks of a type, another one takes its place.

mod mix;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::thread;

use mix::Mix;
pub use mix::TARGETS;

use super::blocks::{self, Fit};
use super::files::Files;
use super::gguf::write::padding;
use super::layouts::gguf::content::{self, Content, Origin, Tensor};
use super::safetensors::{Header, SkippedTensor, TensorInfo};
use super::stored::StoredType;
use super::tensors::Tensors;
use crate::error::{Error, Result, counted};

/// Weights that are in memory at a time, but for longer rows.
const AT_ONCE: usize = 1 << 20;

/// Bytes that are copied at a time.
const COPIED: u64 = 16 << 20;

/// The version of quantised types that programs ask for.
const VERSION: u32 = 2;

/// What a file's matrices are to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target(&'static mix::TargetType);

impl FromStr for Target {
    type Err = Error;

    /// The name of a type, or of llama.cpp's mix of it: `q4_k`, `Q4_K_M`.
    fn from_str(name: &str) -> Result<Self> {
        let wanted = name.to_ascii_lowercase();
        let found = TARGETS.iter().find(|target| target.name == wanted || target.mix_name == Some(wanted.as_str()));
        if let Some(target) = found {
            return Ok(Self(target));
        }
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        let names = names.join(", ");
        let known = StoredType::ALL.iter().any(|known| known.name().eq_ignore_ascii_case(&wanted));
        let what = if known { "can be read, but not written" } else { "is not known" };
        Err(Error::input(format!("the type '{name}' {what}; there are: {names}")))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name)
    }
}

/// A tensor with the type that it gets; without one its bytes are kept.
struct Item {
    tensor: Tensor,
    to: Option<StoredType>,
}

impl Item {
    fn type_name(&self) -> &str {
        match (self.to, &self.tensor.from) {
            (Some(to), _) => to.name(),
            (None, Origin::File(info) | Origin::Other { info, .. }) => info.dtype.name(),
            (None, Origin::Bytes(skipped)) => &skipped.dtype,
            (None, Origin::Numbers(_)) => StoredType::F32.name(),
        }
    }

    fn bytes(&self) -> u64 {
        let weights = self.weights();
        match (self.to, &self.tensor.from) {
            (Some(to), _) => to.bytes_of(weights as usize) as u64,
            (None, Origin::File(info) | Origin::Other { info, .. }) => info.byte_len(),
            (None, Origin::Bytes(SkippedTensor { range, .. })) => range.end - range.start,
            (None, Origin::Numbers(numbers)) => 4 * numbers.len() as u64,
        }
    }

    fn weights(&self) -> u64 {
        self.tensor.shape.iter().map(|&size| size as u64).product()
    }
}

/// The tensors of one type in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TypeCount {
    /// How many there are.
    pub tensors: usize,
    /// Their numbers.
    pub weights: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A file to be written, known up to its weights.
pub struct Quantization<'f, F: Files> {
    tensors: Tensors<'f, F>,
    items: Vec<Item>,
    header: Vec<u8>,
    data_bytes: u64,
    notes: Vec<String>,
}

impl<'f, F: Files> Quantization<'f, F> {
    /// Decides what becomes of each tensor of a model.
    ///
    /// # Errors
    /// Where no file can say what the model computes or how its tokenizer works, with what to do.
    pub async fn plan(files: &'f F, to: Target) -> Result<Self> {
        let Content { mut head, tensors, mut notes, tied, blocks } = content::read(files).await?;
        let mix = Mix { target: to.0, tied, blocks };
        let mut fallbacks = BTreeMap::<String, usize>::new();
        let mut quantized = BTreeMap::<&str, usize>::new();
        let mut items = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            let (to, instead) = mix.of(&tensor);
            if let Some(note) = instead {
                *fallbacks.entry(note).or_default() += 1;
            }
            if let (Some(to), Origin::File(info)) = (to, &tensor.from)
                && info.dtype.blocks().is_some()
                && info.dtype != to
            {
                *quantized.entry(info.dtype.name()).or_default() += 1;
            }
            items.push(Item { tensor, to });
        }
        notes.extend(fallbacks.into_iter().map(|(note, count)| format!("{}: {note}", counted(count, "tensor"))));
        if !quantized.is_empty() {
            let types: Vec<String> =
                quantized.iter().map(|(name, count)| format!("{} of {name}", counted(*count, "tensor"))).collect();
            let advice = "the model that they were made from would give better ones";
            notes.push(format!("{} are rounded once more: {advice}", types.join(", ")));
        }
        head.set_whole("general.file_type", to.0.file_type);
        head.set_whole("general.quantization_version", VERSION);
        for item in &items {
            head.add(&item.tensor.name, item.type_name(), &item.tensor.shape, item.bytes());
        }
        let (header, data_bytes) = (head.bytes(), head.data_bytes());
        Ok(Self { tensors: Tensors::with_blocks(files, Header::default()), items, header, data_bytes, notes })
    }

    /// What a user should know.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.header.len() as u64 + self.data_bytes
    }

    /// How many tensors there are of each type.
    pub fn types(&self) -> BTreeMap<String, TypeCount> {
        let mut types = BTreeMap::<String, TypeCount>::new();
        for item in &self.items {
            let count = types.entry(item.type_name().to_owned()).or_default();
            count.tensors += 1;
            count.weights += item.weights();
            count.bytes += item.bytes();
        }
        types
    }

    /// Gives the file's bytes to `sink`, in order, a few megabytes at a time; so many `threads` round weights.
    ///
    /// # Errors
    /// Where a weight is no number or exceeds its type, a file cannot be read, or the sink fails.
    pub async fn write(&self, threads: usize, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        sink(&self.header)?;
        for item in &self.items {
            match (&item.tensor.from, item.to) {
                (Origin::Numbers(numbers), _) => sink(&StoredType::F32.encode(numbers))?,
                (Origin::Bytes(skipped), _) => {
                    copy(skipped.range.end - skipped.range.start, sink, async |range| {
                        self.tensors.read_skipped(skipped, range).await
                    })
                    .await?;
                }
                (Origin::File(info), None) => {
                    copy(info.byte_len(), sink, async |range| self.tensors.read_range(info, range).await).await?;
                }
                (Origin::File(info), Some(to)) => self.convert(info, None, 0.0, to, threads, sink).await?,
                (Origin::Other { info, interleave, plus }, to) => {
                    self.convert(info, *interleave, *plus, to.unwrap_or(info.dtype), threads, sink).await?;
                }
            }
            sink(&vec![0; padding(item.bytes())])?;
        }
        Ok(())
    }

    /// Gives a tensor's rows in another type.
    async fn convert(
        &self,
        info: &TensorInfo,
        interleave: Option<usize>,
        plus: f32,
        to: StoredType,
        threads: usize,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let rows = info.shape[0];
        let inputs: usize = info.shape[1..].iter().product();
        let head = interleave.unwrap_or(1);
        let at_once = (AT_ONCE / inputs.max(1)).max(1).next_multiple_of(head);
        for start in (0..rows).step_by(at_once) {
            let part = start..rows.min(start + at_once);
            let stored = self.tensors.read_rows(info, part).await?;
            let mut values = info.dtype.decode(&stored);
            check(&values, info, to).map_err(|error| error.within(self.tensors.describe()))?;
            values.iter_mut().for_each(|value| *value += plus);
            if interleave.is_some() {
                values = in_turn(&values, head, inputs);
            }
            sink(&encode(&values, to, threads))?;
        }
        Ok(())
    }
}

/// Copies `len` bytes, a part at a time.
async fn copy<'f>(
    len: u64,
    sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    read: impl AsyncFn(std::ops::Range<u64>) -> Result<std::borrow::Cow<'f, [u8]>>,
) -> Result<()> {
    let mut at = 0;
    while at < len {
        let end = len.min(at + COPIED);
        sink(&read(at..end).await?)?;
        at = end;
    }
    Ok(())
}

/// Fails unless the type can hold all weights.
fn check(values: &[f32], info: &TensorInfo, to: StoredType) -> Result<()> {
    let place = |message: String| Error::format(format!("{}: tensor \"{}\": {message}", info.file, info.name));
    let largest = match to {
        StoredType::F16 => half::f16::MAX.to_f32(),
        _ => to.blocks().map_or(f32::MAX, |blocks| blocks.largest),
    };
    let furthest = values
        .iter()
        .fold(0.0, |most: f32, value| if value.is_finite() { most.max(value.abs()) } else { f32::INFINITY });
    match furthest {
        f32::INFINITY => Err(place("a weight is no finite number; is the file broken?".to_owned())),
        furthest if furthest > largest => {
            Err(place(format!("a weight of {furthest:e} exceeds what {to} can hold, {largest:e}: take bf16")))
        }
        _ => Ok(()),
    }
}

/// Rows with the two halves of each head in turn.
fn in_turn(values: &[f32], head: usize, inputs: usize) -> Vec<f32> {
    let mut turned = Vec::with_capacity(values.len());
    for head in values.chunks_exact(head * inputs) {
        let (first, second) = head.split_at(head.len() / 2);
        for (a, b) in first.chunks_exact(inputs).zip(second.chunks_exact(inputs)) {
            turned.extend_from_slice(a);
            turned.extend_from_slice(b);
        }
    }
    turned
}

/// Weights in a type, each thread with a share of them.
fn encode(values: &[f32], to: StoredType, threads: usize) -> Vec<u8> {
    let (unit, _) = to.unit();
    let share = values.len().div_ceil(threads.max(1)).next_multiple_of(unit);
    if share >= values.len() {
        return encode_share(values, to);
    }
    let shares = thread::scope(|scope| {
        let started: Vec<_> = values.chunks(share).map(|share| scope.spawn(move || encode_share(share, to))).collect();
        started.into_iter().map(|thread| thread.join().expect("rounding does not panic")).collect::<Vec<_>>()
    });
    shares.concat()
}

fn encode_share(values: &[f32], to: StoredType) -> Vec<u8> {
    match to.blocks().zip(fit_of(to)) {
        None => to.encode(values),
        Some((blocks, fit)) => {
            let mut bytes = vec![0; to.bytes_of(values.len())];
            for (weights, block) in values.chunks_exact(blocks.weights).zip(bytes.chunks_exact_mut(blocks.bytes)) {
                fit(weights, block);
            }
            bytes
        }
    }
}

fn fit_of(to: StoredType) -> Option<Fit> {
    blocks::FITS.iter().find(|(format, _)| format.name == to.name()).map(|(_, fit)| *fit)
}
