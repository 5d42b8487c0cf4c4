//! foretoken: a WebGPU runtime for language models that predict several tokens at a time.
//!
//! An [`Engine`] is a loaded model, immutable and shared; a [`Session`] is one text with its cache; a [`Generation`] is
//! a stream of tokens. Everything that waits for the GPU is `async` and runs on any executor.
//!
//! ```no_run
//! # async fn story() -> foretoken::Result<()> {
//! use foretoken::{Engine, EngineOptions, GenerateOptions, Gpu, GpuOptions};
//!
//! let gpu = Gpu::open(&GpuOptions::default()).await?;
//! let model = foretoken::default_model();
//! let engine = Engine::load(&gpu, &model, &EngineOptions::default(), &mut |_| {}).await?;
//!
//! let prompt = engine.tokenizer()?.encode("Once upon a time", true)?;
//! let options = GenerateOptions::default().max_tokens(100);
//! let mut session = engine.session()?;
//! let mut generation = session.generate(&prompt, &options, &mut |_| {}).await?;
//! while let Some(token) = generation.next().await? {
//!     print!("{}", token.text);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Options, statistics, reports and errors will grow, and are `non_exhaustive`. Options begin as their default and have a method for
//! each of their fields, under its name, as above.
//!
//! The root has what a program needs that generates text. The rest is in the modules: reports and statistics in [`decode`],
//! inspection and merging in [`model`], files in [`format`](mod@format), training in `train`.
//!
//! A program that has a wgpu device of its own shares it through [`Gpu::from_device`].

// Training builds on much that serving alone would not hand from module to module.
#![cfg_attr(
    not(feature = "train"),
    allow(dead_code, unused_imports, reason = "what only training takes is there all the same")
)]

pub mod analysis;
pub mod bench;
pub mod decode;
mod default_model;
pub mod error;
pub mod format;
pub mod gpu;
pub mod kernels;
pub mod marginal;
pub mod model;
mod options;
mod reference;
mod self_test;
#[cfg(feature = "train")]
pub mod train;

pub use decode::{DraftOptions, DraftTree, Drafter, Engine, GenerateOptions, Generation, Sampling, Session};
pub use default_model::default_model;
pub use error::{Error, ErrorKind, Result};
pub use gpu::{Gpu, GpuOptions};
pub use kernels::{CacheType, KernelSet, WeightFormat};
pub use marginal::{MarginalOptions, Marginals};
pub use model::EngineOptions;
pub use self_test::{KernelCheck, self_test};
#[cfg(feature = "train")]
pub use train::{TrainOptions, Trainer};
pub use wgpu;
