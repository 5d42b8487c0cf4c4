//! Every variant that the kernels' constructors can produce: for whoever must see all shaders, such as the tests.

use std::collections::BTreeSet;

use crate::format::safetensors::Dtype;
use crate::gpu::Variant;
use crate::gpu::composer;
use crate::kernels::attention::{scores_variant, softmax_variant, values_variant};
use crate::kernels::bench::{bench_copy_variant, bench_read_variant};
use crate::kernels::commit::commit_variant;
use crate::kernels::embed::embed_variant;
use crate::kernels::hidden::{carry_variant, keep_variant};
use crate::kernels::log_probs::log_probs_variant;
use crate::kernels::lora::lora_variant;
use crate::kernels::matmul::{Activation, MatmulForm};
use crate::kernels::mixture::{mixture_variant, normalizer_variant};
use crate::kernels::norm::norm_variant;
use crate::kernels::nucleus::nucleus_variant;
use crate::kernels::ranking::ranking_variant;
use crate::kernels::rope_cache::rope_cache_variant;
use crate::kernels::sample::sample_variant;
use crate::kernels::star::star_variant;
use crate::kernels::trace::trace_variant;
use crate::kernels::train::activate::{activate_inputs_variant, activate_variant};
use crate::kernels::train::lora::{lora_inputs_variant, lora_weights_variant};
use crate::kernels::train::norm::{norm_inputs_variant, norm_weights_variant};
use crate::kernels::train::product::{Cut, column_sums_variant, matmul_inputs_variant, matmul_weights_variant};
use crate::kernels::train::step::{adamw_variant, clip_factor_variant, squares_variant};
use crate::kernels::tree::{
    compact_cache_variant, draft_lookup_variant, draft_script_variant, draft_top_variant, tree_rows_variant,
};
use crate::kernels::window::{shift_variant, window_variant};
use crate::kernels::{KernelSet, Widths, train};

pub(crate) const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::BF16];

pub(crate) const ACTIVATIONS: [Activation; 4] =
    [Activation::None, Activation::Silu, Activation::Gelu, Activation::GeluTanh];

/// Subgroup sizes of known adapters.
const SUBGROUPS: [u32; 6] = [4, 8, 16, 32, 64, 128];

/// Names of all shaders that the kernels of `set` can need on any adapter, and their WGSL.
///
/// Drivers and browsers compile WGSL each in their own way: this is for pages and programs that try them all.
pub fn shaders(set: KernelSet) -> Vec<(String, String)> {
    variants(&[set]).iter().map(|variant| (variant.label(), composer::link(variant).wgsl)).collect()
}

/// The variants of all sets.
#[cfg(test)]
pub(crate) fn all_variants() -> BTreeSet<Variant> {
    variants(&KernelSet::ALL)
}

fn variants(sets: &[KernelSet]) -> BTreeSet<Variant> {
    let mut all = BTreeSet::from([commit_variant(), rope_cache_variant(), scores_variant()]);
    all.extend([tree_rows_variant(), draft_script_variant(), compact_cache_variant()]);
    all.extend([star_variant(), mixture_variant()]);
    all.extend([bench_copy_variant(), bench_read_variant()]);
    all.extend([carry_variant(), keep_variant(), lora_variant(), shift_variant(), window_variant()]);
    all.extend(DTYPES.map(embed_variant));
    all.extend(training_variants());
    all.extend(sequence_variants(sets));
    for &set in sets {
        all.extend([values_variant(set), sample_variant(set), draft_lookup_variant(set), trace_variant(set)]);
        all.extend([false, true].map(|probabilities| draft_top_variant(set, probabilities)));
        all.extend([nucleus_variant(set), normalizer_variant(set), ranking_variant(set)]);
        all.extend(SUBGROUPS.iter().flat_map(|&subgroup| reductions(set, subgroup)));
    }
    for form in matmul_forms(sets) {
        all.extend(form.widths.rows().iter().map(|&rows| form.narrow(rows)));
        all.extend(form.tiled());
    }
    for (set, dtype) in sets.iter().flat_map(|&set| DTYPES.map(|dtype| (set, dtype))) {
        all.insert(MatmulForm::plain(set, Widths::Fixed, dtype).with_peaks(8));
    }
    all
}

/// Training: attention over sequences, losses, mixes.
fn sequence_variants(sets: &[KernelSet]) -> BTreeSet<Variant> {
    let mut all = BTreeSet::from([
        train::rope_rows::rope_rows_variant(),
        train::causal::causal_scores_variant(),
        train::causal::causal_gather_variant(),
        train::causal::causal_scatter_variant(),
        train::rows::gather_rows_variant(),
        train::rows::scatter_rows_variant(),
        train::mix::mix_softmax_variant(),
        train::mix::mix_softmax_inputs_variant(),
        train::mix::mix_dot_variant(),
        train::loss::loss_factors_variant(),
        train::loss::loss_inputs_variant(),
        train::aims::aim_inputs_variant(),
    ]);
    all.extend([false, true].map(train::mix::mix_variant));
    for accumulate in [false, true] {
        all.extend(DTYPES.map(|dtype| train::aims::aim_columns_variant(dtype, accumulate)));
    }
    for &set in sets {
        all.insert(train::loss::loss_summary_variant(set));
        for subgroup in SUBGROUPS {
            all.insert(train::causal::causal_softmax_variant(set, subgroup));
            all.insert(train::causal::causal_softmax_inputs_variant(set, subgroup));
            all.insert(train::loss::loss_scan_variant(set, subgroup));
            all.insert(train::aims::aim_scores_variant(set, subgroup));
        }
    }
    all
}

fn reductions(set: KernelSet, subgroup: u32) -> [Variant; 6] {
    [
        softmax_variant(set, subgroup),
        log_probs_variant(set, subgroup),
        norm_variant(set, subgroup, false),
        norm_variant(set, subgroup, true),
        norm_inputs_variant(set, subgroup, false),
        norm_inputs_variant(set, subgroup, true),
    ]
}

fn training_variants() -> Vec<Variant> {
    let mut all = vec![lora_inputs_variant(), lora_weights_variant(), column_sums_variant()];
    all.extend(Cut::ALL.map(matmul_weights_variant));
    all.extend([adamw_variant(), clip_factor_variant(), squares_variant()]);
    for switch in [false, true] {
        all.push(norm_weights_variant(switch));
        for cut in Cut::ALL {
            all.extend(DTYPES.map(|dtype| matmul_inputs_variant(cut, dtype, switch)));
        }
        all.extend(ACTIVATIONS.map(|activation| activate_variant(activation, switch)));
        all.extend(ACTIVATIONS.map(|activation| activate_inputs_variant(activation, switch)));
    }
    all
}

/// Every product there is.
pub(crate) fn matmul_forms(sets: &[KernelSet]) -> Vec<MatmulForm> {
    let mut forms = Vec::new();
    for (set, widths) in sets.iter().flat_map(|&set| [(set, Widths::Each), (set, Widths::Fixed)]) {
        for (dtype, activation) in DTYPES.into_iter().flat_map(|dtype| ACTIVATIONS.map(|a| (dtype, a))) {
            for switches in 0..8 {
                let [gated, bias, accumulate] = [1, 2, 4].map(|bit| switches & bit != 0);
                forms.push(MatmulForm { set, widths, dtype, activation, gated, bias, accumulate });
            }
        }
    }
    forms
}
