//! The specification of what each kernel must compute: plain loops on slices, sums in f64, never on a speed path.
//!
//! Arrays are row-major and plain here; the functions that say `pack` give the layouts that the shaders read.

pub(crate) mod attention;
pub(crate) mod commit;
pub(crate) mod delta_net;
pub(crate) mod draft;
pub(crate) mod embed;
pub(crate) mod head_norm;
pub(crate) mod hidden;
pub(crate) mod log_probs;
pub(crate) mod lora;
pub(crate) mod marginal;
pub(crate) mod matmul;
pub(crate) mod norm;
pub(crate) mod random;
pub(crate) mod rope_cache;
pub(crate) mod sample;
#[cfg(test)]
pub(crate) mod train;
