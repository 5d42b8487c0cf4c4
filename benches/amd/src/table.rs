//! The committed table: figures by kernel, and why they are what they are.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::figures::{COLUMNS, Figures, SPILLED};

/// The key of a row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub family: String,
    /// The kernel sets that have it.
    pub sets: String,
    pub kernel: String,
}

/// The worst figures of the shaders of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// How many shaders there are.
    pub shaders: u64,
    pub figures: Figures,
    /// The number of the reason for which it was last changed, from 1 on.
    pub reason: usize,
}

/// All rows, as one driver compiles them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The driver and its version.
    pub driver: String,
    /// The reasons of all updates, the first one first.
    pub reasons: Vec<String>,
    pub rows: BTreeMap<Key, Row>,
}

/// Kernels that may spill registers, by how their names begin and end, and why. One that spills no more has to leave this list.
const MAY_SPILL: [(&str, &str, &str); 3] = [
    ("matmul_inputs weight_", "", SOFTWARE),
    ("matmul_weights INPUTS", "", SOFTWARE),
    ("delta_rule split_none", "", SOFTWARE),
];

const SOFTWARE: &str = "the cut for software adapters, whose registers are memory";

fn is_like(kernel: &str, start: &str, end: &str) -> bool {
    kernel.starts_with(start) && kernel.ends_with(end)
}

const DRIVER: &str = "# driver: ";
const REASON: &str = "# reason: ";

fn header() -> String {
    let names: Vec<_> = COLUMNS.iter().map(|column| column.name).collect();
    format!("family\tsets\tkernel\tshaders\t{}\treason", names.join("\t"))
}

impl Table {
    /// Reads what [`Table::write`] has written.
    ///
    /// # Errors
    /// The first line that cannot be read, and why.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut table = Self { driver: String::new(), reasons: Vec::new(), rows: BTreeMap::new() };
        for (number, line) in text.lines().enumerate() {
            if let Some(driver) = line.strip_prefix(DRIVER) {
                table.driver = driver.to_owned();
            } else if let Some(reason) = line.strip_prefix(REASON) {
                table.reasons.push(reason.to_owned());
            } else if !line.starts_with('#') && line != header() {
                let (key, row) =
                    read_row(line, table.reasons.len()).map_err(|why| format!("line {}: {why}", number + 1))?;
                table.rows.insert(key, row);
            }
        }
        Ok(table)
    }

    /// The table as text: tabs between columns, and before them the driver and the reasons.
    pub fn write(&self) -> String {
        let mut text = "# What an AMD compiler makes of every shader: see docs/amd.md. `scripts/amd.sh update` writes this file.\n".to_owned();
        let _ = writeln!(text, "{DRIVER}{}", self.driver);
        for reason in &self.reasons {
            let _ = writeln!(text, "{REASON}{reason}");
        }
        let _ = writeln!(text, "{}", header());
        for (Key { family, sets, kernel }, row) in &self.rows {
            let figures = row.figures.map(|figure| figure.to_string()).join("\t");
            let _ = writeln!(text, "{family}\t{sets}\t{kernel}\t{}\t{figures}\t{}", row.shaders, row.reason);
        }
        text
    }

    /// This table, just made, with the reasons of the one before; rows that it changes have `reason`. Also how many these are,
    /// with those that are gone.
    pub fn after(mut self, before: &Self, reason: &str) -> (Self, usize) {
        self.reasons.clone_from(&before.reasons);
        self.reasons.push(reason.to_owned());
        let mut changed = before.rows.keys().filter(|key| !self.rows.contains_key(key)).count();
        for (key, row) in &mut self.rows {
            match before.rows.get(key) {
                Some(was) if (was.shaders, was.figures) == (row.shaders, row.figures) => row.reason = was.reason,
                _ => {
                    row.reason = self.reasons.len();
                    changed += 1;
                }
            }
        }
        (self, changed)
    }

    /// The rows with spilled registers that may have none.
    pub fn spills(&self) -> Vec<String> {
        let may = |kernel: &str| MAY_SPILL.iter().any(|(start, end, _)| is_like(kernel, start, end));
        let spilled = self.rows.iter().filter(|(key, row)| row.figures[SPILLED] > 0 && !may(&key.kernel));
        spilled.map(|(key, row)| format!("{key}: spilled registers: {}", row.figures[SPILLED])).collect()
    }

    /// What [`MAY_SPILL`] names although no such kernel spills.
    pub fn spills_no_more(&self) -> Vec<String> {
        let spills = |(start, end, _): &(&str, &str, &str)| {
            self.rows.iter().any(|(key, row)| is_like(&key.kernel, start, end) && row.figures[SPILLED] > 0)
        };
        let fine = MAY_SPILL.iter().filter(|of| !spills(of));
        let message = |(start, end, _): &(&str, &str, &str)| {
            format!("'{start} ... {end}' spills no more: take it from MAY_SPILL in benches/amd/src/table.rs")
        };
        fine.map(message).collect()
    }

    /// Figures that are worse in this table, just made by the same driver, than in the recorded one, by more than a tenth; and the rows
    /// that only one of them has.
    pub fn worse_than(&self, recorded: &Self) -> Vec<String> {
        let gone = recorded.rows.keys().filter(|key| !self.rows.contains_key(key));
        let mut found: Vec<_> = gone.map(|key| format!("{key}: in the table, but there is no such kernel")).collect();
        for (key, row) in &self.rows {
            match recorded.rows.get(key) {
                None => found.push(format!("{key}: not in the table")),
                Some(was) => found.extend(worse(&was.figures, &row.figures).map(|what| format!("{key}: {what}"))),
            }
        }
        found
    }
}

/// The figures that are worse by more than a tenth, in words.
fn worse(was: &Figures, is: &Figures) -> impl Iterator<Item = String> {
    let pairs = COLUMNS.iter().zip(was.iter().zip(is));
    let worse = pairs.filter(|(column, (was, is))| column.is_worse(**was, **is));
    worse.map(|(column, (was, is))| format!("{} were {was}, are {is}", column.name))
}

fn read_row(line: &str, reasons: usize) -> Result<(Key, Row), String> {
    let fields: Vec<_> = line.split('\t').collect();
    let wanted = COLUMNS.len() + 5;
    let [family, sets, kernel, numbers @ ..] = fields.as_slice() else { return Err(format!("no row: '{line}'")) };
    if fields.len() != wanted {
        return Err(format!("{} columns, not {wanted}", fields.len()));
    }
    let number = |text: &&str| text.parse::<u64>().map_err(|_| format!("'{text}' is no number"));
    let numbers: Vec<u64> = numbers.iter().map(number).collect::<Result<_, _>>()?;
    let mut figures = Figures::default();
    figures.copy_from_slice(&numbers[1..=COLUMNS.len()]);
    let reason = usize::try_from(numbers[COLUMNS.len() + 1]).unwrap_or(0);
    if !(1..=reasons).contains(&reason) {
        return Err(format!("reason {reason}, but there are {reasons}"));
    }
    let key = Key { family: (*family).to_owned(), sets: (*sets).to_owned(), kernel: (*kernel).to_owned() };
    Ok((key, Row { shaders: numbers[0], figures, reason }))
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, {} ({})", self.family, self.kernel, self.sets)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn key(kernel: &str) -> Key {
        Key { family: "RDNA3".to_owned(), sets: "workgroup+subgroup".to_owned(), kernel: kernel.to_owned() }
    }

    pub const FIGURES: Figures = [24, 0, 32, 126, 740, 2480, 370, 48, 3];

    pub fn table(rows: &[(&str, Figures)]) -> Table {
        let row = |(kernel, figures): &(&str, Figures)| (key(kernel), Row { shaders: 2, figures: *figures, reason: 1 });
        Table { driver: "radv".to_owned(), reasons: vec!["the first".to_owned()], rows: rows.iter().map(row).collect() }
    }

    fn with(column: &str, figure: u64) -> Figures {
        let mut figures = FIGURES;
        figures[COLUMNS.iter().position(|found| found.name == column).expect("a column")] = figure;
        figures
    }

    #[test]
    fn what_is_written_is_read_again() {
        let table = table(&[("matmul weight_f16 ROWS=1", FIGURES), ("norm", with("bytes", 0))]);
        assert_eq!(Table::read(&table.write()), Ok(table));
    }

    #[test]
    fn a_broken_line_is_named() {
        let text = table(&[("norm", FIGURES)]).write();
        let broken = |from: &str, to: &str| Table::read(&text.replace(from, to)).expect_err("broken");
        assert_eq!(broken("\t126\t", "\t12x\t"), "line 5: '12x' is no number");
        assert_eq!(broken("\t126\t", "\t"), "line 5: 13 columns, not 14");
        assert_eq!(broken("\t1\n", "\t2\n"), "line 5: reason 2, but there are 1");
        assert_eq!(broken("family\t", "card\t"), "line 4: 'shaders' is no number");
    }

    #[test]
    fn figures_that_got_worse_are_named_with_their_kernel() {
        let recorded = table(&[("norm", FIGURES), ("sample", FIGURES)]);
        assert_eq!(recorded.worse_than(&recorded), Vec::<String>::new());
        for (column, figure, worse) in [
            ("VGPRs", 26, false),
            ("VGPRs", 36, true),
            ("waves", 24, true),
            ("instructions", 139, true),
            ("latency", 2728, false),
            ("latency", 2729, true),
            ("bytes", 40, true),
            ("bytes", 96, false),
            ("scalar loads", 4, true),
        ] {
            let now = table(&[("norm", with(column, figure)), ("sample", FIGURES)]);
            let was = FIGURES[COLUMNS.iter().position(|found| found.name == column).expect("a column")];
            let message = format!("RDNA3, norm (workgroup+subgroup): {column} were {was}, are {figure}");
            assert_eq!(now.worse_than(&recorded), if worse { vec![message] } else { Vec::new() }, "{column} {figure}");
        }
    }

    #[test]
    fn kernels_that_come_and_go_are_named() {
        let found = table(&[("new", FIGURES)]).worse_than(&table(&[("old", FIGURES)]));
        let [gone, new] = found.as_slice() else { panic!("{found:?}") };
        assert!(gone.contains("old") && gone.contains("no such kernel"), "{gone}");
        assert!(new.contains("new") && new.contains("not in the table"), "{new}");
    }

    #[test]
    fn spilled_registers_are_found() {
        let spills = table(&[("norm", FIGURES), ("sample", with("spilled", 7))]).spills();
        assert_eq!(spills, ["RDNA3, sample (workgroup+subgroup): spilled registers: 7"]);
    }

    #[test]
    fn kernels_that_may_spill_have_to() {
        let names = MAY_SPILL.map(|(start, end, _)| format!("{start} {end}"));
        let kernels: Vec<_> = names.iter().map(|name| (&name[..], with("spilled", 1))).collect();
        let all = table(&kernels);
        assert!(all.spills().is_empty() && all.spills_no_more().is_empty());
        let found = table(&kernels[1..]).spills_no_more();
        assert!(found.len() == 1 && found[0].contains(MAY_SPILL[0].0), "{found:?}");
    }

    #[test]
    fn an_update_gives_its_reason_to_the_rows_that_it_changes() {
        let before = table(&[("norm", FIGURES), ("sample", FIGURES), ("old", FIGURES)]);
        let now = table(&[("norm", FIGURES), ("sample", with("latency", 1)), ("new", FIGURES)]);
        let (after, changed) = now.after(&before, "a wider scan");
        assert_eq!(changed, 3);
        assert_eq!(after.reasons, ["the first", "a wider scan"]);
        let reason = |kernel| after.rows[&key(kernel)].reason;
        assert_eq!((reason("norm"), reason("sample"), reason("new")), (1, 2, 2));
    }
}
