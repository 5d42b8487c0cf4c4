//! Checks of the kernels that need little: embed, norm, log_probs.

use super::KernelCheck;
use super::bench::{compare, noise, read, run, weights};
use crate::Result;
use crate::gpu::Gpu;
use crate::kernels::{
    AttentionShape, EmbedIo, EmbedParams, Extent, HeadNormIo, HeadNormParams, KernelSet, LogProbsIo, LogProbsParams,
    NormForm, NormIo, Op, Over, Row, State, WeightFormat, embed, head_norm, log_probs, norm,
};
use crate::reference;

/// Every `[rows, stride]` value beyond the width must stay as it was: this.
const UNTOUCHED: f32 = 0.25;

fn extent(rows: usize) -> Extent {
    Extent { rows: rows as u32, logit_rows: rows as u32, keys: 0 }
}

/// `[rows, width]` in rows of `stride`.
fn strided(rows: impl Iterator<Item = Vec<f64>>, stride: usize) -> Vec<f64> {
    let pad = |mut row: Vec<f64>| {
        row.resize(stride, UNTOUCHED.into());
        row
    };
    rows.flat_map(pad).collect()
}

/// Embeds `tokens` with a table of `vocab` tokens that is split in two.
pub(crate) async fn check_embed(
    gpu: &Gpu,
    format: WeightFormat,
    width: usize,
    vocab: usize,
    tokens: &[u32],
) -> Result<KernelCheck> {
    let width = width.next_multiple_of(format.block_inputs());
    let (stride, scale) = (width + 3, 0.5);
    let table = noise(21, vocab * width);
    let rows: Vec<Row> = tokens.iter().map(|&token| Row { token, ..Row::default() }).collect();
    let rows = gpu.storage_with("rows", &rows);
    let x = gpu.storage_with("x", &vec![UNTOUCHED; tokens.len() * stride]);
    let first = (vocab / 2).next_multiple_of(4).min(vocab);
    let shards = [0..first, first..vocab].into_iter().filter(|shard| !shard.is_empty());
    let ops: Vec<Op> = shards
        .map(|shard| {
            let w = &table[shard.start * width..shard.end * width];
            let [first, count] = [shard.start, shard.len()].map(|n| n as u32);
            let params = EmbedParams { width: width as u32, stride: stride as u32, first, count, scale };
            let table = &weights(gpu, w, width, format);
            embed(gpu, format, params, EmbedIo { rows: &rows, table, x: &x })
        })
        .collect();
    run(gpu, &ops.iter().collect::<Vec<_>>(), extent(tokens.len()));
    let got = read::<f32>(gpu, &x, tokens.len() * stride).await?;
    let table = format.rounded(&table, width);
    let embedded = reference::embed::embed(&table, width, tokens, scale);
    let want = strided(embedded.chunks_exact(width).map(<[f64]>::to_vec), stride);
    Ok(compare("embed", format!("{format} [{vocab}, {width}]"), &got, &want))
}

/// Normalises `rows` rows: of all, or of those from the third whose logits are wanted.
pub(crate) async fn check_norm(
    gpu: &Gpu,
    set: KernelSet,
    width: usize,
    rows: usize,
    form: NormForm,
    over: Over,
) -> Result<KernelCheck> {
    let (stride, eps, logit_row) = (width + 5, 1e-5, 2);
    // Not centred, so that a mean that is not taken off shows.
    let x: Vec<f32> = noise(22, (rows + logit_row) * stride).iter().map(|x| 3.0 * x + 1.0).collect();
    let (scale, shift) = (noise(23, width), noise(24, width));
    let y = gpu.storage_with("y", &vec![UNTOUCHED; rows * stride]);
    let layer = form == NormForm::Layer;
    let shift_buffer = layer.then(|| gpu.storage_with("shift", &shift));
    let io = NormIo {
        state: &gpu.storage_with("state", &[State { logit_row: logit_row as u32, ..State::default() }]),
        x: &gpu.storage_with("x", &x),
        y: &y,
        scale: &gpu.storage_with("scale", &scale),
        shift: shift_buffer.as_ref(),
        over,
    };
    run(gpu, &[&norm(gpu, set, width as u32, stride as u32, eps, io)], extent(rows));
    let got = read::<f32>(gpu, &y, rows * stride).await?;
    let first = if over.logits() { logit_row } else { 0 };
    let expected = |row: usize| {
        let x = &x[(first + row) * stride..][..width];
        if layer { reference::norm::layer(x, &scale, &shift, eps) } else { reference::norm::rms(x, &scale, eps) }
    };
    let want = strided((0..rows).map(expected), stride);
    let kind = if layer { "layer" } else { "rms" };
    Ok(compare("norm", format!("{kind} {set} [{rows}, {width}]"), &got, &want))
}

/// Normalises the query and key heads of `rows` rows; heads have `width` elements, padded to a multiple of four.
pub(crate) async fn check_head_norm(
    gpu: &Gpu,
    [heads, kv_heads]: [u32; 2],
    width: usize,
    rows: usize,
) -> Result<KernelCheck> {
    let (head_dim, eps) = (width.next_multiple_of(4), 1e-5);
    let shape = AttentionShape::new(heads, kv_heads, head_dim as u32, 1);
    let stride = shape.qkv_stride() as usize;
    let padded = |mut x: Vec<f32>| {
        x.chunks_exact_mut(head_dim).for_each(|head| head[width..].fill(0.0));
        x
    };
    let (x, scale) = (padded(noise(26, rows * stride)), padded(noise(27, 2 * head_dim)));
    let y = gpu.storage_with("y", &vec![UNTOUCHED; rows * stride]);
    let io = HeadNormIo { x: &gpu.storage_with("x", &x), scale: &gpu.storage_with("scale", &scale), y: &y };
    run(gpu, &[&head_norm(gpu, HeadNormParams::new(shape, width as u32, eps), io)], extent(rows));
    let got = read::<f32>(gpu, &y, rows * stride).await?;
    let sizes = [heads as usize, kv_heads as usize, width, head_dim];
    let scales = [&scale[..width], &scale[head_dim..][..width]];
    let row = |x: &[f32]| reference::head_norm::head_norm(x, sizes, scales, eps);
    let want: Vec<f64> = x.chunks_exact(stride).flat_map(row).collect();
    Ok(compare("head_norm", format!("{heads} + {kv_heads} of {width}, {rows} rows"), &got, &want))
}

/// Log-probabilities of some tokens of `vocab`.
pub(crate) async fn check_log_probs(gpu: &Gpu, set: KernelSet, vocab: usize, rows: usize) -> Result<KernelCheck> {
    let stride = vocab + 3;
    let logits: Vec<f32> = noise(25, rows * stride).iter().map(|x| 12.0 * x).collect();
    let target = |row: usize| (row * 31 + vocab - 1) % vocab;
    let batch: Vec<Row> = (0..rows).map(|row| Row { target_token: target(row) as u32, ..Row::default() }).collect();
    let out = gpu.storage("log_probs", 4 * rows as u64);
    let params = LogProbsParams { vocab: vocab as u32, stride: stride as u32 };
    let (batch, logits_buffer) = (gpu.storage_with("rows", &batch), gpu.storage_with("logits", &logits));
    let io = LogProbsIo { rows: &batch, logits: &logits_buffer, log_probs: &out };
    run(gpu, &[&log_probs(gpu, set, params, io)], extent(rows));
    let got = read::<f32>(gpu, &out, rows).await?;
    let expected = |row: usize| reference::log_probs::log_prob(&logits[row * stride..][..vocab], target(row));
    let want: Vec<f64> = (0..rows).map(expected).collect();
    Ok(compare("log_probs", format!("{set} [{rows}, {vocab}]"), &got, &want))
}
