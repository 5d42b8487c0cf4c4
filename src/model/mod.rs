//! A model on the GPU: configuration, weights and the ops of a forward pass over rows. Knows nothing of speculation.

mod buffers;
mod checks;
mod engine;
mod formats;
mod forward;
mod head_plan;
mod heads;
mod inspect;
mod lora;
mod merge;
mod sizes;
#[cfg(feature = "train")]
mod training;
mod upload;
mod weights;

pub(crate) use buffers::Buffers;
pub(crate) use engine::Model;
pub use engine::{Engine, EngineOptions, Progress};
pub(crate) use forward::{
    Plan, accumulate, activation, embed_ops, inner4, linear_form, lm_head_partials, lm_head_with_partials, norm_op,
    plain_form, product_ops, shard_op,
};
pub(crate) use head_plan::HeadsPlan;
pub(crate) use heads::{Body, Head, HeadWeights, Join, Mix, Source};
pub use inspect::{HeadsInfo, Inspection, inspect, inspect_with_heads};
pub(crate) use lora::Adapter;
pub use merge::{Patch, merge_lora};
pub use sizes::context;
pub(crate) use sizes::{Sizes, attention_shape};
#[cfg(feature = "train")]
pub(crate) use training::{Measured, load_for_training, measure_for_training};
pub(crate) use upload::{Matrix, Placed, Shard};
pub(crate) use weights::{Layer, Linear, NormWeights};
