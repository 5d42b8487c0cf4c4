//! The command as its users run it. One program, so that its device, compiled kernels and self-tests serve all tests.

mod analyze;
mod audit;
mod cli;
mod drafts;
mod inspect;
mod marginals;
mod merge;
mod refusals;
mod support;
mod train;
