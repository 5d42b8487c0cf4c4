//! `sample` on the GPU for any number of rows.

use super::KernelCheck;
use super::bench::{compare_exactly, noise, read, run};
use crate::Result;
use crate::gpu::Gpu;
use crate::kernels::{Extent, KernelSet, Row, SampleIo, SampleParams, State, sample};
use crate::reference::sample::{self as reference, Settings};

/// What the rows of one dispatch share.
#[derive(Clone, Debug)]
pub(crate) struct Draw {
    pub settings: Settings,
    pub seed: [u32; 2],
    /// One a token of the vocabulary.
    pub logits: Vec<f32>,
    /// How often each token stands in the text.
    pub counts: Vec<u32>,
}

impl Draw {
    pub fn new(settings: Settings, logits: Vec<f32>) -> Self {
        Self { settings, seed: [17, 4], counts: vec![0; logits.len()], logits }
    }

    fn params(&self, stride: u32) -> SampleParams {
        let Settings { repetition_penalty, temperature, top_k, top_p, min_p } = self.settings;
        SampleParams {
            vocab: self.logits.len() as u32,
            stride,
            temperature,
            repetition_penalty,
            top_k,
            top_p,
            min_p,
            pad0: 0,
            seed: self.seed,
            pad1: [0; 2],
        }
    }

    /// The tokens sampled for these positions, each from the same logits in a row of its own.
    pub async fn sampled(&self, gpu: &Gpu, set: KernelSet, positions: &[u32]) -> Result<Vec<u32>> {
        let (rows, stride) = (positions.len(), self.logits.len() + 3);
        // A row stands at the position before the token it predicts; one row more, whose logits nobody wants.
        let mut batch = vec![Row::default()];
        batch.extend(positions.iter().map(|position| Row { position: position.wrapping_sub(1), ..Row::default() }));
        let padded: Vec<f32> = self.logits.iter().copied().chain([9e9; 3]).collect();
        let sampled = gpu.storage("sampled", 4 * rows as u64);
        let op = sample(
            gpu,
            set,
            SampleIo {
                params: &gpu.uniform("sample", &self.params(stride as u32)),
                state: &gpu.storage_with("state", &[State { logit_row: 1, ..State::default() }]),
                rows: &gpu.storage_with("rows", &batch),
                logits: &gpu.storage_with("logits", &padded.repeat(rows)),
                probabilities: &gpu.storage("probabilities", 4 * (rows * stride) as u64),
                counts: &gpu.storage_with("counts", &self.counts),
                sampled: &sampled,
            },
        );
        run(gpu, &[&op], Extent { rows: rows as u32 + 1, logit_rows: rows as u32, keys: 0 });
        read(gpu, &sampled, rows).await
    }

    /// The scores of the tokens by the reference.
    pub fn scores(&self) -> Vec<f64> {
        reference::scores(&self.logits, &self.counts, self.settings)
    }

    /// Compares the tokens of these positions with the reference's. Where two tokens score within
    /// [`NOISE_MARGIN`] of each other either is right.
    pub async fn check(&self, gpu: &Gpu, set: KernelSet, positions: &[u32]) -> Result<KernelCheck> {
        let scores = self.scores();
        let got = self.sampled(gpu, set, positions).await?;
        let want: Vec<u32> = got
            .iter()
            .zip(positions)
            .map(|(&got, &position)| match reference::sample(&scores, self.settings, self.seed, position) {
                (_, lead) if lead < NOISE_MARGIN => got,
                (id, _) => id as u32,
            })
            .collect();
        Ok(compare_exactly("sample", format!("{set} {}, vocabulary {}", self.settings, self.logits.len()), &got, &want))
    }
}

/// No filter, no penalty.
pub(crate) const PLAIN: Settings =
    Settings { repetition_penalty: 1.0, temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0 };

/// How far GPU and reference may be apart in a noisy score: f32 logarithms near 1 are off by 2^-21 each.
pub(crate) const NOISE_MARGIN: f64 = 2e-5;

/// Logits of some units' spread.
pub(crate) fn some_logits(seed: u32, vocab: usize) -> Vec<f32> {
    noise(seed, vocab).iter().map(|x| 4.0 * x).collect()
}
