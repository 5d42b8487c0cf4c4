//! Texts: sessions, sampling, and the loop that keeps the GPU busy without asking it after every token.

mod generation;
#[cfg(test)]
mod head_tests;
mod pacing;
mod sampling;
mod session;
mod stop;
#[cfg(test)]
mod tests;

pub use generation::{GenerateOptions, Generation, Stats, Stop, Token};
pub use sampling::Sampling;
pub use session::Session;
