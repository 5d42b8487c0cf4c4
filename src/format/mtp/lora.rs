//! Heads in the own layout, as files in memory, with a LoRA put to them or taken from them, or in half the bytes.

use std::collections::BTreeMap;

use ::safetensors::tensor::TensorView;
use ::safetensors::{Dtype as StoredDtype, SafeTensors};
use half::f16;
use serde_json::{Map, Value, json};

use super::MAX_HEADS;
use super::{CONFIG, TENSORS};
use crate::error::{Error, Result};
use crate::format::config::ModelConfig;
use crate::format::fields::parse_object;
use crate::options::setters;

/// The largest rank that heads may bring.
const MAX_RANK: usize = 1024;

/// The beginning of the names of a LoRA's tensors.
const PREFIX: &str = "lora.";

/// Which LoRA [`add_lora`] makes: of queries, keys and values, its alpha the rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoraOptions {
    /// Rows of every `A`.
    pub rank: usize,
    /// The backbone's blocks that it changes, from the first on.
    pub blocks: usize,
    /// Whether it acts on drafting rows only.
    pub gated: bool,
    /// The seed of the random numbers.
    pub seed: u64,
}

impl LoraOptions {
    /// A LoRA of a rank, of the first blocks of the backbone, which will be merged; with seed 0.
    pub fn new(rank: usize, blocks: usize) -> Self {
        Self { rank, blocks, gated: false, seed: 0 }
    }
}

setters!(LoraOptions { rank: usize, blocks: usize, gated: bool, seed: u64 });

/// Files of heads by name.
type FilesByName = BTreeMap<String, Vec<u8>>;

/// A tensor as it is stored.
struct Stored {
    dtype: StoredDtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// Puts a LoRA to the heads in `files`, as training starts with it: `A` uniform as `torch.nn.Linear` begins, `B` zero, so that it
/// changes nothing yet. A head 1 that was in the last block's place takes it for good; beside a gated LoRA it gives way to the
/// backbone's own last block. That block also becomes the first head where there is none for the next token, which would
/// change with the LoRA and learn nothing.
///
/// # Errors
/// [`ErrorKind::Input`](crate::ErrorKind::Input) for heads that have one, and for ranks and blocks that make no sense.
pub fn add_lora(files: &mut FilesByName, config: &ModelConfig, options: &LoraOptions) -> Result<()> {
    let LoraOptions { rank, blocks, gated, seed } = *options;
    if !(1..=MAX_RANK).contains(&rank) {
        return Err(Error::input(format!("a LoRA of rank {rank}: expected 1 to {MAX_RANK}")));
    }
    let total = config.num_hidden_layers;
    if !(1..=total).contains(&blocks) {
        return Err(Error::input(format!("a LoRA of {blocks} blocks: expected 1 to {total}, the backbone's")));
    }
    let mut description = description(files)?;
    if description.get("lora").is_some_and(|lora| !lora.is_null()) {
        return Err(Error::input("these heads bring a LoRA already"));
    }
    let mut tensors = tensors(files)?;
    let adaptable = config.adaptable();
    let targets: Vec<&str> = adaptable.iter().map(|(name, _)| name.rsplit('.').next().unwrap_or(name)).collect();
    for block in 0..blocks {
        for (target, (_, outputs)) in targets.iter().zip(&adaptable) {
            let [a, b] = ["a", "b"].map(|part| format!("{PREFIX}{block}.{target}.{part}"));
            // Kaiming's uniform with a = sqrt(5): between -1 / sqrt(inputs) and 1 / sqrt(inputs).
            let bound = 1.0 / (config.hidden_size as f64).sqrt();
            let mut uniform = super::init::uniform(&a, seed);
            let values = (0..rank * config.hidden_size).map(|_| ((2.0 * uniform() - 1.0) * bound) as f32);
            tensors.insert(a, single(vec![rank, config.hidden_size], values));
            tensors.insert(b, single(vec![*outputs, rank], (0..outputs * rank).map(|_| 0.0)));
        }
    }
    let numbers: Vec<usize> = (0..blocks).collect();
    let heads = description.get_mut("heads").and_then(Value::as_array_mut);
    let heads = heads.ok_or_else(|| Error::format(format!("{CONFIG}: `heads` is missing")))?;
    match heads.first_mut().and_then(Value::as_object_mut) {
        Some(first) if takes_the_last_place(first, total) => {
            if gated {
                // What the model itself reads stays as it was, and so does its last block.
                *first = last_block();
                tensors.retain(|name, _| !name.starts_with("heads.0."));
            } else {
                // What head 1 reads changes with it, so head 1, trained along, is the model's last block from now on.
                first.insert("target".to_owned(), json!(true));
            }
        }
        Some(first) if !gated && first.get("offset").and_then(Value::as_u64) != Some(1) => {
            if heads.len() >= MAX_HEADS {
                return Err(Error::input(format!(
                    "{} heads and the backbone's last block, which the LoRA changes: expected {MAX_HEADS} at most",
                    heads.len()
                )));
            }
            insert_last_block(heads, &mut tensors);
        }
        _ => {}
    }
    let lora = json!({"rank": rank, "alpha": rank, "targets": targets, "blocks": numbers, "gated": gated});
    description.insert("lora".to_owned(), lora);
    put(files, description, &tensors)
}

/// Whether a head of offset 1 has layers where the last ones of `total` are.
fn takes_the_last_place(head: &Map<String, Value>, total: usize) -> bool {
    let layers = head.get("layers").and_then(Value::as_u64).unwrap_or(0);
    let source = head.get("source");
    let after = source.and_then(|source| source["layer"].as_u64());
    let mixed = source.is_some_and(|source| source["mix"].is_object());
    let own_norm = head.get("own_norm").and_then(Value::as_bool) == Some(true);
    let follows = after.is_some_and(|after| after + layers == total as u64) || (mixed && layers == 1);
    head.get("offset").and_then(Value::as_u64) == Some(1) && layers > 0 && follows && !own_norm
}

/// The head that is the backbone's own last block.
fn last_block() -> Map<String, Value> {
    [("offset".to_owned(), json!(1)), ("backbone_last_layer".to_owned(), json!(true))].into_iter().collect()
}

/// Makes the backbone's own last block the first head: all others move up by one.
fn insert_last_block(heads: &mut Vec<Value>, tensors: &mut BTreeMap<String, Stored>) {
    for head in heads.iter_mut() {
        if let Some(read) = head["source"]["head"].as_u64() {
            head["source"]["head"] = json!(read + 1);
        }
    }
    heads.insert(0, Value::Object(last_block()));
    let moved = |name: String| {
        let number = name.strip_prefix("heads.").and_then(|rest| rest.split_once('.'));
        match number.and_then(|(number, rest)| Some((number.parse::<usize>().ok()?, rest))) {
            Some((number, rest)) => format!("heads.{}.{rest}", number + 1),
            None => name,
        }
    };
    *tensors = std::mem::take(tensors).into_iter().map(|(name, tensor)| (moved(name), tensor)).collect();
}

/// The same heads without their LoRA: for a backbone that it was merged into, with a head in its last block's place.
///
/// # Errors
/// [`ErrorKind::Format`](crate::ErrorKind::Format) for files that are broken.
pub fn without_lora(files: &FilesByName) -> Result<FilesByName> {
    let mut description = description(files)?;
    description.remove("lora");
    let mut tensors = tensors(files)?;
    tensors.retain(|name, _| !name.starts_with(PREFIX));
    let first = description.get_mut("heads").and_then(|heads| heads.get_mut(0));
    if let Some(first) = first.filter(|first| first["target"] == true && first["source"]["mix"].is_null()) {
        *first = Value::Object(last_block());
        tensors.retain(|name, _| !name.starts_with("heads.0."));
    }
    let mut left = FilesByName::new();
    put(&mut left, description, &tensors)?;
    if tensors.is_empty() {
        left.remove(TENSORS);
    }
    Ok(left)
}

/// The same heads with their f32 tensors rounded to f16.
///
/// # Errors
/// [`ErrorKind::Format`](crate::ErrorKind::Format) for files that are broken, and for values that f16 cannot hold.
pub fn halved(files: &FilesByName) -> Result<FilesByName> {
    let mut tensors = tensors(files)?;
    for (name, tensor) in &mut tensors {
        if tensor.dtype != StoredDtype::F32 {
            continue;
        }
        let values = tensor.bytes.as_chunks().0.iter().map(|bytes| f16::from_f32(f32::from_le_bytes(*bytes)));
        let values: Vec<f16> = values.collect();
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            return Err(Error::format(format!("tensor \"{name}\": f16 has {value} for one of its values; keep f32")));
        }
        tensor.bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        tensor.dtype = StoredDtype::F16;
    }
    let mut made = FilesByName::new();
    put(&mut made, description(files)?, &tensors)?;
    Ok(made)
}

fn description(files: &FilesByName) -> Result<Map<String, Value>> {
    let json = files.get(CONFIG).ok_or_else(|| Error::format(format!("{CONFIG} is missing")))?;
    parse_object(CONFIG, json)
}

fn tensors(files: &FilesByName) -> Result<BTreeMap<String, Stored>> {
    let Some(bytes) = files.get(TENSORS) else { return Ok(BTreeMap::new()) };
    let read = SafeTensors::deserialize(bytes).map_err(broken)?;
    let stored = |view: TensorView<'_>| Stored {
        dtype: view.dtype(),
        shape: view.shape().to_vec(),
        bytes: view.data().to_vec(),
    };
    Ok(read.tensors().into_iter().map(|(name, view)| (name, stored(view))).collect())
}

fn single(shape: Vec<usize>, values: impl Iterator<Item = f32>) -> Stored {
    Stored { dtype: StoredDtype::F32, shape, bytes: values.flat_map(f32::to_le_bytes).collect() }
}

fn put(files: &mut FilesByName, description: Map<String, Value>, tensors: &BTreeMap<String, Stored>) -> Result<()> {
    let views = tensors.iter().map(|(name, tensor)| {
        TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes).map(|view| (name, view))
    });
    let views = views.collect::<std::result::Result<Vec<_>, _>>().map_err(broken)?;
    let bytes = ::safetensors::serialize(views, None).map_err(broken)?;
    files.insert(CONFIG.to_owned(), format!("{:#}\n", Value::Object(description)).into_bytes());
    files.insert(TENSORS.to_owned(), bytes);
    Ok(())
}

fn broken(error: ::safetensors::SafeTensorError) -> Error {
    Error::format(format!("{TENSORS}: {error}")).caused_by(error)
}
