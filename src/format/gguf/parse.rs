//! The walk over a header's bytes, of which more are asked for as it goes.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;
use std::result::Result as StdResult;

use super::values::{Kind, Value};
use super::{MAGIC, TRUNCATED};

/// The longest header that is read: large vocabularies make about 10 MB.
const MAX_HEADER: u64 = 256 << 20;

/// More keys and tensors than files have; what is kept of each stays small beside a model.
const MAX_KEYS: u64 = 1 << 13;
const MAX_TENSORS: u64 = 1 << 14;

/// Lists within lists.
const MAX_DEPTH: usize = 4;

const MAX_DIMENSIONS: u32 = 4;

/// Bytes of the first read, of which most headers without a vocabulary have fewer.
const FIRST_READ: u64 = 256 << 10;

/// Bytes that are read at once.
const READ: u64 = 4 << 20;

/// From here on memory is taken once for all that may come: to grow by copying would take twice what the file has.
const LARGE: u64 = 16 << 20;

/// A tensor as the file lists it.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) kind: u32,
    /// From the start of the tensors' bytes.
    pub(super) offset: u64,
    /// Innermost first.
    pub(super) dimensions: Vec<u64>,
}

/// The reason why a step is not done.
enum Stop {
    /// The file has to be read up to this byte first.
    Until(u64),
    Broken(String),
}

type Step<T> = StdResult<T, Stop>;

/// The state of the walk.
#[derive(Debug)]
pub(super) struct Parser {
    file_len: u64,
    /// The file as far as it was read.
    pub(super) bytes: Vec<u8>,
    /// Bytes that were asked for.
    target: u64,
    /// Bytes that were understood.
    pub(super) at: usize,
    /// Tensors and keys that the file announces, once that was read.
    counts: Option<[u64; 2]>,
    pub(super) metadata: BTreeMap<String, Value>,
    pub(super) found: BTreeMap<String, Found>,
}

impl Parser {
    pub(super) fn new(file_len: u64) -> Self {
        let (metadata, found) = (BTreeMap::new(), BTreeMap::new());
        let target = FIRST_READ.min(file_len);
        Self { file_len, bytes: Vec::new(), target, at: 0, counts: None, metadata, found }
    }

    /// The bytes to be read next; `None` when the header is complete.
    pub(super) fn wanted(&mut self) -> StdResult<Option<Range<u64>>, String> {
        let read = self.bytes.len() as u64;
        if read >= self.target {
            match self.walk() {
                Ok(()) => return Ok(None),
                Err(Stop::Broken(message)) => return Err(message),
                Err(Stop::Until(end)) => self.target = end.max(2 * read).min(self.file_len).min(MAX_HEADER),
            }
            let room = if self.target > LARGE { self.file_len.min(MAX_HEADER) } else { self.target };
            self.bytes.reserve_exact((room - read) as usize);
        }
        Ok(Some(read..self.target.min(read + READ)))
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Goes on entry by entry. One that is not here whole is begun again when it is.
    fn walk(&mut self) -> Step<()> {
        let mut cursor = Cursor { bytes: &self.bytes, at: self.at, file_len: self.file_len };
        let [tensors, keys] = match self.counts {
            Some(counts) => counts,
            None => *self.counts.insert(cursor.beginning()?),
        };
        self.at = cursor.at;
        while (self.metadata.len() as u64) < keys {
            let (key, value) = cursor.pair()?;
            match self.metadata.entry(key) {
                Entry::Vacant(entry) => entry.insert(value),
                Entry::Occupied(entry) => {
                    let message = format!("byte {}: the key `{}` occurs twice", self.at, entry.key());
                    return Err(Stop::Broken(message));
                }
            };
            self.at = cursor.at;
        }
        while (self.found.len() as u64) < tensors {
            let (name, tensor) = cursor.tensor()?;
            match self.found.entry(name) {
                Entry::Vacant(entry) => entry.insert(tensor),
                Entry::Occupied(entry) => {
                    let message = format!("byte {}: the tensor \"{}\" occurs twice", self.at, entry.key());
                    return Err(Stop::Broken(message));
                }
            };
            self.at = cursor.at;
        }
        Ok(())
    }
}

/// A place in the bytes that were read.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    file_len: u64,
}

impl<'a> Cursor<'a> {
    fn broken<T>(&self, message: &str) -> Step<T> {
        Err(Stop::Broken(format!("byte {}: {message}", self.at)))
    }

    /// Fails unless `count` pieces of at least `size` bytes can follow.
    fn check(&self, count: u64, size: u64) -> Step<u64> {
        let left = self.file_len - self.at as u64;
        match count.checked_mul(size).filter(|needed| *needed <= left) {
            Some(needed) => Ok(needed),
            None => self.broken(&format!("expected {count} times {size} bytes or more, {left} are left; {TRUNCATED}")),
        }
    }

    fn take(&mut self, len: u64) -> Step<&'a [u8]> {
        let end = self.at as u64 + self.check(len, 1)?;
        if end > MAX_HEADER {
            return self
                .broken(&format!("the header is longer than {MAX_HEADER} bytes; expected one of a few megabytes"));
        }
        let Some(taken) = self.bytes.get(self.at..end as usize) else { return Err(Stop::Until(end)) };
        self.at = end as usize;
        Ok(taken)
    }

    fn u32(&mut self) -> Step<u32> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into().expect("4 bytes")))
    }

    fn u64(&mut self) -> Step<u64> {
        Ok(u64::from_le_bytes(self.take(8)?.try_into().expect("8 bytes")))
    }

    /// A string's bytes.
    fn string(&mut self) -> Step<&'a [u8]> {
        let len = self.u64()?;
        self.take(len)
    }

    /// The name of a value or tensor.
    fn name(&mut self, what: &str) -> Step<String> {
        let bytes = self.string()?;
        match str::from_utf8(bytes) {
            Ok(name) if !name.is_empty() => Ok(name.to_owned()),
            _ => self.broken(&format!("before it the name of a {what} was expected, got none in UTF-8; {TRUNCATED}")),
        }
    }

    /// The magic number and the version; then how many tensors and keys follow.
    fn beginning(&mut self) -> Step<[u64; 2]> {
        if self.take(self.file_len.min(MAGIC.len() as u64))? != MAGIC {
            self.at = 0;
            return self.broken("expected the bytes \"GGUF\", got others: this is no GGUF file");
        }
        let version = self.u32()?;
        let message = match version {
            2 | 3 => "",
            1 => "version 1 is not supported, 2 and 3 are: convert the model again, or take a newer file",
            _ if version & 0xFFFF == 0 => {
                "a big-endian file, made for other machines, which is not supported: take the little-endian one"
            }
            _ => "expected version 2 or 3, got another: is the file newer than this program?",
        };
        if !message.is_empty() {
            self.at -= 4;
            return self.broken(message);
        }
        let counts = [self.u64()?, self.u64()?];
        for (count, most, what) in [(counts[0], MAX_TENSORS, "tensors"), (counts[1], MAX_KEYS, "keys")] {
            if count > most {
                return self.broken(&format!("expected at most {most} {what}, got {count}; {TRUNCATED}"));
            }
        }
        Ok(counts)
    }

    /// A key and its value.
    fn pair(&mut self) -> Step<(String, Value)> {
        let key = self.name("value")?;
        let kind = self.u32()?;
        Ok((key, self.value(kind)?))
    }

    fn kind(&self, number: u32) -> Step<Kind> {
        match Kind::new(number) {
            Some(kind) => Ok(kind),
            None => self.broken(&format!("expected a type of a value from 0 to 12, got {number}; {TRUNCATED}")),
        }
    }

    fn value(&mut self, number: u32) -> Step<Value> {
        let kind = self.kind(number)?;
        if kind == Kind::List {
            return self.list();
        }
        let start = self.at;
        match kind.size() {
            Some(size) => self.take(size)?,
            None => self.string()?,
        };
        Ok(Value { kind, items: None, place: start..self.at })
    }

    fn list(&mut self) -> Step<Value> {
        let number = self.u32()?;
        let kind = self.kind(number)?;
        let items = self.u64()?;
        let start = self.at;
        self.items(kind, items, 0)?;
        Ok(Value { kind, items: Some(items as usize), place: start..self.at })
    }

    /// Goes over the items of a list.
    fn items(&mut self, kind: Kind, count: u64, depth: usize) -> Step<()> {
        if let Some(size) = kind.size() {
            let len = self.check(count, size)?;
            return self.take(len).map(|_| ());
        }
        // An item's length, or its type and count.
        self.check(count, if kind == Kind::List { 12 } else { 8 })?;
        for _ in 0..count {
            if kind == Kind::Text {
                self.string()?;
                continue;
            }
            if depth == MAX_DEPTH {
                return self.broken(&format!("expected at most {MAX_DEPTH} lists within each other, got more"));
            }
            let number = self.u32()?;
            let inner = self.kind(number)?;
            let inner_count = self.u64()?;
            self.items(inner, inner_count, depth + 1)?;
        }
        Ok(())
    }

    fn tensor(&mut self) -> Step<(String, Found)> {
        let name = self.name("tensor")?;
        let count = self.u32()?;
        if count == 0 || count > MAX_DIMENSIONS {
            return self.broken(&format!("tensor \"{name}\": expected 1 to {MAX_DIMENSIONS} dimensions, got {count}"));
        }
        let dimensions = (0..count).map(|_| self.u64()).collect::<Step<Vec<_>>>()?;
        let (kind, offset) = (self.u32()?, self.u64()?);
        Ok((name, Found { kind, offset, dimensions }))
    }
}
