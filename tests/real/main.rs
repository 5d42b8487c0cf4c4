//! Real pretrained checkpoints against what `transformers` computes of them, on every adapter.
//!
//! `FORETOKEN_REAL` names a folder with the files of `models.json` and, beside each, what `expected.py` made of it. A file that is
//! missing is left out loudly, or fails its test with `FORETOKEN_REQUIRE_REAL=1`. `scripts/test.sh real` runs these tests.

#[path = "../common/mod.rs"]
mod common;

use std::borrow::Cow;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{each_own_device, note};
use foretoken::decode::{AuditOptions, RecordedDrafts};
use foretoken::format::checkpoint::Checkpoint;
use foretoken::format::files::{Files, MemoryFiles};
use foretoken::format::mtp::{InitOptions, init_heads};
use foretoken::model::inspect;
use foretoken::{
    DraftOptions, DraftTree, Drafter, Engine, EngineOptions, Error, GenerateOptions, Gpu, MarginalOptions, Result,
    Session,
};
use serde::Deserialize;
use serde_json::{Value, json};

/// The largest difference of a log-probability, and of their mean, relative.
const LOG_PROBS_APART: f64 = 5e-3;
const MEAN_APART: f64 = 1e-4;

/// Greedy ids may differ from where the reference's likeliest tokens are closer than this.
const CLOSE: f64 = 1e-2;

/// How far what is allocated may be from what inspection says; and what the weights may need beyond the file's tensors.
const MEMORY_APART: f64 = 0.02;
const WEIGHTS_MORE: f64 = 0.03;

/// A context that a session has room for at once.
const SHORT: usize = 256;
const LONG: usize = 1024;

/// Prompts that are also continued with drafts from the text itself: code and a list, which repeat themselves.
const REPETITIVE: [usize; 2] = [3, 7];

/// Tokens of the text that the audit begins with, so that it reads more rows than a batch has, and tokens that it adds.
const AUDITED: (usize, usize) = (32, 16);

#[derive(Deserialize)]
struct Expected {
    text_ids: Vec<u32>,
    log_probs: Vec<f64>,
    greedy: Vec<Greedy>,
    marginal: MarginalCase,
}

#[derive(Deserialize)]
struct Greedy {
    prompt_ids: Vec<u32>,
    ids: Vec<u32>,
    margins: Vec<f64>,
}

#[derive(Deserialize)]
struct MarginalCase {
    mass: f32,
    max_branches: usize,
    positions: Vec<MarginalPosition>,
}

/// The reference's distribution two places after so many tokens.
#[derive(Deserialize)]
struct MarginalPosition {
    tokens: usize,
    branches: usize,
    /// How much likelier the last branch is than the first that is left out.
    edge: f64,
    /// The likeliest tokens; their sums over the branches, and over many more.
    ids: Vec<u32>,
    sums: Vec<f64>,
    many_sums: Vec<f64>,
}

/// One file, read as asked.
struct OneFile {
    folder: PathBuf,
    name: String,
}

impl OneFile {
    fn open(&self, name: &str) -> std::io::Result<Option<File>> {
        if name == self.name { File::open(self.folder.join(name)).map(Some) } else { Ok(None) }
    }
}

impl Files for OneFile {
    async fn len(&self, name: &str) -> Result<Option<u64>> {
        let fail = |error: std::io::Error| Error::input(error.to_string());
        self.open(name).map_err(fail)?.map(|file| file.metadata().map(|data| data.len())).transpose().map_err(fail)
    }

    async fn read(&self, name: &str, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let read = || {
            let mut file = self.open(name)?.ok_or(std::io::ErrorKind::NotFound)?;
            let mut bytes = vec![0; (range.end - range.start) as usize];
            file.seek(SeekFrom::Start(range.start))?;
            file.read_exact(&mut bytes)?;
            Ok(bytes)
        };
        read().map(Cow::Owned).map_err(|error: std::io::Error| Error::input(error.to_string()))
    }

    fn describe(&self) -> String {
        self.folder.join(&self.name).display().to_string()
    }

    fn names(&self) -> Vec<String> {
        vec![self.name.clone()]
    }
}

fn source(name: &str) -> String {
    std::fs::read_to_string(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/real")).join(name)).expect(name)
}

/// The file of a model and what is expected of it; `None`, said loudly, where one is missing.
fn find(name: &str) -> Option<(OneFile, Expected)> {
    let models: Value = serde_json::from_str(&source("models.json")).expect("json");
    let file = models[name]["file"].as_str().expect("a file's name").to_owned();
    let missing = |what: String| {
        assert!(std::env::var_os("FORETOKEN_REQUIRE_REAL").is_none(), "{what}");
        println!("SKIPPED: {what}");
        None
    };
    let Some(folder) = std::env::var_os("FORETOKEN_REAL").map(PathBuf::from) else {
        return missing(format!("FORETOKEN_REAL names no folder with {file}"));
    };
    let expected = folder.join(format!("{file}.expected.json"));
    for path in [&folder.join(&file), &expected] {
        if !path.exists() {
            return missing(format!("{} is missing; tests/real/expected.py makes expected.json", path.display()));
        }
    }
    let expected: Expected = serde_json::from_slice(&std::fs::read(expected).expect("expected.json")).expect("json");
    Some((OneFile { folder, name: file }, expected))
}

/// The findings on a model on an adapter: numbers for the documentation, and what is wrong.
#[derive(Default)]
struct Findings {
    results: serde_json::Map<String, Value>,
    wrong: Vec<String>,
}

impl Findings {
    fn note(&mut self, name: &str, value: Value) {
        eprintln!("  {name}: {value}");
        self.results.insert(name.to_owned(), value);
    }

    fn check(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            let what = what();
            eprintln!("  WRONG: {what}");
            self.wrong.push(what);
        }
    }
}

fn quiet(_: foretoken::model::Progress) {}

/// The bytes that are allocated, against what inspection says of the same context.
async fn memory(gpu: &Gpu, files: &OneFile, found: &mut Findings) {
    let said = inspect(files, Some(SHORT)).await.expect("the file is read");
    found.note("family", json!(said.model_type));
    found.note("stored", json!(said.dtypes));
    let said_bytes = said.weights_bytes + said.cache_bytes + said.work_bytes;
    let options = EngineOptions::default().self_test(false).context(SHORT);
    let before = gpu.counts().buffer_bytes;
    let engine = Engine::load(gpu, files, &options, &mut quiet).await.expect("the model loads");
    let weights = gpu.counts().buffer_bytes - before;
    let _session = engine.session().expect("a session");
    let allocated = gpu.counts().buffer_bytes - before;
    let apart = (said_bytes as f64 / allocated as f64 - 1.0).abs();
    let more = weights as f64 / said.weights_bytes as f64 - 1.0;
    found.note("memory", json!({"inspected": said_bytes, "allocated": allocated, "weights_over_file": more}));
    found.check(apart <= MEMORY_APART, || format!("{said_bytes} bytes inspected, {allocated} allocated"));
    found.check(more <= WEIGHTS_MORE, || format!("weights take {weights} bytes, the file's {}", said.weights_bytes));
}

/// Log-probabilities of the text.
async fn scores(engine: &Engine, expected: &Expected, found: &mut Findings) {
    // transformers makes a tokenizer of its own of some files: SmolLM2's does not take digits apart, as the model's own does.
    let ids = engine.tokenizer().expect("a tokenizer").encode(&source("text.txt"), true).expect("ids");
    found.note("same_ids_of_text", ids.starts_with(&expected.text_ids).into());
    let mut session = engine.session().expect("a session");
    let scores = session.score(&expected.text_ids, &mut quiet).await.expect("scores");
    assert_eq!(scores.len(), expected.log_probs.len());
    let pairs = || scores.iter().zip(&expected.log_probs).map(|(&got, &want)| (f64::from(got), want));
    let largest = pairs().map(|(got, want)| (got - want).abs()).fold(0.0, f64::max);
    let (got, want) = pairs().fold((0.0, 0.0), |(got, want), pair| (got - pair.0, want - pair.1));
    let mean_apart = (got / want - 1.0).abs();
    let nll = want / scores.len() as f64;
    found.note(
        "log_probs",
        json!({"tokens": expected.text_ids.len(), "apart": largest, "nll": nll, "nll_apart": mean_apart}),
    );
    found.check(largest <= LOG_PROBS_APART, || format!("log-probabilities are {largest:e} apart"));
    found.check(mean_apart <= MEAN_APART, || format!("the means are {mean_apart:e} apart"));
}

async fn continued(session: &mut Session, prompt: &[u32], most: usize, draft: DraftOptions) -> Vec<u32> {
    let options = GenerateOptions::default().max_tokens(most).draft(draft);
    let mut generation = session.generate(prompt, &options, &mut quiet).await.expect("the prompt is read");
    while generation.next().await.expect("a round").is_some() {}
    generation.ids().to_vec()
}

fn chain(drafter: Drafter, depth: usize) -> DraftOptions {
    DraftOptions::default().drafter(drafter).tree(DraftTree::chain(depth).expect("a chain"))
}

/// Greedy ids of the prompts, without drafts and with.
async fn greedy(engine: &Engine, expected: &Expected, found: &mut Findings) {
    let mut session = engine.session().expect("a session");
    let (mut equal, mut close) = (0, 0);
    let mut with_drafts = 0;
    for (number, want) in expected.greedy.iter().enumerate() {
        let prompt = &want.prompt_ids;
        let got = continued(&mut session, prompt, want.ids.len(), DraftOptions::off()).await;
        let same = got.iter().zip(&want.ids).take_while(|(got, want)| got == want).count();
        // The reference goes on after an end token.
        let end = got.last().is_some_and(|id| engine.config().eos_token_ids.contains(id));
        let ended = same == got.len() && (end || same == want.ids.len());
        let margin = want.margins.get(same).copied().unwrap_or(f64::MAX);
        equal += same;
        close += usize::from(!ended);
        found.check(ended || margin < CLOSE, || {
            format!(
                "prompt {number}: ids differ after {same}, where the margin is {margin}: {got:?}, not {:?}",
                want.ids
            )
        });
        let text = [prompt, &got[..]].concat();
        let recorded = Arc::new(RecordedDrafts(text.iter().map(|&id| [id; 4]).collect()));
        let mut drafters = vec![chain(Drafter::Recorded(recorded), 7)];
        drafters.extend(REPETITIVE.contains(&number).then(|| chain(Drafter::Lookup, 3)));
        for draft in drafters {
            let drafter = draft.drafter.clone();
            let drafted = continued(&mut session, prompt, want.ids.len(), draft).await;
            with_drafts += 1;
            found.check(drafted == got, || format!("prompt {number}: {drafter:?} changes the text"));
        }
    }
    let prompts = expected.greedy.len();
    found.note(
        "greedy",
        json!({"prompts": prompts, "ids_equal": equal, "parted_where_close": close, "with_drafts": with_drafts}),
    );
}

/// Marginals against sums by brute force.
async fn marginals(engine: &Engine, expected: &Expected, found: &mut Findings) {
    let MarginalCase { mass, max_branches, positions } = &expected.marginal;
    let options = MarginalOptions::default().mass(*mass).max_branches(*max_branches).top(16);
    let mut session = engine.session().expect("a session");
    let (mut compared, mut apart, mut outside) = (0, 0f64, 0f64);
    for want in positions {
        let ids = &expected.text_ids[..want.tokens];
        let got = session.marginals(ids, &options, &mut quiet).await.expect("a marginal");
        // Which of two branches that are equally likely comes last is rounding.
        let same_branches = got.branches == want.branches || want.edge < 1e-5;
        found.check(same_branches, || {
            format!("{} branches after {} tokens, not {}", got.branches, want.tokens, want.branches)
        });
        for token in &got.top {
            let Some(at) = want.ids.iter().position(|&id| id == token.id) else {
                found.check(false, || {
                    format!("token {} after {} tokens is not among the likeliest", token.id, want.tokens)
                });
                continue;
            };
            let sum = token.p * got.mass_covered;
            compared += 1;
            if got.branches == want.branches {
                apart = apart.max((sum - want.sums[at]).abs());
            }
            for reference in [want.sums[at], want.many_sums[at]] {
                let beyond = (token.low - reference).max(reference - token.high).max(0.0) / reference;
                outside = outside.max(beyond);
                found.check(beyond == 0.0, || {
                    let (low, high) = (token.low, token.high);
                    format!(
                        "token {} after {} tokens: {reference} is not within {low} and {high}",
                        token.id, want.tokens
                    )
                });
            }
        }
    }
    let positions = positions.len();
    let (mass, branches) = (mass, max_branches);
    found.note("marginals", json!({"positions": positions, "tokens": compared, "mass": mass, "branches": branches, "apart": apart, "outside_bounds": outside}));
}

/// The audit, with untrained heads where the model can have new ones.
async fn audit(gpu: &Gpu, files: &OneFile, expected: &Expected, found: &mut Findings) {
    let checkpoint = Checkpoint::open(files).await.expect("the file is read");
    let options = EngineOptions::default().context(SHORT);
    let heads = match init_heads(&checkpoint, &InitOptions::default().heads(2).sequential(true)).await {
        Ok(heads) => Some(heads),
        Err(error) => {
            assert_eq!(error.kind(), foretoken::ErrorKind::Unsupported, "{error}");
            None
        }
    };
    let with_heads = heads.is_some();
    let engine = match heads {
        Some(heads) => {
            let files_of_heads = heads.into_iter().map(|(name, bytes)| (name, Cow::Owned(bytes))).collect();
            let heads = MemoryFiles { name: "heads".to_owned(), files: files_of_heads };
            Engine::load_with_heads(gpu, files, &heads, &options, &mut quiet).await
        }
        None => Engine::load(gpu, files, &options, &mut quiet).await,
    };
    let engine = engine.expect("the model loads");
    let (begin, added) = AUDITED;
    let options = AuditOptions::default().prompts(vec![expected.text_ids[..begin].to_vec()]).tokens(added);
    let audit = engine.session().expect("a session").audit(&options, &mut quiet).await.expect("an audit");
    let ways = audit.cases.len();
    let accepted: u64 = audit.cases.iter().map(|case| case.accepted).sum();
    let (widths, positions) = (audit.logits.widths.clone(), audit.logits.positions);
    found.note("audit", json!({"equal": audit.equal, "ways": ways, "accepted": accepted, "heads": with_heads, "positions": positions, "widths": widths}));
    found.check(audit.equal && audit.width_invariant && audit.logits.equal, || format!("{audit:?}"));
    found.check(positions > 32, || format!("{positions} positions have no tiles"));
}

fn check(name: &str) {
    let Some((files, expected)) = find(name) else { return };
    each_own_device(|gpu| {
        let (files, expected) = (&files, &expected);
        async move {
            eprintln!("{name}, {}", gpu.summary());
            let mut found = Findings::default();
            memory(&gpu, files, &mut found).await;
            {
                let options = EngineOptions::default().context(LONG);
                let engine = Engine::load(&gpu, files, &options, &mut quiet).await.expect("the model loads");
                scores(&engine, expected, &mut found).await;
                greedy(&engine, expected, &mut found).await;
                marginals(&engine, expected, &mut found).await;
            }
            audit(&gpu, files, expected, &mut found).await;
            let Findings { results, wrong } = found;
            assert!(wrong.is_empty(), "{name}, {}: {wrong:#?}", gpu.summary());
            note(&json!({"kind": "real", "name": name, "adapter": gpu.summary().name, "found": results}));
        }
    });
}

#[test]
fn smollm2() {
    check("smollm2");
}

#[test]
fn gemma3() {
    check("gemma3");
}

#[test]
fn qwen2() {
    check("qwen2");
}
