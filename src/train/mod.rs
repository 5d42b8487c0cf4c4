//! Training multi-token heads, and a LoRA of the backbone with them, on the GPU that serves them.
//!
//! A [`Trainer`] is gradients, moments and saved activations over a model whose heads are in f32: the buffers that serving
//! reads are the ones that AdamW changes. The forward pass takes the kernels that serve; attention over whole sequences, the
//! loss and the way back are those of `kernels::train`. All ops of a step are made once and recorded again and again.

mod backbone;
mod block;
pub mod data;
mod graph;
mod heads;
mod labels;
mod memory;
mod parameters;
pub mod schedule;
mod state;
mod teacher;

use std::collections::BTreeMap;

use crate::format::files::{Files, read_whole};
use crate::format::mtp::{CONFIG, TENSORS};
use crate::format::safetensors::serialize_f32;
use crate::gpu::{Buffer, Gpu, Staging};
use crate::kernels::train::{ANY_TARGET, AdamStep, MAX_TRAINED_ROWS, NO_ROW, NO_TARGET};
use crate::kernels::{Extent, KernelSet, Op, Row, WeightFormat};
use crate::model::{HeadWeights, Model, Progress, Sizes, TrainedSizes, dry_for_training, load_for_training};
use crate::options::setters;
use crate::{Error, ErrorKind, Result};
use backbone::StepPlan;
use graph::Step;
use heads::HeadRows;
pub use labels::{Entry, LABEL_TOKENS, LabelLists};
pub use memory::Memory;
use parameters::Parameters;

/// Ops of a submit at most.
const OPS_A_SUBMIT: usize = 48;

/// Multiplications of a submit, unless one op has more: some tens of milliseconds on a small GPU, since the watchdog of a
/// display driver may end what takes two seconds.
const WORK_A_SUBMIT: u64 = 10_000_000_000;

/// The extent of ops that have one size.
const ONE: Extent = Extent { rows: 1, logit_rows: 1, keys: 0 };

/// The largest description of heads that is read.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// The target that heads are to predict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// The texts' own tokens.
    #[default]
    Tokens,
    /// What the base model, without any LoRA, thinks of the place of each of them: a head of offset n at position t learns
    /// p(. | x_<=t+n-1). Losses are reported of the tokens all the same.
    Shifted,
    /// Lists of the likeliest tokens that come with each micro-batch: the marginal over what may stand in between. The head for
    /// the next token learns what the base model thinks of it.
    Marginal,
}

/// Options of a training.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TrainOptions {
    /// Sequences of a micro-batch, which are computed together.
    pub sequences: usize,
    /// Tokens of a sequence.
    pub length: usize,
    /// Targets that a head has in a micro-batch at most; 0: as many as there are tokens. Only their rows go through a head's
    /// last MLP and the LM head.
    pub picked: usize,
    /// Tokens of the vocabulary whose logits are in memory at a time, a multiple of 4.
    pub vocab_chunk: usize,
    /// Micro-batches of an optimizer step. Each weighs the same, and losses are balanced within each.
    pub accumulate: usize,
    /// Train the heads' own tensors.
    pub train_heads: bool,
    /// Train the LoRA that the heads bring.
    pub train_lora: bool,
    /// Scale each head's loss so that the root of the mean square of its tokens' losses in a micro-batch is that of the
    /// first head's (arXiv 2502.09419, section 4). The factor carries no gradient.
    pub balance: bool,
    /// Heads learn from the backbone, but it does not from them: only what the backbone's own last block predicts changes the
    /// LoRA, so that heads cost the next token nothing.
    pub detach: bool,
    /// The target that heads are to predict.
    pub target: Target,
    /// The factor of the heads' learning rate.
    pub head_rate: f64,
    /// Decoupled weight decay, on everything trained.
    pub weight_decay: f64,
    /// Decay of the first and second moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Scale gradients down to this norm. `None`: never.
    pub max_norm: Option<f64>,
    /// Pack the backbone's matrices in this format. The heads are f32 all the same.
    pub quantize: Option<WeightFormat>,
}

setters!(TrainOptions {
    sequences: usize, length: usize, picked: usize, vocab_chunk: usize, accumulate: usize, train_heads: bool,
    train_lora: bool, balance: bool, detach: bool, target: Target, head_rate: f64, weight_decay: f64,
    betas: [f64; 2], eps: f64;
    or none max_norm: f64, quantize: WeightFormat
});

impl Default for TrainOptions {
    fn default() -> Self {
        Self {
            sequences: 8,
            length: 128,
            picked: 0,
            vocab_chunk: 8192,
            accumulate: 1,
            train_heads: true,
            train_lora: false,
            balance: false,
            detach: false,
            target: Target::Tokens,
            head_rate: 1.0,
            weight_decay: 0.01,
            betas: [0.9, 0.999],
            eps: 1e-8,
            max_norm: None,
            quantize: None,
        }
    }
}

/// The sequences of a micro-batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MicroBatch {
    /// Tokens, `[sequences, length]`; sequences that are shorter end with any token.
    pub ids: Vec<u32>,
    /// Whether a loss with this token as its target counts, for each token.
    pub counts: Vec<bool>,
}

/// The loss of a head.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct HeadLoss {
    /// The offset of the token that it predicts.
    pub offset: usize,
    /// Mean negative log-likelihood in nats; 0 without targets.
    pub nll: f64,
    /// Tokens it is the mean over.
    pub targets: u64,
}

/// The report of a step.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct StepReport {
    /// The losses before the step, over all its micro-batches.
    pub losses: Vec<HeadLoss>,
    /// The norm of all gradients together, before it was clipped.
    pub gradient_norm: f64,
}

/// Heads in training.
pub struct Trainer {
    model: Model,
    options: TrainOptions,
    parameters: Parameters,
    plan: StepPlan,
    update: Vec<Op>,
    report: Staging,
    clip: Staging,
    memory: Memory,
    steps: u64,
    /// `mtp_config.json` of the heads.
    config: Vec<u8>,
}

/// The parts of a training beside its model, on a device or on a dry one.
struct Parts {
    parameters: Parameters,
    plan: StepPlan,
    update: Vec<Op>,
    report: Staging,
    clip: Staging,
}

impl Parts {
    fn new(model: &Model, parameters: Parameters, options: &TrainOptions) -> Result<Self> {
        let gpu = &model.gpu;
        let plan = StepPlan::new(model, &parameters, options)?;
        let update = parameters.update(gpu, options.max_norm.unwrap_or(0.0));
        let report = Staging::new(gpu, plan.report.size());
        let clip = Staging::new(gpu, parameters.clip.size());
        Ok(Self { parameters, plan, update, report, clip })
    }
}

impl Trainer {
    /// Loads the checkpoint in `files` and the heads to be trained in `heads`, which are of the own layout.
    ///
    /// # Errors
    /// What loading a model can give; [`ErrorKind::Input`] for options that make no sense, [`ErrorKind::OutOfMemory`] where
    /// the adapter cannot hold a step.
    pub async fn load<F: Files, H: Files>(
        gpu: &Gpu,
        files: &F,
        heads: &H,
        kernels: Option<KernelSet>,
        options: &TrainOptions,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Self> {
        check(options)?;
        let config = read_whole(heads, CONFIG, MAX_CONFIG_BYTES).await?;
        let config = config.ok_or_else(|| {
            Error::io(format!("no {CONFIG} in {}: make heads with foretoken init-heads", heads.describe()))
        })?;
        let memory = Self::memory(gpu, files, heads, options).await?;
        memory.check(gpu.summary().max_binding_bytes, None)?;
        let mut model = load_for_training(gpu, files, heads, kernels, trained_sizes(options), progress).await?;
        let parameters = Parameters::of(&mut model, options);
        let parts = Parts::new(&model, parameters, options)?;
        gpu.check().map_err(|error| with_advice(error, memory.trained + memory.activations))?;
        let (options, config) = (options.clone(), config.into_owned());
        let Parts { parameters, plan, update, report, clip } = parts;
        Ok(Self { model, options, parameters, plan, update, report, clip, memory, steps: 0, config })
    }

    /// The memory that [`Trainer::load`] would need, before anything of it is there.
    ///
    /// # Errors
    /// As there, for files that are broken or do not fit each other, and for options that make no sense.
    pub async fn memory<F: Files, H: Files>(gpu: &Gpu, files: &F, heads: &H, options: &TrainOptions) -> Result<Memory> {
        check(options)?;
        let loaded = dry_for_training(gpu, files, heads, trained_sizes(options)).await?;
        check_attentions(&loaded.sizes, options)?;
        check_quantized(options, loaded.heads.as_ref())?;
        let bytes = |model: &Model| model.gpu.counts().buffer_bytes;
        // On a dry device of its own, so that what is counted there is the training's.
        let mut model = loaded.dry();
        let parameters = Parameters::of(&mut model, options);
        if parameters.all.is_empty() {
            return Err(Error::input("there is nothing to train: the heads have no tensors of their own, and no LoRA"));
        }
        let trained = bytes(&model);
        Parts::new(&model, parameters, options)?;
        let (activations, largest) = (bytes(&model) - trained, model.gpu.largest_buffer());
        Ok(Memory { weights: bytes(&loaded), trained, activations, largest })
    }

    /// Bytes on the GPU beside the model's own: activations, gradients and moments.
    pub fn bytes(&self) -> u64 {
        self.memory.trained + self.memory.activations
    }

    /// Optimizer steps so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Values that are trained.
    pub fn trained(&self) -> u64 {
        self.parameters.all.iter().map(|parameter| parameter.count as u64).sum()
    }

    /// One optimizer step over as many micro-batches as [`TrainOptions::accumulate`] says, at this learning rate.
    ///
    /// # Errors
    /// [`ErrorKind::Input`] for a micro-batch of another size or with too many targets; [`ErrorKind::NotFinite`] where a loss or
    /// a gradient is not finite, naming the step and the tensor: nothing has been changed then; [`ErrorKind::Device`]. A call
    /// that was not awaited to its end leaves a trainer that must not be used.
    pub async fn step(&mut self, batches: &[MicroBatch], rate: f64) -> Result<StepReport> {
        self.step_with(batches, &[], rate).await
    }

    /// [`Trainer::step`] for [`Target::Marginal`], with the labels of each micro-batch.
    ///
    /// # Errors
    /// As there; [`ErrorKind::Input`] for labels that are missing or make no sense.
    pub async fn step_with(&mut self, batches: &[MicroBatch], labels: &[LabelLists], rate: f64) -> Result<StepReport> {
        let expected = if self.options.target == Target::Marginal { batches.len() } else { 0 };
        if labels.len() != expected {
            let got = labels.len();
            return Err(Error::input(format!("labels for {got} micro-batches: expected them for {expected}")));
        }
        if batches.len() != self.options.accumulate {
            let (got, expected) = (batches.len(), self.options.accumulate);
            return Err(Error::input(format!("{got} micro-batches: a step takes {expected}")));
        }
        let gradients: Vec<&Buffer> = self.parameters.all.iter().map(|p| &p.gradient).collect();
        self.model.gpu.clear(&gradients);
        let mut sums = vec![[0.0_f64; 2]; self.plan.heads.len()];
        for (index, batch) in batches.iter().enumerate() {
            self.write(batch, labels.get(index))?;
            for (sum, more) in sums.iter_mut().zip(self.run(true).await?) {
                sum[0] += more[0];
                sum[1] += more[1];
            }
        }
        let losses = self.losses(&sums);
        let step = self.steps + 1;
        if let Some(loss) = losses.iter().find(|loss| !loss.nll.is_finite()) {
            let which = self.first_not_finite().await?;
            let also = which.map_or(String::new(), |name| format!(", nor is the gradient of tensor \"{name}\""));
            let offset = loss.offset;
            return Err(Error::new(
                ErrorKind::NotFinite,
                format!("step {step}: the loss of the head for token +{offset} is not a finite number{also}; {ADVICE}"),
            ));
        }
        let norm = self.update(rate).await?;
        Ok(StepReport { losses, gradient_norm: norm })
    }

    /// The losses of a micro-batch, without training on it.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub async fn evaluate(&mut self, batch: &MicroBatch) -> Result<Vec<HeadLoss>> {
        self.write(batch, None)?;
        let sums = self.run(false).await?;
        Ok(self.losses(&sums))
    }

    fn losses(&self, sums: &[[f64; 2]]) -> Vec<HeadLoss> {
        let loss = |(head, [sum, count]): (&HeadRows, &[f64; 2])| HeadLoss {
            offset: head.offset,
            nll: if *count == 0.0 { 0.0 } else { sum / count },
            targets: *count as u64,
        };
        self.plan.heads.iter().zip(sums).map(loss).collect()
    }

    fn write(&self, batch: &MicroBatch, lists: Option<&LabelLists>) -> Result<()> {
        let (gpu, length) = (&self.model.gpu, self.options.length);
        let rows = self.options.sequences * length;
        if batch.ids.len() != rows || batch.counts.len() != rows {
            let (ids, counts) = (batch.ids.len(), batch.counts.len());
            return Err(Error::input(format!("a micro-batch of {ids} tokens and {counts} marks: expected {rows}")));
        }
        let vocab = self.model.sizes.vocab;
        if let Some(id) = batch.ids.iter().find(|&&id| id >= vocab) {
            return Err(Error::input(format!("token {id}: the vocabulary has {vocab}")));
        }
        let row =
            |place: usize, token: u32| Row { token, position: (place % length) as u32, adapter: 1, ..Row::default() };
        let ahead = |place: usize, ahead: usize| {
            let inside = place % length + ahead < length;
            inside.then(|| place + ahead)
        };
        let tokens: Vec<Row> = batch.ids.iter().enumerate().map(|(place, &id)| row(place, id)).collect();
        gpu.write(&self.plan.batch, 0, &tokens);
        let most = self.plan.picked as usize;
        let too_many = |what: String| Error::input(format!("{what}: this trainer was made for at most {most}"));
        // The row before a token labels it. Which of those rows it is, from 0:
        let labels = |at: usize| batch.counts[at] && !at.is_multiple_of(length);
        let mut labelled = vec![NO_ROW; if self.plan.labelling.is_some() { rows } else { 0 }];
        if let Some(labelling) = &self.plan.labelling {
            let places: Vec<usize> = (0..rows).filter(|&at| labels(at)).collect();
            if places.len() > most {
                return Err(too_many(format!("a micro-batch with {} tokens to be labelled", places.len())));
            }
            let mut picks = vec![NO_ROW; most];
            for (n, &at) in places.iter().enumerate() {
                picks[n] = at as u32 - 1;
                labelled[at] = n as u32;
            }
            gpu.write(&labelling.picks, 0, &picks);
            gpu.write(&labelling.counted, 0, &counted(places.len(), most));
        }
        for head in &self.plan.heads {
            if let Some(shifted) = &head.shifted {
                let token = |place| ahead(place, head.ahead).map_or(0, |at| batch.ids[at]);
                let tokens: Vec<Row> = (0..rows).map(|place| row(place, token(place))).collect();
                gpu.write(shifted, 0, &tokens);
            }
            let wanted = |place: usize| Some((place, ahead(place, head.offset).filter(|&at| batch.counts[at])?));
            let wanted: Vec<_> = (0..rows).filter_map(wanted).collect();
            if wanted.len() > most {
                let (offset, got) = (head.offset, wanted.len());
                return Err(too_many(format!("a micro-batch with {got} targets for token +{offset}")));
            }
            if let Some(own) = &head.labels {
                let mut picks = vec![NO_ROW; most];
                for (n, &(_, at)) in wanted.iter().enumerate() {
                    picks[n] = if own.lists.is_some() { n as u32 } else { labelled[at] };
                }
                if let Some((own, lists)) = own.lists.as_ref().zip(lists) {
                    let places: Vec<usize> = wanted.iter().map(|(place, _)| *place).collect();
                    gpu.write(&own.entries, 0, &lists.words(head.offset, &places, most, vocab)?);
                }
                gpu.write(&own.picks, 0, &picks);
                gpu.write(&own.counted, 0, &counted(wanted.len(), most));
            }
            let mut picks = vec![NO_ROW; most];
            let mut targets = vec![NO_TARGET; most];
            for (n, &(place, at)) in wanted.iter().enumerate() {
                picks[n] = place as u32;
                targets[n] = batch.ids[at];
            }
            gpu.write(&head.picks, 0, &picks);
            gpu.write(&head.targets, 0, &targets);
        }
        Ok(())
    }

    /// Runs what was written; each head's sum of losses and how many.
    async fn run(&self, train: bool) -> Result<Vec<[f64; 2]>> {
        let gpu = &self.model.gpu;
        gpu.clear(&self.plan.sums.iter().collect::<Vec<_>>());
        let StepPlan { backbone, teacher, forward, train: back, .. } = &self.plan;
        let [teacher, back] = [teacher, back].map(|steps| if train { &steps[..] } else { &[] });
        let steps: Vec<&Step> = backbone.iter().chain(teacher).chain(forward).chain(back).collect();
        let mut submission = None;
        let mut done = 0;
        while done < steps.len() {
            let part = &steps[done..done + ops_of_submit(&steps[done..])];
            done += part.len();
            let copy = (done == steps.len()).then_some((&self.plan.report, &self.report));
            let record = |recorder: &mut crate::gpu::Recorder<'_>| {
                for step in part {
                    let (op, extent) = step.parts();
                    op.record(recorder, extent);
                }
            };
            submission = Some(gpu.submit(None, record, copy));
        }
        let pending = self.report.read_after(submission.expect("a step has ops"));
        let report: Vec<f32> = self.report.take(gpu, pending).await?;
        Ok(report.chunks_exact(4).map(|head| [f64::from(head[0]), f64::from(head[2])]).collect())
    }

    /// AdamW, unless a gradient is not finite; the norm of all gradients.
    async fn update(&mut self, rate: f64) -> Result<f64> {
        let gpu = &self.model.gpu;
        let TrainOptions { weight_decay, betas, eps, .. } = self.options;
        let step = self.steps + 1;
        // Of the decays as the kernel has them.
        let correction = |beta: f64| (1.0 - f64::from(beta as f32).powf(step as f64)) as f32;
        let params = AdamStep {
            rate: rate as f32,
            decay: weight_decay as f32,
            beta1: betas[0] as f32,
            beta2: betas[1] as f32,
            eps: eps as f32,
            correction1: correction(betas[0]),
            correction2: correction(betas[1]),
            pad: 0.0,
        };
        gpu.write(&self.parameters.step, 0, &[params]);
        let record = |recorder: &mut crate::gpu::Recorder<'_>| {
            self.update.iter().for_each(|op| op.record(recorder, ONE));
        };
        let submission = gpu.submit(None, record, Some((&self.parameters.clip, &self.clip)));
        let clip: Vec<f32> = self.clip.take(gpu, self.clip.read_after(submission)).await?;
        if clip[2] == 0.0 {
            let which = self.first_not_finite().await?;
            let which = which.map_or("all tensors together".to_owned(), |name| format!("tensor \"{name}\""));
            let message = format!("step {step}: the gradient of {which} is not a finite number; {ADVICE}");
            return Err(Error::new(ErrorKind::NotFinite, message));
        }
        self.steps = step;
        Ok(f64::from(clip[0]))
    }

    /// The first tensor whose gradient is not finite, for a message.
    async fn first_not_finite(&self) -> Result<Option<&str>> {
        let gpu = &self.model.gpu;
        let squares = &self.update[..self.parameters.all.len()];
        gpu.submit(None, |recorder| squares.iter().for_each(|op| op.record(recorder, ONE)), None);
        let norms: Vec<f32> = gpu.read(&self.parameters.norms).await?;
        let which = self.parameters.all.iter().zip(&norms).find(|(_, norm)| !norm.is_finite());
        Ok(which.map(|(parameter, _)| &parameter.name[..]))
    }

    /// The heads as they are now: the files of a folder that loads as heads, by name.
    ///
    /// # Errors
    /// [`ErrorKind::Device`].
    pub async fn save(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let tensors = serialize_f32(TENSORS, &self.unpacked(Some).await?)?;
        Ok([(CONFIG.to_owned(), self.config.clone()), (TENSORS.to_owned(), tensors)].into())
    }

    /// The gradients of the last step by tensor: shape and values, before any clipping.
    ///
    /// # Errors
    /// [`ErrorKind::Device`].
    pub async fn gradients(&self) -> Result<BTreeMap<String, (Vec<usize>, Vec<f32>)>> {
        self.unpacked(|buffer| self.parameters.gradient(buffer)).await
    }

    /// Reads by tensor the buffers that `of` gives for those of the values, which lie as these do.
    async fn unpacked<'b>(
        &'b self,
        of: impl Fn(&'b Buffer) -> Option<&'b Buffer>,
    ) -> Result<BTreeMap<String, (Vec<usize>, Vec<f32>)>> {
        let mut tensors = BTreeMap::new();
        for placed in &self.parameters.placed {
            if let Some(buffer) = of(&placed.buffer) {
                let values: Vec<f32> = self.model.gpu.read(buffer).await?;
                placed.unpack(&values, &mut tensors);
            }
        }
        Ok(tensors)
    }
}

/// The sizes of a model that is trained with these options.
fn trained_sizes(options: &TrainOptions) -> TrainedSizes {
    let &TrainOptions { length, vocab_chunk, quantize, .. } = options;
    TrainedSizes { length, vocab_chunk, quantize }
}

/// Targets of `most` rows, of which the first `count` count, whatever their tokens.
fn counted(count: usize, most: usize) -> Vec<u32> {
    (0..most).map(|n| if n < count { ANY_TARGET } else { NO_TARGET }).collect()
}

/// Advice against numbers that are not finite.
const ADVICE: &str = "begin anew with a smaller `rate`, or `max_norm` 1";

fn check(options: &TrainOptions) -> Result<()> {
    let TrainOptions { sequences, length, accumulate, head_rate, weight_decay, betas, eps, max_norm, .. } = options;
    for (name, value) in [("sequences", sequences), ("length", length), ("accumulate", accumulate)] {
        if *value == 0 {
            return Err(Error::input(format!("{name} 0: expected at least 1")));
        }
    }
    let chunk = options.vocab_chunk;
    if chunk == 0 || !chunk.is_multiple_of(4) {
        return Err(Error::input(format!("vocab_chunk {chunk}: expected a multiple of 4")));
    }
    let rows = sequences.checked_mul(*length).filter(|&rows| rows <= MAX_TRAINED_ROWS as usize);
    if rows.is_none() {
        return Err(Error::input(format!(
            "{sequences} sequences of {length} tokens: a micro-batch holds at most {MAX_TRAINED_ROWS}; use a smaller `sequences` and \
             a larger `accumulate`"
        )));
    }
    // As the kernels have them.
    let finite = |name: &str, value: f64, least: f32| {
        if (value as f32).is_finite() && value as f32 >= least {
            return Ok(());
        }
        let expected = if least == 0.0 { "not below 0" } else { "above 0" };
        Err(Error::input(format!("{name} {value}: expected a number {expected} that f32 holds")))
    };
    finite("head_rate", *head_rate, 0.0)?;
    finite("weight_decay", *weight_decay, 0.0)?;
    finite("eps", *eps, f32::MIN_POSITIVE)?;
    if let Some(max_norm) = max_norm {
        finite("max_norm", *max_norm, f32::MIN_POSITIVE)?;
    }
    match betas.iter().find(|beta| !(0.0..1.0).contains(&(**beta as f32))) {
        Some(beta) => Err(Error::input(format!("beta {beta}: expected at least 0 and less than 1"))),
        None => Ok(()),
    }
}

/// Sequences times attention heads of a micro-batch: each has its layer of workgroups, of which WebGPU allows 65,535.
const MAX_ATTENTIONS: usize = 65_535;

/// The number of the next `steps` that go into a submit.
fn ops_of_submit(steps: &[&Step]) -> usize {
    let mut work = 0;
    let fits = |step: &&&Step| {
        work += step.work;
        work <= WORK_A_SUBMIT
    };
    steps.iter().take(OPS_A_SUBMIT).take_while(fits).count().max(1)
}

/// Checks that training changes no matrix that is packed.
fn check_quantized(options: &TrainOptions, heads: Option<&HeadWeights>) -> Result<()> {
    let Some(format) = options.quantize.filter(|_| options.train_lora) else { return Ok(()) };
    if heads.is_none_or(|heads| heads.gated || heads.adapters.is_empty()) {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "a LoRA that every row goes through is merged into the model's matrices, which {format} would round: train it over the \
         weights as they are stored, or a gated one, which stays apart"
    )))
}

/// Checks that there are not too many attention heads.
fn check_attentions(sizes: &Sizes, options: &TrainOptions) -> Result<()> {
    let groups = options.sequences.saturating_mul(sizes.heads as usize);
    if groups > MAX_ATTENTIONS {
        let (sequences, heads) = (options.sequences, sizes.heads);
        return Err(Error::input(format!(
            "{sequences} sequences with {heads} attention heads each: a micro-batch holds at most {MAX_ATTENTIONS} of both \
             multiplied; use a smaller `sequences` and a larger `accumulate`"
        )));
    }
    Ok(())
}

fn with_advice(error: Error, bytes: u64) -> Error {
    if error.kind() != ErrorKind::OutOfMemory {
        return error;
    }
    error.within(format!("a training step needs {bytes} bytes beside the model; {}", memory::ADVICE))
}
