//! The container GGUF: metadata and the places of tensors, checked against the file's length before anything is allocated.
//!
//! A file is a magic number, a version, two counts, the metadata, a list of tensors, and their bytes at multiples of an alignment.
//! The part before the tensors' bytes is read once and kept as it is: values are places in it, so that a vocabulary takes no more
//! memory than it does in the file.

mod parse;
mod values;
pub(super) mod write;

use std::collections::BTreeMap;
use std::result::Result as StdResult;

use super::files::{Files, read_exact};
use super::foreign;
use super::safetensors::{Header, SkippedTensor, TensorInfo};
use super::stored::StoredType;
use crate::error::{Error, Result};
use parse::{Found, Parser};
pub use values::List;
use values::Value;

/// The first bytes of every file.
const MAGIC: &[u8] = b"GGUF";

/// Where tensors begin unless the metadata says otherwise: at multiples of so many bytes.
const ALIGNMENT: u64 = 32;

/// More than files align to.
const MAX_ALIGNMENT: u64 = 1 << 20;

const TRUNCATED: &str = "the file is truncated or broken: download it again";

/// Types of tensors in files: number, name, and how many elements a block of how many bytes holds.
const TYPES: &[(u32, &str, u64, u64)] = &[
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (9, "Q8_1", 32, 40),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (15, "Q8_K", 256, 292),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (20, "IQ4_NL", 32, 18),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (30, "BF16", 1, 2),
    (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66),
    (39, "MXFP4", 32, 17),
    (40, "NVFP4", 64, 36),
    (41, "Q1_0", 128, 18),
];

/// The checked header of one file: its metadata, and where its tensors lie.
#[derive(Debug)]
pub struct Gguf {
    file: String,
    /// The file up to its tensors' bytes.
    bytes: Vec<u8>,
    metadata: BTreeMap<String, Value>,
    /// The tensors, outermost dimension first.
    pub tensors: Header,
}

impl Gguf {
    /// Reads the header of the file `name`, or `None` when there is no such file.
    ///
    /// Fails, naming the file and the byte, unless every length and count fits the file, keys and names are unique, and the tensors
    /// lie aligned and apart from each other within the file.
    pub async fn read<F: Files>(files: &F, name: &str) -> Result<Option<Self>> {
        let Some(file_len) = files.len(name).await? else { return Ok(None) };
        let first = read_exact(files, name, 0..file_len.min(MAGIC.len() as u64)).await?;
        if *first != *MAGIC {
            let first = read_exact(files, name, 0..file_len.min(16)).await?;
            foreign::check(files, name, &first)?;
        }
        let mut parser = Parser::new(file_len);
        let place = |message: String| Error::format(format!("{name}: {message}")).within(files.describe());
        while let Some(range) = parser.wanted().map_err(place)? {
            parser.push(&read_exact(files, name, range).await?);
        }
        Self::new(name, parser, file_len).map_err(|error| error.within(files.describe())).map(Some)
    }

    fn new(file: &str, parser: Parser, file_len: u64) -> Result<Self> {
        let Parser { bytes, metadata, found, at, .. } = parser;
        let mut gguf = Self { file: file.to_owned(), bytes, metadata, tensors: Header::default() };
        let alignment = gguf.whole("general.alignment")?.unwrap_or(ALIGNMENT);
        if !alignment.is_power_of_two() || alignment > MAX_ALIGNMENT {
            let message = format!("expected a power of two up to {MAX_ALIGNMENT}, got {alignment}");
            return Err(gguf.broken("general.alignment", &message));
        }
        gguf.bytes.truncate(at);
        gguf.bytes.shrink_to_fit();
        let start = (at as u64).next_multiple_of(alignment);
        let mut ends = Vec::with_capacity(found.len());
        for (name, found) in found {
            if let Err(message) = gguf.add(&name, &found, start, alignment, file_len, &mut ends) {
                return Err(Error::format(format!("{file}: tensor \"{name}\": {message}")));
            }
        }
        ends.sort_unstable();
        match ends.windows(2).find(|pair| pair[1].0 < pair[0].1) {
            Some(&[_, (start, end)]) => Err(Error::format(format!(
                "{file}: the tensor at bytes {start}..{end} overlaps another tensor's bytes"
            ))),
            _ => Ok(gguf),
        }
    }

    /// Adds a tensor, and its first byte and the one after its last to `ends`.
    fn add(
        &mut self,
        name: &str,
        found: &Found,
        start: u64,
        alignment: u64,
        file_len: u64,
        ends: &mut Vec<(u64, u64)>,
    ) -> StdResult<(), String> {
        let Found { kind, offset, dimensions } = found;
        let shape = dimensions.iter().rev().map(|&size| usize::try_from(size)).collect::<StdResult<Vec<_>, _>>();
        let shape = shape.map_err(|_| format!("its sizes {dimensions:?} exceed this machine's"))?;
        let Some((_, type_name, block, block_bytes)) = TYPES.iter().find(|(number, ..)| number == kind) else {
            // Its bytes cannot be known.
            let skipped = SkippedTensor { dtype: format!("type {kind}"), shape, file: self.file.clone(), range: 0..0 };
            self.tensors.skipped.insert(name.to_owned(), skipped);
            return Ok(());
        };
        if offset % alignment != 0 {
            return Err(format!("it begins at byte {offset} of the data, which is no multiple of {alignment}"));
        }
        if dimensions[0] % block != 0 {
            return Err(format!(
                "rows of {} elements are no whole blocks of {type_name}, which have {block}",
                dimensions[0]
            ));
        }
        let elements = dimensions.iter().try_fold(1, |product: u64, &size| product.checked_mul(size));
        let len = elements.and_then(|elements| (elements / block).checked_mul(*block_bytes));
        let range = len.and_then(|len| {
            let start = start.checked_add(*offset)?;
            Some(start..start.checked_add(len)?)
        });
        let Some(range) = range.filter(|range| range.end <= file_len) else {
            return Err(format!(
                "sizes {dimensions:?} of {type_name} at byte {offset} of the data exceed the file of {file_len} bytes, whose \
                 data begin at byte {start}; {TRUNCATED}"
            ));
        };
        // Nothing can be computed with a tensor without elements; whoever needs it is told of its shape.
        let dtype = StoredType::ALL.iter().copied().find(|dtype| dtype.name() == *type_name && !range.is_empty());
        if !range.is_empty() {
            ends.push((range.start, range.end));
        }
        let (name, file) = (name.to_owned(), self.file.clone());
        match dtype {
            Some(dtype) => {
                let info = TensorInfo { name: name.clone(), file, dtype, shape, range, interleaved: None };
                self.tensors.tensors.insert(name, info);
            }
            None => {
                let skipped = SkippedTensor { dtype: (*type_name).to_owned(), shape, file, range };
                self.tensors.skipped.insert(name, skipped);
            }
        }
        Ok(())
    }

    /// The name of the file.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The keys of the metadata, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.metadata.keys().map(String::as_str)
    }

    /// Says that a value is none that may stand under `key`.
    pub(super) fn broken(&self, key: &str, message: &str) -> Error {
        Error::format(format!("{}: `{key}`: {message}", self.file))
    }
}
