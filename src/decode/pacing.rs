//! How much work goes into one submit.

use web_time::{Duration, Instant};

/// The GPU time a submit aims at: long enough that submits and readbacks do not count, short enough that text streams,
/// stopping is prompt, and no driver takes the GPU for hung (Windows does after two seconds).
const TARGET: Duration = Duration::from_millis(40);

/// Learns how long a unit of work (a step, a prompt row) takes from when submits end.
pub(super) struct Pacing {
    seconds_per_unit: Option<f64>,
    last_end: Instant,
}

impl Pacing {
    pub fn new() -> Self {
        Self { seconds_per_unit: None, last_end: Instant::now() }
    }

    /// The GPU was idle until now.
    pub fn restart(&mut self) {
        self.last_end = Instant::now();
    }

    /// A submit of `units` has just ended.
    pub fn ended(&mut self, units: usize) {
        let now = Instant::now();
        let seconds = now.duration_since(self.last_end).as_secs_f64() / units.max(1) as f64;
        self.last_end = now;
        // Slower is believed at once, faster by and by: a submit must not become too long.
        let known = self.seconds_per_unit.unwrap_or(seconds);
        self.seconds_per_unit = Some(if seconds > known { seconds } else { 0.5 * (known + seconds) });
    }

    /// Units for the next submit, from `least` to `most`; `least` while nothing is known.
    pub fn units(&self, least: usize, most: usize) -> usize {
        let fit = self.seconds_per_unit.map_or(0.0, |seconds| TARGET.as_secs_f64() / seconds.max(1e-9));
        (fit as usize).clamp(least, most.max(least))
    }
}
