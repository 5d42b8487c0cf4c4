//! Checkpoint files: what is accepted, what is refused and with which words, and that nothing makes the loaders panic.

mod common;

#[path = "format/allocations.rs"]
mod allocations;
#[path = "format/checkpoint.rs"]
mod checkpoint;
#[path = "format/config.rs"]
mod config;
#[path = "format/fuzz.rs"]
mod fuzz;
#[path = "format/gguf.rs"]
mod gguf;
#[path = "format/mtp.rs"]
mod mtp;
#[path = "format/published.rs"]
mod published;
#[path = "format/quantize.rs"]
mod quantize;
#[path = "format/safetensors.rs"]
mod safetensors;
#[path = "format/samples.rs"]
mod samples;
#[path = "format/stream.rs"]
mod stream;
#[path = "format/tokenizer.rs"]
mod tokenizer;

use foretoken::Error;

#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

/// Fails unless `result` is an error whose message has all of `words`; gives the error back.
#[track_caller]
fn refused<T>(result: Result<T, Error>, words: &[&str]) -> Error {
    let Err(error) = result else { panic!("expected an error with {words:?}, got a success") };
    let message = error.to_string();
    for word in words {
        assert!(message.contains(word), "expected {word:?} in {message:?}");
    }
    error
}
