//! Losses against soft labels against their reference.

use super::adapters::{on_every_adapter, on_every_set, pass};
use crate::Result;
use crate::gpu::Gpu;
use crate::kernels::train::{
    ANY_TARGET, LossShape, NO_ROW, NO_TARGET, label_mean_columns, label_mean_inputs, label_mean_scores,
};
use crate::kernels::train::{
    Against, LabelMeanColumnsIo, LabelMeanInputsIo, LabelMeanScoresIo, LossInputsIo, LossScanIo, LossSummaryIo,
};
use crate::kernels::train::{loss_inputs, loss_scan, loss_summary};
use crate::kernels::{Extent, KernelSet, Store, WeightFormat};
use crate::reference::attention::softmax;
use crate::reference::train::{label_means, loss};
use crate::self_test::KernelCheck;
use crate::self_test::bench::{compare, noise, read, run, weights, wide};

/// Ops of training do not look at it.
const ANY: Extent = Extent { rows: 0, logit_rows: 0, keys: 0 };

/// Scores and the gradient, as the second of three heads.
async fn check(gpu: &Gpu, set: KernelSet, rows: usize, width: usize) -> Result<[KernelCheck; 2]> {
    let count = rows.div_ceil(2);
    let picks: Vec<Option<usize>> = (0..rows).map(|row| (row % 5 != 3).then(|| row * 7919 % count)).collect();
    let listed: Vec<u32> = picks.iter().map(|pick| pick.map_or(NO_ROW, |pick| pick as u32)).collect();
    let (mean_values, x, d) = (noise(1, count * width), noise(2, rows * width), noise(3, rows * width));
    let picked = gpu.storage_with("picks", &listed);
    let (mean_buffer, x_buffer) = (gpu.storage_with("label means", &mean_values), gpu.storage_with("x", &x));
    let partials = gpu.storage_with("partials", &vec![7.0f32; 4 * rows]);
    let (factor, dx) = (0.37f32, gpu.storage_with("dx", &d));
    let factors = gpu.storage_with("factors", &[9.0, factor, 9.0, 9.0]);
    let sizes = [rows as u32, width as u32 / 4];
    let means = &mean_buffer;
    let io = LabelMeanScoresIo { picks: &picked, means, x: &x_buffer, partials: &partials };
    let scores = label_mean_scores(gpu, set, sizes, io);
    let io = LabelMeanInputsIo { picks: &picked, means, factors: &factors, dx: &dx };
    let inputs = label_mean_inputs(gpu, sizes, 1, io);
    run(gpu, &[&scores, &inputs], ANY);
    let got: Vec<f32> = read(gpu, &partials, 4 * rows).await?;
    assert!(got.chunks_exact(4).all(|partial| partial[..3] == [7.0; 3]), "the rest of the partials stays");
    let scored: Vec<f32> = got.chunks_exact(4).map(|partial| partial[3]).collect();
    let (mean_values, x) = (wide(&mean_values), wide(&x));
    let mut want = wide(&d);
    label_means::inputs(width, factor.into(), &picks, &mean_values, &mut want);
    let form = |what: &str| format!("{what}, set {set}, {rows} rows of {width}");
    let gradient = read(gpu, &dx, rows * width).await?;
    Ok([
        compare("label means", form("scores"), &scored, &label_means::scores(width, &picks, &mean_values, &x)),
        compare("label means", form("gradient"), &gradient, &want),
    ])
}

#[test]
fn rows_meet_their_label_means() {
    on_every_set(|gpu, set| {
        for (rows, width) in [(1, 4), (7, 12), (67, 192), (130, 36), (33_000, 4)] {
            let checks = pollster::block_on(check(gpu, set, rows, width));
            checks.expect("the device works").into_iter().for_each(|check| pass(gpu, async { Ok(check) }));
        }
    });
}

/// Label means of lists, over a vocabulary in chunks; some entries are of weight 0.
async fn check_columns(
    gpu: &Gpu,
    format: WeightFormat,
    [rows, width, vocab, top]: [usize; 4],
    chunk: usize,
) -> Result<KernelCheck> {
    let width = width.next_multiple_of(format.block_inputs());
    let w = noise(5, vocab * width);
    let weight = |at: usize, value: f32| if at % 7 == 3 { 0.0 } else { value.abs() };
    let listed: Vec<(usize, f32)> =
        noise(6, rows * top).into_iter().enumerate().map(|(at, w)| (at * 7919 % vocab, weight(at, w))).collect();
    let words: Vec<[u32; 2]> = listed.iter().map(|&(token, weight)| [token as u32, weight.to_bits()]).collect();
    let entries = gpu.storage_with("entries", &words);
    let means = gpu.storage_with("label means", &vec![7.0f32; rows * width]);
    for first in (0..vocab).step_by(chunk) {
        let (count, stride) = (chunk.min(vocab - first), chunk.min(vocab - first).next_multiple_of(4));
        let mut padded = w[first * width..(first + count) * width].to_vec();
        padded.resize(stride * width, 9.0);
        let matrix = weights(gpu, &padded, width, format);
        let [picked, first, count, stride] = [rows, first, count, stride].map(|n| n as u32);
        let shape = LossShape { picked, first, count, stride };
        let form = (format, Store::nth(first as usize));
        let io = LabelMeanColumnsIo { entries: &entries, matrix: &matrix, means: &means };
        let op = label_mean_columns(gpu, form, width as u32 / 4, top as u32, shape, io);
        run(gpu, &[&op], ANY);
    }
    let listed: Vec<(usize, f64)> = listed.into_iter().map(|(token, weight)| (token, weight.into())).collect();
    let want = label_means::columns(width, top, &listed, &wide(&format.rounded(&w, width)));
    let got = read(gpu, &means, rows * width).await?;
    Ok(compare("label means", format!("of lists, {format:?}, {rows} rows of {width}, {top} of {vocab}"), &got, &want))
}

#[test]
fn lists_become_label_means() {
    on_every_adapter(|gpu| {
        for format in WeightFormat::all() {
            for (sizes, chunk) in [([1, 4, 5, 1], 8), ([7, 12, 37, 5], 16), ([130, 36, 301, 32], 64)] {
                pass(gpu, check_columns(gpu, format, sizes, chunk));
            }
        }
    });
}

/// Rows without a target become their softmax, and losses take what the label means score.
async fn check_labels(gpu: &Gpu, set: KernelSet) -> Result<[KernelCheck; 2]> {
    const VOCAB: usize = 37;
    let logits: Vec<f32> = noise(4, 3 * VOCAB).iter().map(|x| 5.0 * x).collect();
    let scores = [0.5f32, 0.0, -0.25];
    let counted = gpu.storage_with("counted", &[ANY_TARGET, NO_TARGET, ANY_TARGET]);
    let (partials, losses) = (gpu.storage("partials", 48), gpu.storage("losses", 12));
    let (report, ones) = (gpu.storage("report", 16), gpu.storage_with("ones", &[1.0f32]));
    let shape = LossShape { picked: 3, first: 0, count: VOCAB as u32, stride: 40 };
    let padded: Vec<f32> = logits.chunks_exact(VOCAB).flat_map(|row| [row, &[9.0; 3]].concat()).collect();
    let chunk = gpu.storage_with("logits", &padded);
    let (targets, partials_buffer, logits_buffer) = (&counted, &partials, &chunk);
    let io = LossScanIo { targets, logits: logits_buffer, partials: partials_buffer };
    run(gpu, &[&loss_scan(gpu, set, shape, Store::Set, io)], ANY);
    let io = LossInputsIo { targets, partials: partials_buffer, factors: &ones, logits: logits_buffer };
    run(gpu, &[&loss_inputs(gpu, shape, 0, io)], ANY);
    for (row, score) in scores.iter().enumerate() {
        gpu.write(&partials, 16 * row as u64 + 12, &[*score]);
    }
    let io = LossSummaryIo { targets, partials: partials_buffer, losses: &losses, report: &report };
    run(gpu, &[&loss_summary(gpu, set, 3, 0, Against::Labels, io)], ANY);
    let rows: Vec<Vec<f64>> = wide(&logits).chunks_exact(VOCAB).map(<[f64]>::to_vec).collect();
    let kept = |row: usize| row != 1;
    let want: Vec<f64> = (0..3)
        .flat_map(|row| [if kept(row) { softmax(&rows[row]) } else { vec![0.0; VOCAB] }, vec![0.0; 3]].concat())
        .collect();
    let sum = |row: &[f64]| row.iter().map(|logit| logit.exp()).sum::<f64>().ln();
    let loss_of = |row: usize| if kept(row) { sum(&rows[row]) - f64::from(scores[row]) } else { 0.0 };
    let want_losses = [0, 1, 2].map(loss_of);
    let [total, squares, count] = loss::summary(&want_losses, &[Some(0), None, Some(0)]);
    let got: Vec<f32> = read(gpu, &report, 4).await?;
    Ok([
        compare("loss", format!("softmax, set {set}"), &read(gpu, &chunk, 120).await?, &want),
        compare("loss", format!("labels, set {set}"), &got, &[total, squares, count, 0.0]),
    ])
}

#[test]
fn losses_take_labels() {
    on_every_set(|gpu, set| {
        let checks = pollster::block_on(check_labels(gpu, set));
        checks.expect("the device works").into_iter().for_each(|check| pass(gpu, async { Ok(check) }));
    });
}
