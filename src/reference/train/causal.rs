//! Attention within sequences.
