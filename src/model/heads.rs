//! The weights of multi-token heads on the GPU.

use super::lora::{Adapter, adapter};
use super::upload::{Arrangement, Matrix, Placed};
use super::weights::{Layer, Linear, Loader, NormWeights, Weights};
use crate::Result;
use crate::format::config::ModelConfig;
use crate::format::files::Files;
use crate::format::layouts::tensor_name;
use crate::format::mtp::{self, HeadSet, HeadSource, Wiring};
use crate::format::spec::Part;
use crate::gpu::Gpu;
use crate::kernels::WeightFormat;

/// The content of a history.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Source {
    /// The stream after this many blocks.
    Layer(usize),
    /// The streams after 1, 2, ... blocks, mixed.
    Mix(Mix),
    /// The output of the final norm.
    FinalNorm,
    /// The output of the final norm of this head.
    Head(usize),
}

/// `softmax(logits / temperature)` of streams.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mix {
    pub tensor: String,
    pub logits: Vec<f32>,
    pub temperature: f64,
    pub weights: Vec<f32>,
}

impl Source {
    /// The weight that the stream after `blocks` blocks has in it.
    pub fn weight_of(&self, blocks: usize) -> Option<f32> {
        match self {
            Self::Layer(layer) => (*layer == blocks).then_some(1.0),
            Self::Mix(mix) => mix.weights.get(blocks.checked_sub(1)?).copied(),
            Self::FinalNorm | Self::Head(_) => None,
        }
    }

    /// How many of the backbone's `total` blocks it needs.
    pub fn blocks(&self, total: usize) -> usize {
        match self {
            Self::Layer(layer) => *layer,
            Self::Mix(mix) => mix.logits.len(),
            Self::FinalNorm => total,
            // That head's own source is among them.
            Self::Head(_) => 0,
        }
    }
}

/// The projection of a sequential head, in two halves, and its norms.
#[derive(Clone)]
pub(crate) struct Join {
    pub hidden_norm: NormWeights,
    pub embedding_norm: NormWeights,
    pub from_hidden: Matrix,
    pub from_embedding: Matrix,
    pub embedding: Option<Matrix>,
}

/// The part of a head between its source and the final norm.
#[derive(Clone)]
pub(crate) enum Body {
    /// The backbone does it.
    LastLayer,
    Layers(Vec<Layer>),
    Sequential(Box<Join>, Vec<Layer>),
    Residual(Vec<Linear>),
}

/// One head.
#[derive(Clone)]
pub(crate) struct Head {
    pub offset: usize,
    /// Places ahead of its position of the token that it reads; 0 if it reads none.
    pub ahead: usize,
    /// The index of its source in [`HeadWeights::sources`].
    pub source: usize,
    pub body: Body,
    pub final_norm: Option<NormWeights>,
    pub lm_head: Option<Matrix>,
    /// The source that its output is for other heads.
    pub output: Option<usize>,
}

impl Head {
    /// The head's layers.
    pub fn layers(&self) -> &[Layer] {
        match &self.body {
            Body::Layers(layers) | Body::Sequential(_, layers) => layers,
            Body::LastLayer | Body::Residual(_) => &[],
        }
    }

    /// Bytes of weights that a row reads on its way to logits.
    pub fn read_bytes(&self, weights: &Weights) -> u64 {
        let layers = self.layers().iter().flat_map(Layer::linears);
        let mut bytes: u64 = layers.map(|linear| linear.matrix.bytes()).sum();
        match &self.body {
            // The step before has brought its logits.
            Body::LastLayer => return 0,
            Body::Sequential(join, _) => bytes += join.from_hidden.bytes() + join.from_embedding.bytes(),
            Body::Residual(blocks) => bytes += blocks.iter().map(|block| block.matrix.bytes()).sum::<u64>(),
            Body::Layers(_) => {}
        }
        let lm_head = self.lm_head.as_ref().or(weights.lm_head.as_ref()).unwrap_or(&weights.embedding);
        bytes + lm_head.bytes()
    }
}

/// All heads of a model.
#[derive(Clone)]
pub(crate) struct HeadWeights {
    pub heads: Vec<Head>,
    /// The sources that heads read, each once.
    pub sources: Vec<Source>,
    /// Changes of a LoRA that was not merged, by block of the backbone. Empty without one.
    pub adapters: Vec<Option<Adapter>>,
    /// Whether the changes act on rows whose adapters are on: what heads read is computed with them, what the model says
    /// without.
    pub gated: bool,
    /// The places of the trained values in the checkpoint, for training.
    pub placed: Vec<Placed>,
}

impl HeadWeights {
    /// The backbone's own last block, where the adapters of a gated LoRA leave it as it is.
    pub fn is_base(&self, head: &Head) -> bool {
        self.gated && matches!(head.body, Body::LastLayer)
    }

    /// How many of the backbone's `total` blocks rows with adapters go through; 0 where heads read what the model's own rows leave.
    pub fn adapted_blocks(&self, total: usize) -> usize {
        let read = self.heads.iter().filter(|head| !self.is_base(head)).map(|head| &self.sources[head.source]);
        if self.gated { read.map(|source| source.blocks(total)).max().unwrap_or(0) } else { 0 }
    }

    /// Bytes of weights that rows with adapters read below the heads.
    pub fn adapted_bytes(&self, weights: &Weights) -> u64 {
        let layers = weights.layers.iter().take(self.adapted_blocks(weights.layers.len()));
        let linears = layers.flat_map(Layer::linears);
        linears.map(|linear| linear.matrix.bytes()).sum()
    }
}

/// Reads the weights of `set` for a backbone of `config`, matrices packed in `quantize`. To be trained, all are in f32 and no
/// LoRA is merged.
pub(super) async fn load<F: Files>(
    gpu: &Gpu,
    config: &ModelConfig,
    set: &HeadSet<'_, F>,
    training: bool,
    quantize: Option<WeightFormat>,
    on_bytes: &mut (dyn FnMut(u64) + Send),
) -> Result<HeadWeights> {
    let mut loader = Loader::new(gpu, &set.tensors, config, on_bytes);
    loader.norm_offset = if set.norms_less_one { 1.0 } else { 0.0 };
    loader.placed = training.then(Vec::new);
    loader.quantize = quantize;
    let mut all = HeadWeights {
        heads: Vec::with_capacity(set.heads.len()),
        sources: Vec::new(),
        adapters: Vec::new(),
        gated: set.lora.as_ref().is_some_and(|lora| lora.gated),
        placed: Vec::new(),
    };
    if let Some(lora) = set.lora.as_ref().filter(|lora| lora.gated || training) {
        for block in 0..config.num_hidden_layers {
            let Some(attention) = config.spec.blocks[block].attention() else {
                all.adapters.push(None);
                continue;
            };
            let (names, columns) = loader.qkv(&config.layer_name(block), attention);
            all.adapters.push(adapter(gpu, &mut loader, lora, &names, &columns).await?);
        }
    }
    for head in &set.heads {
        let source = match &head.source {
            HeadSource::Layer(layer) => Source::Layer(*layer),
            HeadSource::Mix { weights, temperature } => Source::Mix(mix(&mut loader, weights, *temperature).await?),
            HeadSource::FinalNorm => Source::FinalNorm,
            HeadSource::Head(index) => Source::Head(*index),
        };
        let at = all.sources.iter().position(|known| *known == source).unwrap_or(all.sources.len());
        if at == all.sources.len() {
            if let Source::Head(index) = source {
                all.heads[index].output = Some(at);
            }
            all.sources.push(source);
        }
        let head = head_weights(&mut loader, config, head, at).await?;
        all.heads.push(head);
    }
    all.placed = loader.placed.take().unwrap_or_default();
    gpu.flush_writes().await?;
    Ok(all)
}

async fn head_weights<F: Files>(
    loader: &mut Loader<'_, '_, F>,
    config: &ModelConfig,
    head: &mtp::Head,
    source: usize,
) -> Result<Head> {
    let (vocab, hidden, norm) = (config.vocab_size, config.hidden_size, config.spec.final_norm);
    let mut layers = Vec::with_capacity(head.layers.len());
    let taken = head.target && loader.placed.is_none();
    for (index, name) in head.layers.iter().enumerate().filter(|_| !taken) {
        layers.push(loader.layer(name, config.spec.block_of_head(index, head.layers.len())).await?);
    }
    let body = match &head.wiring {
        Wiring::LastLayer => Body::LastLayer,
        // Its layers have taken the place of the backbone's.
        Wiring::Layers if taken => Body::LastLayer,
        Wiring::Layers => Body::Layers(layers),
        Wiring::Sequential { hidden_norm, embedding_norm, projection, hidden_first, embedding } => {
            let projection = tensor_name(projection, Part::Weight);
            let half = |second: bool| {
                let first = if second { hidden } else { 0 };
                let plain = Arrangement::plain(hidden, hidden);
                let inputs = plain.inputs.into_iter().map(|input| input.map(|input| first + input)).collect();
                Arrangement { inputs, ..plain }
            };
            let join = Join {
                hidden_norm: loader.norm(hidden_norm, norm).await?,
                embedding_norm: loader.norm(embedding_norm, norm).await?,
                from_hidden: loader.matrix(&[&projection], &half(!hidden_first), 4).await?,
                from_embedding: loader.matrix(&[&projection], &half(*hidden_first), 4).await?,
                embedding: match embedding {
                    Some(name) => Some(table(loader, name, vocab, hidden).await?),
                    None => None,
                },
            };
            Body::Sequential(Box::new(join), layers)
        }
        Wiring::Residual { blocks } => {
            let mut linears = Vec::with_capacity(blocks.len());
            for block in blocks {
                let arrangement = Arrangement::plain(hidden, hidden);
                linears.push(loader.linear(std::slice::from_ref(block), &arrangement, 4, true).await?);
            }
            Body::Residual(linears)
        }
    };
    Ok(Head {
        offset: head.offset,
        ahead: head.ahead(),
        source,
        body,
        final_norm: match &head.final_norm {
            Some(name) => Some(loader.norm(name, norm).await?),
            None => None,
        },
        lm_head: match &head.lm_head {
            Some(name) => Some(table(loader, name, vocab, hidden).await?),
            None => None,
        },
        output: None,
    })
}

async fn table<F: Files>(loader: &mut Loader<'_, '_, F>, name: &str, vocab: usize, hidden: usize) -> Result<Matrix> {
    loader.matrix(&[&tensor_name(name, Part::Weight)], &Arrangement::plain(vocab, hidden), 4).await
}

/// `softmax(W / temperature)`.
async fn mix<F: Files>(loader: &mut Loader<'_, '_, F>, name: &str, temperature: f64) -> Result<Mix> {
    let logits = loader.tensor(name).await?.to_f32();
    let scaled: Vec<f64> = logits.iter().map(|&w| f64::from(w) / temperature).collect();
    let most = scaled.iter().copied().fold(f64::MIN, f64::max);
    let powers: Vec<f64> = scaled.iter().map(|w| (w - most).exp()).collect();
    let sum: f64 = powers.iter().sum();
    if loader.placed.is_some() {
        let buffer = loader.vector(name, &logits).await?;
        loader.note_origin_of_vector(&buffer, name.to_owned(), logits.len());
    }
    let weights = powers.iter().map(|power| (power / sum) as f32).collect();
    Ok(Mix { tensor: name.to_owned(), logits, temperature, weights })
}
