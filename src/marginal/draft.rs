//! A marginal without a readback: the heaviest branches after a row of logits, and the likeliest token beyond them.

use super::batch::extent;
use super::options::MarginalOptions;
use super::workspace::{Part, Workspace};
use crate::gpu::{Gpu, Recorder};
use crate::kernels::{Cursor, MAX_BATCH_ROWS, Op};
use crate::model::Plan;

#[allow(dead_code, reason = "the bench uses the star alone; the whole is for a drafter")]
impl Workspace {
    /// Asks for the `branches` heaviest tokens and for the likeliest token of their mixture. Holds until something else
    /// is asked.
    pub fn ask_draft(&self, gpu: &Gpu, branches: usize) {
        self.ask(gpu, &MarginalOptions { mass: 1.0, top: 1, ..MarginalOptions::default() }, branches);
        let most = branches.min(MAX_BATCH_ROWS) as u32;
        gpu.write(&self.cursor, 0, &[Cursor { most, ..Cursor::default() }]);
    }

    /// Records it for the first row of the logits: its nucleus, a star of the `branches` that were asked for (at most one
    /// batch), their mixture, its report. The star leaves `state` and `rows` as its batch; `keys` bounds what its rows
    /// see. The answer is in [`Self::drafted`].
    pub fn record_draft(&self, plan: &Plan, recorder: &mut Recorder<'_>, branches: usize, keys: usize) {
        self.ops(Part::Nucleus).iter().for_each(|op| op.record(recorder, extent(1, keys)));
        self.record_star(plan, recorder, branches, keys);
        self.record_ranking(recorder);
    }

    /// The star's part of it.
    pub fn record_star(&self, plan: &Plan, recorder: &mut Recorder<'_>, branches: usize, keys: usize) {
        let ops = self.ops(Part::Star).iter().chain(&plan.body).chain(&plan.head).chain(self.ops(Part::Mix));
        let extent = extent(branches.min(MAX_BATCH_ROWS), keys);
        ops.for_each(|op: &Op| op.record(recorder, extent));
    }

    /// The report's part of it.
    pub fn record_ranking(&self, recorder: &mut Recorder<'_>) {
        self.ops(Part::RankMixture).iter().for_each(|op| op.record(recorder, extent(1, 1)));
    }

    /// Where the answer is: the sum of the mixture as f32 (the mass of the branches) in word 0, the token in word 4, its
    /// truncated sum as f32 in word 5.
    pub fn drafted(&self) -> &wgpu::Buffer {
        &self.reports
    }
}
