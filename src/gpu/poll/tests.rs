//! A device that hangs, and the end of the threads.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use super::*;
use crate::kernels::tests::adapters::on_every_adapter;
use crate::{Gpu, GpuOptions};

fn open(gpu: &Gpu, deadline: Duration) -> Gpu {
    let adapter = Some(gpu.summary().index.to_string());
    pollster::block_on(Gpu::open(&GpuOptions { adapter, deadline, ..GpuOptions::default() })).expect("it opens")
}

#[test]
fn a_device_that_hangs_is_an_error_after_the_deadline() {
    on_every_adapter(|gpu| {
        let deadline = Duration::from_millis(250);
        let gpu = open(gpu, deadline);
        let buffer = gpu.storage_with("content", &[1u32, 2, 3, 4]);
        assert_eq!(pollster::block_on(gpu.read::<u32>(&buffer)).expect("a sound device"), [1, 2, 3, 4]);
        gpu.stall();
        let started = Instant::now();
        let error = pollster::block_on(gpu.read::<u32>(&buffer)).expect_err("nobody answers");
        assert!(started.elapsed() >= deadline);
        assert_eq!(error.kind(), ErrorKind::Device);
        assert!(error.to_string().contains("within 0.25 s (`deadline`)"), "{error}");
        assert!(gpu.is_lost() && gpu.check().is_err());
        // From now on nothing is waited for.
        assert!(pollster::block_on(gpu.read::<u32>(&buffer)).is_err());
        assert!(pollster::block_on(gpu.flush_writes()).is_err());
    });
}

#[test]
fn writes_are_awaited_and_block_no_thread() {
    on_every_adapter(|gpu| {
        let gpu = open(gpu, Duration::from_secs(600));
        gpu.storage_with("content", &[1u32, 2, 3, 4]);
        pollster::block_on(gpu.flush_writes()).expect("a sound device");
        gpu.stall();
        let mut context = Context::from_waker(Waker::noop());
        // A call that blocks would not return before the deadline.
        assert!(pin!(gpu.flush_writes()).poll(&mut context).is_pending());
    });
}

#[test]
fn the_threads_end_with_the_last_handle() {
    on_every_adapter(|gpu| {
        let gpu = open(gpu, Duration::from_secs(60));
        let other = gpu.clone();
        let ended = Arc::downgrade(&gpu.opened().poller.shared);
        let buffer = gpu.storage("zeros", 16);
        pollster::block_on(gpu.read::<u32>(&buffer)).expect("a sound device");
        assert!(matches!(gpu.opened().poller.threads.get(), Some(Some(_))), "threads were started");
        drop(gpu);
        assert!(ended.strong_count() > 0);
        drop(other);
        assert_eq!(ended.strong_count(), 0, "the threads have dropped their parts");
    });
}
