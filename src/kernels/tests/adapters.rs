//! The adapters of this machine, opened once for all tests, and the loop over their kernel sets.

use std::sync::OnceLock;

use crate::Result;
use crate::gpu::{Gpu, GpuOptions};
use crate::kernels::KernelSet;
use crate::self_test::KernelCheck;

/// Every adapter that gives a device.
///
/// # Panics
/// Without any: tests that cannot run must not look as if they had passed.
pub(crate) fn gpus() -> &'static [Gpu] {
    static GPUS: OnceLock<Vec<Gpu>> = OnceLock::new();
    GPUS.get_or_init(|| open(false))
}

/// The GPUs of all adapters with bounds checks in the shaders.
pub(crate) fn checked_gpus() -> &'static [Gpu] {
    static GPUS: OnceLock<Vec<Gpu>> = OnceLock::new();
    GPUS.get_or_init(|| open(true))
}

fn open(checked_shaders: bool) -> Vec<Gpu> {
    let mut gpus = Vec::new();
    for summary in pollster::block_on(Gpu::adapters()) {
        let adapter = Some(summary.index.to_string());
        let options = GpuOptions { adapter, webgpu_limits: true, checked_shaders, ..GpuOptions::default() };
        match pollster::block_on(Gpu::open(&options)) {
            Ok(gpu) => gpus.push(gpu),
            Err(error) => eprintln!("{summary} is left out: {error}"),
        }
    }
    assert!(
        !gpus.is_empty(),
        "the kernel tests need a GPU adapter. On Debian without a GPU: apt-get install mesa-vulkan-drivers libvulkan1"
    );
    gpus
}

/// Runs `test` for every adapter and every kernel set that it can run.
pub(crate) fn on_every_set(test: impl Fn(&'static Gpu, KernelSet)) {
    for gpu in gpus() {
        for set in KernelSet::available(gpu.summary()) {
            println!("{}, kernels {set}", gpu.summary());
            test(gpu, set);
        }
    }
}

/// Runs `test` for every adapter.
pub(crate) fn on_every_adapter(test: impl Fn(&'static Gpu)) {
    for gpu in gpus() {
        println!("{}", gpu.summary());
        test(gpu);
    }
}

/// Waits for a check and asserts that it passed.
pub(crate) fn pass(gpu: &Gpu, check: impl Future<Output = Result<KernelCheck>>) {
    let check = pollster::block_on(check).unwrap_or_else(|error| panic!("{}: {error}", gpu.summary()));
    println!("{:.1e} of {:.0e}  {}", check.error, check.tolerance, check.kernel);
    assert!(check.passed, "{}: {check:?}", gpu.summary());
}
