//! Every variant that the constructors here can produce.

use std::collections::BTreeSet;

use super::activate::{activate_inputs_variant, activate_variant};
use super::causal::{
    causal_gather_variant, causal_scatter_variant, causal_scores_variant, causal_softmax_inputs_variant,
    causal_softmax_variant,
};
use super::head_norm::{head_norm_inputs_variant, head_norm_weights_variant};
use super::label_means::{label_mean_columns_variant, label_mean_inputs_variant, label_mean_scores_variant};
use super::lora::{lora_inputs_variant, lora_weights_variant};
use super::loss::{loss_factors_variant, loss_inputs_variant, loss_scan_variant, loss_summary_variant};
use super::mix::{mix_dot_variant, mix_softmax_inputs_variant, mix_softmax_variant, mix_variant};
use super::norm::{norm_inputs_variant, norm_weights_variant};
use super::product::{Cut, column_sums_variant, matmul_inputs_variant, matmul_weights_variant};
use super::rope_rows::rope_rows_variant;
use super::rows::{gather_rows_variant, scatter_rows_variant};
use super::step::{adamw_variant, clip_factor_variant, squares_variant};
use crate::gpu::Variant;
use crate::kernels::variants::{ACTIVATIONS, SUBGROUPS};
use crate::kernels::{KernelSet, WeightFormat};

pub(in crate::kernels) fn variants(sets: &[KernelSet]) -> BTreeSet<Variant> {
    let mut all = sequence_variants(sets);
    all.extend(layer_variants());
    all
}

/// Attention over sequences, losses, mixes.
fn sequence_variants(sets: &[KernelSet]) -> BTreeSet<Variant> {
    let mut all = BTreeSet::from([
        rope_rows_variant(),
        causal_scores_variant(),
        causal_gather_variant(),
        causal_scatter_variant(),
        gather_rows_variant(),
        scatter_rows_variant(),
        mix_softmax_variant(),
        mix_softmax_inputs_variant(),
        mix_dot_variant(),
        loss_factors_variant(),
        loss_inputs_variant(),
        head_norm_inputs_variant(),
        head_norm_weights_variant(),
        label_mean_inputs_variant(),
    ]);
    all.extend([false, true].map(mix_variant));
    for accumulate in [false, true] {
        all.extend(WeightFormat::ALL.iter().map(|&format| label_mean_columns_variant(format, accumulate)));
    }
    for &set in sets {
        all.insert(loss_summary_variant(set));
        for subgroup in SUBGROUPS {
            all.insert(causal_softmax_variant(set, subgroup));
            all.insert(causal_softmax_inputs_variant(set, subgroup));
            all.insert(loss_scan_variant(set, subgroup));
            all.insert(label_mean_scores_variant(set, subgroup));
            all.extend([false, true].map(|layer| norm_inputs_variant(set, subgroup, layer)));
        }
    }
    all
}

/// Products, norms, activations, the step.
fn layer_variants() -> Vec<Variant> {
    let mut all = vec![lora_inputs_variant(), lora_weights_variant(), column_sums_variant()];
    all.extend(Cut::ALL.map(matmul_weights_variant));
    all.extend([adamw_variant(), clip_factor_variant(), squares_variant()]);
    for switch in [false, true] {
        all.push(norm_weights_variant(switch));
        for cut in Cut::ALL {
            all.extend(WeightFormat::ALL.iter().map(|&format| matmul_inputs_variant(cut, format, switch)));
        }
        all.extend(ACTIVATIONS.map(|activation| activate_variant(activation, switch)));
        all.extend(ACTIVATIONS.map(|activation| activate_inputs_variant(activation, switch)));
    }
    all
}
