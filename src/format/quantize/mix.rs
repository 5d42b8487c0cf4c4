//! Which type each tensor of a file gets.

use super::{Origin, Tensor};
use crate::format::stored::StoredType;

/// A type that files can be written in.
#[derive(Debug, PartialEq, Eq)]
pub struct TargetType {
    /// The name.
    pub name: &'static str,
    /// What llama.cpp calls the mix.
    pub mix_name: Option<&'static str>,
    /// The type of most matrices.
    pub(super) main: StoredType,
    /// The number of the mix in files.
    pub(super) file_type: u32,
    finer: Finer,
}

/// The matrices that are kept finer than most.
#[derive(Debug, PartialEq, Eq)]
enum Finer {
    Nothing,
    /// The LM head.
    Head,
    /// The LM head, and in some blocks values and the projection down.
    HeadAndBlocks,
}

const fn target(name: &'static str, main: StoredType, file_type: u32, finer: Finer) -> TargetType {
    TargetType { name, mix_name: None, main, file_type, finer }
}

/// Every type that files can be written in, the finest first.
pub const TARGETS: &[TargetType] = &[
    target("f32", StoredType::F32, 0, Finer::Nothing),
    target("f16", StoredType::F16, 1, Finer::Nothing),
    target("bf16", StoredType::BF16, 32, Finer::Nothing),
    target("q8_0", StoredType::Q8_0, 7, Finer::Nothing),
    target("q6_k", StoredType::Q6K, 18, Finer::Head),
    TargetType { mix_name: Some("q5_k_m"), ..target("q5_k", StoredType::Q5K, 17, Finer::HeadAndBlocks) },
    target("q5_1", StoredType::Q5_1, 9, Finer::Head),
    target("q5_0", StoredType::Q5_0, 8, Finer::Head),
    TargetType { mix_name: Some("q4_k_m"), ..target("q4_k", StoredType::Q4K, 15, Finer::HeadAndBlocks) },
    target("q4_1", StoredType::Q4_1, 3, Finer::Head),
    target("q4_0", StoredType::Q4_0, 2, Finer::Head),
];

/// What decides on the types of a model.
pub(super) struct Mix {
    pub target: &'static TargetType,
    /// Whether the embedding is the LM head.
    pub tied: bool,
    /// Blocks of the model.
    pub blocks: usize,
}

impl Mix {
    /// The type that a tensor gets, `None` where it keeps its bytes; and what to tell where its rows do not fit.
    pub fn of(&self, tensor: &Tensor) -> (Option<StoredType>, Option<String>) {
        let has = match &tensor.from {
            Origin::Bytes(_) | Origin::Numbers(_) => return (None, None),
            Origin::File(info) => Some(info.dtype),
            Origin::Other { .. } => None,
        };
        if !is_matrix(tensor) {
            // Programs expect norms and biases in F32; whoever wrote a file knew that.
            return (if has.is_some() { None } else { Some(StoredType::F32) }, None);
        }
        let wanted = self.wanted(&tensor.name);
        let fits = fitting(wanted, *tensor.shape.last().unwrap_or(&0));
        let note = (fits != wanted).then(|| {
            let (inputs, (weights, _)) = (tensor.shape.last().unwrap_or(&0), wanted.unit());
            format!(
                "rows of {inputs} weights are no whole blocks of {wanted}, which have {weights}: {fits} takes its place"
            )
        });
        (Some(fits).filter(|fits| has != Some(*fits)), note)
    }

    /// The type of a matrix whose rows are whole blocks of any.
    fn wanted(&self, name: &str) -> StoredType {
        let finer = match self.target.finer {
            Finer::Nothing => false,
            Finer::Head => self.is_head(name),
            Finer::HeadAndBlocks => self.is_head(name) || self.is_finer_in_blocks(name),
        };
        if finer { StoredType::Q6K } else { self.target.main }
    }

    fn is_head(&self, name: &str) -> bool {
        name == if self.tied { "token_embd.weight" } else { "output.weight" }
    }

    /// Whether it is of values or a projection down, in the first eighth of the blocks, the last, or every third between.
    fn is_finer_in_blocks(&self, name: &str) -> bool {
        let Some((block, part)) = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else { return false };
        let (Ok(block), eighth) = (block.parse::<usize>(), self.blocks / 8) else { return false };
        let chosen = block < eighth || block >= 7 * self.blocks / 8 || (block - eighth) % 3 == 2;
        chosen && matches!(part, "attn_v.weight" | "ffn_down.weight")
    }
}

/// Whether a tensor is a product's matrix.
fn is_matrix(tensor: &Tensor) -> bool {
    let Tensor { name, shape, .. } = tensor;
    // Convolutions over a few positions have short rows, and few weights.
    shape.len() == 2 && name.ends_with(".weight") && !name.ends_with("_norm.weight") && !name.contains("conv1d")
}

/// The type itself where `inputs` weights are whole blocks of it, else what takes its place.
fn fitting(wanted: StoredType, inputs: usize) -> StoredType {
    let is_whole = |stored: &StoredType| inputs.is_multiple_of(stored.unit().0);
    let smaller_blocks = match wanted {
        StoredType::Q4K => StoredType::Q5_0,
        StoredType::Q5K => StoredType::Q5_1,
        StoredType::Q6K => StoredType::Q8_0,
        other => other,
    };
    [wanted, smaller_blocks].into_iter().find(is_whole).unwrap_or(StoredType::F16)
}
