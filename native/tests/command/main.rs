//! The command as its users run it. One program, so that its device, compiled kernels and self-tests serve all tests.

mod analyze;
mod audit;
mod cli;
mod drafts;
mod hub;
mod inspect;
mod marginals;
mod merge;
mod quantize;
mod refusals;
#[path = "../hub/server.rs"]
mod server;
mod support;
mod train;
