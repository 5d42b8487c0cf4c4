//! Figures of a shader, and the direction in which each gets worse.

use crate::isa;
use crate::vulkan::Compiled;

/// Which way a figure gets worse.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Worse {
    More,
    Less,
}

/// Where a figure comes from.
#[derive(Clone, Copy)]
enum Source {
    /// One of the driver's statistics, or the sum of several.
    Driver(&'static [&'static str]),
    Bytes,
    ScalarLoads,
}

/// What a row has of the figures of its shaders.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Worst,
    /// The mean: the longest of them alone would hide what becomes of the others.
    Mean,
}

/// A column of the table.
pub struct Column {
    pub name: &'static str,
    worse: Worse,
    of: Of,
    source: Source,
}

const fn driver(name: &'static str, worse: Worse, of: Of, statistics: &'static [&'static str]) -> Column {
    Column { name, worse, of, source: Source::Driver(statistics) }
}

/// The figures of a shader, in the order of the table.
pub const COLUMNS: [Column; 9] = [
    driver("VGPRs", Worse::More, Of::Worst, &["VGPRs"]),
    driver("spilled", Worse::More, Of::Worst, &["Spilled VGPRs", "Spilled SGPRs"]),
    driver("waves", Worse::Less, Of::Worst, &["Subgroups per SIMD"]),
    driver("instructions", Worse::More, Of::Mean, &["Instructions"]),
    driver("code bytes", Worse::More, Of::Mean, &["Code size"]),
    driver("latency", Worse::More, Of::Mean, &["Latency"]),
    driver("inverse throughput", Worse::More, Of::Mean, &["Inverse Throughput"]),
    Column { name: "bytes", worse: Worse::Less, of: Of::Worst, source: Source::Bytes },
    Column { name: "scalar loads", worse: Worse::More, of: Of::Worst, source: Source::ScalarLoads },
];

/// Where [`COLUMNS`] has the spilled registers.
pub const SPILLED: usize = 1;

/// A figure for each of [`COLUMNS`].
pub type Figures = [u64; COLUMNS.len()];

/// Figures of a shader whose loop may not have been shown; those of the loop are missing then.
pub type Measured = [Option<u64>; COLUMNS.len()];

/// The figures of a compiled shader.
///
/// # Errors
/// Where the driver does not tell one of them, or shows an instruction that is not known.
pub fn measure(compiled: &Compiled) -> Result<Measured, String> {
    let hot = compiled.isa.as_deref().map(isa::hot_loop).transpose()?;
    let mut measured = Measured::default();
    for (figure, column) in measured.iter_mut().zip(&COLUMNS) {
        *figure = match column.source {
            Source::Driver(names) => Some(names.iter().map(|name| statistic(compiled, name)).sum::<Result<_, _>>()?),
            Source::Bytes => hot.map(|hot| hot.bytes),
            Source::ScalarLoads => hot.map(|hot| hot.scalar_loads),
        };
    }
    Ok(measured)
}

fn statistic(compiled: &Compiled, name: &str) -> Result<u64, String> {
    let found = compiled.statistics.iter().find(|(found, _)| found == name).map(|(_, value)| *value);
    found.ok_or_else(|| format!("the driver does not tell '{name}'"))
}

/// The figures of a row whose shaders have these; those of a loop from the shaders that were shown.
pub fn of_row(shaders: &[Measured]) -> Figures {
    let mut row = Figures::default();
    for (at, column) in COLUMNS.iter().enumerate() {
        let figures: Vec<u64> = shaders.iter().filter_map(|shader| shader[at]).collect();
        let figure = match (column.of, column.worse) {
            (Of::Mean, _) => figures.iter().sum::<u64>().checked_div(figures.len() as u64),
            (Of::Worst, Worse::More) => figures.into_iter().max(),
            (Of::Worst, Worse::Less) => figures.into_iter().min(),
        };
        row[at] = figure.unwrap_or_default();
    }
    row
}

impl Column {
    /// Whether a figure is worse than it was by more than a tenth.
    pub fn is_worse(&self, was: u64, is: u64) -> bool {
        match self.worse {
            Worse::More => is * 10 > was * 11,
            Worse::Less => is * 10 < was * 9,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str) -> &'static Column {
        COLUMNS.iter().find(|column| column.name == name).expect("a column")
    }

    #[test]
    fn a_tenth_is_allowed_and_more_is_not() {
        let latency = column("latency");
        assert!(!latency.is_worse(100, 110) && latency.is_worse(100, 111) && !latency.is_worse(100, 1));
        let waves = column("waves");
        assert!(!waves.is_worse(20, 18) && waves.is_worse(20, 17) && !waves.is_worse(20, 32));
        // From nothing anything is more.
        assert!(column("scalar loads").is_worse(0, 1) && column("bytes").is_worse(64, 0));
    }

    #[test]
    fn a_row_has_the_worst_registers_and_the_mean_length() {
        let shader = |figures: Figures| figures.map(Some);
        let mut hidden = shader([36, 1, 16, 300, 800, 5000, 40, 0, 0]);
        hidden[7..].fill(None);
        let shown = shader([24, 0, 32, 101, 400, 1000, 20, 48, 3]);
        assert_eq!(of_row(&[shown, hidden]), [36, 1, 16, 200, 600, 3000, 30, 48, 3]);
    }

    #[test]
    fn figures_are_the_drivers_and_the_loops() {
        let names = COLUMNS.iter().filter_map(|column| match column.source {
            Source::Driver(names) => Some(names),
            _ => None,
        });
        let statistics: Vec<_> = names.flatten().zip(1..).map(|(name, value)| ((*name).to_owned(), value)).collect();
        let isa =
            "BB0:\n\tbuffer_load_b64 v[0:1], v2, s[0:3], 0 offen\n\ts_waitcnt vmcnt(0)\n\ts_branch BB0".to_owned();
        let mut compiled = Compiled { statistics, isa: Some(isa) };
        let found = measure(&compiled).expect("all figures");
        assert_eq!(found, [1, 2 + 3, 4, 5, 6, 7, 8, 8, 0].map(Some));
        assert_eq!(COLUMNS[SPILLED].name, "spilled");
        compiled.statistics.retain(|(name, _)| name != "Latency");
        assert_eq!(measure(&compiled), Err("the driver does not tell 'Latency'".to_owned()));
    }
}
