//! The cost of a draft on this device. It differs from run to run, so it is no part of report.json.

use foretoken::decode::Stats;
use foretoken::{DraftOptions, DraftTree, Drafter, Engine, GenerateOptions, Result, Session};
use serde::{Deserialize, Serialize};

/// Where a part of the samples was measured, and how fast that device drafts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    pub adapter: String,
    pub kernels: String,
    pub drafts: Vec<DraftTime>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DraftTime {
    pub heads: String,
    /// Tokens of a draft.
    pub tokens: usize,
    /// The draft's time over that of a plain step: the median of a few turns.
    pub draft_over_step: f64,
}

/// Turns of a measurement.
const TURNS: usize = 3;

/// Times a draft of `tokens` tokens beside plain steps, after `prompt`; none for heads that cannot draft so many.
pub async fn draft(engine: &Engine, heads: &str, tokens: usize, prompt: &[u32]) -> Result<Option<DraftTime>> {
    let mut session = engine.session()?;
    let prompt = &prompt[..prompt.len().min(engine.context().div_ceil(2))];
    let Ok(tree) = DraftTree::chain(tokens).map(Some) else { return Ok(None) };
    let drafts = DraftOptions::default().drafter(Drafter::Heads).tree(tree);
    let mut ratios = Vec::new();
    for turn in 0..=TURNS {
        let plain = generate(&mut session, prompt, DraftOptions::off()).await?;
        let Ok(drafted) = generate(&mut session, prompt, drafts.clone()).await else { return Ok(None) };
        let a_round = |stats: &Stats, seconds: f64| seconds / stats.drafts.rounds.max(1) as f64;
        let ratio = a_round(&drafted, drafted.drafts.draft_s) / a_round(&plain, plain.decode_s);
        // The first turn compiles and finds its pace.
        if turn > 0 && ratio.is_finite() {
            ratios.push(ratio);
        }
    }
    ratios.sort_by(f64::total_cmp);
    let median = ratios.get(ratios.len() / 2).copied();
    Ok(median.map(|draft_over_step| DraftTime { heads: heads.to_owned(), tokens, draft_over_step }))
}

async fn generate(session: &mut Session, prompt: &[u32], draft: DraftOptions) -> Result<Stats> {
    let options = GenerateOptions::default().max_tokens(24).draft(draft);
    let mut generation = session.generate(prompt, &options, &mut |_| {}).await?;
    while generation.next().await?.is_some() {}
    Ok(generation.stats())
}
