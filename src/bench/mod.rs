//! Benches: what a device reaches, and which share of that the kernels and a whole model reach.
//!
//! Absolute numbers change with the machine and its load; the shares and ratios of one [`Report`] come from one run and
//! are what counts.

mod drafts;
mod kernels;
mod model;
mod stopwatch;
mod table;

pub use crate::format::random::RandomLlama;
pub use drafts::{DraftRate, DraftReport, drafts};
pub use kernels::KernelRate;
pub use model::{ContextRate, PerToken, PrefillRate, SiblingWidth, StepPart, StepWidth};
use serde::Serialize;
pub use stopwatch::Spread;
use stopwatch::{Effort, Stopwatch};

use crate::format::files::Files;
use crate::gpu::AdapterSummary;
use crate::options::setters;
use crate::{CacheType, Engine, EngineOptions, Gpu, KernelSet, Result, WeightFormat};

/// Options of a bench: what to measure, and how thoroughly.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct BenchOptions {
    /// The kernel set. Default: [`KernelSet::default_for`] the adapter.
    pub kernels: Option<KernelSet>,
    /// Few points and few samples: shows that everything runs, not how fast.
    pub quick: bool,
    /// The format in which the model's matrices are packed. Default: as they are stored.
    pub quantize: Option<WeightFormat>,
    /// The type in which keys and values are kept.
    pub cache: CacheType,
    /// The version of the source that the program was built from, for the report. Default: `unknown`.
    pub commit: Option<String>,
}

setters!(BenchOptions {
    quick: bool, cache: CacheType;
    or none kernels: KernelSet, quantize: WeightFormat, commit: String
});

impl BenchOptions {
    fn stated_commit(&self) -> String {
        self.commit.clone().unwrap_or_else(|| "unknown".to_owned())
    }
}

/// Everything that one run has measured; displayed, it is a table for people.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The adapter, with its driver and limits.
    pub adapter: AdapterSummary,
    /// The kernel set.
    pub kernels: KernelSet,
    /// The version of the source, [`BenchOptions::commit`].
    pub commit: String,
    /// The model.
    pub model: String,
    /// [`BenchOptions::quick`].
    pub quick: bool,
    /// Bytes a second that reading alone reaches.
    pub read: Spread,
    /// Bytes a second, read and written, that copying alone reaches.
    pub copy: Spread,
    /// The kernels by themselves.
    pub kernel_rates: Vec<KernelRate>,
    /// Steps of the model by their number of rows.
    pub step_widths: Vec<StepWidth>,
    /// Marginals by their number of branches.
    #[serde(rename = "star_widths")]
    pub sibling_widths: Vec<SiblingWidth>,
    /// Reading a prompt.
    pub prefill: PrefillRate,
    /// Generating, by the length of the text before.
    pub decode: Vec<ContextRate>,
    /// The work that a generated token takes of the host.
    pub per_token: PerToken,
    /// Seconds of the host to record and submit one dispatch.
    pub cpu_per_dispatch: Spread,
    /// The parts of a step of one row, and the time of each.
    pub step_parts: Vec<StepPart>,
}

/// Measures the device of `gpu` and the model in `files` on it. `progress` hears what is being measured.
///
/// # Errors
/// As [`Engine::load`], and if the device fails.
pub async fn run<F: Files>(
    gpu: &Gpu,
    files: &F,
    options: &BenchOptions,
    progress: &mut dyn FnMut(&str),
) -> Result<Report> {
    let kernels = options.kernels.unwrap_or_else(|| KernelSet::default_for(gpu.summary()));
    kernels.check(gpu.summary())?;
    // First, so that whatever is wrong with the model is said before minutes of measurements.
    progress("loading the model");
    let engine_options = EngineOptions {
        kernels: Some(kernels),
        quantize: options.quantize,
        cache: options.cache,
        ..EngineOptions::default()
    };
    let engine = Engine::load(gpu, files, &engine_options, &mut |_| {}).await?;
    let watch = Stopwatch::new(gpu, if options.quick { Effort::QUICK } else { Effort::FULL });
    progress("reading and copying memory");
    let (read, copy) = kernels::memory(gpu, &watch).await?;
    let kernel_rates = kernels::rates(gpu, kernels, &watch, read.median, options.quick, progress).await?;
    let mut model = model::ModelBench::new(&engine, &watch, options.quick)?;
    progress("steps by their width");
    let step_widths = model.step_widths().await?;
    progress("marginals by their branches");
    let sibling_widths = model.sibling_widths().await?;
    progress("the parts of a step");
    let step_parts = model.step_parts().await?;
    let cpu_per_dispatch = model.cpu_per_dispatch().await?;
    progress("prefill");
    let prefill = model.prefill().await?;
    progress("decode");
    let decode = model.decode(read.median).await?;
    let per_token = model.per_token().await?;
    Ok(Report {
        adapter: gpu.summary().clone(),
        kernels,
        commit: options.stated_commit(),
        model: files.describe(),
        quick: options.quick,
        read,
        copy,
        kernel_rates,
        step_widths,
        sibling_widths,
        prefill,
        decode,
        per_token,
        cpu_per_dispatch,
        step_parts,
    })
}
