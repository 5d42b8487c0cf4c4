//! The tensors of a set of files, found by name.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use super::files::{Files, named, read_exact};
use super::foreign;
use super::layouts::find_headers;
use super::safetensors::{Header, PREFIX_BYTES, SkippedTensor, TensorInfo, brief_shape, header_len};
use super::stored::StoredType;
use crate::error::{Error, Result};

/// Tensors by name, and the files that hold them.
#[derive(Debug)]
pub struct Tensors<'f, F: Files> {
    files: &'f F,
    found: BTreeMap<String, TensorInfo>,
    skipped: BTreeMap<String, SkippedTensor>,
    /// The types that files of their kind may have, for messages.
    types: &'static [StoredType],
}

impl<F: Files> Clone for Tensors<'_, F> {
    fn clone(&self) -> Self {
        Self { files: self.files, found: self.found.clone(), skipped: self.skipped.clone(), types: self.types }
    }
}

impl<'f, F: Files> Tensors<'f, F> {
    /// The tensors that `header` lists.
    pub(super) fn new(files: &'f F, header: Header) -> Self {
        Self { files, found: header.tensors, skipped: header.skipped, types: StoredType::ELEMENTS }
    }

    /// The same of files that may have blocks too.
    pub(super) fn with_blocks(files: &'f F, header: Header) -> Self {
        Self { types: StoredType::ALL, ..Self::new(files, header) }
    }

    /// The tensors of the file `name`, or `None` when there is no such file. Fails, naming it, when it is broken.
    pub(super) async fn of_file(files: &'f F, name: &str) -> Result<Option<Self>> {
        Ok(read_header(files, name).await?.map(|header| Self::new(files, header)))
    }

    /// The tensors of a folder's checkpoint, in one file or several; `None` without either.
    pub(super) async fn of_checkpoint(files: &'f F) -> Result<Option<Self>> {
        Ok(find_headers(files).await?.map(|header| Self::new(files, header)))
    }

    /// The folder or URL, for messages.
    pub fn describe(&self) -> String {
        self.files.describe()
    }

    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.found.get(name)
    }

    /// The tensors that can be used, by name.
    pub fn usable(&self) -> &BTreeMap<String, TensorInfo> {
        &self.found
    }

    /// Tensors of element types that the engine does not compute with, by name.
    pub fn skipped(&self) -> &BTreeMap<String, SkippedTensor> {
        &self.skipped
    }

    /// The names of all tensors, those that cannot be used last.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.found.keys().chain(self.skipped.keys())
    }

    /// Whether there is a tensor of this name, usable or not.
    pub fn contains(&self, name: &str) -> bool {
        self.found.contains_key(name) || self.skipped.contains_key(name)
    }

    /// Gives the tensor `old` the name `new`, unless that is taken or there is no `old`.
    pub(super) fn rename(&mut self, old: &str, new: &str) {
        if !self.found.contains_key(new)
            && let Some(info) = self.found.remove(old)
        {
            self.found.insert(new.to_owned(), info);
        }
    }

    /// Gives each tensor the name that `rename` makes of its own.
    pub(super) fn rename_all(&mut self, rename: &dyn Fn(&str) -> String) {
        self.found = std::mem::take(&mut self.found).into_iter().map(|(name, info)| (rename(&name), info)).collect();
        self.skipped =
            std::mem::take(&mut self.skipped).into_iter().map(|(name, info)| (rename(&name), info)).collect();
    }

    /// Notes that the rows of tensors whose names are `meant` lie with the halves of each head, of `head` rows, in turn.
    pub(super) fn interleave(&mut self, head: usize, meant: &dyn Fn(&str) -> bool) {
        for (name, info) in &mut self.found {
            // One of another shape cannot be used; whoever needs it says so.
            if meant(name) && head.is_multiple_of(2) && info.shape[0].is_multiple_of(head) {
                info.interleaved = Some(head);
            }
        }
    }

    /// Gives a matrix of those whose names are `meant` a dimension of 1 between its two: so files of another kind keep the weights of
    /// a convolution of each channel by itself.
    pub(super) fn add_dimension(&mut self, meant: &dyn Fn(&str) -> bool) {
        for (_, info) in self.found.iter_mut().filter(|(name, info)| meant(name) && info.shape.len() == 2) {
            info.shape.insert(1, 1);
        }
    }

    /// Takes the tensor called `name` out.
    pub(super) fn remove(&mut self, name: &str) {
        self.found.remove(name);
    }

    fn type_names(&self) -> String {
        let names: Vec<&str> = self.types.iter().map(|stored| stored.name()).collect();
        let (last, others) = names.split_last().expect("there are types");
        format!("{} or {last}", others.join(", "))
    }

    /// The end of a message on a missing tensor: what the files have that is called alike.
    fn instead_of(&self, name: &str) -> String {
        let end = name.split_once('.').map(|(_, end)| end).filter(|end| end.contains('.')).unwrap_or(name);
        let (module, _) = name.rsplit_once('.').unwrap_or((name, ""));
        let above =
            |other: &&String| other.strip_suffix(end).is_some_and(|begin| begin.is_empty() || begin.ends_with('.'));
        let within = |other: &&String| other.strip_prefix(module).is_some_and(|rest| rest.starts_with('.'));
        self.names()
            .find(above)
            .or_else(|| self.names().find(within))
            .map_or_else(String::new, |other| format!("; \"{other}\" is there instead"))
    }

    /// The tensor called `name`, if it has the `shape` that the file `stated_by` implies; else an error with the name, what
    /// was expected and what was found.
    pub fn require(&self, name: &str, shape: &[usize], stated_by: &str) -> Result<&TensorInfo> {
        let folder = self.files.describe();
        match (self.found.get(name), self.skipped.get(name)) {
            (Some(info), _) if info.shape == shape => Ok(info),
            (Some(info), _) => Err(Error::format(format!(
                "{}: tensor \"{name}\": expected shape {shape:?} by {stated_by}, got {}",
                named(self.files, &info.file),
                brief_shape(&info.shape)
            ))),
            (None, Some(SkippedTensor { shape: found, .. })) if found != shape => Err(Error::format(format!(
                "{folder}: tensor \"{name}\": expected shape {shape:?} by {stated_by}, got {}",
                brief_shape(found)
            ))),
            (None, Some(skipped)) => Err(Error::unsupported(format!(
                "{folder}: tensor \"{name}\": expected {}, got {}",
                self.type_names(),
                skipped.dtype
            ))),
            (None, None) => Err(Error::format(format!(
                "{folder}: tensor \"{name}\" is missing; expected shape {shape:?} by {stated_by}{}",
                self.instead_of(name)
            ))),
        }
    }

    /// The bytes of a tensor: elements in row-major order, little endian.
    pub async fn read(&self, info: &TensorInfo) -> Result<Cow<'f, [u8]>> {
        let bytes = read_exact(self.files, &info.file, info.range.clone()).await?;
        Ok(in_halves(info, bytes))
    }

    /// Some bytes of a tensor; `range` counts from the tensor's start, and lies within it.
    pub(super) async fn read_range(&self, info: &TensorInfo, range: Range<u64>) -> Result<Cow<'f, [u8]>> {
        let start = info.range.start;
        read_exact(self.files, &info.file, start + range.start..start + range.end).await
    }

    /// Some bytes of a tensor that is no more than listed; `range` counts from the tensor's start.
    pub(super) async fn read_skipped(&self, info: &SkippedTensor, range: Range<u64>) -> Result<Cow<'f, [u8]>> {
        let start = info.range.start;
        read_exact(self.files, &info.file, start + range.start..start + range.end).await
    }

    /// The files.
    pub(super) fn files(&self) -> &'f F {
        self.files
    }

    /// The bytes of some of a tensor's rows: slices along its first axis.
    pub async fn read_rows(&self, info: &TensorInfo, rows: Range<usize>) -> Result<Cow<'f, [u8]>> {
        let row_bytes = info.byte_len() / info.shape[0] as u64;
        let begin = |row: usize| info.range.start + row as u64 * row_bytes;
        let Some(head) = info.interleaved else {
            return read_exact(self.files, &info.file, begin(rows.start)..begin(rows.end)).await;
        };
        // Of heads that are only wanted in part, all rows are needed.
        let heads = rows.start / head * head..rows.end.next_multiple_of(head).min(info.shape[0]);
        let bytes = read_exact(self.files, &info.file, begin(heads.start)..begin(heads.end)).await?;
        let row_bytes = row_bytes as usize;
        let wanted = (rows.start - heads.start) * row_bytes..(rows.end - heads.start) * row_bytes;
        Ok(in_halves(info, bytes)[wanted].to_vec().into())
    }
}

/// Whole heads of a tensor's rows, the first half of each head before the second.
fn in_halves<'f>(info: &TensorInfo, bytes: Cow<'f, [u8]>) -> Cow<'f, [u8]> {
    let Some(head) = info.interleaved else { return bytes };
    let row_bytes = (info.byte_len() / info.shape[0] as u64) as usize;
    let mut halves = Vec::with_capacity(bytes.len());
    for rows in bytes.chunks_exact(head * row_bytes) {
        for half in 0..2 {
            rows.chunks_exact(row_bytes).skip(half).step_by(2).for_each(|row| halves.extend_from_slice(row));
        }
    }
    halves.into()
}

/// The header of a safetensors file, or `None` when there is no such file.
pub(super) async fn read_header<F: Files>(files: &F, name: &str) -> Result<Option<Header>> {
    let Some(file_len) = files.len(name).await? else { return Ok(None) };
    let prefix = read_exact(files, name, 0..PREFIX_BYTES.min(file_len)).await?;
    let place = |error: Error| error.within(files.describe());
    let header_len = match header_len(name, &prefix, file_len) {
        Ok(len) => len,
        Err(error) => return Err(foreign::of_prefix(files, name, &prefix).unwrap_or_else(|| place(error))),
    };
    let json = read_exact(files, name, PREFIX_BYTES..PREFIX_BYTES + header_len).await?;
    Header::parse(name, &json, file_len).map_err(place).map(Some)
}
