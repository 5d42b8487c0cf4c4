//! Every kernel in every form against its reference, on every adapter.

pub(crate) mod adapters;
mod attention;
mod hidden;
mod label_means;
mod losses;
mod marginal;
mod products;
mod recurrent;
mod rounds;
mod sampling;
mod self_test;
mod sequences;
mod small;
mod training;
