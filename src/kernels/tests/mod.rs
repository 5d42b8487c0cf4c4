//! Every kernel in every form against its reference, on every adapter.

pub(crate) mod adapters;
mod aims;
mod attention;
mod hidden;
mod losses;
mod marginal;
mod products;
mod rounds;
mod sampling;
mod self_test;
mod sequences;
mod small;
mod training;
