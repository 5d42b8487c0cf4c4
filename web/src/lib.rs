//! foretoken in the browser: the core behind a few classes that a Web Worker calls.
//!
//! Whatever has a shape travels as JSON; `web/package` has its types. Futures run on the browser's event loop, so messages
//! to the worker are read while the GPU computes.

mod error;
mod files;
mod generate;
mod model;
mod reports;

pub use model::{Abort, WebModel, adapters, shaders};
