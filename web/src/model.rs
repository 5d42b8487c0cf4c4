//! A loaded model, as the worker sees it.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use foretoken::Session;
use foretoken::format::tokenizer::Tokenizer;
use foretoken::{AuditOptions, Engine, EngineOptions, Gpu, GpuOptions, KernelSet, MarginalOptions, Progress, Result};
use serde::de::DeserializeOwned;
use wasm_bindgen::prelude::*;

use crate::error::{input, to_js};
use crate::files::{ByteSource, JsFiles};
use crate::generate::{self, json};
use crate::reports::{Audited, FoundMarginals, GenerateRequest, Info, LoadRequest, MarginalRequest, Score};

type Js<T> = std::result::Result<T, JsValue>;

/// The adapters that this browser offers, as JSON.
#[wasm_bindgen]
pub async fn adapters() -> Js<String> {
    json(&Gpu::adapters().await).map_err(to_js)
}

/// Names and WGSL of all shaders that a kernel set can need, one after the other.
#[wasm_bindgen]
pub fn shaders(kernels: String) -> Js<Vec<String>> {
    let set: KernelSet = kernels.parse().map_err(to_js)?;
    Ok(foretoken::shaders(set).into_iter().flat_map(|(name, wgsl)| [name, wgsl]).collect())
}

/// Ends a generation between rounds.
#[wasm_bindgen]
#[derive(Clone, Default)]
pub struct Abort(Arc<AtomicBool>);

#[wasm_bindgen]
impl Abort {
    /// Nothing is aborted yet.
    #[wasm_bindgen(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Another hold on the same, to give away.
    pub fn handle(&self) -> Self {
        self.clone()
    }

    /// Asks for the end.
    pub fn abort(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A model on the GPU and one text. Calls must wait for each other.
#[wasm_bindgen]
pub struct WebModel {
    engine: Engine,
    /// Taken while a call uses it.
    session: RefCell<Option<Session>>,
}

#[wasm_bindgen]
impl WebModel {
    /// Loads a checkpoint; `on_progress` is called with `"upload"` or `"warmup"`, what is done, and how much it is in all.
    pub async fn load(source: ByteSource, request: String, on_progress: js_sys::Function) -> Js<WebModel> {
        let engine = load(&JsFiles(source), &request, &on_progress).await.map_err(to_js)?;
        let session = engine.session().map_err(to_js)?;
        Ok(Self { engine, session: RefCell::new(Some(session)) })
    }

    /// What the model is, as JSON.
    pub fn info(&self) -> Js<String> {
        let (config, engine) = (self.engine.config(), &self.engine);
        let parameters: u64 = config
            .expected_tensors()
            .iter()
            .map(|(_, shape)| shape.iter().map(|&size| size as u64).product::<u64>())
            .sum();
        json(&Info {
            family: config.model_type.clone(),
            layers: config.num_hidden_layers,
            hidden: config.hidden_size,
            vocab: config.vocab_size,
            context: engine.context(),
            parameters: parameters + engine.head_parameters(),
            heads: engine.heads().map(str::to_owned).into_iter().collect(),
            notes: engine.notes().to_vec(),
            adapter: engine.gpu().summary().clone(),
            kernels: engine.kernels().to_string(),
        })
        .map_err(to_js)
    }

    /// Token ids of a text.
    pub fn encode(&self, text: &str) -> Js<Vec<u32>> {
        self.tokenizer().and_then(|tokenizer| tokenizer.encode(text, true)).map_err(to_js)
    }

    /// The text of token ids, without special tokens.
    pub fn decode(&self, ids: &[u32]) -> Js<String> {
        self.tokenizer().and_then(|tokenizer| tokenizer.decode(ids, true)).map_err(to_js)
    }

    /// Continues a prompt. `on_round` gets each round as JSON.
    pub async fn generate(
        &self,
        prompt: String,
        request: String,
        on_round: js_sys::Function,
        abort: Abort,
    ) -> Js<String> {
        let run = async |session: &mut Session| {
            let options = generate::options(&parse::<GenerateRequest>(&request)?, abort.0)?;
            generate::run(session, self.tokenizer()?, &prompt, &options, &on_round).await
        };
        self.with_session(run).await
    }

    /// What may stand some places ahead, as JSON.
    pub async fn marginals(&self, prompt: String, request: String) -> Js<String> {
        let run = async |session: &mut Session| {
            let (request, usual) = (parse::<MarginalRequest>(&request)?, MarginalOptions::default());
            let options = MarginalOptions {
                offset: request.offset.unwrap_or(usual.offset),
                mass: request.mass.unwrap_or(usual.mass),
                max_branches: request.max_branches,
                top: request.top.unwrap_or(usual.top),
            };
            let tokenizer = self.tokenizer()?;
            let ids = tokenizer.encode(&prompt, true)?;
            let found = session.marginals(&ids, &options, &mut |_| {}).await?;
            let next = session.marginals(&ids, &MarginalOptions { offset: 1, ..options }, &mut |_| {}).await?;
            json(&FoundMarginals::new(&found, &next, tokenizer))
        };
        self.with_session(run).await
    }

    /// How probable a text is, as JSON.
    pub async fn score(&self, text: String) -> Js<String> {
        let run = async |session: &mut Session| {
            let ids = self.tokenizer()?.encode(&text, true)?;
            let (tokens, context) = (ids.len(), session.context());
            if tokens < 2 || tokens > context {
                return Err(input(format!("a text of {tokens} tokens: expected 2 to {context} to score")));
            }
            let logprobs = session.score(&ids, &mut |_| {}).await?;
            json(&Score::new(ids, logprobs, text.len()))
        };
        self.with_session(run).await
    }

    /// Whether drafts leave every text as it is, as JSON; `on_progress` gets what is done and how much it is in all.
    pub async fn audit(&self, on_progress: js_sys::Function) -> Js<String> {
        let run = async |session: &mut Session| {
            let options = AuditOptions::for_engine(&self.engine)?;
            let mut told = |progress| {
                if let Progress::Positions { done, total } = progress {
                    let _ = on_progress.call2(&JsValue::NULL, &(done as f64).into(), &(total as f64).into());
                }
            };
            let audit = session.audit(&options, &mut told).await?;
            let (adapter, kernels) = (&self.engine.gpu().summary().name, self.engine.kernels().to_string());
            json(&Audited { adapter, kernels, audit: &audit })
        };
        self.with_session(run).await
    }

    /// Every kernel of a set against its reference on this adapter, as JSON.
    #[wasm_bindgen(js_name = selfTest)]
    pub async fn self_test(&self, kernels: String) -> Js<String> {
        let run = async {
            let checks = foretoken::self_test(self.engine.gpu(), kernels.parse()?, true).await?;
            json(&checks)
        };
        run.await.map_err(to_js)
    }

    /// Frees the GPU's memory at once, also while a call is under way, which then fails. Left alone, the browser would free
    /// it when it collects its garbage.
    pub fn destroy(&self) {
        self.engine.gpu().device().destroy();
    }

    /// The kernel sets that this adapter can run.
    #[wasm_bindgen(js_name = kernelSets)]
    pub fn kernel_sets(&self) -> Vec<String> {
        KernelSet::available(self.engine.gpu().summary()).iter().map(KernelSet::to_string).collect()
    }
}

impl WebModel {
    fn tokenizer(&self) -> Result<&Tokenizer> {
        self.engine.tokenizer()
    }

    /// Lends the session to `work`; a failed session is not used again.
    async fn with_session(&self, work: impl AsyncFnOnce(&mut Session) -> Result<String>) -> Js<String> {
        let taken = self.session.borrow_mut().take();
        let mut session = taken.ok_or_else(|| to_js(input("the model is busy: wait for the call before this one")))?;
        let result = work(&mut session).await;
        self.session.replace(Some(session));
        result.map_err(to_js)
    }
}

async fn load(files: &JsFiles, request: &str, on_progress: &js_sys::Function) -> Result<Engine> {
    let LoadRequest { context, kernels } = parse(request)?;
    let kernels = kernels.map(|name| name.parse()).transpose()?;
    let gpu = Gpu::open(&GpuOptions::default()).await?;
    let options = EngineOptions { context, kernels, ..EngineOptions::default() };
    let mut told = |progress| {
        let (phase, done, total) = match progress {
            Progress::Weights { bytes, total } => ("upload", bytes as f64, total as f64),
            Progress::Pipelines { done, total } => ("warmup", done as f64, total as f64),
            _ => return,
        };
        // A page that throws in its callback must not end the loading.
        let _ = on_progress.call3(&JsValue::NULL, &phase.into(), &done.into(), &total.into());
    };
    Engine::load(&gpu, files, &options, &mut told).await
}

fn parse<T: DeserializeOwned>(json: &str) -> Result<T> {
    serde_json::from_str(json).map_err(|error| input(format!("options: {error}")))
}
