//! How much work goes into one submit, and what a round costs.

use web_time::{Duration, Instant};

use crate::kernels::MAX_BATCH_ROWS;

/// The GPU time a submit aims at: long enough that submits and readbacks do not count, short enough that text streams,
/// stopping is prompt, and no driver takes the GPU for hung (Windows does after two seconds).
const TARGET: Duration = Duration::from_millis(40);

/// Learns how long a unit of work (a round, a prompt row) takes from when submits end.
pub(super) struct Pacing {
    /// Units of as many rows.
    units: [Unit; MAX_BATCH_ROWS + 1],
    last_end: Instant,
}

#[derive(Clone, Copy, Default)]
struct Unit {
    /// At worst, for the size of submits.
    slow: Option<f64>,
    /// As a rule, for what pays. The first measurement does not count: drivers compile at the first dispatch.
    usual: Option<f64>,
    measured: u32,
}

impl Pacing {
    pub fn new() -> Self {
        Self { units: [Unit::default(); MAX_BATCH_ROWS + 1], last_end: Instant::now() }
    }

    /// The GPU was idle until now.
    pub fn restart(&mut self) {
        self.last_end = Instant::now();
    }

    /// A submit of `count` units of `rows` rows has just ended. Returns the seconds it took.
    pub fn ended(&mut self, rows: usize, count: usize) -> f64 {
        let now = Instant::now();
        let elapsed = now.duration_since(self.last_end).as_secs_f64();
        let seconds = elapsed / count.max(1) as f64;
        self.last_end = now;
        let unit = &mut self.units[rows.min(MAX_BATCH_ROWS)];
        // Slower is believed at once, faster by and by: a submit must not become too long.
        let known = unit.slow.unwrap_or(seconds);
        unit.slow = Some(if seconds > known { seconds } else { 0.5 * (known + seconds) });
        if unit.measured > 0 {
            unit.usual = Some(unit.usual.map_or(seconds, |usual| usual + 0.25 * (seconds - usual)));
        }
        unit.measured += 1;
        elapsed
    }

    /// Units of `rows` rows for the next submit, from `least` to `most`; `least` while nothing is known.
    pub fn units(&self, rows: usize, least: usize, most: usize) -> usize {
        let slow = self.units[rows.min(MAX_BATCH_ROWS)].slow;
        let fit = slow.map_or(0.0, |seconds| TARGET.as_secs_f64() / seconds.max(1e-9));
        (fit as usize).clamp(least, most.max(least))
    }

    /// Seconds of a unit of `rows` rows, once measured.
    pub fn seconds(&self, rows: usize) -> Option<f64> {
        self.units[rows.min(MAX_BATCH_ROWS)].usual
    }

    /// Takes a round's time as measured.
    #[cfg(test)]
    pub fn know(&mut self, rows: usize, seconds: f64) {
        self.units[rows].usual = Some(seconds);
    }
}
