//! What each drafter brings and costs: tokens a round, and a round over a plain step.

use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

use serde::Serialize;

use super::BenchOptions;
use super::stopwatch::Spread;
use super::table::spread;
use crate::decode::{RecordedDrafts, Stats};
use crate::gpu::AdapterSummary;
use crate::{DraftOptions, DraftTree, Drafter, Engine, GenerateOptions, KernelSet, Result, Sampling, Session};

/// Samples of a drafter, each after one of the plain steps it is compared with.
const SAMPLES: usize = 7;

/// What drafters bring and cost with one model on one device; displayed, it is a table for people.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct DraftReport {
    /// The adapter, with its driver and limits.
    pub adapter: AdapterSummary,
    /// The kernel set.
    pub kernels: KernelSet,
    /// The version of the source, [`BenchOptions::commit`].
    pub commit: String,
    /// The model.
    pub model: String,
    /// Tokens of each text.
    pub tokens: usize,
    /// Each drafter with each tree.
    pub drafters: Vec<DraftRate>,
}

/// One drafter.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct DraftRate {
    /// Its name; `recorded` knows the text beforehand, so it is what a perfect drafter would reach.
    pub drafter: String,
    /// Children of each node by depth; `auto` where the depth adapts.
    pub tree: String,
    /// Tokens a round brought.
    pub tokens_per_round: f64,
    /// Seconds of a round over those of a plain step.
    pub round_cost: Spread,
    /// Tokens a second over those without drafts.
    pub speed: Spread,
}

/// Measures the drafters that `engine` has, greedily, after `prompt`, with the kernels that it has.
///
/// # Errors
/// As [`Session::generate`].
pub async fn drafts(
    engine: &Engine,
    model: String,
    prompt: &[u32],
    options: &BenchOptions,
    progress: &mut dyn FnMut(&str),
) -> Result<DraftReport> {
    let quick = options.quick;
    let tokens = if quick { 12 } else { 96 }.min(engine.context().saturating_sub(prompt.len()));
    let commit = options.stated_commit();
    let mut session = engine.session()?;
    let off = DraftOptions::off();
    let (text, _) = generate(&mut session, prompt, tokens, &off).await?;
    let recorded = RecordedDrafts(prompt.iter().chain(&text).map(|&id| [id; 4]).collect());
    let recorded = Drafter::Recorded(Arc::new(recorded));
    let mut candidates = vec![(Drafter::Auto, None)];
    candidates.extend(["1", "1,1,1", "2,2,1"].map(|tree| (Drafter::Lookup, Some(tree))));
    candidates.extend(["1", "1,1", "1,1,1", "3,2", "4,2,1"].map(|tree| (Drafter::Heads, Some(tree))));
    candidates.push((Drafter::Marginal, Some("1")));
    candidates.extend(["1", "1,1,1", "1,1,1,1,1,1,1"].map(|tree| (recorded.clone(), Some(tree))));
    let mut drafters = Vec::new();
    for (drafter, tree) in candidates {
        let tree = tree.map(str::parse::<DraftTree>).transpose()?;
        let options = DraftOptions { drafter, tree: tree.clone(), trace: false };
        // The first time compiles and measures; a model may lack heads, or some of the depths.
        let Ok((_, first)) = generate(&mut session, prompt, tokens, &options).await else { continue };
        let auto = options.drafter == Drafter::Auto;
        let name = if auto { format!("auto: {}", first.drafts.drafter) } else { first.drafts.drafter.to_owned() };
        let tree = tree.map_or("auto".to_owned(), |tree| tree.to_string());
        progress(&format!("{name} {tree}"));
        let (mut costs, mut speeds, mut brought) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..if quick { 1 } else { SAMPLES } {
            let (_, plain) = generate(&mut session, prompt, tokens, &off).await?;
            let (_, drafted) = generate(&mut session, prompt, tokens, &options).await?;
            let step = plain.decode_s / plain.drafts.rounds.max(1) as f64;
            costs.push(drafted.decode_s / drafted.drafts.rounds.max(1) as f64 / step);
            speeds.push(drafted.tokens_per_s / plain.tokens_per_s);
            brought.push(drafted.drafts.tokens_per_round);
        }
        // Of `auto` it varies from text to text.
        let tokens_per_round = brought.iter().sum::<f64>() / brought.len() as f64;
        let (round_cost, speed) = (Spread::of(costs), Spread::of(speeds));
        drafters.push(DraftRate { drafter: name, tree, tokens_per_round, round_cost, speed });
    }
    let (adapter, kernels) = (engine.gpu().summary().clone(), engine.kernels());
    Ok(DraftReport { adapter, kernels, commit, model, tokens, drafters })
}

async fn generate(
    session: &mut Session,
    prompt: &[u32],
    max_tokens: usize,
    draft: &DraftOptions,
) -> Result<(Vec<u32>, Stats)> {
    let (sampling, draft) = (Sampling::default(), draft.clone());
    let options = GenerateOptions { max_tokens: Some(max_tokens), sampling, draft, ..GenerateOptions::default() };
    let mut generation = session.generate(prompt, &options, &mut |_| {}).await?;
    while generation.next().await?.is_some() {}
    Ok((generation.ids().to_vec(), generation.stats()))
}

impl Display for DraftReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let adapter = &self.adapter;
        writeln!(f, "adapter   {adapter}, {} {}", adapter.driver, adapter.driver_info)?;
        writeln!(f, "kernels   {}, foretoken {} ({})", self.kernels, env!("CARGO_PKG_VERSION"), self.commit)?;
        writeln!(f, "model     {}, greedy texts of up to {} tokens", self.model, self.tokens)?;
        writeln!(f, "Medians, with the range of all but the lowest and the highest tenth of the samples.\n")?;
        writeln!(
            f,
            "{:<14} {:<14} {:>14} {:>26} {:>26}",
            "drafter", "tree", "tokens a round", "round over plain step", "speed over plain"
        )?;
        for rate in &self.drafters {
            let DraftRate { drafter, tree, tokens_per_round, .. } = rate;
            let (cost, speed) = (spread(rate.round_cost, 1.0), spread(rate.speed, 1.0));
            writeln!(f, "{drafter:<14} {tree:<14} {tokens_per_round:>14.2} {cost:>26} {speed:>26}")?;
        }
        Ok(())
    }
}
