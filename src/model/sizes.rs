//! The sizes of everything in a session, from the configuration and the context.

use super::state::{Recurrent, kept_shape};
use crate::format::config::ModelConfig;
use crate::format::spec::{Attention, DeltaNet, Mixer, ModelSpec};
use crate::kernels::{AttentionShape, CacheType, DeltaShape, MAX_BATCH_ROWS, MAX_CHUNK_ROWS, MAX_KEY_DIM};
use crate::{Error, ErrorKind, Result};

/// The default context where the model allows more.
const DEFAULT_CONTEXT: usize = 4096;

/// The context for a request: what was asked for, else the model's maximum, 4096 where that is more.
///
/// # Errors
/// [`ErrorKind::Input`] for 0 or more than the model's maximum.
pub fn context(config: &ModelConfig, wanted: Option<usize>) -> Result<usize> {
    let maximum = config.max_position_embeddings;
    let context = wanted.unwrap_or(maximum.min(DEFAULT_CONTEXT));
    if context == 0 || context > maximum {
        return Err(Error::input(format!(
            "context {context}: expected 1 to {maximum}, the model's max_position_embeddings"
        )));
    }
    Ok(context)
}

/// Positions that a session has room for at first, unless its context is shorter.
const FIRST_CAPACITY: usize = 256;

/// Positions to have room for where `wanted` are needed, in a context of `context`: few sizes, so that growing is rare and
/// drivers that compile for a size do so rarely.
pub(crate) fn capacity(wanted: usize, context: u32) -> u32 {
    wanted.max(FIRST_CAPACITY).next_power_of_two().min(context as usize) as u32
}

/// The sizes that the kernels of a block's attention share, over `context` positions.
pub(crate) fn attention_shape(attention: &Attention, context: u32) -> AttentionShape {
    let head_dim = (attention.head_dim as u32).next_multiple_of(4);
    AttentionShape {
        window: attention.window.map(|window| window as u32),
        ..AttentionShape::new(attention.heads as u32, attention.kv_heads as u32, head_dim, context)
    }
}

const _: () = assert!(DeltaNet::MAX_KEY_DIM == MAX_KEY_DIM as usize, "what families allow");

/// The sizes that the kernels of a block's delta net share.
pub(crate) fn delta_shape(delta: &DeltaNet) -> DeltaShape {
    let DeltaNet { key_heads, value_heads, key_dim, value_dim, taps, tiled, .. } = *delta;
    let [key_heads, value_heads, key_dim, value_dim, taps] =
        [key_heads, value_heads, key_dim, value_dim, taps].map(|size| size as u32);
    DeltaShape { key_heads, value_heads, key_dim, value_dim, taps, tiled }
}

/// The mixers of a model that are delta nets.
fn delta_nets(spec: &ModelSpec) -> impl Iterator<Item = &DeltaNet> {
    spec.blocks.iter().filter_map(|block| match &block.mixer {
        Mixer::DeltaNet(delta) => Some(delta),
        Mixer::Attention(_) => None,
    })
}

/// Sizes of a session's buffers. Widths are padded to multiples of four.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Positions of a text.
    pub context: u32,
    pub hidden: u32,
    pub vocab: u32,
    /// Rows of a prefill chunk: fewer where the scores of a long context would exceed a binding.
    pub chunk_rows: u32,
    /// Query heads of the block that has most.
    pub heads: u32,
    /// Values of a row of queries, keys and values, of what a mixer gives, and within the MLP: of the block that has most.
    pub qkv: u32,
    pub attention_out: u32,
    pub intermediate: u32,
    /// Whether a block normalises heads.
    pub qk_norm: bool,
    /// Whether a block keeps a state that rows move on.
    pub recurrent: bool,
    /// Whether a block normalises or scales what it adds to the stream.
    pub adds_changed: bool,
    /// The type in which keys and values are kept.
    pub cache: CacheType,
    /// Bytes of what all blocks keep of a text that fills the context: keys and values, and the states of recurrent blocks.
    pub cache_bytes: u64,
}

impl Sizes {
    /// # Errors
    /// [`ErrorKind::OutOfMemory`] if a buffer of a layer's cache or the scores would exceed a binding.
    pub fn new(spec: &ModelSpec, context: usize, cache: CacheType, max_binding_bytes: u64) -> Result<Self> {
        let too_long = |what: &str, bytes: u64| {
            Error::new(
                ErrorKind::OutOfMemory,
                format!(
                    "a context of {context} needs {bytes} bytes for {what}; the adapter binds at most \
                     {max_binding_bytes}; choose a shorter context"
                ),
            )
        };
        let shapes: Vec<_> = spec.attentions().map(|attention| kept_shape(attention, context as u32, cache)).collect();
        let deltas: Vec<_> = delta_nets(spec).map(delta_shape).collect();
        let largest = shapes.iter().map(|shape| shape.cache_bytes()).max().unwrap_or(0);
        if largest > max_binding_bytes {
            return Err(too_long("the keys of a layer", largest));
        }
        let heads = shapes.iter().map(|shape| shape.heads).max().unwrap_or(0);
        let score_row = 4 * u64::from(heads) * context as u64;
        let chunk_rows = (max_binding_bytes / score_row).min(MAX_CHUNK_ROWS as u64);
        if chunk_rows < MAX_BATCH_ROWS as u64 {
            return Err(too_long("attention scores", score_row * MAX_BATCH_ROWS as u64));
        }
        let most = |of: fn(&AttentionShape) -> u32, delta: fn(DeltaShape) -> u32| {
            shapes.iter().map(of).chain(deltas.iter().copied().map(delta)).max().unwrap_or(0)
        };
        let recurrent: u64 = delta_nets(spec).map(Recurrent::bytes).sum();
        Ok(Self {
            context: context as u32,
            hidden: (spec.hidden_size as u32).next_multiple_of(4),
            vocab: spec.vocab_size as u32,
            chunk_rows: chunk_rows as u32,
            heads,
            qkv: most(|shape| shape.qkv_stride(), DeltaShape::channels),
            attention_out: most(|shape| shape.out_stride(), DeltaShape::values),
            intermediate: (spec.most(|block| block.mlp.inner) as u32).next_multiple_of(4),
            adds_changed: spec.blocks.iter().any(|block| block.post_norm || block.residual_scale != 1.0),
            qk_norm: spec.attentions().any(|attention| attention.qk_norm.is_some()),
            recurrent: spec.is_recurrent(),
            cache,
            cache_bytes: 2 * shapes.iter().map(|shape| shape.cache_bytes()).sum::<u64>() + recurrent,
        })
    }

    /// Checks that what heads read of every position fits a binding.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`] if not.
    pub fn check_history(&self, max_binding_bytes: u64) -> Result<()> {
        let bytes = self.history_bytes();
        if bytes <= max_binding_bytes {
            return Ok(());
        }
        let message = format!(
            "a context of {} needs {bytes} bytes for the hidden states that the multi-token heads read; the adapter binds at \
             most {max_binding_bytes}; choose a shorter context",
            self.context
        );
        Err(Error::new(ErrorKind::OutOfMemory, message))
    }

    /// Logits of a row.
    pub fn vocab_stride(&self) -> u32 {
        self.vocab.next_multiple_of(4)
    }

    /// The same sizes for a text of at most `capacity` tokens.
    pub fn within(&self, capacity: u32) -> Self {
        Self { context: capacity, ..*self }
    }

    /// Bytes of a hidden state for each position.
    pub fn history_bytes(&self) -> u64 {
        4 * u64::from(self.context) * u64::from(self.hidden)
    }

    /// Bytes of a buffer with `width` values for each row of a chunk. Always the largest chunk: products read whole tiles.
    pub fn rows_bytes(&self, width: u32) -> u64 {
        4 * MAX_CHUNK_ROWS as u64 * u64::from(width)
    }

    /// Bytes of queries, keys and values before heads are normalised.
    pub fn projected_bytes(&self) -> u64 {
        if self.qk_norm || self.recurrent { self.rows_bytes(self.qkv) } else { 0 }
    }

    /// Bytes of what a block adds to the stream before that is normalised or scaled.
    pub fn added_bytes(&self) -> u64 {
        if self.adds_changed { self.rows_bytes(self.hidden) } else { 0 }
    }

    /// Bytes of the attention scores.
    pub fn scores_bytes(&self) -> u64 {
        4 * u64::from(self.chunk_rows) * u64::from(self.heads) * u64::from(self.context)
    }

    /// Bytes of the logits of a verification batch.
    pub fn logits_bytes(&self) -> u64 {
        4 * MAX_BATCH_ROWS as u64 * u64::from(self.vocab_stride())
    }
}
