//! Heads that no training has seen: for tests, and as where training starts.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::own::{FORMAT, VERSION, backbone_sizes};
use super::{CONFIG, TENSORS};
use super::{MAX_HEADS, MAX_OFFSET};
use crate::error::{Error, Result};
use crate::format::checkpoint::Checkpoint;
use crate::format::config::ModelConfig;
use crate::format::files::Files;
use crate::format::safetensors::{TensorInfo, serialize_f32};
use crate::options::setters;

/// The weights that a new head begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// Copies of the backbone's last blocks.
    Copy,
    /// Small random numbers; norms do nothing.
    Random,
    /// Random weights, but a head for the next token is a copy: then it begins as what the model is.
    RandomBeyondFirst,
}

/// The hidden state that new heads read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum InitSource {
    /// The stream before the backbone's last `depth` blocks: then copies compute what the backbone does.
    Default,
    /// The stream after this many blocks.
    Layer(usize),
    /// A mix of the streams after all blocks but the last, at first an even one.
    Mix {
        /// The softmax's temperature.
        temperature: f64,
    },
    /// The output of the final norm.
    FinalNorm,
}

/// Options of [`init_heads`].
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct InitOptions {
    /// The number of heads.
    pub heads: usize,
    /// Whether they also read the token before the one they predict. Such heads begin with the second token.
    pub sequential: bool,
    /// Layers of each.
    pub depth: usize,
    /// The hidden state that they read.
    pub source: InitSource,
    /// Their weights.
    pub init: Init,
    /// The seed of the random numbers.
    pub seed: u64,
    /// The first head is the backbone's own last block, without tensors.
    pub backbone_first: bool,
}

impl Default for InitOptions {
    fn default() -> Self {
        Self {
            heads: 1,
            sequential: false,
            depth: 1,
            source: InitSource::Default,
            init: Init::Copy,
            seed: 0,
            backbone_first: false,
        }
    }
}

setters!(InitOptions {
    heads: usize,
    sequential: bool,
    depth: usize,
    source: InitSource,
    init: Init,
    seed: u64,
    backbone_first: bool
});

/// The two files of new heads for `checkpoint`, by name.
///
/// # Errors
/// [`ErrorKind::Input`](crate::ErrorKind::Input) for options that make no sense for this backbone;
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a backbone on which heads cannot be trained; what reading the
/// checkpoint can give.
pub async fn init_heads<F: Files>(
    checkpoint: &Checkpoint<'_, F>,
    options: &InitOptions,
) -> Result<BTreeMap<String, Vec<u8>>> {
    checkpoint.check()?;
    let config = checkpoint.config();
    check(options, config)?;
    let mut tensors = BTreeMap::new();
    let mut heads = Vec::with_capacity(options.heads);
    let first_offset = if options.sequential && !options.backbone_first { 2 } else { 1 };
    for index in 0..options.heads {
        let offset = index + first_offset;
        if offset == 1 && options.backbone_first {
            heads.push(json!({"offset": 1, "backbone_last_layer": true}));
            continue;
        }
        heads.push(json!({"offset": offset, "layers": options.depth, "source": source(options, config)}));
        head(checkpoint, options, index, &mut tensors).await?;
    }
    let kind = if options.sequential { "sequential" } else { "parallel" };
    let description = describe(config, kind, &heads);
    let text = format!("{description:#}\n");
    Ok([(CONFIG.to_owned(), text.into_bytes()), (TENSORS.to_owned(), serialize_f32(TENSORS, &tensors)?)].into())
}

fn check(options: &InitOptions, config: &ModelConfig) -> Result<()> {
    if let Some(what) = config.spec.untrained() {
        return Err(Error::unsupported(format!(
            "heads to be trained: training is not supported for models with {what}"
        )));
    }
    let blocks = config.num_hidden_layers;
    let most = if options.sequential { MAX_OFFSET - 1 } else { MAX_HEADS };
    if !(1..=most).contains(&options.heads) {
        return Err(Error::input(format!("{} heads: expected 1 to {most}", options.heads)));
    }
    if options.depth == 0 || options.depth > blocks {
        return Err(Error::input(format!("{} layers a head: expected 1 to {blocks}, the backbone's", options.depth)));
    }
    match options.source {
        InitSource::Default if options.depth == blocks => Err(Error::input(format!(
            "heads of {blocks} layers would read the embedding, which is no source; take fewer layers or name the source"
        ))),
        InitSource::Layer(layer) if !(1..=blocks).contains(&layer) => {
            Err(Error::input(format!("source {layer}: expected a block from 1 to {blocks}")))
        }
        InitSource::Mix { .. } if blocks < 2 => Err(Error::input("a mix needs a backbone of at least 2 blocks")),
        InitSource::Mix { temperature } if !(temperature.is_finite() && temperature > 0.0) => {
            Err(Error::input(format!("a mix's temperature: expected a number above 0, got {temperature}")))
        }
        _ => Ok(()),
    }
}

fn source(options: &InitOptions, config: &ModelConfig) -> Value {
    match options.source {
        InitSource::Default => json!({"layer": config.num_hidden_layers - options.depth}),
        InitSource::Layer(layer) => json!({"layer": layer}),
        InitSource::Mix { temperature } => json!({"mix": {"temperature": temperature}}),
        InitSource::FinalNorm => json!("final_norm"),
    }
}

/// `mtp_config.json` of heads for this backbone.
fn describe(config: &ModelConfig, kind: &str, heads: &[Value]) -> Value {
    let mut backbone = json!({"model_type": config.model_type});
    for (key, size) in backbone_sizes(config) {
        backbone[key] = json!(size);
    }
    json!({"format": FORMAT, "version": VERSION, "kind": kind, "backbone": backbone, "heads": heads})
}

/// A tensor to be written: its shape and values.
type Made = (Vec<usize>, Vec<f32>);

async fn head<F: Files>(
    checkpoint: &Checkpoint<'_, F>,
    options: &InitOptions,
    index: usize,
    tensors: &mut BTreeMap<String, Made>,
) -> Result<()> {
    let config = checkpoint.config();
    let at = |part: &str| format!("heads.{index}.{part}");
    let init = match options.init {
        Init::RandomBeyondFirst if index == 0 && !options.sequential => Init::Copy,
        Init::RandomBeyondFirst => Init::Random,
        init => init,
    };
    for layer in 0..options.depth {
        let to = at(&format!("layers.{layer}"));
        let from = config.layer_name(config.num_hidden_layers - options.depth + layer);
        for (name, shape) in config.layer_tensors(&to) {
            let values = match init {
                Init::Copy => read(checkpoint, checkpoint.require(&name.replacen(&to, &from, 1), &shape)?).await?,
                _ => random(&name, &shape, options.seed, config.num_hidden_layers),
            };
            tensors.insert(name, (shape, values));
        }
    }
    if let InitSource::Mix { .. } = options.source {
        let count = config.num_hidden_layers - 1;
        tensors.insert(at("mix"), (vec![count], vec![0.1; count]));
    }
    if options.sequential {
        for norm in ["hidden_norm", "embedding_norm"] {
            for (name, shape) in config.norm_tensors(&at(norm)) {
                let values = random(&name, &shape, options.seed, 1);
                tensors.insert(name, (shape, values));
            }
        }
        let (name, hidden) = (at("projection.weight"), config.hidden_size);
        let shape = vec![hidden, 2 * hidden];
        let values = match init {
            // The hidden state passes; what the embedding adds is left to training.
            Init::Copy => (0..2 * hidden * hidden).map(|i| f32::from(i / (2 * hidden) == i % (2 * hidden))).collect(),
            _ => random(&name, &shape, options.seed, 1),
        };
        tensors.insert(name, (shape, values));
    }
    Ok(())
}

async fn read<F: Files>(checkpoint: &Checkpoint<'_, F>, info: &TensorInfo) -> Result<Vec<f32>> {
    let bytes = checkpoint.read(info).await?;
    info.check_finite(&bytes)?;
    Ok(info.dtype.decode(&bytes))
}

/// GPT-2's initialisation: normal with deviation 0.02, less for what adds to the stream; norms 1, biases 0.
fn random(name: &str, shape: &[usize], seed: u64, blocks: usize) -> Vec<f32> {
    let count = shape.iter().product();
    if name.ends_with(".bias") {
        return vec![0.0; count];
    }
    if shape.len() == 1 {
        return vec![1.0; count];
    }
    let adds = ["o_proj", "down_proj", "dense_4h_to_h", "attention.dense"].iter().any(|part| name.contains(part));
    let deviation = if adds { 0.02 / (2.0 * blocks as f64).sqrt() } else { 0.02 };
    let mut uniform = uniform(name, seed);
    let mut normal = || {
        let radius = (-2.0 * (1.0 - uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * uniform()).cos()
    };
    (0..count).map(|_| (deviation * normal()) as f32).collect()
}

/// Numbers from 0 up to 1 for the tensor `name`.
pub(super) fn uniform(name: &str, seed: u64) -> impl FnMut() -> f64 + use<> {
    // FNV-1a of the name, so that a tensor's numbers do not depend on which others there are.
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mut state = seed ^ hash;
    move || {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}
