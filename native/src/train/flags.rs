//! The flags of `foretoken train`, what they may be, and which of them decide what comes out.

use std::path::PathBuf;

use clap::ValueEnum;
use foretoken::format::config::ModelConfig;
use foretoken::format::mtp::{Head, HeadSource, Init, InitOptions, InitSource, Lora, LoraOptions, MAX_HEADS, Wiring};
use foretoken::train::data::{Counted, MAX_TOKENS};
use foretoken::train::{self, TrainOptions};
use foretoken::{Error, Result, WeightFormat};
use serde_json::{Map, Value, json};

use super::marginal::FARTHEST;
use crate::init_heads;
use crate::source::{AdapterFlags, ModelFlag};

/// The temperature of a mix of hidden states in arXiv 2502.09419.
const WHS_TEMPERATURE: f64 = 0.1;

/// Sequences are not longer than this unless the user says so: memory grows with the square.
const SEQ_LEN: usize = 256;

/// Batches of a step: all of them are in memory at once.
const MAX_ACCUMULATE: usize = 4096;

#[derive(clap::Args)]
#[command(allow_negative_numbers = true)]
pub struct Args {
    #[command(flatten)]
    pub model: ModelFlag,
    #[command(flatten)]
    pub adapter: AdapterFlags,
    /// Texts to train on: .txt, documents divided by lines <|endoftext|>; or .jsonl, {"prompt", "completion"} or {"text"} a line
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
    /// Texts to measure the loss on, whenever a checkpoint is written and at the end
    #[arg(long, value_name = "FILE")]
    pub valid: Option<PathBuf>,
    /// The folder to write: the heads, log.jsonl, loss.svg, and checkpoints to go on from
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Go on with the run in the output folder
    #[arg(long)]
    pub resume: bool,

    /// Train heads for the tokens +1 to +N; sequential ones begin with +2 [default: 2]
    #[arg(long, value_name = "N", conflicts_with = "warmup_heads")]
    heads: Option<usize>,
    /// Whether heads also read the token before the one they predict [default: parallel]
    #[arg(long, value_enum, conflicts_with = "warmup_heads")]
    kind: Option<init_heads::Kind>,
    /// Layers of a head, as many as the model has at most [default: 1]
    #[arg(long, value_name = "LAYERS", conflicts_with = "warmup_heads")]
    depth: Option<usize>,
    /// What heads beyond the first begin as: copies of the model's last blocks, or small random numbers [default: copy]
    #[arg(long, value_enum, conflicts_with = "warmup_heads")]
    init: Option<init_heads::InitArg>,
    /// What heads read: a block's number from 1, whs or final-norm [default: the block before those that are copied]
    #[arg(long, value_name = "SOURCE", value_parser = init_heads::source, conflicts_with_all = ["warmup_heads", "whs"])]
    source: Option<InitSource>,
    /// Every head reads a mix of the streams after all blocks but the last, its weights trained: --source whs. The model's own
    /// last block, where it stays the head of the next token, does not
    #[arg(long, conflicts_with = "warmup_heads")]
    whs: bool,
    /// Begin with the heads in this folder
    #[arg(long, value_name = "DIR")]
    pub warmup_heads: Option<PathBuf>,

    /// Whether the backbone is left as it is, learns with the heads through a LoRA, or learns through a LoRA alone, without heads
    #[arg(long, value_enum, default_value = "frozen")]
    mode: Mode,
    /// Rank of the LoRA of queries, keys and values, of the blocks that heads follow; of all with --mode baseline and where the
    /// model's own last block stays the head of the next token [default: 8, or that of the heads]
    #[arg(long, value_name = "RANK")]
    lora_rank: Option<usize>,
    /// Whether each head's loss is scaled to the first head's [default: rms with --mode joint, else none]
    #[arg(long, value_enum)]
    loss_balance: Option<Balance>,
    /// What the learning rate of the heads is multiplied with [default: 4 with --mode joint, else 1]
    #[arg(long, value_name = "FACTOR")]
    head_lr_mult: Option<f64>,
    /// What heads are to predict: the texts' tokens; what the model, without any LoRA, thinks of the place of each; or the model's
    /// marginal over the 16 likeliest branches, computed beforehand to marginals.labels
    #[arg(long, value_enum, default_value = "tokens")]
    target: Target,
    /// The LoRA acts on drafting rows only, so that the model's own prediction stays what it is
    #[arg(long)]
    gated: bool,
    /// Pack the model's matrices as they are loaded, which a LoRA without --gated would change: q8_0, q4_0, ...
    /// [default: as they are stored]
    #[arg(long, value_name = "FORMAT")]
    pub quantize: Option<WeightFormat>,
    /// Which tokens count: completions and their end tokens (other texts count whole), or all
    #[arg(long, value_enum, default_value = "completion")]
    loss: Loss,

    /// Train on the model's own greedy continuations of the prompts in the data; of other texts, of their first tokens
    #[arg(long)]
    pub self_distill: bool,
    /// The most tokens of such a continuation
    #[arg(long, value_name = "TOKENS", default_value_t = 150, requires = "self_distill")]
    pub distill_tokens: usize,
    /// Tokens that a text without a prompt gives as one
    #[arg(long, value_name = "TOKENS", default_value_t = 16, requires = "self_distill")]
    pub distill_prompt: usize,

    /// The highest learning rate [default: half of "learning_rate" in the model folder's training.json]
    #[arg(long, value_name = "RATE")]
    pub lr: Option<f64>,
    /// Optimizer steps
    #[arg(long, value_name = "STEPS", conflicts_with = "epochs")]
    steps: Option<u64>,
    /// How often every sequence is seen [default: 1]
    #[arg(long, value_name = "TIMES")]
    epochs: Option<u64>,
    /// Steps in which the learning rate rises to its highest; then it falls as half a cosine
    #[arg(long, value_name = "STEPS", default_value_t = 0)]
    pub warmup_steps: u64,
    /// AdamW's weight decay
    #[arg(long, value_name = "NUMBER", default_value_t = 0.01)]
    weight_decay: f64,
    /// Scale gradients down to this norm [default: never]
    #[arg(long, value_name = "NORM")]
    clip: Option<f64>,
    /// Sequences that are computed together
    #[arg(long, value_name = "SEQUENCES", default_value_t = 64)]
    pub batch: usize,
    /// Batches a step, their gradients added
    #[arg(long, value_name = "BATCHES", default_value_t = 1)]
    pub accumulate: usize,
    /// Tokens of a sequence [default: the model's context, at most 256]
    #[arg(long, value_name = "TOKENS")]
    seq_len: Option<usize>,
    /// Seed of the order of sequences and of new heads
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub seed: u64,
    /// Write a checkpoint after so many steps; 0: only at the end and at Ctrl-C or SIGTERM
    #[arg(long, value_name = "STEPS", default_value_t = 100)]
    pub checkpoint_every: u64,
    /// Stop after so many steps of this run, as if by Ctrl-C: at the same place each time, which a signal cannot
    #[arg(long, value_name = "STEPS", hide = true)]
    pub stop_after: Option<u64>,
    /// Write the heads in f16
    #[arg(long)]
    pub half: bool,
    /// Also write the batches of all steps to this new file, for another program to train on
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    pub dump_batches: Option<PathBuf>,
    /// Print one JSON object at the end
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Mode {
    Frozen,
    Joint,
    Baseline,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Balance {
    Rms,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Target {
    Tokens,
    Shifted,
    Marginal,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Loss {
    Completion,
    All,
}

fn input(message: String) -> Error {
    Error::input(message)
}

fn at_least<T: PartialOrd + std::fmt::Display>(flag: &str, value: T, least: T) -> Result<()> {
    if value >= least { Ok(()) } else { Err(input(format!("{flag} {value}: expected at least {least}"))) }
}

fn above_zero(flag: &str, value: Option<f64>) -> Result<()> {
    // As the kernels have it.
    match value.filter(|value| !((*value as f32).is_finite() && *value as f32 > 0.0)) {
        Some(value) => Err(input(format!("{flag} {value}: expected a number above 0 that f32 holds"))),
        None => Ok(()),
    }
}

impl Args {
    /// Whatever can be wrong with the flags alone: checked before anything is read or written.
    pub fn check(&self) -> Result<()> {
        if self.mode == Mode::Baseline {
            self.check_baseline()?;
        }
        at_least("--heads", self.head_count(), 1)?;
        if self.head_count() > MAX_HEADS {
            return Err(input(format!("--heads {}: expected at most {MAX_HEADS}", self.head_count())));
        }
        if self.sequential() && self.head_count() < 2 {
            return Err(input(
                "--kind sequential --heads 1: such heads begin with token +2: expected at least 2".to_owned(),
            ));
        }
        if self.gated && !self.joint() {
            return Err(input("--gated: it is for the LoRA that --mode joint trains with the heads".to_owned()));
        } else if self.gated && self.head_count() < 2 {
            return Err(input(
                "--gated --heads 1: the next token stays the model's own: expected at least 2".to_owned(),
            ));
        }
        at_least("--depth", self.layers(), 1)?;
        at_least("--lora-rank", self.rank(), 1)?;
        if let Some(rank) = self.lora_rank.filter(|_| !self.has_lora()) {
            return Err(input(format!("--lora-rank {rank}: a frozen backbone has no LoRA; with --mode joint it has")));
        } else if self.loss_balance == Some(Balance::Rms) && !self.joint() {
            return Err(input(
                "--loss-balance rms: on a frozen backbone heads learn independently; it is for --mode joint".to_owned(),
            ));
        }
        above_zero("--lr", self.lr)?;
        above_zero("--head-lr-mult", self.head_lr_mult)?;
        above_zero("--clip", self.clip)?;
        if !((self.weight_decay as f32).is_finite() && self.weight_decay >= 0.0) {
            return Err(input(format!(
                "--weight-decay {}: expected a number from 0 that f32 holds",
                self.weight_decay
            )));
        }
        at_least("--steps", self.steps.unwrap_or(1), 1)?;
        at_least("--epochs", self.epochs.unwrap_or(1), 1)?;
        at_least("--batch", self.batch, 1)?;
        at_least("--accumulate", self.accumulate, 1)?;
        if self.accumulate > MAX_ACCUMULATE {
            return Err(input(format!("--accumulate {}: expected at most {MAX_ACCUMULATE}", self.accumulate)));
        }
        at_least("--seq-len", self.seq_len.unwrap_or(2), 2)?;
        self.check_batch(self.seq_len.unwrap_or(2))?;
        at_least("--distill-tokens", self.distill_tokens, 1)?;
        at_least("--distill-prompt", self.distill_prompt, 1)?;
        if let Some(steps) = self.steps.filter(|&steps| self.warmup_steps >= steps) {
            return Err(input(format!("--warmup-steps {}: expected fewer than --steps {steps}", self.warmup_steps)));
        }
        Ok(())
    }

    fn check_baseline(&self) -> Result<()> {
        let given = [
            ("--heads", self.heads.is_some()),
            ("--kind", self.kind.is_some()),
            ("--depth", self.depth.is_some()),
            ("--init", self.init.is_some()),
            ("--source", self.source.is_some()),
            ("--whs", self.whs),
            ("--warmup-heads", self.warmup_heads.is_some()),
            ("--head-lr-mult", self.head_lr_mult.is_some()),
            ("--loss-balance rms", self.loss_balance == Some(Balance::Rms)),
            ("--gated", self.gated),
            // It would learn what it is already.
            ("--target shifted", self.target == Target::Shifted),
            ("--target marginal", self.target == Target::Marginal),
        ];
        match given.iter().find(|(_, given)| *given) {
            Some((flag, _)) => {
                Err(input(format!("{flag}: --mode baseline trains what the model itself predicts, and no heads")))
            }
            None => Ok(()),
        }
    }

    /// Batches of sequences of so many tokens are computed together.
    fn check_batch(&self, length: usize) -> Result<()> {
        match self.batch.checked_mul(length) {
            Some(tokens) if tokens <= MAX_TOKENS => Ok(()),
            _ => Err(input(format!(
                "--batch {} with --seq-len {length}: expected at most {MAX_TOKENS} tokens together; use a smaller --batch with a \
                 larger --accumulate, or a smaller --seq-len",
                self.batch
            ))),
        }
    }

    fn head_count(&self) -> usize {
        self.heads.unwrap_or(2)
    }

    fn layers(&self) -> usize {
        self.depth.unwrap_or(1)
    }

    fn sequential(&self) -> bool {
        self.kind == Some(init_heads::Kind::Sequential)
    }

    fn joint(&self) -> bool {
        self.mode == Mode::Joint
    }

    /// Whether the backbone learns.
    pub fn has_lora(&self) -> bool {
        self.mode != Mode::Frozen
    }

    fn rank(&self) -> usize {
        self.lora_rank.unwrap_or(8)
    }

    fn balanced(&self) -> bool {
        self.loss_balance.map_or(self.joint(), |balance| balance == Balance::Rms)
    }

    fn head_rate(&self) -> f64 {
        self.head_lr_mult.unwrap_or(if self.joint() { 4.0 } else { 1.0 })
    }

    /// Tokens of a sequence for this model.
    pub fn seq_len(&self, config: &ModelConfig) -> Result<usize> {
        let context = config.max_position_embeddings;
        let length = self.seq_len.unwrap_or(context.min(SEQ_LEN));
        if length > context {
            return Err(input(format!("--seq-len {length}: the model's context holds {context} tokens")));
        }
        self.check_batch(length)?;
        Ok(length)
    }

    /// Which tokens count.
    pub fn counted(&self) -> Counted {
        match self.loss {
            Loss::Completion => Counted::Completion,
            Loss::All => Counted::All,
        }
    }

    /// Optimizer steps, when an epoch has so many.
    pub fn steps(&self, an_epoch: u64) -> u64 {
        self.steps.unwrap_or_else(|| self.epochs.unwrap_or(1).saturating_mul(an_epoch))
    }

    /// Whether labels must be computed beforehand.
    pub fn needs_marginals(&self) -> bool {
        self.target == Target::Marginal
    }

    /// Checks that the marginal says something of what `heads` predict.
    pub fn check_target(&self, heads: &[Head]) -> Result<()> {
        if !self.needs_marginals() {
            return Ok(());
        }
        if heads.iter().any(|head| matches!(head.wiring, Wiring::Sequential { .. })) {
            return Err(input(
                "--target marginal: sequential heads read the token before the one they predict, which a marginal leaves open; use \
                 --target shifted"
                    .to_owned(),
            ));
        }
        match heads.iter().map(|head| head.offset).max().unwrap_or(1) {
            ..2 => Err(input("--target marginal --heads 1: the marginal begins with token +2".to_owned())),
            offset if offset > FARTHEST => Err(input(format!(
                "--target marginal: expected heads for tokens up to +{FARTHEST}, as far as marginals go, got +{offset}"
            ))),
            _ => Ok(()),
        }
    }

    /// The heads to begin with.
    pub fn init_options(&self, config: &ModelConfig) -> Result<InitOptions> {
        let (sequential, baseline) = (self.sequential(), self.mode == Mode::Baseline);
        let backbone_first = baseline || self.gated || (self.joint() && !self.first_takes_the_last_place(config));
        if backbone_first && !baseline && self.head_count() < 2 {
            return Err(input(
                "--heads 1: with this source and depth the next token stays the model's own: expected at least 2"
                    .to_owned(),
            ));
        }
        // With a LoRA, what the model itself predicts is trained beside them.
        let heads = if baseline { 1 } else { self.head_count() - usize::from(sequential && !self.joint()) };
        Ok(InitOptions::default()
            .heads(heads)
            .sequential(sequential)
            .depth(self.layers())
            .source(self.head_source())
            .init(self.head_init())
            .seed(self.seed)
            .backbone_first(backbone_first))
    }

    fn head_source(&self) -> InitSource {
        let source = if self.whs { Some(InitSource::Mix { temperature: WHS_TEMPERATURE }) } else { self.source };
        source.unwrap_or(InitSource::Default)
    }

    fn head_init(&self) -> Init {
        match self.init {
            Some(init_heads::InitArg::Random) => Init::RandomBeyondFirst,
            _ => Init::Copy,
        }
    }

    /// Whether a new head 1 can stand for the model's last blocks.
    fn first_takes_the_last_place(&self, config: &ModelConfig) -> bool {
        let follows = match self.head_source() {
            InitSource::Default => true,
            InitSource::Layer(layer) => config.num_hidden_layers.checked_sub(self.layers()) == Some(layer),
            InitSource::Mix { .. } => self.layers() == 1,
            InitSource::FinalNorm => false,
        };
        follows && !self.sequential()
    }

    /// The LoRA to begin with, for heads that bring none: of the blocks below what they read, and never of the last one, which
    /// head 1 is; where the model keeps its last block, of all. A gated one is of the blocks below what drafting heads read.
    pub fn lora_options(&self, config: &ModelConfig, heads: &[Head]) -> Result<LoraOptions> {
        let total = config.num_hidden_layers;
        let level = |head: &Head| match &head.source {
            HeadSource::Layer(level) => *level,
            HeadSource::Mix { .. } | HeadSource::FinalNorm => total - 1,
            // That head's own source is among them.
            HeadSource::Head(_) => 0,
        };
        let drafting = |head: &&Head| head.wiring != Wiring::LastLayer && head.offset > 1;
        let below = |head: &Head| if head.source == HeadSource::FinalNorm { total } else { level(head) };
        // Where no head predicts the next token that block will be put before them.
        let keeps_last = heads.iter().any(|head| head.wiring == Wiring::LastLayer);
        let blocks = match keeps_last || heads.iter().all(|head| head.offset != 1) {
            _ if self.gated => heads.iter().filter(drafting).map(below).max().unwrap_or(0),
            true => total,
            false => heads.iter().map(level).max().unwrap_or(0).min(total - 1),
        };
        if blocks == 0 {
            return Err(input("--mode joint: expected a model of at least 2 blocks".to_owned()));
        }
        Ok(LoraOptions::new(self.rank(), blocks).gated(self.gated).seed(self.seed))
    }

    /// Checks that what the model says next is trained, where a LoRA changes it; `brought`: the heads of --warmup-heads have one.
    pub fn check_next_token(&self, heads: &[Head], brought: bool) -> Result<()> {
        let trained = heads.iter().any(|head| head.target || head.wiring == Wiring::LastLayer);
        if !self.joint() || self.gated || trained {
            return Ok(());
        }
        let gated = if brought { "" } else { ", or add --gated" };
        Err(input(format!(
            "--mode joint: no head of --warmup-heads is what the model says next, which a LoRA would change and not train: begin with \
             new heads{gated}"
        )))
    }

    /// The rank of the LoRA that heads bring, if it is trained with them.
    pub fn brought_rank(&self, lora: Option<&Lora>) -> Result<Option<usize>> {
        let Some(lora) = lora.filter(|_| self.has_lora()) else { return Ok(None) };
        if lora.gated != self.gated {
            let message = match self.gated {
                true => "--gated: the LoRA that the heads of --warmup-heads bring acts on all rows",
                false => {
                    "--mode joint: the LoRA that the heads of --warmup-heads bring acts on drafting rows only: add --gated"
                }
            };
            return Err(input(message.to_owned()));
        }
        match self.lora_rank.filter(|&rank| rank != lora.rank) {
            Some(rank) => {
                let message =
                    format!("--lora-rank {rank}: the heads of --warmup-heads bring a LoRA of rank {}", lora.rank);
                Err(input(message))
            }
            None => Ok(Some(lora.rank)),
        }
    }

    /// The options for the trainer.
    pub fn train_options(&self, length: usize, picked: usize, heads: &[Head]) -> TrainOptions {
        let has = |of: fn(&Wiring) -> bool| heads.iter().any(|head| of(&head.wiring));
        // Such heads follow the model's own last block.
        let follow = !self.gated
            && has(|wiring| matches!(wiring, Wiring::Sequential { .. }))
            && has(|wiring| *wiring == Wiring::LastLayer);
        TrainOptions::default()
            .sequences(self.batch)
            .length(length)
            .picked(picked)
            .accumulate(self.accumulate)
            .train_heads(self.mode != Mode::Baseline)
            .train_lora(self.has_lora())
            .balance(self.balanced())
            .detach(follow)
            .target(match self.target {
                Target::Tokens => train::Target::Tokens,
                Target::Shifted => train::Target::Shifted,
                Target::Marginal => train::Target::Marginal,
            })
            .head_rate(self.head_rate())
            .weight_decay(self.weight_decay)
            .max_norm(self.clip)
            .quantize(self.quantize)
    }

    /// The flags that decide what comes out, as they are after defaults: a run may be resumed only with the same ones.
    /// `rank` is that of the LoRA that is trained.
    pub fn deciding(&self, length: usize, rate: f64, rank: Option<usize>) -> Map<String, Value> {
        let name = |value: &dyn std::fmt::Debug| format!("{value:?}").to_ascii_lowercase();
        let mut flags = Map::new();
        let mut put = |flag: &str, value: Value| flags.insert(flag.to_owned(), value);
        if self.warmup_heads.is_none() && self.mode != Mode::Baseline {
            put("--heads", json!(self.head_count()));
            put("--kind", json!(if self.sequential() { "sequential" } else { "parallel" }));
            put("--depth", json!(self.layers()));
            put("--source", json!(name(&self.head_source())));
            put("--init", json!(if self.head_init() == Init::Copy { "copy" } else { "random" }));
        }
        put("--mode", json!(name(&self.mode)));
        if let Some(rank) = rank {
            put("--lora-rank", json!(rank));
        }
        put("--loss-balance", json!(if self.balanced() { "rms" } else { "none" }));
        put("--head-lr-mult", json!(self.head_rate()));
        put("--target", json!(name(&self.target)));
        put("--gated", json!(self.gated));
        if let Some(format) = self.quantize {
            put("--quantize", json!(format.flag()));
        }
        put("--loss", json!(name(&self.loss)));
        put("--self-distill", json!(self.self_distill));
        if self.self_distill {
            put("--distill-tokens", json!(self.distill_tokens));
            put("--distill-prompt", json!(self.distill_prompt));
        }
        put("--lr", json!(rate));
        put("--steps", json!(self.steps));
        put("--epochs", json!(if self.steps.is_some() { None } else { Some(self.epochs.unwrap_or(1)) }));
        put("--warmup-steps", json!(self.warmup_steps));
        put("--weight-decay", json!(self.weight_decay));
        put("--clip", json!(self.clip));
        put("--batch", json!(self.batch));
        put("--accumulate", json!(self.accumulate));
        put("--seq-len", json!(length));
        put("--seed", json!(self.seed));
        flags
    }
}

#[cfg(test)]
mod tests;
