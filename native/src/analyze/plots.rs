//! The plots of a report.

use foretoken::analysis::{Bin, ColumnReport, Interval, Report};

use crate::plot::{Labels, Point, Series, bars, heat_map, lines};

/// The names of all plots.
pub const NAMES: [&str; 7] =
    ["accuracy.svg", "acceptance.svg", "calibration.svg", "entropy.svg", "lens.svg", "nucleus.svg", "whs.svg"];

/// The plots with their names; those of what was not measured say so by being empty.
pub fn all(report: &Report) -> [(&'static str, String); 7] {
    let plots = [
        accuracy(report),
        acceptance(report),
        bins(report, "Calibration: is the likeliest token right as often as it is probable?", "its probability", true),
        bins(report, "Entropy against acceptance", "entropy of the prediction (nats)", false),
        lens(report),
        nucleus(report),
        mixes(report),
    ];
    let mut plots = plots.into_iter();
    NAMES.map(|name| (name, plots.next().unwrap_or_default()))
}

fn point(x: f64, of: &Interval, unit: f64) -> Point {
    Point { x, y: of.value * unit, low: of.low * unit, high: of.high * unit }
}

fn title(column: &ColumnReport) -> String {
    format!("+{} {}", column.column.offset, column.name)
}

/// A bar for each column in the group of its list's size.
fn accuracy(report: &Report) -> String {
    let groups: Vec<String> = report.settings.top.iter().map(|top| format!("top {top}")).collect();
    let of = |column: &ColumnReport| Series {
        name: title(column),
        points: column.accuracy.iter().map(|found| point(0.0, &found.accuracy, 100.0)).collect(),
    };
    let labels =
        Labels { title: "Teacher-forced accuracy, 95 % intervals", x: "target among the likeliest", y: "accuracy (%)" };
    bars(labels, &groups, &report.columns.iter().map(of).collect::<Vec<_>>())
}

fn acceptance(report: &Report) -> String {
    let of = |drafting: &foretoken::analysis::Drafting| Series {
        name: drafting.name.clone(),
        points: drafting.acceptance.iter().map(|found| point(0.0, found, 100.0)).collect(),
    };
    let deepest = report.drafting.iter().map(|drafting| drafting.acceptance.len()).max().unwrap_or(0);
    let groups: Vec<String> = (1..=deepest).map(|depth| format!("draft {depth}")).collect();
    let labels = Labels { title: "Drafts right, if all before are", x: "draft", y: "right (%)" };
    bars(labels, &groups, &report.drafting.iter().map(of).collect::<Vec<_>>())
}

/// Bins with few predictions say nothing.
const FEWEST: u64 = 10;

fn bins(report: &Report, title_text: &str, x: &str, calibration: bool) -> String {
    let of = |column: &ColumnReport| {
        let bins: &[Bin] = if calibration { &column.calibration } else { &column.by_entropy };
        let points = bins.iter().filter(|bin| bin.count >= FEWEST).map(|bin| point(bin.mean, &bin.accuracy, 1.0));
        Series { name: title(column), points: points.collect() }
    };
    let labels = Labels { title: title_text, x, y: "share of right tokens" };
    lines(labels, &report.columns.iter().map(of).collect::<Vec<_>>(), calibration)
}

fn lens(report: &Report) -> String {
    let points = report.lens.iter().map(|depth| point(depth.blocks as f64, &depth.divergence, 1.0)).collect();
    let labels = Labels { title: "Logit lens: KL(p_l || p)", x: "blocks l", y: "divergence (nats)" };
    lines(labels, &[Series { name: report.settings.model.clone(), points }], false)
}

fn nucleus(report: &Report) -> String {
    let groups: Vec<String> = report.nucleus.iter().map(|nucleus| nucleus.mass.to_string()).collect();
    let points = report.nucleus.iter().map(|nucleus| point(0.0, &nucleus.size, 1.0)).collect();
    let labels = Labels { title: "Nucleus of the next token", x: "probability of the nucleus", y: "tokens (mean)" };
    bars(labels, &groups, &[Series { name: report.settings.model.clone(), points }])
}

fn mixes(report: &Report) -> String {
    let (mut rows, mut values) = (Vec::new(), Vec::new());
    for folder in &report.heads {
        for head in &folder.heads {
            if let Some(mix) = &head.mix {
                rows.push(format!("{} +{}", folder.label, head.offset));
                values.push(mix.iter().map(|&weight| f64::from(weight)).collect::<Vec<f64>>());
            }
        }
    }
    let blocks = values.iter().map(Vec::len).max().unwrap_or(0);
    let columns: Vec<String> = (1..=blocks).map(|block| block.to_string()).collect();
    let title = if rows.is_empty() {
        "No head reads a mix of hidden states"
    } else {
        "Weights of the hidden states that heads read"
    };
    heat_map(Labels { title, x: "after block", y: "" }, &rows, &columns, &values)
}
