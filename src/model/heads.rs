//! Multi-token heads on the GPU: their weights, and the ops that take rows of known hidden states to their logits.
//!
//! The body of the forward pass leaves what heads read in histories, one slot a position, like a cache. So a head can go
//! over any stretch of positions at any time: whoever wants it to stages rows as for a forward pass (`state.committed`,
//! `state.num_rows`, positions; masks 0), then replays the ops.

use super::buffers::Buffers;
use super::engine::Model;
use super::forward::{Planner, accumulate, head_form, layer_forms, linear_form};
use super::lora::{Adapter, adapter};
use super::upload::{Arrangement, Matrix, Placed};
use super::weights::{Layer, Linear, Loader, NormWeights, Weights};
use crate::Result;
use crate::format::config::ModelConfig;
use crate::format::files::Files;
use crate::format::mtp::{self, HeadSet, HeadSource, Wiring};
use crate::gpu::Gpu;
use crate::kernels::{
    Activation, Carry, DraftTopIo, Extent, LoraIo, LoraParams, MAX_BATCH_ROWS, MatmulForm, Op, Place, ShiftParams,
    WindowParams, carry, draft_top, keep, lora, shift, window,
};

/// What a history holds.
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
pub(crate) struct Join {
    pub hidden_norm: NormWeights,
    pub embedding_norm: NormWeights,
    pub from_hidden: Matrix,
    pub from_embedding: Matrix,
    pub embedding: Option<Matrix>,
}

/// What a head does with its source before the final norm.
pub(crate) enum Body {
    /// The backbone does it.
    LastLayer,
    Layers(Vec<Layer>),
    Sequential(Box<Join>, Vec<Layer>),
    Residual(Vec<Linear>),
}

/// One head.
pub(crate) struct Head {
    pub offset: usize,
    /// Places ahead of its position of the token that it reads; 0 if it reads none.
    pub ahead: usize,
    /// Of [`Heads::sources`].
    pub source: usize,
    pub body: Body,
    pub final_norm: Option<NormWeights>,
    pub lm_head: Option<Matrix>,
    /// The source that its output is for other heads.
    output: Option<usize>,
}

impl Head {
    /// Its layers.
    pub fn layers(&self) -> &[Layer] {
        match &self.body {
            Body::Layers(layers) | Body::Sequential(_, layers) => layers,
            Body::LastLayer | Body::Residual(_) => &[],
        }
    }

    /// Bytes of weights that a row reads on its way to logits.
    pub fn read_bytes(&self, weights: &Weights) -> u64 {
        let layers = self.layers().iter().flat_map(|layer| [&layer.qkv, &layer.out, &layer.mlp_in, &layer.mlp_out]);
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
pub(crate) struct Heads {
    pub heads: Vec<Head>,
    /// What heads read, each once.
    pub sources: Vec<Source>,
    /// By block of the backbone: the changes of a LoRA that was not merged. Empty without one.
    pub adapters: Vec<Option<Adapter>>,
    /// They act on drafting rows only: what heads read is computed with them, what the model says without.
    pub gated: bool,
    /// For training: where the trained values belong.
    pub placed: Vec<Placed>,
}

impl Heads {
    /// The backbone's own last block, where the adapters of a gated LoRA leave it as it is.
    pub fn is_base(&self, head: &Head) -> bool {
        self.gated && matches!(head.body, Body::LastLayer)
    }

    /// How many of the backbone's `total` blocks drafting rows go through; 0 where heads read what the model's own rows leave.
    fn drafting_blocks(&self, total: usize) -> usize {
        let read = self.heads.iter().filter(|head| !self.is_base(head)).map(|head| &self.sources[head.source]);
        if self.gated { read.map(|source| source.blocks(total)).max().unwrap_or(0) } else { 0 }
    }

    /// Bytes of weights that drafting rows read below the heads.
    pub fn drafting_bytes(&self, weights: &Weights) -> u64 {
        let layers = weights.layers.iter().take(self.drafting_blocks(weights.layers.len()));
        let linears = layers.flat_map(|layer| [&layer.qkv, &layer.out, &layer.mlp_in, &layer.mlp_out]);
        linears.map(|linear| linear.matrix.bytes()).sum()
    }
}

/// Reads the weights of `set` for a backbone of `config`. To be trained, all are in f32 and no LoRA is merged.
pub(super) async fn load<F: Files>(
    gpu: &Gpu,
    config: &ModelConfig,
    set: &HeadSet<'_, F>,
    training: bool,
    on_bytes: &mut dyn FnMut(u64),
) -> Result<Heads> {
    let mut loader = Loader::new(gpu, &set.tensors, config, on_bytes);
    loader.norm_offset = if set.norms_less_one { 1.0 } else { 0.0 };
    loader.placed = training.then(Vec::new);
    let mut all = Heads {
        heads: Vec::with_capacity(set.heads.len()),
        sources: Vec::new(),
        adapters: Vec::new(),
        gated: set.lora.as_ref().is_some_and(|lora| lora.gated),
        placed: Vec::new(),
    };
    if let Some(lora) = set.lora.as_ref().filter(|lora| lora.gated || training) {
        for block in 0..config.num_hidden_layers {
            let (names, columns) = loader.qkv(&config.layer_name(block));
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
    gpu.flush_writes();
    gpu.check()?;
    Ok(all)
}

async fn head_weights<F: Files>(
    loader: &mut Loader<'_, '_, F>,
    config: &ModelConfig,
    head: &mtp::Head,
    source: usize,
) -> Result<Head> {
    let (vocab, hidden) = (config.vocab_size, config.hidden_size);
    let mut layers = Vec::with_capacity(head.layers.len());
    let taken = head.target && loader.placed.is_none();
    for name in head.layers.iter().filter(|_| !taken) {
        layers.push(loader.layer(name).await?);
    }
    let body = match &head.wiring {
        Wiring::LastLayer => Body::LastLayer,
        // Its layers have taken the place of the backbone's.
        Wiring::Layers if taken => Body::LastLayer,
        Wiring::Layers => Body::Layers(layers),
        Wiring::Sequential { hidden_norm, embedding_norm, projection, hidden_first, embedding } => {
            let projection = format!("{projection}.weight");
            let half = |second: bool| {
                let first = if second { hidden } else { 0 };
                let plain = Arrangement::plain(hidden, hidden);
                let inputs = plain.inputs.into_iter().map(|input| input.map(|input| first + input)).collect();
                Arrangement { inputs, ..plain }
            };
            let join = Join {
                hidden_norm: loader.norm(hidden_norm).await?,
                embedding_norm: loader.norm(embedding_norm).await?,
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
            Some(name) => Some(loader.norm(name).await?),
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
    loader.matrix(&[&format!("{name}.weight")], &Arrangement::plain(vocab, hidden), 4).await
}

/// `softmax(W / temperature)`.
async fn mix<F: Files>(loader: &mut Loader<'_, '_, F>, name: &str, temperature: f64) -> Result<Mix> {
    let logits = loader.tensor(name).await?.to_f32();
    let scaled: Vec<f64> = logits.iter().map(|&w| f64::from(w) / temperature).collect();
    let most = scaled.iter().copied().fold(f64::MIN, f64::max);
    let powers: Vec<f64> = scaled.iter().map(|w| (w - most).exp()).collect();
    let sum: f64 = powers.iter().sum();
    if loader.placed.is_some() {
        let buffer = loader.vector(name, &logits);
        loader.remember_vector(&buffer, name.to_owned(), logits.len());
    }
    let weights = powers.iter().map(|power| (power / sum) as f32).collect();
    Ok(Mix { tensor: name.to_owned(), logits, temperature, weights })
}

/// The products of heads, for their pipelines.
pub(super) fn forms(model: &Model, heads: &Heads) -> Vec<MatmulForm> {
    let mut forms = Vec::new();
    forms.extend(heads.adapters.iter().flatten().map(|adapter| head_form(model, &adapter.a)));
    for head in &heads.heads {
        forms.extend(head.layers().iter().flat_map(|layer| layer_forms(model, layer)));
        forms.extend(head.lm_head.iter().map(|matrix| head_form(model, matrix)));
        match &head.body {
            Body::Sequential(join, _) => {
                forms.push(head_form(model, &join.from_hidden));
                forms.push(accumulate(head_form(model, &join.from_embedding)));
            }
            Body::Residual(blocks) => forms.extend(blocks.iter().map(|block| residual_form(model, block))),
            Body::LastLayer | Body::Layers(_) => {}
        }
    }
    forms
}

fn residual_form(model: &Model, block: &Linear) -> MatmulForm {
    accumulate(MatmulForm { activation: Activation::Silu, ..linear_form(model, block) })
}

/// The buffers of heads, made with those of a session.
pub(crate) struct HeadBuffers {
    /// `[context, hidden]` for each source: what heads read, by position.
    pub histories: Vec<wgpu::Buffer>,
    /// Keys and values of each layer of each head.
    pub caches: Vec<Vec<(wgpu::Buffer, wgpu::Buffer)>>,
    /// `A x` of a gated LoRA.
    pub adapted: Option<wgpu::Buffer>,
    /// Keys and values of the backbone's blocks as drafting rows have them, with a gated LoRA.
    pub drafting: Vec<(wgpu::Buffer, wgpu::Buffer)>,
}

/// The ops of one head, over rows that were staged before.
pub(crate) struct HeadPlan {
    /// It predicts the token this many places after its position.
    pub offset: usize,
    /// Places ahead of its position of the token that it reads; 0 if it reads none.
    pub ahead: usize,
    /// The backbone itself is this head: its ops are the body and the LM head of the forward pass, and those below are
    /// none.
    pub backbone: bool,
    /// Leaves everything that later rows, and later heads, need of the staged rows: keys and values of every layer, and
    /// the output that another head reads.
    pub refill: Vec<Op>,
    /// The same, and the logits of the rows from `state.logit_row` on to the first rows of `logits`.
    pub full: Vec<Op>,
    /// Of a head that reads the next token and a hidden state of the backbone: the logits of siblings. All rows read the hidden state at
    /// the committed length, and the tokens that are in the rows already. None for others.
    pub star: Vec<Op>,
    /// From the logits of one row to the candidates of the depth that this head drafts; none for the next token, which
    /// nobody drafts.
    pub candidates: Vec<Op>,
}

/// What a head's ops are to leave.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// [`HeadPlan::refill`]
    Refill,
    /// [`HeadPlan::full`]
    Full,
    /// [`HeadPlan::star`]
    Star,
}

/// What serves all heads.
pub(crate) struct HeadsPlan {
    pub heads: Vec<HeadPlan>,
    /// With a gated LoRA: puts the staged rows, whose adapters are on, through the blocks below the heads, which have keys and
    /// values of their own for such rows, and leaves what heads read. Else the model's body leaves that, and this is empty.
    pub drafting: Vec<Op>,
    /// Gives staged rows the text's tokens.
    tokens: Vec<Op>,
    /// `windows[n - 1]` stages the last n positions whose hidden states are known; the last is the row whose logits are
    /// wanted. It changes `state.committed`, `num_rows` and `logit_row`.
    pub windows: Vec<Op>,
    /// After a batch that was a tree, once it is committed: moves hidden states as `compact_cache` moves keys and values.
    pub keep: Vec<Op>,
}

impl HeadsPlan {
    /// Every op.
    pub fn ops(&self) -> impl Iterator<Item = &Op> {
        let heads =
            self.heads.iter().flat_map(|head| [&head.refill, &head.full, &head.star, &head.candidates]).flatten();
        heads.chain(&self.drafting).chain(&self.tokens).chain(&self.windows).chain(&self.keep)
    }

    /// What leaves everything that later rows, and later heads, need of the staged rows, which lie within the text.
    pub fn refill(&self) -> impl Iterator<Item = &Op> {
        let tokens = self.tokens.iter().filter(|_| !self.drafting.is_empty());
        tokens.chain(&self.drafting).chain(self.heads.iter().flat_map(|head| &head.refill))
    }

    /// The longest chain that heads can draft: their offsets 2, 3, ... without a gap.
    pub fn depth(&self) -> usize {
        (0..self.windows.len()).take_while(|depth| self.heads.iter().any(|head| head.offset == depth + 2)).count()
    }

    /// Places ahead of their position that heads read at most.
    pub fn ahead(&self) -> usize {
        self.heads.iter().map(|head| head.ahead).max().unwrap_or(0)
    }

    /// Positions that a round goes over: those that the round before may have committed, and for heads that read later
    /// tokens those whose tokens were drafts then.
    pub fn window(&self) -> usize {
        (self.depth() + 1 + self.ahead().saturating_sub(1)).min(self.windows.len())
    }

    /// Stages the last `rows` positions of a text whose length is at most `keys`, and leaves what heads read there.
    pub fn staged(&self, rows: usize, keys: u32) -> Vec<(&[Op], Extent)> {
        let one = Extent { rows: 1, logit_rows: 1, keys, many: false };
        let wide = Extent { rows: rows as u32, ..one };
        let mut steps = vec![(std::slice::from_ref(&self.windows[rows - 1]), one)];
        if !self.drafting.is_empty() {
            steps.extend([(&self.tokens[..], one), (&self.drafting[..], wide)]);
        }
        steps
    }

    /// Candidates of the first `depth` depths after the text, whose length is at most `keys`.
    pub fn draft(&self, depth: usize, keys: u32) -> Vec<(&[Op], Extent)> {
        let one = Extent { rows: 1, logit_rows: 1, keys, many: false };
        let wide = Extent { rows: self.window() as u32, ..one };
        let heads = || self.heads.iter().filter(|head| (2..=depth + 1).contains(&head.offset));
        let mut steps = self.staged(self.window(), keys);
        if heads().any(|head| head.ahead > 0) {
            // In the order of their offsets: each reads what the one before drafted.
            for head in heads() {
                steps.extend([(&head.full[..], wide), (&head.candidates[..], one)]);
            }
            return steps;
        }
        steps.extend(heads().map(|head| (&head.refill[..], wide)));
        steps.push((std::slice::from_ref(&self.windows[0]), one));
        for head in heads() {
            steps.extend([(&head.full[..], one), (&head.candidates[..], one)]);
        }
        steps
    }

    pub(super) fn new(planner: &Planner<'_>, heads: &Heads, buffers: &HeadBuffers) -> Self {
        let Planner { model, buffers: b } = *planner;
        let sizes = &model.sizes;
        let (width, slots) = (sizes.hidden, sizes.attention.context);
        let adapter = heads.gated.into();
        let stage =
            |num_rows| window(&model.gpu, WindowParams { num_rows, context: slots, adapter }, [&b.state, &b.rows]);
        let text = ShiftParams { ahead: 0, vocab: sizes.vocab };
        // Drafting rows leave all that heads read anew, where they belong.
        let kept = if heads.gated { &[][..] } else { &buffers.histories };
        Self {
            heads: (0..heads.heads.len()).map(|index| planner.head_plan(heads, index, buffers)).collect(),
            windows: (1..=MAX_BATCH_ROWS as u32).map(stage).collect(),
            drafting: planner.drafting(heads, buffers),
            tokens: vec![shift(&model.gpu, text, [&b.state, &b.rows, &b.text, &b.candidates])],
            keep: kept.iter().map(|history| keep(&model.gpu, width, slots, [&b.state, &b.path, history])).collect(),
        }
    }
}

impl Planner<'_> {
    /// Leaves what heads read of the stream after `blocks` blocks.
    pub(super) fn tap(&self, heads: &Heads, buffers: &HeadBuffers, blocks: usize, ops: &mut Vec<Op>) {
        for (source, history) in heads.sources.iter().zip(&buffers.histories) {
            if let Some(weight) = source.weight_of(blocks) {
                let accumulate = matches!(source, Source::Mix(_)) && blocks > 1;
                ops.push(self.remember(&self.buffers.x, history, weight, accumulate));
            }
        }
    }

    /// Leaves the output of the final norm, where heads read that.
    pub(super) fn tap_final_norm(&self, heads: &Heads, buffers: &HeadBuffers, ops: &mut Vec<Op>) {
        let Some(at) = heads.sources.iter().position(|source| *source == Source::FinalNorm) else { return };
        ops.push(self.norm(&self.model.weights.final_norm, &self.buffers.attention_in, false));
        ops.push(self.remember(&self.buffers.attention_in, &buffers.histories[at], 1.0, false));
    }

    /// The blocks below the heads with the adapters of a gated LoRA, over keys and values of drafting rows.
    fn drafting(&self, heads: &Heads, buffers: &HeadBuffers) -> Vec<Op> {
        if !heads.gated {
            return Vec::new();
        }
        let layers = &self.model.weights.layers;
        let mut ops = self.embed_with(&self.model.weights.embedding);
        for (index, (layer, cache)) in layers.iter().zip(&buffers.drafting).enumerate() {
            self.layer_with(layer, cache, &mut ops, |ops| self.adapt(heads, buffers, index, ops));
            self.tap(heads, buffers, index + 1, &mut ops);
        }
        if buffers.drafting.len() == layers.len() {
            self.tap_final_norm(heads, buffers, &mut ops);
        }
        ops
    }

    /// Adds the changes of a gated LoRA to the queries, keys and values of the rows whose adapter is on.
    fn adapt(&self, heads: &Heads, buffers: &HeadBuffers, block: usize, ops: &mut Vec<Op>) {
        let adapter = heads.adapters.get(block).and_then(Option::as_ref);
        let (Some(adapter), Some(t)) = (adapter, &buffers.adapted) else { return };
        let (b, sizes) = (self.buffers, &self.model.sizes);
        let width = adapter.width();
        let (x, y) = ((&b.attention_in, sizes.hidden / 4), (t, width / 4));
        ops.extend(self.product(head_form(self.model, &adapter.a), &adapter.a, None, x, y, false));
        let params = LoraParams { columns4: sizes.attention.qkv_stride() / 4, rank: adapter.rank, t_stride: width };
        let (state, rows, y) = (&b.state, &b.rows, &b.qkv);
        let io = LoraIo { state, rows, t, b: &adapter.b, starts: &adapter.starts, y };
        ops.push(lora(&self.model.gpu, params, io));
    }

    fn remember(&self, x: &wgpu::Buffer, history: &wgpu::Buffer, weight: f32, accumulate: bool) -> Op {
        let (x, y) = ((x, Place::Rows), (history, Place::Committed));
        self.carry(Carry { x, y, weight, accumulate, wanted: false })
    }

    fn carry(&self, io: Carry<'_>) -> Op {
        let sizes = &self.model.sizes;
        carry(&self.model.gpu, sizes.hidden, sizes.attention.context, &self.buffers.state, io)
    }

    fn head_plan(&self, heads: &Heads, index: usize, buffers: &HeadBuffers) -> HeadPlan {
        let head = &heads.heads[index];
        let backbone = matches!(head.body, Body::LastLayer);
        let (mut refill, mut full, mut star) = (Vec::new(), Vec::new(), Vec::new());
        if !backbone {
            self.head_ops(heads, index, buffers, Pass::Refill, &mut refill);
            self.head_ops(heads, index, buffers, Pass::Full, &mut full);
        }
        let of_backbone = !matches!(heads.sources[head.source], Source::Head(_));
        if head.ahead == 1 && of_backbone {
            self.head_ops(heads, index, buffers, Pass::Star, &mut star);
        }
        let b = self.buffers;
        let io = DraftTopIo {
            sampling: &b.sample_params,
            tree: &b.tree,
            state: &b.state,
            logits: &b.logits,
            counts: &b.counts,
            candidates: &b.candidates,
        };
        // After the position's last token comes the one that the target has sampled itself: offset 2 is the first draft.
        let depth = head.offset.checked_sub(2).filter(|&depth| depth < MAX_BATCH_ROWS);
        let candidates =
            depth.map(|depth| draft_top(&self.model.gpu, self.model.kernels, depth as u32, io)).into_iter().collect();
        HeadPlan { offset: head.offset, ahead: head.ahead, backbone, refill, full, star, candidates }
    }

    fn head_ops(&self, heads: &Heads, index: usize, buffers: &HeadBuffers, pass: Pass, ops: &mut Vec<Op>) {
        let (head, b, logits) = (&heads.heads[index], self.buffers, pass != Pass::Refill);
        let history = &buffers.histories[head.source];
        if let Body::Residual(blocks) = &head.body {
            if logits {
                self.residual_head(head, blocks, history, ops);
            }
            return;
        }
        if let Body::Sequential(join, _) = &head.body {
            if pass == Pass::Star {
                self.recall(history, Place::Same, ops);
            } else {
                let params = ShiftParams { ahead: head.ahead as u32, vocab: self.model.sizes.vocab };
                ops.push(shift(&self.model.gpu, params, [&b.state, &b.rows, &b.text, &b.candidates]));
                self.recall(history, Place::Committed, ops);
            }
            self.join(join, ops);
        } else {
            self.recall(history, Place::Committed, ops);
        }
        let caches = &buffers.caches[index];
        // What siblings leave would lie where other positions' states belong.
        let output = head.output.filter(|_| pass != Pass::Star).map(|output| &buffers.histories[output]);
        let whole = head.layers().len() - usize::from(!logits && output.is_none());
        for (layer, cache) in head.layers().iter().zip(caches).take(whole) {
            self.layer(layer, cache, ops);
        }
        if let (Some(layer), Some(cache)) = (head.layers().get(whole), caches.get(whole)) {
            self.layer_keys(layer, cache, ops);
        }
        let norm = head.final_norm.as_ref().unwrap_or(&self.model.weights.final_norm);
        if let Some(output) = output {
            ops.push(self.norm(norm, &b.mlp_in, false));
            ops.push(self.remember(&b.mlp_in, output, 1.0, false));
        }
        if logits {
            ops.push(self.norm(norm, &b.attention_in, true));
            self.unembed(head, ops);
        }
    }

    /// Where the backbone's last block was trained to read a mix of the streams, the mix takes the place of the stream.
    pub(super) fn recall_mix_of_target(&self, heads: &Heads, buffers: &HeadBuffers, ops: &mut Vec<Op>) {
        let reads_mix =
            |head: &&Head| matches!(head.body, Body::LastLayer) && matches!(heads.sources[head.source], Source::Mix(_));
        if let Some(head) = heads.heads.iter().find(reads_mix) {
            self.recall(&buffers.histories[head.source], Place::Committed, ops);
        }
    }

    fn recall(&self, history: &wgpu::Buffer, place: Place, ops: &mut Vec<Op>) {
        let (x, y) = ((history, place), (&self.buffers.x, Place::Rows));
        ops.push(self.carry(Carry { x, y, weight: 1.0, accumulate: false, wanted: false }));
    }

    /// The stream of a sequential head: the projection of the hidden state in `x`, and of the embedding, each normalised.
    /// The concatenation is left out: the projection's halves are matrices of their own.
    fn join(&self, join: &Join, ops: &mut Vec<Op>) {
        let b = self.buffers;
        let hidden4 = self.model.sizes.hidden / 4;
        ops.push(self.norm(&join.hidden_norm, &b.mlp_in, false));
        ops.extend(self.embed_with(join.embedding.as_ref().unwrap_or(&self.model.weights.embedding)));
        ops.push(self.norm(&join.embedding_norm, &b.attention_in, false));
        let form = head_form(self.model, &join.from_hidden);
        ops.extend(self.product(form, &join.from_hidden, None, (&b.mlp_in, hidden4), (&b.x, hidden4), false));
        let form = accumulate(head_form(self.model, &join.from_embedding));
        ops.extend(self.product(form, &join.from_embedding, None, (&b.attention_in, hidden4), (&b.x, hidden4), false));
    }

    /// Medusa's: `x + silu(W x + b)` again and again, for the rows whose logits are wanted only.
    fn residual_head(&self, head: &Head, blocks: &[Linear], history: &wgpu::Buffer, ops: &mut Vec<Op>) {
        let b = self.buffers;
        let hidden4 = self.model.sizes.hidden / 4;
        let copy = |x, y| Carry { x, y: (y, Place::Rows), weight: 1.0, accumulate: false, wanted: true };
        ops.push(self.carry(copy((history, Place::Wanted), &b.x)));
        for block in blocks {
            // A product must not write what it reads.
            ops.push(self.carry(copy((&b.x, Place::Rows), &b.attention_in)));
            let form = residual_form(self.model, block);
            let (x, y) = ((&b.attention_in, hidden4), (&b.x, hidden4));
            ops.extend(self.product(form, &block.matrix, block.bias.as_deref(), x, y, true));
        }
        ops.push(self.carry(copy((&b.x, Place::Rows), &b.attention_in)));
        self.unembed(head, ops);
    }

    fn unembed(&self, head: &Head, ops: &mut Vec<Op>) {
        let weights = &self.model.weights;
        let matrix = head.lm_head.as_ref().or(weights.lm_head.as_ref()).unwrap_or(&weights.embedding);
        ops.extend(self.unembed_with(matrix));
    }
}

impl HeadBuffers {
    pub fn new(gpu: &Gpu, heads: &Heads, sizes: &super::sizes::Sizes) -> Self {
        let cache = || {
            let bytes = sizes.attention.cache_bytes();
            (gpu.storage("head keys", bytes), gpu.storage("head values", bytes))
        };
        let widest = heads.adapters.iter().flatten().map(Adapter::width).max();
        Self {
            histories: heads.sources.iter().map(|_| gpu.storage("history", sizes.history_bytes())).collect(),
            caches: heads.heads.iter().map(|head| head.layers().iter().map(|_| cache()).collect()).collect(),
            adapted: widest.map(|width| gpu.storage("adapted", sizes.rows_bytes(width))),
            drafting: (0..heads.drafting_blocks(sizes.layers)).map(|_| cache()).collect(),
        }
    }
}

/// What `buffers` of a model with heads has, with its heads.
pub(super) fn of<'a>(model: &'a Model, buffers: &'a Buffers) -> Option<(&'a Heads, &'a HeadBuffers)> {
    model.heads.as_ref().zip(buffers.heads.as_ref())
}
