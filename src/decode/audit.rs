//! The audit: on the device and the model at hand, texts with drafts against the text without, and logits of rows beside
//! other rows against those of a row alone. It reads logits back, which nothing else in a session's life does in a round.

use std::sync::Arc;

use super::draft::{DraftOptions, DraftTree, Drafter, RecordedDrafts};
use super::generation::GenerateOptions;
use super::round::Source;
use super::sampling::Sampling;
use super::session::Session;
use crate::Engine;
use crate::kernels::{Extent, MAX_BATCH_ROWS, MAX_CHUNK_ROWS, RECORDED_RANKS, Row, State};
use crate::model::Progress;
use crate::options::setters;
use crate::{Error, Result};

/// Rows of the chains whose logits are compared, of one row's first: those that products take at a time, and a prompt's chunk, which
/// is taken in tiles.
const WIDTHS: [usize; 11] = [1, 2, 3, 4, 5, 6, 7, 8, 17, MAX_BATCH_ROWS, MAX_CHUNK_ROWS];

/// The tree that is drafted, and whose rows' logits are compared: 22 rows.
const TREE: [usize; 4] = [3, 2, 1, 1];

/// The longest chain that is drafted: with the text's last token it makes as many rows as a product takes at a time.
const CHAIN: usize = 7;

/// Options of an audit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditOptions {
    /// The texts to continue, as token ids.
    pub prompts: Vec<Vec<u32>>,
    /// The most tokens to add to each. `None`: as many as the context holds.
    pub tokens: Option<usize>,
}

setters!(AuditOptions { prompts: Vec<Vec<u32>>; or none tokens: usize });

impl AuditOptions {
    /// Tokens that [`AuditOptions::for_engine`] adds to each prompt.
    pub const TOKENS: usize = 48;

    /// A handful of short prompts that leave half of the context free: an English story, a list that repeats itself, code and
    /// German. Without a tokenizer: sequences of ids.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn for_engine(engine: &Engine) -> Result<Self> {
        const TEXTS: [&str; 4] = [
            "Once upon a time, there was a little fox who lived in a forest. One day, he",
            "red, green, blue, red, green, blue, red, green, blue, red, green,",
            "def add(a, b):\n    return a + b\n\ndef sub(a, b):\n    return",
            "Es war einmal ein kleiner Fuchs. Er wohnte in einem Wald und",
        ];
        let mut prompts: Vec<Vec<u32>> = match engine.tokenizer() {
            Ok(tokenizer) => TEXTS.iter().map(|text| tokenizer.encode(text, true)).collect::<Result<_>>()?,
            Err(_) => {
                let vocab = engine.config().vocab_size as u32;
                let ids = |step: u32, period: u32| (0..16).map(|at| (1 + at % period * step) % vocab).collect();
                vec![ids(7, 16), ids(29, 5), ids(1013, 16)]
            }
        };
        let most = (engine.context() / 2).max(1);
        prompts.iter_mut().for_each(|prompt| prompt.truncate(most));
        prompts.retain(|prompt| !prompt.is_empty());
        Ok(Self { prompts, tokens: Some(Self::TOKENS) })
    }
}

/// The findings of an audit.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Audit {
    /// Every text with drafts was the text without; and the logits had the same bits, unless drafts are off on this device
    /// because loading has found already that they have not.
    pub equal: bool,
    /// Whether drafts are allowed on this device: [`Engine::width_invariant`].
    pub width_invariant: bool,
    /// The results of each way of drafting, over all prompts.
    pub cases: Vec<AuditCase>,
    /// The logits.
    pub logits: AuditedLogits,
    /// The first thing that differed: of texts if any did, else of logits.
    pub first_difference: Option<Difference>,
}

/// One way of drafting, over all prompts.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct AuditCase {
    /// Where the drafts came from.
    pub drafter: &'static str,
    /// Children of each node by depth.
    pub tree: String,
    /// 0, or that of [`Audit`]'s warm sampling, which has a top-p and a repetition penalty too.
    pub temperature: f32,
    /// Prompts.
    pub prompts: usize,
    /// Tokens of the texts without drafts, all of which were compared.
    pub tokens: usize,
    /// Drafts that were right.
    pub accepted: u64,
    /// Rounds.
    pub rounds: u64,
    /// Whether every text was the text without drafts.
    pub equal: bool,
}

/// Logits of one row at a time against those of the same row in chains and trees.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct AuditedLogits {
    /// Positions whose logits were compared.
    pub positions: usize,
    /// Rows of the chains.
    pub widths: Vec<usize>,
    /// Whether all bits were equal.
    pub equal: bool,
}

/// A difference of two things that should be equal. Positions are those of the text, prompt included, from 0.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(tag = "of", rename_all = "snake_case")]
pub enum Difference {
    /// A text with drafts is another one than without.
    Text {
        /// Index of the prompt.
        prompt: usize,
        /// The temperature of the sampling.
        temperature: f32,
        /// Where the drafts came from.
        drafter: &'static str,
        /// Children of each node by depth.
        tree: String,
        /// The position of the first token that differs.
        position: usize,
        /// The token without drafts; `None` if the text ends before it.
        expected: Option<u32>,
        /// The token with drafts; `None` likewise.
        got: Option<u32>,
    },
    /// The logits of a row have other bits beside other rows.
    Logits {
        /// Index of the prompt.
        prompt: usize,
        /// The position of the row.
        position: usize,
        /// Rows of the batch.
        width: usize,
        /// Children of each node by depth: ones for a chain.
        tree: String,
    },
}

/// One way of drafting.
struct Way {
    name: &'static str,
    tree: DraftTree,
    draft: Draft,
}

#[derive(Clone, Copy)]
enum Draft {
    Lookup,
    Heads,
    /// The candidates where the text has this token at this position, in a vocabulary of that size.
    Recorded(fn(usize, u32, u32) -> [u32; RECORDED_RANKS]),
}

impl Draft {
    /// `text` is the one without drafts.
    fn drafter(self, text: &[u32], vocab: u32) -> Drafter {
        match self {
            Self::Lookup => Drafter::Lookup,
            Self::Heads => Drafter::Heads,
            Self::Recorded(candidates) => {
                let of_position = |(at, &id): (usize, &u32)| candidates(at, id, vocab);
                Drafter::Recorded(Arc::new(RecordedDrafts(text.iter().enumerate().map(of_position).collect())))
            }
        }
    }
}

fn right(_: usize, id: u32, _: u32) -> [u32; RECORDED_RANKS] {
    [id; RECORDED_RANKS]
}

fn wrong(_: usize, id: u32, vocab: u32) -> [u32; RECORDED_RANKS] {
    [1, 2, 3, 4].map(|by| (id + by) % vocab)
}

/// Candidates that are right at every other place; in a tree the second child is right at the places between.
fn half(at: usize, id: u32, vocab: u32) -> [u32; RECORDED_RANKS] {
    let mut candidates = wrong(at, id, vocab);
    candidates[at % 2] = id;
    candidates
}

fn samplings() -> [Sampling; 2] {
    let warm = Sampling { temperature: 0.9, top_p: 0.95, repetition_penalty: 1.1, seed: 7, ..Sampling::default() };
    [Sampling::default(), warm]
}

/// A row whose logits have other bits in a batch than alone.
struct Unequal {
    position: usize,
    /// Rows of the batch.
    width: usize,
    /// Children of each node by depth.
    tree: String,
}

/// The progress of an audit.
struct Meter<'p> {
    progress: &'p mut (dyn FnMut(Progress) + Send),
    done: usize,
    total: usize,
}

impl Meter<'_> {
    /// `more` positions of the part under way.
    fn at(&mut self, more: usize) {
        (self.progress)(Progress::Positions { done: self.done + more, total: self.total });
    }

    /// A part of `positions` positions is done.
    fn end(&mut self, positions: usize) {
        self.done += positions;
        self.at(0);
    }
}

impl Session {
    /// Generates with and without drafts and compares: the texts id by id, the logits bit by bit. The session's own text is
    /// forgotten.
    ///
    /// ```no_run
    /// # async fn audit(engine: foretoken::Engine) -> foretoken::Result<()> {
    /// let options = foretoken::decode::AuditOptions::for_engine(&engine)?;
    /// let audit = engine.session()?.audit(&options, &mut |_| {}).await?;
    /// assert!(audit.equal, "{:?}", audit.first_difference);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Session::generate`]; also without prompts or tokens.
    pub async fn audit(
        &mut self,
        options: &AuditOptions,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Audit> {
        if options.prompts.is_empty() || options.tokens == Some(0) {
            return Err(Error::input("an audit needs prompts and tokens to add to them: there is nothing to compare"));
        }
        let tokens = options.tokens.unwrap_or_else(|| self.context());
        let ways = self.ways()?;
        let width_invariant = self.model.width_invariant;
        let mut audit = Audit {
            equal: true,
            width_invariant,
            cases: samplings().iter().flat_map(|sampling| ways.iter().map(|way| way.case(sampling))).collect(),
            logits: AuditedLogits { positions: 0, widths: WIDTHS.to_vec(), equal: true },
            first_difference: None,
        };
        let new = |prompt: &Vec<u32>| tokens.min(self.context().saturating_sub(prompt.len()));
        if options.prompts.iter().all(|prompt| new(prompt) == 0) {
            return Err(Error::input(format!(
                "an audit needs room for tokens after its prompts: in a context of {} there is nothing to compare",
                self.context()
            )));
        }
        let parts = samplings().len() * (1 + ways.len());
        let total = options.prompts.iter().map(|prompt| parts * new(prompt) + prompt.len() + new(prompt)).sum();
        let mut meter = Meter { progress, done: 0, total };
        let mut unequal_logits = None;
        for (index, prompt) in options.prompts.iter().enumerate() {
            let text = self.audit_texts((index, prompt), tokens, &ways, &mut audit, &mut meter).await?;
            let found = self.audit_logits(&text, &mut meter).await?;
            audit.logits.positions += text.len();
            if let Some(Unequal { position, width, tree }) = found {
                audit.logits.equal = false;
                unequal_logits.get_or_insert(Difference::Logits { prompt: index, position, width, tree });
            }
        }
        meter.end(meter.total - meter.done);
        let texts_equal = audit.first_difference.is_none();
        audit.equal = texts_equal && (audit.logits.equal || !width_invariant);
        audit.first_difference = audit.first_difference.or(unequal_logits);
        Ok(audit)
    }

    /// Every drafter, as a chain and as a tree.
    fn ways(&self) -> Result<Vec<Way>> {
        let drafts = [
            ("lookup", Draft::Lookup),
            ("heads", Draft::Heads),
            ("recorded, right", Draft::Recorded(right)),
            ("recorded, wrong", Draft::Recorded(wrong)),
            ("recorded, half right", Draft::Recorded(half)),
        ];
        let mut ways = Vec::new();
        for (name, draft) in drafts {
            let deepest = match draft {
                Draft::Lookup => self.deepest(Source::Lookup),
                Draft::Heads => self.deepest(Source::Heads),
                Draft::Recorded(_) => self.deepest(Source::Recorded),
            };
            if deepest > 0 {
                let tree = DraftTree::new(&TREE[..deepest.min(TREE.len())])?;
                ways.extend([DraftTree::chain(deepest.min(CHAIN))?, tree].map(|tree| Way { name, tree, draft }));
            }
        }
        Ok(ways)
    }

    /// Continues a prompt in every way, and returns the text without drafts at temperature 0.
    async fn audit_texts(
        &mut self,
        (index, prompt): (usize, &[u32]),
        tokens: usize,
        ways: &[Way],
        audit: &mut Audit,
        meter: &mut Meter<'_>,
    ) -> Result<Vec<u32>> {
        let vocab = self.model.sizes.vocab;
        let options = |sampling, draft| GenerateOptions {
            max_tokens: Some(tokens),
            sampling,
            draft,
            ..GenerateOptions::default()
        };
        let mut plain = Vec::new();
        for sampling in samplings() {
            plain.push(self.audit_text(prompt, &options(sampling, DraftOptions::off()), meter).await?.0);
        }
        for (at, way) in ways.iter().enumerate() {
            // One sampling after the other: what the cache still holds is then of another text.
            for (row, sampling) in samplings().into_iter().enumerate() {
                let expected = &plain[row];
                let drafter = way.draft.drafter(expected, vocab);
                let draft = DraftOptions { drafter, tree: Some(way.tree.clone()), trace: false };
                let (got, accepted, rounds) = self.audit_text(prompt, &options(sampling, draft), meter).await?;
                let case = &mut audit.cases[row * ways.len() + at];
                case.prompts += 1;
                case.tokens += expected.len() - prompt.len();
                case.accepted += accepted;
                case.rounds += rounds;
                if got != *expected {
                    case.equal = false;
                    let position = got.iter().zip(expected).take_while(|(got, expected)| got == expected).count();
                    audit.first_difference.get_or_insert(Difference::Text {
                        prompt: index,
                        temperature: sampling.temperature,
                        drafter: way.name,
                        tree: way.tree.to_string(),
                        position,
                        expected: expected.get(position).copied(),
                        got: got.get(position).copied(),
                    });
                }
            }
        }
        Ok(plain.swap_remove(0))
    }

    /// The text, prompt included, its accepted drafts, and its rounds.
    async fn audit_text(
        &mut self,
        prompt: &[u32],
        options: &GenerateOptions,
        meter: &mut Meter<'_>,
    ) -> Result<(Vec<u32>, u64, u64)> {
        let most = options.limit(prompt.len(), self.context()).saturating_sub(prompt.len());
        let mut generation = self.generate(prompt, options, &mut |_| {}).await?;
        while generation.next().await?.is_some() {
            meter.at(generation.ids().len());
        }
        meter.end(most);
        let drafts = generation.stats().drafts;
        Ok(([prompt, generation.ids()].concat(), drafts.accepted, drafts.rounds))
    }

    /// The first position of `text` whose logits differ in a chain or a tree from those of its row alone.
    async fn audit_logits(&mut self, text: &[u32], meter: &mut Meter<'_>) -> Result<Option<Unequal>> {
        self.restart().await?;
        self.reserve(text.len() + MAX_BATCH_ROWS)?;
        let mut found: Option<Unequal> = None;
        let mut compare =
            |at: usize, rows: usize, tree: &dyn Fn() -> String, together: &[Vec<u32>], alone: &[Vec<u32>]| {
                let Some(row) = together.iter().zip(alone).position(|(together, alone)| together != alone) else {
                    return;
                };
                if found.as_ref().is_none_or(|first| at + row < first.position) {
                    found = Some(Unequal { position: at + row, width: rows, tree: tree() });
                }
            };
        let most = self.model.sizes.chunk_rows as usize;
        for first in (0..text.len()).step_by(most) {
            let end = text.len().min(first + most);
            self.stands(first);
            let mut alone = Vec::with_capacity(end - first);
            for at in first..end {
                alone.extend(self.committed_bits(text, at).await?);
            }
            (self.cached, self.reported) = (end, end + 1);
            self.go_back(first);
            for at in first..end {
                let expected = &alone[at - first..];
                let tree = DraftTree::new(&TREE[..TREE.len().min(end - at - 1)])?;
                if !tree.is_chain() && at + tree.rows() <= self.context() {
                    let together = self.tree_bits(text, at, &tree).await?;
                    compare(at, tree.rows(), &|| tree.to_string(), &together, expected);
                }
                for width in WIDTHS.into_iter().filter(|width| (at - first).is_multiple_of(*width)) {
                    let rows = width.min(end - at);
                    let together = self.chain_bits(text, at, rows).await?;
                    compare(at, rows, &|| vec!["1"; rows - 1].join(","), &together, expected);
                }
                // Trees leave others' keys behind in the row's own slot and in later ones.
                self.committed_bits(text, at).await?;
            }
            meter.end(end - first);
        }
        self.restart().await?;
        Ok(found)
    }

    /// Bits of the logits of the row at a position alone, which is then committed.
    async fn committed_bits(&self, text: &[u32], at: usize) -> Result<Vec<Vec<u32>>> {
        let bits = self.chain_bits(text, at, 1).await?;
        let extent = Extent { rows: 1, logit_rows: 1, keys: at as u32 + 1 };
        self.replay(&[&self.plan.settle], extent, None);
        Ok(bits)
    }

    /// Bits of the logits of `rows` rows that hold `text` from position `at` on. What comes before is in the cache.
    async fn chain_bits(&self, text: &[u32], at: usize, rows: usize) -> Result<Vec<Vec<u32>>> {
        self.write_rows(text, at, rows);
        let (committed, num_rows, keys) = (at as u32, rows as u32, (at + rows) as u32);
        let mut bits = Vec::with_capacity(rows);
        for logit_row in (0..rows).step_by(MAX_BATCH_ROWS) {
            let wanted = MAX_BATCH_ROWS.min(rows - logit_row);
            self.write_state(State { committed, num_rows, logit_row: logit_row as u32, ..State::default() });
            // What the body leaves in the stream serves the LM head of all rows.
            let body = if logit_row == 0 { &self.plan.body[..] } else { &[] };
            let extent = Extent { rows: num_rows, logit_rows: wanted as u32, keys };
            self.replay(&[body, &self.plan.lm_head], extent, None);
            bits.extend(self.logit_bits().await?.into_iter().take(wanted));
        }
        Ok(bits)
    }

    /// Bits of the logits of the rows of a round that hold `text` from position `at` on, where the last child of each node is
    /// the right one. What comes before is in the cache.
    async fn tree_bits(&self, text: &[u32], at: usize, tree: &DraftTree) -> Result<Vec<Vec<u32>>> {
        let layout = tree.layout();
        let (count, vocab) = (layout.num_rows as usize, self.model.sizes.vocab);
        let mut path = vec![0];
        let mut rows = Vec::with_capacity(count);
        for (row, &[mask, depth, ..]) in layout.nodes[..count].iter().enumerate() {
            let depth = depth as usize;
            let last = !(row + 1..count).any(|other| layout.parent(other) == layout.parent(row));
            let is_right = row == 0 || (last && layout.parent(row) == path.get(depth - 1).copied());
            if is_right && row > 0 {
                path.push(row);
            }
            let token = if is_right { text[at + depth] } else { (text[at + depth] + row as u32) % vocab };
            rows.push(Row { token, position: (at + depth) as u32, mask, ..Row::default() });
        }
        self.model.gpu.write(&self.buffers.rows, 0, &rows);
        self.write_state(State { committed: at as u32, num_rows: layout.num_rows, ..State::default() });
        let (rows, keys) = (layout.num_rows, at as u32 + layout.num_rows);
        let extent = Extent { rows, logit_rows: rows, keys };
        self.replay(&[&self.plan.body, &self.plan.lm_head], extent, None);
        let mut bits = self.logit_bits().await?;
        Ok(path.into_iter().map(|row| std::mem::take(&mut bits[row])).collect())
    }

    /// Bits of all rows of the buffer of logits.
    async fn logit_bits(&self) -> Result<Vec<Vec<u32>>> {
        let (vocab, stride) = (self.model.sizes.vocab as usize, self.model.sizes.vocab_stride() as usize);
        let logits: Vec<u32> = self.model.gpu.read(&self.buffers.logits).await?;
        Ok(logits.chunks_exact(stride).map(|row| row[..vocab].to_vec()).collect())
    }
}

impl Way {
    fn case(&self, sampling: &Sampling) -> AuditCase {
        AuditCase {
            drafter: self.name,
            tree: self.tree.to_string(),
            temperature: sampling.temperature,
            prompts: 0,
            tokens: 0,
            accepted: 0,
            rounds: 0,
            equal: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::tests::load;
    use crate::kernels::tests::adapters::on_every_adapter;
    use crate::self_test::InjectedFault;

    fn audit(session: &mut Session) -> Audit {
        let prompts = vec![vec![1, 5, 9, 13, 17, 21, 25], vec![3, 4, 3, 4, 3, 4]];
        let options = AuditOptions { prompts, tokens: Some(32) };
        let mut last = (0, 1);
        let audit = pollster::block_on(session.audit(&options, &mut |progress| {
            let Progress::Positions { done, total } = progress else { panic!("{progress:?}") };
            assert!((last.0..=total).contains(&done), "{progress:?} after {last:?}");
            last = (done, total);
        }));
        assert_eq!(last.0, last.1);
        audit.expect("an audit")
    }

    #[test]
    fn a_sound_device_passes_and_drafts_of_every_kind_were_tried() {
        on_every_adapter(|gpu| {
            let audit = audit(&mut load(gpu, "llama-gqa", None, None).session().expect("a session"));
            assert!(audit.equal && audit.width_invariant && audit.logits.equal, "{audit:?}");
            assert_eq!((audit.cases.len(), audit.logits.positions), (2 * 4 * 2, 7 + 6 + 2 * 32));
            for case in &audit.cases {
                let [wrong, right] = ["wrong", ", right"].map(|part| case.drafter.ends_with(part));
                assert_eq!((case.prompts, case.tokens), (2, 64), "{case:?}");
                assert!(case.equal && (case.accepted == 0 || !wrong), "{case:?}");
                assert!(case.accepted > 40 || !right, "{case:?}");
                assert_eq!(case.rounds + case.accepted, 62, "{case:?}");
            }
        });
    }

    #[test]
    fn a_cache_that_trees_leave_in_disorder_is_found() {
        on_every_adapter(|gpu| {
            let mut session = load(gpu, "llama-gqa", None, None).session().expect("a session");
            session.rounds.compact.clear();
            let audit = audit(&mut session);
            assert!(!audit.equal && audit.logits.equal, "{audit:?}");
            assert!(audit.cases.iter().all(|case| case.equal || case.tree == "3,2,1,1"), "{audit:?}");
            let Some(Difference::Text { tree, position, expected, got, .. }) = &audit.first_difference else {
                panic!("{audit:?}")
            };
            assert!(tree == "3,2,1,1" && *position > 6 && expected != got, "{audit:?}");
        });
    }

    #[test]
    fn a_row_that_feels_the_batch_before_is_found() {
        on_every_adapter(|gpu| {
            let mut session = load(gpu, "llama-gqa", None, None).session().expect("a session");
            // Without the embedding a row starts from what the batch before left in its place: in the first rows this.
            session.plan.body.remove(0);
            session.model.gpu.write(&session.buffers.x, 0, &[0.5f32, -1.0, 0.25, 2.0]);
            let audit = audit(&mut session);
            assert!(!audit.equal && !audit.logits.equal, "{audit:?}");
            let mut meter = Meter { progress: &mut |_| {}, done: 0, total: 0 };
            let found = pollster::block_on(session.audit_logits(&[1, 2, 3], &mut meter)).expect("logits");
            assert!(found.is_some_and(|found| found.position < 3));
        });
    }

    #[test]
    fn a_device_without_drafts_is_told_apart() {
        on_every_adapter(|gpu| {
            let engine = load(gpu, "llama-gqa", None, Some(InjectedFault::Both));
            let audit = audit(&mut engine.session().expect("a session"));
            assert!(audit.equal && !audit.width_invariant, "{audit:?}");
            assert!(audit.cases.iter().all(|case| case.accepted == 0 && case.equal), "{audit:?}");
        });
    }

    #[test]
    fn nothing_to_compare_is_refused() {
        on_every_adapter(|gpu| {
            let mut session = load(gpu, "llama-gqa", None, None).session().expect("a session");
            for options in [
                AuditOptions::default(),
                AuditOptions { prompts: vec![vec![1]], tokens: Some(0) },
                AuditOptions { prompts: vec![vec![]], tokens: Some(3) },
                AuditOptions { prompts: vec![vec![96]], tokens: Some(3) },
                AuditOptions { prompts: vec![vec![1; session.context()]], tokens: Some(3) },
            ] {
                let refused = pollster::block_on(session.audit(&options, &mut |_| {}));
                assert!(refused.is_err_and(|error| error.kind() == crate::ErrorKind::Input), "{options:?}");
            }
        });
    }
}
