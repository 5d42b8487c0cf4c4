//! A block of the backbone's structure over whole sequences, forward and backward.

use super::graph::{Graph, pre_stride};
use crate::gpu::Buffer;
use crate::kernels::train::{
    ActivateForm, ActivateInputsIo, ActivateIo, Columns, HeadNormInputsIo, HeadNormWeightsIo, HeadsOf, LoraInputsIo,
    LoraWeightsIo, PickIo, SequenceShape, Turn, activate, activate_inputs, causal_gather, causal_scatter,
    causal_scores, causal_softmax, causal_softmax_inputs, gather_rows, head_norm_inputs, head_norm_weights,
    lora_inputs, lora_weights, rope_rows, scatter_rows,
};
use crate::kernels::{HeadNormIo, HeadNormParams, LoraIo, LoraParams, Store, head_norm, lora};
use crate::model::{Adapter, Layer, accumulate, activation, inner4, linear_form};

/// What the backward pass needs of a block's forward pass. Norms, attention weights and what the MLP's activation gives
/// are computed again.
pub(super) struct Block<'a> {
    layer: &'a Layer,
    adapter: Option<&'a Adapter>,
    /// The input of the block, `[rows, hidden]`.
    input: Buffer,
    /// Queries, keys and values before heads are normalised, where they are.
    projected: Option<Buffer>,
    /// Queries and keys rotated.
    qkv: Buffer,
    attention_out: Buffer,
    /// The stream between attention and MLP; of the picked rows only, if there are such.
    middle: Buffer,
    /// The input of the MLP's activation.
    pre: Buffer,
    picked: Option<Picked>,
}

/// The rows whose output is wanted.
#[derive(Clone)]
pub(super) struct Picked {
    pub picks: Buffer,
    /// The picked rows of the input, which the MLP of a parallel residual reads.
    pub input: Buffer,
}

/// Buffers that a block writes.
#[derive(Clone)]
pub(super) struct Saved {
    projected: Option<Buffer>,
    qkv: Buffer,
    attention_out: Buffer,
    middle: Buffer,
    pre: Buffer,
}

impl<'a> Graph<'a> {
    /// New buffers for a layer whose MLP works on `rows` rows.
    pub fn saved(&mut self, layer: &Layer, rows: u32) -> Saved {
        let shape = self.model.attention_shape(layer);
        let widths = [shape.qkv_stride(), shape.out_stride(), pre_stride(&layer.spec)];
        self.saved_of(widths, layer.mixer.qk_norm.is_some(), rows)
    }

    /// New buffers for any block of the backbone, one after the other.
    pub fn saved_for_all(&mut self) -> Saved {
        let sizes = self.model.sizes;
        let pre = self.model.config.spec.blocks.iter().map(pre_stride).max().unwrap_or(0);
        self.saved_of([sizes.qkv, sizes.attention_out, pre], sizes.qk_norm, self.rows)
    }

    fn saved_of(&mut self, [qkv, out, pre]: [u32; 3], qk_norm: bool, rows: u32) -> Saved {
        let hidden = self.model.sizes.hidden;
        Saved {
            projected: qk_norm.then(|| self.rows_of("saved projected", self.rows, qkv)),
            qkv: self.rows_of("saved qkv", self.rows, qkv),
            attention_out: self.rows_of("saved attention", self.rows, out),
            middle: self.rows_of("saved middle", rows, hidden),
            pre: self.rows_of("saved mlp", rows, pre),
        }
    }

    /// The block's output for `input`, to `output`; of the picked rows only, if there are such.
    pub fn block(
        &mut self,
        layer: &'a Layer,
        adapter: Option<&'a Adapter>,
        input: &Buffer,
        output: &Buffer,
        saved: &Saved,
        picked: Option<Picked>,
    ) -> Block<'a> {
        let Saved { projected, qkv, attention_out, middle, pre } = saved.clone();
        let projected = projected.filter(|_| layer.mixer.qk_norm.is_some());
        let block = Block { layer, adapter, input: input.clone(), projected, qkv, attention_out, middle, pre, picked };
        self.attention(&block);
        let s = self.scratch.clone();
        let (hidden4, rows) = (self.model.sizes.hidden / 4, self.mlp_rows(&block));
        self.norm(&layer.mlp_norm, self.mlp_source(&block), &s.normed, rows);
        let x = (&s.normed, hidden4);
        let form = linear_form(self.model, &layer.mlp_in);
        self.linear(form, &layer.mlp_in, x, (&block.pre, pre_stride(&layer.spec) / 4), rows);
        self.activated(&block);
        self.copy(&block.middle, output, rows);
        let form = accumulate(linear_form(self.model, &layer.mlp_out));
        let x = (&s.inner, inner4(&layer.spec.mlp));
        self.linear(form, &layer.mlp_out, x, (output, hidden4), rows);
        block
    }

    fn mlp_rows(&self, block: &Block<'_>) -> u32 {
        if block.picked.is_some() { self.picked } else { self.rows }
    }

    /// The input of the MLP's norm.
    fn mlp_source<'b>(&self, block: &'b Block<'_>) -> &'b Buffer {
        match (&block.picked, block.layer.spec.parallel) {
            (_, false) => &block.middle,
            (Some(picked), true) => &picked.input,
            (None, true) => &block.input,
        }
    }

    fn activate_form(&self, block: &Block<'_>) -> ActivateForm {
        let (rows, mlp) = (self.mlp_rows(block), &block.layer.spec.mlp);
        ActivateForm { activation: activation(mlp), gated: mlp.gated, rows, inner4: inner4(mlp) }
    }

    /// The MLP's activations from what was saved, to the scratch.
    fn activated(&mut self, block: &Block<'_>) {
        let form = self.activate_form(block);
        let op = activate(&self.model.gpu, form, ActivateIo { pre: &block.pre, out: &self.scratch.inner });
        self.push(op, form.rows);
    }

    fn attention(&mut self, block: &Block<'a>) {
        let (s, rows, hidden4) = (self.scratch.clone(), self.rows, self.model.sizes.hidden / 4);
        let shape = self.sequence_shape(block.layer);
        let (attention, qkv4) = (block.layer.attention(), shape.qkv_stride() / 4);
        let out_stride = shape.heads * shape.head_dim;
        let projected = block.projected.as_ref().unwrap_or(&block.qkv);
        self.norm(&block.layer.attention_norm, &block.input, &s.normed, rows);
        let form = linear_form(self.model, &block.layer.mixer.input);
        let y = (projected, qkv4);
        self.linear(form, &block.layer.mixer.input, (&s.normed, hidden4), y, rows);
        if let Some(adapter) = block.adapter {
            self.reduced(adapter);
            let params = lora_params(adapter, qkv4);
            let (state, b, starts) = (&self.state, &adapter.b, &adapter.starts);
            let io = LoraIo { state, rows: &self.batch, t: &s.reduced, b, starts, y: projected };
            let op = lora(&self.model.gpu, params, io);
            self.push(op, rows);
        }
        if let (Some(params), Some(scale)) = (self.head_norm_params(block.layer), &block.layer.mixer.qk_norm) {
            let op = head_norm(&self.model.gpu, params, HeadNormIo { x: projected, scale, y: &block.qkv });
            self.push(op, rows);
        }
        let (rope, rotation) = (&attention.rope, self.model.rotation(&attention.rope));
        if rope.rotary_dim > 0 {
            let op = rope_rows(&self.model.gpu, shape, rope.rotary_dim as u32, Turn::Forward, &block.qkv, rotation);
            self.push(op, rows);
        }
        self.weights(block);
        let gather = {
            let (gpu, out) = (&self.model.gpu, heads_of(&block.attention_out, out_stride, 0));
            causal_gather(gpu, shape, 1.0, &s.weights, values(shape, &block.qkv), out)
        };
        self.push_work(gather, rows, attention_work(shape));
        let whole = if block.picked.is_some() { &s.whole } else { &block.middle };
        self.copy(&block.input, whole, rows);
        let form = accumulate(linear_form(self.model, &block.layer.mixer.out));
        let x = (&block.attention_out, out_stride / 4);
        self.linear(form, &block.layer.mixer.out, x, (whole, hidden4), rows);
        if let Some(picked) = &block.picked {
            self.gather(&picked.picks, whole, &block.middle);
            if block.layer.spec.parallel {
                self.gather(&picked.picks, &block.input, &picked.input);
            }
        }
    }

    /// `A x` of the normalised input in the scratch, to the scratch.
    fn reduced(&mut self, adapter: &Adapter) {
        let s = self.scratch.clone();
        let form = crate::model::plain_form(self.model, &adapter.a);
        let (x, y) = ((&s.normed, self.model.sizes.hidden / 4), (&s.reduced, adapter.width() / 4));
        self.product(form, &adapter.a, None, x, y, self.rows);
    }

    /// The attention weights of what was saved, to the scratch.
    fn weights(&mut self, block: &Block<'_>) {
        let (gpu, m, shape) = (&self.model.gpu, &self.scratch.weights, self.sequence_shape(block.layer));
        let scale = block.layer.attention().scale;
        let scores = causal_scores(gpu, shape, scale, queries(shape, &block.qkv), keys(shape, &block.qkv), m);
        let softmax = causal_softmax(gpu, self.model.kernels, shape, m);
        self.push_work(scores, self.rows, attention_work(shape));
        self.push(softmax, self.rows);
    }

    /// How the heads of a layer are normalised, where they are.
    fn head_norm_params(&self, layer: &Layer) -> Option<HeadNormParams> {
        let attention = layer.attention();
        let (shape, width) = (self.model.attention_shape(layer), attention.head_dim as u32);
        attention.qk_norm.map(|norm| HeadNormParams::new(shape, width, norm.eps as f32))
    }

    /// The way back from the gradient of a block's output to that of its input, in `d`. With picked rows the former is
    /// `picked_d`, which is changed too.
    pub fn block_back(&mut self, block: &Block<'a>, d: &Buffer, picked_d: Option<&Buffer>) {
        let parallel = block.layer.spec.parallel;
        let rows = self.mlp_rows(block);
        let dy = picked_d.unwrap_or(d);
        self.mlp_back(block, dy);
        let (mlp_norm, source) = (&block.layer.mlp_norm, self.mlp_source(block));
        if !parallel {
            self.norm_back(mlp_norm, source, dy, rows);
        }
        let picks = block.picked.as_ref().map(|picked| &picked.picks);
        if let Some(picks) = picks {
            self.zero(d, self.rows);
            self.scatter(picks, dy, d);
        }
        self.out_back(block, d);
        if parallel {
            // Both branches read the input, so the MLP's share may join the gradient only now.
            if picks.is_some() {
                self.zero(dy, rows);
            }
            self.norm_back(mlp_norm, source, dy, rows);
            if let Some(picks) = picks {
                self.scatter(picks, dy, d);
            }
        }
        self.attention_back(block, d);
    }

    /// The way back to the gradient of the MLP norm's output, in the scratch.
    fn mlp_back(&mut self, block: &Block<'a>, dy: &Buffer) {
        let s = self.scratch.clone();
        let (rows, mlp) = (self.mlp_rows(block), &block.layer.spec.mlp);
        let (hidden4, inner4) = (self.model.sizes.hidden / 4, inner4(mlp));
        let pre4 = pre_stride(&block.layer.spec) / 4;
        self.activated(block);
        let dx = Some((Columns::whole(&s.d_inner, inner4), Store::Set));
        self.linear_back(&block.layer.mlp_out, rows, (&s.inner, inner4), Columns::whole(dy, hidden4), dx);
        let io = ActivateInputsIo { pre: &block.pre, dout: &s.d_inner, dpre: &s.d_pre };
        let op = activate_inputs(&self.model.gpu, self.activate_form(block), io);
        self.push(op, rows);
        self.norm(&block.layer.mlp_norm, self.mlp_source(block), &s.normed, rows);
        let dx = Some((Columns::whole(&s.d_normed, hidden4), Store::Set));
        self.linear_back(&block.layer.mlp_in, rows, (&s.normed, hidden4), Columns::whole(&s.d_pre, pre4), dx);
    }

    /// The way back to the gradient of what attention gives, in the scratch.
    fn out_back(&mut self, block: &Block<'a>, d: &Buffer) {
        let out4 = self.model.attention_shape(block.layer).out_stride() / 4;
        let s = self.scratch.clone();
        let dx = Some((Columns::whole(&s.d_attention, out4), Store::Set));
        let dy = Columns::whole(d, self.model.sizes.hidden / 4);
        self.linear_back(&block.layer.mixer.out, self.rows, (&block.attention_out, out4), dy, dx);
    }

    fn attention_back(&mut self, block: &Block<'a>, d: &Buffer) {
        let s = self.scratch.clone();
        let (gpu, set, rows) = (&self.model.gpu, self.model.kernels, self.rows);
        let (shape, attention) = (self.sequence_shape(block.layer), block.layer.attention());
        let (hidden4, qkv4) = (self.model.sizes.hidden / 4, shape.qkv_stride() / 4);
        self.weights(block);
        let d_out = heads_of(&s.d_attention, shape.heads * shape.head_dim, 0);
        let [q, k, v] = [queries(shape, &block.qkv), keys(shape, &block.qkv), values(shape, &block.qkv)];
        let [dq, dk, dv] = [queries(shape, &s.d_qkv), keys(shape, &s.d_qkv), values(shape, &s.d_qkv)];
        let (rotary, rotation) = (attention.rope.rotary_dim as u32, self.model.rotation(&attention.rope));
        let ops = [
            causal_scores(gpu, shape, 1.0, d_out, v, &s.d_weights),
            causal_softmax_inputs(gpu, set, shape, &s.weights, &s.d_weights),
            causal_scatter(gpu, shape, 1.0, &s.weights, d_out, dv),
            causal_gather(gpu, shape, attention.scale, &s.d_weights, k, dq),
            causal_scatter(gpu, shape, attention.scale, &s.d_weights, q, dk),
        ];
        let back = (rotary > 0).then(|| rope_rows(gpu, shape, rotary, Turn::Back, &s.d_qkv, rotation));
        let work = attention_work(shape);
        ops.into_iter().chain(back).for_each(|op| self.push_work(op, rows, work));
        let d_projected = self.head_norm_back(block);
        self.norm(&block.layer.attention_norm, &block.input, &s.normed, rows);
        let (x, dy) = ((&s.normed, hidden4), Columns::whole(&d_projected, qkv4));
        let d_normed = Columns::whole(&s.d_normed, hidden4);
        self.linear_back(&block.layer.mixer.input, rows, x, dy, Some((d_normed, Store::Set)));
        if let Some(adapter) = block.adapter {
            self.reduced(adapter);
            let params = lora_params(adapter, qkv4);
            if let Some(gradient) = self.gradients.gradient(&adapter.b).cloned() {
                let io = LoraWeightsIo { t: &s.reduced, dy: &d_projected, starts: &adapter.starts, db: &gradient };
                let op = lora_weights(gpu, rows, params, io);
                self.push(op, rows);
            }
            let io = LoraInputsIo { dy: &d_projected, b: &adapter.b, starts: &adapter.starts, dt: &s.d_reduced };
            let op = lora_inputs(gpu, rows, params, io);
            self.push(op, rows);
            let dt = Columns::whole(&s.d_reduced, adapter.width() / 4);
            self.matrix_back(&adapter.a, rows, x, dt, Some((d_normed, Store::Add)));
        }
        self.norm_back(&block.layer.attention_norm, &block.input, d, rows);
    }

    /// The way back from the gradient of what attention takes to that of what the product gives: through the norms of heads,
    /// where there are such. Returns where it lies.
    fn head_norm_back(&mut self, block: &Block<'a>) -> Buffer {
        let (s, gpu, rows) = (self.scratch.clone(), &self.model.gpu, self.rows);
        let norm =
            self.head_norm_params(block.layer).zip(block.layer.mixer.qk_norm.as_ref()).zip(block.projected.as_ref());
        let Some(((params, scale), x)) = norm else { return s.d_qkv };
        let (dy, dx, inverses) = (&s.d_qkv, &s.d_projected, &s.inverses);
        self.push(head_norm_inputs(gpu, params, rows, HeadNormInputsIo { x, dy, scale, dx, inverses }), rows);
        if let Some(dscale) = self.gradients.gradient(scale) {
            self.push(head_norm_weights(gpu, params, rows, HeadNormWeightsIo { x, dy, inverses, dscale }), rows);
        }
        s.d_projected
    }

    fn gather(&mut self, picks: &Buffer, x: &Buffer, y: &Buffer) {
        let op = gather_rows(&self.model.gpu, self.picked, self.model.sizes.hidden / 4, PickIo { picks, x, y });
        self.push(op, self.picked);
    }

    fn scatter(&mut self, picks: &Buffer, x: &Buffer, y: &Buffer) {
        let op = scatter_rows(&self.model.gpu, self.picked, self.model.sizes.hidden / 4, PickIo { picks, x, y });
        self.push(op, self.picked);
    }
}

/// Multiplications of a row with all keys.
fn attention_work(shape: SequenceShape) -> u64 {
    u64::from(shape.heads * shape.head_dim) * u64::from(shape.length)
}

fn lora_params(adapter: &Adapter, columns4: u32) -> LoraParams {
    LoraParams { columns4, rank: adapter.rank, t_stride: adapter.width() }
}

fn heads_of(buffer: &Buffer, stride: u32, first: u32) -> HeadsOf<'_> {
    HeadsOf { buffer, stride, first }
}

fn queries(shape: SequenceShape, qkv: &Buffer) -> HeadsOf<'_> {
    heads_of(qkv, shape.qkv_stride(), 0)
}

fn keys(shape: SequenceShape, qkv: &Buffer) -> HeadsOf<'_> {
    heads_of(qkv, shape.qkv_stride(), shape.heads * shape.head_dim)
}

fn values(shape: SequenceShape, qkv: &Buffer) -> HeadsOf<'_> {
    heads_of(qkv, shape.qkv_stride(), (shape.heads + shape.kv_heads) * shape.head_dim)
}
