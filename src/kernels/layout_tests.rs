//! One truth for every struct: the fields of the Rust structs lie where naga says the shaders read them.

use std::collections::{BTreeMap, BTreeSet};

use super::shader_tests::validated;
use crate::kernels::attention::{ScoresParams, SoftmaxParams, ValuesParams};
use crate::kernels::head_norm::HeadNormParams;
use crate::kernels::hidden::{CompactHiddenParams, CopyHiddenParams};
use crate::kernels::lora::LoraParams;
use crate::kernels::matmul::MatmulParams;
use crate::kernels::mixture::{MixtureParams, NormalizerParams};
use crate::kernels::norm::NormParams;
use crate::kernels::rope_cache::RopeParams;
use crate::kernels::siblings::SiblingsParams;
use crate::kernels::trace::TraceParams;
use crate::kernels::train::AdamStep;
use crate::kernels::train::activate::ActivateParams;
use crate::kernels::train::causal::{CausalParams, CausalSoftmaxParams};
use crate::kernels::train::head_norm::HeadNormWeightsParams;
use crate::kernels::train::label_means::{LabelMeanColumnsParams, LabelMeanParams};
use crate::kernels::train::lora::LoraWeightsParams;
use crate::kernels::train::loss::{LossFactorsParams, LossParams, LossSummaryParams};
use crate::kernels::train::mix::{MixDotParams, MixParams, MixSoftmaxParams};
use crate::kernels::train::norm::{NormInputsParams, NormWeightsParams};
use crate::kernels::train::product::{ColumnSumsParams, ProductParams};
use crate::kernels::train::rope_rows::RopeRowsParams;
use crate::kernels::train::rows::PickParams;
use crate::kernels::train::step::{AdamParams, ClipParams, SquaresParams};
use crate::kernels::tree::{CompactParams, DraftTopParams};
use crate::kernels::variants::all_variants;
use crate::kernels::{
    Branch, CommitParams, Cursor, EmbedParams, LogProbsParams, Nucleus, NucleusParams, Partials, RankingParams, Row,
    SampleParams, ShiftTokensParams, StageWindowParams, State, Tree,
};

/// Field names and offsets, padding left out, and the size.
#[derive(Clone, Debug, PartialEq)]
struct Layout {
    fields: BTreeMap<String, u32>,
    size: u32,
}

macro_rules! layout {
    ($ty:ident: $($field:ident),*) => {
        Layout {
            fields: [$((stringify!($field).to_owned(), std::mem::offset_of!($ty, $field) as u32)),*].into(),
            size: size_of::<$ty>() as u32,
        }
    };
}

/// The `Params` of each shader.
fn params(shader: &str) -> Option<Layout> {
    Some(match shader {
        "activate" | "activate_inputs" => layout!(ActivateParams: inner4),
        "adamw" => layout!(AdamParams: count4, scale),
        "attention_scores" => layout!(ScoresParams: heads, kv_heads, head_dim4, stride4, context, window, scale),
        "attention_softmax" => layout!(SoftmaxParams: heads, context, window),
        "attention_values" => layout!(ValuesParams: heads, kv_heads, head_dim4, context, window, stride4),
        "clip_factor" => layout!(ClipParams: count, max_norm),
        "column_sums" => layout!(ColumnSumsParams: rows, columns4, stride4, first4),
        "commit" => layout!(CommitParams: num_end_tokens, vocab, context, end_tokens),
        "compact_cache" => layout!(CompactParams: kv_heads, head_dim4, context),
        "copy_hidden" => layout!(CopyHiddenParams: width4, slots, x_place, y_place, accumulate, weight),
        "draft_top" => layout!(DraftTopParams: depth),
        "embed" => layout!(EmbedParams: width, stride, first, count),
        "compact_hidden" => layout!(CompactHiddenParams: width4, slots),
        "head_norm" | "head_norm_inputs" => layout!(HeadNormParams: heads, kv_heads, width, head_dim4, eps),
        "head_norm_weights" => layout!(HeadNormWeightsParams: rows, heads, kv_heads, head_dim),
        "log_probs" => layout!(LogProbsParams: vocab, stride),
        "lora" | "lora_inputs" => layout!(LoraParams: columns4, rank, t_stride),
        "lora_weights" => layout!(LoraWeightsParams: columns4, rank, t_stride, rows),
        "matmul" | "matmul_tiled" => layout!(MatmulParams: columns4, inputs4, x_stride4, y_stride4, y_first4),
        "matmul_inputs" | "matmul_inputs_tiled" | "matmul_weights" | "matmul_weights_tiled" => {
            layout!(ProductParams: rows, columns4, inputs4, x_stride4, x_first4, y_stride4, y_first4)
        }
        "mixture" => layout!(MixtureParams: stride4),
        "norm" => layout!(NormParams: width, stride, eps, logit_rows),
        "norm_inputs" => layout!(NormInputsParams: width, stride, eps),
        "norm_weights" => layout!(NormWeightsParams: rows, width, stride),
        "normalizer" => layout!(NormalizerParams: stride),
        "nucleus" => layout!(NucleusParams: vocab, stride, mass, most, capacity),
        "ranking" => layout!(RankingParams: vocab, stride, top),
        "rope_cache" => layout!(RopeParams: heads, kv_heads, head_dim, rotary_dim, stride, context),
        "squares" => layout!(SquaresParams: count4, slot),
        "trace" => layout!(TraceParams: vocab, stride),
        "siblings" => layout!(SiblingsParams: context),
        "shift_tokens" => layout!(ShiftTokensParams: ahead, vocab),
        "stage_window" => layout!(StageWindowParams: num_rows, context, adapter),
        "rope_rows" => layout!(RopeRowsParams: rows, length, rotating, head_dim, half, stride, back),
        "causal_scores" | "causal_gather" | "causal_scatter" => {
            layout!(
                CausalParams: length, heads, kv_heads, head_dim4, a_stride4, a_first4, b_stride4, b_first4, window, scale
            )
        }
        "causal_softmax" | "causal_softmax_inputs" => layout!(CausalSoftmaxParams: length, heads, window),
        "gather_rows" | "scatter_rows" => layout!(PickParams: picked, width4),
        "mix" => layout!(MixParams: count4, index),
        "mix_dot" => layout!(MixDotParams: count4, index),
        "mix_softmax" | "mix_softmax_inputs" => layout!(MixSoftmaxParams: layers, temperature),
        "loss_scan" | "loss_inputs" => layout!(LossParams: picked, first, count, stride4, choice),
        "loss_summary" => layout!(LossSummaryParams: picked, slot, labels),
        "label_mean_columns" => layout!(LabelMeanColumnsParams: picked, width4, top, first, count, columns4),
        "label_mean_scores" | "label_mean_inputs" => layout!(LabelMeanParams: picked, width4, slot),
        "loss_factors" => layout!(LossFactorsParams: heads, balance, weight),
        _ => return None,
    })
}

fn reflected(module: &naga::Module, name: &str) -> Option<Layout> {
    module.types.iter().find(|(_, ty)| ty.name.as_deref() == Some(name)).and_then(|(_, ty)| {
        let naga::TypeInner::Struct { members, span } = &ty.inner else { return None };
        let named = members.iter().map(|member| (member.name.clone().unwrap_or_default(), member.offset));
        Some(Layout { fields: named.filter(|(name, _)| !name.starts_with("pad")).collect(), size: *span })
    })
}

#[test]
fn structs_lie_as_the_shaders_read_them() {
    let row = layout!(Row: token, position, mask, target_token, adapter);
    let state = layout!(State: committed, length, limit, done, num_rows, logit_row, emitted, rounds);
    let tree = layout!(Tree: num_rows, depth, ranks, nodes);
    let sampling = layout!(SampleParams: vocab, stride, temperature, repetition_penalty, top_k, top_p, min_p, seed);
    let branch = layout!(Branch: token, probability);
    let nucleus = layout!(Nucleus: count, size, covered, left_out, position, first);
    let cursor = layout!(Cursor: nucleus, first, chunk, most, advance);
    let partials = layout!(Partials: vocab, stride, first);
    let adam_step = layout!(AdamStep: rate, decay, beta1, beta2, eps, correction1, correction2);
    // Elements of arrays: their size counts too.
    let shared = [
        ("Row", row),
        ("State", state),
        ("Tree", tree),
        ("Sampling", sampling),
        ("Branch", branch),
        ("Nucleus", nucleus),
        ("Cursor", cursor),
        ("AdamStep", adam_step),
        ("Partials", partials),
    ];
    let mut unseen: BTreeSet<&str> = shared.iter().map(|(name, _)| *name).collect();
    for variant in all_variants() {
        let (module, _) = validated(&variant).expect("every variant is valid");
        for (name, ours) in &shared {
            if let Some(theirs) = reflected(&module, name) {
                assert_eq!(theirs, *ours, "{name} of {}", variant.label());
                unseen.remove(name);
            }
        }
        let Some(theirs) = reflected(&module, "Params") else { continue };
        let ours = params(variant.shader).unwrap_or_else(|| panic!("{}: add its params here", variant.shader));
        assert_eq!(theirs.fields, ours.fields, "Params of {}", variant.label());
        assert!(ours.size.next_multiple_of(16) >= theirs.size, "Params of {}", variant.label());
    }
    assert!(unseen.is_empty(), "no shader has a struct of these names: {unseen:?}");
}
