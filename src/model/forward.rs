//! The forward pass over rows, as a flat list of ops that every step replays.

use super::buffers::Buffers;
use super::head_plan::{self, HeadsPlan};
use super::load::Model;
use super::sizes::{attention_shape, delta_shape};
use super::state::{AppendIo, CommitIo, KeyValues, LayerState};
use super::upload::{Matrix, Shard};
use super::weights::{DeltaWeights, Layer, Linear, NormWeights};
use crate::format::spec::{self, Attention, Mixer, Mlp};
use crate::gpu::Buffer;
use crate::kernels::{
    Activation, AttentionIo, Bias, CopyHidden, DeltaBuffers, DeltaInputsIo, DeltaRuleIo, EmbedIo, EmbedParams, Finish,
    HeadNormIo, HeadNormParams, LogProbsIo, LogProbsParams, MatmulForm, MatmulIo, NormIo, Op, Over, Partials, Place,
    SampleIo, Scoring, Store, attention_scores, attention_softmax, attention_values, delta_inputs, delta_rule, embed,
    head_norm, log_probs, matmul, matmul_with_partials, norm, sample,
};

/// The ops of a session, in the order they run.
pub(crate) struct Plan {
    /// Embedding and blocks: rows to the residual stream, keys and values to the cache.
    pub body: Vec<Op>,
    /// The end of each block of the body, among its ops.
    pub block_ends: Vec<usize>,
    /// Final norm and LM head of the rows whose logits are wanted.
    pub lm_head: Vec<Op>,
    /// Sampling of the target's token after each row.
    pub sample: Vec<Op>,
    /// The end of a batch whose rows are all committed: of a prompt, or of a text that is read.
    pub settle: Vec<Op>,
    /// Log-probabilities of wanted tokens.
    pub score: Vec<Op>,
    /// Multi-token heads.
    pub heads: Option<HeadsPlan>,
}

impl Plan {
    pub fn new(model: &Model, buffers: &Buffers) -> Self {
        let planner = Planner { model, buffers };
        let heads = head_plan::of(model, buffers);
        let mut body = planner.embed_with(&model.weights.embedding);
        let mut block_ends = Vec::new();
        for (index, layer) in model.weights.layers.iter().enumerate() {
            if let Some((heads, buffers)) = heads.filter(|_| index + 1 == model.weights.layers.len()) {
                planner.load_mix_of_target(heads, buffers, &mut body);
            }
            planner.layer(layer, &buffers.layers[index], &mut body);
            if let Some((heads, buffers)) = heads.filter(|(heads, _)| !heads.gated) {
                planner.save_sources(heads, buffers, index + 1, &mut body);
            }
            block_ends.push(body.len());
        }
        if let Some((heads, buffers)) = heads.filter(|(heads, _)| !heads.gated) {
            planner.save_final_norm(heads, buffers, &mut body);
        }
        let heads = heads.map(|(heads, buffers)| HeadsPlan::new(&planner, heads, buffers));
        let batch = CommitIo { state: &buffers.state, path: &buffers.path };
        Self {
            body,
            block_ends,
            lm_head: planner.lm_head(),
            sample: vec![planner.sample()],
            settle: buffers.layers.iter().filter_map(|layer| layer.commit_rows(&model.gpu, batch)).collect(),
            score: planner.score(),
            heads,
        }
    }

    /// All ops of the plan.
    pub fn ops(&self) -> impl Iterator<Item = &Op> {
        let heads = self.heads.iter().flat_map(HeadsPlan::ops);
        [&self.body, &self.lm_head, &self.sample, &self.settle, &self.score].into_iter().flatten().chain(heads)
    }
}

pub(crate) fn plain_form(model: &Model, matrix: &Matrix) -> MatmulForm {
    MatmulForm::plain(model.kernels, model.widths, matrix.shards[0].format, matrix.columns4())
}

/// The form of a product whose outputs are logits: it bends them to the model's cap, so that whoever reads them finds them capped.
fn logits_form(model: &Model, matrix: &Matrix) -> MatmulForm {
    let activation = if model.softcap.is_some() { Activation::Softcap } else { Activation::None };
    MatmulForm { activation, ..plain_form(model, matrix) }
}

fn softcap_of(model: &Model, form: MatmulForm) -> Option<&Buffer> {
    model.softcap.as_ref().filter(|_| form.activation == Activation::Softcap)
}

pub(crate) fn linear_form(model: &Model, linear: &Linear) -> MatmulForm {
    MatmulForm { bias: Bias::with(linear.bias.is_some()), ..plain_form(model, &linear.matrix) }
}

/// The kernels' form of an MLP's nonlinearity.
pub(crate) fn activation(mlp: &Mlp) -> Activation {
    match mlp.activation {
        spec::Activation::Silu => Activation::Silu,
        spec::Activation::Gelu => Activation::Gelu,
        spec::Activation::GeluTanh => Activation::GeluTanh,
    }
}

/// Elements between an MLP's projections, padded, in blocks of four.
pub(crate) fn inner4(mlp: &Mlp) -> u32 {
    (mlp.inner as u32).div_ceil(4)
}

fn mlp_in_form(model: &Model, layer: &Layer) -> MatmulForm {
    let (linear, mlp) = (&layer.mlp_in, &layer.spec.mlp);
    let (finish, activation) = (Finish::gated(mlp.gated), activation(mlp));
    let columns4 = linear.matrix.columns4() / finish.blocks();
    MatmulForm { activation, finish, shape: model.kernels.product_shape(columns4), ..linear_form(model, linear) }
}

pub(crate) fn accumulate(form: MatmulForm) -> MatmulForm {
    MatmulForm { store: Store::Add, ..form }
}

/// What makes ops over the buffers of a session.
#[derive(Clone, Copy)]
pub(crate) struct Planner<'a> {
    pub model: &'a Model,
    pub buffers: &'a Buffers,
}

/// Added to the sum of the squares of queries and keys before they are divided by its root.
const UNIT_EPS: f64 = 1e-6;

/// Blocks of four of a row of what a mixer gives to its output projection.
fn mixed4(model: &Model, mixer: &Mixer) -> u32 {
    match mixer {
        Mixer::Attention(attention) => attention_shape(attention, model.sizes.context).out_stride() / 4,
        Mixer::DeltaNet(delta) => delta_shape(delta).values() / 4,
    }
}

/// The input of a product: its buffer and row stride in blocks of four.
type Source<'a> = (&'a Buffer, u32);

impl Planner<'_> {
    /// The rows' tokens to the stream, by `table`.
    pub fn embed_with(&self, table: &Matrix) -> Vec<Op> {
        embed_ops(self.model, table, &self.buffers.rows, &self.buffers.x)
    }

    /// Pre-norm attention and MLP. In a parallel residual (GPT-NeoX) both read the block's input, so the MLP's norm is
    /// taken before attention adds to the stream.
    pub(super) fn layer(&self, layer: &Layer, kept: &LayerState, ops: &mut Vec<Op>) {
        self.layer_with(layer, kept, ops, |_, _| {});
    }

    /// A layer; `adapt` may change queries, keys and values.
    pub fn layer_with(
        &self,
        layer: &Layer,
        kept: &LayerState,
        ops: &mut Vec<Op>,
        adapt: impl Fn(&Buffer, &mut Vec<Op>),
    ) {
        let b = self.buffers;
        let (hidden4, inner4) = (self.model.sizes.hidden / 4, inner4(&layer.spec.mlp));
        let parallel = layer.spec.parallel;
        let mlp_norm = || self.norm(&layer.mlp_norm, &b.mlp_in, Over::Rows);
        ops.push(self.norm(&layer.attention_norm, &b.attention_in, Over::Rows));
        if parallel {
            ops.push(mlp_norm());
        }
        match kept {
            LayerState::Kv(kept) | LayerState::Window(kept) => {
                self.qkv(layer, kept, ops, adapt);
                self.attention(layer, kept, ops);
            }
            LayerState::Recurrent(kept) => self.delta_net(layer, &kept.delta, ops),
        }
        let out = (&b.attention_out, mixed4(self.model, &layer.spec.mixer));
        self.gate(layer, out, ops);
        let [mixer_post, mlp_post] = [0, 1].map(|at| layer.post_norms.as_ref().map(|norms| &norms[at]));
        let scale = layer.spec.residual_scale;
        self.add(&layer.mixer.out, out, (mixer_post, scale), ops);
        if !parallel {
            ops.push(mlp_norm());
        }
        let form = mlp_in_form(self.model, layer);
        ops.extend(self.linear(form, &layer.mlp_in, (&b.mlp_in, hidden4), (&b.intermediate, inner4)));
        self.add(&layer.mlp_out, (&b.intermediate, inner4), (mlp_post, scale), ops);
    }

    /// Multiplies what a mixer gives with its gate, where it has one.
    fn gate(&self, layer: &Layer, out: Source<'_>, ops: &mut Vec<Op>) {
        let Some(gate) = &layer.mixer.gate else { return };
        let activation = match layer.spec.mixer {
            Mixer::Attention(_) => Activation::Sigmoid,
            Mixer::DeltaNet(_) => Activation::Silu,
        };
        let form = MatmulForm { activation, store: Store::Mul, ..linear_form(self.model, gate) };
        let x = (&self.buffers.attention_in, self.model.sizes.hidden / 4);
        ops.extend(self.linear(form, gate, x, out));
    }

    /// A delta net over the rows, up to the gate of its output.
    fn delta_net(&self, layer: &Layer, kept: &DeltaBuffers, ops: &mut Vec<Op>) {
        let (model, b) = (self.model, self.buffers);
        let (Mixer::DeltaNet(delta), Some(weights), Some(unit)) =
            (&layer.spec.mixer, &layer.mixer.delta, &layer.mixer.qk_norm)
        else {
            unreachable!("a layer with such a state is a delta net")
        };
        let (gpu, shape, hidden4) = (&model.gpu, kept.shape, model.sizes.hidden / 4);
        let y = (&kept.inputs, shape.inputs_stride() / 4);
        ops.extend(self.linear(
            linear_form(model, &layer.mixer.input),
            &layer.mixer.input,
            (&b.attention_in, hidden4),
            y,
        ));
        let (state, rows, convolved, out) = (&b.state, &b.rows, &b.projected, &b.qkv);
        let DeltaWeights { conv, rates, norm } = weights;
        ops.push(delta_inputs(gpu, kept, DeltaInputsIo { state, rows, conv, rates, convolved }));
        let of_keys = HeadNormParams {
            heads: shape.key_heads,
            kv_heads: shape.key_heads,
            others: shape.values() / shape.key_dim,
            width: shape.key_dim,
            head_dim4: shape.key_dim / 4,
            eps: (UNIT_EPS / f64::from(shape.key_dim)) as f32,
        };
        ops.push(head_norm(gpu, of_keys, HeadNormIo { x: convolved, scale: unit, y: &kept.mixed }));
        ops.push(delta_rule(gpu, model.kernels, kept, DeltaRuleIo { state, rows, out }));
        let of_values = HeadNormParams {
            heads: shape.value_heads,
            kv_heads: 0,
            others: 0,
            width: shape.value_dim,
            head_dim4: shape.value_dim / 4,
            eps: delta.eps as f32,
        };
        ops.push(head_norm(gpu, of_values, HeadNormIo { x: out, scale: norm, y: &b.attention_out }));
    }

    /// Adds a product to the stream, normalised by `post` where a block has such norms, and scaled.
    fn add(&self, linear: &Linear, x: Source<'_>, (post, weight): (Option<&NormWeights>, f32), ops: &mut Vec<Op>) {
        let (b, hidden4) = (self.buffers, self.model.sizes.hidden / 4);
        let form = linear_form(self.model, linear);
        if post.is_none() && weight == 1.0 {
            ops.extend(self.linear(accumulate(form), linear, x, (&b.x, hidden4)));
            return;
        }
        ops.extend(self.linear(form, linear, x, (&b.added, hidden4)));
        let added = match post {
            None => &b.added,
            Some(norm) => {
                // What attention reads of it was read.
                let normalised = &b.attention_in;
                ops.push(norm_op(self.model, &b.state, norm, &b.added, normalised, Over::Rows));
                normalised
            }
        };
        let (x, y) = ((added, Place::Rows), (&b.x, Place::Rows));
        ops.push(self.copy_hidden(CopyHidden { x, y, weight, store: Store::Add, over: Over::Rows }));
    }

    /// Adds the ops that leave what later rows need of a layer: its keys and values.
    pub(super) fn layer_keys(&self, layer: &Layer, kept: &LayerState, ops: &mut Vec<Op>) {
        ops.push(self.norm(&layer.attention_norm, &self.buffers.attention_in, Over::Rows));
        if let Some(kept) = kept.key_values() {
            self.qkv(layer, kept, ops, |_, _| {});
        }
    }

    /// Queries, keys and values of the rows: queries to `qkv`, the others to the cache. `adapt` may change what the product
    /// gives, which is in the buffer that it is handed.
    fn qkv(&self, layer: &Layer, kept: &KeyValues, ops: &mut Vec<Op>, adapt: impl Fn(&Buffer, &mut Vec<Op>)) {
        let (model, b) = (self.model, self.buffers);
        let (attention, shape) = (layer.attention(), model.attention_shape(layer));
        let projected = if layer.mixer.qk_norm.is_some() { &b.projected } else { &b.qkv };
        let form = linear_form(model, &layer.mixer.input);
        let (x, y) = ((&b.attention_in, model.sizes.hidden / 4), (projected, shape.qkv_stride() / 4));
        ops.extend(self.linear(form, &layer.mixer.input, x, y));
        adapt(projected, ops);
        if let (Some(norm), Some(scale)) = (attention.qk_norm, &layer.mixer.qk_norm) {
            let params = HeadNormParams::new(shape, attention.head_dim as u32, norm.eps as f32);
            ops.push(head_norm(&model.gpu, params, HeadNormIo { x: projected, scale, y: &b.qkv }));
        }
        let rotation = model.rotation(&attention.rope);
        let io = AppendIo { state: &b.state, rows: &b.rows, qkv: &b.qkv, rotation };
        ops.push(kept.append(&model.gpu, attention.rope.rotary_dim as u32, io));
    }

    fn attention(&self, layer: &Layer, kept: &KeyValues, ops: &mut Vec<Op>) {
        let (gpu, b, KeyValues { shape, keys, values }) = (&self.model.gpu, self.buffers, kept);
        let Attention { scale, softcap, .. } = *layer.attention();
        let io = AttentionIo {
            state: &b.state,
            rows: &b.rows,
            qkv: &b.qkv,
            keys,
            values,
            scores: &b.scores,
            inverse_sums: &b.inverse_sums,
            out: &b.attention_out,
        };
        let set = self.model.kernels;
        ops.push(attention_scores(gpu, *shape, Scoring { scale, softcap }, io));
        ops.push(attention_softmax(gpu, set, *shape, io));
        ops.push(attention_values(gpu, set, *shape, io));
    }

    fn lm_head(&self) -> Vec<Op> {
        let mut ops = vec![self.final_norm(&self.buffers.attention_in, Over::LogitRows)];
        ops.extend(self.unembed_with(unembedding(self.model)));
        ops
    }

    /// The logits of the rows that lie normalised in `attention_in`.
    pub(super) fn unembed_with(&self, matrix: &Matrix) -> Vec<Op> {
        let b = self.buffers;
        let x = (&b.attention_in, self.model.sizes.hidden / 4);
        let y = (&b.logits, self.model.sizes.vocab_stride() / 4);
        self.product(logits_form(self.model, matrix), matrix, None, x, y, Over::LogitRows)
    }

    fn sample(&self) -> Op {
        let b = self.buffers;
        let io = SampleIo {
            params: &b.sample_params,
            state: &b.state,
            rows: &b.rows,
            logits: &b.logits,
            probabilities: &b.probabilities,
            counts: &b.counts,
            sampled: &b.sampled,
        };
        sample(&self.model.gpu, self.model.kernels, io)
    }

    fn score(&self) -> Vec<Op> {
        let b = self.buffers;
        let params = LogProbsParams { vocab: self.model.sizes.vocab, stride: self.model.sizes.vocab_stride() };
        let io = LogProbsIo { rows: &b.rows, logits: &b.logits, log_probs: &b.log_probs };
        vec![log_probs(&self.model.gpu, self.model.kernels, params, io)]
    }

    pub(super) fn norm(&self, weights: &NormWeights, y: &Buffer, over: Over) -> Op {
        norm_op(self.model, &self.buffers.state, weights, &self.buffers.x, y, over)
    }

    /// The norm before the LM head.
    pub(super) fn final_norm(&self, y: &Buffer, over: Over) -> Op {
        self.norm(&self.model.weights.final_norm, y, over)
    }

    fn linear(&self, form: MatmulForm, linear: &Linear, x: Source<'_>, y: Source<'_>) -> Vec<Op> {
        self.product(form, &linear.matrix, linear.bias.as_deref(), x, y, Over::Rows)
    }

    pub fn product(
        &self,
        form: MatmulForm,
        matrix: &Matrix,
        bias: Option<&[Buffer]>,
        x: Source<'_>,
        y: Source<'_>,
        over: Over,
    ) -> Vec<Op> {
        product_ops(self.model, &self.buffers.state, form, matrix, bias, x, y, over)
    }
}

/// The matrix of the LM head.
fn unembedding(model: &Model) -> &Matrix {
    model.weights.lm_head.as_ref().unwrap_or(&model.weights.embedding)
}

/// Softmax partials that [`lm_head_with_partials`] keeps of a row.
pub(crate) fn lm_head_partials(model: &Model) -> u32 {
    let matrix = unembedding(model);
    matrix.shards.iter().map(|shard| logits_form(model, matrix).partials(shard.columns4)).sum()
}

/// The ops of [`Plan::lm_head`] that also write what the logits' softmax needs to `partials`.
pub(crate) fn lm_head_with_partials(model: &Model, b: &Buffers, partials: &Buffer) -> Vec<Op> {
    let matrix = unembedding(model);
    let (form, stride) = (logits_form(model, matrix), lm_head_partials(model));
    let mut ops = vec![norm_op(model, &b.state, &model.weights.final_norm, &b.x, &b.attention_in, Over::LogitRows)];
    let mut first = 0;
    for shard in &matrix.shards {
        let io = MatmulIo {
            state: &b.state,
            x: &b.attention_in,
            weight: &shard.buffer,
            y: &b.logits,
            bias: None,
            softcap: softcap_of(model, form),
            columns4: shard.columns4,
            inputs4: matrix.inputs4,
            x_stride4: model.sizes.hidden / 4,
            y_stride4: model.sizes.vocab_stride() / 4,
            y_first4: shard.first4,
            over: Over::LogitRows,
        };
        let kept = Partials { vocab: model.sizes.vocab, stride, first };
        let form = MatmulForm { format: shard.format, ..form };
        ops.push(matmul_with_partials(&model.gpu, form, io, kept, partials));
        first += form.partials(shard.columns4);
    }
    ops
}

/// The tokens of `rows` to `x`, by `table`.
pub(crate) fn embed_ops(model: &Model, table: &Matrix, rows: &Buffer, x: &Buffer) -> Vec<Op> {
    let hidden = model.sizes.hidden;
    let shard = |shard: &Shard| {
        let (first, count) = (shard.first4 * 4, shard.columns4 * 4);
        let scale = model.config.spec.embedding_scale;
        let params = EmbedParams { width: hidden, stride: hidden, first, count, scale };
        embed(&model.gpu, shard.format, params, EmbedIo { rows, table: &shard.buffer, x })
    };
    table.shards.iter().map(shard).collect()
}

/// `y = norm(x)`.
pub(crate) fn norm_op(model: &Model, state: &Buffer, weights: &NormWeights, x: &Buffer, y: &Buffer, over: Over) -> Op {
    let eps = weights.norm.eps();
    let io = NormIo { state, x, y, scale: &weights.scale, shift: weights.shift.as_ref(), over };
    norm(&model.gpu, model.kernels, model.config.hidden_size as u32, model.sizes.hidden, eps as f32, io)
}

/// The plain product of `x` with one shard of a matrix, to the first columns of rows of `y` as wide as the shard.
pub(crate) fn shard_op(
    model: &Model,
    state: &Buffer,
    matrix: &Matrix,
    shard: &Shard,
    (x, x_stride4): Source<'_>,
    y: &Buffer,
) -> Op {
    let io = MatmulIo {
        state,
        x,
        weight: &shard.buffer,
        y,
        bias: None,
        softcap: None,
        columns4: shard.columns4,
        inputs4: matrix.inputs4,
        x_stride4,
        y_stride4: shard.columns4,
        y_first4: 0,
        over: Over::Rows,
    };
    matmul(&model.gpu, MatmulForm { format: shard.format, ..plain_form(model, matrix) }, io)
}

/// The product of `x` with a matrix, shard by shard.
#[expect(clippy::too_many_arguments, reason = "a product has as many parts")]
pub(crate) fn product_ops(
    model: &Model,
    state: &Buffer,
    form: MatmulForm,
    matrix: &Matrix,
    bias: Option<&[Buffer]>,
    (x, x_stride4): Source<'_>,
    (y, y_stride4): Source<'_>,
    over: Over,
) -> Vec<Op> {
    let blocks = form.finish.blocks();
    let op = |(index, shard): (usize, &Shard)| {
        let io = MatmulIo {
            state,
            x,
            weight: &shard.buffer,
            y,
            bias: bias.map(|shards| &shards[index]),
            softcap: softcap_of(model, form),
            columns4: shard.columns4 / blocks,
            inputs4: matrix.inputs4,
            x_stride4,
            y_stride4,
            y_first4: shard.first4 / blocks,
            over,
        };
        matmul(&model.gpu, MatmulForm { format: shard.format, ..form }, io)
    };
    matrix.shards.iter().enumerate().map(op).collect()
}
