//! The measurements of every column for one sample.

use std::collections::BTreeMap;

use foretoken::analysis::{Column, Distribution, Measured, Method, Record, Rows, Run, divergence};
use foretoken::decode::{ReadOptions, Reading};
use foretoken::{Engine, MarginalOptions, Result, Session};

use super::data::Sample;

/// A session for the model itself where one is needed, and one for each folder of heads.
pub struct Measurer<'a> {
    run: &'a Run,
    base: Option<Session>,
    folders: Vec<Session>,
}

/// The tokens of a sample that are predicted.
struct Targets<'a> {
    ids: &'a [u32],
    first: usize,
}

impl Targets<'_> {
    /// A prediction of the token so many places after `position`, measured; its target's number with it.
    fn measure(&self, position: usize, offset: usize, logits: &[f32]) -> Option<(usize, Measured)> {
        let target = position + offset;
        let index = target.checked_sub(self.first)?;
        let &id = self.ids.get(target)?;
        Some((index, Measured::of(logits, id, self.ids.get(target + 1).copied())))
    }

    fn count(&self) -> usize {
        self.ids.len() - self.first
    }
}

impl<'a> Measurer<'a> {
    pub fn new(run: &'a Run, base: Option<&Engine>, folders: &[Engine]) -> Result<Self> {
        let base = base.map(Engine::session).transpose()?;
        Ok(Self { run, base, folders: folders.iter().map(Engine::session).collect::<Result<_>>()? })
    }

    /// Measures a sample; one that is too short has a record without content.
    pub async fn record(&mut self, number: usize, sample: &Sample) -> Result<Record> {
        let settings = &self.run.settings;
        let ids = &sample.ids;
        let there = sample.targets(settings.offsets).len();
        let mut record = Record { sample: number, ..Record::default() };
        if there < settings.min_target.max(1) {
            return Ok(record);
        }
        let last = if settings.last == 0 { there } else { settings.last.min(there) };
        let targets = Targets { ids, first: ids.len() - last };
        record.targets = targets.count();
        let mut columns: Vec<BTreeMap<usize, Measured>> = vec![BTreeMap::new(); self.run.columns.len()];
        self.base_columns(&targets, &mut columns, &mut record).await?;
        self.marginal_columns(&targets, &mut columns).await?;
        for folder in 0..self.folders.len() {
            self.head_columns(folder, &targets, &mut columns).await?;
        }
        for found in columns {
            let mut rows = Rows::default();
            found.into_values().for_each(|measured| rows.push(measured));
            record.columns.push(rows);
        }
        Ok(record)
    }

    async fn base_columns(
        &mut self,
        targets: &Targets<'_>,
        columns: &mut [BTreeMap<usize, Measured>],
        record: &mut Record,
    ) -> Result<()> {
        let Some(session) = &mut self.base else { return Ok(()) };
        let next = self.run.columns.iter().position(|column| column.method == Method::Next);
        let positions = targets.first - 1..targets.ids.len() - 1;
        let depths = record.sample < self.run.settings.lens_samples;
        let options = ReadOptions::at(positions).depths(depths);
        let mut by_depth: BTreeMap<usize, Vec<Vec<f32>>> = BTreeMap::new();
        let mut on_row = |reading: Reading, at: usize, logits: &[f32]| match reading {
            Reading::Depth(_) => by_depth.entry(at).or_default().push(logits.to_vec()),
            Reading::Next => {
                let last = Distribution::of(logits);
                let found = by_depth.remove(&at).unwrap_or_default();
                record.lens.resize(found.len(), 0.0);
                for (sum, logits) in record.lens.iter_mut().zip(&found) {
                    *sum += divergence(&Distribution::of(logits), &last);
                }
                record.push_next(logits);
                if let (Some(column), Some((index, measured))) = (next, targets.measure(at, 1, logits)) {
                    columns[column].insert(index, measured);
                }
            }
            Reading::Head(_) | Reading::Fed(_) => {}
        };
        session.read_logits(targets.ids, &options, &mut on_row).await
    }

    async fn marginal_columns(
        &mut self,
        targets: &Targets<'_>,
        columns: &mut [BTreeMap<usize, Measured>],
    ) -> Result<()> {
        let Some(session) = &mut self.base else { return Ok(()) };
        let settings = &self.run.settings;
        let top = settings.top.iter().copied().max().unwrap_or(1);
        let wanted = self.run.columns.iter().zip(columns).filter(|(column, _)| column.method == Method::Marginal);
        for (&Column { offset, .. }, found) in wanted {
            let options = MarginalOptions::default().offset(offset).mass(settings.mass).top(top);
            let mut reader = session.read_marginals(targets.ids, &options, targets.first - offset).await?;
            while let Some(at) = reader.next().await? {
                let Some(marginal) = at.marginal else { continue };
                let target = at.position + offset;
                let place = |id: u32| marginal.top.iter().position(|token| token.id == id);
                let control = targets.ids.get(target + 1).map(|&id| place(id).unwrap_or(marginal.top.len()) + 1);
                let measured = Measured {
                    rank: marginal.reference.rank as u32,
                    control: control.unwrap_or(0) as u32,
                    p: marginal.reference.token.p,
                    top: marginal.top[0].id,
                    top_p: marginal.top[0].p,
                    entropy: marginal.entropy,
                };
                found.insert(target - targets.first, measured);
            }
        }
        Ok(())
    }

    async fn head_columns(
        &mut self,
        folder: usize,
        targets: &Targets<'_>,
        columns: &mut [BTreeMap<usize, Measured>],
    ) -> Result<()> {
        let (settings, facts) = (&self.run.settings, &self.run.heads[folder]);
        let positions = targets.first - settings.offsets..targets.ids.len() - 1;
        let options = ReadOptions::at(positions).heads(true).feed(settings.feed);
        // The next token of this model is that of its head of offset 1, where it has one of its own.
        let own_next = facts.heads.iter().any(|head| head.offset == 1 && !head.backbone);
        let mut on_row = |reading: Reading, at: usize, logits: &[f32]| {
            let (offset, given) = match reading {
                Reading::Next if !own_next => (1, false),
                Reading::Head(head) => (facts.heads[head].offset, facts.heads[head].ahead > 0),
                Reading::Fed(head) => (facts.heads[head].offset, false),
                Reading::Next | Reading::Depth(_) => return,
            };
            let wanted = Column { method: Method::Heads, folder: Some(folder), offset, given };
            let Some(column) = self.run.columns.iter().position(|column| *column == wanted) else { return };
            if let Some((index, measured)) = targets.measure(at, offset, logits) {
                columns[column].insert(index, measured);
            }
        };
        self.folders[folder].read_logits(targets.ids, &options, &mut on_row).await
    }
}
