//! SmolLM3: Llama's blocks, of which every fourth rotates nothing; those may see a window.

use super::{Family, LLAMA_NAMES, llama, num_blocks, of_blocks, sliding_blocks};
use crate::error::Result;
use crate::format::fields::{Fields, brief};
use crate::format::rope::{Rope, RopeKeys};
use crate::format::spec::{Attention, ModelSpec};

/// The family.
pub(super) const FAMILY: Family =
    Family { model_type: "smollm3", spec, names: &LLAMA_NAMES, rules: &[], reads: &[ROTATING, INTERVAL] };

/// For each block 1 where it rotates and 0 where not.
const ROTATING: &str = "no_rope_layers";

/// Which blocks rotate nothing, where no list says it: those whose number, from 1, is a multiple.
const INTERVAL: &str = "no_rope_layer_interval";

/// The values of transformers where the configuration says nothing.
const DEFAULT_INTERVAL: usize = 4;
const DEFAULT_THETA: f64 = 2e6;

fn spec(fields: &Fields<'_>) -> Result<ModelSpec> {
    let head_dim = llama::head_dim(fields)?;
    let keys = RopeKeys { theta: &["rope_theta"], default_theta: DEFAULT_THETA, ..RopeKeys::WHOLE };
    let rotating = llama::attention_with(fields, head_dim, Rope::parse(fields, &keys, head_dim)?)?;
    let still = Attention { rope: Rope::none(), ..rotating.clone() };
    let rotates = rotates(fields)?;
    let windows = windows(fields, &rotates)?;
    let block = |(rotates, window): (bool, Option<usize>)| {
        let attention = if rotates { &rotating } else { &still };
        llama::block(fields, Attention { window, ..attention.clone() })
    };
    let blocks: Result<_> = rotates.into_iter().zip(windows).map(block).collect();
    let spec = of_blocks(fields, llama::norm(fields)?, blocks?)?;
    Ok(ModelSpec { tied: fields.flag("tie_word_embeddings")?.unwrap_or(true), ..spec })
}

/// Whether each block rotates.
fn rotates(fields: &Fields<'_>) -> Result<Vec<bool>> {
    let count = num_blocks(fields)?;
    let Some(list) = fields.get(ROTATING) else {
        let interval = fields.size(INTERVAL)?.unwrap_or(DEFAULT_INTERVAL);
        return Ok((1..=count).map(|number| number % interval != 0).collect());
    };
    let wrong = || fields.error(format!("`{ROTATING}`: expected {count} times 0 or 1, got {}", brief(list)));
    // There may be more of them than blocks.
    let entries = list.as_array().filter(|entries| entries.len() >= count).ok_or_else(wrong)?;
    entries[..count]
        .iter()
        .map(|entry| entry.as_u64().filter(|&one| one < 2).map(|one| one == 1).ok_or_else(wrong))
        .collect()
}

/// The window of each block: of those that `layer_types` names, else of those that do not rotate.
fn windows(fields: &Fields<'_>, rotates: &[bool]) -> Result<Vec<Option<usize>>> {
    let on = fields.flag("use_sliding_window")?.unwrap_or(false);
    let window = if on { fields.size("sliding_window")? } else { None };
    let sliding = sliding_blocks(fields, rotates.len())?;
    if window.is_none() && sliding.as_ref().is_some_and(|sliding| sliding.contains(&true)) {
        return Err(fields.error("`layer_types` has \"sliding_attention\", but no window is on"));
    }
    let sliding = sliding.unwrap_or_else(|| rotates.iter().map(|rotates| !rotates).collect());
    Ok(sliding.into_iter().map(|sliding| window.filter(|_| sliding)).collect())
}
