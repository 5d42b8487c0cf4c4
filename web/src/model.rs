//! A loaded model, as the worker sees it.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use foretoken::Session;
use foretoken::decode::AuditOptions;
use foretoken::model::Progress;
use foretoken::{Engine, EngineOptions, Error, ErrorKind, Gpu, GpuOptions, KernelSet, MarginalOptions, Result};
use serde::de::DeserializeOwned;
use wasm_bindgen::prelude::*;

use crate::error::{input, to_js};
use crate::files::{ByteSource, JsFiles};
use crate::generate::{self, Course, json};
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
    Ok(foretoken::kernels::shaders(set).into_iter().flat_map(|(name, wgsl)| [name, wgsl]).collect())
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
    checkpoint: Checkpoint,
    engine: RefCell<Engine>,
    session: RefCell<Slot>,
    /// The page has left.
    destroyed: Cell<bool>,
    /// Called with the reason when the device was lost and the model is about to be loaded anew.
    on_lost: js_sys::Function,
}

/// The files and options to load the model with, at first and after the device was lost.
struct Checkpoint {
    files: JsFiles,
    options: EngineOptions,
    on_progress: js_sys::Function,
}

/// The one session.
enum Slot {
    Free(Box<Session>),
    Lent,
    /// The device was lost for good.
    Lost(Error),
}

/// Losses in one call before it is given up: what breaks the device again and again will not go away by itself.
const MOST_LOSSES: u32 = 3;

#[wasm_bindgen]
impl WebModel {
    /// Loads a checkpoint; `on_progress` is called with `"upload"` or `"warmup"`, what is done, and how much it is in all.
    pub async fn load(
        source: ByteSource,
        request: String,
        on_progress: js_sys::Function,
        on_lost: js_sys::Function,
    ) -> Js<WebModel> {
        let load = async || {
            let LoadRequest { context, kernels, quantize, cache_type } = parse(&request)?;
            let kernels = kernels.map(|name| name.parse()).transpose()?;
            let quantize = quantize.map(|name| name.parse()).transpose()?;
            let cache = cache_type.map(|name| name.parse()).transpose()?.unwrap_or_default();
            let options = EngineOptions::default().context(context).kernels(kernels).quantize(quantize).cache(cache);
            let mut checkpoint = Checkpoint { files: JsFiles(source), options, on_progress };
            let engine = checkpoint.load().await?;
            // After a loss the same kernels, else the bits would be others.
            checkpoint.options.kernels = Some(engine.kernels());
            let session = RefCell::new(Slot::Free(Box::new(engine.session()?)));
            Ok(Self { checkpoint, engine: RefCell::new(engine), session, destroyed: Cell::new(false), on_lost })
        };
        load().await.map_err(to_js)
    }

    /// A description of the model, as JSON.
    pub fn info(&self) -> Js<String> {
        let engine = self.engine();
        let config = engine.config();
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
            heads: engine.heads_summary().map(str::to_owned).into_iter().collect(),
            notes: engine.notes().to_vec(),
            adapter: engine.gpu().summary().clone(),
            kernels: engine.kernels().to_string(),
        })
        .map_err(to_js)
    }

    /// Token ids of a text.
    pub fn encode(&self, text: &str) -> Js<Vec<u32>> {
        self.engine().tokenizer().and_then(|tokenizer| tokenizer.encode(text, true)).map_err(to_js)
    }

    /// What somebody may not expect of the token ids of a text.
    pub fn notes(&self, ids: &[u32]) -> Js<Vec<String>> {
        self.engine().tokenizer().map(|tokenizer| tokenizer.notes(ids)).map_err(to_js)
    }

    /// The text of token ids, without special tokens.
    pub fn decode(&self, ids: &[u32]) -> Js<String> {
        self.engine().tokenizer().and_then(|tokenizer| tokenizer.decode(ids, true)).map_err(to_js)
    }

    /// Continues a prompt. `on_round` gets each round as JSON.
    pub async fn generate(
        &self,
        prompt: String,
        request: String,
        on_round: js_sys::Function,
        abort: Abort,
    ) -> Js<String> {
        let mut course = Course::default();
        let run = async |engine: &Engine, session: &mut Session| {
            let options = generate::options(&parse::<GenerateRequest>(&request)?, Arc::clone(&abort.0))?;
            generate::run(session, engine.tokenizer()?, &prompt, &options, &mut course, &on_round).await
        };
        self.with_session(run).await
    }

    /// What may stand some places ahead, as JSON.
    pub async fn marginals(&self, prompt: String, request: String) -> Js<String> {
        let run = async |engine: &Engine, session: &mut Session| {
            let (request, usual) = (parse::<MarginalRequest>(&request)?, MarginalOptions::default());
            let options = MarginalOptions::default()
                .offset(request.offset.unwrap_or(usual.offset))
                .mass(request.mass.unwrap_or(usual.mass))
                .max_branches(request.max_branches)
                .top(request.top.unwrap_or(usual.top));
            let tokenizer = engine.tokenizer()?;
            let ids = tokenizer.encode(&prompt, true)?;
            let found = session.marginals(&ids, &options, &mut |_| {}).await?;
            let next = session.marginals(&ids, &options.offset(1), &mut |_| {}).await?;
            json(&FoundMarginals::new(&found, &next, tokenizer))
        };
        self.with_session(run).await
    }

    /// How probable a text is, as JSON.
    pub async fn score(&self, text: String) -> Js<String> {
        let run = async |engine: &Engine, session: &mut Session| {
            let ids = engine.tokenizer()?.encode(&text, true)?;
            let (tokens, context) = (ids.len(), session.context());
            if tokens < 2 || tokens > context {
                return Err(input(format!("a text of {tokens} tokens: expected 2 to {context} to score")));
            }
            let logprobs = session.score(&ids, &mut |_| {}).await?;
            let bytes = engine.tokenizer()?.bytes_after_first(&ids, text.len());
            json(&Score::new(ids, logprobs, bytes))
        };
        self.with_session(run).await
    }

    /// Whether drafts leave every text as it is, as JSON; `on_progress` gets what is done and how much it is in all.
    pub async fn audit(&self, on_progress: js_sys::Function) -> Js<String> {
        let run = async |engine: &Engine, session: &mut Session| {
            let options = AuditOptions::for_engine(engine)?;
            let mut told = |progress| {
                if let Progress::Positions { done, total } = progress {
                    let _ = on_progress.call2(&JsValue::NULL, &(done as f64).into(), &(total as f64).into());
                }
            };
            let audit = session.audit(&options, &mut told).await?;
            let (adapter, kernels) = (&engine.gpu().summary().name, engine.kernels().to_string());
            json(&Audited { adapter, kernels, audit: &audit })
        };
        self.with_session(run).await
    }

    /// Every kernel of a set against its reference on this adapter. `on_check` gets each check as JSON.
    #[wasm_bindgen(js_name = selfTest)]
    pub async fn self_test(&self, kernels: String, on_check: js_sys::Function) -> Js<()> {
        let run = async {
            let mut told = |check| {
                let check = json(&check).expect("numbers and text are JSON");
                let _ = on_check.call1(&JsValue::NULL, &check.into());
            };
            foretoken::self_test(self.engine().gpu(), kernels.parse()?, true, &mut told).await
        };
        run.await.map_err(to_js)
    }

    /// Frees the GPU's memory at once, also while a call is under way, which then fails. Left alone, the browser would free
    /// it when it collects its garbage.
    pub fn destroy(&self) {
        self.destroyed.set(true);
        self.engine().gpu().device().destroy();
    }

    /// Whether the device was lost for good.
    #[wasm_bindgen(js_name = isLost)]
    pub fn is_lost(&self) -> bool {
        matches!(*self.session.borrow(), Slot::Lost(_))
    }

    /// The kernel sets that this adapter can run.
    #[wasm_bindgen(js_name = kernelSets)]
    pub fn kernel_sets(&self) -> Vec<String> {
        KernelSet::available(self.engine().gpu().summary()).iter().map(KernelSet::to_string).collect()
    }
}

impl WebModel {
    /// The engine of the device that is in use now.
    fn engine(&self) -> Engine {
        self.engine.borrow().clone()
    }

    /// Lends the session to `work`. Where the device is lost, the model is loaded on a new one, the session's text is made
    /// again there, and `work` is called again.
    async fn with_session(&self, mut work: impl AsyncFnMut(&Engine, &mut Session) -> Result<String>) -> Js<String> {
        let mut session = match self.session.replace(Slot::Lent) {
            Slot::Free(session) => session,
            slot => {
                let refusal = match &slot {
                    Slot::Lost(error) => error.clone(),
                    _ => input("the model is busy: wait for the call before this one"),
                };
                self.session.replace(slot);
                return Err(to_js(refusal));
            }
        };
        let mut losses = 0;
        let result = loop {
            let engine = self.engine();
            let error = match work(&engine, &mut session).await {
                Err(error) if is_lost(engine.gpu(), &error).await && !self.destroyed.get() => error,
                result => break result,
            };
            losses += 1;
            let _ = self.on_lost.call1(&JsValue::NULL, &error.to_string().into());
            let recovered = if losses < MOST_LOSSES { self.recover(&session).await } else { Err(error) };
            match recovered {
                Ok(recovered) => *session = recovered,
                Err(error) => {
                    let error = error.within("the GPU was lost and could not be had back");
                    self.session.replace(Slot::Lost(error.clone()));
                    return Err(to_js(error));
                }
            }
        };
        self.session.replace(Slot::Free(session));
        result.map_err(to_js)
    }

    /// The session's text on a new device.
    async fn recover(&self, lost: &Session) -> Result<Session> {
        let engine = self.checkpoint.load().await?;
        let mut session = engine.session()?;
        session.restore(lost.tokens(), &mut |_| {}).await?;
        self.engine.replace(engine);
        Ok(session)
    }
}

impl Checkpoint {
    async fn load(&self) -> Result<Engine> {
        let gpu = Gpu::open(&GpuOptions::default()).await?;
        let mut told = |progress| {
            let (phase, done, total) = match progress {
                Progress::Weights { bytes, total } => ("upload", bytes as f64, total as f64),
                Progress::Pipelines { done, total } => ("warmup", done as f64, total as f64),
                _ => return,
            };
            // A page that throws in its callback must not end the loading.
            let _ = self.on_progress.call3(&JsValue::NULL, &phase.into(), &done.into(), &total.into());
        };
        Engine::load(&gpu, &self.files, &self.options, &mut told).await
    }
}

/// Whether the device is lost. A busy browser may tell of a failed readback long before its reason.
async fn is_lost(gpu: &Gpu, error: &Error) -> bool {
    const TURNS: usize = 100;
    for _ in 0..TURNS {
        if gpu.is_lost() || error.kind() != ErrorKind::Device {
            break;
        }
        let turn = js_sys::Promise::new(&mut |resolve, _| later(&resolve, 20));
        let _ = wasm_bindgen_futures::JsFuture::from(turn).await;
    }
    gpu.is_lost()
}

/// Calls `callback` after some milliseconds; the package runs in a worker.
fn later(callback: &js_sys::Function, milliseconds: i32) {
    let worker: web_sys::WorkerGlobalScope = js_sys::global().unchecked_into();
    // It can only fail where there is no such function.
    let _ = worker.set_timeout_with_callback_and_timeout_and_arguments_0(callback, milliseconds);
}

fn parse<T: DeserializeOwned>(json: &str) -> Result<T> {
    serde_json::from_str(json).map_err(|error| input(format!("options: {error}")))
}
