//! A model on the GPU: configuration, weights and the ops of a forward pass over rows. Knows nothing of speculation.

mod buffers;
mod engine;
mod forward;
mod heads;
mod inspect;
mod lora;
mod merge;
mod sizes;
mod upload;
mod weights;

pub(crate) use buffers::Buffers;
pub(crate) use engine::Model;
pub use engine::{Engine, EngineOptions, Progress};
pub(crate) use forward::Plan;
pub(crate) use heads::HeadsPlan;
pub use inspect::{Heads, Inspection, inspect};
pub use merge::{Patch, merge_lora};
