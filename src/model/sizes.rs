//! How large everything of a session is, from the configuration and the context.

use crate::format::config::ModelConfig;
use crate::kernels::{AttentionShape, MAX_BATCH_ROWS, MAX_CHUNK_ROWS};
use crate::{Error, ErrorKind, Result};

/// The default context where the model allows more.
const DEFAULT_CONTEXT: usize = 4096;

/// The context for a request: what was asked for, else the model's maximum, 4096 where that is more.
///
/// # Errors
/// [`ErrorKind::Input`] for 0 or more than the model's maximum, [`ErrorKind::Unsupported`] where a sliding window would
/// come into play.
pub fn context(config: &ModelConfig, wanted: Option<usize>) -> Result<usize> {
    let maximum = config.max_position_embeddings;
    let context = wanted.unwrap_or(maximum.min(DEFAULT_CONTEXT));
    if context == 0 || context > maximum {
        return Err(Error::input(format!(
            "context {context}: expected 1 to {maximum}, the model's max_position_embeddings"
        )));
    }
    match config.sliding_window {
        Some(window) if window < context => Err(Error::unsupported(format!(
            "sliding_window {window} is not implemented and matters for a context of {context}; use a context of at most {window}"
        ))),
        _ => Ok(context),
    }
}

/// Sizes of a session's buffers. Widths are padded to multiples of four.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub attention: AttentionShape,
    pub layers: usize,
    pub hidden: u32,
    pub intermediate: u32,
    pub vocab: u32,
    /// Rows of a prefill chunk: fewer where the scores of a long context would exceed a binding.
    pub chunk_rows: u32,
}

impl Sizes {
    /// # Errors
    /// [`ErrorKind::OutOfMemory`] if a buffer of a layer's cache or the scores would exceed a binding.
    pub fn new(config: &ModelConfig, context: usize, max_binding_bytes: u64) -> Result<Self> {
        let attention = AttentionShape {
            heads: config.num_attention_heads as u32,
            kv_heads: config.num_key_value_heads as u32,
            head_dim: (config.head_dim as u32).next_multiple_of(4),
            context: context as u32,
        };
        let too_long = |what: &str, bytes: u64| {
            Error::new(
                ErrorKind::OutOfMemory,
                format!(
                    "a context of {context} needs {bytes} bytes for {what}; the adapter binds at most \
                     {max_binding_bytes}; choose a shorter context"
                ),
            )
        };
        if attention.cache_bytes() > max_binding_bytes {
            return Err(too_long("the keys of a layer", attention.cache_bytes()));
        }
        let score_row = 4 * u64::from(attention.heads) * context as u64;
        let chunk_rows = (max_binding_bytes / score_row).min(MAX_CHUNK_ROWS as u64);
        if chunk_rows < MAX_BATCH_ROWS as u64 {
            return Err(too_long("attention scores", score_row * MAX_BATCH_ROWS as u64));
        }
        Ok(Self {
            attention,
            layers: config.num_hidden_layers,
            hidden: (config.hidden_size as u32).next_multiple_of(4),
            intermediate: (config.intermediate_size as u32).next_multiple_of(4),
            vocab: config.vocab_size as u32,
            chunk_rows: chunk_rows as u32,
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
            self.attention.context
        );
        Err(Error::new(ErrorKind::OutOfMemory, message))
    }

    /// Logits of a row.
    pub fn vocab_stride(&self) -> u32 {
        self.vocab.next_multiple_of(4)
    }

    /// Bytes of the key-value cache.
    pub fn cache_bytes(&self) -> u64 {
        2 * self.layers as u64 * self.attention.cache_bytes()
    }

    /// Bytes of a hidden state for each position.
    pub fn history_bytes(&self) -> u64 {
        4 * u64::from(self.attention.context) * u64::from(self.hidden)
    }

    /// Bytes of a buffer with `width` values for each row of a chunk. Always the largest chunk: products read whole tiles.
    pub fn rows_bytes(&self, width: u32) -> u64 {
        4 * MAX_CHUNK_ROWS as u64 * u64::from(width)
    }

    /// Bytes of the attention scores.
    pub fn scores_bytes(&self) -> u64 {
        4 * u64::from(self.chunk_rows) * u64::from(self.attention.heads) * u64::from(self.attention.context)
    }

    /// Bytes of the logits of a verification batch.
    pub fn logits_bytes(&self) -> u64 {
        4 * MAX_BATCH_ROWS as u64 * u64::from(self.vocab_stride())
    }

    /// Bytes of everything a session needs beside the cache.
    pub fn work_bytes(&self) -> u64 {
        let widths = 3 * self.hidden + self.attention.qkv_stride() + self.attention.out_stride() + self.intermediate;
        self.rows_bytes(widths) + self.scores_bytes() + 2 * self.logits_bytes() + 4 * u64::from(self.vocab)
    }
}
