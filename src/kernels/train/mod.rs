//! Kernels of training: what the gradient of each product, norm and activation is, and the step that follows.
//!
//! Rows are all rows of a micro-batch, so an op has one size for good. Gradients of parameters lie as the parameters do
//! and are added to their buffers; gradients of activations are set or added, as their names' docs say. Every sum has
//! one fixed order: a step is the same bits again.

pub(super) mod activate;
pub(super) mod causal;
pub(super) mod head_norm;
pub(super) mod label_means;
pub(super) mod lora;
pub(super) mod loss;
pub(super) mod mix;
pub(super) mod norm;
pub(super) mod product;
pub(super) mod rope_rows;
pub(super) mod rows;
mod spread;
pub(super) mod step;

pub(crate) use activate::{ActivateForm, ActivateInputsIo, ActivateIo, activate, activate_inputs};
pub(crate) use causal::{
    HeadsOf, SequenceShape, causal_gather, causal_scatter, causal_scores, causal_softmax, causal_softmax_inputs,
};
pub(crate) use head_norm::{HeadNormInputsIo, HeadNormWeightsIo, head_norm_inputs, head_norm_weights};
pub(crate) use label_means::{
    LabelMeanColumnsIo, LabelMeanInputsIo, LabelMeanScoresIo, label_mean_columns, label_mean_inputs, label_mean_scores,
};
pub(crate) use lora::{LoraInputsIo, LoraWeightsIo, lora_inputs, lora_weights};
pub(crate) use loss::{
    ANY_TARGET, Against, LossInputsIo, LossScanIo, LossShape, LossSummaryIo, NO_TARGET, Weighing, loss_factors,
    loss_inputs, loss_scan, loss_summary,
};
pub(crate) use mix::{MixDotIo, MixIo, MixSoftmaxInputsIo, mix, mix_dot, mix_softmax, mix_softmax_inputs};
pub(crate) use norm::{NormInputsIo, NormWeightsIo, norm_inputs, norm_weights};
pub(crate) use product::{column_sums, matmul_inputs, matmul_weights};
pub(crate) use rope_rows::{Turn, rope_rows};
pub(crate) use rows::{NO_ROW, PickIo, gather_rows, scatter_rows};
pub(crate) use step::{AdamIo, AdamStep, adamw, clip_factor, squares};

use super::{Grid, Op};
use crate::gpu::Buffer;

/// The most rows of a micro-batch: some kernels take a workgroup a row, and some add up all rows in one loop, which lavapipe
/// ends after about 65,535 rounds. Who makes the ops checks it; past it they panic.
pub(crate) const MAX_TRAINED_ROWS: u32 = 65_000;

/// The most workgroups that a dispatch may have in one dimension.
const MAX_GROUPS: u32 = 65_535;

/// Columns of a buffer of rows: what a product reads or writes.
#[derive(Clone, Copy)]
pub(crate) struct Columns<'a> {
    pub buffer: &'a Buffer,
    /// Blocks of four in a row.
    pub stride4: u32,
    /// Where the columns begin, in blocks of four.
    pub first4: u32,
}

impl<'a> Columns<'a> {
    /// All of rows of `stride4` blocks of four.
    pub fn whole(buffer: &'a Buffer, stride4: u32) -> Self {
        Self { buffer, stride4, first4: 0 }
    }
}

/// `[x, y, z]` with a row for each y and z: WebGPU allows 65,535 in one dimension, and the shaders take 32,768.
fn rows_grid(x: u32, rows: u32) -> [u32; 3] {
    const HEIGHT: u32 = 32_768;
    [x, rows.clamp(1, HEIGHT), rows.div_ceil(HEIGHT)]
}

/// A grid that never changes.
fn fixed(grid: [u32; 3]) -> Grid {
    assert!(grid.iter().all(|&groups| groups <= MAX_GROUPS), "a dispatch of {grid:?} workgroups");
    Grid::Fixed(grid)
}
