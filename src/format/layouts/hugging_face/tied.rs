//! An LM head that the configuration says is the embedding, and that is not.
//!
//! What merges adapters may leave a head of its own beside `tie_word_embeddings: true`. transformers compares the two, and does not
//! tie them where they differ.

use super::LM_HEAD;
use crate::error::Result;
use crate::format::config::ModelConfig;
use crate::format::files::Files;
use crate::format::safetensors::TensorInfo;
use crate::format::tensors::Tensors;

/// Numbers that are compared at a time: a head may be larger than what a browser's memory holds.
const PART: usize = 1 << 20;

/// The name of an LM head that is not the embedding, though the configuration ties them.
pub(super) async fn other_head<F: Files>(tensors: &Tensors<'_, F>, config: &ModelConfig) -> Result<Option<String>> {
    let own = config.own_lm_head_name();
    let Some(name) = [own.as_str(), LM_HEAD].into_iter().find(|name| config.spec.tied && tensors.contains(name)) else {
        return Ok(None);
    };
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
