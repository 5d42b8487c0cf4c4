//! The names that llama.cpp gives to tensors, and those of the families.

use super::config::Architecture;
use crate::format::config::ModelConfig;
use crate::format::files::Files;
use crate::format::layouts::tensor_name;
use crate::format::spec::{BlockRole, Part, Role};
use crate::format::tensors::Tensors;

/// The tensor of what the rope's frequencies are divided by.
pub(super) const ROPE: &str = "rope_freqs.weight";

const EMBEDDING: &str = "token_embd";
const FINAL_NORM: &str = "output_norm";
const LM_HEAD: &str = "output";

/// The parts of a block.
const BLOCK: [(&str, BlockRole); 13] = [
    ("attn_norm", BlockRole::MixerNorm),
    ("attn_q", BlockRole::Query),
    ("attn_k", BlockRole::Key),
    ("attn_v", BlockRole::Value),
    ("attn_q_norm", BlockRole::QueryNorm),
    ("attn_k_norm", BlockRole::KeyNorm),
    ("attn_output", BlockRole::Output),
    ("post_attention_norm", BlockRole::MixerPostNorm),
    ("ffn_norm", BlockRole::MlpNorm),
    ("post_ffw_norm", BlockRole::MlpPostNorm),
    ("ffn_gate", BlockRole::Gate),
    ("ffn_up", BlockRole::Up),
    ("ffn_down", BlockRole::Down),
];

/// The parts that the layer of a multi-token head has beside a block's, as DeepSeek-V3's layout calls them.
const HEAD: [(&str, &str); 6] = [
    ("nextn.eh_proj", "eh_proj"),
    ("nextn.enorm", "enorm"),
    ("nextn.hnorm", "hnorm"),
    ("nextn.embed_tokens", "embed_tokens"),
    ("nextn.shared_head_norm", "shared_head.norm"),
    ("nextn.shared_head_head", "shared_head.head"),
];

/// The parts of a block of Qwen3.5 that others have not, or call otherwise.
pub(super) const QWEN3_5: &[(&str, BlockRole)] = &[
    ("post_attention_norm", BlockRole::MlpNorm),
    ("attn_qkv", BlockRole::DeltaInput),
    ("attn_gate", BlockRole::DeltaGate),
    ("ssm_beta", BlockRole::DeltaBeta),
    ("ssm_alpha", BlockRole::DeltaDecay),
    (CONV, BlockRole::DeltaConv),
    ("ssm_norm", BlockRole::DeltaNorm),
    ("ssm_out", BlockRole::DeltaOutput),
    ("ssm_a", BlockRole::DeltaRate),
    ("ssm_dt.bias", BlockRole::DeltaBias),
];

const CONV: &str = "ssm_conv1d";

/// Gives the tensors the names of the model's family, and notes whose rows are interleaved.
pub(super) fn rename<F: Files>(tensors: &mut Tensors<'_, F>, config: &ModelConfig, architecture: &Architecture) {
    if architecture.interleaved {
        let head = config.head_dim;
        tensors.interleave(head, &|name| matches!(part_of_block(name), Some((_, "attn_q" | "attn_k", _))));
    }
    tensors.add_dimension(&|name| matches!(part_of_block(name), Some((_, CONV, _))));
    let parts = architecture.parts;
    tensors.rename_all(&|name| family_name(name, config, parts).unwrap_or_else(|| name.to_owned()));
}

/// What files call the tensor of a role; `None` where they have none like it.
pub(super) fn of_role(role: Role) -> Option<String> {
    Some(match role {
        Role::Embedding => tensor_name(EMBEDDING, Part::Weight),
        Role::FinalNorm(part) => tensor_name(FINAL_NORM, part),
        Role::LmHead => tensor_name(LM_HEAD, Part::Weight),
        Role::Block(block, role, part) => {
            let (module, _) = BLOCK.iter().find(|(_, known)| *known == role)?;
            tensor_name(&format!("blk.{block}.{module}"), part)
        }
    })
}

/// The number of the block, the module within it, and the part of that, of a tensor called `name`.
fn part_of_block(name: &str) -> Option<(usize, &str, Part)> {
    let (number, module) = name.strip_prefix("blk.")?.split_once('.')?;
    let (module, part) = split_part(module)?;
    Some((number.parse().ok()?, module, part))
}

/// The number of the block and the role of a tensor that is a role by itself, whose family's name has no ending.
fn bare_part(name: &str, parts: &[(&str, BlockRole)]) -> Option<(usize, BlockRole)> {
    let (number, module) = name.strip_prefix("blk.")?.split_once('.')?;
    let (_, role) = parts.iter().find(|(known, _)| *known == module)?;
    Some((number.parse().ok()?, *role))
}

fn split_part(name: &str) -> Option<(&str, Part)> {
    let weight = name.strip_suffix(".weight").map(|module| (module, Part::Weight));
    weight.or_else(|| name.strip_suffix(".bias").map(|module| (module, Part::Bias)))
}

fn family_name(name: &str, config: &ModelConfig, parts: &[(&str, BlockRole)]) -> Option<String> {
    let names = config.names;
    if let Some((at, role)) = bare_part(name, parts) {
        return names.find(role).map(|place| place.in_block(&names.block_name(at)));
    }
    let Some((block, module, part)) = part_of_block(name) else {
        let (module, part) = split_part(name)?;
        let module = match module {
            EMBEDDING => names.embedding,
            FINAL_NORM => names.final_norm,
            LM_HEAD => names.lm_head,
            _ => return None,
        };
        return Some(tensor_name(module, part));
    };
    let at = names.block_name(block);
    if let Some((_, module)) = HEAD.iter().find(|(known, _)| *known == module) {
        return Some(tensor_name(&format!("{at}.{module}"), part));
    }
    let role = parts.iter().chain(&BLOCK).find(|(known, _)| *known == module).map(|(_, role)| role);
    let place = role.and_then(|role| names.find(*role));
    // A part that the family has not keeps its name, but in the block: to leave it out would change what the model computes.
    Some(tensor_name(&place.map_or_else(|| format!("{at}.{module}"), |place| place.in_block(&at)), part))
}

/// The first block with a part that only heads have.
pub(super) fn first_head<'a>(names: impl Iterator<Item = &'a String>) -> Option<usize> {
    names
        .filter_map(|name| part_of_block(name).filter(|(_, module, _)| module.starts_with("nextn.")))
        .map(|(block, ..)| block)
        .min()
}
