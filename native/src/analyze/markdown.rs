//! report.md: the report as tables.

use std::fmt::Write;

use foretoken::analysis::{Interval, Report};

use super::timing::Timing;

/// 12.3 (11.0 - 13.7), in percent.
fn percent(of: &Interval) -> String {
    number(of, 100.0, 1)
}

fn plain(of: &Interval) -> String {
    number(of, 1.0, 2)
}

fn number(of: &Interval, unit: f64, digits: usize) -> String {
    if !of.value.is_finite() {
        return "-".to_owned();
    }
    let [value, low, high] = [of.value, of.low, of.high].map(|value| value * unit);
    format!("{value:.digits$} ({low:.digits$} to {high:.digits$})")
}

/// The whole report.
pub fn text(report: &Report, timings: &[Timing]) -> String {
    let mut md = String::new();
    let settings = &report.settings;
    let _ = writeln!(md, "# {} on {}\n", settings.model, settings.data.name);
    let _ = writeln!(
        md,
        "{} samples, {} target tokens, the same at every offset ({} samples were too short). Protocol {}; marginals over the \
         nucleus of {}, renormalised; in brackets 95 % intervals of a bootstrap over samples ({} resamples, seed {}).\n",
        report.samples,
        report.targets,
        report.too_short,
        settings.protocol,
        settings.mass,
        settings.resamples,
        settings.seed
    );
    accuracy(report, &mut md);
    contrasts(report, &mut md);
    drafting(report, &mut md);
    let _ = writeln!(md, "## The next-token distribution\n\n| mass of the nucleus | tokens |\n|---|---|");
    for nucleus in &report.nucleus {
        let _ = writeln!(md, "| {} | {} |", nucleus.mass, number(&nucleus.size, 1.0, 1));
    }
    let _ = writeln!(md, "\nEntropy: {} nats.\n", plain(&report.next_entropy));
    if !report.lens.is_empty() {
        let _ = writeln!(md, "## Logit lens\n\n| blocks | KL(p_l \\|\\| p), nats |\n|---|---|");
        for depth in &report.lens {
            let _ = writeln!(md, "| {} | {} |", depth.blocks, plain(&depth.divergence));
        }
        md.push('\n');
    }
    heads(report, timings, &mut md);
    let _ = writeln!(md, "Plots: {}", super::plots::NAMES.map(|name| format!("[{name}]({name})")).join(", "));
    md
}

fn accuracy(report: &Report, md: &mut String) {
    let _ = writeln!(md, "## Accuracy\n");
    let _ = writeln!(
        md,
        "The control is the same prediction held against the token *after* the target: it must collapse. `given the text` heads \
         have read the text's own tokens before the target, as drafting does; they know more than a marginal.\n"
    );
    let _ = writeln!(md, "| offset | method | top | accuracy, % | control, % | collapses |\n|---|---|---|---|---|---|");
    for column in &report.columns {
        for accuracy in &column.accuracy {
            let (offset, name, top) = (column.column.offset, &column.name, accuracy.top);
            let collapses = if accuracy.control_collapses { "yes" } else { "**no**" };
            let (found, control) = (percent(&accuracy.accuracy), percent(&accuracy.control));
            let _ = writeln!(md, "| +{offset} | {name} | {top} | {found} | {control} | {collapses} |");
        }
    }
    let _ = writeln!(md, "\n| offset | method | nats | entropy, nats | calibration error, % | its +1 agrees, % |");
    let _ = writeln!(md, "|---|---|---|---|---|---|");
    for column in &report.columns {
        let agreement = column.agreement.as_ref().map_or("-".to_owned(), percent);
        let (nll, entropy) = (plain(&column.nll), plain(&column.entropy));
        let error = percent(&column.calibration_error);
        let _ =
            writeln!(md, "| +{} | {} | {nll} | {entropy} | {error} | {agreement} |", column.column.offset, column.name);
    }
    md.push('\n');
}

fn contrasts(report: &Report, md: &mut String) {
    if !report.contrasts.is_empty() {
        let _ =
            writeln!(md, "## Paired differences\n\n| offset | method | less | top | points |\n|---|---|---|---|---|");
        for contrast in &report.contrasts {
            let [mine, other] = [contrast.column, contrast.baseline].map(|column| &report.columns[column]);
            let difference = percent(&contrast.difference);
            let _ = writeln!(
                md,
                "| +{} | {} | {} | {} | {difference} |",
                mine.column.offset, mine.name, other.name, contrast.top
            );
        }
        md.push('\n');
    }
    if !report.gaps.is_empty() {
        let _ = writeln!(md, "## Gap closed\n\n(method - first heads) / (marginal - first heads).\n");
        let _ = writeln!(md, "| offset | method | first heads | top | % |\n|---|---|---|---|---|");
        for gap in &report.gaps {
            let [mine, first] = [gap.column, gap.first].map(|column| &report.columns[column]);
            let closed = percent(&gap.closed);
            let _ =
                writeln!(md, "| +{} | {} | {} | {} | {closed} |", mine.column.offset, mine.name, first.name, gap.top);
        }
        md.push('\n');
    }
}

fn drafting(report: &Report, md: &mut String) {
    if report.drafting.is_empty() {
        return;
    }
    let _ = writeln!(
        md,
        "## Drafting\n\nTeacher-forced: a draft is right where it is the text's own token. On texts that the model has written \
         itself this is what `generate` accepts.\n"
    );
    let _ =
        writeln!(md, "| method | draft | right if all before are, % | expected accepted drafts |\n|---|---|---|---|");
    for drafting in &report.drafting {
        for (depth, acceptance) in drafting.acceptance.iter().enumerate() {
            let length = if depth == 0 { plain(&drafting.accepted_length) } else { String::new() };
            let _ = writeln!(md, "| {} | {} | {} | {length} |", drafting.name, depth + 1, percent(acceptance));
        }
    }
    md.push('\n');
}

fn heads(report: &Report, timings: &[Timing], md: &mut String) {
    if report.heads.is_empty() {
        return;
    }
    let _ = writeln!(
        md,
        "## Heads\n\n| heads | | parameters | bytes a draft reads over a plain step's |\n|---|---|---|---|"
    );
    for folder in &report.heads {
        let drafting = folder.heads.iter().filter(|head| (2..=report.settings.offsets).contains(&head.offset));
        let cost: f64 = drafting.map(|head| head.draft_over_step).sum();
        let _ = writeln!(md, "| {} | {} | {} | {cost:.2} |", folder.label, folder.summary, folder.parameters);
    }
    md.push('\n');
    let measured = || timings.iter().flat_map(|timing| timing.drafts.iter().map(move |draft| (timing, draft)));
    if measured().next().is_some() {
        let _ = writeln!(md, "| heads | drafts | time of a draft over a plain step | measured on |\n|---|---|---|---|");
        for (timing, draft) in measured() {
            let (label, tokens, ratio) = (&draft.heads, draft.tokens, draft.draft_over_step);
            let _ =
                writeln!(md, "| {label} | {tokens} | {ratio:.2} | {}, {} kernels |", timing.adapter, timing.kernels);
        }
        md.push('\n');
    }
}
