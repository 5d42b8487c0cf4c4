//! The ops of a step, in the order they run, and the buffers they share.

use super::parameters::Parameters;
use crate::format::spec::BlockSpec;
use crate::gpu::{Buffer, Gpu};
use crate::kernels::train::{
    Columns, NormInputsIo, NormWeightsIo, SequenceShape, column_sums, matmul_inputs, matmul_weights, norm_inputs,
    norm_weights,
};
use crate::kernels::{
    AttentionShape, CopyHidden, Extent, MatmulForm, NormForm, Op, Over, Place, Row, State, Store, copy_hidden,
};
use crate::model::{
    Adapter, Layer, Linear, Matrix, Model, NormWeights, Shard, embed_ops, inner4, norm_op, product_ops,
};

/// An op, and how many rows it takes.
pub(super) struct Step {
    op: Op,
    rows: u32,
    /// Multiplications, roughly.
    pub work: u64,
}

impl Step {
    /// The op, and the extent that it is recorded with.
    pub fn parts(&self) -> (&Op, Extent) {
        (&self.op, Extent { rows: self.rows, logit_rows: self.rows, keys: 0 })
    }
}

/// Products go over rows in tiles and read whole ones.
const TILE_ROWS: u32 = 64;

/// Buffers that are written and read again within a block.
#[derive(Clone)]
pub(super) struct Scratch {
    pub normed: Buffer,
    /// A stream of all rows, of which some are then picked.
    pub whole: Buffer,
    pub inner: Buffer,
    pub d_inner: Buffer,
    pub d_pre: Buffer,
    pub d_normed: Buffer,
    pub d_attention: Buffer,
    pub d_qkv: Buffer,
    /// The gradient of queries, keys and values before heads are normalised, and one over the root mean square of each head;
    /// empty where no block does that.
    pub d_projected: Buffer,
    pub inverses: Buffer,
    /// Attention weights, `[sequences, heads, length, length]`.
    pub weights: Buffer,
    pub d_weights: Buffer,
    /// `A x` of a LoRA.
    pub reduced: Buffer,
    pub d_reduced: Buffer,
    /// Mean and deviation of rows.
    pub stats: Buffer,
    pub zeros: Buffer,
}

/// A step under construction.
pub(super) struct Graph<'a> {
    pub model: &'a Model,
    pub gradients: &'a Parameters,
    pub sequences: u32,
    /// Rows of a micro-batch, and those whose loss is wanted at most.
    pub rows: u32,
    pub picked: u32,
    /// The state of a session that never runs: the kernels that serve ask it where to begin.
    pub state: Buffer,
    /// The tokens.
    pub batch: Buffer,
    pub scratch: Scratch,
    pub steps: Vec<Step>,
}

/// The input or the output of a product: its buffer and row stride in blocks of four.
pub(super) type Strided<'a> = (&'a Buffer, u32);

/// A buffer of `rows` rows of `width` values; products write whole tiles.
fn row_buffer(gpu: &Gpu, label: &str, rows: u32, width: u32) -> Buffer {
    gpu.storage(label, 4 * u64::from(rows.next_multiple_of(TILE_ROWS)) * u64::from(width))
}

/// Values of a row that a block's activation reads.
pub(super) fn pre_stride(block: &BlockSpec) -> u32 {
    4 * inner4(&block.mlp) * if block.mlp.gated { 2 } else { 1 }
}

/// Weights in a shard: multiplications of a row.
pub(super) fn weights(matrix: &Matrix, shard: &Shard) -> u64 {
    16 * u64::from(matrix.inputs4) * u64::from(shard.columns4)
}

impl<'a> Graph<'a> {
    pub fn new(model: &'a Model, gradients: &'a Parameters, sequences: u32, picked: u32) -> Self {
        let (gpu, sizes) = (&model.gpu, &model.sizes);
        let rows = sequences * sizes.context;
        let pre = model.config.spec.blocks.iter().map(pre_stride).max().unwrap_or(0);
        let all_heads = model.config.spec.attentions().map(|of| of.heads + 2 * of.kv_heads).max().unwrap_or(0) as u32;
        let adapters = model.heads.iter().flat_map(|heads| &heads.adapters).flatten();
        let reduced = adapters.map(Adapter::width).max().unwrap_or(4);
        let of = |label: &str, width: u32| row_buffer(gpu, label, rows, width);
        let weights = sizes.heads * sizes.context;
        let scratch = Scratch {
            normed: of("normed", sizes.hidden),
            whole: of("whole", sizes.hidden),
            inner: of("inner", sizes.intermediate),
            d_inner: of("d inner", sizes.intermediate),
            d_pre: of("d pre", pre),
            d_normed: of("d normed", sizes.hidden),
            d_attention: of("d attention", sizes.attention_out),
            d_qkv: of("d qkv", sizes.qkv),
            d_projected: of("d projected", if sizes.qk_norm { sizes.qkv } else { 0 }),
            inverses: of("inverses", if sizes.qk_norm { all_heads } else { 0 }),
            weights: of("weights", weights),
            d_weights: of("d weights", weights),
            reduced: of("reduced", reduced),
            d_reduced: of("d reduced", reduced),
            stats: of("stats", 2),
            zeros: of("zeros", sizes.hidden),
        };
        let batch = gpu.storage("batch", (rows as usize * size_of::<Row>()) as u64);
        let state = gpu.storage("state", size_of::<State>() as u64);
        Self { model, gradients, sequences, rows, picked, state, batch, scratch, steps: Vec::new() }
    }

    pub fn push(&mut self, op: Op, rows: u32) {
        // Most that is no product goes a few times over the stream.
        self.push_work(op, rows, u64::from(self.model.sizes.hidden) * 8);
    }

    /// An op with so many multiplications a row.
    pub fn push_work(&mut self, op: Op, rows: u32, work: u64) {
        self.steps.push(Step { op, rows, work: u64::from(rows) * work });
    }

    pub fn rows_of(&self, label: &str, rows: u32, width: u32) -> Buffer {
        row_buffer(&self.model.gpu, label, rows, width)
    }

    /// A stream of all rows, `[rows, hidden]`.
    pub fn stream(&self, label: &str) -> Buffer {
        self.rows_of(label, self.rows, self.model.sizes.hidden)
    }

    /// The sizes of a layer's attention within sequences.
    pub fn sequence_shape(&self, layer: &Layer) -> SequenceShape {
        let AttentionShape { heads, kv_heads, head_dim, context, window, .. } = self.model.attention_shape(layer);
        SequenceShape { sequences: self.sequences, length: context, heads, kv_heads, head_dim, window }
    }

    pub fn embed(&mut self, table: &Matrix, batch: &Buffer, x: &Buffer) {
        for op in embed_ops(self.model, table, batch, x) {
            self.push(op, self.rows);
        }
    }

    pub fn norm(&mut self, weights: &NormWeights, x: &Buffer, y: &Buffer, rows: u32) {
        let op = norm_op(self.model, &self.state, weights, x, y, Over::Rows);
        self.push(op, rows);
    }

    pub fn linear(&mut self, form: MatmulForm, linear: &Linear, x: Strided<'_>, y: Strided<'_>, rows: u32) {
        self.product(form, &linear.matrix, linear.bias.as_deref(), x, y, rows);
    }

    pub fn product(
        &mut self,
        form: MatmulForm,
        matrix: &Matrix,
        bias: Option<&[Buffer]>,
        x: Strided<'_>,
        y: Strided<'_>,
        rows: u32,
    ) {
        let ops = product_ops(self.model, &self.state, form, matrix, bias, x, y, Over::Rows);
        for (op, shard) in ops.into_iter().zip(&matrix.shards) {
            self.push_work(op, rows, weights(matrix, shard));
        }
    }

    /// `y = x`, rows of the stream.
    pub fn copy(&mut self, x: &Buffer, y: &Buffer, rows: u32) {
        self.copy_hidden(x, y, Store::Set, rows);
    }

    /// `y += x`
    pub fn add(&mut self, x: &Buffer, y: &Buffer, rows: u32) {
        self.copy_hidden(x, y, Store::Add, rows);
    }

    pub fn zero(&mut self, y: &Buffer, rows: u32) {
        let zeros = self.scratch.zeros.clone();
        self.copy_hidden(&zeros, y, Store::Set, rows);
    }

    fn copy_hidden(&mut self, x: &Buffer, y: &Buffer, store: Store, rows: u32) {
        let io = CopyHidden { x: (x, Place::Rows), y: (y, Place::Rows), weight: 1.0, store, over: Over::Rows };
        let op = copy_hidden(&self.model.gpu, self.model.sizes.hidden, self.rows, &self.state, io);
        self.push(op, rows);
    }

    /// Gradients of a product's weights and bias, where they are trained, and of its input, where it is wanted.
    pub fn linear_back(
        &mut self,
        linear: &Linear,
        rows: u32,
        x: Strided<'_>,
        dy: Columns<'_>,
        dx: Option<(Columns<'_>, Store)>,
    ) {
        let bias = linear.bias.iter().flatten().next();
        if let Some(gradient) = bias.and_then(|bias| self.gradients.gradient(bias)) {
            let columns4 = linear.matrix.shards[0].columns4;
            let op = column_sums(&self.model.gpu, rows, columns4, dy, gradient);
            self.push(op, rows);
        }
        self.matrix_back(&linear.matrix, rows, x, dy, dx);
    }

    /// [`Graph::linear_back`] without a bias.
    pub fn matrix_back(
        &mut self,
        matrix: &Matrix,
        rows: u32,
        (x, x_stride4): Strided<'_>,
        dy: Columns<'_>,
        dx: Option<(Columns<'_>, Store)>,
    ) {
        let gpu = &self.model.gpu;
        for (index, shard) in matrix.shards.iter().enumerate() {
            let sizes = [rows, shard.columns4, matrix.inputs4];
            let dy = Columns { first4: dy.first4 + shard.first4, ..dy };
            if let Some(gradient) = self.gradients.gradient(&shard.buffer) {
                let op = matmul_weights(gpu, sizes, Columns::whole(x, x_stride4), dy, gradient);
                self.push_work(op, rows, weights(matrix, shard));
            }
            if let Some((dx, store)) = dx {
                let store = if index > 0 { Store::Add } else { store };
                let op = matmul_inputs(gpu, shard.format, store, sizes, dy, &shard.buffer, dx);
                self.push_work(op, rows, weights(matrix, shard));
            }
        }
    }

    /// Adds to `dx` the gradient of a norm's input `x`, from that of its output in the scratch; and the gradients of its
    /// weights, where they are trained.
    pub fn norm_back(&mut self, weights: &NormWeights, x: &Buffer, dx: &Buffer, rows: u32) {
        let s = self.scratch.clone();
        self.norm_back_from(weights, x, &s.d_normed, dx, rows);
    }

    /// [`Graph::norm_back`] from the gradient `dy`.
    pub fn norm_back_from(&mut self, weights: &NormWeights, x: &Buffer, dy: &Buffer, dx: &Buffer, rows: u32) {
        let (gpu, sizes) = (&self.model.gpu, &self.model.sizes);
        let (form, eps) = (NormForm::with_shift(weights.norm.is_layer()), weights.norm.eps());
        let width = self.model.config.hidden_size as u32;
        let stats = self.scratch.stats.clone();
        let io = NormInputsIo { x, dy, scale: &weights.scale, dx, stats: &stats };
        let op = norm_inputs(gpu, self.model.kernels, form, rows, width, sizes.hidden, eps as f32, io);
        self.push(op, rows);
        if let Some(dscale) = self.gradients.gradient(&weights.scale) {
            let dshift = weights.shift.as_ref().and_then(|shift| self.gradients.gradient(shift));
            let io = NormWeightsIo { x, dy, stats: &stats, dscale, dshift };
            let op = norm_weights(gpu, rows, width, sizes.hidden, io);
            self.push(op, rows);
        }
    }
}
