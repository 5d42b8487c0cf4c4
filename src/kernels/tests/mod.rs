//! Every kernel in every form against its reference, on every adapter; and every shader text that can be linked.

pub(crate) mod adapters;
mod aims;
mod attention;
mod hidden;
mod layouts;
mod losses;
mod marginal;
mod products;
mod rounds;
mod sampling;
mod self_test;
mod sequences;
mod shaders;
mod small;
mod training;
