//! The JSON that goes to the page.

use foretoken::Marginals;
use foretoken::decode::{Audit, Stats, Stop};
use foretoken::format::tokenizer::Tokenizer;
use foretoken::gpu::AdapterSummary;
use foretoken::marginal::{Cost, TopToken};
use serde::{Deserialize, Serialize};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Info {
    pub family: String,
    pub layers: usize,
    pub hidden: usize,
    pub vocab: usize,
    pub context: usize,
    pub parameters: u64,
    pub heads: Vec<String>,
    pub notes: Vec<String>,
    pub adapter: AdapterSummary,
    pub kernels: String,
}

#[derive(Serialize)]
pub struct FoundMarginals {
    offset: usize,
    mass_covered: f64,
    branches: usize,
    capped: bool,
    top: Vec<Entry>,
    entropy: f64,
    cost: Cost,
    next: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    id: u32,
    text: Option<String>,
    p: f64,
    low: f64,
    high: f64,
}

impl FoundMarginals {
    pub fn new(found: &Marginals, next: &Marginals, tokenizer: &Tokenizer) -> Self {
        let entry =
            |&TopToken { id, p, low, high, .. }: &TopToken| Entry { id, text: tokenizer.token_text(id), p, low, high };
        let &Marginals { offset, mass_covered, branches, capped, entropy, cost, .. } = found;
        let (top, next) = (found.top.iter().map(entry).collect(), next.top.iter().map(entry).collect());
        Self { offset, mass_covered, branches, capped, top, entropy, cost, next }
    }
}

#[derive(Serialize)]
pub struct Score {
    ids: Vec<u32>,
    logprobs: Vec<f32>,
    nll: f64,
    bits_per_byte: f64,
    tokens: usize,
}

impl Score {
    pub fn new(ids: Vec<u32>, logprobs: Vec<f32>, bytes: usize) -> Self {
        let total: f64 = logprobs.iter().map(|&logprob| -f64::from(logprob)).sum();
        Self {
            tokens: ids.len(),
            nll: total / logprobs.len() as f64,
            bits_per_byte: total / std::f64::consts::LN_2 / bytes as f64,
            ids,
            logprobs,
        }
    }
}

#[derive(Serialize)]
pub struct Audited<'a> {
    pub adapter: &'a str,
    pub kernels: String,
    #[serde(flatten)]
    pub audit: &'a Audit,
}

#[derive(Serialize)]
pub struct Finished<'a> {
    pub stop: Stop,
    pub prompt_ids: &'a [u32],
    pub ids: &'a [u32],
    pub text: &'a str,
    pub seed: u64,
    /// How many times the device was lost on the way; the statistics are of the time since.
    pub recoveries: u32,
    #[serde(flatten)]
    pub stats: &'a Stats,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Draft {
    pub id: u32,
    pub text: String,
    pub p: f32,
    pub rank: u32,
    pub target: u32,
    pub target_text: String,
    pub accepted: bool,
}

#[derive(Serialize, Default)]
pub struct Round {
    pub ids: Vec<u32>,
    pub text: String,
    pub accepted: usize,
    pub drafted: usize,
    pub drafts: Vec<Draft>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct LoadRequest {
    pub context: Option<usize>,
    pub kernels: Option<String>,
    pub quantize: Option<String>,
    pub cache_type: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct GenerateRequest {
    pub max_tokens: Option<usize>,
    pub temperature: Option<f32>,
    pub top_k: Option<u32>,
    pub top_p: Option<f32>,
    pub min_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
    pub seed: u64,
    pub stop: Vec<String>,
    pub draft: Option<String>,
    pub draft_len: Option<usize>,
    pub draft_tree: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct MarginalRequest {
    pub offset: Option<usize>,
    pub mass: Option<f32>,
    pub max_branches: Option<usize>,
    pub top: Option<usize>,
}
