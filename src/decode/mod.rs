//! Texts: the engine, its sessions, sampling, and the loop that keeps the GPU busy without asking it after every token.

mod adapted;
mod analysis;
mod audit;
mod depth;
mod draft;
mod engine;
mod generation;
#[cfg(test)]
mod head_tests;
mod marginals;
mod pacing;
#[cfg(test)]
mod quantized_tests;
mod reading;
#[cfg(test)]
mod recurrent_tests;
mod room;
#[cfg(test)]
mod room_tests;
mod round;
mod rounds;
mod sampling;
mod session;
mod stats;
mod stop;
#[cfg(test)]
mod tests;

pub use audit::{Audit, AuditCase, AuditOptions, AuditedLogits, Difference};
pub use draft::{DraftOptions, DraftTree, Drafter, RecordedDrafts};
pub use engine::Engine;
pub use generation::{GenerateOptions, Generation, Stop, Token};
pub use marginals::MarginalReader;
pub use reading::{ReadOptions, Reading};
pub use sampling::Sampling;
pub use session::{Session, check_prompt};
pub use stats::{DraftStats, Round, Stats};
