//! Gemma 2: blocks as Gemma 3's but without norms of heads, every other one with a window, and soft caps of scores and logits.

use super::{Family, gemma3, llama, num_blocks, sliding_blocks, whole_rope};
use crate::error::Result;
use crate::format::fields::Fields;
use crate::format::refusals::Neutral;
use crate::format::spec::{Attention, ModelSpec};

/// The family.
pub(super) const FAMILY: Family = Family {
    model_type: "gemma2",
    spec,
    names: &gemma3::NAMES,
    rules: &[("use_bidirectional_attention", Neutral::Off)],
    reads: &["attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar"],
};

/// The values of transformers where the configuration says nothing; `null` is no cap.
const DEFAULT_SCORE_CAP: f64 = 50.0;
const DEFAULT_LOGIT_CAP: f64 = 30.0;

fn spec(fields: &Fields<'_>) -> Result<ModelSpec> {
    let count = num_blocks(fields)?;
    let by_pattern = || (0..count).map(|block| block % 2 == 0).collect();
    let sliding = sliding_blocks(fields, count)?.unwrap_or_else(by_pattern);
    let (local, global) = (attention(fields, true)?, attention(fields, false)?);
    let logit_softcap = softcap(fields, "final_logit_softcapping", DEFAULT_LOGIT_CAP)?;
    Ok(ModelSpec { logit_softcap, ..gemma3::model(fields, &sliding, &local, &global)? })
}

fn attention(fields: &Fields<'_>, sliding: bool) -> Result<Attention> {
    let head_dim = gemma3::head_dim(fields)?;
    Ok(Attention {
        scale: gemma3::scale(fields)?,
        softcap: softcap(fields, "attn_logit_softcapping", DEFAULT_SCORE_CAP)?,
        window: if sliding { Some(gemma3::window(fields)?) } else { None },
        ..llama::attention_with(fields, head_dim, whole_rope(fields, head_dim)?)?
    })
}

fn softcap(fields: &Fields<'_>, key: &str, default: f64) -> Result<Option<f32>> {
    let cap = if fields.has_key(key) { fields.positive(key)? } else { Some(default) };
    match cap.map(|cap| cap as f32) {
        // What kernels divide by.
        Some(cap) if !(cap.is_normal() && cap.recip().is_normal()) => {
            Err(fields.error(format!("`{key}`: expected a positive number that f32 can hold, got {cap:e}")))
        }
        cap => Ok(cap),
    }
}
