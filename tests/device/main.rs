//! Tests of the library that open an adapter. One program, so that its devices, compiled kernels and self-tests serve all of them.

mod bench;
mod bits;
#[path = "../common/mod.rs"]
mod common;
mod drafts;
mod gguf;
mod heads;
mod marginal;
mod model;
mod session;
mod sharing;
mod train;
