//! GGUF: one file, or its parts, that holds everything; the metadata is the configuration and the tokenizer.
//!
//! What llama.cpp changes when it converts a model is undone here: the names of tensors, and the order of rows in the query and key
//! projections of `llama`.

mod config;
pub(in crate::format) mod content;
mod describe;
mod names;
mod tokenizer;
mod vocabulary;

use super::hugging_face::add;
use super::{Layout, Opened, heads};
use crate::error::{Error, Result};
use crate::format::checkpoint::HeadKind;
use crate::format::config::ModelConfig;
use crate::format::files::Files;
use crate::format::gguf::Gguf;
use crate::format::safetensors::Header;
use crate::format::tensors::Tensors;
use crate::format::tokenizer::Tokenizer;

const ENDING: &str = ".gguf";

/// Beginnings of the names of files that may lie beside a model and are none.
const OTHERS: [&str; 2] = ["mmproj", "imatrix"];

/// What states the shapes of tensors.
const METADATA: &str = "the metadata";

/// The layout of llama.cpp.
pub(super) struct GgufFile;

impl Layout for GgufFile {
    const EXPECTED: &'static str = "one GGUF file";

    async fn open<'f, F: Files>(files: &'f F) -> Result<Opened<'f, F>> {
        let Parts { first, tensors, names } = Parts::read(files).await?;
        let (mut config, mut tensors) = understood(files, &first, tensors)?;
        divide_rope(&mut tensors, &mut config).await?;
        let mut head_files = Vec::new();
        if files.len(heads::CONFIG).await?.is_some() {
            head_files.push((HeadKind::Foretoken, heads::CONFIG));
        }
        Ok(Opened {
            config,
            tensors,
            stated_by: METADATA,
            has_tokenizer: tokenizer::is_in(&first),
            head_files,
            notes: Vec::new(),
            deciding: names,
            contradiction: None,
        })
    }

    async fn tokenizer<F: Files>(files: &F) -> Result<Tokenizer> {
        let first = read_part(files, &parts(files)?[0]).await?;
        tokenizer::build(&first).map_err(|error| error.within(files.describe()))
    }
}

/// Whether the files of a folder are a GGUF file's: it may lie beside other files, but for those of tensors.
pub(super) fn is_there<F: Files>(files: &F) -> bool {
    let names = files.names();
    names.iter().any(|name| is_model(name)) && !names.iter().any(|name| name.ends_with(".safetensors"))
}

pub(super) fn has_ending(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with(ENDING)
}

fn is_model(name: &str) -> bool {
    has_ending(name) && !OTHERS.iter().any(|other| name.starts_with(other))
}

/// The tensors of the model, under the names of its family; with the files that they lie in.
pub(super) async fn find_tensors<F: Files>(files: &F) -> Result<(Header, Vec<String>)> {
    let Parts { first, tensors, names } = Parts::read(files).await?;
    let (_, tensors) = understood(files, &first, tensors)?;
    Ok((Header { tensors: tensors.usable().clone(), skipped: tensors.skipped().clone(), ..Header::default() }, names))
}

/// The configuration, and the tensors by the names that it has for them.
fn understood<'f, F: Files>(files: &'f F, gguf: &Gguf, tensors: Header) -> Result<(ModelConfig, Tensors<'f, F>)> {
    let place = |error: Error| error.within(files.describe());
    let architecture = config::architecture(gguf).map_err(place)?;
    let config = config::read(gguf, architecture, &tensors).map_err(place)?;
    let mut tensors = Tensors::with_blocks(files, tensors);
    names::rename(&mut tensors, &config, architecture);
    Ok((config, tensors))
}

/// Takes in what the file divides the rope's frequencies by.
async fn divide_rope<F: Files>(tensors: &mut Tensors<'_, F>, config: &mut ModelConfig) -> Result<()> {
    if !tensors.contains(names::ROPE) {
        return Ok(());
    }
    let rotated = config.spec.rope().map_or(0, |rope| rope.rotary_dim);
    let info = tensors.require(names::ROPE, &[rotated / 2], METADATA)?;
    let divisors = info.dtype.decode(&tensors.read(info).await?);
    if let Some(wrong) = divisors.iter().find(|divisor| !(divisor.is_finite() && **divisor > 0.0)) {
        let message = format!("tensor \"{}\": expected numbers above 0, got {wrong}", names::ROPE);
        return Err(Error::format(message).within(tensors.describe()));
    }
    config.divide_rope(&divisors);
    tensors.remove(names::ROPE);
    Ok(())
}

/// The files of a model.
struct Parts {
    /// The header of the first, whose metadata is the model's.
    first: Gguf,
    /// The tensors of all.
    tensors: Header,
    names: Vec<String>,
}

impl Parts {
    async fn read<F: Files>(files: &F) -> Result<Self> {
        let names = parts(files)?;
        let mut first = read_part(files, &names[0]).await?;
        let count = first.whole("split.count")?.unwrap_or(1).max(1);
        if count != names.len() as u64 {
            let message = format!(
                "it is one of {count} parts, but its name says {}; expected the name that it had: NAME-00001-of-{count:05}{ENDING}",
                names.len()
            );
            return Err(Error::format(format!("{}: {message}", names[0])).within(files.describe()));
        }
        let mut tensors = std::mem::take(&mut first.tensors);
        for (index, name) in names.iter().enumerate().skip(1) {
            let part = read_part(files, name).await?;
            let number = part.whole("split.no")?;
            if number != Some(index as u64) {
                let got = number.map_or("none".to_owned(), |number| number.to_string());
                let message = format!("{name}: `split.no`: expected {index}, got {got}; is it a part of another file?");
                return Err(Error::format(message).within(files.describe()));
            }
            add(files, &mut tensors, part.tensors, name, |_| false)?;
        }
        Ok(Self { first, tensors, names })
    }
}

async fn read_part<F: Files>(files: &F, name: &str) -> Result<Gguf> {
    let gguf = Gguf::read(files, name).await?;
    gguf.ok_or_else(|| Error::io(format!("{name} not found in {}; download it too", files.describe())))
}

/// The names of the one model's parts, in order.
fn parts<F: Files>(files: &F) -> Result<Vec<String>> {
    let names: Vec<String> = files.names().into_iter().filter(|name| is_model(name)).collect();
    let mut models: Vec<String> =
        names.iter().map(|name| part_of(name).map_or(name.clone(), |(whole, _)| part_name(whole, 1, name))).collect();
    models.dedup();
    match &models[..] {
        [] => Err(Error::io(format!("no file *{ENDING} in {}", files.describe()))),
        [only] => Ok(match part_of(only) {
            Some((whole, count)) => (1..=count).map(|index| part_name(whole, index, only)).collect(),
            None => vec![only.clone()],
        }),
        several => Err(Error::input(format!(
            "{}: several GGUF files are there: {}; name the one that is meant",
            files.describe(),
            several.join(", ")
        ))),
    }
}

/// The beginning of the names of a file's parts, and how many there are; `None` for the name of a whole file.
pub(super) fn part_of(name: &str) -> Option<(&str, u32)> {
    const NUMBERS: usize = "-00001-of-00001".len();
    let stem = &name[..name.len().checked_sub(ENDING.len())?];
    let (whole, numbers) = stem.split_at_checked(stem.len().checked_sub(NUMBERS)?)?;
    let (index, count) = numbers.strip_prefix('-')?.split_once("-of-")?;
    let number = |digits: &str| digits.parse::<u32>().ok().filter(|_| digits.len() == 5 && !digits.starts_with('+'));
    let (index, count) = (number(index)?, number(count)?);
    (1..=count).contains(&index).then_some((whole, count))
}

/// The name of part `index` beside the part `other`.
fn part_name(whole: &str, index: u32, other: &str) -> String {
    let (end, total) = (&other[other.len() - ENDING.len()..], part_of(other).map_or(1, |(_, count)| count));
    format!("{whole}-{index:05}-of-{total:05}{end}")
}
