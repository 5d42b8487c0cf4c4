//! The self-test before a model is used: once a device, for every kernel set and weight format that a model has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use crate::gpu::Gpu;
use crate::kernels::{CacheType, KernelSet, WeightFormat, Widths};
use crate::self_test::{InjectedFault, KernelCheck, quick_test, recurrent_test, width_invariance};
use crate::{Error, ErrorKind, Result};

/// Results of the self-test, kept with the device: its driver and its kernels stay the same while it is open.
#[derive(Default)]
struct Remembered {
    /// The first wrong kernel, if any.
    wrong: Mutex<BTreeMap<(KernelSet, WeightFormat, CacheType), Option<KernelCheck>>>,
    /// The first wrong kernel of recurrent layers, if any.
    wrong_recurrent: Mutex<BTreeMap<KernelSet, Option<KernelCheck>>>,
    /// Whether rows do not feel each other with these widths.
    invariant: Mutex<BTreeMap<(KernelSet, WeightFormat, CacheType, Widths), bool>>,
}

/// The result that `results` has for `key`, else what `test` comes to, from then on.
async fn once<K: Ord, T: Clone>(
    results: &Mutex<BTreeMap<K, T>>,
    key: K,
    test: impl Future<Output = Result<T>>,
) -> Result<T> {
    let locked = || results.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = locked().get(&key) {
        return Ok(known.clone());
    }
    let result = test.await?;
    locked().insert(key, result.clone());
    Ok(result)
}

/// Fails where a kernel that these weights and this cache need, or `recurrent` layers, computes wrong results on this device.
pub(super) async fn check_kernels(
    gpu: &Gpu,
    kernels: KernelSet,
    formats: &BTreeSet<WeightFormat>,
    cache: CacheType,
    recurrent: bool,
) -> Result<()> {
    let remembered: Arc<Remembered> = gpu.companion();
    for &format in formats {
        let test = first_wrong(gpu, kernels, format, cache);
        if let Some(check) = once(&remembered.wrong, (kernels, format, cache), test).await? {
            return Err(wrong_kernel(gpu, kernels, &check));
        }
    }
    if recurrent {
        let test = first_wrong_recurrent(gpu, kernels);
        if let Some(check) = once(&remembered.wrong_recurrent, kernels, test).await? {
            return Err(wrong_kernel(gpu, kernels, &check));
        }
    }
    Ok(())
}

async fn first_wrong_recurrent(gpu: &Gpu, kernels: KernelSet) -> Result<Option<KernelCheck>> {
    let mut wrong = None;
    recurrent_test(gpu, kernels, &mut |check| keep_wrong(&mut wrong, check)).await?;
    Ok(wrong)
}

/// Keeps the first check that did not pass.
fn keep_wrong(wrong: &mut Option<KernelCheck>, check: KernelCheck) {
    if !check.passed {
        wrong.get_or_insert(check);
    }
}

async fn first_wrong(
    gpu: &Gpu,
    kernels: KernelSet,
    format: WeightFormat,
    cache: CacheType,
) -> Result<Option<KernelCheck>> {
    let mut wrong = None;
    quick_test(gpu, kernels, (format, cache), &mut |check| keep_wrong(&mut wrong, check)).await?;
    Ok(wrong)
}

fn wrong_kernel(gpu: &Gpu, kernels: KernelSet, check: &KernelCheck) -> Error {
    Error::new(
        ErrorKind::SelfTest,
        format!(
            "kernel '{}' of set '{kernels}' computes wrong results on {}: error {:.3e}, allowed {:.0e}; update the driver, or \
             try the kernel set 'workgroup' or another adapter",
            check.kernel,
            gpu.summary(),
            check.error,
            check.tolerance
        ),
    )
}

/// The widths whose rows do not feel each other on this device, whatever the format of the weights: a pipeline each and tiles for
/// many rows, else no tiles, else one pipeline for all, else none. `notes` gets what was fallen back to.
pub(super) async fn working_widths(
    gpu: &Gpu,
    kernels: KernelSet,
    (formats, cache): (&BTreeSet<WeightFormat>, CacheType),
    fault: Option<InjectedFault>,
    notes: &mut Vec<String>,
) -> Result<Option<Widths>> {
    // A fault is a device of its own.
    let remembered: Arc<Remembered> = if fault.is_some() { Arc::default() } else { gpu.companion() };
    let driver = format!("{} computes a row differently beside other rows", gpu.summary());
    let fallbacks = [
        (Widths::Each, None),
        (Widths::Narrow, Some("where they are many: prompts are read 8 rows at a time, which is slower")),
        (Widths::Fixed, Some("at every width: one pipeline of 8 rows serves them all, which is slower")),
    ];
    for (widths, note) in fallbacks {
        let mut invariant = true;
        for &format in formats {
            let test = width_invariance(gpu, kernels, widths, (format, cache), fault);
            invariant = invariant && once(&remembered.invariant, (kernels, format, cache, widths), test).await?;
        }
        if invariant {
            notes.extend(note.map(|note| format!("{driver} {note}")));
            return Ok(Some(widths));
        }
    }
    notes.push(format!("{driver}, with one pipeline too: drafts would change the text and stay off"));
    Ok(None)
}
