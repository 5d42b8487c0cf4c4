//! The self-test that ships.

use std::time::Instant;

use super::adapters::{checked_gpus, on_every_set};
use crate::Gpu;
use crate::kernels::declared::all_variants;
use crate::kernels::{CacheType, KernelSet, WeightFormat, Widths};
use crate::self_test::{InjectedFault, KernelCheck, full_test, self_test, width_invariance};

fn checks(gpu: &Gpu, set: KernelSet, full: bool) -> Vec<KernelCheck> {
    let mut checks = Vec::new();
    pollster::block_on(self_test(gpu, set, full, &mut |check| checks.push(check))).expect("the device works");
    checks
}

#[test]
fn the_self_test_passes() {
    on_every_set(|gpu, set| {
        for full in [true, false] {
            let begin = Instant::now();
            let checks = checks(gpu, set, full);
            let worst = checks.iter().map(|c| c.error / c.tolerance.max(1e-12)).fold(0.0, f64::max);
            println!(
                "full {full}: {} checks in {:?}, worst {worst:.2} of its tolerance",
                checks.len(),
                begin.elapsed()
            );
            let failed: Vec<_> = checks.iter().filter(|check| !check.passed).collect();
            assert!(failed.is_empty(), "{} {set}: {failed:#?}", gpu.summary());
        }
    });
}

#[test]
fn the_self_test_passes_with_bounds_checks() {
    for gpu in checked_gpus() {
        // Every format in one of the sets: what reads weights does not know how threads share their sums.
        let sets = KernelSet::available(gpu.summary());
        for (own, &set) in sets.iter().enumerate() {
            let mut checks = Vec::new();
            let formats = WeightFormat::all().skip(own).step_by(sets.len());
            let mut seen = |check| checks.push(check);
            pollster::block_on(full_test(gpu, set, formats, &mut seen)).expect("the device works");
            let failed: Vec<_> = checks.iter().filter(|check| !check.passed).collect();
            assert!(!checks.is_empty() && failed.is_empty(), "{} {set}: {failed:#?}", gpu.summary());
        }
        // What is compiled on a device is what the test of all variants validates.
        let all = all_variants();
        let unknown: Vec<_> = gpu.variants().into_iter().filter(|variant| !all.contains(variant)).collect();
        assert!(unknown.is_empty(), "all_variants() lacks {unknown:?}");
    }
}

#[test]
fn injected_faults_of_width_are_seen() {
    on_every_set(|gpu, set| {
        let holds = |widths, fault| {
            pollster::block_on(width_invariance(gpu, set, widths, (WeightFormat::F16, CacheType::F32), fault))
                .expect("the device works")
        };
        assert!(holds(Widths::Each, None) && holds(Widths::Fixed, None), "{} {set}", gpu.summary());
        assert!(!holds(Widths::Each, Some(InjectedFault::Tiled)));
        assert!(holds(Widths::Narrow, Some(InjectedFault::Tiled)));
        assert!(!holds(Widths::Each, Some(InjectedFault::Each)));
        assert!(!holds(Widths::Narrow, Some(InjectedFault::Each)));
        assert!(holds(Widths::Fixed, Some(InjectedFault::Each)));
        assert!(!holds(Widths::Each, Some(InjectedFault::Both)));
        assert!(!holds(Widths::Fixed, Some(InjectedFault::Both)));
    });
}
