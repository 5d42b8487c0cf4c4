//! A whole model: steps of several widths, reading a prompt, generating.

use std::collections::BTreeMap;

use serde::Serialize;

use super::stopwatch::{Spread, Stopwatch};
use crate::decode::Stats;
use crate::gpu::{Counts, Gpu, Recorder};
use crate::kernels::{Extent, MAX_BATCH_ROWS, Op};
use crate::reference::random::pcg4d;
use crate::{DraftOptions, Engine, GenerateOptions, Result, Session};

/// A step of several rows.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct StepWidth {
    /// Rows: the tokens that the step verifies.
    pub rows: usize,
    /// Seconds of the step.
    pub seconds: Spread,
    /// T(M)/T(1): its time over that of a step of one row.
    pub ratio: Spread,
}

/// A marginal over the tokens that may come next.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SiblingWidth {
    /// Branches, in chunks of at most 32 rows.
    pub branches: usize,
    /// Seconds from the logits of the last token to the report.
    pub seconds: Spread,
    /// Its time over that of a step of one row.
    pub ratio: Spread,
}

/// Reading a prompt.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct PrefillRate {
    /// Tokens of the prompt.
    pub tokens: usize,
    /// Tokens a second, until the first new token is there.
    pub tokens_per_s: Spread,
    /// Multiplications and additions a second in products with the weights of the blocks.
    pub flops: f64,
}

/// Generating after a text of some length.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ContextRate {
    /// Tokens before the first new one.
    pub context: usize,
    /// New tokens of a sample.
    pub tokens: usize,
    /// Tokens a second.
    pub tokens_per_s: Spread,
    /// Bytes of the weights and of the cache that a token needs, a second, over what reading alone reaches.
    pub share_of_read: f64,
}

/// What a generated token takes.
#[derive(Clone, Copy, Debug, Serialize)]
#[non_exhaustive]
pub struct PerToken {
    /// Dispatches recorded.
    pub dispatches: f64,
    /// Compute passes.
    pub passes: f64,
    /// Submits.
    pub submits: f64,
    /// Readbacks waited for.
    pub readbacks: f64,
}

/// All dispatches of a step that have the same shader and grid.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct StepPart {
    /// The shader and its workgroups.
    pub kernel: String,
    /// Dispatches of a step.
    pub dispatches: usize,
    /// Seconds of all of them, without the rest of the step.
    pub seconds: Spread,
    /// `seconds` over those of all parts.
    pub share: f64,
}

pub(super) struct ModelBench<'a> {
    engine: &'a Engine,
    gpu: &'a Gpu,
    session: Session,
    watch: &'a Stopwatch<'a>,
    quick: bool,
}

impl<'a> ModelBench<'a> {
    pub fn new(engine: &'a Engine, watch: &'a Stopwatch<'a>, quick: bool) -> Result<Self> {
        Ok(Self { engine, gpu: engine.gpu(), session: engine.session()?, watch, quick })
    }

    /// T(M), after a text of 256 tokens or what the context allows.
    pub async fn step_widths(&mut self) -> Result<Vec<StepWidth>> {
        let widths: &[usize] = if self.quick { &[1, 2, 8] } else { &[1, 2, 3, 4, 6, 8, 16, 32] };
        let mut found = Vec::new();
        for &rows in widths {
            let committed = self.committed();
            let extent = self.session.stage_chain(committed, rows)?;
            let one = Extent { rows: 1, logit_rows: 1, ..extent };
            let session = &self.session;
            let step = |extent| move |recorder: &mut Recorder<'_>| record(session.step_ops(), recorder, extent);
            let (seconds, ratio) = self.watch.compare(step(extent), step(one)).await?;
            found.push(StepWidth { rows, seconds, ratio });
        }
        Ok(found)
    }

    /// Marginals of several widths, after the same text.
    pub async fn sibling_widths(&mut self) -> Result<Vec<SiblingWidth>> {
        let widths: &[usize] = if self.quick { &[8] } else { &[8, 32, 128] };
        let mut found = Vec::new();
        for &branches in widths.iter().filter(|&&branches| branches <= self.engine.config().vocab_size) {
            let committed = self.committed() - MAX_BATCH_ROWS;
            let siblings = self.session.stage_siblings(committed, branches)?;
            let one = Extent { rows: 1, logit_rows: 1, keys: committed as u32 + 1 };
            let session = &self.session;
            let (seconds, ratio) = self
                .watch
                .compare(
                    |recorder: &mut Recorder<'_>| session.record_siblings(&siblings, recorder),
                    |recorder: &mut Recorder<'_>| record(session.step_ops(), recorder, one),
                )
                .await?;
            found.push(SiblingWidth { branches, seconds, ratio });
        }
        Ok(found)
    }

    /// Where the time of a step of one row goes, most first.
    pub async fn step_parts(&mut self) -> Result<Vec<StepPart>> {
        let extent = self.session.stage_chain(self.committed(), 1)?;
        let mut alike: BTreeMap<String, Vec<&Op>> = BTreeMap::new();
        for op in self.session.step_ops() {
            alike.entry(op.name(extent)).or_default().push(op);
        }
        let mut parts = Vec::new();
        for (kernel, ops) in alike {
            let seconds = self.watch.time(|recorder| record(ops.iter().copied(), recorder, extent)).await?;
            parts.push(StepPart { kernel, dispatches: ops.len(), seconds, share: 0.0 });
        }
        let total: f64 = parts.iter().map(|part| part.seconds.median).sum();
        parts.iter_mut().for_each(|part| part.share = part.seconds.median / total);
        parts.sort_by(|a, b| b.share.total_cmp(&a.share));
        Ok(parts)
    }

    /// Seconds of the host for a dispatch, in a submit of one step.
    pub async fn cpu_per_dispatch(&mut self) -> Result<Spread> {
        let extent = self.session.stage_chain(0, 1)?;
        let dispatches = self.session.step_ops().count();
        let host = self.watch.host_time(|recorder| record(self.session.step_ops(), recorder, extent)).await?;
        Ok(host.times(1.0 / dispatches as f64))
    }

    /// Prompts that share nothing, so that the cache does not help.
    pub async fn prefill(&mut self) -> Result<PrefillRate> {
        let wanted = if self.gpu.summary().software { 128 } else { 1024 };
        let tokens = wanted.min(self.engine.context() - 1);
        let vocab = self.engine.config().vocab_size;
        let session = &mut self.session;
        generate(session, &prompt(vocab, 0, tokens), 1).await?;
        let mut seed = 0;
        let measure = async || {
            seed += 1;
            Ok(generate(session, &prompt(vocab, seed, tokens), 1).await?.prefill_s)
        };
        let tokens_per_s = self.watch.repeat(measure).await?.rate(tokens as f64);
        let flops = tokens_per_s.median * 2.0 * self.engine.block_weights() as f64;
        Ok(PrefillRate { tokens, tokens_per_s, flops })
    }

    /// Generating after texts of several lengths. `read` is in bytes a second.
    pub async fn decode(&mut self, read: f64) -> Result<Vec<ContextRate>> {
        let contexts: &[usize] = if self.quick { &[16] } else { &[32, 256, 1024] };
        let mut found = Vec::new();
        for &context in contexts.iter().filter(|&&context| context + MAX_NEW_TOKENS < self.engine.context()) {
            let prompt = prompt(self.engine.config().vocab_size, 0, context);
            let session = &mut self.session;
            let trial = generate(session, &prompt, 8).await?;
            let tokens = (trial.tokens_per_s * SAMPLE_S).clamp(8.0, MAX_NEW_TOKENS as f64) as usize;
            // The prompt is in the cache from here on, except for its last token.
            let measure = async || Ok(generate(session, &prompt, tokens).await?.tokens_per_s);
            let tokens_per_s = self.watch.repeat(measure).await?;
            let bytes = self.engine.step_bytes(context + tokens / 2) as f64;
            let share_of_read = bytes * tokens_per_s.median / read;
            found.push(ContextRate { context, tokens, tokens_per_s, share_of_read });
        }
        Ok(found)
    }

    /// Counts of the decoding steps of a generation, without those of its prompt.
    pub async fn per_token(&mut self) -> Result<PerToken> {
        let tokens = MAX_NEW_TOKENS.min(self.engine.context() / 2);
        let prompt = prompt(self.engine.config().vocab_size, 0, 1);
        let options =
            GenerateOptions { max_tokens: Some(tokens), draft: DraftOptions::off(), ..GenerateOptions::default() };
        let mut generation = self.session.generate(&prompt, &options, &mut |_| {}).await?;
        let before = self.gpu.counts();
        while generation.next().await?.is_some() {}
        let after = self.gpu.counts();
        let steps = (generation.ids().len() - 1).max(1) as f64;
        let per_step = |count: fn(&Counts) -> u64| (count(&after) - count(&before)) as f64 / steps;
        Ok(PerToken {
            dispatches: per_step(|counts| counts.dispatches),
            passes: per_step(|counts| counts.passes),
            submits: per_step(|counts| counts.submits),
            // The first readback is that of the prompt.
            readbacks: per_step(|counts| counts.readbacks) - 1.0 / steps,
        })
    }

    fn committed(&self) -> usize {
        256.min(self.engine.context() - MAX_BATCH_ROWS)
    }
}

/// The most tokens that a sample generates.
const MAX_NEW_TOKENS: usize = 64;

/// Seconds that a sample generates for, about.
const SAMPLE_S: f64 = 0.5;

fn record<'a>(ops: impl Iterator<Item = &'a Op>, recorder: &mut Recorder<'_>, extent: Extent) {
    ops.for_each(|op| op.record(recorder, extent));
}

async fn generate(session: &mut Session, prompt: &[u32], max_tokens: usize) -> Result<Stats> {
    let options =
        GenerateOptions { max_tokens: Some(max_tokens), draft: DraftOptions::off(), ..GenerateOptions::default() };
    let mut generation = session.generate(prompt, &options, &mut |_| {}).await?;
    while generation.next().await?.is_some() {}
    Ok(generation.stats())
}

/// Random tokens; prompts of different seeds differ from their first token on.
fn prompt(vocab: usize, seed: u32, tokens: usize) -> Vec<u32> {
    let id = |at| ((u64::from(pcg4d([0, at, 0x9e37, 0x79b9])[0]) + u64::from(seed)) % vocab as u64) as u32;
    (0..tokens as u32).map(id).collect()
}
