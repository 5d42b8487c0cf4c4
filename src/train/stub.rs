//! What the command sees of training. The steps themselves are still to come: every call that needs them says so.

use std::collections::BTreeMap;

use crate::format::files::Files;
use crate::gpu::Gpu;
use crate::kernels::KernelSet;
use crate::model::Progress;
use crate::{Error, Result};

/// How to train.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainOptions {
    /// Sequences of a micro-batch, which are computed together.
    pub sequences: usize,
    /// Tokens of a sequence.
    pub length: usize,
    /// Targets that a head has in a micro-batch at most; 0: as many as there are tokens.
    pub picked: usize,
    /// Micro-batches of an optimizer step.
    pub accumulate: usize,
    /// Train the heads' own tensors.
    pub train_heads: bool,
    /// Train the LoRA that the heads bring.
    pub train_lora: bool,
    /// Scale each head's loss to the first head's.
    pub balance: bool,
    /// What the learning rate of the heads is multiplied with.
    pub head_rate: f64,
    /// Decoupled weight decay, on everything trained.
    pub weight_decay: f64,
    /// Decay of the first and second moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Scale gradients down to this norm. `None`: never.
    pub max_norm: Option<f64>,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self {
            sequences: 8,
            length: 128,
            picked: 0,
            accumulate: 1,
            train_heads: true,
            train_lora: false,
            balance: false,
            head_rate: 1.0,
            weight_decay: 0.01,
            betas: [0.9, 0.999],
            eps: 1e-8,
            max_norm: None,
        }
    }
}

/// The sequences of a micro-batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MicroBatch {
    /// Tokens, `[sequences, length]`; sequences that are shorter end with any token.
    pub ids: Vec<u32>,
    /// For each token whether a loss that has it as its target counts.
    pub counts: Vec<bool>,
}

/// The loss of a head.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct HeadLoss {
    /// Which token it predicts.
    pub offset: usize,
    /// Mean negative log-likelihood in nats.
    pub nll: f64,
    /// Tokens it is the mean over.
    pub targets: u64,
}

/// What a step reports.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct StepReport {
    /// The losses before the step, over all its micro-batches.
    pub losses: Vec<HeadLoss>,
    /// The norm of all gradients together, before it was clipped.
    pub gradient_norm: f64,
}

/// Heads in training.
#[derive(Debug)]
pub struct Trainer(());

fn missing() -> Error {
    Error::unsupported("training is not implemented yet")
}

impl Trainer {
    /// Loads the checkpoint in `files` and the heads to be trained in `heads`, which are of the own layout.
    ///
    /// # Errors
    /// Always.
    pub async fn load<F: Files, H: Files>(
        _gpu: &Gpu,
        _files: &F,
        _heads: &H,
        _kernels: Option<KernelSet>,
        _options: &TrainOptions,
        _progress: &mut dyn FnMut(Progress),
    ) -> Result<Self> {
        Err(missing())
    }

    /// Bytes on the GPU beside the model's own.
    pub fn bytes(&self) -> u64 {
        0
    }

    /// Optimizer steps so far.
    pub fn steps(&self) -> u64 {
        0
    }

    /// Values that are trained.
    pub fn trained(&self) -> u64 {
        0
    }

    /// One optimizer step.
    ///
    /// # Errors
    /// Always.
    pub async fn step(&mut self, _batches: &[MicroBatch], _rate: f64) -> Result<StepReport> {
        Err(missing())
    }

    /// The losses of a micro-batch, without training on it.
    ///
    /// # Errors
    /// Always.
    pub async fn evaluate(&mut self, _batch: &MicroBatch) -> Result<Vec<HeadLoss>> {
        Err(missing())
    }

    /// The heads as they are now, by file name.
    ///
    /// # Errors
    /// Always.
    pub async fn save(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        Err(missing())
    }

    /// Everything that training goes on from.
    ///
    /// # Errors
    /// Always.
    pub async fn state(&self) -> Result<Vec<u8>> {
        Err(missing())
    }

    /// Goes on from a [`Trainer::state`].
    ///
    /// # Errors
    /// Always.
    pub fn restore(&mut self, _state: &[u8]) -> Result<()> {
        Err(missing())
    }
}
