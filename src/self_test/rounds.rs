//! Checks of what a round adds to a forward pass: drafts, rows of a tree, the walk along what was sampled, the cache.

use super::KernelCheck;
use super::attending::{fetched, rounded, stored};
use super::bench::{compare, compare_exactly, noise, read, run};
use super::sampling::{NOISE_MARGIN, PLAIN};
use crate::Result;
use crate::gpu::{Buffer, Gpu};
use crate::kernels::{
    AttentionShape, CommitIo, CommitParams, CompactCacheIo, DraftLookupIo, DraftRecordedIo, DraftTopIo, EMITTED_WORDS,
    Emitted, Extent, KernelSet, MAX_BATCH_ROWS, MAX_CHUNK_ROWS, MAX_END_TOKENS, Op, RECORDED_RANKS, Row, SampleParams,
    State, TraceIo, Tree, TreeRowsIo, commit, compact_cache, draft_likeliest, draft_lookup, draft_recorded, draft_top,
    trace, tree_rows,
};
use crate::reference::commit::{Text, commit_prompt};
use crate::reference::log_probs::log_prob;
use crate::reference::sample::{Settings, scores};
use crate::reference::{commit as reference, draft};

const ONE: Extent = Extent { rows: 1, logit_rows: 1, keys: 0 };
const VOCAB: u32 = 40;
const NGRAM: usize = 4;

/// Where the drafts of a check come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drafts {
    Lookup,
    Recorded,
}

/// A text on the GPU and beside it by the reference.
pub(crate) struct Rounds<'a> {
    gpu: &'a Gpu,
    set: KernelSet,
    tree: Tree,
    known: Text,
    text: Vec<u32>,
    pub limit: u32,
    pub context: u32,
    pub end_tokens: Vec<u32>,
}

impl<'a> Rounds<'a> {
    /// A text that has been read, its last token not yet through the model, and a tree of drafts.
    pub fn new(gpu: &'a Gpu, set: KernelSet, text: &[u32], children: &[usize]) -> Self {
        let length = text.len() as u32;
        let known = Text { committed: length - 1, length, ..Text::default() };
        let (tree, text) = (Tree::new(children), text.to_vec());
        Self { gpu, set, tree, known, text, limit: 64, context: 64, end_tokens: Vec::new() }
    }

    /// The recorded drafts: the candidates of each position are the tokens `position % 7 + rank`.
    fn recorded(position: usize) -> [u32; RECORDED_RANKS] {
        [0, 1, 2, 3].map(|rank| position as u32 % 7 + rank)
    }

    /// What is drafted after the text, `[depth][rank]`.
    fn candidates(&self, drafts: Drafts) -> Vec<Vec<Option<u32>>> {
        let (depths, ranks) = (self.tree.depth as usize, self.tree.ranks as usize);
        let looked = |rank: usize| draft::lookup(&self.text, NGRAM, rank, depths);
        let candidate = |depth: usize, rank: usize| match drafts {
            Drafts::Lookup => looked(rank).map(|tokens| tokens[depth]),
            Drafts::Recorded => Self::recorded((self.text.len() + depth).min(self.context as usize)).get(rank).copied(),
        };
        (0..depths).map(|depth| (0..ranks).map(|rank| candidate(depth, rank)).collect()).collect()
    }

    /// Runs a round for each list of `sampled`: what the target samples at depth 0, 1, 2, ... of a path.
    pub async fn check(mut self, drafts: Drafts, sampled: &[&[u32]]) -> Result<KernelCheck> {
        let gpu = self.gpu;
        let known = self.known;
        let mut text = self.text.clone();
        text.resize(self.context as usize + 1, 0);
        let recorded: Vec<_> = (0..=self.context as usize).map(Self::recorded).collect();
        let state = State {
            committed: known.committed,
            length: known.length,
            limit: self.limit,
            num_rows: 1,
            ..State::default()
        };
        let buffers = Buffers {
            state: gpu.storage_with("state", &[state]),
            rows: gpu.storage_with("rows", &[Row::default(); MAX_BATCH_ROWS]),
            sampled: gpu.storage("sampled", 4 * MAX_BATCH_ROWS as u64),
            counts: gpu.storage("counts", 4 * u64::from(VOCAB)),
            emitted: gpu.storage("emitted", 4 * EMITTED_WORDS as u64),
            text: gpu.storage_with("text", &text),
            path: gpu.storage("path", 4 * (1 + MAX_CHUNK_ROWS as u64)),
            candidates: gpu.storage("candidates", 4 * (MAX_BATCH_ROWS * MAX_BATCH_ROWS) as u64),
            tree: gpu.uniform("tree", &self.tree),
            recorded: gpu.storage_with("recorded", &recorded),
        };
        self.known.limit = self.limit;
        let [draft, expand, end] = buffers.ops(&self, drafts);
        let (mut got, mut want) = (Vec::new(), Vec::new());
        let (mut emitted, mut counts) = (Vec::new(), vec![0; VOCAB as usize]);
        for &sampled in sampled {
            let by_row: Vec<u32> = (0..MAX_BATCH_ROWS)
                .map(|row| sampled.get(self.tree.nodes[row][1] as usize).copied().unwrap_or(39))
                .collect();
            gpu.write(&buffers.sampled, 0, &by_row);
            run(gpu, &[&draft, &expand], ONE);
            let count = self.tree.num_rows as usize;
            if self.known.done == 0 {
                let rows = self.rows(drafts);
                got.extend(bytemuck::cast_slice::<Row, u32>(&read::<Row>(gpu, &buffers.rows, count).await?));
                want.extend(bytemuck::cast_slice::<Row, u32>(&rows));
            }
            let tree: Vec<_> =
                self.rows(drafts).iter().enumerate().map(|(i, r)| (r.token, self.tree.parent(i))).collect();
            run(gpu, &[&end], ONE);
            let done = reference::commit(&mut self.known, &tree, &by_row, self.context, &self.end_tokens);
            self.text.extend(&done.ids);
            emitted.extend(&done.ids);
            done.ids.iter().for_each(|&id| counts[id as usize] += 1);

            got.extend(self.state(read::<State>(gpu, &buffers.state, 1).await?[0]));
            got.extend(read::<u32>(gpu, &buffers.path, 1 + done.path.len()).await?);
            got.extend(read::<u32>(gpu, &buffers.text, self.text.len()).await?);
            got.extend(read::<u32>(gpu, &buffers.counts, VOCAB as usize).await?);
            got.extend(Emitted::of(&read::<u32>(gpu, &buffers.emitted, EMITTED_WORDS).await?).ids);
            let Text { committed, length, done: ended, emitted: count, rounds, .. } = self.known;
            want.extend([committed, length, ended, count, rounds]);
            want.push(done.path.len() as u32);
            want.extend(&done.path);
            want.extend(&self.text);
            want.extend(&counts);
            want.extend(&emitted);
        }
        Ok(compare_exactly("rounds", format!("{drafts:?} of {}", self.tree.num_rows), &got, &want))
    }

    fn state(&self, state: State) -> [u32; 5] {
        [state.committed, state.length, state.done, state.emitted, state.rounds]
    }

    /// The rows of the round.
    fn rows(&self, drafts: Drafts) -> Vec<Row> {
        let candidates = self.candidates(drafts);
        let anchor = self.text.len() - 1;
        let row = |&[mask, depth, rank, _]: &[u32; 4]| {
            let drafted = |depth: u32| candidates[depth as usize][rank as usize].unwrap_or(u32::MAX);
            let token = depth.checked_sub(1).map_or(self.text[anchor], drafted);
            Row { token, position: anchor as u32 + depth, mask, ..Row::default() }
        };
        self.tree.nodes[..self.tree.num_rows as usize].iter().map(row).collect()
    }
}

struct Buffers {
    state: Buffer,
    rows: Buffer,
    sampled: Buffer,
    counts: Buffer,
    emitted: Buffer,
    text: Buffer,
    path: Buffer,
    candidates: Buffer,
    tree: Buffer,
    recorded: Buffer,
}

impl Buffers {
    fn ops(&self, rounds: &Rounds<'_>, drafts: Drafts) -> [Op; 3] {
        let gpu = rounds.gpu;
        let mut end_tokens = [0; MAX_END_TOKENS];
        end_tokens[..rounds.end_tokens.len()].copy_from_slice(&rounds.end_tokens);
        let num_end_tokens = rounds.end_tokens.len() as u32;
        let params = CommitParams { num_end_tokens, vocab: VOCAB, context: rounds.context, pad: 0, end_tokens };
        let Self { tree, state, rows, text, candidates, recorded, .. } = self;
        let draft = match drafts {
            Drafts::Lookup => draft_lookup(gpu, rounds.set, DraftLookupIo { tree, state, text, candidates }),
            Drafts::Recorded => draft_recorded(gpu, DraftRecordedIo { tree, state, recorded, candidates }),
        };
        let expand = tree_rows(gpu, TreeRowsIo { tree, state, rows, text, candidates });
        let io = CommitIo {
            state: &self.state,
            rows: &self.rows,
            sampled: &self.sampled,
            counts: &self.counts,
            emitted: &self.emitted,
            text: &self.text,
            path: &self.path,
        };
        [draft, expand, commit(gpu, &params, io)]
    }
}

/// The end of reading a prompt of `num_rows` rows, of which only the last is sampled.
pub(crate) async fn check_prompt_end(gpu: &Gpu, num_rows: u32, id: u32, limit: u32) -> Result<KernelCheck> {
    let mut rounds = Rounds::new(gpu, KernelSet::Software, &vec![1; num_rows as usize], &[]);
    rounds.known.committed = 0;
    rounds.known.limit = limit;
    rounds.end_tokens = vec![9];
    let length = num_rows;
    let state = State { length, limit, num_rows, logit_row: num_rows - 1, ..State::default() };
    let mut text = vec![1; num_rows as usize];
    text.push(0);
    let buffers = Buffers {
        state: gpu.storage_with("state", &[state]),
        rows: gpu.storage_with("rows", &vec![Row::default(); num_rows as usize]),
        sampled: gpu.storage_with("sampled", &[id]),
        counts: gpu.storage("counts", 4 * u64::from(VOCAB)),
        emitted: gpu.storage("emitted", 4 * EMITTED_WORDS as u64),
        text: gpu.storage_with("text", &text),
        path: gpu.storage("path", 4 * (1 + MAX_CHUNK_ROWS as u64)),
        candidates: gpu.storage("candidates", 4 * (MAX_BATCH_ROWS * MAX_BATCH_ROWS) as u64),
        tree: gpu.uniform("tree", &rounds.tree),
        recorded: gpu.storage("recorded", 16),
    };
    let [_, _, end] = buffers.ops(&rounds, Drafts::Recorded);
    run(gpu, &[&end], ONE);
    let done = commit_prompt(&mut rounds.known, num_rows, id, &rounds.end_tokens);
    let mut got = rounds.state(read::<State>(gpu, &buffers.state, 1).await?[0]).to_vec();
    got.extend(read::<u32>(gpu, &buffers.path, 1 + num_rows as usize).await?);
    got.extend(Emitted::of(&read::<u32>(gpu, &buffers.emitted, EMITTED_WORDS).await?).ids);
    let Text { committed, length, done: ended, emitted, rounds: count, .. } = rounds.known;
    let mut want = vec![committed, length, ended, emitted, count, num_rows];
    want.extend(done.path);
    want.extend(done.ids);
    Ok(compare_exactly("rounds", format!("prompt of {num_rows}"), &got, &want))
}

/// Moves the rows of `path` together after `first` places.
pub(crate) async fn check_compact(
    gpu: &Gpu,
    shape: AttentionShape,
    first: usize,
    path: &[usize],
) -> Result<KernelCheck> {
    let [heads, size, count] = [shape.kv_heads, shape.head_dim, shape.slots].map(|n| n as usize);
    let (total, cache) = (heads * size * count, shape.cache);
    let [keys, values] = [61, 62].map(|seed| rounded(noise(seed, total), cache));
    let state = State { committed: (first + path.len()) as u32, ..State::default() };
    let mut words = vec![path.len() as u32];
    words.extend(path.iter().map(|&row| row as u32));
    let io = CompactCacheIo {
        state: &gpu.storage_with("state", &[state]),
        path: &gpu.storage_with("path", &words),
        keys: &stored(gpu, "keys", &keys, cache),
        values: &stored(gpu, "values", &values, cache),
    };
    run(gpu, &[&compact_cache(gpu, shape, io)], ONE);
    let mut got = fetched(gpu, io.keys, total, cache).await?;
    got.extend(fetched(gpu, io.values, total, cache).await?);
    let got: Vec<u32> = got.into_iter().map(f32::to_bits).collect();
    // By slot: keys lie [heads, size / 4, slots, 4], values [heads, slots, size].
    let key = |head: usize, d: usize, slot: usize| ((head * (size / 4) + d / 4) * count + slot) * 4 + d % 4;
    let value = |head: usize, d: usize, slot: usize| (head * count + slot) * size + d;
    let moved = |array: &[f32], index: &dyn Fn(usize, usize, usize) -> usize| {
        let all = || (0..heads).flat_map(|head| (0..size).map(move |d| (head, d)));
        let mut slots: Vec<Vec<f32>> =
            (0..count).map(|slot| all().map(|(head, d)| array[index(head, d, slot)]).collect()).collect();
        slots.rotate_left(first % count);
        draft::compact(&mut slots, 0, path);
        slots.rotate_right(first % count);
        let mut out = vec![0u32; total];
        for (slot, content) in slots.iter().enumerate() {
            all().zip(content).for_each(|((head, d), x)| out[index(head, d, slot)] = x.to_bits());
        }
        out
    };
    let mut want = moved(&keys, &key);
    want.extend(moved(&values, &value));
    Ok(compare_exactly("compact_cache", format!("{path:?} after {first}"), &got, &want))
}

/// What the target thinks of the drafts of a tree, in the third round of a submit.
pub(crate) async fn check_trace(gpu: &Gpu, set: KernelSet, vocab: usize) -> Result<KernelCheck> {
    let (tree, round, stride) = (Tree::new(&[2, 2]), 2, vocab + 3);
    let count = tree.num_rows as usize;
    let mut logits: Vec<f32> = noise(63, count * stride).iter().map(|x| 9.0 * x).collect();
    // A tie: the lower id comes first.
    (logits[vocab / 2], logits[vocab / 3]) = (1.0, 1.0);
    // The last draft is none.
    let token = |row: usize| if row + 1 == count { u32::MAX } else { (row * vocab / 2 % vocab) as u32 };
    let row = |at: usize| Row { token: token(at), mask: tree.nodes[at][0], ..Row::default() };
    let rows: Vec<Row> = (0..count).map(row).collect();
    let sampled: Vec<u32> = (0..count as u32).map(|row| row + 20).collect();
    let emitted = gpu.storage("emitted", 4 * EMITTED_WORDS as u64);
    let io = TraceIo {
        state: &gpu.storage_with("state", &[State { num_rows: tree.num_rows, rounds: round, ..State::default() }]),
        rows: &gpu.storage_with("rows", &rows),
        logits: &gpu.storage_with("logits", &logits),
        sampled: &gpu.storage_with("sampled", &sampled),
        emitted: &emitted,
    };
    let op = trace(gpu, set, (vocab as u32, stride as u32), io);
    run(gpu, &[&op], Extent { rows: tree.num_rows, logit_rows: tree.num_rows, ..ONE });
    let emitted = Emitted::of(&read::<u32>(gpu, &emitted, EMITTED_WORDS).await?);
    let (mut got, mut want) = (Vec::new(), Vec::new());
    for row in 1..count {
        let traced = emitted.traced(round as usize, row);
        let parent = tree.parent(row).unwrap_or(0);
        let logits = &logits[parent * stride..][..vocab];
        let draft = token(row) as usize;
        let before = |(id, logit): (usize, &f32)| *logit > logits[draft] || (*logit == logits[draft] && id < draft);
        let (p, rank) = match logits.get(draft) {
            Some(_) => {
                (log_prob(logits, draft).exp(), logits.iter().enumerate().filter(|other| before(*other)).count())
            }
            // What nobody drafted is not judged.
            None => (traced.p.into(), traced.rank as usize),
        };
        let sound = (traced.rank as usize, traced.target) == (rank, sampled[parent]);
        got.push(if sound { traced.p } else { f32::NAN });
        want.push(p);
    }
    Ok(compare("trace", format!("{set} {vocab}"), &got, &want))
}

/// Candidates of the third depth from logits, or from probabilities, of `vocab` tokens, some of which are penalised.
pub(crate) async fn check_draft_top(
    gpu: &Gpu,
    set: KernelSet,
    vocab: usize,
    temperature: f32,
    probabilities: bool,
) -> Result<KernelCheck> {
    let (depth, length, tree, seed) = (2, 9, Tree::new(&[5]), [3, 8]);
    let logits: Vec<f32> = noise(64, vocab).iter().map(|x| 6.0 * x).collect();
    let counts: Vec<u32> = (0..vocab as u32).map(|id| u32::from(id % 3 == 0)).collect();
    let settings = Settings { repetition_penalty: 1.3, temperature, ..PLAIN };
    let given: Vec<f32> = if probabilities { logits.iter().map(|x| x.exp()).collect() } else { logits.clone() };
    let candidates = gpu.storage("candidates", 4 * (MAX_BATCH_ROWS * MAX_BATCH_ROWS) as u64);
    let params = SampleParams {
        vocab: vocab as u32,
        temperature,
        repetition_penalty: 1.3,
        seed,
        ..<SampleParams as bytemuck::Zeroable>::zeroed()
    };
    let io = DraftTopIo {
        sampling: &gpu.uniform("sample", &params),
        tree: &gpu.uniform("tree", &tree),
        state: &gpu.storage_with("state", &[State { length, ..State::default() }]),
        logits: &gpu.storage_with("logits", &given),
        counts: &gpu.storage_with("counts", &counts),
        candidates: &candidates,
    };
    let at = if probabilities { 0 } else { depth };
    let op = if probabilities { draft_likeliest(gpu, set, io) } else { draft_top(gpu, set, depth, io) };
    run(gpu, &[&op], ONE);
    let found: Vec<u32> = read(gpu, &candidates, MAX_BATCH_ROWS * (1 + depth as usize)).await?;
    let scores = scores(&logits, &counts, settings);
    let want = draft::likeliest(&scores, temperature == 0.0, seed, length + at, 5);
    let got = &found[at as usize * MAX_BATCH_ROWS..][..5];
    // Where two are as good as equal, f32 may order them otherwise: from there on nothing is said.
    let sure = want.iter().take_while(|(_, margin)| *margin > NOISE_MARGIN).count();
    let want: Vec<u32> = want.iter().take(sure).map(|(id, _)| *id).collect();
    let kind = if probabilities { "probabilities" } else { "logits" };
    Ok(compare_exactly("draft_top", format!("{set} {kind} {vocab}"), &got[..sure], &want))
}
