//! Cross-entropy in chunks of the vocabulary against its reference.

use super::adapters::{on_every_adapter, on_every_set, pass};
use crate::Result;
use crate::gpu::{Buffer, Gpu};
use crate::kernels::train::{
    Against, LossInputsIo, LossScanIo, LossShape, LossSummaryIo, NO_TARGET, Weighing, loss_factors, loss_inputs,
    loss_scan, loss_summary,
};
use crate::kernels::{Extent, KernelSet, Store};
use crate::reference::train::loss;
use crate::self_test::KernelCheck;
use crate::self_test::bench::{compare, noise, read, run, wide};

/// Ops of training do not look at it.
const ANY: Extent = Extent { rows: 0, logit_rows: 0, keys: 0 };

/// Rows of logits of a vocabulary that comes in chunks.
struct Losses {
    vocab: usize,
    chunk: usize,
    logits: Vec<f32>,
    targets: Vec<Option<usize>>,
}

impl Losses {
    /// Logits up to `size` on either side of 0; every fifth row has no target.
    fn new(vocab: usize, chunk: usize, rows: usize, size: f32) -> Self {
        let logits = noise(20, rows * vocab).iter().map(|x| size * x).collect();
        // The first and the last token are among the targets.
        let token = |row: usize| [0, vocab - 1, row * 7919 % vocab][row % 3];
        let targets = (0..rows).map(|row| (row % 5 != 3).then(|| token(row))).collect();
        Self { vocab, chunk, logits, targets }
    }

    fn rows(&self) -> usize {
        self.targets.len()
    }

    /// The chunks: where each begins, and its columns.
    fn chunks(&self) -> Vec<(usize, usize)> {
        (0..self.vocab).step_by(self.chunk).map(|first| (first, self.chunk.min(self.vocab - first))).collect()
    }

    fn shape(&self, (first, count): (usize, usize)) -> LossShape {
        let [picked, first, count, stride] =
            [self.rows(), first, count, self.chunk.next_multiple_of(4)].map(|n| n as u32);
        LossShape { picked, first, count, stride }
    }

    /// Whatever stands in columns beyond the chunk's must not matter.
    fn buffer(&self, gpu: &Gpu, (first, count): (usize, usize)) -> Buffer {
        let stride = self.chunk.next_multiple_of(4);
        let mut chunk = vec![1e9f32; self.rows() * stride];
        for (row, logits) in self.logits.chunks_exact(self.vocab).enumerate() {
            chunk[row * stride..][..count].copy_from_slice(&logits[first..][..count]);
        }
        gpu.storage_with("logits", &chunk)
    }

    /// Scans, sums up and takes the gradient, as the second of three heads.
    async fn check(&self, gpu: &Gpu, set: KernelSet) -> Result<[KernelCheck; 3]> {
        let rows = self.rows();
        let listed: Vec<u32> = self.targets.iter().map(|t| t.map_or(NO_TARGET, |t| t as u32)).collect();
        let targets = gpu.storage_with("targets", &listed);
        let partials = gpu.storage_with("partials", &vec![7.0f32; 4 * rows]);
        let losses = gpu.storage_with("losses", &vec![7.0f32; rows]);
        let report = gpu.storage_with("report", &[3.0f32; 12]);
        let factor = 0.37f32;
        let factors = gpu.storage_with("factors", &[9.0, factor, 9.0, 9.0]);
        for (i, chunk) in self.chunks().into_iter().enumerate() {
            let logits = self.buffer(gpu, chunk);
            let io = LossScanIo { targets: &targets, logits: &logits, partials: &partials };
            run(gpu, &[&loss_scan(gpu, set, self.shape(chunk), Store::nth(i), io)], ANY);
        }
        let io = LossSummaryIo { targets: &targets, partials: &partials, losses: &losses, report: &report };
        run(gpu, &[&loss_summary(gpu, set, rows as u32, 1, Against::Targets, io)], ANY);
        let mut gradient = vec![0.0; rows * self.vocab];
        for chunk in self.chunks() {
            let logits = self.buffer(gpu, chunk);
            let io = LossInputsIo { targets: &targets, partials: &partials, factors: &factors, logits: &logits };
            run(gpu, &[&loss_inputs(gpu, self.shape(chunk), 1, io)], ANY);
            let stride = self.chunk.next_multiple_of(4);
            for (row, got) in read::<f32>(gpu, &logits, rows * stride).await?.chunks_exact(stride).enumerate() {
                let (columns, padding) = got.split_at(chunk.1);
                gradient[row * self.vocab + chunk.0..][..chunk.1].copy_from_slice(columns);
                assert!(padding.iter().all(|&x| x == 0.0), "padding {padding:?}");
            }
        }
        let wide_logits = wide(&self.logits);
        let want = loss::losses(&wide_logits, self.vocab, &self.targets);
        let [sum, squares, count] = loss::summary(&want, &self.targets);
        let summary = [3.0, 3.0, 3.0, 3.0, sum, squares, count, 0.0, 3.0, 3.0, 3.0, 3.0];
        let slopes = loss::inputs(&wide_logits, self.vocab, &self.targets, factor.into());
        let form = |what: &str| format!("{what}, set {set}, {rows} rows, {} by {}", self.vocab, self.chunk);
        let (got_losses, got_report) = (read(gpu, &losses, rows).await?, read(gpu, &report, 12).await?);
        Ok([
            compare("loss", form("losses"), &got_losses, &want),
            compare("loss", form("summary"), &got_report, &summary),
            compare("loss", form("gradient"), &gradient, &slopes),
        ])
    }
}

#[test]
fn losses_of_chunks_are_those_of_the_whole() {
    on_every_set(|gpu, set| {
        for (vocab, chunk, rows, size) in [
            (37, 16, 15, 3.0),
            (37, 64, 1, 3.0),
            (1, 1, 2, 1.0),
            (5, 4, 3, 100.0),
            (301, 70, 67, 30.0),
            (5003, 1024, 130, 8.0),
            (70_000, 32_768, 7, 8.0),
        ] {
            let checks = pollster::block_on(Losses::new(vocab, chunk, rows, size).check(gpu, set));
            checks.expect("the device works").into_iter().for_each(|check| pass(gpu, async { Ok(check) }));
        }
        // Rows in two dimensions.
        let checks = pollster::block_on(Losses::new(5, 4, 33_000, 2.0).check(gpu, set));
        checks.expect("the device works").into_iter().for_each(|check| pass(gpu, async { Ok(check) }));
    });
}

#[test]
fn logits_that_are_not_finite_are_not_lost() {
    on_every_set(|gpu, set| {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut losses = Losses::new(37, 16, 9, 3.0);
            losses.logits[37 + 20] = bad;
            let [loss, summary, _] = pollster::block_on(losses.check(gpu, set)).expect("the device works");
            assert!(!loss.passed && !summary.passed, "{}, {set}: {loss:?}, {summary:?}", gpu.summary());
        }
    });
}

#[test]
fn factors_are_those_of_the_reference() {
    on_every_adapter(|gpu| {
        let report = [[6.0, 16.0, 4.0], [9.0, 64.0, 4.0], [0.0, 0.0, 0.0], [0.0, 0.0, 2.0], [1.0, 0.3, 5.0]];
        for (balance, skip) in [(false, 0), (true, 0), (true, 2)] {
            let report: Vec<[f64; 3]> = report[skip..].to_vec();
            let listed: Vec<[f32; 4]> = report.iter().map(|r| [r[0] as f32, r[1] as f32, r[2] as f32, 0.0]).collect();
            let factors = gpu.storage("factors", 4 * report.len() as u64);
            let n = report.len() as u32;
            let weighing = if balance { Weighing::Balanced } else { Weighing::Alike };
            run(gpu, &[&loss_factors(gpu, n, weighing, 0.5, &gpu.storage_with("report", &listed), &factors)], ANY);
            let got = pollster::block_on(read::<f32>(gpu, &factors, report.len())).expect("the device works");
            let want = loss::factors(balance, 0.5, &report);
            pass(gpu, async { Ok(compare("loss", format!("factors {balance}"), &got, &want)) });
        }
    });
}
