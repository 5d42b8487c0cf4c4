//! Grids of one thread a value, however many there are.

use super::super::Grid;

/// Threads of a workgroup, and workgroups in x, as `shaders/lib/spread.wgsl` has them.
const LANES: u32 = 64;
const WIDTH: u32 = 32_768;

/// The grid of a kernel that takes its index from `spread`: WebGPU allows 65,535 workgroups in a dimension.
pub(super) fn spread(threads: u32) -> Grid {
    let groups = threads.div_ceil(LANES).max(1);
    Grid::Fixed([groups.min(WIDTH), groups.div_ceil(WIDTH), 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_cover_their_threads_within_the_limit() {
        for threads in [0, 1, 64, 65, 1 << 21, (1 << 21) + 1, u32::MAX] {
            let Grid::Fixed([x, y, z]) = spread(threads) else { panic!("a grid of one size") };
            assert!(x <= WIDTH && y <= 65_535 && z == 1);
            assert!(u64::from(x) * u64::from(y) * u64::from(LANES) >= u64::from(threads), "{threads}");
            assert!(y == 1 || x == WIDTH);
        }
    }
}
