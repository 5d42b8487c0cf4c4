//! What the kernels of training must compute, in f64 throughout so that differences can be taken of it.

pub(crate) mod causal;
pub(crate) mod loss;
pub(crate) mod mix;
