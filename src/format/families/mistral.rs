//! Mistral: Llama's blocks without biases, whose positions see a window.

use super::{Family, LLAMA_NAMES, llama, num_blocks, of_blocks};
use crate::error::Result;
use crate::format::fields::Fields;
use crate::format::spec::{Attention, ModelSpec};

/// The window of transformers where the configuration has no such key, as opposed to null.
const DEFAULT_WINDOW: usize = 4096;

/// The family.
pub(super) const FAMILY: Family = Family { model_type: "mistral", spec, names: &LLAMA_NAMES, rules: &[], reads: &[] };

fn spec(fields: &Fields<'_>) -> Result<ModelSpec> {
    let default = (!fields.has_key("sliding_window")).then_some(DEFAULT_WINDOW);
    let window = fields.size("sliding_window")?.or(default);
    let attention = llama::attention(fields, llama::head_dim(fields)?)?;
    let mut block = llama::block(fields, Attention { window, qkv_bias: false, out_bias: false, ..attention })?;
    block.mlp.bias = false;
    of_blocks(fields, block.norm, vec![block; num_blocks(fields)?])
}
