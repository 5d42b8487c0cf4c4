//! Qwen2: Llama's blocks with biases on queries, keys and values; the upper blocks may see a window.

use super::{Family, LLAMA_NAMES, llama, num_blocks, of_blocks, sliding_blocks};
use crate::error::Result;
use crate::format::fields::Fields;
use crate::format::spec::{Attention, ModelSpec};

/// The window of transformers where the configuration names none.
const DEFAULT_WINDOW: usize = 4096;

/// The first block with a window, where the configuration does not say.
const DEFAULT_FULL_BLOCKS: usize = 28;

/// The family.
pub(super) const FAMILY: Family = Family { model_type: "qwen2", spec, names: &LLAMA_NAMES, rules: &[], reads: &[] };

fn spec(fields: &Fields<'_>) -> Result<ModelSpec> {
    let attention =
        Attention { qkv_bias: true, out_bias: false, ..llama::attention(fields, llama::head_dim(fields)?)? };
    with_windows(fields, &attention)
}

/// Llama's blocks with this attention, and the windows that the configuration gives to some.
pub(super) fn with_windows(fields: &Fields<'_>, attention: &Attention) -> Result<ModelSpec> {
    let block = |window| llama::block(fields, Attention { window, ..attention.clone() });
    let blocks: Result<_> = windows(fields)?.into_iter().map(block).collect();
    of_blocks(fields, llama::norm(fields)?, blocks?)
}

/// The window of each block: by `layer_types`, else of the blocks from `max_window_layers` on.
fn windows(fields: &Fields<'_>) -> Result<Vec<Option<usize>>> {
    let count = num_blocks(fields)?;
    let window = match fields.flag("use_sliding_window")?.unwrap_or(false) {
        true => Some(fields.size("sliding_window")?.unwrap_or(DEFAULT_WINDOW)),
        false => None,
    };
    let Some(sliding) = sliding_blocks(fields, count)? else {
        let full =
            if fields.has_key("max_window_layers") { fields.count("max_window_layers")? } else { DEFAULT_FULL_BLOCKS };
        return Ok((0..count).map(|block| window.filter(|_| block >= full)).collect());
    };
    if window.is_none() && sliding.contains(&true) {
        return Err(fields.error("`layer_types` has \"sliding_attention\", but `use_sliding_window` is off"));
    }
    Ok(sliding.into_iter().map(|sliding| window.filter(|_| sliding)).collect())
}
