//! What is trained: values, gradients and moments in the layout of the kernels.

use super::TrainOptions;
use crate::gpu::{Buffer, Gpu};
use crate::kernels::Op;
use crate::kernels::train::{AdamIo, AdamStep, adamw, clip_factor, squares};
use crate::model::{Model, Placed};

/// One buffer of trained values.
pub(super) struct Parameter {
    /// The tensors in it, for messages.
    pub name: String,
    pub count: usize,
    pub value: Buffer,
    pub gradient: Buffer,
    first: Buffer,
    second: Buffer,
    /// What the learning rate is multiplied with.
    rate: f64,
}

impl Parameter {
    fn new(gpu: &Gpu, placed: &Placed, rate: f64) -> Self {
        let count = placed.count();
        let of = |label: &str| gpu.storage(label, 4 * count as u64);
        let names: Vec<&str> = placed.tensors.iter().map(|(name, _)| name.as_str()).collect();
        let (gradient, first, second) = (of("gradient"), of("first moment"), of("second moment"));
        Self { name: names.join(" and "), count, value: placed.buffer.clone(), gradient, first, second, rate }
    }

    /// What the values of `kind` are called in a checkpoint of the training. Two buffers may hold parts of one tensor.
    pub fn key(&self, index: usize, kind: &str) -> String {
        format!("{index}.{kind} of {}", self.name)
    }

    /// What a checkpoint of the training holds, by name.
    pub fn kept(&self) -> [(&'static str, &Buffer); 3] {
        [("value", &self.value), ("first", &self.first), ("second", &self.second)]
    }
}

/// Everything trained.
pub(super) struct Parameters {
    pub all: Vec<Parameter>,
    /// Where the values of all heads and of their LoRA belong, trained or not.
    pub placed: Vec<Placed>,
    pub step: Buffer,
    /// Sums of squares of the gradients, then: total norm, factor, and whether all is finite.
    pub norms: Buffer,
    pub clip: Buffer,
}

impl Parameters {
    /// Those of the heads of `model`, which hands over where their values lie.
    pub fn of(model: &mut Model, options: &TrainOptions) -> Self {
        let placed = std::mem::take(&mut model.heads.as_mut().expect("a model to be trained has heads").placed);
        let gpu = &model.gpu;
        let is_lora = |placed: &Placed| placed.tensors.iter().any(|(name, _)| name.starts_with("lora."));
        let wanted = |placed: &&Placed| if is_lora(placed) { options.train_lora } else { options.train_heads };
        let rate = |placed: &Placed| if is_lora(placed) { 1.0 } else { options.head_rate };
        let all: Vec<_> =
            placed.iter().filter(wanted).map(|placed| Parameter::new(gpu, placed, rate(placed))).collect();
        let norms = gpu.storage("norms", 4 * all.len() as u64);
        let step = gpu.uniform("step", &<AdamStep as bytemuck::Zeroable>::zeroed());
        Self { all, placed, step, norms, clip: gpu.storage("clip", 16) }
    }

    /// The gradient of the trained values in `buffer`; `None` if they are not trained.
    pub fn gradient(&self, buffer: &Buffer) -> Option<&Buffer> {
        self.all.iter().find(|parameter| parameter.value == *buffer).map(|parameter| &parameter.gradient)
    }

    /// The buffer with the values of the tensor `name` alone, which was placed at loading.
    pub fn value(&self, name: &str) -> Buffer {
        let holds = |placed: &&Placed| placed.tensors[0].0 == name;
        self.placed.iter().find(holds).expect("loading places every tensor").buffer.clone()
    }

    /// The ops that end an optimizer step.
    pub fn update(&self, gpu: &Gpu, max_norm: f64) -> Vec<Op> {
        let square =
            |(slot, p): (usize, &Parameter)| squares(gpu, p.count as u32, &p.gradient, &self.norms, slot as u32);
        let mut ops: Vec<Op> = self.all.iter().enumerate().map(square).collect();
        ops.push(clip_factor(gpu, self.all.len() as u32, max_norm as f32, &self.norms, &self.clip));
        ops.extend(self.all.iter().map(|p| {
            let io = AdamIo {
                step: &self.step,
                clip: &self.clip,
                value: &p.value,
                grad: &p.gradient,
                first: &p.first,
                second: &p.second,
            };
            adamw(gpu, p.count as u32, p.rate as f32, io)
        }));
        ops
    }
}
