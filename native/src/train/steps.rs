//! The steps of a training: batches, checkpoints, validation, the log, and the report at the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Instant;

use foretoken::format::mtp::{CONFIG, TENSORS, halved};
use foretoken::train::data::Dataset;
use foretoken::train::schedule::Schedule;
use foretoken::train::{HeadLoss, StepReport, Trainer};
use foretoken::{Error, ErrorKind, Gpu, Result};
use serde::Serialize;
use serde_json::{Value, json};

use super::flags::Args;
use super::folder::{Log, OutFolder, PLOT};
use super::marginal::Labels;
use super::plot;
use crate::output::write_whole;
use crate::terminal::{Outcome, Work, bytes, print_json, print_status};

/// How a training ended.
#[derive(Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stopped {
    /// After its last step.
    Finished,
    /// By a signal.
    Interrupt,
}

/// A training under way.
pub struct Training<'a> {
    pub args: &'a Args,
    pub trainer: Trainer,
    /// What it learns.
    pub data: &'a Dataset,
    /// What it is measured on.
    pub valid: Option<&'a Dataset>,
    /// The marginals that it learns, if it learns them.
    pub labels: Option<Labels>,
    pub schedule: Schedule,
    pub log: Log,
    /// Seconds that the steps of this run took.
    pub seconds: f64,
}

impl Training<'_> {
    /// Goes on from the last checkpoint to the end, or until it is interrupted.
    pub async fn go_on(&mut self, out: &mut OutFolder, interrupt: &Arc<AtomicBool>) -> Result<Stopped> {
        if let Some(parameters) = out.parameters()? {
            self.trainer.restore(&parameters).await.map_err(|error| error.within(out.join("checkpoint").display()))?;
        }
        let (done, total) = (out.step(), self.schedule.steps());
        if self.trainer.steps() != done {
            let (got, place) = (self.trainer.steps(), out.join("checkpoint"));
            let message = format!("{}: the state is of step {got}, its description of {done}", place.display());
            return Err(Error::format(message));
        }
        if self.checkpoint_is_due(done) && self.log.last("valid").is_none_or(|line| line["step"] != done) {
            self.validate(done, interrupt).await?;
        }
        let mut batches = self.data.batches(self.args.seed, self.args.batch, self.args.accumulate);
        let mut bar = Work::new("training", done, total);
        let mut tokens = 0;
        for step in done..total {
            if interrupt.load(SeqCst) || self.args.stop_after == Some(step - done) {
                self.keep(out, step).await?;
                return Ok(Stopped::Interrupt);
            }
            let started = Instant::now();
            let batch = batches.step(step);
            let rate = self.schedule.rate(step);
            let mut labels = Vec::new();
            if let Some(file) = &mut self.labels {
                labels = batches.sequences_of(step).iter().map(|batch| file.of(batch)).collect::<Result<_>>()?;
            }
            let report = match self.trainer.step_with(&batch, &labels, rate).await {
                Ok(report) => report,
                Err(error) => {
                    // Such an error has changed nothing: what was trained until then is kept.
                    if matches!(error.kind(), ErrorKind::Input | ErrorKind::NotFinite)
                        && let Err(also) = self.keep(out, step).await
                    {
                        print_status(format_args!("note: no checkpoint of step {step} was written: {also}"));
                    }
                    return Err(error);
                }
            };
            let targets = batch.iter().flat_map(|batch| &batch.counts).filter(|&&counts| counts).count() as u64;
            let seconds = started.elapsed().as_secs_f64();
            self.seconds += seconds;
            tokens += targets;
            let at = step + 1;
            self.log.add(logged(at, &report, rate, targets, seconds))?;
            bar.update(at, tokens, &describe(&report.losses));
            if self.checkpoint_is_due(at) {
                self.keep(out, at).await?;
                self.validate(at, interrupt).await?;
                self.plot(out)?;
            }
        }
        drop(bar);
        let mut heads = self.trainer.save().await?;
        if self.args.half {
            heads = halved(&heads)?;
        }
        // The description last: a folder without one has no heads, whatever else was interrupted.
        for name in [TENSORS, CONFIG] {
            if let Some(bytes) = heads.get(name) {
                write_whole(&out.join(name), bytes)?;
            }
        }
        self.plot(out)?;
        Ok(Stopped::Finished)
    }

    fn checkpoint_is_due(&self, step: u64) -> bool {
        let every = self.args.checkpoint_every;
        step > 0 && (step == self.schedule.steps() || (every > 0 && step.is_multiple_of(every)))
    }

    /// Writes a checkpoint of `step` steps, unless there is one.
    async fn keep(&self, out: &mut OutFolder, step: u64) -> Result<()> {
        if step > out.step() {
            // The log first: lines beyond a checkpoint are cut off when a run goes on, but none can be brought back.
            self.log.sync()?;
            out.checkpoint(step, &self.trainer.state().await?)?;
            self.plot(out)?;
        }
        Ok(())
    }

    fn plot(&self, out: &OutFolder) -> Result<()> {
        write_whole(&out.join(PLOT), plot::plot(self.log.lines()).as_bytes())
    }

    /// Measures the validation texts after `step` steps. Where that is interrupted, the run that goes on does it.
    async fn validate(&mut self, step: u64, interrupt: &Arc<AtomicBool>) -> Result<()> {
        match self.evaluate(interrupt).await? {
            Some(losses) => self.log.add(json!({"step": step, "valid": by_head(&losses)})),
            None => Ok(()),
        }
    }

    /// The losses on the validation texts; none if it was interrupted.
    async fn evaluate(&mut self, interrupt: &Arc<AtomicBool>) -> Result<Option<Vec<HeadLoss>>> {
        let Some(valid) = self.valid else { return Ok(None) };
        let mut sums: BTreeMap<usize, (f64, u64)> = BTreeMap::new();
        for batch in valid.in_order(self.args.batch) {
            if interrupt.load(SeqCst) {
                return Ok(None);
            }
            for HeadLoss { offset, nll, targets } in self.trainer.evaluate(&batch).await? {
                let sum = sums.entry(offset).or_default();
                sum.0 += nll * targets as f64;
                sum.1 += targets;
            }
        }
        let loss = |(offset, (sum, targets)): (usize, (f64, u64))| HeadLoss {
            offset,
            nll: sum / targets.max(1) as f64,
            targets,
        };
        Ok(Some(sums.into_iter().map(loss).collect()))
    }

    /// Reports the outcome: one JSON object, or one line for people.
    pub fn report(&self, out: &OutFolder, gpu: &Gpu, model: &str, stopped: Stopped) -> Outcome<()> {
        let (step, steps) = (self.trainer.steps(), self.schedule.steps());
        let folder = out.join("");
        let field = |name: &str| {
            let line = self.log.last(name).filter(|line| line["step"] == step);
            line.map_or(Value::Null, |line| line[name].clone())
        };
        if self.args.json {
            return print_json(&json!({
                "model": model,
                "adapter": gpu.summary().name,
                "out": folder.display().to_string(),
                "step": step,
                "steps": steps,
                "stopped": stopped,
                "losses": field("losses"),
                "valid": field("valid"),
                "sequences": self.data.len(),
                "dropped": self.data.dropped,
                "truncated": self.data.truncated,
                "unused_tokens": self.data.unused,
                "trained_values": self.trainer.trained(),
                "seconds": self.seconds,
            }));
        }
        let losses: Vec<String> = field("losses")
            .as_object()
            .into_iter()
            .flatten()
            .map(|(offset, loss)| format!("+{offset} {:.3}", loss.as_f64().unwrap_or(f64::NAN)))
            .collect();
        let how = if stopped == Stopped::Finished { "trained" } else { "interrupted; --resume goes on" };
        print_status(format_args!(
            "[{how}: step {step} of {steps} · loss {} · {} values, {} beside the model · {:.0} s · {}]",
            losses.join(", "),
            self.trainer.trained(),
            bytes(self.trainer.bytes()),
            self.seconds,
            folder.display()
        ));
        Ok(())
    }
}

/// Losses by the token that a head predicts; without targets there is nothing to tell.
fn by_head(losses: &[HeadLoss]) -> Value {
    let losses = losses.iter().filter(|loss| loss.targets > 0);
    Value::Object(losses.map(|loss| (loss.offset.to_string(), json!(loss.nll))).collect())
}

/// A step's line of the log.
fn logged(step: u64, report: &StepReport, rate: f64, tokens: u64, seconds: f64) -> Value {
    json!({
        "step": step,
        "losses": by_head(&report.losses),
        "rate": rate,
        "gradient_norm": report.gradient_norm,
        "tokens": tokens,
        "seconds": seconds,
    })
}

fn describe(losses: &[HeadLoss]) -> String {
    let losses: Vec<String> = losses.iter().map(|loss| format!("{:.3}", loss.nll)).collect();
    format!("loss {}", losses.join(" "))
}
