//! Marginalization in a session: it reads the text into the session's cache and borrows its buffers.

use super::session::Session;
use crate::gpu::Recorder;
use crate::kernels::{Extent, MAX_BATCH_ROWS, Op, Row, State};
use crate::marginal::{MarginalOptions, Marginals, Run, TextPosition, TextReader, Workspace};
use crate::model::Progress;
use crate::{Error, Result};

impl Session {
    /// The distribution of the token [`MarginalOptions::offset`] places after `ids`, given nothing else. What `ids` share
    /// with the text before is not computed again; they become the text.
    ///
    /// ```no_run
    /// # async fn marginals(engine: foretoken::Engine) -> foretoken::Result<()> {
    /// let ids = engine.tokenizer()?.encode("Once upon a", true)?;
    /// let found = engine.session()?.marginals(&ids, &Default::default(), &mut |_| {}).await?;
    /// println!("{} branches cover {:.4}: {:?}", found.branches, found.mass_covered, found.top[0]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) for senseless options, an empty prompt, ids outside the vocabulary, or
    /// no room in the context for the tokens in between; otherwise if the device fails.
    pub async fn marginals(
        &mut self,
        ids: &[u32],
        options: &MarginalOptions,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Marginals> {
        options.validate()?;
        self.check_ids(ids)?;
        options.check_room(ids.len(), self.context())?;
        self.drain().await?;
        self.set_text(ids);
        self.reserve(ids.len() + MAX_BATCH_ROWS)?;
        let cached = std::mem::take(&mut self.cached);
        let found = self.marginal_run(options).marginals(ids, cached, progress).await?;
        self.cached = ids.len();
        self.reported = ids.len() + 1;
        Ok(found)
    }

    /// Goes through the text `ids` from position `start` on: what is predicted for the next token and for the one
    /// [`MarginalOptions::offset`] places ahead, given the text so far. An answer does not depend on `start`, so that a long
    /// analysis can be taken up where it was left. The session's own text is forgotten.
    ///
    /// # Errors
    /// As [`Session::marginals`]; also for fewer than two tokens, and for a model with recurrent layers.
    pub async fn read_marginals(
        &mut self,
        ids: &[u32],
        options: &MarginalOptions,
        start: usize,
    ) -> Result<MarginalReader<'_>> {
        self.check_committing("reading the marginals of a text")?;
        options.validate()?;
        self.check_ids(ids)?;
        if ids.len() < 2 {
            return Err(Error::input("a text of one token predicts nothing that could be compared: give at least two"));
        }
        self.drain().await?;
        self.forget();
        self.reserve(ids.len() + MAX_BATCH_ROWS)?;
        let reader = TextReader::new(ids.to_vec(), start.min(ids.len() - 1));
        Ok(MarginalReader { session: self, options: options.clone(), reader })
    }

    /// Forgets the text and stages a marginal over the heaviest `branches` after `committed` tokens, for
    /// [`Session::record_siblings`].
    ///
    /// # Errors
    /// If the cache does not fit the GPU.
    pub(crate) fn stage_siblings(&mut self, committed: usize, branches: usize) -> Result<StagedSiblings> {
        let extent = self.stage_chain(committed, 1)?;
        self.reserve(committed + MAX_BATCH_ROWS)?;
        let ops = self.plan.body.iter().chain(&self.plan.lm_head);
        self.model.gpu.submit(None, |recorder| ops.for_each(|op| op.record(recorder, extent)), None);
        let gpu = self.model.gpu.clone();
        let options = MarginalOptions::default();
        let run = self.marginal_run(&options);
        run.work.ask_siblings(&gpu, branches);
        // The siblings overwrite the session's own row, and would move on with every repetition.
        let state = gpu.storage_with("state", &[State::default()]);
        let rows = gpu.storage_with("rows", &[Row { position: committed as u32, ..Row::default() }]);
        let anchor = run.work.nucleus_of(run.model, run.buffers, &state, &rows);
        Ok(StagedSiblings { anchor, branches, keys: committed + 2 })
    }

    /// Records a staged marginal: it can be run again and again.
    pub(crate) fn record_siblings(&self, siblings: &StagedSiblings, recorder: &mut Recorder<'_>) {
        let Some(work) = &self.marginal else { return };
        siblings.anchor.record(recorder, Extent { rows: 1, logit_rows: 1, keys: 1 });
        for first in (0..siblings.branches).step_by(MAX_BATCH_ROWS) {
            work.record_siblings(&self.plan, recorder, siblings.branches - first, siblings.keys);
        }
        work.record_ranking(recorder);
    }

    fn marginal_run<'a>(&'a mut self, options: &'a MarginalOptions) -> Run<'a> {
        let Self { model, buffers, plan, rounds, marginal, .. } = self;
        let work = marginal.get_or_insert_with(|| Box::new(Workspace::new(model, buffers, &rounds.buffers.tree)));
        Run { model, buffers, plan, work, options }
    }
}

/// The siblings that [`Session::record_siblings`] records again and again.
pub(crate) struct StagedSiblings {
    /// Finds the branches.
    anchor: Op,
    branches: usize,
    keys: usize,
}

/// The positions of a text, one after the other.
pub struct MarginalReader<'s> {
    session: &'s mut Session,
    options: MarginalOptions,
    reader: TextReader,
}

impl MarginalReader<'_> {
    /// The next position; none at the end of the text. Positions are worked on a few at a time, so some take long and
    /// the next ones nothing.
    ///
    /// # Errors
    /// If the device fails.
    pub async fn next(&mut self) -> Result<Option<TextPosition>> {
        let mut run = self.session.marginal_run(&self.options);
        self.reader.next(&mut run).await
    }

    /// The progress, for a bar.
    pub fn progress(&self) -> Progress {
        Progress::Positions { done: self.reader.position(), total: self.reader.total() }
    }
}
