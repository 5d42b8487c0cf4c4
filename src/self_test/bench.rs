//! Common ground of the checks: numbers, buffers, runs, tolerances.

use super::KernelCheck;
use crate::gpu::{Buffer, Gpu};
use crate::kernels::{Extent, Op, WeightFormat};
use crate::reference::random::{pcg4d, uniform};
use crate::{Error, ErrorKind, Result};

/// How far each kernel may be from its reference, relative to the largest value of the answer, and why. Weights and
/// inputs are rounded before both compute, so that the dtype does not matter.
const TOLERANCES: &[(&str, f64, &str)] = &[
    ("embed", 0.0, "a copy; halves convert exactly"),
    ("norm", 3e-6, "inverseSqrt may be off by 2 units in the last place, the sum of squares by some more"),
    (
        "matmul",
        4e-6,
        "rounding of a sum grows like the square root of its length: 32 * 2^-24 for 1,000 inputs, doubled",
    ),
    ("matmul activated", 3e-5, "WGSL allows tanh an error of 1e-5, and exp one that grows with its argument"),
    ("matmul with partials", 2e-5, "as attention: what the outputs may be off by, and exp"),
    ("head_norm", 1e-5, "as norm, over a head"),
    ("head_norm_inputs", 1e-5, "as norm_inputs, over a head"),
    ("head_norm_weights", 1e-5, "as norm_weights, over rows and heads"),
    ("rope_cache", 5e-7, "two products and a sum: some units in the last place"),
    ("rope_cache in halves", 1e-3, "the half next to a number on either side: 2^-10 of it"),
    ("attention", 2e-5, "WGSL allows exp an error of 3 + 2 |x| units in the last place; scores lie within |x| < 50"),
    ("copy_hidden", 2e-7, "a product and a sum"),
    ("lora", 4e-6, "as matmul"),
    ("compact_hidden", 0.0, "a copy"),
    ("stage_window", 0.0, "integers"),
    ("log_probs", 1e-5, "as attention, and one thread may sum the whole vocabulary in f32"),
    ("sample", 0.0, "token ids"),
    ("rounds", 0.0, "integers"),
    ("draft_top", 0.0, "token ids"),
    ("trace", 1e-5, "as log_probs"),
    ("compact_cache", 0.0, "a move"),
    ("delta_inputs", 1e-5, "as matmul activated, over few positions; exp of a product that ln and exp gave"),
    ("delta_rule", 2e-5, "sums over a head for each of some tens of rows, each of which the next ones read"),
    ("nucleus", 2e-5, "as log_probs, relative to the probability of all that is kept"),
    ("siblings", 0.0, "copies and integers"),
    ("mixture", 2e-5, "as log_probs, and rows are added one by one"),
    ("matmul_inputs", 4e-6, "as matmul"),
    ("matmul_weights", 4e-6, "as matmul, over rows"),
    ("column_sums", 4e-6, "as matmul_weights"),
    ("lora_inputs", 4e-6, "as matmul"),
    ("lora_weights", 4e-6, "as matmul_weights"),
    ("norm_inputs", 1e-5, "three sums of a row, as norm's, and a difference of what they give"),
    ("norm_weights", 1e-5, "as matmul_weights, of what norm may be off by"),
    ("activate", 3e-5, "as matmul activated"),
    ("activate_inputs", 3e-5, "as matmul activated"),
    ("squares", 1e-6, "parts of 256 squares, and some hundreds of parts"),
    ("clip_factor", 1e-6, "a sum, a root and a quotient"),
    ("adamw", 2e-6, "two roots and three quotients of 2.5 units in the last place each"),
    ("rope_rows", 5e-7, "as rope_cache"),
    ("causal_scores", 4e-6, "as matmul"),
    ("causal_softmax", 2e-5, "as attention"),
    ("causal_gather", 4e-6, "as matmul"),
    ("causal_scatter", 4e-6, "as matmul"),
    ("gather_rows", 0.0, "a copy"),
    ("scatter_rows", 2e-7, "a sum of two"),
    ("mix", 2e-7, "a product and a sum"),
    ("mix_dot", 1e-5, "a thread may add thousands of products in turn, which cancel"),
    ("mix_softmax", 1e-6, "exp and divisions of some tens of values"),
    ("label means", 4e-6, "as matmul"),
    ("loss", 2e-5, "as log_probs, and chunks are added one by one"),
    ("ranking", 2e-5, "one thread may sum 64 values in turn and as many such sums; ln may be off by 3 units"),
];

/// The tolerance of a kernel.
pub(crate) fn tolerance(kernel: &str) -> f64 {
    let found = TOLERANCES.iter().find(|(name, ..)| *name == kernel);
    found.unwrap_or_else(|| panic!("'{kernel}' has no tolerance")).1
}

/// Compares an answer with the reference's. `kernel` is a name of [`TOLERANCES`], `form` says which shape and form.
pub(crate) fn compare(kernel: &str, form: impl std::fmt::Display, got: &[f32], want: &[f64]) -> KernelCheck {
    assert_eq!(got.len(), want.len(), "{kernel} {form}: number of values");
    let largest = want.iter().fold(f64::MIN_POSITIVE, |largest, want| largest.max(want.abs()));
    let error = got.iter().zip(want).fold(0.0, |worst: f64, (&got, want)| {
        // A value that is not finite must not get lost in `max`.
        let error = (f64::from(got) - want).abs() / largest;
        if error.is_finite() { worst.max(error) } else { f64::MAX }
    });
    let tolerance = tolerance(kernel);
    KernelCheck { kernel: format!("{kernel} {form}"), error, tolerance, passed: error <= tolerance }
}

/// Compares integers: the error is the share of wrong ones.
pub(crate) fn compare_exactly<T: PartialEq>(
    kernel: &str,
    form: impl std::fmt::Display,
    got: &[T],
    want: &[T],
) -> KernelCheck {
    assert_eq!(got.len(), want.len(), "{kernel} {form}: number of values");
    let wrong = got.iter().zip(want).filter(|(got, want)| got != want).count();
    let error = wrong as f64 / want.len().max(1) as f64;
    KernelCheck { kernel: format!("{kernel} {form}"), error, tolerance: 0.0, passed: wrong == 0 }
}

/// `n` numbers in (-1, 1), always the same for a seed.
pub(crate) fn noise(seed: u32, n: usize) -> Vec<f32> {
    (0..n as u32).map(|i| 2.0 * uniform(pcg4d([seed, i, 0x5e1f, 0x7e57])[3]) - 1.0).collect()
}

/// A buffer of the weights `w`, `[columns, inputs]`.
pub(crate) fn weights(gpu: &Gpu, w: &[f32], inputs: usize, format: WeightFormat) -> Buffer {
    gpu.storage_with("weights", &format.packed(w, inputs).0)
}

/// Runs ops in one pass.
pub(crate) fn run(gpu: &Gpu, ops: &[&Op], extent: Extent) {
    gpu.submit(None, |recorder| ops.iter().for_each(|op| op.record(recorder, extent)), None);
}

/// The first `n` values of a buffer.
pub(crate) async fn read<T: bytemuck::AnyBitPattern>(gpu: &Gpu, buffer: &Buffer, n: usize) -> Result<Vec<T>> {
    let mut content = gpu.read::<T>(buffer).await?;
    if content.len() < n {
        return Err(Error::new(ErrorKind::Device, format!("a buffer of {n} values came back with {}", content.len())));
    }
    content.truncate(n);
    Ok(content)
}

/// Numbers as the reference computes with them.
pub(crate) fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| value.into()).collect()
}

/// The bits of numbers, to compare them without tolerance.
pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}
