//! A model on the GPU: configuration, weights and the ops of a forward pass over rows, of heads too. Knows nothing of speculation.

mod buffers;
mod checks;
mod formats;
mod forward;
mod head_plan;
mod heads;
mod inspect;
mod load;
mod lora;
mod merge;
mod sizes;
mod state;
#[cfg(feature = "train")]
mod training;
mod upload;
mod weights;

pub(crate) use buffers::Buffers;
pub use formats::check_packing;
pub(crate) use forward::{
    Plan, Planner, accumulate, activation, embed_ops, inner4, linear_form, lm_head_partials, lm_head_with_partials,
    norm_op, plain_form, product_ops, shard_op,
};
pub(crate) use head_plan::{HeadBuffers, HeadsPlan, history_buffers};
pub(crate) use heads::{Body, Head, HeadWeights, Join, Mix, Source};
pub use inspect::{HeadsInfo, Inspection, inspect, inspect_with_heads};
pub use load::{EngineOptions, Progress};
pub(crate) use load::{Loaded, Model, load, load_with_heads};
pub(crate) use lora::Adapter;
pub use merge::{Patch, merge_lora};
pub use sizes::context;
pub(crate) use sizes::{Sizes, capacity};
pub(crate) use state::{CommitIo, LayerState, Stood};
#[cfg(feature = "train")]
pub(crate) use training::{TrainedSizes, dry_for_training, load_for_training};
pub(crate) use upload::{Matrix, Placed, Shard};
pub(crate) use weights::{Layer, Linear, NormWeights};
