//! Typed kernels: each call checks shapes, picks the form for the kernel set and returns an op that a step replays.
//!
//! A shader, its wrapper here and its CPU specification in `reference` share one name. Nothing here knows models.

mod attention;
mod batch;
mod bench;
pub(crate) mod cache;
mod commit;
pub(crate) mod declared;
mod delta_net;
mod embed;
mod head_norm;
mod hidden;
#[cfg(test)]
mod layout_tests;
mod log_probs;
mod lora;
mod matmul;
mod measure;
mod mixture;
mod norm;
mod nucleus;
mod ranking;
mod rope_cache;
mod sample;
mod set;
#[cfg(test)]
mod shader_tests;
mod siblings;
#[cfg(test)]
pub(crate) mod tests;
mod trace;
#[cfg(feature = "train")]
pub(crate) mod train;
mod tree;
pub(crate) mod weights;
mod window;

pub(crate) use attention::{
    AttentionIo, AttentionShape, Scoring, attention_scores, attention_softmax, attention_values,
};
pub(crate) use batch::{DONE_END_TOKEN, DONE_LIMIT, DONE_NOT_FINITE, Row, State};
pub(crate) use bench::{BENCH_READ_BYTES, bench_copy, bench_read};
pub use cache::CacheType;
pub(crate) use commit::{
    CommitIo, CommitParams, EMITTED_TRACE, EMITTED_WORDS, Emitted, MAX_EMITTED, MAX_END_TOKENS, MAX_ROUNDS, commit,
};
pub use declared::shaders;
pub(crate) use delta_net::{
    Committed, DeltaBuffers, DeltaInputsIo, DeltaRuleIo, DeltaShape, MAX_KEY_DIM, delta_commit, delta_inputs,
    delta_rule,
};
pub(crate) use embed::{EmbedIo, EmbedParams, embed};
pub(crate) use head_norm::{HeadNormIo, HeadNormParams, head_norm};
pub(crate) use hidden::{CompactHiddenIo, CopyHidden, Place, compact_hidden, copy_hidden};
pub(crate) use log_probs::{LogProbsIo, LogProbsParams, log_probs};
pub(crate) use lora::{LoraIo, LoraParams, NO_ADAPTER, lora};
pub(crate) use matmul::{
    Activation, Bias, Finish, MatmulForm, MatmulIo, Partials, Store, matmul, matmul_with_partials,
};
pub use measure::measure_kernels;
pub(crate) use mixture::{MixtureIo, NormalizerIo, mixture, normalizer};
pub(crate) use norm::{NormForm, NormIo, norm};
pub(crate) use nucleus::{Branch, Nucleus, NucleusIo, NucleusParams, nucleus};
pub(crate) use ranking::{Ranked, Ranking, RankingIo, RankingParams, ranking};
pub(crate) use rope_cache::{RopeIo, rope_cache};
#[cfg(test)]
pub(crate) use sample::NO_ID;
pub(crate) use sample::{SampleIo, SampleParams, sample};
pub use set::KernelSet;
pub(crate) use set::Widths;
pub(crate) use siblings::{Cursor, SiblingsIo, siblings};
pub(crate) use trace::{MAX_TRACED_ROUNDS, TRACE_WORDS, TraceIo, TracedDraft, trace};
pub(crate) use tree::{
    CompactCacheIo, DraftLookupIo, DraftRecordedIo, DraftTopIo, RECORDED_RANKS, Tree, TreeRowsIo, compact_cache,
    draft_likeliest, draft_lookup, draft_recorded, draft_top, tree_rows,
};
pub use weights::WeightFormat;
pub(crate) use window::{
    ShiftTokensIo, ShiftTokensParams, StageWindowIo, StageWindowParams, shift_tokens, stage_window,
};

use std::sync::Arc;

use crate::gpu::{BindGroup, Kernel, Recorder};
use declared::Declared;

/// The declarations of each file of kernels.
const KERNELS: &[&[Declared]] = &[
    attention::KERNELS,
    bench::KERNELS,
    commit::KERNELS,
    delta_net::KERNELS,
    embed::KERNELS,
    head_norm::KERNELS,
    hidden::KERNELS,
    log_probs::KERNELS,
    lora::KERNELS,
    matmul::KERNELS,
    mixture::KERNELS,
    norm::KERNELS,
    nucleus::KERNELS,
    ranking::KERNELS,
    rope_cache::KERNELS,
    sample::KERNELS,
    siblings::KERNELS,
    trace::KERNELS,
    tree::KERNELS,
    window::KERNELS,
    #[cfg(feature = "train")]
    train::activate::KERNELS,
    #[cfg(feature = "train")]
    train::causal::KERNELS,
    #[cfg(feature = "train")]
    train::head_norm::KERNELS,
    #[cfg(feature = "train")]
    train::label_means::KERNELS,
    #[cfg(feature = "train")]
    train::lora::KERNELS,
    #[cfg(feature = "train")]
    train::loss::KERNELS,
    #[cfg(feature = "train")]
    train::mix::KERNELS,
    #[cfg(feature = "train")]
    train::norm::KERNELS,
    #[cfg(feature = "train")]
    train::product::KERNELS,
    #[cfg(feature = "train")]
    train::rope_rows::KERNELS,
    #[cfg(feature = "train")]
    train::rows::KERNELS,
    #[cfg(feature = "train")]
    train::step::KERNELS,
];

/// The rows a verification batch may have, the anchor included.
pub const MAX_BATCH_ROWS: usize = 32;

/// The rows a prefill chunk may have; activations hold this many.
pub(crate) const MAX_CHUNK_ROWS: usize = 64;

/// The sizes that vary between two replays of the same ops.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    /// Rows of the step.
    pub rows: u32,
    /// Rows whose logits are wanted.
    pub logit_rows: u32,
    /// An upper bound of the keys any row sees.
    pub keys: u32,
}

/// The rows of a step that an op is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// All rows.
    Rows,
    /// The rows whose logits are wanted.
    LogitRows,
}

impl Over {
    /// Whether it is only those whose logits are wanted.
    pub fn logits(self) -> bool {
        self == Self::LogitRows
    }

    /// How many they are.
    fn count(self, extent: Extent) -> u32 {
        match self {
            Self::Rows => extent.rows,
            Self::LogitRows => extent.logit_rows,
        }
    }
}

/// The workgroups that a dispatch takes, from its [`Extent`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Grid {
    One,
    /// `[x, 1, 1]`
    Columns {
        x: u32,
    },
    /// `[x, rows, 1]`
    Rows {
        x: u32,
    },
    /// `[x, logit rows, 1]`
    LogitRows {
        x: u32,
    },
    /// `[x, y, rows]`
    Heads {
        x: u32,
        y: u32,
    },
    /// `[ceil(keys / 64), heads, rows]`
    Keys {
        heads: u32,
    },
    /// `[ceil(columns4 / the form's), ceil(rows / the form's), 1]`
    Matmul {
        columns4: u32,
        over: Over,
    },
    /// Always the same.
    Fixed([u32; 3]),
}

impl Grid {
    /// `x` workgroups for each of these rows.
    fn rows(x: u32, over: Over) -> Self {
        match over {
            Over::Rows => Self::Rows { x },
            Over::LogitRows => Self::LogitRows { x },
        }
    }
}

/// One form of a kernel: how many rows and column blocks a workgroup covers.
pub(crate) struct Form {
    pub kernel: Arc<Kernel>,
    pub rows: u32,
    pub columns4: u32,
}

/// A kernel bound to its buffers, ready to be recorded again and again.
pub(crate) struct Op {
    forms: Vec<Form>,
    bind_group: BindGroup,
    grid: Grid,
}

impl Op {
    /// One form for any number of rows.
    pub fn single(kernel: Arc<Kernel>, bind_group: BindGroup, grid: Grid) -> Self {
        Self { forms: vec![Form { kernel, rows: 1, columns4: 1 }], bind_group, grid }
    }

    /// Records the op for this extent.
    pub fn record(&self, recorder: &mut Recorder<'_>, extent: Extent) {
        let (form, grid) = self.form_and_grid(extent);
        recorder.dispatch(&form.kernel, &self.bind_group, grid);
    }

    /// Records every form over no workgroups.
    pub fn warm_up(&self, recorder: &mut Recorder<'_>) {
        self.forms.iter().for_each(|form| recorder.dispatch(&form.kernel, &self.bind_group, [0, 0, 0]));
    }

    fn form_and_grid(&self, extent: Extent) -> (&Form, [u32; 3]) {
        match self.grid {
            Grid::One => (&self.forms[0], [1, 1, 1]),
            Grid::Columns { x } => (&self.forms[0], [x, 1, 1]),
            Grid::Rows { x } => (&self.forms[0], [x, extent.rows, 1]),
            Grid::LogitRows { x } => (&self.forms[0], [x, extent.logit_rows, 1]),
            Grid::Heads { x, y } => (&self.forms[0], [x, y, extent.rows]),
            Grid::Keys { heads } => (&self.forms[0], [extent.keys.div_ceil(64), heads, extent.rows]),
            Grid::Fixed(grid) => (&self.forms[0], grid),
            Grid::Matmul { columns4, over } => {
                let rows = over.count(extent);
                let form = self.form_for(rows);
                (form, [columns4.div_ceil(form.columns4), rows.div_ceil(form.rows), 1])
            }
        }
    }

    /// The shader and the workgroups it takes for this extent: `matmul 250 x 1 x 1`.
    pub fn name(&self, extent: Extent) -> String {
        let (form, [x, y, z]) = self.form_and_grid(extent);
        let shader = form.kernel.label.split(' ').next().unwrap_or_default();
        format!("{shader} {x} x {y} x {z}")
    }

    /// The narrowest form that holds `rows`, else one of fewer rows, several times; the form for many rows is for more than a
    /// batch has.
    fn form_for(&self, rows: u32) -> &Form {
        let fits = |form: &&Form| form.rows <= MAX_BATCH_ROWS as u32 || rows > MAX_BATCH_ROWS as u32;
        let forms = || self.forms.iter().filter(fits);
        forms()
            .find(|form| form.rows >= rows)
            .or_else(|| forms().next_back())
            .expect("every op has a form for few rows")
    }
}

impl std::fmt::Debug for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Op({}, {:?})", self.forms[0].kernel.label, self.grid)
    }
}
