//! Training multi-token heads: the texts, the learning rate, and the steps.

pub mod data;
pub mod schedule;
mod stub;

pub use stub::{HeadLoss, MicroBatch, StepReport, TrainOptions, Trainer};
