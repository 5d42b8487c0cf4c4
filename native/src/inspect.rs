//! `foretoken inspect`: what is in a checkpoint, and what running it needs. No GPU is used.

use std::fmt::Write;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use foretoken::Error;
use foretoken::model::{HeadsInfo, Inspection};

use crate::folder::Folder;
use crate::source::ModelFlag;
use crate::terminal::{Outcome, SUCCESS, bytes, counted, print, print_json, visible};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelFlag,
    /// The context to count memory for [default: the model's own, at most 4096]
    #[arg(long, value_name = "TOKENS")]
    context: Option<NonZeroUsize>,
    /// A folder with multi-token heads [default: the checkpoint's own, if it has any]
    #[arg(long, value_name = "DIR")]
    heads: Option<PathBuf>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

pub async fn run(args: &Args) -> Outcome<u8> {
    let files = args.model.files().await?;
    let context = args.context.map(NonZeroUsize::get);
    let inspection = match &args.heads {
        Some(heads) => foretoken::model::inspect_with_heads(&files, &Folder::open_heads(heads)?, context).await?,
        None => foretoken::model::inspect(&files, context).await?,
    };
    if args.json {
        print_json(&inspection)?
    } else {
        print(&visible(&description(&inspection)))?
    }
    // The report is complete, but `generate` would refuse this checkpoint, and scripts should notice.
    match inspection.problem {
        None => Ok(SUCCESS),
        Some(problem) => Err(Error::format(problem).into()),
    }
}

fn description(inspection: &Inspection) -> String {
    let lines = [
        ("model", inspection.model.clone()),
        ("family", inspection.model_type.clone()),
        ("parameters", thousands(inspection.parameters)),
        ("dtypes", dtypes(inspection)),
        ("vocabulary", thousands(inspection.vocab_size as u64)),
        ("layers", layers(inspection)),
        ("attention", attention(inspection)),
        ("longest text", counted(inspection.max_position_embeddings, "token")),
        ("end tokens", join(&inspection.eos_token_ids, "none")),
        ("GPU memory", memory(inspection)),
        ("tensors", tensors(inspection)),
        ("multi-token heads", heads(inspection)),
    ];
    let mut text = String::new();
    for (name, value) in lines {
        let _ = writeln!(text, "{name:18} {value}");
    }
    let unused: Vec<String> = inspection.heads.iter().flat_map(|heads| heads.unused.clone()).collect();
    for (title, names) in [
        ("note", &inspection.notes),
        ("ignored", &inspection.ignored),
        ("unknown", &inspection.unknown),
        ("missing", &inspection.missing),
        ("heads, not used", &unused),
    ] {
        for name in names {
            let _ = writeln!(text, "{title:18} {name}");
        }
    }
    text
}

fn dtypes(inspection: &Inspection) -> String {
    let dtypes: Vec<_> =
        inspection.dtypes.iter().map(|(dtype, count)| format!("{} {dtype}", counted(*count, "tensor"))).collect();
    join(&dtypes, "none")
}

fn layers(inspection: &Inspection) -> String {
    let Inspection { num_hidden_layers, hidden_size, intermediate_size, norm, activation, .. } = inspection;
    let head = if inspection.tie_word_embeddings { "LM head tied to the embedding" } else { "LM head of its own" };
    format!("{num_hidden_layers}, hidden {hidden_size}, inner {intermediate_size}, {norm}, {activation}, {head}")
}

fn attention(inspection: &Inspection) -> String {
    let Inspection { num_attention_heads, num_key_value_heads, head_dim, .. } = inspection;
    let norm = if inspection.qk_norm { ", query and key heads normalised" } else { "" };
    let (windows, recurrent) = (windows(&inspection.windows), recurrent(inspection));
    format!(
        "{num_attention_heads} query heads, {num_key_value_heads} key and value heads, {head_dim} wide{norm}{windows}{recurrent}"
    )
}

/// Which blocks have a state in place of attention, where some do.
fn recurrent(inspection: &Inspection) -> String {
    let Inspection { recurrent_layers, num_hidden_layers, .. } = inspection;
    match recurrent_layers {
        0 => String::new(),
        some => format!("; a gated DeltaNet in its place in {some} of {num_hidden_layers} blocks"),
    }
}

/// Which blocks see a window, where some do.
fn windows(windows: &[Option<usize>]) -> String {
    let mut sizes: Vec<usize> = windows.iter().copied().flatten().collect();
    sizes.sort_unstable();
    sizes.dedup();
    let of = |size: &usize| match windows.iter().filter(|window| **window == Some(*size)).count() {
        all if all == windows.len() => format!(", a window of {size}"),
        some => format!(", a window of {size} in {} of {} blocks", some, windows.len()),
    };
    sizes.iter().map(of).collect()
}

fn memory(inspection: &Inspection) -> String {
    let &Inspection { weights_bytes, cache_bytes, work_bytes, context, .. } = inspection;
    // The formats that are chosen most.
    let quantized = ["q8_0", "q6_k", "q4_k", "q4_0"].into_iter().filter_map(|format| {
        let size = inspection.quantized_bytes.get(format)?;
        Some(format!(" ({} with --quantize {format})", bytes(*size)))
    });
    format!(
        "{}: weights {}{}, cache for {} {}, work {}",
        bytes(weights_bytes.saturating_add(cache_bytes).saturating_add(work_bytes)),
        bytes(weights_bytes),
        quantized.collect::<String>(),
        counted(context, "token"),
        bytes(cache_bytes),
        bytes(work_bytes)
    )
}

fn tensors(inspection: &Inspection) -> String {
    let Inspection { tensors_used, ignored, unknown, missing, .. } = inspection;
    let [used, ignored, unknown, missing] = [tensors_used, ignored, unknown, missing].map(Vec::len);
    format!("{used} used, {ignored} known and not needed, {unknown} unknown, {missing} missing")
}

fn heads(inspection: &Inspection) -> String {
    let size = |heads: &HeadsInfo| match heads.used {
        true => format!(" ({} parameters, {} of GPU memory)", thousands(heads.parameters), bytes(heads.bytes)),
        false => String::new(),
    };
    let heads = inspection.heads.iter().map(|heads| format!("{}: {}{}", heads.kind, heads.note, size(heads)));
    join(&heads.collect::<Vec<_>>(), "none found")
}

fn join<T: ToString>(items: &[T], none: &str) -> String {
    match items {
        [] => none.to_owned(),
        items => items.iter().map(T::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// `1234567` as `1,234,567`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::thousands;

    #[test]
    fn long_numbers_are_grouped() {
        for (number, expected) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(number), expected);
        }
    }
}
