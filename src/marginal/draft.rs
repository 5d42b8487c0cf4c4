//! A marginal without a readback, as a drafter and for the bench.

use super::batch::extent;
use super::options::MarginalOptions;
use super::workspace::{Part, Workspace};
use crate::gpu::{Buffer, Gpu, Recorder};
use crate::kernels::{
    Cursor, DraftTopIo, Extent, MAX_BATCH_ROWS, Op, ShiftTokensIo, ShiftTokensParams, StageWindowIo, StageWindowParams,
    draft_likeliest, shift_tokens, stage_window,
};
use crate::model::{Buffers, Model, Plan};

/// Branches that a draft sums over.
const BRANCHES: usize = 8;

/// The ops of the drafter beside those of every marginal.
pub(super) struct DraftOps {
    /// The last position whose successor is known becomes the batch: what may follow it is what is summed over.
    stage: [Op; 2],
    /// The likeliest tokens of the mixture become the candidates of depth 0.
    candidates: Op,
}

impl DraftOps {
    pub fn new(model: &Model, b: &Buffers, tree: &Buffer, mixture: &Buffer) -> Self {
        let (gpu, sizes) = (&model.gpu, &model.sizes);
        let io = DraftTopIo {
            sampling: &b.sample_params,
            tree,
            state: &b.state,
            logits: mixture,
            counts: &b.counts,
            candidates: &b.candidates,
        };
        let staged = StageWindowParams { num_rows: 1, context: sizes.context, adapter: 0 };
        let own_token = ShiftTokensParams { ahead: 0, vocab: sizes.vocab };
        let text = ShiftTokensIo { state: &b.state, rows: &b.rows, text: &b.text, candidates: &b.candidates };
        Self {
            stage: [
                stage_window(gpu, staged, StageWindowIo { state: &b.state, rows: &b.rows }),
                shift_tokens(gpu, own_token, text),
            ],
            candidates: draft_likeliest(gpu, model.kernels, io),
        }
    }
}

impl Workspace {
    /// Asks for what [`Self::draft`] needs. Holds until something else is asked.
    pub fn ask_draft(&self, gpu: &Gpu) {
        self.ask_siblings(gpu, BRANCHES);
    }

    /// Asks for siblings: the `branches` heaviest tokens.
    pub fn ask_siblings(&self, gpu: &Gpu, branches: usize) {
        self.ask(gpu, &MarginalOptions { mass: 1.0, top: 1, ..MarginalOptions::default() }, branches);
        let most = branches.min(MAX_BATCH_ROWS) as u32;
        gpu.write(&self.cursor, 0, &[Cursor { most, ..Cursor::default() }]);
    }

    /// The steps that draft the token after the text's last one as if that were not known: the marginal over the likeliest
    /// tokens in its place. They leave `state` and `rows` as batches of their own; `keys` bounds what a row sees.
    pub fn draft<'a>(&'a self, plan: &'a Plan, keys: u32) -> Vec<(&'a [Op], Extent)> {
        let (one, siblings) = (extent(1, keys as usize), extent(BRANCHES, keys as usize));
        vec![
            (&self.draft.stage[..], one),
            (&plan.body, one),
            (&plan.lm_head, one),
            (self.ops(Part::Nucleus), one),
            (self.ops(Part::Siblings), siblings),
            (&plan.body, siblings),
            (self.ops(Part::Mix), siblings),
            (std::slice::from_ref(&self.draft.candidates), one),
        ]
    }

    /// Records `branches` siblings, and their mixture.
    pub fn record_siblings(&self, plan: &Plan, recorder: &mut Recorder<'_>, branches: usize, keys: usize) {
        let ops = self.ops(Part::Siblings).iter().chain(&plan.body).chain(self.ops(Part::Mix));
        let extent = extent(branches.min(MAX_BATCH_ROWS), keys);
        ops.for_each(|op: &Op| op.record(recorder, extent));
    }

    /// Records the report on the mixture.
    pub fn record_ranking(&self, recorder: &mut Recorder<'_>) {
        self.ops(Part::RankMixture).iter().for_each(|op| op.record(recorder, extent(1, 1)));
    }
}
