//! A block of the backbone's structure over whole sequences, forward and backward.

use super::graph::Graph;
use crate::kernels::train::{
    Columns, HeadsOf, activate, activate_inputs, causal_gather, causal_scatter, causal_scores, causal_softmax,
    causal_softmax_inputs, gather_rows, lora_inputs, lora_weights, rope_rows, scatter_rows,
};
use crate::kernels::{LoraIo, LoraParams, lora};
use crate::model::{Adapter, Layer, accumulate, linear_form};

/// What the backward pass needs of a block's forward pass. Norms, attention weights and what the MLP's activation gives
/// are computed again.
pub(super) struct Block<'a> {
    layer: &'a Layer,
    adapter: Option<&'a Adapter>,
    /// What the block reads, `[rows, hidden]`.
    input: wgpu::Buffer,
    /// Queries and keys rotated.
    qkv: wgpu::Buffer,
    attention_out: wgpu::Buffer,
    /// The stream between attention and MLP; of the picked rows only, if there are such.
    middle: wgpu::Buffer,
    /// What the MLP's activation reads.
    pre: wgpu::Buffer,
    picked: Option<Picked>,
}

/// The rows whose output is wanted.
#[derive(Clone)]
pub(super) struct Picked {
    pub picks: wgpu::Buffer,
    /// The picked rows of the input, which the MLP of a parallel residual reads.
    pub input: wgpu::Buffer,
}

/// Buffers that a block writes.
#[derive(Clone)]
pub(super) struct Saved {
    qkv: wgpu::Buffer,
    attention_out: wgpu::Buffer,
    middle: wgpu::Buffer,
    pre: wgpu::Buffer,
}

impl<'a> Graph<'a> {
    /// New buffers for a block whose MLP works on `rows` rows.
    pub fn saved(&mut self, rows: u32) -> Saved {
        let sizes = &self.model.sizes;
        let (qkv, out) = (sizes.attention.qkv_stride(), sizes.attention.out_stride());
        let (hidden, pre) = (sizes.hidden, self.pre_stride());
        Saved {
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
        [input, output]: [&wgpu::Buffer; 2],
        saved: &Saved,
        picked: Option<Picked>,
    ) -> Block<'a> {
        let Saved { qkv, attention_out, middle, pre } = saved.clone();
        let block = Block { layer, adapter, input: input.clone(), qkv, attention_out, middle, pre, picked };
        self.attention(&block);
        let s = self.scratch.clone();
        let (hidden4, rows) = (self.model.sizes.hidden / 4, self.mlp_rows(&block));
        self.norm(&layer.mlp_norm, self.mlp_source(&block), &s.normed, rows);
        let x = (&s.normed, hidden4);
        let form = linear_form(self.model, &layer.mlp_in);
        self.linear(form, &layer.mlp_in, x, (&block.pre, self.pre_stride() / 4), rows);
        self.activated(&block);
        self.copy(&block.middle, output, rows);
        let form = accumulate(linear_form(self.model, &layer.mlp_out));
        let x = (&s.inner, self.model.sizes.intermediate / 4);
        self.linear(form, &layer.mlp_out, x, (output, hidden4), rows);
        block
    }

    fn mlp_rows(&self, block: &Block<'_>) -> u32 {
        if block.picked.is_some() { self.picked } else { self.rows }
    }

    /// What the MLP's norm reads.
    fn mlp_source<'b>(&self, block: &'b Block<'_>) -> &'b wgpu::Buffer {
        match (&block.picked, self.model.config.parallel_residual) {
            (_, false) => &block.middle,
            (Some(picked), true) => &picked.input,
            (None, true) => &block.input,
        }
    }

    /// The MLP's activations from what was saved, to the scratch.
    fn activated(&mut self, block: &Block<'_>) {
        let (activation, gated) = self.activation();
        let (rows, inner4) = (self.mlp_rows(block), self.model.sizes.intermediate / 4);
        let op = activate(&self.model.gpu, activation, gated, rows, inner4, &block.pre, &self.scratch.inner);
        self.push(op, rows);
    }

    fn attention(&mut self, block: &Block<'a>) {
        let (s, rows, hidden4) = (self.scratch.clone(), self.rows, self.model.sizes.hidden / 4);
        let attention = self.model.sizes.attention;
        self.norm(&block.layer.attention_norm, &block.input, &s.normed, rows);
        let form = linear_form(self.model, &block.layer.qkv);
        let y = (&block.qkv, attention.qkv_stride() / 4);
        self.linear(form, &block.layer.qkv, (&s.normed, hidden4), y, rows);
        if let Some(adapter) = block.adapter {
            self.reduced(adapter);
            let params = self.lora_params(adapter);
            let (state, b, starts) = (&self.state, &adapter.b, &adapter.starts);
            let io = LoraIo { state, rows: &self.batch, t: &s.reduced, b, starts, y: &block.qkv };
            let op = lora(&self.model.gpu, params, io);
            self.push(op, rows);
        }
        let rope = rope_rows(
            &self.model.gpu,
            self.shape,
            self.model.config.rope.rotary_dim as u32,
            false,
            &block.qkv,
            &self.model.rotation,
        );
        self.push(rope, rows);
        self.weights(block);
        let gather = {
            let (gpu, out) = (&self.model.gpu, self.heads_of(&block.attention_out, attention.out_stride(), 0));
            causal_gather(gpu, self.shape, 1.0, &s.weights, self.values(&block.qkv), out)
        };
        self.push_work(gather, rows, self.attention_work());
        let whole = if block.picked.is_some() { &s.whole } else { &block.middle };
        self.copy(&block.input, whole, rows);
        let form = accumulate(linear_form(self.model, &block.layer.out));
        let x = (&block.attention_out, attention.out_stride() / 4);
        self.linear(form, &block.layer.out, x, (whole, hidden4), rows);
        if let Some(picked) = &block.picked {
            self.gather(&picked.picks, whole, &block.middle);
            if self.model.config.parallel_residual {
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

    fn lora_params(&self, adapter: &Adapter) -> LoraParams {
        let columns4 = self.model.sizes.attention.qkv_stride() / 4;
        LoraParams { columns4, rank: adapter.rank, t_stride: adapter.width() }
    }

    /// The attention weights of what was saved, to the scratch.
    fn weights(&mut self, block: &Block<'_>) {
        let gpu = &self.model.gpu;
        let m = &self.scratch.weights;
        let scores = causal_scores(gpu, self.shape, self.scale(), self.queries(&block.qkv), self.keys(&block.qkv), m);
        let softmax = causal_softmax(gpu, self.model.kernels, self.shape, m);
        let work = self.attention_work();
        self.push_work(scores, self.rows, work);
        self.push(softmax, self.rows);
    }

    /// Multiplications of a row with all keys.
    fn attention_work(&self) -> u64 {
        u64::from(self.model.sizes.attention.out_stride()) * u64::from(self.shape.length)
    }

    fn scale(&self) -> f32 {
        1.0 / (self.model.config.head_dim as f32).sqrt()
    }

    fn heads_of<'b>(&self, buffer: &'b wgpu::Buffer, stride: u32, first: u32) -> HeadsOf<'b> {
        HeadsOf { buffer, stride, first }
    }

    fn queries<'b>(&self, qkv: &'b wgpu::Buffer) -> HeadsOf<'b> {
        self.heads_of(qkv, self.model.sizes.attention.qkv_stride(), 0)
    }

    fn keys<'b>(&self, qkv: &'b wgpu::Buffer) -> HeadsOf<'b> {
        let shape = self.model.sizes.attention;
        self.heads_of(qkv, shape.qkv_stride(), shape.heads * shape.head_dim)
    }

    fn values<'b>(&self, qkv: &'b wgpu::Buffer) -> HeadsOf<'b> {
        let shape = self.model.sizes.attention;
        self.heads_of(qkv, shape.qkv_stride(), (shape.heads + shape.kv_heads) * shape.head_dim)
    }

    /// From the gradient of a block's output to that of its input, in `d`. With picked rows the former is `picked_d`,
    /// which is changed too.
    pub fn block_back(&mut self, block: &Block<'a>, d: &wgpu::Buffer, picked_d: Option<&wgpu::Buffer>) {
        let parallel = self.model.config.parallel_residual;
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

    /// To the gradient of the MLP norm's output, in the scratch.
    fn mlp_back(&mut self, block: &Block<'a>, dy: &wgpu::Buffer) {
        let s = self.scratch.clone();
        let (rows, sizes) = (self.mlp_rows(block), self.model.sizes);
        let (hidden4, inner4, pre4) = (sizes.hidden / 4, sizes.intermediate / 4, self.pre_stride() / 4);
        self.activated(block);
        let dx = Some((Columns::whole(&s.d_inner, inner4), false));
        self.linear_back(&block.layer.mlp_out, rows, (&s.inner, inner4), Columns::whole(dy, hidden4), dx);
        let (activation, gated) = self.activation();
        let (pre, dout, dpre) = (&block.pre, &s.d_inner, &s.d_pre);
        let op = activate_inputs(&self.model.gpu, activation, gated, rows, inner4, pre, dout, dpre);
        self.push(op, rows);
        self.norm(&block.layer.mlp_norm, self.mlp_source(block), &s.normed, rows);
        let dx = Some((Columns::whole(&s.d_normed, hidden4), false));
        self.linear_back(&block.layer.mlp_in, rows, (&s.normed, hidden4), Columns::whole(&s.d_pre, pre4), dx);
    }

    /// To the gradient of what attention gives, in the scratch.
    fn out_back(&mut self, block: &Block<'a>, d: &wgpu::Buffer) {
        let out4 = self.model.sizes.attention.out_stride() / 4;
        let s = self.scratch.clone();
        let dx = Some((Columns::whole(&s.d_attention, out4), false));
        let dy = Columns::whole(d, self.model.sizes.hidden / 4);
        self.linear_back(&block.layer.out, self.rows, (&block.attention_out, out4), dy, dx);
    }

    fn attention_back(&mut self, block: &Block<'a>, d: &wgpu::Buffer) {
        let s = self.scratch.clone();
        let (gpu, set, shape, rows) = (&self.model.gpu, self.model.kernels, self.shape, self.rows);
        let attention = self.model.sizes.attention;
        let (hidden4, qkv4) = (self.model.sizes.hidden / 4, attention.qkv_stride() / 4);
        self.weights(block);
        let d_out = self.heads_of(&s.d_attention, attention.out_stride(), 0);
        let [q, k, v] = [self.queries(&block.qkv), self.keys(&block.qkv), self.values(&block.qkv)];
        let [dq, dk, dv] = [self.queries(&s.d_qkv), self.keys(&s.d_qkv), self.values(&s.d_qkv)];
        let rotary = self.model.config.rope.rotary_dim as u32;
        let ops = [
            causal_scores(gpu, shape, 1.0, d_out, v, &s.d_weights),
            causal_softmax_inputs(gpu, set, shape, &s.weights, &s.d_weights),
            causal_scatter(gpu, shape, 1.0, &s.weights, d_out, dv),
            causal_gather(gpu, shape, self.scale(), &s.d_weights, k, dq),
            causal_scatter(gpu, shape, self.scale(), &s.d_weights, q, dk),
            rope_rows(gpu, shape, rotary, true, &s.d_qkv, &self.model.rotation),
        ];
        let work = self.attention_work();
        ops.into_iter().for_each(|op| self.push_work(op, rows, work));
        self.norm(&block.layer.attention_norm, &block.input, &s.normed, rows);
        let (x, dy) = ((&s.normed, hidden4), Columns::whole(&s.d_qkv, qkv4));
        let d_normed = Columns::whole(&s.d_normed, hidden4);
        self.linear_back(&block.layer.qkv, rows, x, dy, Some((d_normed, false)));
        if let Some(adapter) = block.adapter {
            self.reduced(adapter);
            let params = self.lora_params(adapter);
            if let Some(gradient) = self.gradients.of(&adapter.b).cloned() {
                let op = lora_weights(gpu, rows, params, &s.reduced, &s.d_qkv, &adapter.starts, &gradient);
                self.push(op, rows);
            }
            let op = lora_inputs(gpu, rows, params, &s.d_qkv, &adapter.b, &adapter.starts, &s.d_reduced);
            self.push(op, rows);
            let dt = Columns::whole(&s.d_reduced, adapter.width() / 4);
            self.matrix_back(&adapter.a, rows, x, dt, Some((d_normed, true)));
        }
        self.norm_back(&block.layer.attention_norm, &block.input, d, rows);
    }

    fn gather(&mut self, picks: &wgpu::Buffer, x: &wgpu::Buffer, y: &wgpu::Buffer) {
        let op = gather_rows(&self.model.gpu, self.picked, self.model.sizes.hidden / 4, picks, x, y);
        self.push(op, self.picked);
    }

    fn scatter(&mut self, picks: &wgpu::Buffer, x: &wgpu::Buffer, y: &wgpu::Buffer) {
        let op = scatter_rows(&self.model.gpu, self.picked, self.model.sizes.hidden / 4, picks, x, y);
        self.push(op, self.picked);
    }
}
