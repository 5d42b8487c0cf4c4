//! Qwen3: Llama's blocks with a norm over each query head and key head; heads have a size of their own.

use super::{Family, LLAMA_NAMES, llama, norm_eps, qwen2};
use crate::error::Result;
use crate::format::fields::Fields;
use crate::format::spec::{Attention, ModelSpec, QkNorm};

/// The size of a head where the configuration names none.
const DEFAULT_HEAD_DIM: usize = 128;

/// The family.
pub(super) const FAMILY: Family = Family { model_type: "qwen3", spec, names: &LLAMA_NAMES, rules: &[], reads: &[] };

fn spec(fields: &Fields<'_>) -> Result<ModelSpec> {
    let head_dim = fields.size("head_dim")?.unwrap_or(DEFAULT_HEAD_DIM);
    let qk_norm = Some(QkNorm { eps: norm_eps(fields, "rms_norm_eps", 1e-6)?, offset: 0.0 });
    let attention = Attention { qk_norm, ..llama::attention(fields, head_dim)? };
    qwen2::with_windows(fields, &attention)
}
