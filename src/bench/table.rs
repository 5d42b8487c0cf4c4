//! A report for people.

use std::fmt::{self, Display, Formatter};

use super::{Report, Spread};

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let adapter = &self.adapter;
        writeln!(f, "adapter   {adapter}, {} {}", adapter.driver, adapter.driver_info)?;
        writeln!(f, "kernels   {}, foretoken {} ({})", self.kernels, env!("CARGO_PKG_VERSION"), self.commit)?;
        writeln!(f, "model     {}", self.model)?;
        writeln!(f, "Medians, with the range of all but the lowest and the highest tenth of the samples.\n")?;
        writeln!(f, "{:54} {:>32}", "memory", "GB/s")?;
        writeln!(f, "{:54} {:>32}", "read", spread(self.read, 1e-9))?;
        writeln!(f, "{:54} {:>32}", "copy (read + written)", spread(self.copy, 1e-9))?;
        self.kernel_rates(f)?;
        self.steps(f)?;
        self.generation(f)
    }
}

impl Report {
    fn kernel_rates(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{:48} {:>5} {:>32} {:>7} {:>8}", "kernel", "rows", "GB/s", "of read", "GFLOP/s")?;
        for rate in &self.kernel_rates {
            let flops = rate.flops.map_or(String::new(), |flops| number(flops * 1e-9));
            let (bytes, share) = (spread(rate.bytes, 1e-9), percent(rate.share_of_read));
            writeln!(f, "{:48} {:>5} {bytes:>32} {share:>7} {flops:>8}", rate.kernel, rate.rows)?;
        }
        Ok(())
    }

    fn steps(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{:<20} {:>32} {:>33}", "step of M rows", "ms", "T(M)/T(1)")?;
        for step in &self.step_widths {
            writeln!(f, "{:<20} {:>32} {:>33}", step.rows, spread(step.seconds, 1e3), spread(step.ratio, 1.0))?;
        }
        writeln!(f, "\n{:<20} {:>32} {:>33}", "marginal of branches", "ms", "over a step of 1 row")?;
        for siblings in &self.sibling_widths {
            writeln!(
                f,
                "{:<20} {:>32} {:>33}",
                siblings.branches,
                spread(siblings.seconds, 1e3),
                spread(siblings.ratio, 1.0)
            )?;
        }
        writeln!(f, "\n{:48} {:>5} {:>32} {:>7}", "part of a step of 1 row", "times", "ms in all", "share")?;
        for part in &self.step_parts {
            let (ms, share) = (spread(part.seconds, 1e3), percent(part.share));
            writeln!(f, "{:48} {:>5} {ms:>32} {share:>7}", part.kernel, part.dispatches)?;
        }
        Ok(())
    }

    fn generation(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{:54} {:>32}", "generation", "tokens/s")?;
        let prefill = &self.prefill;
        let name = format!("prefill of {} tokens ({} GFLOP/s)", prefill.tokens, number(prefill.flops * 1e-9));
        writeln!(f, "{name:54} {:>32}", spread(prefill.tokens_per_s, 1.0))?;
        for rate in &self.decode {
            let name = format!("decode after {} tokens ({} of read)", rate.context, percent(rate.share_of_read));
            writeln!(f, "{name:54} {:>32}", spread(rate.tokens_per_s, 1.0))?;
        }
        let count = &self.per_token;
        let [dispatches, passes, submits, readbacks] =
            [count.dispatches, count.passes, count.submits, count.readbacks].map(number);
        writeln!(f, "\na token   {dispatches} dispatches, {passes} passes, {submits} submits, {readbacks} readbacks")?;
        writeln!(f, "CPU       {} us a dispatch", spread(self.cpu_per_dispatch, 1e6))
    }
}

/// `12.3 (11.9 - 13.0)`
pub(super) fn spread(spread: Spread, unit: f64) -> String {
    let [median, p10, p90] = [spread.median, spread.p10, spread.p90].map(|value| number(value * unit));
    format!("{median} ({p10} - {p90})")
}

/// Three significant digits.
fn number(value: f64) -> String {
    let decimals =
        if value >= 100.0 || value == 0.0 { 0 } else { (2 - value.abs().log10().floor() as i32).clamp(0, 6) };
    format!("{value:.*}", decimals as usize)
}

fn percent(share: f64) -> String {
    format!("{} %", number(100.0 * share))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!(
            [0.0, 0.012_34, 1.234, 12.34, 123.4, 1234.5].map(number),
            ["0", "0.0123", "1.23", "12.3", "123", "1234"]
        );
        let times = Spread { median: 0.001_5, p10: 0.001, p90: 0.002, samples: 3 };
        assert_eq!(spread(times, 1e3), "1.50 (1.00 - 2.00)");
    }
}
