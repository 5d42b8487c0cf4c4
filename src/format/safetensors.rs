//! Headers of safetensors files, checked against the file's length before anything is allocated or read.
//!
//! A file is 8 bytes (the header's length, little endian), the header (JSON) and the tensors' bytes. A caller fetches
//! the 8 bytes, then the header, then the tensors it wants. This module never sees a tensor's bytes, except to
//! [check that they are finite](TensorInfo::check_finite).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::result::Result as StdResult;

use ::safetensors::Dtype as FileType;
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use super::stored::StoredType;
use crate::error::{Error, Result};

/// Bytes before the header: its length as a little-endian `u64`.
pub const PREFIX_BYTES: u64 = 8;

/// The longest header that is read, in bytes: the limit of the reference implementation.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

const METADATA_KEY: &str = "__metadata__";

/// The place, type and shape of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The tensor's name, unique in its checkpoint.
    pub name: String,
    /// The file that holds it.
    pub file: String,
    /// The type of its elements.
    pub dtype: StoredType,
    /// The tensor's dimensions, outermost first; none is zero. Empty for a single number.
    pub shape: Vec<usize>,
    /// The tensor's bytes in the file, from the file's start. The length is the product of `shape` times the dtype's
    /// size.
    pub range: Range<u64>,
    /// Rows of a head, where the file has the rows of each head's two halves in turn: [`Tensors`](super::tensors::Tensors) gives
    /// them one half after the other.
    pub interleaved: Option<usize>,
}

impl TensorInfo {
    /// The number of bytes.
    pub fn byte_len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// The number of elements.
    pub fn num_elements(&self) -> u64 {
        self.dtype.count_in(self.byte_len())
    }

    /// Fails, naming the tensor, when `bytes` (any run of whole elements of this tensor, little endian) hold a NaN or an
    /// infinity: a kernel would turn one of them into gibberish without a word.
    pub fn check_finite(&self, bytes: &[u8]) -> Result<()> {
        if self.dtype.all_finite(bytes) {
            return Ok(());
        }
        let Self { file, name, dtype, .. } = self;
        Err(Error::format(format!(
            "{file}: tensor \"{name}\" ({dtype}) holds NaN or infinite weights; the checkpoint is broken, or was \
             converted to a type too small for its values"
        )))
    }
}

/// A tensor that the engine does not compute with, kept for reports: of another element type, or without elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedTensor {
    /// The type's name in the file, such as `I64` or `F8_E4M3`.
    pub dtype: String,
    /// The tensor's dimensions, outermost first.
    pub shape: Vec<usize>,
    /// The file that holds it.
    pub file: String,
    /// The tensor's bytes in the file, from the file's start.
    pub range: Range<u64>,
}

/// The checked header of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The tensors that can be used, by name.
    pub tensors: BTreeMap<String, TensorInfo>,
    /// Tensors of other element types, by name.
    pub skipped: BTreeMap<String, SkippedTensor>,
    /// Notes of the writer under `__metadata__`.
    pub metadata: BTreeMap<String, String>,
}

/// The header's length in bytes, from the file's first 8 bytes.
///
/// Fails when there are fewer than 8, or when the length exceeds the file or [`MAX_HEADER_BYTES`]: so the result may
/// size a buffer.
pub fn header_len(file_name: &str, first8: &[u8], file_len: u64) -> Result<u64> {
    let Ok(prefix) = <[u8; PREFIX_BYTES as usize]>::try_from(first8) else {
        let got = first8.len();
        return Err(broken(file_name, format!("expected 8 bytes with the header's length, got {got}; {TRUNCATED}")));
    };
    let len = u64::from_le_bytes(prefix);
    if len > MAX_HEADER_BYTES {
        return Err(broken(
            file_name,
            format!("the header claims {len} bytes, at most {MAX_HEADER_BYTES} are allowed; not a safetensors file?"),
        ));
    }
    let available = file_len.saturating_sub(PREFIX_BYTES);
    if len > available {
        return Err(broken(
            file_name,
            format!("the header claims {len} bytes, the file holds {available} after the first 8; {TRUNCATED}"),
        ));
    }
    Ok(len)
}

impl Header {
    /// Parses and checks a header.
    ///
    /// `header_json` is the whole header, `file_len` the length of the whole file in bytes. Fails, naming the file and
    /// the tensor, unless names are unique, dtypes known, dimensions positive, every length equals its shape times its
    /// dtype, and the tensors fill the data section without gap or overlap.
    pub fn parse(file_name: &str, header_json: &[u8], file_len: u64) -> Result<Self> {
        let raw: RawHeader = serde_json::from_slice(header_json)
            .map_err(|error| broken(file_name, format!("the header is not valid: {error}")).caused_by(error))?;
        let data_start = PREFIX_BYTES + header_json.len() as u64;
        let data_len = file_len
            .checked_sub(data_start)
            .ok_or_else(|| broken(file_name, format!("the file ends inside its header; {TRUNCATED}")))?;
        check_layout(&raw.tensors, data_len).map_err(|message| broken(file_name, message))?;
        let mut header = Header { metadata: raw.metadata, ..Header::default() };
        for (name, tensor) in raw.tensors {
            header.add(file_name, name, tensor, data_start)?;
        }
        Ok(header)
    }

    fn add(&mut self, file_name: &str, name: String, tensor: RawTensor, data_start: u64) -> Result<()> {
        let shape = tensor.shape.iter().map(|&size| usize::try_from(size)).collect::<StdResult<Vec<_>, _>>();
        let shape = shape.map_err(|_| {
            broken(
                file_name,
                format!("tensor \"{name}\": shape {} exceeds this machine's sizes", brief_shape(&tensor.shape)),
            )
        })?;
        // Nothing can be computed with a tensor without elements; whoever needs it is told of its shape.
        let empty = shape.contains(&0);
        let range = data_start + tensor.data_offsets.0..data_start + tensor.data_offsets.1;
        let file = file_name.to_owned();
        match StoredType::from_file(tensor.dtype).filter(|_| !empty) {
            Some(dtype) => {
                let info = TensorInfo { name: name.clone(), file, dtype, shape, range, interleaved: None };
                self.tensors.insert(name, info);
            }
            None => {
                self.skipped.insert(name, SkippedTensor { dtype: tensor.dtype.to_string(), shape, file, range });
            }
        }
        Ok(())
    }
}

const TRUNCATED: &str = "the file is truncated or broken: download it again";

fn broken(file_name: &str, message: impl fmt::Display) -> Error {
    Error::format(format!("{file_name}: {message}"))
}

/// A tensor as the header states it. Offsets are `u64`, unlike the safetensors crate's `usize`, so that files above
/// 4 GiB load where `usize` has 32 bits.
#[derive(Deserialize)]
struct RawTensor {
    dtype: FileType,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl RawTensor {
    /// Checks dimensions and length. `data_offsets` must be ordered.
    fn check_length(&self, name: &str) -> StdResult<(), String> {
        let Self { dtype, shape, data_offsets: (start, end) } = self;
        let brief = || brief_shape(shape);
        let bits = shape.iter().try_fold(dtype.bitsize() as u64, |product, &size| product.checked_mul(size));
        let bits = bits.ok_or_else(|| format!("tensor \"{name}\": the size of shape {} overflows", brief()))?;
        if bits % 8 != 0 {
            return Err(format!("tensor \"{name}\": shape {} of {dtype} does not fill whole bytes", brief()));
        }
        let (expected, got) = (bits / 8, end - start);
        if expected != got {
            return Err(format!(
                "tensor \"{name}\": expected {expected} bytes for shape {} of {dtype}, got {got}",
                brief()
            ));
        }
        Ok(())
    }
}

/// A shape for a message: of very many dimensions the first and the number of all.
pub(super) fn brief_shape<T: fmt::Debug>(shape: &[T]) -> String {
    const SHOWN: usize = 8;
    match shape.get(..SHOWN).filter(|_| shape.len() > SHOWN) {
        Some(first) => format!("{first:?}... of {} dimensions", shape.len()),
        None => format!("{shape:?}"),
    }
}

/// Checks that the tensors fill a data section of `data_len` bytes from end to end, each of them once.
fn check_layout(tensors: &BTreeMap<String, RawTensor>, data_len: u64) -> StdResult<(), String> {
    let mut by_offset: Vec<_> = tensors.iter().collect();
    by_offset.sort_by_key(|(_, tensor)| tensor.data_offsets);
    let mut filled = 0;
    for (name, tensor) in by_offset {
        let (start, end) = tensor.data_offsets;
        if start > end {
            return Err(format!("tensor \"{name}\": its bytes end ({end}) before they start ({start})"));
        }
        if end > data_len {
            return Err(format!(
                "tensor \"{name}\": its bytes {start}..{end} exceed the {data_len} bytes of data; {TRUNCATED}"
            ));
        }
        if start < filled {
            return Err(format!("tensor \"{name}\": its bytes {start}..{end} overlap another tensor's"));
        }
        if start > filled {
            return Err(format!("tensor \"{name}\": {} unused bytes lie before its start {start}", start - filled));
        }
        tensor.check_length(name)?;
        filled = end;
    }
    if filled != data_len {
        return Err(format!("the tensors fill {filled} bytes, but {data_len} bytes of data follow the header"));
    }
    Ok(())
}

struct RawHeader {
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, RawTensor>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> StdResult<Self, D::Error> {
        deserializer.deserialize_map(RawHeaderVisitor)
    }
}

/// Reads entry by entry, because maps derived by serde keep the last of two equal names and do not say which entry is
/// wrong.
struct RawHeaderVisitor;

impl<'de> Visitor<'de> for RawHeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> StdResult<RawHeader, A::Error> {
        let (mut metadata, mut tensors) = (None, BTreeMap::new());
        while let Some(name) = map.next_key::<String>()? {
            let duplicate = if name == METADATA_KEY {
                // Some writers leave `null` where they have nothing to note.
                let noted: Option<BTreeMap<String, String>> = named_value(&mut map, &name)?;
                metadata.replace(noted.unwrap_or_default()).is_some()
            } else {
                let tensor = named_value(&mut map, &name)?;
                tensors.insert(name.clone(), tensor).is_some()
            };
            refuse_duplicate(duplicate, &name)?;
        }
        Ok(RawHeader { metadata: metadata.unwrap_or_default(), tensors })
    }
}

fn named_value<'de, A: MapAccess<'de>, T: Deserialize<'de>>(map: &mut A, name: &str) -> StdResult<T, A::Error> {
    map.next_value().map_err(|error| de::Error::custom(format!("\"{name}\": {error}")))
}

fn refuse_duplicate<E: de::Error>(duplicate: bool, name: &str) -> StdResult<(), E> {
    if duplicate { Err(E::custom(format!("\"{name}\" occurs twice"))) } else { Ok(()) }
}

/// `model.safetensors.index.json`: which file of a sharded checkpoint holds which tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// File names by tensor name. No file name leads out of the checkpoint's folder.
    pub weight_map: BTreeMap<String, String>,
}

impl Index {
    /// Parses an index. Fails, naming the file, on invalid JSON, a tensor listed twice, an empty map, or a shard name that
    /// is not a plain file name.
    pub fn parse(file_name: &str, json: &[u8]) -> Result<Self> {
        let raw: RawIndex = super::json::parse(json).map_err(|error| broken(file_name, &error).caused_by(error))?;
        let weight_map = raw.weight_map.0;
        if weight_map.is_empty() {
            return Err(broken(file_name, "`weight_map` is empty; expected the checkpoint's tensors"));
        }
        match weight_map.iter().find(|(_, shard)| !is_plain_file_name(shard)) {
            Some((name, shard)) => Err(broken(
                file_name,
                format!("tensor \"{name}\": expected a file name in the same folder, got \"{shard}\""),
            )),
            None => Ok(Self { weight_map }),
        }
    }

    /// The names of the shards, each once.
    pub fn shards(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }
}

/// Whether `name` stays in its folder on every platform: no separator, drive, control character or parent. Also no `%`,
/// `?` or `#`, which would mean something else in a URL.
fn is_plain_file_name(name: &str) -> bool {
    let forbidden = |c: char| matches!(c, '/' | '\\' | ':' | '%' | '?' | '#') || c.is_control();
    !name.is_empty() && !name.starts_with('.') && !name.contains(forbidden)
}

#[derive(Deserialize)]
struct RawIndex {
    weight_map: UniqueNames,
}

struct UniqueNames(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for UniqueNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> StdResult<Self, D::Error> {
        deserializer.deserialize_map(UniqueNamesVisitor)
    }
}

struct UniqueNamesVisitor;

impl<'de> Visitor<'de> for UniqueNamesVisitor {
    type Value = UniqueNames;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object of file names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> StdResult<UniqueNames, A::Error> {
        let mut names = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            let shard = named_value(&mut map, &name)?;
            refuse_duplicate(names.insert(name.clone(), shard).is_some(), &name)?;
        }
        Ok(UniqueNames(names))
    }
}
/// A file of f32 tensors, each with its shape and row-major values; `file` names it in errors.
pub(crate) fn serialize_f32(file: &str, tensors: &BTreeMap<String, (Vec<usize>, Vec<f32>)>) -> Result<Vec<u8>> {
    use ::safetensors::{Dtype, SafeTensorError, serialize, tensor::TensorView};
    let wrong = |error: SafeTensorError| Error::format(format!("{file}: {error}")).caused_by(error);
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let bytes: Vec<Vec<u8>> = tensors.values().map(|(_, values)| bytes(values)).collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, (shape, _)), bytes)| TensorView::new(Dtype::F32, shape.clone(), bytes).map(|view| (name, view)));
    let views = views.collect::<std::result::Result<Vec<_>, _>>().map_err(wrong)?;
    serialize(views, None).map_err(wrong)
}
