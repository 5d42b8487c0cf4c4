//! The distribution of the next token, and the token itself.

use super::attention::softmax;
use super::random::gumbel;

/// How a token is chosen. Temperature 0 is greedy; 0, 1 and 0 switch top-k, top-p and min-p off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Settings {
    pub repetition_penalty: f32,
    pub temperature: f32,
    pub top_k: u32,
    pub top_p: f32,
    pub min_p: f32,
}

impl std::fmt::Display for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { repetition_penalty, temperature, top_k, top_p, min_p } = self;
        write!(
            f,
            "penalty {repetition_penalty}, temperature {temperature}, top-k {top_k}, top-p {top_p}, min-p {min_p}"
        )
    }
}

/// The logits after repetition penalty and temperature. `counts` says how often each token stands in the text.
pub(crate) fn scores(logits: &[f32], counts: &[u32], settings: Settings) -> Vec<f64> {
    let penalty = f64::from(settings.repetition_penalty);
    let temperature = if settings.temperature > 0.0 { settings.temperature.into() } else { 1.0 };
    let score = |(&logit, &count): (&f32, &u32)| {
        let logit = f64::from(logit);
        let penalised = match (count > 0, logit < 0.0) {
            (false, _) => logit,
            (true, false) => logit / penalty,
            (true, true) => logit * penalty,
        };
        // Minus zero becomes zero: the two are one in the order.
        penalised / temperature + 0.0
    };
    logits.iter().zip(counts).map(score).collect()
}

/// The tokens that the filters keep and their probabilities, most probable first, ties by id.
pub(crate) fn distribution(scores: &[f64], settings: Settings) -> Vec<(usize, f64)> {
    let mut ids: Vec<usize> = (0..scores.len()).collect();
    ids.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    if settings.temperature == 0.0 {
        return vec![(ids[0], 1.0)];
    }
    if settings.top_k > 0 {
        ids.truncate(settings.top_k as usize);
    }
    let probabilities = |ids: &[usize]| softmax(&ids.iter().map(|&id| scores[id]).collect::<Vec<_>>());
    if settings.top_p < 1.0 {
        let p = probabilities(&ids);
        let sum_before = |i: usize| p[..i].iter().sum::<f64>();
        // The token that reaches top-p stays.
        let length = (0..p.len()).take_while(|&i| sum_before(i) < settings.top_p.into()).count();
        ids.truncate(length.max(1));
    }
    let p = probabilities(&ids);
    let length = p.iter().take_while(|&&q| q >= f64::from(settings.min_p) * p[0]).count();
    ids.truncate(length);
    let p = probabilities(&ids);
    ids.into_iter().zip(p).collect()
}

/// The token at `position`, and by how much its noisy score beats the next one's.
pub(crate) fn sample(scores: &[f64], settings: Settings, seed: [u32; 2], position: u32) -> (usize, f64) {
    let noise = |id: usize| if settings.temperature == 0.0 { 0.0 } else { gumbel(seed, position, id as u32) };
    let mut noisy: Vec<_> =
        distribution(scores, settings).into_iter().map(|(id, _)| (id, scores[id] + noise(id))).collect();
    noisy.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    (noisy[0].0, noisy.get(1).map_or(f64::INFINITY, |second| noisy[0].1 - second.1))
}
