//! `foretoken audit`: whether drafts leave every text as it is, on this device and with this model.

use std::fmt::Write;
use std::path::PathBuf;

use foretoken::decode::{Audit, AuditCase, AuditOptions, Difference};
use serde::Serialize;

use crate::drafting::HeadsWanted;
use crate::source::{EngineFlags, Loaded};
use crate::terminal::{FAILURE, Meter, Outcome, SUCCESS, print, print_json, print_status};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    engine: EngineFlags,
    /// A folder with multi-token heads [default: the checkpoint's own, if it has any]
    #[arg(long, value_name = "FOLDER")]
    heads: Option<PathBuf>,
    /// Go on to the end of the context instead of 48 tokens
    #[arg(long)]
    full: bool,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// The contract of `audit --json`.
#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    adapter: &'a str,
    kernels: String,
    #[serde(flatten)]
    audit: &'a Audit,
}

pub async fn run(args: &Args) -> Outcome<u8> {
    let mut meter = Meter::default();
    let heads = args.heads.as_deref().map_or(HeadsWanted::Own, HeadsWanted::Folder);
    let loaded = args.engine.check(heads).await?.load(&mut meter).await?;
    let mut options = AuditOptions::for_engine(&loaded.engine)?;
    if args.full {
        options.tokens = None;
    }
    let audit = loaded.engine.session()?.audit(&options, &mut |progress| meter.update(progress)).await?;
    meter.clear();
    let Loaded { engine, adapter, model, .. } = &loaded;
    if args.json {
        let kernels = engine.kernels().to_string();
        print_json(&Report { model, adapter: &adapter.name, kernels, audit: &audit })?;
    } else {
        print(&table(&audit))?;
        print_status(format_args!("[{adapter} · {} kernels · {model}]", engine.kernels()));
    }
    Ok(if audit.equal { SUCCESS } else { FAILURE })
}

fn table(audit: &Audit) -> String {
    let mut lines =
        String::from("temperature  drafter             tree           prompts  tokens  accepted  verdict\n");
    for AuditCase { drafter, tree, temperature, prompts, tokens, accepted, equal, .. } in &audit.cases {
        let verdict = verdict(*equal);
        let _ = writeln!(
            lines,
            "{temperature:11}  {drafter:18}  {tree:13}  {prompts:7}  {tokens:6}  {accepted:8}  {verdict}"
        );
    }
    let (logits, widths) = (&audit.logits, audit.logits.widths.iter().map(usize::to_string).collect::<Vec<_>>());
    let _ = writeln!(
        lines,
        "logits: {} positions, alone, in chains of {} rows and in trees: {}",
        logits.positions,
        widths.join(", "),
        verdict(logits.equal)
    );
    if let Some(difference) = &audit.first_difference {
        let _ = writeln!(lines, "first difference: {}", describe(difference));
    }
    lines + conclusion(audit) + "\n"
}

fn verdict(equal: bool) -> &'static str {
    if equal { "equal" } else { "DIFFERENT" }
}

fn conclusion(audit: &Audit) -> &'static str {
    match (audit.equal, audit.width_invariant) {
        (false, _) => {
            "DIFFERENT: do not trust drafts on this device (--draft off); foretoken devices tests its kernels"
        }
        (true, true) => "equal: drafts change nothing",
        (true, false) => {
            "equal, because drafts are off on this device: it computes a row differently beside other rows, so that they \
             would change texts"
        }
    }
}

/// For people, who count prompts from 1.
fn describe(difference: &Difference) -> String {
    let id = |id: &Option<u32>| id.map_or("the end of the text".to_owned(), |id| id.to_string());
    match difference {
        Difference::Text { prompt, temperature, drafter, tree, position, expected, got } => format!(
            "prompt {}, temperature {temperature}, {drafter}, tree {tree}, token {position} of the text: expected {}, got {}",
            prompt + 1,
            id(expected),
            id(got)
        ),
        Difference::Logits { prompt, position, width, tree } => format!(
            "prompt {}, logits of position {position}: alone other bits than in a batch of {width} rows (tree {tree})",
            prompt + 1
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verdict_is_said() {
        let text = Difference::Text {
            prompt: 1,
            temperature: 0.9,
            drafter: "lookup",
            tree: "3,2".to_owned(),
            position: 40,
            expected: Some(7),
            got: None,
        };
        let logits = Difference::Logits { prompt: 0, position: 3, width: 17, tree: "1,1".to_owned() };
        for (equal, width_invariant, first_difference, parts) in [
            (true, true, None, ["equal: drafts change nothing", "DIFFERENT", ""]),
            (false, true, Some(text), ["\nDIFFERENT", "drafts change nothing", "prompt 2, temperature 0.9, lookup"]),
            (true, false, Some(logits), ["off on this device", "DIFFERENT:", "position 3"]),
        ] {
            let has_difference = first_difference.is_some();
            let audit = Audit { equal, width_invariant, first_difference, ..Audit::default() };
            let mut table = table(&audit);
            if !has_difference {
                table = table.replace("DIFFERENT\n", "");
            }
            let [said, not_said, told] = parts;
            assert!(table.contains(said) && !table.contains(not_said) && table.contains(told), "{table}");
        }
    }
}
