//! What a session keeps of its text on the GPU: room that grows with the text, and how far back it reaches.

use std::sync::Arc;

use super::rounds::RoundPlan;
use super::session::Session;
use crate::model::{Buffers, LayerState, Model, Plan, Stood, capacity};
use crate::{Error, Result};

impl Session {
    /// Makes room for rows at places before `end`, of which the context may have fewer. Growing makes buffers and ops anew and
    /// copies what was kept; what was submitted before goes on with the old ones, and is done before they are copied.
    pub(super) fn room(&mut self, end: usize) -> Result<()> {
        let end = end.min(self.context());
        if end > self.buffers.capacity as usize {
            let capacity = capacity(end, self.model.sizes.context);
            self.buffers.grow(&self.model, capacity);
            self.plan_anew();
            self.model.gpu.check().map_err(|e| e.within(format!("making room for a text of {capacity} tokens")))?;
        }
        Ok(())
    }

    /// Makes the ops anew, over buffers that are others now.
    pub(super) fn plan_anew(&mut self) {
        self.plan = Plan::new(&self.model, &self.buffers);
        self.rounds = self.rounds.regrown(&self.model, &self.buffers);
    }

    /// Bytes of the cache as it is now: the states of all layers, those of multi-token heads too.
    pub fn cache_bytes(&self) -> u64 {
        let heads =
            self.buffers.heads.iter().flat_map(|heads| heads.layers.iter().flatten().chain(&heads.adapted_layers));
        self.buffers.layers.iter().chain(heads).map(LayerState::bytes).sum()
    }

    /// Notes that rows are written at places before `end`: rings have then lost what lay there before.
    pub(super) fn wrote(&mut self, end: usize) {
        self.written = self.written.max(end.min(self.context()));
    }

    /// Notes that exactly the first `length` tokens of a text are committed once what was submitted is done.
    pub(super) fn stands(&mut self, length: usize) {
        self.buffers.layers.iter_mut().for_each(|layer| layer.stands(&self.model.gpu, length));
    }

    /// [`Self::room`] for rows that are written.
    pub(super) fn reserve(&mut self, end: usize) -> Result<()> {
        self.wrote(end);
        self.room(end)
    }

    /// Refuses `what`, which goes over rows that are never committed, where a layer's state moves on with committed rows only.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a model with recurrent layers.
    pub(super) fn check_committing(&self, what: &str) -> Result<()> {
        if !self.buffers.layers.iter().any(LayerState::is_recurrent) {
            return Ok(());
        }
        Err(Error::unsupported(format!(
            "{what} is not supported for a model with recurrent layers: it goes over rows that are never committed, and the state of \
             these layers moves on with committed rows only"
        )))
    }

    /// Goes back to the first `length` tokens of the text, or as far as every layer reaches. `cached` says how far.
    pub(super) fn go_back(&mut self, length: usize) {
        let mut length = length.min(self.cached);
        let mut stood = Stood { written: self.written, committed: self.reported.saturating_sub(1) };
        // All layers go to the shortest length that any of them reached.
        loop {
            let go_back = |layer: &mut LayerState| layer.go_back(&self.model.gpu, length, stood);
            let reached = self.buffers.layers.iter_mut().map(go_back).min().unwrap_or(length);
            if reached == length {
                break;
            }
            (length, stood.committed) = (reached, usize::MAX);
        }
        self.cached = length;
        self.reported = length + 1;
        if length == 0 {
            self.written = 0;
        }
    }

    /// Another session with the same text, whose cache is copied instead of computed again.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory) if a second cache does not fit the GPU; otherwise if the device
    /// fails.
    pub async fn fork(&mut self) -> Result<Self> {
        self.drain().await?;
        let Model { gpu, config, sizes, heads, .. } = &*self.model;
        let buffers = Buffers::new(gpu, &config.spec, sizes, self.buffers.capacity, heads.as_ref());
        buffers.copy_text(gpu, &self.buffers);
        let plan = Plan::new(&self.model, &buffers);
        let rounds = RoundPlan::new(&self.model, &buffers, sizes);
        gpu.check()?;
        let mut fork = Self::new(Arc::clone(&self.model), buffers, plan, rounds);
        fork.tokens.clone_from(&self.tokens);
        (fork.cached, fork.written, fork.reported) = (self.cached, self.written, self.reported);
        fork.heads_filled = self.heads_filled;
        Ok(fork)
    }
}
