//! The ops of a round beside the forward pass: drafts become candidates, candidates rows, and what was sampled joins the text.

use super::adapted;
use super::round::Step;
use crate::gpu::{Buffer, Gpu};
use crate::kernels::{
    CommitIo, CommitParams, CompactHiddenIo, DraftLookupIo, DraftRecordedIo, DraftTopIo, EMITTED_WORDS, Extent,
    MAX_BATCH_ROWS, MAX_END_TOKENS, Op, RECORDED_RANKS, StageWindowIo, StageWindowParams, TraceIo, Tree, TreeRowsIo,
    commit, compact_hidden, draft_lookup, draft_recorded, draft_top, stage_window, trace, tree_rows,
};
use crate::model::{Buffers, CommitIo as CommitBatch, HeadsPlan, Model, Planner, Sizes, history_buffers};

/// The buffers of rounds beside those of the forward pass.
#[derive(Clone)]
pub(crate) struct RoundBuffers {
    /// The results of a submit: ids, the reason of the end, drafted and accepted tokens of each round, and if wanted
    /// what the target thought of each draft.
    pub emitted: Buffer,
    /// The tree of a round.
    pub tree: Buffer,
    /// Drafts written down beforehand, `[context + 1, RECORDED_RANKS]`.
    pub recorded: Buffer,
}

impl RoundBuffers {
    fn new(gpu: &Gpu, context: u32) -> Self {
        Self {
            emitted: gpu.storage("emitted", 4 * EMITTED_WORDS as u64),
            tree: gpu.uniform("tree", &<Tree as bytemuck::Zeroable>::zeroed()),
            recorded: gpu.storage("recorded", 4 * RECORDED_RANKS as u64 * (u64::from(context) + 1)),
        }
    }
}

/// The ops of rounds, in the order they run, and what they keep.
pub(crate) struct RoundPlan {
    pub buffers: RoundBuffers,
    /// Candidates from the text itself, and from recorded drafts: one of them, or none, starts a round.
    pub lookup: Vec<Op>,
    pub recorded: Vec<Op>,
    /// Candidates from multi-token heads.
    pub heads: Option<HeadDrafts>,
    /// The text's last token and its drafts become rows.
    pub tree: Vec<Op>,
    /// The ops that note what the target thought of the drafts, where somebody wants to know.
    pub trace: Vec<Op>,
    /// The end of a round: what was sampled joins the text.
    pub commit: Vec<Op>,
    /// After a tree: the accepted path moves together in the cache.
    pub compact: Vec<Op>,
}

impl RoundPlan {
    pub fn new(model: &Model, b: &Buffers, sizes: &Sizes) -> Self {
        Self::over(model, b, RoundBuffers::new(&model.gpu, sizes.context))
    }

    /// The same buffers of rounds, and ops over `b`, whose room has grown.
    pub fn regrown(&self, model: &Model, b: &Buffers) -> Self {
        Self::over(model, b, self.buffers.clone())
    }

    fn over(model: &Model, b: &Buffers, buffers: RoundBuffers) -> Self {
        let (gpu, set) = (&model.gpu, model.kernels);
        let RoundBuffers { emitted, tree, recorded } = &buffers;
        let sizes = &model.sizes;
        let logits = (sizes.vocab, sizes.vocab_stride());
        let batch = CommitBatch { state: &b.state, path: &b.path };
        let moved = b.layers.iter().filter_map(|layer| layer.commit_path(gpu, batch));
        let commit = std::iter::once(commit_op(model, b, &buffers)).chain(moved).collect();
        let (state, rows, text, candidates) = (&b.state, &b.rows, &b.text, &b.candidates);
        let lookup = DraftLookupIo { tree, state, text, candidates };
        let recorded = DraftRecordedIo { tree, state, recorded, candidates };
        let as_rows = TreeRowsIo { tree, state, rows, text, candidates };
        let traced = TraceIo { state, rows, logits: &b.logits, sampled: &b.sampled, emitted };
        Self {
            lookup: vec![draft_lookup(gpu, set, lookup)],
            recorded: vec![draft_recorded(gpu, recorded)],
            heads: HeadDrafts::new(model, b, &buffers),
            tree: vec![tree_rows(gpu, as_rows)],
            trace: vec![trace(gpu, set, logits, traced)],
            commit,
            compact: b.layers.iter().filter_map(|layer| layer.commit_tree(gpu, batch)).collect(),
            buffers,
        }
    }

    /// All ops of rounds.
    pub fn ops(&self) -> impl Iterator<Item = &Op> {
        let heads = self.heads.iter().flat_map(HeadDrafts::ops);
        let ops = [&self.lookup, &self.recorded, &self.tree, &self.trace, &self.commit, &self.compact];
        ops.into_iter().flatten().chain(heads)
    }
}

fn commit_op(model: &Model, b: &Buffers, of_rounds: &RoundBuffers) -> Op {
    let eos = &model.config.eos_token_ids;
    let mut end_tokens = [0; MAX_END_TOKENS];
    end_tokens[..eos.len()].copy_from_slice(eos);
    let params = CommitParams {
        num_end_tokens: eos.len() as u32,
        vocab: model.sizes.vocab,
        context: model.sizes.context,
        pad: 0,
        end_tokens,
    };
    let io = CommitIo {
        state: &b.state,
        rows: &b.rows,
        sampled: &b.sampled,
        counts: &b.counts,
        emitted: &of_rounds.emitted,
        text: &b.text,
        path: &b.path,
    };
    commit(&model.gpu, &params, io)
}

/// The ops that make drafters of the model's heads.
///
/// A round's heads are fed the last [`HeadDrafts::window`] positions whose hidden states are known: those that the round
/// before may have committed, and for heads that read later tokens those whose tokens were still drafts then. A position
/// that was gone over before leaves the same bits again, so the window has one size whatever was accepted.
///
/// Parallel heads read hidden states only. They go over the window without logits, then each predicts from the last row.
/// Sequential heads also read the tokens after a position: those of the text, and beyond its end the candidates. So they run
/// in the order of their offsets, each over the whole window, and each writes its candidates before the next one reads them.
pub(crate) struct HeadDrafts {
    /// `windows[n - 1]` stages the last n positions whose hidden states are known; the last is the row whose logits are
    /// wanted. It changes `state.committed`, `num_rows` and `logit_row`.
    pub windows: Vec<Op>,
    /// The op of each head from the logits of one row to the candidates of the depth that it drafts; none for the next token,
    /// which nobody drafts.
    candidates: Vec<Option<Op>>,
    /// The ops of rows whose adapters are on, under a gated LoRA. They go through the blocks below the heads, which have keys and
    /// values of their own for such rows, and leave what heads read. Without a gated LoRA the model's body leaves that, and this
    /// is empty.
    pub adapted: Vec<Op>,
    /// After a batch that was a tree, once it is committed: moves hidden states as `compact_cache` moves keys and values.
    pub compact: Vec<Op>,
    /// The longest chain that heads can draft: their offsets 2, 3, ... without a gap.
    pub depth: usize,
    /// Positions that a round goes over: those that the round before may have committed, and for heads that read later
    /// tokens those whose tokens were drafts then.
    pub window: usize,
}

impl HeadDrafts {
    fn new(model: &Model, b: &Buffers, of_rounds: &RoundBuffers) -> Option<Self> {
        let heads = model.heads.as_ref()?;
        let (gpu, set, sizes) = (&model.gpu, model.kernels, &model.sizes);
        let (width, slots) = (sizes.hidden, b.capacity);
        let stage = |num_rows| {
            let params = StageWindowParams { num_rows, context: sizes.context, adapter: heads.gated.into() };
            stage_window(gpu, params, StageWindowIo { state: &b.state, rows: &b.rows })
        };
        let io = DraftTopIo {
            sampling: &b.sample_params,
            tree: &of_rounds.tree,
            state: &b.state,
            logits: &b.logits,
            counts: &b.counts,
            candidates: &b.candidates,
        };
        // After the position's last token comes the one that the target has sampled itself: offset 2 is the first draft.
        let candidates = |offset: usize| {
            let depth = offset.checked_sub(2).filter(|&depth| depth < MAX_BATCH_ROWS)?;
            Some(draft_top(gpu, set, depth as u32, io))
        };
        // Drafting rows leave all that heads read anew, where they belong.
        let kept = if heads.gated { &[][..] } else { history_buffers(b) };
        let compact =
            |history| compact_hidden(gpu, width, slots, CompactHiddenIo { state: &b.state, path: &b.path, history });
        let offsets = || heads.heads.iter().map(|head| head.offset);
        let depth = (0..MAX_BATCH_ROWS).take_while(|depth| offsets().any(|offset| offset == depth + 2)).count();
        let ahead = heads.heads.iter().map(|head| head.ahead).max().unwrap_or(0);
        Some(Self {
            windows: (1..=MAX_BATCH_ROWS as u32).map(stage).collect(),
            candidates: offsets().map(candidates).collect(),
            adapted: adapted::ops(Planner { model, buffers: b }),
            compact: kept.iter().map(compact).collect(),
            depth,
            window: (depth + 1 + ahead.saturating_sub(1)).min(MAX_BATCH_ROWS),
        })
    }

    fn ops(&self) -> impl Iterator<Item = &Op> {
        self.windows.iter().chain(self.candidates.iter().flatten()).chain(&self.adapted).chain(&self.compact)
    }

    /// The ops that leave everything that later rows, and later heads, need of the staged rows, which lie within the text.
    pub fn refill<'a>(&'a self, heads: &'a HeadsPlan) -> impl Iterator<Item = &'a Op> {
        let tokens = heads.tokens.iter().filter(|_| !self.adapted.is_empty());
        tokens.chain(&self.adapted).chain(heads.heads.iter().flat_map(|head| &head.refill))
    }

    /// Stages the last `rows` positions of a text whose length is at most `keys`, and leaves what heads read there.
    pub fn staged<'a>(&'a self, heads: &'a HeadsPlan, rows: usize, keys: u32) -> Vec<Step<'a>> {
        let one = Extent { rows: 1, logit_rows: 1, keys };
        let wide = Extent { rows: rows as u32, ..one };
        let mut steps = vec![(std::slice::from_ref(&self.windows[rows - 1]), one)];
        if !self.adapted.is_empty() {
            steps.extend([(&heads.tokens[..], one), (&self.adapted[..], wide)]);
        }
        steps
    }

    /// Candidates of the first `depth` depths after the text, whose length is at most `keys`.
    pub fn draft<'a>(&'a self, heads: &'a HeadsPlan, depth: usize, keys: u32) -> Vec<Step<'a>> {
        let one = Extent { rows: 1, logit_rows: 1, keys };
        let wide = Extent { rows: self.window as u32, ..one };
        let wanted = || {
            let heads = heads.heads.iter().zip(&self.candidates);
            heads.filter(|(head, _)| (2..=depth + 1).contains(&head.offset))
        };
        let mut steps = self.staged(heads, self.window, keys);
        if wanted().any(|(head, _)| head.ahead > 0) {
            // In the order of their offsets: each reads what the one before drafted.
            for (head, candidates) in wanted() {
                steps.extend([(&head.full[..], wide), (candidates.as_slice(), one)]);
            }
            return steps;
        }
        steps.extend(wanted().map(|(head, _)| (&head.refill[..], wide)));
        steps.push((std::slice::from_ref(&self.windows[0]), one));
        for (head, candidates) in wanted() {
            steps.extend([(&head.full[..], one), (candidates.as_slice(), one)]);
        }
        steps
    }
}
