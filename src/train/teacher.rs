//! Soft labels by the base model: a token's label is what the base model, without any LoRA, thinks of the place where the
//! token stands. One row of the base model labels a token for every head that is to predict it.

use super::backbone::Streams;
use super::block::Picked;
use super::graph::{Graph, weights};
use super::heads::{HeadGraph, Losses};
use super::labels::LABEL_TOKENS;
use crate::gpu::Buffer;
use crate::kernels::Store;
use crate::kernels::train::{
    Against, Columns, LabelMeanColumnsIo, LabelMeanInputsIo, LabelMeanScoresIo, LossInputsIo, LossScanIo, LossShape,
    LossSummaryIo, Weighing, label_mean_columns, label_mean_inputs, label_mean_scores, loss_factors, loss_inputs,
    loss_scan, loss_summary, matmul_inputs,
};

/// The buffers that the host writes for the base model's labels in every micro-batch.
#[derive(Clone)]
pub(super) struct TeacherRows {
    /// The rows that label tokens, and that they count.
    pub picks: Buffer,
    pub counted: Buffer,
}

/// The labels of a head's rows.
#[derive(Clone)]
pub(super) struct Labels {
    /// Rows that count.
    pub counted: Buffer,
    /// The index of each row's label mean.
    pub picks: Buffer,
    /// The lists, where labels are lists, and the label means that they make.
    pub lists: Option<Lists>,
}

/// Labels that are lists.
#[derive(Clone)]
pub(super) struct Lists {
    /// `[picked, LABEL_TOKENS, 2]`
    pub entries: Buffer,
    means: Buffer,
}

/// The label means of all heads, and the losses against them.
pub(super) struct Teacher {
    /// Labels of the base model, where it labels anything.
    base: Option<BaseLabels>,
    /// Sums as in [`Losses`], of the losses against labels.
    report: Buffer,
    /// Keeps a softmax as it is.
    one: Buffer,
}

struct BaseLabels {
    rows: TeacherRows,
    /// `[picked, hidden]`: of each labelling row the mean of the LM head's columns.
    means: Buffer,
}

impl Teacher {
    /// The buffers that the host writes for the base model's labels.
    pub fn rows(self) -> Option<TeacherRows> {
        self.base.map(|base| base.rows)
    }
}

impl HeadGraph<'_> {
    fn labels(&self) -> &Labels {
        self.rows.labels.as_ref().expect("a head has labels where there is a teacher")
    }
}

impl Labels {
    /// The label means of its own lists, or the base model's.
    fn means<'b>(&'b self, teacher: &'b Teacher) -> &'b Buffer {
        let own = self.lists.as_ref().map(|lists| &lists.means);
        own.or(teacher.base.as_ref().map(|base| &base.means)).expect("who has no lists is labelled by the base model")
    }
}

impl<'a> Graph<'a> {
    /// The stream of the base model below its last block: of a frozen backbone the one that heads read, as far as that goes.
    pub fn base(&mut self, streams: &Streams<'a>) -> Buffer {
        let model = self.model;
        let last = model.weights.layers.len() - 1;
        let adapted = (0..last).any(|block| self.adapter(block).is_some());
        let from = if adapted { 0 } else { streams.top() };
        if from >= last {
            return streams.after[last].clone();
        }
        let x = self.stream("base stream");
        if adapted {
            let batch = self.batch.clone();
            self.embed(&model.weights.embedding, &batch, &x);
        } else {
            self.copy(&streams.after[from], &x, self.rows);
        }
        for layer in &model.weights.layers[from..last] {
            self.block(layer, None, &x, &x, &streams.unsaved, None);
        }
        x
    }

    /// The labels of rows; with `listed` they are lists.
    pub fn labels(&mut self, listed: bool) -> Labels {
        let of = |label: &str| self.model.gpu.storage(label, 4 * u64::from(self.picked));
        let (counted, picks) = (of("counted"), of("label means of rows"));
        let lists = listed.then(|| Lists {
            entries: self.rows_of("label lists", self.picked, 2 * LABEL_TOKENS as u32),
            means: self.rows_of("label means of lists", self.picked, self.model.sizes.hidden),
        });
        Labels { counted, picks, lists }
    }

    /// Label means for the losses of `heads` heads; the base model sets some where its stream below the last block is there.
    pub fn teacher(&mut self, base: Option<&Buffer>, heads: u32, losses: &Losses) -> Teacher {
        let gpu = &self.model.gpu;
        let report = gpu.storage("report of labels", 16 * u64::from(heads));
        let one = gpu.storage_with("one", &[1.0f32]);
        let base = base.map(|base| self.base_labels(base, &one, losses));
        Teacher { base, report, one }
    }

    fn base_labels(&mut self, base: &Buffer, one: &Buffer, losses: &Losses) -> BaseLabels {
        let model = self.model;
        let (hidden, picked) = (model.sizes.hidden, self.picked);
        let of = |label: &str| model.gpu.storage(label, 4 * u64::from(picked));
        let rows = TeacherRows { picks: of("labelling rows"), counted: of("labelling rows that count") };
        let layer = model.weights.layers.last().expect("a model has blocks");
        let (output, normed) =
            (self.rows_of("base output", picked, hidden), self.rows_of("base normed", picked, hidden));
        let saved = self.saved(layer, picked);
        let input = self.rows_of("base picked", picked, hidden);
        self.block(layer, None, base, &output, &saved, Some(Picked { picks: rows.picks.clone(), input }));
        self.norm(&model.weights.final_norm, &output, &normed, picked);
        let (means, partials) = (self.rows_of("label means", picked, hidden), self.rows_of("base partials", picked, 4));
        let matrix = self.lm_head();
        for (index, shard) in matrix.shards.iter().enumerate() {
            self.logits(&normed, shard, losses);
            let shape = self.chunk(shard);
            let io = LossScanIo { targets: &rows.counted, logits: &losses.logits, partials: &partials };
            let op = loss_scan(&model.gpu, model.kernels, shape, Store::nth(index), io);
            self.push(op, picked);
        }
        for (index, shard) in matrix.shards.iter().enumerate() {
            if matrix.shards.len() > 1 {
                self.logits(&normed, shard, losses);
            }
            let (targets, partials, factors, logits) = (&rows.counted, &partials, one, &losses.logits);
            let io = LossInputsIo { targets, partials, factors, logits };
            let op = loss_inputs(&model.gpu, self.chunk(shard), 0, io);
            self.push(op, picked);
            let sizes = [picked, shard.columns4, matrix.inputs4];
            let (dy, dx) = (Columns::whole(&losses.logits, shard.columns4), Columns::whole(&means, hidden / 4));
            let op = matmul_inputs(&model.gpu, shard.format, Store::nth(index), sizes, dy, &shard.buffer, dx);
            self.push_work(op, picked, weights(matrix, shard));
        }
        BaseLabels { rows, means }
    }

    /// The label means of the head's lists.
    fn list_means(&mut self, lists: &Lists) {
        let (model, hidden4) = (self.model, self.model.sizes.hidden / 4);
        let matrix = self.lm_head();
        for (index, shard) in matrix.shards.iter().enumerate() {
            let form = (shard.format, Store::nth(index));
            let io = LabelMeanColumnsIo { entries: &lists.entries, matrix: &shard.buffer, means: &lists.means };
            let shape = self.chunk(shard);
            let op = label_mean_columns(&model.gpu, form, hidden4, LABEL_TOKENS as u32, shape, io);
            self.push_work(op, self.picked, 4 * u64::from(hidden4) * LABEL_TOKENS as u64);
        }
    }

    /// The head's losses against its labels, summed up in a report of their own.
    pub fn label_loss(&mut self, head: &HeadGraph<'a>, teacher: &Teacher, losses: &Losses) {
        let (gpu, set, picked) = (&self.model.gpu, self.model.kernels, self.picked);
        let labels = head.labels();
        if let Some(lists) = &labels.lists {
            self.list_means(lists);
        }
        let means = labels.means(teacher);
        let io = LabelMeanScoresIo { picks: &labels.picks, means, x: &head.normed, partials: &head.partials };
        let op = label_mean_scores(gpu, set, [picked, self.model.sizes.hidden / 4], io);
        self.push(op, picked);
        let (slot, counted) = (head.slot, &labels.counted);
        let (losses, report) = (&losses.losses, &teacher.report);
        let io = LossSummaryIo { targets: counted, partials: &head.partials, losses, report };
        let op = loss_summary(gpu, set, picked, slot, Against::Labels, io);
        self.push(op, picked);
    }

    /// [`Graph::factors`] of the losses against labels.
    pub fn label_factors(&mut self, heads: u32, weighing: Weighing, weight: f32, teacher: &Teacher, losses: &Losses) {
        let op = loss_factors(&self.model.gpu, heads, weighing, weight, &teacher.report, &losses.factors);
        self.push(op, 1);
    }

    /// Turns a chunk of the head's logits into its softmax, the gradient that no label has had a share in yet.
    pub fn label_softmax(&mut self, head: &HeadGraph<'a>, teacher: &Teacher, losses: &Losses, shape: LossShape) {
        let labels = head.labels();
        let (counted, partials) = (&labels.counted, &head.partials);
        let io = LossInputsIo { targets: counted, partials, factors: &teacher.one, logits: &losses.logits };
        let op = loss_inputs(&self.model.gpu, shape, 0, io);
        self.push(op, self.picked);
    }

    /// Makes the mean of the LM head's columns under the head's softmax the gradient of its losses against labels.
    pub fn label_inputs(&mut self, head: &HeadGraph<'a>, teacher: &Teacher, losses: &Losses) {
        let labels = head.labels();
        let (means, factors) = (labels.means(teacher), &losses.factors);
        let io = LabelMeanInputsIo { picks: &labels.picks, means, factors, dx: &losses.d_normed };
        let sizes = [self.picked, self.model.sizes.hidden / 4];
        let op = label_mean_inputs(&self.model.gpu, sizes, head.slot, io);
        self.push(op, self.picked);
    }
}
