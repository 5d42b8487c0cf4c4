//! Kernels that only move memory: what others are measured against.

use super::{Grid, Op};
use crate::gpu::{Gpu, Variant};

/// Workgroups of 64 threads: enough to fill any GPU, few enough that each thread reads many blocks.
const GROUPS: u32 = 2048;

/// Bytes that `bench_read` writes, and divides the buffers it reads into.
pub(crate) const BENCH_READ_BYTES: u64 = GROUPS as u64 * 64 * 16;

/// The variant that reads.
pub(crate) fn bench_read_variant() -> Variant {
    Variant::of("bench_read").constant("GROUPS", GROUPS)
}

/// The variant that copies.
pub(crate) fn bench_copy_variant() -> Variant {
    Variant::of("bench_copy").constant("GROUPS", GROUPS)
}

/// Reads all of `source`, a multiple of four times [`BENCH_READ_BYTES`] long, and leaves sums in `sums`.
pub(crate) fn bench_read(gpu: &Gpu, source: &wgpu::Buffer, sums: &wgpu::Buffer) -> Op {
    assert!(source.size().is_multiple_of(4 * BENCH_READ_BYTES), "bench_read: {} bytes", source.size());
    moving(gpu, &bench_read_variant(), [source, sums])
}

/// Copies all of `source` to `copied`.
pub(crate) fn bench_copy(gpu: &Gpu, source: &wgpu::Buffer, copied: &wgpu::Buffer) -> Op {
    assert_eq!(source.size(), copied.size(), "bench_copy");
    moving(gpu, &bench_copy_variant(), [source, copied])
}

fn moving(gpu: &Gpu, variant: &Variant, buffers: [&wgpu::Buffer; 2]) -> Op {
    let kernel = gpu.kernel(variant);
    let bind_group = gpu.bind(&kernel, &buffers);
    Op::single(kernel, bind_group, Grid::Rows { x: GROUPS })
}
