//! Texts: sessions, sampling, and the loop that keeps the GPU busy without asking it after every token.

mod generation;
mod marginals;
mod pacing;
mod sampling;
mod session;
mod stop;
#[cfg(test)]
mod tests;

pub use generation::{GenerateOptions, Generation, Stats, Stop, Token};
pub use marginals::MarginalReader;
pub use sampling::Sampling;
pub use session::Session;
