//! Heads over whole sequences: what they read, their layers, their losses, and the way back.

use super::Target;
use super::block::{Block, Picked};
use super::graph::{Graph, weights};
use super::teacher::{Labels, Teacher};
use crate::gpu::Buffer;
use crate::kernels::Store;
use crate::kernels::train::{
    Against, Columns, LossInputsIo, LossScanIo, LossShape, LossSummaryIo, MixDotIo, MixIo, MixSoftmaxInputsIo,
    Weighing, loss_factors, loss_inputs, loss_scan, loss_summary, matmul_inputs, mix, mix_dot, mix_softmax,
    mix_softmax_inputs,
};
use crate::model::{Body, Head, Join, Matrix, Mix, Shard, accumulate, plain_form, shard_op};

/// The buffers that a head leaves for its way back.
pub(super) struct HeadGraph<'a> {
    head: &'a Head,
    /// The head's place in the losses.
    pub slot: u32,
    join: Option<Joined<'a>>,
    blocks: Vec<Block<'a>>,
    /// The stream after the last layer, of the rows whose loss is wanted; normalised.
    output: Buffer,
    pub normed: Buffer,
    pub rows: HeadRows,
    pub partials: Buffer,
}

/// The buffers that the host writes for a head in every micro-batch.
#[derive(Clone)]
pub(super) struct HeadRows {
    pub offset: usize,
    /// Places ahead of a row of the token that it reads; 0 if it reads none.
    pub ahead: usize,
    /// The rows whose loss counts, and what they should predict.
    pub picks: Buffer,
    pub targets: Buffer,
    /// The tokens that a sequential head reads, as rows.
    pub shifted: Option<Buffer>,
    /// The labels, where it learns from soft ones.
    pub labels: Option<Labels>,
}

/// The start of a sequential head.
struct Joined<'a> {
    join: &'a Join,
    hidden: Buffer,
    embedded: Buffer,
}

/// A mix of streams, and the buffers of its weights.
pub(super) struct Mixed {
    pub logits: Buffer,
    weights: Buffer,
    /// Sums that a micro-batch starts from zero.
    pub dots: Buffer,
    layers: u32,
    temperature: f32,
}

/// The buffers in which losses are summed up.
#[derive(Clone)]
pub(super) struct Losses {
    pub logits: Buffer,
    pub losses: Buffer,
    /// Sums of each head: of its losses, of their squares, and how many there are.
    pub report: Buffer,
    pub factors: Buffer,
    /// The gradient of what the LM head reads, and of what the final norm reads.
    pub d_normed: Buffer,
    pub d_output: Buffer,
    /// The gradient of the stream between a head's layers.
    pub d_stream: Buffer,
}

impl<'a> Graph<'a> {
    /// The buffers for the losses of `heads` heads.
    pub fn losses(&mut self, heads: u32) -> Losses {
        let (hidden, picked) = (self.model.sizes.hidden, self.picked);
        let columns4 = self.lm_head().shards.iter().map(|shard| shard.columns4).max().unwrap_or(0);
        Losses {
            logits: self.rows_of("logits", picked, 4 * columns4),
            losses: self.rows_of("losses", picked, 1),
            report: self.model.gpu.storage("report", 16 * u64::from(heads)),
            factors: self.model.gpu.storage("factors", 4 * u64::from(heads)),
            d_normed: self.rows_of("d normed of picked", picked, hidden),
            d_output: self.rows_of("d output", picked, hidden),
            d_stream: self.stream("d head"),
        }
    }

    /// The backbone's: heads of the own layout have none of their own.
    pub fn lm_head(&self) -> &'a Matrix {
        let weights = &self.model.weights;
        weights.lm_head.as_ref().unwrap_or(&weights.embedding)
    }

    /// The head's way from its source `z` to the normalised rows that the LM head reads.
    pub fn head(&mut self, head: &'a Head, slot: u32, z: &Buffer, target: Target) -> HeadGraph<'a> {
        let (gpu, hidden) = (&self.model.gpu, self.model.sizes.hidden);
        let of = |label: &str| gpu.storage(label, 4 * u64::from(self.picked));
        let shifted = matches!(head.body, Body::Sequential(..));
        let shifted = shifted.then(|| gpu.storage("shifted", self.batch.size()));
        let (offset, ahead) = (head.offset, head.ahead);
        let (picks, targets) = (of("picks"), of("targets"));
        let listed = target == Target::Marginal && offset > 1;
        let labels = (target != Target::Tokens).then(|| self.labels(listed));
        let rows = HeadRows { offset, ahead, picks, targets, shifted, labels };
        let mut stream = z.clone();
        let mut join = None;
        if let (Body::Sequential(joined, _), Some(shifted)) = (&head.body, &rows.shifted) {
            let x = self.stream("joined");
            join = Some(self.join(joined, shifted, z, &x));
            stream = x;
        }
        // A head that is the backbone's own last block trains nothing of it, but the LoRA below.
        let (layers, adapter) = match &head.body {
            Body::LastLayer => {
                let last = self.model.weights.layers.len() - 1;
                let gated = self.model.heads.as_ref().is_some_and(|heads| heads.gated);
                (&self.model.weights.layers[last..], self.adapter(last).filter(|_| !gated))
            }
            _ => (head.layers(), None),
        };
        let output = self.rows_of("output", self.picked, hidden);
        let mut blocks = Vec::with_capacity(layers.len());
        for (index, layer) in layers.iter().enumerate() {
            let last = index + 1 == layers.len();
            let saved = self.saved(layer, if last { self.picked } else { self.rows });
            let y = if last { output.clone() } else { self.stream("head stream") };
            let picked =
                last.then(|| Picked { picks: rows.picks.clone(), input: self.rows_of("picked", self.picked, hidden) });
            blocks.push(self.block(layer, adapter, &stream, &y, &saved, picked));
            stream = y;
        }
        let normed = self.rows_of("head normed", self.picked, hidden);
        let norm = head.final_norm.as_ref().unwrap_or(&self.model.weights.final_norm);
        self.norm(norm, &output, &normed, self.picked);
        let partials = self.rows_of("partials", self.picked, 4);
        HeadGraph { head, slot, join, blocks, output, normed, rows, partials }
    }

    fn join(&mut self, join: &'a Join, shifted: &Buffer, z: &Buffer, x: &Buffer) -> Joined<'a> {
        let (rows, hidden4, model) = (self.rows, self.model.sizes.hidden / 4, self.model);
        let embedded = self.stream("embedded");
        self.norm(&join.hidden_norm, z, &self.scratch.normed.clone(), rows);
        let normed = self.scratch.normed.clone();
        self.product(
            plain_form(model, &join.from_hidden),
            &join.from_hidden,
            None,
            (&normed, hidden4),
            (x, hidden4),
            rows,
        );
        self.embed(&model.weights.embedding, shifted, &embedded);
        self.norm(&join.embedding_norm, &embedded, &normed, rows);
        let form = accumulate(plain_form(model, &join.from_embedding));
        self.product(form, &join.from_embedding, None, (&normed, hidden4), (x, hidden4), rows);
        Joined { join, hidden: z.clone(), embedded }
    }

    /// The columns of a chunk of the vocabulary.
    pub fn chunk(&self, shard: &Shard) -> LossShape {
        let (first, stride) = (4 * shard.first4, 4 * shard.columns4);
        LossShape { picked: self.picked, first, count: (self.model.sizes.vocab - first).min(stride), stride }
    }

    /// The logits of normalised rows, of a chunk of the vocabulary.
    pub fn logits(&mut self, normed: &Buffer, shard: &Shard, losses: &Losses) {
        let x = (normed, self.model.sizes.hidden / 4);
        let matrix = self.lm_head();
        let op = shard_op(self.model, &self.state, matrix, shard, x, &losses.logits);
        self.push_work(op, self.picked, weights(matrix, shard));
    }

    /// The head's losses, summed up in the report.
    pub fn loss(&mut self, head: &HeadGraph<'a>, losses: &Losses) {
        let (gpu, set) = (&self.model.gpu, self.model.kernels);
        let (targets, partials) = (&head.rows.targets, &head.partials);
        for (index, shard) in self.lm_head().shards.iter().enumerate() {
            self.logits(&head.normed, shard, losses);
            let io = LossScanIo { targets, logits: &losses.logits, partials };
            let op = loss_scan(gpu, set, self.chunk(shard), Store::nth(index), io);
            self.push(op, self.picked);
        }
        let io = LossSummaryIo { targets, partials, losses: &losses.losses, report: &losses.report };
        let op = loss_summary(gpu, set, self.picked, head.slot, Against::Targets, io);
        self.push(op, self.picked);
    }

    /// Adds the ops for the factors that the gradients of the losses are multiplied with.
    pub fn factors(&mut self, heads: u32, weighing: Weighing, weight: f32, losses: &Losses) {
        let op = loss_factors(&self.model.gpu, heads, weighing, weight, &losses.report, &losses.factors);
        self.push(op, 1);
    }

    /// The way back, from the losses to the source, to whose gradient `dz` it adds. With `fresh`, the last logits in
    /// memory are this head's. With a teacher the losses are those against its labels.
    pub fn head_back(
        &mut self,
        head: &HeadGraph<'a>,
        teacher: Option<&Teacher>,
        losses: &Losses,
        dz: &Buffer,
        fresh: bool,
    ) {
        let (model, hidden4, picked) = (self.model, self.model.sizes.hidden / 4, self.picked);
        let matrix = self.lm_head();
        let (targets, partials) = (&head.rows.targets, &head.partials);
        for (index, shard) in matrix.shards.iter().enumerate() {
            if !fresh || matrix.shards.len() > 1 {
                self.logits(&head.normed, shard, losses);
            }
            let (logits, factors) = (&losses.logits, &losses.factors);
            if let Some(teacher) = teacher {
                self.label_softmax(head, teacher, losses, self.chunk(shard));
            } else {
                let io = LossInputsIo { targets, partials, factors, logits };
                let op = loss_inputs(&model.gpu, self.chunk(shard), head.slot, io);
                self.push(op, picked);
            }
            let sizes = [picked, shard.columns4, matrix.inputs4];
            let (dy, dx) = (Columns::whole(logits, shard.columns4), Columns::whole(&losses.d_normed, hidden4));
            let op = matmul_inputs(&model.gpu, shard.format, Store::nth(index), sizes, dy, &shard.buffer, dx);
            self.push_work(op, picked, weights(matrix, shard));
        }
        if let Some(teacher) = teacher {
            self.label_inputs(head, teacher, losses);
        }
        self.zero(&losses.d_output, picked);
        let norm = head.head.final_norm.as_ref().unwrap_or(&model.weights.final_norm);
        self.norm_back_from(norm, &head.output, &losses.d_normed, &losses.d_output, picked);
        let d = losses.d_stream.clone();
        for (index, block) in head.blocks.iter().enumerate().rev() {
            let last = index + 1 == head.blocks.len();
            self.block_back(block, &d, last.then_some(&losses.d_output));
        }
        match &head.join {
            Some(joined) => self.join_back(joined, &d, dz),
            None => self.add(&d, dz, self.rows),
        }
    }

    fn join_back(&mut self, joined: &Joined<'a>, d: &Buffer, dz: &Buffer) {
        let s = self.scratch.clone();
        let (rows, hidden4) = (self.rows, self.model.sizes.hidden / 4);
        let Joined { join, hidden, embedded } = joined;
        let (dy, x) = (Columns::whole(d, hidden4), (&s.normed, hidden4));
        let dx = Some((Columns::whole(&s.d_normed, hidden4), Store::Set));
        self.norm(&join.hidden_norm, hidden, &s.normed, rows);
        self.matrix_back(&join.from_hidden, rows, x, dy, dx);
        self.norm_back(&join.hidden_norm, hidden, dz, rows);
        self.norm(&join.embedding_norm, embedded, &s.normed, rows);
        self.matrix_back(&join.from_embedding, rows, x, dy, dx);
        // The table is not trained: what reaches the embedding ends in the scratch.
        self.norm_back(&join.embedding_norm, embedded, &s.whole, rows);
    }

    /// The mix of `streams`, which are the streams after 1, 2, ... blocks, to `z`.
    pub fn mix(&mut self, source: &Mix, logits: Buffer, streams: &[Buffer], z: &Buffer) -> Mixed {
        let gpu = &self.model.gpu;
        let layers = source.logits.len() as u32;
        let of = |label: &str| gpu.storage(label, 4 * u64::from(layers));
        let temperature = source.temperature as f32;
        let mixed = Mixed { logits, weights: of("mix"), dots: of("dots"), layers, temperature };
        self.push(mix_softmax(gpu, layers, temperature, &mixed.logits, &mixed.weights), 1);
        for (index, stream) in (0..layers).zip(streams) {
            let io = MixIo { weights: &mixed.weights, x: stream, y: z };
            self.push(mix(gpu, self.count4(), index, Store::nth(index as usize), io), self.rows);
        }
        mixed
    }

    fn count4(&self) -> u32 {
        self.rows * self.model.sizes.hidden / 4
    }

    /// The gradient of the mix's logits, where they are trained.
    pub fn mix_back(&mut self, mixed: &Mixed, streams: &[Buffer], dz: &Buffer) {
        let Some(gradient) = self.gradients.gradient(&mixed.logits).cloned() else { return };
        let gpu = &self.model.gpu;
        for (index, stream) in (0..mixed.layers).zip(streams) {
            self.push(mix_dot(gpu, self.count4(), index, MixDotIo { x: stream, dy: dz, dots: &mixed.dots }), self.rows);
        }
        let io = MixSoftmaxInputsIo { weights: &mixed.weights, dots: &mixed.dots, dlogits: &gradient };
        let op = mix_softmax_inputs(gpu, mixed.layers, mixed.temperature, io);
        self.push(op, 1);
    }

    /// Adds to `d` what the mix with the gradient `dz` sends to the stream after `blocks` blocks.
    pub fn mix_to_stream(&mut self, mixed: &Mixed, blocks: usize, dz: &Buffer, d: &Buffer) {
        let io = MixIo { weights: &mixed.weights, x: dz, y: d };
        let op = mix(&self.model.gpu, self.count4(), blocks as u32 - 1, Store::Add, io);
        self.push(op, self.rows);
    }
}
