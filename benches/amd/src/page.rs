//! The part of docs/amd.md that is made from the table.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::figures::{COLUMNS, Figures};
use crate::table::Table;

const BEGIN: &str = "<!-- From here on written by scripts/amd.sh update. -->\n";

/// Columns that the page has; the table has all of them.
const SHOWN: [&str; 6] = ["VGPRs", "waves", "instructions", "latency", "bytes", "scalar loads"];

/// The widths of a kernel, and its figures at each.
type Widths<'a> = (Vec<&'a str>, Vec<Figures>);

/// The page with what is made from the table behind what is written by hand.
///
/// # Errors
/// Where the line is missing that the rest is written behind.
pub fn update(page: &str, table: &Table) -> Result<String, String> {
    let (by_hand, _) = page.split_once(BEGIN).ok_or_else(|| format!("the page has no line '{}'", BEGIN.trim_end()))?;
    Ok(format!("{by_hand}{BEGIN}\n{}", render(table)))
}

fn render(table: &Table) -> String {
    let mut text = format!("Driver: {}.\n", table.driver);
    let mut kernels: BTreeMap<_, Widths<'_>> = BTreeMap::new();
    for (key, row) in table.rows.iter().filter(|(key, _)| key.sets != "software") {
        let (kernel, width) = split_width(&key.kernel);
        let (widths, figures) = kernels.entry((&key.family, kernel, &key.sets)).or_default();
        widths.push(width);
        figures.push(row.figures);
    }
    let mut last = "";
    for ((family, kernel, _), (widths, figures)) in &kernels {
        if *family != last {
            let _ = write!(
                text,
                "\n## {family}\n\n| kernel | rows | {} |\n|---|---|{}\n",
                SHOWN.join(" | "),
                "---|".repeat(SHOWN.len())
            );
            last = family;
        }
        let columns = SHOWN.map(|name| {
            let at = COLUMNS.iter().position(|column| column.name == name).unwrap_or_default();
            several(figures.iter().map(|figures| figures[at].to_string()))
        });
        let _ = writeln!(
            text,
            "| {kernel} | {} | {} |",
            several(widths.iter().map(|&width| width.to_owned())),
            columns.join(" | ")
        );
    }
    text += "\n## Reasons\n\nWhy the table was changed, the first time first.\n\n";
    for (number, reason) in table.reasons.iter().enumerate() {
        let _ = writeln!(text, "{}. {reason}", number + 1);
    }
    text
}

/// A kernel's name without its width, and the width.
fn split_width(kernel: &str) -> (String, &str) {
    let width = kernel.split(' ').find_map(|word| word.strip_prefix("ROWS=")).unwrap_or_default();
    let words: Vec<_> = kernel.split(' ').filter(|word| !word.starts_with("ROWS=")).collect();
    (words.join(" "), width)
}

/// A value for each width, or the one that all have.
fn several(values: impl Iterator<Item = String>) -> String {
    let mut values: Vec<_> = values.collect();
    if values.iter().all(|value| *value == values[0]) {
        values.truncate(1);
    }
    values.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::{FIGURES, table};

    #[test]
    fn widths_share_a_line_and_what_is_written_by_hand_stays() {
        let mut wide = FIGURES;
        wide[0] = 48;
        let table =
            table(&[("matmul weight_f16 ROWS=1", FIGURES), ("matmul weight_f16 ROWS=4", wide), ("norm", FIGURES)]);
        let page = update(&format!("# Title\n\n{BEGIN}old"), &table).expect("the line is there");
        assert!(page.starts_with(&format!("# Title\n\n{BEGIN}\nDriver: radv.\n")), "{page}");
        assert!(page.contains("| matmul weight_f16 | 1 4 | 24 48 | 32 | 126 | 2480 | 48 | 3 |\n"), "{page}");
        assert!(page.contains("| norm |  | 24 | 32 | 126 | 2480 | 48 | 3 |\n"), "{page}");
        assert!(page.ends_with("1. the first\n"), "{page}");
        assert_eq!(update(&page, &table), Ok(page.clone()), "made twice it is the same");
    }

    #[test]
    fn a_page_without_the_line_is_refused() {
        assert!(update("# Title", &table(&[])).is_err_and(|error| error.contains("has no line")));
    }
}
