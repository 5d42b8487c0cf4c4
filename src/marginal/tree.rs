//! Offset 3: for each branch its own nucleus, and the heaviest paths of all.

use super::answer::{Branches, Cost};
use super::batch::{Run, extent};
use super::workspace::Part;
use crate::Result;
use crate::kernels::{Branch, Cursor, Nucleus, Row};
use crate::model::Progress;

/// Two tokens in a row that may come next.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Path {
    weight: f64,
    /// Which of the first branches.
    first: usize,
    /// Which of its own, most probable first.
    rank: usize,
    second: u32,
}

/// The heaviest paths of those seen so far, and the probability of all that is not among them.
struct Heaviest {
    most: usize,
    paths: Vec<Path>,
    left_out: f64,
    capped: bool,
}

impl Heaviest {
    fn add(&mut self, first: usize, probability: f64, nucleus: Nucleus, mut branches: Vec<Branch>) {
        sort(&mut branches);
        self.left_out += probability * f64::from(nucleus.left_out);
        self.capped |= nucleus.count < nucleus.size;
        let path = |(rank, branch): (usize, &Branch)| Path {
            weight: probability * f64::from(branch.probability),
            first,
            rank,
            second: branch.token,
        };
        self.paths.extend(branches.iter().enumerate().map(path));
    }

    /// Drops what is too much, heaviest first, ties by the first token's place and the second's.
    fn cut(&mut self) {
        if self.paths.len() < self.most {
            return;
        }
        let order = |a: &Path, b: &Path| b.weight.total_cmp(&a.weight).then((a.first, a.rank).cmp(&(b.first, b.rank)));
        self.paths.sort_by(order);
        self.capped |= self.paths.len() > self.most;
        self.left_out += self.paths.drain(self.most..).map(|path| path.weight).sum::<f64>();
    }

    /// Whether no path of this weight or less can get in any more.
    fn is_closed_to(&self, weight: f64) -> bool {
        self.paths.len() == self.most && self.paths.last().is_some_and(|lightest| lightest.weight >= weight)
    }
}

/// Most probable first, ties by id.
fn sort(branches: &mut [Branch]) {
    branches.sort_by(|a, b| b.probability.total_cmp(&a.probability).then(a.token.cmp(&b.token)));
}

/// Rows of a tree on their way into a batch.
struct Tree {
    position: usize,
    room: usize,
    rows: Vec<Row>,
    weights: Vec<f32>,
    /// The first branch that hangs in the batch last, and its row.
    parent: Option<(usize, usize)>,
    chunk: u32,
}

impl Tree {
    /// Adds a path, below its first token if that is there already. False where the batch has no room.
    fn add(&mut self, path: &Path, first: u32) -> bool {
        let parent = self.parent.filter(|(of, _)| *of == path.first);
        if self.rows.len() + if parent.is_some() { 1 } else { 2 } > self.room {
            return false;
        }
        let (_, parent) = parent.unwrap_or_else(|| (path.first, self.push(first, 0, 0, 0.0)));
        self.parent = Some((path.first, parent));
        self.push(path.second, 1, self.rows[parent].mask, path.weight as f32);
        true
    }

    fn push(&mut self, token: u32, depth: usize, ancestors: u32, weight: f32) -> usize {
        let at = self.rows.len();
        let position = (self.position + depth) as u32;
        self.rows.push(Row { token, position, mask: ancestors | 1 << at, ..Row::default() });
        self.weights.push(weight);
        at
    }
}

impl Run<'_> {
    /// Sums over the paths of the tree below `branches`, those of `nucleus`.
    pub(super) async fn tree(
        &mut self,
        nucleus: Nucleus,
        mut branches: Vec<Branch>,
        cost: &mut Cost,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Branches> {
        sort(&mut branches);
        let position = nucleus.position as usize;
        let mut heaviest = self.paths(position, &branches, cost, progress).await?;
        heaviest.left_out += f64::from(nucleus.left_out);
        let found = Branches {
            covered: heaviest.paths.iter().map(|path| path.weight).sum(),
            left_out: heaviest.left_out,
            count: heaviest.paths.len(),
            capped: heaviest.capped,
        };
        heaviest.paths.sort_by_key(|path| (path.first, path.rank));
        let room = self.room(position);
        let mut tree = Tree { position, room, rows: vec![], weights: vec![], parent: None, chunk: 0 };
        let total = heaviest.paths.len();
        for (done, path) in heaviest.paths.iter().enumerate() {
            let first = branches[path.first].token;
            if !tree.add(path, first) {
                self.mix_tree(&mut tree, cost).await?;
                progress(Progress::Branches { done, total });
                tree.add(path, first);
            }
        }
        self.mix_tree(&mut tree, cost).await?;
        progress(Progress::Branches { done: total, total });
        Ok(found)
    }

    /// The heaviest paths: a batch of siblings finds the nucleus after each branch, until no branch left can have a path that counts.
    async fn paths(
        &mut self,
        position: usize,
        branches: &[Branch],
        cost: &mut Cost,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Heaviest> {
        let most = self.options.branches(self.vocab());
        let capacity = self.work.ask(&self.model.gpu, self.options, most);
        let chunk = self.room(position).min(self.work.lists(capacity));
        let mut heaviest = Heaviest { most, paths: Vec::new(), left_out: 0.0, capped: false };
        let mut at = 0;
        while at < branches.len() && !heaviest.is_closed_to(branches[at].probability.into()) {
            let siblings = &branches[at..branches.len().min(at + chunk)];
            let row = |(i, branch): (usize, &Branch)| Row {
                token: branch.token,
                position: position as u32,
                mask: 1 << i,
                ..Row::default()
            };
            self.write_batch(position, &siblings.iter().enumerate().map(row).collect::<Vec<_>>(), 0);
            self.send(&[Part::Body, Part::LmHead], extent(siblings.len(), position + 1)).await?;
            self.count(cost, siblings.len(), position + 1);
            let nuclei = self.nuclei(siblings.len()).await?;
            let lists = self.branches(siblings.len() * capacity).await?;
            for (i, (branch, nucleus)) in siblings.iter().zip(&nuclei).enumerate() {
                let list = lists[i * capacity..][..nucleus.count as usize].to_vec();
                heaviest.add(at + i, branch.probability.into(), *nucleus, list);
            }
            heaviest.cut();
            at += siblings.len();
            progress(Progress::Branches { done: at, total: branches.len() });
        }
        heaviest.capped |= at < branches.len();
        heaviest.left_out += branches[at..].iter().map(|branch| f64::from(branch.probability)).sum::<f64>();
        Ok(heaviest)
    }

    /// Sends the batch of a tree on its way and empties it.
    async fn mix_tree(&mut self, tree: &mut Tree, cost: &mut Cost) -> Result<()> {
        self.write_batch(tree.position, &tree.rows, 0);
        self.model.gpu.write(&self.work.row_weights, 0, &tree.weights);
        self.model.gpu.write(&self.work.cursor, 0, &[Cursor { chunk: tree.chunk, ..Cursor::default() }]);
        let keys = tree.position + 2;
        self.send(&[Part::Body, Part::Mix], extent(tree.rows.len(), keys)).await?;
        self.count(cost, tree.rows.len(), keys);
        tree.chunk += 1;
        tree.rows.clear();
        tree.weights.clear();
        tree.parent = None;
        Ok(())
    }
}
