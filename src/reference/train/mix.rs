//! Mixes of hidden states.
