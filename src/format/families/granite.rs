//! Granite: Llama's blocks with factors of the embedding, the scores, what blocks add to the stream, and the logits.

use super::{Family, LLAMA_NAMES, llama, num_blocks, of_blocks};
use crate::error::Result;
use crate::format::fields::Fields;
use crate::format::spec::{Attention, ModelSpec};

/// The family.
pub(super) const FAMILY: Family = Family {
    model_type: "granite",
    spec,
    names: &LLAMA_NAMES,
    rules: &[],
    reads: &[EMBEDDING, SCORES, RESIDUAL, LOGITS],
};

const EMBEDDING: &str = "embedding_multiplier";
const SCORES: &str = "attention_multiplier";
const RESIDUAL: &str = "residual_multiplier";
/// What the logits are divided by.
const LOGITS: &str = "logits_scaling";

fn spec(fields: &Fields<'_>) -> Result<ModelSpec> {
    let attention = llama::attention(fields, llama::head_dim(fields)?)?;
    let mut block = llama::block(fields, Attention { scale: factor(fields, SCORES)?, ..attention })?;
    block.residual_scale = factor(fields, RESIDUAL)?;
    Ok(ModelSpec {
        embedding_scale: factor(fields, EMBEDDING)?,
        logit_scale: 1.0 / factor(fields, LOGITS)?,
        ..of_blocks(fields, block.norm, vec![block; num_blocks(fields)?])?
    })
}

fn factor(fields: &Fields<'_>, key: &str) -> Result<f32> {
    let factor = fields.positive(key)?.unwrap_or(1.0) as f32;
    // One of them is divided by.
    if factor.is_normal() && factor.recip().is_normal() {
        return Ok(factor);
    }
    Err(fields.error(format!("`{key}`: expected a positive number that f32 can hold, got {}", fields.got(key))))
}
