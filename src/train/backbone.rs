//! The whole step: the backbone up to what heads read, the heads, and the way back as far as anything is trained.

use super::block::Saved;
use super::graph::{Graph, Step};
use super::heads::{HeadRows, Losses, Mixed};
use super::parameters::Parameters;
use super::teacher::{Teacher, TeacherRows};
use super::{Target, TrainOptions};
use crate::gpu::Buffer;
use crate::kernels::train::Weighing;
use crate::model::{Adapter, Body, HeadWeights, Model, Source};
use crate::{Error, Result};

/// The ops of a micro-batch, and what the host writes and reads.
pub(super) struct StepPlan {
    /// The streams that heads read.
    pub backbone: Vec<Step>,
    /// Soft labels, where heads learn from such: a step takes them before the losses.
    pub teacher: Vec<Step>,
    /// Heads, up to the report of their losses of the texts' tokens.
    pub forward: Vec<Step>,
    /// Gradients.
    pub train: Vec<Step>,
    pub batch: Buffer,
    pub heads: Vec<HeadRows>,
    pub labelling: Option<TeacherRows>,
    pub report: Buffer,
    /// What a micro-batch adds to from zero.
    pub sums: Vec<Buffer>,
    /// Rows whose loss is wanted at most.
    pub picked: u32,
}

/// The streams between blocks and, where the way back goes through them, what blocks have saved.
pub(super) struct Streams<'a> {
    /// After 0, 1, ... blocks; those that nobody reads share a buffer.
    pub after: Vec<Buffer>,
    blocks: Vec<Option<super::block::Block<'a>>>,
    /// What blocks write that nobody needs.
    pub unsaved: Saved,
}

impl Streams<'_> {
    /// How many blocks they have been through.
    pub fn top(&self) -> usize {
        self.after.len() - 1
    }
}

/// A source as heads see it, and the gradient that they send back.
struct HeadInput<'a> {
    source: &'a Source,
    z: Buffer,
    dz: Buffer,
    mixed: Option<Mixed>,
}

impl StepPlan {
    pub fn new(model: &Model, parameters: &Parameters, options: &TrainOptions) -> Result<Self> {
        let heads = model.heads.as_ref().expect("a model to be trained has heads");
        let rows = options.sequences * options.length;
        let picked = if options.picked == 0 { rows } else { options.picked.min(rows) } as u32;
        let mut graph = Graph::new(model, parameters, options.sequences as u32, picked);
        check_sources(heads)?;
        let lowest = if options.train_lora { heads.adapters.iter().position(Option::is_some) } else { None };
        let labelled = options.target != Target::Tokens;
        // Of a marginal, that of the next token is the base model's own.
        let labelling = match options.target {
            Target::Tokens => false,
            Target::Shifted => true,
            Target::Marginal => heads.heads.iter().any(|head| head.offset == 1),
        };
        let base_wanted = labelling || heads.heads.iter().any(|head| heads.is_base(head));
        let read = |at: usize| heads.heads.iter().any(|head| head.source == at && !heads.is_base(head));
        let sources: Vec<Option<&Source>> =
            heads.sources.iter().enumerate().map(|(at, source)| read(at).then_some(source)).collect();
        let streams = graph.backbone(&sources, lowest, base_wanted);
        let inputs: Vec<_> = sources.iter().map(|source| source.map(|source| graph.input(source, &streams))).collect();
        let count = heads.heads.len() as u32;
        let losses = graph.losses(count);
        let weighing = if options.balance { Weighing::Balanced } else { Weighing::Alike };
        let weight = 1.0 / options.accumulate as f32;
        let backbone = std::mem::take(&mut graph.steps);
        let gated = heads.heads.iter().any(|head| heads.is_base(head));
        let base = base_wanted.then(|| graph.base(&streams));
        // Where only labels need it, an evaluation does without.
        let base_steps = std::mem::take(&mut graph.steps);
        let (mut backbone, mut labels) = (backbone, Vec::new());
        if gated { &mut backbone } else { &mut labels }.extend(base_steps);
        let labeller = base.as_ref().filter(|_| labelling);
        let teacher = labelled.then(|| graph.teacher(labeller, count, &losses));
        labels.append(&mut graph.steps);
        let mut head_graphs = Vec::with_capacity(heads.heads.len());
        for (slot, head) in (0..count).zip(&heads.heads) {
            let z =
                inputs[head.source].as_ref().map(|input| &input.z).or(base.as_ref()).expect("a head reads a stream");
            let z = if heads.is_base(head) { base.as_ref().unwrap_or(z) } else { z };
            let made = graph.head(head, slot, z, options.target);
            graph.loss(&made, &losses);
            head_graphs.push(made);
        }
        let forward = std::mem::take(&mut graph.steps);
        if let Some(teacher) = &teacher {
            head_graphs.iter().for_each(|head| graph.label_loss(head, teacher, &losses));
            graph.label_factors(count, weighing, weight, teacher, &losses);
        } else {
            graph.factors(count, weighing, weight, &losses);
        }
        for input in inputs.iter().flatten() {
            graph.zero(&input.dz, graph.rows);
        }
        let unsent = options.detach.then(|| graph.stream("gradient of detached heads"));
        for (slot, made) in head_graphs.iter().enumerate().rev() {
            let head = &heads.heads[slot];
            // What the base model itself predicts trains nothing.
            let Some(input) = inputs[head.source].as_ref().filter(|_| !heads.is_base(head)) else { continue };
            let own = matches!(head.body, Body::LastLayer) || input.mixed.is_some();
            let dz = unsent.as_ref().filter(|_| !own).unwrap_or(&input.dz);
            // The last head goes first: its logits are still there.
            graph.head_back(made, teacher.as_ref(), &losses, dz, slot + 1 == head_graphs.len());
        }
        for input in inputs.iter().flatten() {
            if let Some(mixed) = &input.mixed {
                graph.mix_back(mixed, &streams.after[1..], &input.dz);
            }
        }
        if let Some(lowest) = lowest {
            // A mix's own weights learn in any case; its streams do not if heads are detached.
            let sends = |input: &&HeadInput<'_>| !(options.detach && input.mixed.is_some());
            let inputs: Vec<_> = inputs.iter().flatten().filter(sends).collect();
            graph.backbone_back(&streams, &inputs, lowest);
        }
        let heads = head_graphs.iter().map(|head| head.rows.clone()).collect();
        let sums = inputs.iter().flatten().filter_map(|input| Some(input.mixed.as_ref()?.dots.clone())).collect();
        let Losses { report, .. } = losses;
        let labelling = teacher.and_then(Teacher::rows);
        let Graph { steps: train, batch, .. } = graph;
        Ok(Self { backbone, teacher: labels, forward, train, batch, heads, labelling, report, sums, picked })
    }
}

fn check_sources(heads: &HeadWeights) -> Result<()> {
    if heads.sources.iter().any(|source| matches!(source, Source::Head(_))) {
        return Err(Error::unsupported("heads that read the output of another head are not trained"));
    }
    if heads.heads.iter().any(|head| matches!(head.body, Body::Residual(_))) {
        return Err(Error::unsupported("Medusa heads are not trained"));
    }
    if heads.gated && heads.heads.iter().all(|head| heads.is_base(head)) {
        return Err(Error::input(
            "a LoRA that acts on drafting rows only, without a head that drafts: add heads for +2 on",
        ));
    }
    if heads.gated && heads.heads.iter().any(|head| head.offset == 1 && !heads.is_base(head)) {
        return Err(Error::unsupported(
            "a head for token +1 with layers of its own beside a LoRA that acts on drafting rows only is not trained: there \
             the next token is the base model's; expected \"backbone_last_layer\" in mtp_config.json",
        ));
    }
    Ok(())
}

impl<'a> Graph<'a> {
    pub fn adapter(&self, block: usize) -> Option<&'a Adapter> {
        let adapters = self.model.heads.as_ref().map(|heads| &heads.adapters);
        adapters.and_then(|adapters| adapters.get(block)).and_then(Option::as_ref)
    }

    /// The streams as far as heads read them; from block `lowest` on what the way back needs is kept. With `base` the stream
    /// below the last block is kept too, if they come so far.
    fn backbone(&mut self, sources: &[Option<&Source>], lowest: Option<usize>, base: bool) -> Streams<'a> {
        let model = self.model;
        let total = model.weights.layers.len();
        let top = sources.iter().flatten().map(|source| source.blocks(total)).max().unwrap_or(0);
        let read = |level: usize| sources.iter().flatten().any(|source| source.reads(level, total));
        let shared = self.stream("stream");
        let unsaved = self.saved_for_all();
        let base = |level: usize| base && level + 1 == total;
        let kept = |level: usize| read(level) || base(level) || lowest.is_some_and(|lowest| level >= lowest);
        let mut after = Vec::with_capacity(top + 1);
        for level in 0..=top {
            after.push(if kept(level) { self.stream("kept stream") } else { shared.clone() });
        }
        let batch = self.batch.clone();
        self.embed(&model.weights.embedding, &batch, &after[0]);
        let mut blocks = Vec::with_capacity(top);
        for (index, layer) in model.weights.layers.iter().enumerate().take(top) {
            let keeps = lowest.is_some_and(|lowest| index >= lowest);
            let saved = if keeps { self.saved(layer, self.rows) } else { unsaved.clone() };
            let block = self.block(layer, self.adapter(index), &after[index], &after[index + 1], &saved, None);
            blocks.push(keeps.then_some(block));
        }
        Streams { after, blocks, unsaved }
    }

    fn input(&mut self, source: &'a Source, streams: &Streams<'a>) -> HeadInput<'a> {
        let dz = self.stream("d source");
        let (z, mixed) = match source {
            Source::Layer(level) => (streams.after[*level].clone(), None),
            Source::FinalNorm => {
                let z = self.stream("final norm");
                let last = streams.after.last().expect("there is a stream").clone();
                self.norm(&self.model.weights.final_norm, &last, &z, self.rows);
                (z, None)
            }
            Source::Mix(mix) => {
                let z = self.stream("mix");
                let logits = self.gradients.value(&mix.tensor);
                let mixed = self.mix(mix, logits, &streams.after[1..], &z);
                (z, Some(mixed))
            }
            Source::Head(_) => unreachable!("check_sources refuses it"),
        };
        HeadInput { source, z, dz, mixed }
    }

    /// From the gradients of the sources down to block `lowest`.
    fn backbone_back(&mut self, streams: &Streams<'a>, inputs: &[&HeadInput<'a>], lowest: usize) {
        let total = self.model.weights.layers.len();
        let d = self.stream("d stream");
        self.zero(&d, self.rows);
        let top = streams.after.len() - 1;
        for level in (lowest + 1..=top).rev() {
            for input in inputs.iter().filter(|input| input.source.reads(level, total)) {
                match (input.source, &input.mixed) {
                    (Source::FinalNorm, _) => {
                        let norm = &self.model.weights.final_norm;
                        self.norm_back_from(norm, &streams.after[level], &input.dz, &d, self.rows);
                    }
                    (_, Some(mixed)) => self.mix_to_stream(mixed, level, &input.dz, &d),
                    _ => self.add(&input.dz, &d, self.rows),
                }
            }
            if let Some(block) = &streams.blocks[level - 1] {
                self.block_back(block, &d, None);
            }
        }
    }
}

impl Source {
    /// Whether it reads the stream after `level` blocks.
    fn reads(&self, level: usize, total: usize) -> bool {
        match self {
            Self::Layer(layer) => *layer == level,
            Self::Mix(mix) => (1..=mix.logits.len()).contains(&level),
            Self::FinalNorm => level == total,
            Self::Head(_) => false,
        }
    }
}
