//! Every variant that the kernels' constructors can produce: for whoever must see all shaders, such as the tests.

use std::collections::BTreeSet;

use crate::gpu::Variant;
use crate::gpu::composer;
use crate::kernels::attention::{scores_variant, softmax_variant, values_variant};
use crate::kernels::bench::{bench_copy_variant, bench_read_variant};
use crate::kernels::commit::commit_variant;
use crate::kernels::embed::embed_variant;
use crate::kernels::head_norm::head_norm_variant;
use crate::kernels::hidden::{compact_hidden_variant, copy_hidden_variant};
use crate::kernels::log_probs::log_probs_variant;
use crate::kernels::lora::lora_variant;
use crate::kernels::matmul::{Activation, MatmulForm};
use crate::kernels::mixture::{mixture_variant, normalizer_variant};
use crate::kernels::norm::norm_variant;
use crate::kernels::nucleus::nucleus_variant;
use crate::kernels::ranking::ranking_variant;
use crate::kernels::rope_cache::rope_cache_variant;
use crate::kernels::sample::sample_variant;
use crate::kernels::siblings::siblings_variant;
use crate::kernels::trace::trace_variant;
use crate::kernels::tree::{
    compact_cache_variant, draft_lookup_variant, draft_recorded_variant, draft_top_variant, tree_rows_variant,
};
use crate::kernels::window::{shift_tokens_variant, stage_window_variant};
use crate::kernels::{KernelSet, WeightFormat, Widths};

pub(crate) const ACTIVATIONS: [Activation; 4] =
    [Activation::None, Activation::Silu, Activation::Gelu, Activation::GeluTanh];

/// Subgroup sizes of known adapters.
pub(super) const SUBGROUPS: [u32; 6] = [4, 8, 16, 32, 64, 128];

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
    all.extend([tree_rows_variant(), draft_recorded_variant(), compact_cache_variant()]);
    all.extend([siblings_variant(), mixture_variant(), head_norm_variant()]);
    all.extend([bench_copy_variant(), bench_read_variant()]);
    all.extend([
        copy_hidden_variant(),
        compact_hidden_variant(),
        lora_variant(),
        shift_tokens_variant(),
        stage_window_variant(),
    ]);
    all.extend(WeightFormat::ALL.iter().map(|&format| embed_variant(format)));
    #[cfg(feature = "train")]
    all.extend(super::train::variants::variants(sets));
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
    for (set, format) in sets.iter().flat_map(|&set| WeightFormat::ALL.iter().map(move |&format| (set, format))) {
        let plain = MatmulForm::plain(set, Widths::Fixed, format, 0);
        all.extend(set.product_shapes().iter().map(|&shape| MatmulForm { shape, ..plain }.with_partials(8)));
    }
    all
}

fn reductions(set: KernelSet, subgroup: u32) -> [Variant; 4] {
    [
        softmax_variant(set, subgroup),
        log_probs_variant(set, subgroup),
        norm_variant(set, subgroup, false),
        norm_variant(set, subgroup, true),
    ]
}

/// Every product there is.
pub(crate) fn matmul_forms(sets: &[KernelSet]) -> Vec<MatmulForm> {
    let mut forms = Vec::new();
    for (set, widths) in sets.iter().flat_map(|&set| [(set, Widths::Each), (set, Widths::Fixed)]) {
        for (format, activation) in WeightFormat::ALL.iter().flat_map(|&format| ACTIVATIONS.map(|a| (format, a))) {
            for switches in 0..8 {
                let [gated, bias, accumulate] = [1, 2, 4].map(|bit| switches & bit != 0);
                let form = |&shape| MatmulForm { set, widths, shape, format, activation, gated, bias, accumulate };
                forms.extend(set.product_shapes().iter().map(form));
            }
        }
    }
    forms
}
