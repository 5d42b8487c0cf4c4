//! Which kernel set is the fastest on an adapter, by a short measurement.

use web_time::Instant;

use super::weights::WeightFormat;
use super::{
    Extent, KernelSet, LogProbsIo, LogProbsParams, MatmulForm, MatmulIo, NormIo, Op, Over, Row, State, Widths,
};
use super::{log_probs, matmul, norm};
use crate::Result;
use crate::gpu::Gpu;

/// Inputs and columns of the measured product, in blocks of four: a layer of a model of about a billion weights.
const BLOCKS: u32 = 512;

/// Times each set is measured; the fastest counts, since a busy machine only makes things slower.
const ROUNDS: usize = 5;

/// The fastest kernel set on this adapter, over products of 1 and 8 rows, norms and log-probabilities. Software adapters
/// take [`KernelSet::Software`] unmeasured.
///
/// Another set computes other last bits, so keep the answer where results must not change from run to run.
///
/// # Errors
/// If the device fails.
pub async fn measure_kernels(gpu: &Gpu) -> Result<KernelSet> {
    if gpu.summary().software {
        return Ok(KernelSet::Software);
    }
    let mut best = (f64::INFINITY, KernelSet::default_for(gpu.summary()));
    for set in KernelSet::available(gpu.summary()) {
        let seconds = seconds(gpu, set).await?;
        if seconds < best.0 {
            best = (seconds, set);
        }
    }
    Ok(best.1)
}

/// Seconds for a mix of kernels like a layer's.
async fn seconds(gpu: &Gpu, set: KernelSet) -> Result<f64> {
    let width = BLOCKS * 4;
    let state = gpu.storage_with("state", &[State::default()]);
    let rows = gpu.storage_with("rows", &[Row::default(); 8]);
    let x = gpu.storage("x", u64::from(width) * 8 * 4);
    let y = gpu.storage("y", u64::from(width) * 8 * 4);
    let weight = gpu.storage("weight", u64::from(width) * u64::from(width) * 2);
    let found = gpu.storage("log_probs", 64);
    let product = MatmulIo {
        state: &state,
        x: &x,
        weight: &weight,
        y: &y,
        bias: None,
        softcap: None,
        columns4: BLOCKS,
        inputs4: BLOCKS,
        x_stride4: BLOCKS,
        y_stride4: BLOCKS,
        y_first4: 0,
        over: Over::Rows,
    };
    let norm_io = NormIo { state: &state, x: &x, y: &y, scale: &x, shift: None, over: Over::Rows };
    let logits_io = LogProbsIo { rows: &rows, logits: &x, log_probs: &found };
    let ops = [
        matmul(gpu, MatmulForm::plain(set, Widths::Each, WeightFormat::F16, BLOCKS), product),
        norm(gpu, set, width, width, 1e-5, norm_io),
        log_probs(gpu, set, LogProbsParams { vocab: width, stride: width }, logits_io),
    ];
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        record(gpu, &ops);
        gpu.read::<u32>(&found).await?;
        best = best.min(started.elapsed().as_secs_f64());
    }
    Ok(best)
}

fn record(gpu: &Gpu, ops: &[Op]) {
    gpu.submit(
        None,
        |recorder| {
            for rows in [1, 8].repeat(8) {
                ops.iter().for_each(|op| op.record(recorder, Extent { rows, logit_rows: rows, keys: 1 }));
            }
        },
        None,
    );
}
