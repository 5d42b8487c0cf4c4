//! How much work goes into one submit, and what a round costs.
//!
//! A unit of work is a round, or a row of a prompt. The host measures submits: from the end of the one before, or from when
//! this one was sent if that was later, to when the host hears of its end, less what a readback takes. That time over the
//! submit's units is one measurement of a unit of so many rows.
//!
//! Two estimates are made of it for each number of rows:
//!
//! - The time at worst decides how many units a submit holds. A slower measurement replaces it at once, a faster one
//!   moves it half of the way. A submit holds as many units as fit into 40 ms, or into 1.25 readbacks where those take
//!   longer: then the GPU is still busy when the host hears of the submit before, and never waits. A readback counts as 0.4 s
//!   at most. A number of rows that was not measured yet is taken to cost in proportion to the next smaller one that was.
//! - The usual time, the median of the latest seven measurements, is what [`super::depth`] weighs drafts by. The first
//!   measurement is left out, as drivers compile at the first dispatch. So are submits of fewer than four units where four
//!   would have fit, as they would charge a unit with what a submit takes.
//!
//! After a pause ([`Pacing::restart`]) the first submit teaches nothing: the GPU may have waited for the host.

use web_time::{Duration, Instant};

use crate::kernels::MAX_BATCH_ROWS;

/// The GPU time a submit aims at: long enough that submits and readbacks do not count, short enough that text streams,
/// stopping is prompt, and no driver takes the GPU for hung (Windows does after two seconds).
const TARGET: Duration = Duration::from_millis(40);

/// Readbacks that one submit must outlast: the next one is then still running when the host hears of its end
/// and sends another, and the GPU never waits. A little more than once, as readbacks vary.
const SYNCS: f64 = 1.25;

/// The longest readback that submits are made longer for, in seconds: beyond it text would come in jumps.
const MOST_SYNC: f64 = 0.4;

/// Measurements of a unit that its usual time is the median of: a moment's noise must not decide whether drafts pay.
const RECENT: usize = 7;

/// Rounds of a submit that is sent to be measured: enough that what a submit itself takes does not count, few enough that a text on
/// a fast GPU, where a submit can hold it whole, sees the verdict.
pub(super) const MEASURED_ROUNDS: usize = 4;

/// Learns how long a unit of work (a round, a prompt row) takes from when submits end.
pub(super) struct Pacing {
    /// The estimates for units of each number of rows.
    units: [Unit; MAX_BATCH_ROWS + 1],
    /// Seconds from the end of a submit to when the host knows: microseconds natively, 100 ms in Firefox.
    sync: f64,
    /// The moment when the last submit ended.
    last_end: Instant,
    /// Whether no submit has ended since [`Self::restart`].
    first: bool,
}

#[derive(Clone, Copy, Default)]
struct Unit {
    /// Seconds at worst, for the size of submits.
    slow: Option<f64>,
    /// The latest measurements, for what pays. The first one of all is not among them, as drivers compile at the first dispatch,
    /// nor are those of submits of fewer than [`MEASURED_ROUNDS`] where more would have fit.
    recent: [f64; RECENT],
    /// Measurements so far, that first one included.
    measured: usize,
}

impl Unit {
    /// Measurements that count: all so far but the first.
    fn counted(&self) -> usize {
        self.measured.saturating_sub(1)
    }

    /// Takes note, for the size of submits, that a submit took `seconds` for each of its units.
    fn sized(&mut self, seconds: f64) {
        // Slower is believed at once, faster by and by: a submit must not become too long.
        let known = self.slow.unwrap_or(seconds);
        self.slow = Some(if seconds > known { seconds } else { 0.5 * (known + seconds) });
    }

    /// Adds a measurement, of a submit long enough for it to be what a unit takes.
    fn add(&mut self, seconds: f64) {
        if self.measured > 0 {
            self.recent[self.counted() % RECENT] = seconds;
        }
        self.measured += 1;
    }

    /// The latest measurements that count, fastest first.
    fn sorted(&self) -> impl ExactSizeIterator<Item = f64> {
        let mut recent = self.recent;
        let known = self.counted().min(RECENT);
        recent[..known].sort_by(f64::total_cmp);
        recent.into_iter().take(known)
    }

    /// The median of the latest measurements; the lower one of two.
    fn usual(&self) -> Option<f64> {
        let mut sorted = self.sorted();
        sorted.nth(sorted.len().saturating_sub(1) / 2)
    }
}

impl Pacing {
    pub fn new(sync: f64) -> Self {
        let sync = sync.min(MOST_SYNC);
        Self { units: [Unit::default(); MAX_BATCH_ROWS + 1], sync, last_end: Instant::now(), first: true }
    }

    /// Whatever ran before has ended, as the host has just heard. From the next submit nothing is learnt: the GPU may have waited
    /// while the host recorded it, or done something else before it.
    pub fn restart(&mut self) {
        self.last_end = self.end(Instant::now());
        self.first = true;
    }

    /// The host has just heard that a submit of `count` units of `rows` rows has ended, which it sent at `sent`. Returns the
    /// seconds it took.
    pub fn ended(&mut self, rows: usize, count: usize, sent: Instant) -> f64 {
        self.heard(Instant::now(), rows, count, sent)
    }

    /// The end of the work of whose end the host hears at `now`.
    fn end(&self, now: Instant) -> Instant {
        now.checked_sub(Duration::from_secs_f64(self.sync)).unwrap_or(now)
    }

    /// Seconds of the submit that was sent at `sent`.
    fn since(&mut self, now: Instant, sent: Instant) -> f64 {
        let end = self.end(now);
        let elapsed = end.saturating_duration_since(sent.max(self.last_end)).as_secs_f64();
        self.last_end = end;
        elapsed
    }

    fn heard(&mut self, now: Instant, rows: usize, count: usize, sent: Instant) -> f64 {
        let elapsed = self.since(now, sent);
        if std::mem::take(&mut self.first) {
            return elapsed;
        }
        let seconds = elapsed / count.max(1) as f64;
        let more_would_fit = self.target() >= MEASURED_ROUNDS as f64 * seconds;
        let unit = &mut self.units[rows.min(MAX_BATCH_ROWS)];
        unit.sized(seconds);
        if count >= MEASURED_ROUNDS || !more_would_fit {
            unit.add(seconds);
        }
        elapsed
    }

    /// Units of `rows` rows for the next submit, from `least` to `most`; `least` while nothing is known.
    pub fn units(&self, rows: usize, least: usize, most: usize) -> usize {
        let rows = rows.min(MAX_BATCH_ROWS);
        // A row more takes no longer than a row alone. To begin with single rounds would charge them with all that a submit
        // takes, and drafts would seem not to pay.
        let narrower = || (1..rows).rev().find_map(|fewer| Some(self.units[fewer].slow? / fewer as f64 * rows as f64));
        let slow = self.units[rows].slow.or_else(narrower);
        let fit = slow.map_or(0.0, |seconds| self.target() / seconds.max(1e-9));
        (fit as usize).clamp(least, most.max(least))
    }

    /// Seconds that a submit aims at.
    fn target(&self) -> f64 {
        TARGET.as_secs_f64().max(SYNCS * self.sync)
    }

    /// Seconds of a unit of `rows` rows, once measured.
    pub fn seconds(&self, rows: usize) -> Option<f64> {
        self.units[rows.min(MAX_BATCH_ROWS)].usual()
    }

    /// Seconds of the fastest of the latest units of `rows` rows.
    pub fn fastest(&self, rows: usize) -> Option<f64> {
        self.units[rows.min(MAX_BATCH_ROWS)].sorted().next()
    }

    /// Measurements that stand behind [`Self::seconds`], those included that it has forgotten.
    pub fn measurements(&self, rows: usize) -> usize {
        self.units[rows.min(MAX_BATCH_ROWS)].counted()
    }

    /// Takes a round's time as measured.
    #[cfg(test)]
    pub fn know(&mut self, rows: usize, seconds: f64) {
        let unit = &mut self.units[rows];
        unit.measured = unit.measured.max(1);
        unit.sized(seconds);
        unit.add(seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A GPU that takes `round` seconds a round, of which the host hears `sync` seconds later, with two submits in flight.
    /// Returns the rounds of the last submit, and the share of the time that the GPU was busy once the rounds had settled.
    fn run(sync: f64, round: f64) -> (usize, f64) {
        const SUBMITS: usize = 200;
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(1.0 + seconds);
        let mut pacing = Pacing::new(sync);
        (pacing.last_end, pacing.first) = (at(0.0), false);
        let mut in_flight = std::collections::VecDeque::new();
        let (mut host, mut gpu, mut rounds) = (0.0_f64, 0.0_f64, 1);
        let (mut busy, mut settled) = (0.0, 0.0);
        for submit in 0..SUBMITS {
            while in_flight.len() < 2 {
                rounds = pacing.units(1, 1, 64);
                let end = gpu.max(host) + round * rounds as f64;
                if submit >= SUBMITS / 2 {
                    busy += round * rounds as f64;
                }
                gpu = end;
                in_flight.push_back((rounds, host, end));
            }
            if submit == SUBMITS / 2 - 1 {
                settled = gpu;
            }
            let (count, sent, end) = in_flight.pop_front().expect("two are in flight");
            host = host.max(end + sync);
            pacing.heard(at(host), 1, count, at(sent));
        }
        (rounds, busy / (gpu - settled))
    }

    #[test]
    fn a_slow_readback_makes_submits_longer_until_the_gpu_never_waits() {
        let (quick, share) = run(50e-6, 0.005);
        assert!((7..=8).contains(&quick) && share > 0.99, "{quick} rounds, {share}");
        let (slow, share) = run(0.1, 0.005);
        assert!((24..=25).contains(&slow) && share > 0.99, "{slow} rounds, {share}");
    }

    #[test]
    fn rounds_of_more_rows_begin_as_if_each_row_were_a_step() {
        let mut pacing = Pacing::new(0.0);
        pacing.first = false;
        assert_eq!(pacing.units(2, 1, 64), 1);
        let start = pacing.last_end;
        pacing.heard(start + Duration::from_millis(20), 1, 4, start);
        assert_eq!(pacing.units(1, 1, 64), 8);
        assert_eq!(pacing.units(2, 1, 64), 4);
        assert_eq!(pacing.units(4, 1, 64), 2);
    }

    #[test]
    fn what_a_submit_takes_is_not_charged_to_its_round() {
        let mut pacing = Pacing::new(0.0);
        let mut now = pacing.last_end;
        // A round takes 0.4 ms, a submit 0.3 ms.
        let mut submit = |rounds: usize| {
            let sent = now;
            now += Duration::from_micros(300 + 400 * rounds as u64);
            pacing.heard(now, 1, rounds, sent);
            pacing.seconds(1)
        };
        assert_eq!([MEASURED_ROUNDS, 1, 1, MEASURED_ROUNDS].map(&mut submit), [None; 4]);
        let known =
            submit(MEASURED_ROUNDS).expect("two after the first were long enough, and the second of these counts");
        assert!((known - 475e-6).abs() < 1e-6, "{known}");
    }

    #[test]
    fn a_very_slow_readback_does_not_make_submits_endless() {
        assert!(run(5.0, 0.02).0 <= 25);
    }
}
