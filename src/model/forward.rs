//! The forward pass over rows, as a flat list of ops that every step replays.

use std::collections::BTreeSet;

use super::buffers::Buffers;
use super::engine::Model;
use super::upload::{Matrix, Shard};
use super::weights::{Layer, Linear, NormWeights};
use crate::format::config::{Activation as ConfigActivation, Norm};
use crate::gpu::Variant;
use crate::kernels::{
    Activation, CommitParams, EmbedParams, LogProbsParams, MAX_END_TOKENS, MatmulForm, MatmulIo, NormIo, Op, RopeIo,
    SampleIo, attention_scores, attention_softmax, attention_values, commit, commit_variant, embed, embed_variant,
    log_probs, log_probs_variant, matmul, norm, norm_variant, rope_cache, rope_cache_variant, sample, sample_variant,
    scores_variant, softmax_variant, values_variant,
};

/// The ops of a session, in the order they run.
pub(crate) struct Plan {
    /// Embedding and blocks: rows to the residual stream, keys and values to the cache.
    pub body: Vec<Op>,
    /// Final norm and LM head of the rows whose logits are wanted.
    pub head: Vec<Op>,
    /// Sampling and the end of the step.
    pub sample: Vec<Op>,
    /// Log-probabilities of wanted tokens.
    pub score: Vec<Op>,
}

impl Plan {
    pub fn new(model: &Model, buffers: &Buffers) -> Self {
        let planner = Planner { model, buffers };
        let mut body = planner.embed();
        for (index, layer) in model.weights.layers.iter().enumerate() {
            planner.layer(index, layer, &mut body);
        }
        Self { body, head: planner.head(), sample: planner.sample(), score: planner.score() }
    }

    /// Every op.
    pub fn ops(&self) -> impl Iterator<Item = &Op> {
        [&self.body, &self.head, &self.sample, &self.score].into_iter().flatten()
    }
}

/// The variants behind the ops of a session of `model`, each once.
pub(super) fn pipelines(model: &Model) -> BTreeSet<Variant> {
    let (set, subgroup) = (model.kernels, model.gpu.summary().fixed_subgroup().unwrap_or(0));
    let layer_norm = matches!(model.config.norm, Norm::Layer { .. });
    let mut variants = BTreeSet::from([
        embed_variant(model.weights.embedding.dtype),
        norm_variant(set, subgroup, layer_norm),
        rope_cache_variant(),
        scores_variant(),
        softmax_variant(set, subgroup),
        values_variant(set),
        log_probs_variant(set, subgroup),
        sample_variant(set),
        commit_variant(),
    ]);
    let head = model.weights.lm_head.as_ref().unwrap_or(&model.weights.embedding);
    let mut forms = vec![head_form(model, head)];
    for layer in &model.weights.layers {
        forms.extend([
            linear_form(model, &layer.qkv),
            accumulate(linear_form(model, &layer.out)),
            mlp_in_form(model, &layer.mlp_in),
            accumulate(linear_form(model, &layer.mlp_out)),
        ]);
    }
    for form in forms {
        variants.extend(model.widths.rows().iter().map(|&rows| form.narrow(rows)));
        variants.extend(form.tiled());
    }
    variants
}

fn head_form(model: &Model, matrix: &Matrix) -> MatmulForm {
    MatmulForm::plain(model.kernels, model.widths, matrix.dtype)
}

fn linear_form(model: &Model, linear: &Linear) -> MatmulForm {
    MatmulForm { bias: linear.bias.is_some(), ..head_form(model, &linear.matrix) }
}

fn mlp_in_form(model: &Model, linear: &Linear) -> MatmulForm {
    let activation = match model.config.activation {
        ConfigActivation::Silu => Activation::Silu,
        ConfigActivation::Gelu => Activation::Gelu,
        ConfigActivation::GeluTanh => Activation::GeluTanh,
    };
    MatmulForm { activation, gated: model.config.gated_mlp, ..linear_form(model, linear) }
}

fn accumulate(form: MatmulForm) -> MatmulForm {
    MatmulForm { accumulate: true, ..form }
}

struct Planner<'a> {
    model: &'a Model,
    buffers: &'a Buffers,
}

/// The input of a product: its buffer and row stride in blocks of four.
type Source<'a> = (&'a wgpu::Buffer, u32);

impl Planner<'_> {
    fn embed(&self) -> Vec<Op> {
        let table = &self.model.weights.embedding;
        let hidden = self.model.sizes.hidden;
        let shard = |shard: &Shard| {
            let params =
                EmbedParams { width: hidden, stride: hidden, first: shard.first4 * 4, count: shard.columns4 * 4 };
            embed(&self.model.gpu, table.dtype, params, &self.buffers.rows, &shard.buffer, &self.buffers.x)
        };
        table.shards.iter().map(shard).collect()
    }

    /// Pre-norm attention and MLP. In a parallel residual (GPT-NeoX) both read the block's input, so the MLP's norm is
    /// taken before attention adds to the stream.
    fn layer(&self, index: usize, layer: &Layer, ops: &mut Vec<Op>) {
        let b = self.buffers;
        let sizes = &self.model.sizes;
        let (hidden4, inner4) = (sizes.hidden / 4, sizes.intermediate / 4);
        let parallel = self.model.config.parallel_residual;
        let mlp_norm = || self.norm(&layer.mlp_norm, &b.mlp_in, false);
        ops.push(self.norm(&layer.attention_norm, &b.attention_in, false));
        if parallel {
            ops.push(mlp_norm());
        }
        let qkv_stride = sizes.attention.qkv_stride() / 4;
        let form = linear_form(self.model, &layer.qkv);
        ops.extend(self.linear(form, &layer.qkv, (&b.attention_in, hidden4), (&b.qkv, qkv_stride)));
        self.attention(index, ops);
        let out = (&b.attention_out, sizes.attention.out_stride() / 4);
        ops.extend(self.linear(accumulate(linear_form(self.model, &layer.out)), &layer.out, out, (&b.x, hidden4)));
        if !parallel {
            ops.push(mlp_norm());
        }
        let form = mlp_in_form(self.model, &layer.mlp_in);
        ops.extend(self.linear(form, &layer.mlp_in, (&b.mlp_in, hidden4), (&b.intermediate, inner4)));
        let form = accumulate(linear_form(self.model, &layer.mlp_out));
        ops.extend(self.linear(form, &layer.mlp_out, (&b.intermediate, inner4), (&b.x, hidden4)));
    }

    fn attention(&self, index: usize, ops: &mut Vec<Op>) {
        let (gpu, b, shape) = (&self.model.gpu, self.buffers, self.model.sizes.attention);
        let (keys, values) = &b.cache[index];
        let rope = RopeIo { state: &b.state, rows: &b.rows, qkv: &b.qkv, rotation: &self.model.rotation, keys, values };
        ops.push(rope_cache(gpu, shape, self.model.config.rope.rotary_dim as u32, rope));
        let scale = 1.0 / (self.model.config.head_dim as f32).sqrt();
        ops.push(attention_scores(gpu, shape, scale, [&b.state, &b.rows, &b.qkv, keys, &b.scores]));
        let set = self.model.kernels;
        ops.push(attention_softmax(gpu, set, shape, [&b.state, &b.rows, &b.scores, &b.inverse_sums]));
        let io = [&b.state, &b.rows, &b.scores, &b.inverse_sums, values, &b.attention_out];
        ops.push(attention_values(gpu, set, shape, io));
    }

    fn head(&self) -> Vec<Op> {
        let b = self.buffers;
        let matrix = self.model.weights.lm_head.as_ref().unwrap_or(&self.model.weights.embedding);
        let form = head_form(self.model, matrix);
        let mut ops = vec![self.norm(&self.model.weights.final_norm, &b.attention_in, true)];
        let x = (&b.attention_in, self.model.sizes.hidden / 4);
        let y = (&b.logits, self.model.sizes.vocab_stride() / 4);
        ops.extend(self.product(form, matrix, None, x, y, true));
        ops
    }

    fn sample(&self) -> Vec<Op> {
        let (gpu, b) = (&self.model.gpu, self.buffers);
        let io = SampleIo {
            params: &b.sample_params,
            state: &b.state,
            rows: &b.rows,
            logits: &b.logits,
            weights: &b.weights,
            counts: &b.counts,
            sampled: &b.sampled,
        };
        let eos = &self.model.config.eos_token_ids;
        let mut end_tokens = [0; MAX_END_TOKENS];
        end_tokens[..eos.len()].copy_from_slice(eos);
        let params =
            CommitParams { num_end_tokens: eos.len() as u32, vocab: self.model.sizes.vocab, pad: [0; 2], end_tokens };
        vec![
            sample(gpu, self.model.kernels, io),
            commit(gpu, &params, [&b.state, &b.rows, &b.sampled, &b.counts, &b.ring]),
        ]
    }

    fn score(&self) -> Vec<Op> {
        let b = self.buffers;
        let params = LogProbsParams { vocab: self.model.sizes.vocab, stride: self.model.sizes.vocab_stride() };
        vec![log_probs(&self.model.gpu, self.model.kernels, params, [&b.rows, &b.logits, &b.log_probs])]
    }

    fn norm(&self, weights: &NormWeights, y: &wgpu::Buffer, logits: bool) -> Op {
        let (Norm::Rms { eps } | Norm::Layer { eps }) = self.model.config.norm;
        let io = NormIo {
            state: &self.buffers.state,
            x: &self.buffers.x,
            y,
            scale: &weights.scale,
            shift: weights.shift.as_ref(),
            logits,
        };
        let width = self.model.config.hidden_size as u32;
        norm(&self.model.gpu, self.model.kernels, width, self.model.sizes.hidden, eps as f32, io)
    }

    fn linear(&self, form: MatmulForm, linear: &Linear, x: Source<'_>, y: Source<'_>) -> Vec<Op> {
        self.product(form, &linear.matrix, linear.bias.as_deref(), x, y, false)
    }

    fn product(
        &self,
        form: MatmulForm,
        matrix: &Matrix,
        bias: Option<&[wgpu::Buffer]>,
        (x, x_stride4): Source<'_>,
        (y, y_stride4): Source<'_>,
        logits: bool,
    ) -> Vec<Op> {
        let blocks = if form.gated { 2 } else { 1 };
        let op = |(index, shard): (usize, &Shard)| {
            let io = MatmulIo {
                state: &self.buffers.state,
                x,
                weight: &shard.buffer,
                y,
                bias: bias.map(|shards| &shards[index]),
                columns4: shard.columns4 / blocks,
                inputs4: matrix.inputs4,
                x_stride4,
                y_stride4,
                y_first4: shard.first4 / blocks,
                logits,
            };
            matmul(&self.model.gpu, form, io)
        };
        matrix.shards.iter().enumerate().map(op).collect()
    }
}
