//! Kernels of training.

mod causal;
mod loss;
mod mix;
mod rope_rows;
mod rows;
mod spread;

pub(crate) use causal::{
    CausalParams, CausalSoftmaxParams, HeadsOf, SequenceShape, causal_gather, causal_gather_variant, causal_scatter,
    causal_scatter_variant, causal_scores, causal_scores_variant, causal_softmax, causal_softmax_inputs,
    causal_softmax_inputs_variant, causal_softmax_variant,
};
pub(crate) use loss::{
    LossFactorsParams, LossParams, LossShape, LossSummaryParams, NO_TARGET, loss_factors, loss_factors_variant,
    loss_inputs, loss_inputs_variant, loss_scan, loss_scan_variant, loss_summary, loss_summary_variant,
};
pub(crate) use mix::{
    MixDotParams, MixParams, MixSoftmaxParams, mix, mix_dot, mix_dot_variant, mix_softmax, mix_softmax_inputs,
    mix_softmax_inputs_variant, mix_softmax_variant, mix_variant,
};
pub(crate) use rope_rows::{RopeRowsParams, rope_rows, rope_rows_variant};
pub(crate) use rows::{NO_ROW, PickParams, gather_rows, gather_rows_variant, scatter_rows, scatter_rows_variant};
