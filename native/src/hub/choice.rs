//! Which files of a repository make a model.

use std::collections::{BTreeMap, BTreeSet};

use foretoken::format::layouts;

use super::name::{Pick, ends_with};

/// The quantisation that is taken where none is named and the whole model is too large: the one that people take.
const USUAL: &str = "Q4_K_M";

/// A file's name and length.
pub type Sized = (String, u64);

/// The sum of lengths, which a list may make as large as it likes.
pub fn total(sizes: impl Iterator<Item = u64>) -> u64 {
    sizes.fold(0, u64::saturating_add)
}

/// The files that make a model.
#[derive(Debug, PartialEq, Eq)]
pub struct Choice {
    /// Their names, in the order to fetch them: what tells that a model is there comes last.
    pub files: Vec<String>,
    /// The file to open, for a model in GGUF; else it is the folder.
    pub open: Option<String>,
    /// What they are, for people.
    pub what: String,
    /// Whether somebody chose who could have chosen otherwise.
    pub chosen: bool,
}

/// Chooses among the files of a repository. `fits` tells whether weights of so many bytes suit this machine.
///
/// # Errors
/// In words, where no file is meant or it is not clear which.
pub fn choose(files: &[Sized], pick: &Pick, fits: impl Fn(u64) -> bool) -> Result<Choice, String> {
    let models = gguf_models(files)?;
    match pick {
        Pick::File(file) => {
            let known = |model: &&Model| model.files.contains(file);
            let model = models.iter().find(known).ok_or_else(|| match models.is_empty() {
                true => format!("it has no file {file}, and no other in GGUF"),
                false => format!("it has no model {file}; there are: {}", names(&models)),
            })?;
            model.choice(false)
        }
        Pick::Quantization(format) => {
            let fitting: Vec<_> = models.iter().filter(|model| model.is_of(format)).collect();
            match fitting[..] {
                [model] => model.choice(false),
                [] if models.is_empty() => Err(format!("it has no files in GGUF, so none of {format}")),
                [] => Err(format!("it has no {format}; there are: {}", formats(&models))),
                _ => Err(format!("several of its files are {format}: name one, as owner/name/{}", fitting[0].first())),
            }
        }
        Pick::Any => any(files, &models, fits),
    }
}

fn any(files: &[Sized], models: &[Model], fits: impl Fn(u64) -> bool) -> Result<Choice, String> {
    let whole = hugging_face(files);
    let usual = models.iter().find(|model| model.is_of(USUAL));
    let weights = |choice: &Choice| {
        let chosen = files.iter().filter(|(name, _)| name.ends_with(".safetensors") && choice.files.contains(name));
        total(chosen.map(|(_, size)| *size))
    };
    match (whole, usual, models) {
        (Some(whole), None, _) => Ok(whole),
        (Some(whole), Some(_), _) if fits(weights(&whole)) => Ok(Choice { chosen: true, ..whole }),
        (_, Some(model), _) => model.choice(true),
        (None, None, [only]) => only.choice(false),
        (None, None, []) => Err(nothing(files)),
        (None, None, _) => {
            Err(format!("which of its files? There are: {}; name one, as owner/name:FORMAT", formats(models)))
        }
    }
}

/// Why there is no model among the files.
fn nothing(files: &[Sized]) -> String {
    let any = |ending: &str| files.iter().find(|(name, _)| ends_with(name, ending)).map(|(name, _)| name);
    let has = |name: &str| files.iter().any(|(other, _)| other == name);
    if has("adapter_model.safetensors") {
        return "it holds a LoRA (adapter_model.safetensors), which is no model by itself: name the model that it was made for"
            .to_owned();
    }
    if let Some(other) = any(".gguf") {
        return format!("it holds no model in GGUF, only what goes with one ({other})");
    }
    if let Some(name) = any(".safetensors") {
        return format!("it holds {name}, but not config.json and model.safetensors as models of texts have them");
    }
    for ending in [".bin", ".pth", ".pt", ".onnx", ".h5", ".msgpack"] {
        if let Some(name) = any(ending) {
            return format!("it holds {name}, and nothing in safetensors or GGUF: look for a copy in one of these");
        }
    }
    "it holds no model: expected config.json and model.safetensors, or a file in GGUF".to_owned()
}

/// A checkpoint in Hugging Face layout, at the top of the repository.
fn hugging_face(files: &[Sized]) -> Option<Choice> {
    let top = || files.iter().map(|(name, _)| name).filter(|name| !name.contains('/'));
    // Other weights (consolidated.safetensors) are the same ones once more.
    let is_weights = |name: &str| name.starts_with("model") && name.ends_with(".safetensors");
    let is_heads = |name: &str| ["mtp.safetensors", "medusa_lm_head.safetensors"].contains(&name);
    let goes_with_them = |name: &str| (name.ends_with(".json") || name.ends_with(".jinja")) && name != CONFIG;
    if !top().any(|name| name == CONFIG) || !top().any(|name| is_weights(name)) {
        return None;
    }
    let mut chosen: Vec<String> = top().filter(|name| is_weights(name) || is_heads(name)).cloned().collect();
    chosen.extend(top().filter(|name| goes_with_them(name)).cloned());
    chosen.push(CONFIG.to_owned());
    Some(Choice { files: chosen, open: None, what: "safetensors".to_owned(), chosen: false })
}

const CONFIG: &str = "config.json";

/// A model in GGUF, in one file or several.
struct Model {
    /// Its files, the first part first.
    files: BTreeSet<String>,
    /// The parts that are missing, for people.
    missing: Option<String>,
}

impl Model {
    fn first(&self) -> &str {
        self.files.first().map_or("", |name| name)
    }

    /// Its format, as names tell it: what stands last in the name of the file, or of its folder.
    fn format(&self) -> Option<String> {
        let (folder, file) = self.first().rsplit_once('/').unwrap_or(("", self.first()));
        let stem = &file[..file.len() - ".gguf".len()];
        let stem = parts(file).map_or(stem, |(whole, _)| whole);
        last_format(stem).or_else(|| last_format(folder))
    }

    fn is_of(&self, format: &str) -> bool {
        self.format().is_some_and(|own| own.eq_ignore_ascii_case(format))
    }

    fn choice(&self, chosen: bool) -> Result<Choice, String> {
        if let Some(missing) = &self.missing {
            return Err(format!("{missing} is missing, a part of the model in {}", self.first()));
        }
        let what =
            self.format().map_or_else(|| self.first().to_owned(), |format| format!("{format} ({})", self.first()));
        Ok(Choice { files: self.files.iter().cloned().collect(), open: Some(self.first().to_owned()), what, chosen })
    }
}

/// The models in GGUF among the files. Those that go with another model (what sees pictures, drafters, statistics) are none.
fn gguf_models(files: &[Sized]) -> Result<Vec<Model>, String> {
    let is_other = |name: &str| {
        let name = name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
        name.contains("mmproj") || name.contains("imatrix") || name.starts_with("mtp-")
    };
    let mut models: BTreeMap<(String, u32), BTreeSet<String>> = BTreeMap::new();
    for (name, _) in files.iter().filter(|(name, _)| layouts::is_gguf(name) && !is_other(name)) {
        let (whole, count) = parts(name).unwrap_or((name, 1));
        models.entry((whole.to_owned(), count)).or_default().insert(name.clone());
    }
    let missing = |whole: &str, count: u32, files: &BTreeSet<String>| {
        let name = |part| format!("{whole}-{part:05}-of-{count:05}.gguf");
        let there = |name: &str| files.iter().any(|file| file.eq_ignore_ascii_case(name));
        // No more can be missing than there are names and one.
        let most = u32::try_from(files.len()).unwrap_or(u32::MAX).saturating_add(1).min(count);
        (files.len() as u64 != u64::from(count)).then(|| (1..=most).map(name).find(|name| !there(name))).flatten()
    };
    let model = |((whole, count), files): (_, BTreeSet<String>)| {
        let whole: String = whole;
        Model { missing: missing(&whole, count, &files), files }
    };
    Ok(models.into_iter().map(model).collect())
}

/// The beginning of a part's name, and how many parts there are; `None` for a whole file.
fn parts(name: &str) -> Option<(&str, u32)> {
    const NUMBERS: usize = "-00001-of-00001.gguf".len();
    let (whole, numbers) = name.split_at_checked(name.len().checked_sub(NUMBERS)?)?;
    let (index, rest) = numbers.strip_prefix('-')?.split_once("-of-")?;
    let count = rest.get(..5)?;
    let is_number = |digits: &str| digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit());
    (is_number(index) && is_number(count)).then(|| count.parse().ok().map(|count| (whole, count)))?
}

/// The format that a name ends with: `Q4_K_M` of `model-Q4_K_M`, `UD-Q4_K_XL` of `model-UD-Q4_K_XL`.
fn last_format(name: &str) -> Option<String> {
    let start = name.rfind(['-', '.']).map_or(0, |at| at + 1);
    let format = &name[start..];
    let upper = format.to_ascii_uppercase();
    let digit_after =
        |prefix: &str| upper.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let known = ["Q", "IQ", "TQ"].into_iter().any(digit_after)
        || ["F16", "F32", "BF16", "FP16", "FP32"].contains(&&upper[..])
        || upper.starts_with("MXFP4");
    let dynamic = name[..start].to_ascii_uppercase().ends_with("UD-");
    known.then(|| if dynamic { name[start - 3..].to_owned() } else { format.to_owned() })
}

/// The formats that there are, in order.
fn formats(models: &[Model]) -> String {
    let formats: BTreeSet<String> =
        models.iter().map(|model| model.format().unwrap_or_else(|| model.first().to_owned())).collect();
    shortened(formats.into_iter().collect())
}

fn names(models: &[Model]) -> String {
    shortened(models.iter().map(|model| model.first().to_owned()).collect())
}

/// The first of many.
fn shortened(mut names: Vec<String>) -> String {
    const SHOWN: usize = 40;
    let more = names.len().saturating_sub(SHOWN);
    names.truncate(SHOWN);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    names.join(", ") + &more
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> Vec<Sized> {
        names.iter().map(|name| ((*name).to_owned(), 100)).collect()
    }

    fn pick(text: &str) -> Pick {
        if text.is_empty() {
            Pick::Any
        } else if ends_with(text, ".gguf") {
            Pick::File(text.to_owned())
        } else {
            Pick::Quantization(text.to_owned())
        }
    }

    const GGUF: &[&str] = &[
        "README.md",
        "config.json",
        "mmproj-F16.gguf",
        "imatrix.gguf",
        "m-Q4_K_M.gguf",
        "m-UD-Q4_K_M.gguf",
        "m.q8_0.gguf",
        "BF16/m-BF16-00001-of-00002.gguf",
        "BF16/m-BF16-00002-of-00002.gguf",
        "IQ2_XXS/m-00001-of-00001.gguf",
    ];

    #[test]
    fn quantisations_are_found_by_the_names_of_files() {
        for (format, first, count) in [
            ("q4_k_m", "m-Q4_K_M.gguf", 1),
            ("ud-q4_k_m", "m-UD-Q4_K_M.gguf", 1),
            ("Q8_0", "m.q8_0.gguf", 1),
            ("bf16", "BF16/m-BF16-00001-of-00002.gguf", 2),
            ("IQ2_XXS", "IQ2_XXS/m-00001-of-00001.gguf", 1),
            ("m.q8_0.gguf", "m.q8_0.gguf", 1),
            ("BF16/m-BF16-00002-of-00002.gguf", "BF16/m-BF16-00001-of-00002.gguf", 2),
            // Without a word, what people take.
            ("", "m-Q4_K_M.gguf", 1),
        ] {
            let choice = choose(&files(GGUF), &pick(format), |_| true).unwrap();
            assert_eq!((choice.open.as_deref(), choice.files.len()), (Some(first), count), "{format}");
            assert!(choice.what.contains(first), "{}", choice.what);
        }
    }

    #[test]
    fn safetensors_are_taken_where_they_fit() {
        let whole = [
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "mtp.safetensors",
            "consolidated.safetensors",
            "onnx/model.safetensors",
            "model.safetensors.index.json",
            "tokenizer.json",
            "chat_template.jinja",
            "pytorch_model.bin",
            "config.json",
            "README.md",
        ];
        let both: Vec<&str> = whole.iter().chain(GGUF).copied().collect();
        let choice = choose(&files(&both), &Pick::Any, |bytes| bytes == 200 || bytes == 300).unwrap();
        assert_eq!(choice.what, "safetensors");
        let mut expected: Vec<&str> = whole[..3].to_vec();
        expected.extend(["model.safetensors.index.json", "tokenizer.json", "chat_template.jinja", "config.json"]);
        assert_eq!(choice.files, expected);
        assert!(choice.chosen && choice.open.is_none());
        let choice = choose(&files(&both), &Pick::Any, |_| false).unwrap();
        assert_eq!((choice.open.as_deref(), choice.chosen), (Some("m-Q4_K_M.gguf"), true));
        // Where there is nothing else, it is for the adapter to refuse.
        let choice = choose(&files(&whole), &Pick::Any, |_| false).unwrap();
        assert_eq!((&choice.what[..], choice.chosen), ("safetensors", false));
    }

    #[test]
    fn what_is_no_model_or_not_clear_is_told() {
        for (names, wanted, part) in [
            (GGUF, "Q5_K", "it has no Q5_K; there are: BF16, IQ2_XXS, Q4_K_M, UD-Q4_K_M, q8_0"),
            (GGUF, "x.gguf", "it has no model x.gguf; there are: BF16/m-BF16-00001-of-00002.gguf, "),
            (
                &["a-Q8_0.gguf", "b-Q8_0.gguf"],
                "q8_0",
                "several of its files are q8_0: name one, as owner/name/a-Q8_0.gguf",
            ),
            (
                &["a-Q8_0.gguf", "a-Q6_K.gguf"],
                "",
                "which of its files? There are: Q6_K, Q8_0; name one, as owner/name:FORMAT",
            ),
            (
                &["a-Q8_0-00001-of-00003.gguf", "a-Q8_0-00003-of-00003.gguf"],
                "q8_0",
                "a-Q8_0-00002-of-00003.gguf is missing",
            ),
            (&["a-Q8_0-00001-of-99999.gguf"], "q8_0", "a-Q8_0-00002-of-99999.gguf is missing"),
            (&["adapter_model.safetensors", "config.json"], "", "it holds a LoRA"),
            (&["mmproj-F16.gguf"], "", "only what goes with one (mmproj-F16.gguf)"),
            (&["mmproj-F16.gguf"], "F16", "it has no files in GGUF, so none of F16"),
            (
                &["config.json", "pytorch_model.bin"],
                "",
                "it holds pytorch_model.bin, and nothing in safetensors or GGUF",
            ),
            (&["unet.safetensors"], "", "it holds unet.safetensors, but not config.json and model.safetensors"),
            (&["README.md"], "", "it holds no model"),
            (&[], "x.gguf", "it has no file x.gguf, and no other in GGUF"),
        ] {
            let error = choose(&files(names), &pick(wanted), |_| true).unwrap_err();
            assert!(error.starts_with(part) || error.contains(part), "{wanted}: {error}");
        }
    }
}
