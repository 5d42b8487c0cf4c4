//! One generation, round by round.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use foretoken::decode::{Stop, Token};
use foretoken::format::tokenizer::Tokenizer;
use foretoken::{DraftOptions, DraftTree, Drafter, GenerateOptions, Result, Sampling, Session};
use wasm_bindgen::JsValue;

use crate::error::input;
use crate::reports::{Draft, Finished, GenerateRequest, Round};

/// The options that the page asked for, in the core's words.
pub fn options(request: &GenerateRequest, interrupt: Arc<AtomicBool>) -> Result<GenerateOptions> {
    let plain = Sampling::default();
    let sampling = Sampling::default()
        .temperature(request.temperature.unwrap_or(plain.temperature))
        .top_k(request.top_k.unwrap_or(plain.top_k))
        .top_p(request.top_p.unwrap_or(plain.top_p))
        .min_p(request.min_p.unwrap_or(plain.min_p))
        .repetition_penalty(request.repetition_penalty.unwrap_or(plain.repetition_penalty))
        .seed(request.seed);
    if request.stop.iter().any(String::is_empty) {
        return Err(input("stop: one of the stop strings is empty, and would end every text"));
    }
    Ok(GenerateOptions::default()
        .max_tokens(request.max_tokens.unwrap_or(256))
        .sampling(sampling)
        .draft(draft(request)?)
        .stop(request.stop.clone())
        .interrupt(interrupt))
}

fn draft(request: &GenerateRequest) -> Result<DraftOptions> {
    let drafter = match request.draft.as_deref().unwrap_or("auto") {
        "auto" => Drafter::Auto,
        "off" => Drafter::Off,
        "heads" => Drafter::Heads,
        "lookup" => Drafter::Lookup,
        "marginal" => Drafter::Marginal,
        other => return Err(input(format!("draft '{other}': expected auto, off, heads, lookup or marginal"))),
    };
    let tree = match (request.draft_len, &request.draft_tree) {
        (Some(_), Some(_)) => return Err(input("draftLen and draftTree: give one of them")),
        (Some(length), None) => Some(DraftTree::chain(length)?),
        (None, Some(tree)) => Some(tree.parse()?),
        (None, None) => None,
    };
    let trace = drafter != Drafter::Off;
    Ok(DraftOptions::default().drafter(drafter).tree(tree).trace(trace))
}

/// How far a generation has come that the device may be lost under.
#[derive(Default)]
pub struct Course {
    /// The session has the prompt, and what was generated.
    begun: bool,
    attempts: u32,
}

/// Generates to the end. `on_round` gets each round as JSON; the end comes back as JSON. Where it has begun before, on a
/// device that was lost, it goes on from there.
pub async fn run(
    session: &mut Session,
    tokenizer: &Tokenizer,
    prompt: &str,
    options: &GenerateOptions,
    course: &mut Course,
    on_round: &js_sys::Function,
) -> Result<String> {
    let prompt_ids = tokenizer.encode(prompt, true)?;
    course.attempts += 1;
    let resumed = course.begun && session.tokens().len() > prompt_ids.len();
    let mut generation = if resumed {
        session.resume(prompt_ids.len(), options, &mut |_| {}).await?
    } else {
        session.generate(&prompt_ids, options, &mut |_| {}).await?
    };
    course.begun = true;
    let mut round = Round::default();
    // The first token comes from the prompt, and was no round.
    let mut traced = resumed.then_some(0);
    while let Some(Token { id, drafted, text, .. }) = generation.next().await? {
        round.ids.push(id);
        round.text += &text;
        round.accepted += usize::from(drafted);
        if drafted && generation.stop().is_none() {
            continue;
        }
        if let Some(trace) = traced.and_then(|at: usize| generation.rounds().get(at)) {
            round.drafted = trace.drafted.len();
            round.drafts = drafts(trace, &round.ids[..round.accepted], tokenizer)?;
        }
        traced = Some(traced.map_or(0, |at| at + 1));
        let json = json(&std::mem::take(&mut round))?;
        // A page that throws in its callback must not take the generation with it.
        let _ = on_round.call1(&JsValue::NULL, &json.into());
    }
    json(&Finished {
        stop: generation.stop().unwrap_or(Stop::Interrupt),
        prompt_ids: &prompt_ids,
        ids: generation.ids(),
        text: generation.text(),
        seed: options.sampling.seed,
        recoveries: course.attempts - 1,
        stats: &generation.stats(),
    })
}

/// The drafts of a round. `accepted` are the tokens of those that joined the text, in order: drafts lie level by level, so
/// each is found behind the one before.
fn drafts(round: &foretoken::decode::Round, accepted: &[u32], tokenizer: &Tokenizer) -> Result<Vec<Draft>> {
    let mut wanted = accepted.iter().peekable();
    let mut drafts = Vec::new();
    for (at, &id) in round.drafted.iter().enumerate() {
        let target = round.target[at];
        let joined = id == target && wanted.next_if(|&&token| token == id).is_some();
        drafts.push(Draft {
            id,
            text: tokenizer.decode(&[id], false)?,
            p: round.p[at],
            rank: round.rank[at],
            target,
            target_text: tokenizer.decode(&[target], false)?,
            accepted: joined,
        });
    }
    Ok(drafts)
}

/// Writes a value as JSON.
pub fn json<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| input(format!("a result cannot be told as JSON: {error}")))
}
