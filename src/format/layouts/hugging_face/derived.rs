//! Tensors that the configuration says are derived, and that a file holds all the same: each is compared, and used or refused.
//!
//! What merges adapters may leave an LM head of its own beside `tie_word_embeddings: true`. transformers compares the two, and does not
//! tie them where they differ. Older programs left rotary frequencies and causal masks; of a model that was made with others, the
//! configuration is wrong.

use std::ops::Range;

use super::super::Derived;
use super::LM_HEAD;
use crate::error::{Error, Result};
use crate::format::config::ModelConfig;
use crate::format::files::Files;
use crate::format::rope::Rope;
use crate::format::safetensors::{TensorInfo, brief_shape};
use crate::format::tensors::Tensors;

/// Numbers that are compared at a time: a tensor may be larger than what a browser's memory holds.
const PART: usize = 1 << 20;

/// What is masked gets at least so low a score in every file.
const MASKED: f64 = -9e3;

/// Compares all of them, once where the files have a place for the answer.
pub(super) async fn compare<F: Files>(tensors: &Tensors<'_, F>, config: &ModelConfig) -> Result<Derived> {
    let known = tensors.files().known().map(|known| &known.0);
    if let Some(known) = known.and_then(|known| known.get()) {
        return Ok(known.clone());
    }
    let derived = Derived {
        other_head: other_head(tensors, config).await?,
        contradiction: contradiction(tensors, config).await?,
    };
    Ok(known.map_or(derived.clone(), |known| known.get_or_init(|| derived).clone()))
}

/// The name of an LM head that is not the embedding, though the configuration ties them.
async fn other_head<F: Files>(tensors: &Tensors<'_, F>, config: &ModelConfig) -> Result<Option<String>> {
    let own = config.own_lm_head_name();
    let Some(name) = [own.as_str(), LM_HEAD].into_iter().find(|name| config.spec.tied && tensors.contains(name)) else {
        return Ok(None);
    };
    // Programs that deal a model out leave tensors without elements, which say nothing.
    if tensors.skipped().get(name).is_some_and(|head| head.shape.contains(&0)) {
        return Ok(None);
    }
    let Some(embedding) = tensors.get(&config.embedding_name()) else { return Ok(None) };
    // One that cannot be read, or of another shape, is none that could be left out: whoever needs it says what is wrong.
    let same = match tensors.get(name) {
        Some(head) if head.shape == embedding.shape => are_equal(tensors, head, embedding).await?,
        _ => false,
    };
    Ok((!same).then(|| name.to_owned()))
}

async fn are_equal<F: Files>(tensors: &Tensors<'_, F>, a: &TensorInfo, b: &TensorInfo) -> Result<bool> {
    // Neither is a table of tokens if it has other dimensions; the check of shapes says so.
    let [rows, columns] = a.shape[..] else { return Ok(false) };
    let at_once = (PART / columns.max(1)).max(1);
    for start in (0..rows).step_by(at_once) {
        let part = start..rows.min(start + at_once);
        let (left, right) = (tensors.read_rows(a, part.clone()).await?, tensors.read_rows(b, part).await?);
        let equal = if a.dtype == b.dtype { left == right } else { a.dtype.decode(&left) == b.dtype.decode(&right) };
        if !equal {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What is wrong with the first buffer that does not follow from the configuration.
async fn contradiction<F: Files>(tensors: &Tensors<'_, F>, config: &ModelConfig) -> Result<Option<Error>> {
    for name in tensors.names().filter(|name| config.is_known_buffer(name)) {
        let Some(buffer) = Buffer::of(tensors, name).filter(|buffer| buffer.len() > 0) else { continue };
        let wrong = match name {
            _ if name.ends_with(".inv_freq") => match config.spec.rope() {
                Some(rope) => buffer.against_rope(rope).await?,
                None => None,
            },
            _ if name.ends_with(".masked_bias") => buffer.against_masking().await?,
            _ if name.ends_with(".attention.bias") => buffer.against_causal_mask().await?,
            _ => None,
        };
        if let Some(wrong) = wrong {
            let (file, folder) = (buffer.file, tensors.describe());
            return Ok(Some(Error::format(format!("{file} in {folder}: tensor \"{name}\": {wrong}"))));
        }
    }
    Ok(None)
}

/// Numbers of a file, of any type that buffers are written in.
struct Buffer<'a, 'f, F: Files> {
    tensors: &'a Tensors<'f, F>,
    name: &'a str,
    file: &'a str,
    shape: &'a [usize],
}

impl<'a, 'f, F: Files> Buffer<'a, 'f, F> {
    fn of(tensors: &'a Tensors<'f, F>, name: &'a str) -> Option<Self> {
        let (file, shape) = match (tensors.get(name), tensors.skipped().get(name)) {
            (Some(info), _) => (&info.file, &info.shape),
            (None, skipped) => skipped.map(|info| (&info.file, &info.shape))?,
        };
        Some(Self { tensors, name, file, shape })
    }

    fn len(&self) -> usize {
        self.shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size)).unwrap_or(usize::MAX)
    }

    /// Some of the numbers; `None` where they have a type that no buffer has.
    async fn read(&self, part: Range<usize>) -> Result<Option<Vec<f64>>> {
        let bytes = |size: usize| (part.start * size) as u64..(part.end * size) as u64;
        if let Some(info) = self.tensors.get(self.name) {
            let all = self.tensors.read_range(info, bytes(info.dtype.unit().1)).await?;
            return Ok(Some(info.dtype.decode(&all).into_iter().map(f64::from).collect()));
        }
        let info = &self.tensors.skipped()[self.name];
        let size = match &info.dtype[..] {
            "BOOL" | "U8" => 1,
            "F64" => 8,
            _ => return Ok(None),
        };
        let all = self.tensors.read_skipped(info, bytes(size)).await?;
        Ok(Some(match size {
            1 => all.iter().map(|&byte| f64::from(byte)).collect(),
            _ => all.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect(),
        }))
    }

    /// What is wrong with the frequencies of a rotation.
    async fn against_rope(&self, rope: &Rope) -> Result<Option<String>> {
        let expected = rope.inv_freq();
        if self.len() != expected.len() {
            let (wanted, shape) = (expected.len(), brief_shape(self.shape));
            return Ok(Some(format!("expected {wanted} rotary frequencies by config.json, got {shape}")));
        }
        let Some(found) = self.read(0..expected.len()).await? else { return Ok(Some(self.unreadable())) };
        // They may have been stored as halves before.
        let near = |found: f64, expected: f64| (found - expected).abs() <= expected / 128.0 + f64::from(f32::EPSILON);
        let differing = (0..expected.len()).find(|&at| !near(found[at], expected[at]));
        Ok(differing.map(|at| {
            format!(
                "the rotary frequencies of the file are not those of config.json (number {at} is {:.3e}, expected {:.3e}): the \
                 model was made with another base or scaling of its rope; state it in config.json, or remove the tensor",
                found[at], expected[at]
            )
        }))
    }

    /// What is wrong with the score of what is masked.
    async fn against_masking(&self) -> Result<Option<String>> {
        if self.len() != 1 {
            return Ok(Some(format!("expected one number, got {}", brief_shape(self.shape))));
        }
        let Some(found) = self.read(0..1).await? else { return Ok(Some(self.unreadable())) };
        let low = found[0] <= MASKED;
        Ok((!low).then(|| format!("expected a score of at most {MASKED} for what is masked, got {}", found[0])))
    }

    /// What is wrong with a mask: each position sees itself and those before it.
    async fn against_causal_mask(&self) -> Result<Option<String>> {
        let size = match self.shape {
            [.., rows, columns] if rows == columns && rows.saturating_mul(*columns) == self.len() => *rows,
            _ => return Ok(Some(format!("expected a causal mask, got {}", brief_shape(self.shape)))),
        };
        let at_once = (PART / size.max(1)).max(1);
        for start in (0..size).step_by(at_once) {
            let end = size.min(start + at_once);
            let Some(found) = self.read(start * size..end * size).await? else { return Ok(Some(self.unreadable())) };
            let wrong = (0..found.len()).find(|at| (found[*at] != 0.0) != (at % size <= start + at / size));
            if let Some(at) = wrong {
                let (row, column) = (start + at / size, at % size);
                let sees = if found[at] == 0.0 { "does not see" } else { "sees" };
                return Ok(Some(format!(
                    "the mask of the file is not causal: position {row} {sees} position {column}"
                )));
            }
        }
        Ok(None)
    }

    fn unreadable(&self) -> String {
        let dtype = self.tensors.skipped().get(self.name).map_or("", |info| &info.dtype);
        format!("a buffer of {dtype} cannot be compared with what follows from config.json")
    }
}
