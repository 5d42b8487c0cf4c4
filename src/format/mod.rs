//! Bytes to plain data: safetensors, GGUF, configurations, tokenizers, and the checkpoint that joins them.
//!
//! Nothing here opens a file or touches a GPU: bytes come through [`files::Files`], which native code and the browser
//! implement. Every number in a file is checked before it sizes an allocation, and no content makes this floor panic.

pub(crate) mod blocks;
pub mod checkpoint;
pub mod config;
pub mod families;
mod fields;
pub mod files;
pub mod foreign;
#[cfg(feature = "gguf")]
pub mod gguf;
pub mod hash;
mod json;
pub mod layouts;
pub mod mtp;
mod oniguruma;
#[cfg(feature = "gguf")]
pub mod quantize;
pub(crate) mod random;
mod refusals;
pub mod rope;
pub mod safetensors;
pub mod spec;
pub mod stored;
pub mod stream;
mod strict;
pub mod tensors;
pub mod tokenizer;
mod tokenizer_parts;
mod tokenizer_rules;
