//! Kernels that only move memory: what others are measured against.

use super::declared::Declared;
use super::{Grid, Op};
use crate::gpu::{Buffer, Gpu, Variant};

/// The declarations of this file's kernels, for the table of `kernels`.
pub(in crate::kernels) const KERNELS: &[Declared] =
    &[Declared::new(|_| vec![bench_read_variant(), bench_copy_variant()])];

/// Workgroups of 64 threads: enough to fill any GPU, few enough that each thread reads many blocks.
const GROUPS: u32 = 2048;

/// Bytes that `bench_read` writes.
pub(crate) const BENCH_READ_BYTES: u64 = GROUPS as u64 * 64 * 16;

/// The unit of a buffer's length: all workgroups take four blocks a thread at a time.
const UNIT_BYTES: u64 = 4 * BENCH_READ_BYTES;

/// The variant that reads.
pub(crate) fn bench_read_variant() -> Variant {
    Variant::of("bench_read").constant("GROUPS", GROUPS)
}

/// The variant that copies.
pub(crate) fn bench_copy_variant() -> Variant {
    Variant::of("bench_copy").constant("GROUPS", GROUPS)
}

/// Reads all of `source`, a multiple of 8 MiB, and leaves sums in `sums`.
pub(crate) fn bench_read(gpu: &Gpu, source: &Buffer, sums: &Buffer) -> Op {
    moving(gpu, &bench_read_variant(), source, sums)
}

/// Copies all of `source`, a multiple of 8 MiB, to `copied`.
pub(crate) fn bench_copy(gpu: &Gpu, source: &Buffer, copied: &Buffer) -> Op {
    assert_eq!(source.size(), copied.size(), "bench_copy");
    moving(gpu, &bench_copy_variant(), source, copied)
}

fn moving(gpu: &Gpu, variant: &Variant, source: &Buffer, target: &Buffer) -> Op {
    assert!(source.size().is_multiple_of(UNIT_BYTES), "{}: {} bytes", variant.label(), source.size());
    let kernel = gpu.kernel(variant);
    let bind_group = gpu.bind(&kernel, &[source, target]);
    Op::single(kernel, bind_group, Grid::Rows { x: GROUPS })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::GpuOptions;
    use crate::kernels::Extent;

    #[test]
    fn every_block_is_read_and_copied_once() {
        let gpu = pollster::block_on(Gpu::open(&GpuOptions::default())).expect("an adapter");
        let content: Vec<u32> = (0..UNIT_BYTES as u32 / 2).map(|i| (i % 1024) as f32).map(f32::to_bits).collect();
        let (source, copied) = (gpu.storage_with("source", &content), gpu.storage("copied", 2 * UNIT_BYTES));
        let sums = gpu.storage("sums", BENCH_READ_BYTES);
        let ops = [bench_read(&gpu, &source, &sums), bench_copy(&gpu, &source, &copied)];
        let extent = Extent { rows: 1, logit_rows: 1, keys: 0 };
        gpu.submit(None, |recorder| ops.iter().for_each(|op| op.record(recorder, extent)), None);
        assert!(pollster::block_on(gpu.read::<u32>(&copied)).expect("copied") == content);
        let sums = pollster::block_on(gpu.read::<f32>(&sums)).expect("sums");
        let total: f64 = sums.into_iter().map(f64::from).sum();
        assert_eq!(total, 511.5 * content.len() as f64);
    }
}
