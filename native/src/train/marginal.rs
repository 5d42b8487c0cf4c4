//! The marginals of all sequences as labels, in a file that grows by a record a sequence.
//!
//! A file is a header (see [`header`]) and, for each sequence in the order of the data, for each offset from 2 on, for each position of
//! a sequence, [`LABEL_TOKENS`] entries of a token (u32) and its probability (f32), likeliest first, all little-endian. A list that is
//! shorter ends with probabilities of 0; positions without a target that counts have nothing else. Records have one size, so a step
//! finds those of its sequences, and whatever ends the program in between costs one of them.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use foretoken::train::data::Dataset;
use foretoken::train::{Entry, LABEL_TOKENS, LabelLists};
use foretoken::{Error, MarginalOptions, Result, Session};

use crate::output::io_error;
use crate::terminal::Work;
use foretoken::format::hash::Hash;

/// The file's name in the output folder.
pub const FILE: &str = "marginals.labels";

/// The likeliest branches that a marginal is the sum over.
pub const BRANCHES: usize = 16;

/// The farthest token that marginals reach.
pub const FARTHEST: usize = 3;

const ENTRY_BYTES: usize = 8;

/// The layout of the file of a run.
pub struct Layout {
    /// The offsets of the heads that learn from it.
    offsets: Vec<usize>,
    /// Positions of a sequence.
    length: usize,
    sequences: usize,
    header: Vec<u8>,
}

impl Layout {
    /// The layout for heads of these offsets.
    pub fn new(data: &Dataset, offsets: impl Iterator<Item = usize>, length: usize) -> Self {
        let offsets: Vec<usize> = offsets.filter(|&offset| offset > 1).collect();
        let sequences = data.len();
        let header = header(data, &offsets, length);
        Self { offsets, length, sequences, header }
    }

    fn record_bytes(&self) -> usize {
        self.offsets.len() * self.length * LABEL_TOKENS * ENTRY_BYTES
    }

    fn start_of(&self, sequence: usize) -> u64 {
        self.header.len() as u64 + sequence as u64 * self.record_bytes() as u64
    }

    /// The file's size once it is complete.
    pub fn bytes(&self) -> u64 {
        self.start_of(self.sequences)
    }
}

/// `FTLABEL1`, then as u32: sequences, positions of each, entries of a list, branches, how many offsets, the offsets; then 16 letters, a
/// hash of the sequences and of what counts in them.
fn header(data: &Dataset, offsets: &[usize], length: usize) -> Vec<u8> {
    let mut header = b"FTLABEL1".to_vec();
    let numbers = [data.len(), length, LABEL_TOKENS, BRANCHES, offsets.len()];
    numbers.iter().chain(offsets).for_each(|&n| header.extend((n as u32).to_le_bytes()));
    let mut hash = Hash::new();
    for n in 0..data.len() {
        let (ids, counted) = data.sequence(n);
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        hash.add_part(&counted.to_string(), &bytes);
    }
    header.extend(hash.text().bytes());
    header
}

fn format_error(path: &Path, what: &str) -> Error {
    Error::format(format!("{}: {what}; delete the file to make it anew", path.display()))
}

/// How many sequences an earlier run has completed; what it left of one more is cut off.
///
/// # Errors
/// Where the file cannot be read, or is not that of this run.
pub fn completed(path: &Path, layout: &Layout) -> Result<usize> {
    let io = |error: std::io::Error| io_error(path, &error);
    let mut file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(io(error)),
    };
    let bytes = file.metadata().map_err(io)?.len();
    let known = (layout.header.len() as u64).min(bytes) as usize;
    let mut found = vec![0; known];
    file.read_exact(&mut found).map_err(io)?;
    if found != layout.header[..known] {
        return Err(format_error(path, "labels of other sequences, or for heads of other offsets"));
    }
    let done = (bytes.saturating_sub(layout.start_of(0)) / layout.record_bytes() as u64) as usize;
    if done > layout.sequences || (done == layout.sequences && bytes > layout.bytes()) {
        return Err(format_error(path, &format!("expected {} bytes, got {bytes}", layout.bytes())));
    }
    let kept = if known < layout.header.len() { 0 } else { layout.start_of(done) };
    file.set_len(kept).map_err(io)?;
    Ok(done)
}

/// Adds the marginals of the sequences from `done` on. False if it was interrupted.
///
/// # Errors
/// If the device fails, or the file cannot be written; the records until then stay.
pub async fn go_on(
    session: &mut Session,
    path: &Path,
    data: &Dataset,
    layout: &Layout,
    done: usize,
    interrupt: &Arc<AtomicBool>,
) -> Result<bool> {
    let io = |error: std::io::Error| io_error(path, &error);
    let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(io)?;
    if file.metadata().map_err(io)?.len() == 0 {
        file.write_all(&layout.header).map_err(io)?;
    }
    let mut bar = Work::new("marginals", done as u64, layout.sequences as u64);
    let mut positions = 0;
    for n in done..layout.sequences {
        let (ids, counted) = data.sequence(n);
        let mut record = Vec::with_capacity(layout.record_bytes());
        for &offset in &layout.offsets {
            let Some(lists) = lists(session, ids, counted, offset, layout.length, interrupt).await? else {
                file.sync_all().map_err(io)?;
                return Ok(false);
            };
            for (id, p) in lists {
                record.extend(id.to_le_bytes());
                record.extend(p.to_le_bytes());
            }
        }
        file.write_all(&record).map_err(io)?;
        positions += ids.len() as u64;
        bar.update(n as u64 + 1, positions, "");
    }
    file.sync_all().map_err(io)?;
    Ok(true)
}

/// The lists of a sequence for one offset; `None` if it was interrupted.
async fn lists(
    session: &mut Session,
    ids: &[u32],
    counted: usize,
    offset: usize,
    length: usize,
    interrupt: &Arc<AtomicBool>,
) -> Result<Option<Vec<Entry>>> {
    let mut lists = vec![(0, 0.0); length * LABEL_TOKENS];
    if ids.len() <= offset {
        return Ok(Some(lists));
    }
    let options = MarginalOptions::default().offset(offset).mass(1.0).max_branches(BRANCHES).top(LABEL_TOKENS);
    let mut reader = session.read_marginals(ids, &options, counted.saturating_sub(offset)).await?;
    while let Some(found) = reader.next().await? {
        if interrupt.load(SeqCst) {
            return Ok(None);
        }
        let Some(marginal) = found.marginal.filter(|_| found.position + offset >= counted) else { continue };
        let list = &mut lists[found.position * LABEL_TOKENS..][..LABEL_TOKENS];
        list.iter_mut().zip(&marginal.top).for_each(|(entry, token)| *entry = (token.id, token.p as f32));
    }
    Ok(Some(lists))
}

/// A complete file.
pub struct Labels {
    path: PathBuf,
    file: File,
    layout: Layout,
}

impl Labels {
    /// Opens the file that [`go_on`] has completed.
    pub fn open(path: &Path, layout: Layout) -> Result<Self> {
        let file = File::open(path).map_err(|error| io_error(path, &error))?;
        Ok(Self { path: path.to_owned(), file, layout })
    }

    /// The labels of a micro-batch of these sequences.
    pub fn of(&mut self, sequences: &[usize]) -> Result<LabelLists> {
        let mut lists = LabelLists::default();
        let mut record = vec![0; self.layout.record_bytes()];
        let entries = self.layout.length * LABEL_TOKENS;
        for &n in sequences {
            let start = SeekFrom::Start(self.layout.start_of(n));
            let read = self.file.seek(start).and_then(|_| self.file.read_exact(&mut record));
            read.map_err(|error| io_error(&self.path, &error))?;
            for (offset, part) in self.layout.offsets.iter().zip(record.chunks_exact(entries * ENTRY_BYTES)) {
                let (words, _) = part.as_chunks::<ENTRY_BYTES>();
                let entry = |[a, b, c, d, e, f, g, h]: &[u8; ENTRY_BYTES]| {
                    (u32::from_le_bytes([*a, *b, *c, *d]), f32::from_le_bytes([*e, *f, *g, *h]))
                };
                lists.by_offset.entry(*offset).or_default().extend(words.iter().map(entry));
            }
        }
        Ok(lists)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use foretoken::train::data::Counted;
    use std::fs;

    #[test]
    fn half_a_record_is_cut_off_and_foreign_files_are_refused() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join(FILE);
        let texts: [(&[u32], usize); 2] = [(&[1, 5, 6], 1), (&[1, 7], 0)];
        let data = Dataset::each(texts.into_iter(), 4, Counted::All).unwrap();
        let layout = |offsets: &[usize]| Layout::new(&data, offsets.iter().copied(), 4);
        let ours = layout(&[1, 2, 3]);
        assert_eq!((ours.record_bytes(), completed(&path, &ours).unwrap()), (2 * 4 * 32 * 8, 0));
        // A header that was cut off is written again.
        fs::write(&path, &ours.header[..9]).unwrap();
        assert_eq!(completed(&path, &ours).unwrap(), 0);
        assert_eq!(fs::read(&path).unwrap(), b"");
        let mut bytes = ours.header.clone();
        let entries = (0..512u32).flat_map(|n| [n.to_le_bytes(), (n as f32).to_le_bytes()].concat());
        bytes.extend(entries.take(3000));
        fs::write(&path, &bytes).unwrap();
        assert_eq!(completed(&path, &ours).unwrap(), 1);
        assert_eq!(fs::read(&path).unwrap().len() as u64, ours.start_of(1));
        let lists = Labels::open(&path, layout(&[1, 2, 3])).unwrap().of(&[0, 0]).unwrap();
        assert_eq!(lists.by_offset[&2].len(), 2 * 4 * 32);
        assert_eq!((lists.by_offset[&3][0], lists.by_offset[&3][128 + 5]), ((128, 128.0), (133, 133.0)));
        let missing = Labels::open(&path, layout(&[1, 2, 3])).unwrap().of(&[1]).unwrap_err().to_string();
        assert!(missing.contains(FILE), "{missing}");
        let refused = completed(&path, &layout(&[2])).unwrap_err().to_string();
        assert!(refused.contains("other offsets") && refused.contains("delete the file"), "{refused}");
        fs::write(&path, [&ours.header[..], &vec![0; 3 * ours.record_bytes()]].concat()).unwrap();
        assert!(completed(&path, &ours).unwrap_err().to_string().contains("bytes, got"));
    }
}
