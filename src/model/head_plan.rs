//! The ops that take rows of known hidden states to the logits of multi-token heads.
//!
//! The body of the forward pass leaves what heads read in histories, one slot a position, like a cache. So a head can go
//! over any stretch of positions at any time: whoever wants it to stages rows as for a forward pass (`state.committed`,
//! `state.num_rows`, positions; masks 0), then replays the ops.

use super::buffers::Buffers;
use super::forward::{Planner, accumulate, linear_form, plain_form};
use super::heads::{Body, Head, HeadWeights, Join, Source};
use super::load::Model;
use super::lora::Adapter;
use super::sizes::Sizes;
use super::state::LayerState;
use super::weights::Linear;
use crate::format::spec::{BlockSpec, ModelSpec};
use crate::gpu::{Buffer, Copies, Gpu};
use crate::kernels::{
    Activation, CopyHidden, MatmulForm, Op, Over, Place, ShiftTokensIo, ShiftTokensParams, Store, copy_hidden,
    shift_tokens,
};

fn residual_form(model: &Model, block: &Linear) -> MatmulForm {
    accumulate(MatmulForm { activation: Activation::Silu, ..linear_form(model, block) })
}

/// The buffers of heads, made with those of a session.
pub(crate) struct HeadBuffers {
    /// `[capacity, hidden]` for each source: what heads read, by position.
    pub histories: Vec<Buffer>,
    /// The state of each layer of each head: all positions, since heads go over them in any order.
    pub layers: Vec<Vec<LayerState>>,
    /// `A x` of a gated LoRA.
    pub adapted: Option<Buffer>,
    /// The state of the backbone's blocks for rows whose adapters are on, with a gated LoRA; all positions too.
    pub adapted_layers: Vec<LayerState>,
}

/// The ops of one head, over rows that were staged before.
pub(crate) struct HeadPlan {
    /// Places from its position to the token that it predicts.
    pub offset: usize,
    /// Places ahead of its position of the token that it reads; 0 if it reads none.
    pub ahead: usize,
    /// The backbone itself is this head: its ops are the body and the LM head of the forward pass, and those below are
    /// none.
    pub backbone: bool,
    /// Leaves everything that later rows, and later heads, need of the staged rows: keys and values of every layer, and
    /// the output that another head reads.
    pub refill: Vec<Op>,
    /// The ops of `refill`, and the logits of the rows from `state.logit_row` on to the first rows of `logits`.
    pub full: Vec<Op>,
    /// The logits of siblings, of a head that reads the next token and a hidden state of the backbone. All rows read
    /// the hidden state at the committed length, and the tokens that are in the rows already. None for other heads.
    pub siblings: Vec<Op>,
}

/// The results that a head's ops are to leave.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// [`HeadPlan::refill`]
    Refill,
    /// [`HeadPlan::full`]
    Full,
    /// [`HeadPlan::siblings`]
    Siblings,
}

/// The ops of all heads.
pub(crate) struct HeadsPlan {
    pub heads: Vec<HeadPlan>,
    /// Gives staged rows the text's tokens.
    pub tokens: Vec<Op>,
}

impl HeadsPlan {
    /// All ops of the heads.
    pub fn ops(&self) -> impl Iterator<Item = &Op> {
        let heads = self.heads.iter().flat_map(|head| [&head.refill, &head.full, &head.siblings]).flatten();
        heads.chain(&self.tokens)
    }

    /// Places ahead of their position that heads read at most.
    pub fn ahead(&self) -> usize {
        self.heads.iter().map(|head| head.ahead).max().unwrap_or(0)
    }

    pub(super) fn new(planner: &Planner<'_>, heads: &HeadWeights, buffers: &HeadBuffers) -> Self {
        let Planner { model, buffers: b } = *planner;
        let text = ShiftTokensParams { ahead: 0, vocab: model.sizes.vocab };
        Self {
            heads: (0..heads.heads.len()).map(|index| planner.head_plan(heads, index, buffers)).collect(),
            tokens: vec![shift_tokens(&model.gpu, text, shift_tokens_io(b))],
        }
    }
}

impl Planner<'_> {
    /// Leaves what heads read of the stream after `blocks` blocks.
    pub fn save_sources(&self, heads: &HeadWeights, buffers: &HeadBuffers, blocks: usize, ops: &mut Vec<Op>) {
        for (source, history) in heads.sources.iter().zip(&buffers.histories) {
            if let Some(weight) = source.weight_of(blocks) {
                let adds = matches!(source, Source::Mix(_)) && blocks > 1;
                let store = if adds { Store::Add } else { Store::Set };
                ops.push(self.save_hidden(&self.buffers.x, history, weight, store));
            }
        }
    }

    /// Leaves the output of the final norm, where heads read that.
    pub fn save_final_norm(&self, heads: &HeadWeights, buffers: &HeadBuffers, ops: &mut Vec<Op>) {
        let Some(at) = heads.sources.iter().position(|source| *source == Source::FinalNorm) else { return };
        ops.push(self.final_norm(&self.buffers.attention_in, Over::Rows));
        ops.push(self.save_hidden(&self.buffers.attention_in, &buffers.histories[at], 1.0, Store::Set));
    }

    fn save_hidden(&self, x: &Buffer, history: &Buffer, weight: f32, store: Store) -> Op {
        let (x, y) = ((x, Place::Rows), (history, Place::Committed));
        self.copy_hidden(CopyHidden { x, y, weight, store, over: Over::Rows })
    }

    pub(super) fn copy_hidden(&self, io: CopyHidden<'_>) -> Op {
        let sizes = &self.model.sizes;
        copy_hidden(&self.model.gpu, sizes.hidden, self.buffers.capacity, &self.buffers.state, io)
    }

    fn head_plan(&self, heads: &HeadWeights, index: usize, buffers: &HeadBuffers) -> HeadPlan {
        let head = &heads.heads[index];
        let backbone = matches!(head.body, Body::LastLayer);
        let (mut refill, mut full, mut siblings) = (Vec::new(), Vec::new(), Vec::new());
        if !backbone {
            self.head_ops(heads, index, buffers, Pass::Refill, &mut refill);
            self.head_ops(heads, index, buffers, Pass::Full, &mut full);
        }
        let of_backbone = !matches!(heads.sources[head.source], Source::Head(_));
        if head.ahead == 1 && of_backbone {
            self.head_ops(heads, index, buffers, Pass::Siblings, &mut siblings);
        }
        HeadPlan { offset: head.offset, ahead: head.ahead, backbone, refill, full, siblings }
    }

    fn head_ops(&self, heads: &HeadWeights, index: usize, buffers: &HeadBuffers, pass: Pass, ops: &mut Vec<Op>) {
        let (head, b, logits) = (&heads.heads[index], self.buffers, pass != Pass::Refill);
        let history = &buffers.histories[head.source];
        if let Body::Residual(blocks) = &head.body {
            if logits {
                self.residual_head(head, blocks, history, ops);
            }
            return;
        }
        if let Body::Sequential(join, _) = &head.body {
            if pass == Pass::Siblings {
                self.load_hidden(history, Place::Same, ops);
            } else {
                let params = ShiftTokensParams { ahead: head.ahead as u32, vocab: self.model.sizes.vocab };
                ops.push(shift_tokens(&self.model.gpu, params, shift_tokens_io(b)));
                self.load_hidden(history, Place::Committed, ops);
            }
            self.join(join, ops);
        } else {
            self.load_hidden(history, Place::Committed, ops);
        }
        let kept = &buffers.layers[index];
        // What siblings leave would lie where other positions' states belong.
        let output = head.output.filter(|_| pass != Pass::Siblings).map(|output| &buffers.histories[output]);
        let whole = head.layers().len() - usize::from(!logits && output.is_none());
        for (layer, kept) in head.layers().iter().zip(kept).take(whole) {
            self.layer(layer, kept, ops);
        }
        if let (Some(layer), Some(kept)) = (head.layers().get(whole), kept.get(whole)) {
            self.layer_keys(layer, kept, ops);
        }
        let norm = head.final_norm.as_ref().unwrap_or(&self.model.weights.final_norm);
        if let Some(output) = output {
            ops.push(self.norm(norm, &b.mlp_in, Over::Rows));
            ops.push(self.save_hidden(&b.mlp_in, output, 1.0, Store::Set));
        }
        if logits {
            ops.push(self.norm(norm, &b.attention_in, Over::LogitRows));
            self.unembed(head, ops);
        }
    }

    /// Where the backbone's last block was trained to read a mix of the streams, the mix takes the place of the stream.
    pub(super) fn load_mix_of_target(&self, heads: &HeadWeights, buffers: &HeadBuffers, ops: &mut Vec<Op>) {
        let reads_mix =
            |head: &&Head| matches!(head.body, Body::LastLayer) && matches!(heads.sources[head.source], Source::Mix(_));
        if let Some(head) = heads.heads.iter().find(reads_mix) {
            self.load_hidden(&buffers.histories[head.source], Place::Committed, ops);
        }
    }

    fn load_hidden(&self, history: &Buffer, place: Place, ops: &mut Vec<Op>) {
        let (x, y) = ((history, place), (&self.buffers.x, Place::Rows));
        ops.push(self.copy_hidden(CopyHidden { x, y, weight: 1.0, store: Store::Set, over: Over::Rows }));
    }

    /// The stream of a sequential head: the projection of the hidden state in `x`, and of the embedding, each normalised.
    /// The concatenation is left out: the projection's halves are matrices of their own.
    fn join(&self, join: &Join, ops: &mut Vec<Op>) {
        let b = self.buffers;
        let hidden4 = self.model.sizes.hidden / 4;
        ops.push(self.norm(&join.hidden_norm, &b.mlp_in, Over::Rows));
        ops.extend(self.embed_with(join.embedding.as_ref().unwrap_or(&self.model.weights.embedding)));
        ops.push(self.norm(&join.embedding_norm, &b.attention_in, Over::Rows));
        let form = plain_form(self.model, &join.from_hidden);
        ops.extend(self.product(form, &join.from_hidden, None, (&b.mlp_in, hidden4), (&b.x, hidden4), Over::Rows));
        let form = accumulate(plain_form(self.model, &join.from_embedding));
        ops.extend(self.product(
            form,
            &join.from_embedding,
            None,
            (&b.attention_in, hidden4),
            (&b.x, hidden4),
            Over::Rows,
        ));
    }

    /// Medusa's: `x + silu(W x + b)` again and again, for the rows whose logits are wanted only.
    fn residual_head(&self, head: &Head, blocks: &[Linear], history: &Buffer, ops: &mut Vec<Op>) {
        let b = self.buffers;
        let hidden4 = self.model.sizes.hidden / 4;
        let copy = |x, y| CopyHidden { x, y: (y, Place::Rows), weight: 1.0, store: Store::Set, over: Over::LogitRows };
        ops.push(self.copy_hidden(copy((history, Place::Wanted), &b.x)));
        for block in blocks {
            // A product must not write what it reads.
            ops.push(self.copy_hidden(copy((&b.x, Place::Rows), &b.attention_in)));
            let form = residual_form(self.model, block);
            let (x, y) = ((&b.attention_in, hidden4), (&b.x, hidden4));
            ops.extend(self.product(form, &block.matrix, block.bias.as_deref(), x, y, Over::LogitRows));
        }
        ops.push(self.copy_hidden(copy((&b.x, Place::Rows), &b.attention_in)));
        self.unembed(head, ops);
    }

    fn unembed(&self, head: &Head, ops: &mut Vec<Op>) {
        let weights = &self.model.weights;
        let matrix = head.lm_head.as_ref().or(weights.lm_head.as_ref()).unwrap_or(&weights.embedding);
        ops.extend(self.unembed_with(matrix));
    }
}

fn shift_tokens_io(b: &Buffers) -> ShiftTokensIo<'_> {
    ShiftTokensIo { state: &b.state, rows: &b.rows, text: &b.text, candidates: &b.candidates }
}

impl HeadBuffers {
    pub fn new(gpu: &Gpu, spec: &ModelSpec, heads: &HeadWeights, sizes: &Sizes) -> Self {
        let kept = |block: &BlockSpec| LayerState::whole(gpu, &block.mixer, sizes.context, sizes.cache);
        let layers = |head: &Head| head.layers().iter().map(|layer| kept(&layer.spec)).collect();
        let widest = heads.adapters.iter().flatten().map(Adapter::width).max();
        Self {
            histories: heads.sources.iter().map(|_| gpu.storage("history", sizes.history_bytes())).collect(),
            layers: heads.heads.iter().map(layers).collect(),
            adapted: widest.map(|width| gpu.storage("adapted", sizes.rows_bytes(width))),
            adapted_layers: spec.blocks.iter().take(heads.adapted_blocks(spec.blocks.len())).map(kept).collect(),
        }
    }

    /// Makes room for the context of `sizes`, more than before.
    pub fn grow(&mut self, gpu: &Gpu, sizes: &Sizes, copies: &mut Copies) {
        for layer in self.layers.iter_mut().flatten().chain(&mut self.adapted_layers) {
            layer.grow(gpu, sizes.context, copies);
        }
        for history in &mut self.histories {
            let grown = gpu.storage("history", sizes.history_bytes());
            copies.add((history, 0), (&grown, 0), history.size());
            *history = grown;
        }
    }

    /// Takes over what `other` keeps of its text.
    pub fn copy_text(&self, other: &Self, copies: &mut Copies) {
        let pairs = self.layers.iter().flatten().zip(other.layers.iter().flatten());
        for (layer, other) in pairs.chain(self.adapted_layers.iter().zip(&other.adapted_layers)) {
            other.copy_to(layer, copies);
        }
        for (history, other) in self.histories.iter().zip(&other.histories) {
            copies.add((other, 0), (history, 0), other.size());
        }
    }
}

/// The histories that heads read, of every position, in the buffers of a session; none without heads.
pub(crate) fn history_buffers(buffers: &Buffers) -> &[Buffer] {
    buffers.heads.as_ref().map_or(&[], |heads| &heads.histories)
}

/// The heads of a model and their part of `buffers`; `None` without heads.
pub(super) fn of<'a>(model: &'a Model, buffers: &'a Buffers) -> Option<(&'a HeadWeights, &'a HeadBuffers)> {
    model.heads.as_ref().zip(buffers.heads.as_ref())
}
