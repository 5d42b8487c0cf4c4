//! The report that is made of records.

use serde::Serialize;

use super::bootstrap::{Bootstrap, Interval, Quantities};
use super::record::{Record, Rows};
use super::settings::{Column, FolderFacts, Method, Run, Settings};
use crate::{Error, Result};

/// The masses of the nuclei whose sizes are reported.
pub const NUCLEUS_MASSES: [f64; 3] = [0.9, 0.95, 0.99];

/// Where bins of entropy begin, in nats.
const ENTROPY_EDGES: [f64; 10] = [0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0];

/// Bins of confidence.
const CONFIDENCE_BINS: usize = 10;

/// Everything that a run found. It depends on the settings and the samples only, not on how they were cut into shards.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The version of the form of this report.
    pub version: u32,
    /// The settings that were asked for.
    pub settings: Settings,
    /// Samples that were scored.
    pub samples: usize,
    /// Samples that were too short.
    pub too_short: usize,
    /// Target tokens that were scored, at every offset.
    pub targets: u64,
    /// Findings for each method at each offset.
    pub columns: Vec<ColumnReport>,
    /// Paired differences of columns of one offset.
    pub contrasts: Vec<Contrast>,
    /// How much of the gap between the first heads and the marginal other heads close.
    pub gaps: Vec<GapClosed>,
    /// The outcome that drafting with each method would have.
    pub drafting: Vec<Drafting>,
    /// Mean sizes of the nuclei of the next-token distribution.
    pub nucleus: Vec<NucleusSize>,
    /// Mean nats of the next-token distribution.
    pub next_entropy: Interval,
    /// Mean KL(p_l || p) by depth.
    pub lens: Vec<Depth>,
    /// The heads: wiring, parameters, cost.
    pub heads: Vec<FolderFacts>,
}

/// One method at one offset.
#[derive(Debug, Serialize)]
pub struct ColumnReport {
    /// The name in tables.
    pub name: String,
    /// The method.
    #[serde(flatten)]
    pub column: Column,
    /// Accuracy among so many of the likeliest.
    pub accuracy: Vec<Accuracy>,
    /// Mean negative logarithm of the target's probability, nats.
    pub nll: Interval,
    /// Mean entropy, nats.
    pub entropy: Interval,
    /// How often its likeliest token is the likeliest one of the same model's column of offset 1, which knows all before: of heads
    /// with one of offset 1 that head's. Not for offset 1.
    pub agreement: Option<Interval>,
    /// Accuracy of the likeliest token by the column's own entropy, nats.
    pub by_entropy: Vec<Bin>,
    /// Accuracy of the likeliest token by its probability.
    pub calibration: Vec<Bin>,
    /// Expected calibration error: mean distance of accuracy and confidence over the bins.
    pub calibration_error: Interval,
}

/// How often the target is among the `top` likeliest tokens.
#[derive(Debug, Serialize)]
pub struct Accuracy {
    /// The number of likeliest tokens.
    pub top: usize,
    /// Share of the targets.
    pub accuracy: Interval,
    /// The accuracy of the same predictions against the token after the target, which nobody is to know.
    pub control: Interval,
    /// The control is less than half of the accuracy, and the interval of the difference is above 0. An accuracy near that
    /// of guessing does not collapse.
    pub control_collapses: bool,
}

/// A bin.
#[derive(Debug, Serialize)]
pub struct Bin {
    /// The beginning of the bin.
    pub from: f64,
    /// The end of the bin; the last bin of entropies has none.
    pub to: Option<f64>,
    /// Mean of what is binned.
    pub mean: f64,
    /// Predictions in it.
    pub count: u64,
    /// Accuracy of the likeliest token.
    pub accuracy: Interval,
}

/// A paired difference.
#[derive(Debug, Serialize)]
pub struct Contrast {
    /// The place of a column in [`Report::columns`].
    pub column: usize,
    /// The column it is compared with: the model's next token, or the marginal.
    pub baseline: usize,
    /// The number of likeliest tokens that count.
    pub top: usize,
    /// Accuracy of the column less that of the baseline.
    pub difference: Interval,
}

/// (ours - first heads) / (marginal - first heads).
#[derive(Debug, Serialize)]
pub struct GapClosed {
    /// The place of ours in [`Report::columns`].
    pub column: usize,
    /// The place of the first heads' column.
    pub first: usize,
    /// The place of the marginal's column.
    pub marginal: usize,
    /// The number of likeliest tokens that count.
    pub top: usize,
    /// 1 is the whole gap.
    pub closed: Interval,
}

/// A method as a drafter: teacher-forced, so a draft is right where it is the text's own token.
#[derive(Debug, Serialize)]
pub struct Drafting {
    /// The name in tables.
    pub name: String,
    /// The method's columns, from offset 2 on.
    pub columns: Vec<usize>,
    /// How often each draft is right when all before it are.
    pub acceptance: Vec<Interval>,
    /// Expected accepted drafts of a round.
    pub accepted_length: Interval,
}

/// A mean nucleus.
#[derive(Debug, Serialize)]
pub struct NucleusSize {
    /// The probability of the nucleus.
    pub mass: f64,
    /// Tokens.
    pub size: Interval,
}

/// A depth of the logit lens.
#[derive(Debug, Serialize)]
pub struct Depth {
    /// Blocks.
    pub blocks: usize,
    /// Mean nats.
    pub divergence: Interval,
}

impl Report {
    /// The report of a run, from the records of all its samples, sorted by sample.
    ///
    /// # Errors
    /// Where no sample is long enough, or a record does not fit the run.
    pub fn new(run: &Run, records: &[Record]) -> Result<Self> {
        if let Some(record) = records.iter().find(|record| !record.is_whole(run.columns.len())) {
            return Err(Error::format(format!("the record of sample {} is broken", record.sample + 1)));
        }
        let scored: Vec<&Record> = records.iter().filter(|record| record.targets > 0).collect();
        if scored.is_empty() {
            return Err(Error::input(format!(
                "none of {} samples has the {} target tokens that are needed",
                records.len(),
                run.settings.min_target.max(1)
            )));
        }
        let mut maker = Maker { run, records: &scored, quantities: Quantities::default() };
        let targets = maker.each(|record| record.targets as f64);
        let plans: Vec<ColumnPlan> = (0..run.columns.len()).map(|column| maker.column(column)).collect();
        let drafters = maker.drafters();
        let nucleus = maker.nucleus();
        let next_entropy = maker.each(|record| record.entropy.iter().map(|&x| f64::from(x)).sum());
        let next_count = maker.each(|record| record.entropy.len() as f64);
        let lens = maker.lens();
        let settings = &run.settings;
        let bootstrap = Bootstrap::new(&maker.quantities, scored.len(), settings.resamples, settings.seed);
        let columns = plans.iter().zip(&run.columns);
        Ok(Self {
            version: Run::VERSION,
            settings: settings.clone(),
            samples: scored.len(),
            too_short: records.len() - scored.len(),
            targets: bootstrap.total(targets) as u64,
            columns: columns.map(|(plan, column)| plan.report(run, column, targets, &bootstrap)).collect(),
            contrasts: contrasts(run, &plans, targets, &bootstrap),
            gaps: gaps(run, &plans, &bootstrap),
            drafting: drafters.into_iter().map(|drafter| drafter.report(&bootstrap)).collect(),
            nucleus: nucleus
                .into_iter()
                .zip(NUCLEUS_MASSES)
                .map(|(sizes, mass)| NucleusSize { mass, size: bootstrap.ratio(sizes, next_count) })
                .collect(),
            next_entropy: bootstrap.ratio(next_entropy, next_count),
            lens: lens
                .into_iter()
                .enumerate()
                .map(|(depth, (sum, count))| Depth { blocks: depth + 1, divergence: bootstrap.ratio(sum, count) })
                .collect(),
            heads: run.heads.clone(),
        })
    }
}

/// Where the quantities of a column are.
struct ColumnPlan {
    /// Sizes of the list, each with the places of its hits and of the control's hits.
    hits: Vec<(usize, usize, usize)>,
    /// Targets that have a control.
    controls: usize,
    nll: usize,
    entropy: usize,
    agreement: Option<usize>,
    by_entropy: Vec<BinPlan>,
    calibration: Vec<BinPlan>,
}

struct BinPlan {
    from: f64,
    to: Option<f64>,
    count: usize,
    hits: usize,
    sum: usize,
}

struct Maker<'a> {
    run: &'a Run,
    records: &'a [&'a Record],
    quantities: Quantities,
}

impl Maker<'_> {
    fn each(&mut self, number: impl Fn(&Record) -> f64) -> usize {
        self.quantities.add(self.records.iter().map(|record| number(record)))
    }

    /// Counts rows of a column.
    fn count(&mut self, column: usize, counts: impl Fn(&Rows, usize) -> bool) -> usize {
        self.each(|record| {
            let rows = &record.columns[column];
            (0..record.targets).filter(|&at| counts(rows, at)).count() as f64
        })
    }

    fn column(&mut self, column: usize) -> ColumnPlan {
        let hits = self.run.settings.top.iter().map(|&top| {
            let hit = self.count(column, |rows, at| rows.rank[at] as usize <= top);
            let control = self.count(column, |rows, at| (1..=top).contains(&(rows.control[at] as usize)));
            (top, hit, control)
        });
        let hits = hits.collect();
        let controls = self.count(column, |rows, at| rows.control[at] > 0);
        // A probability that f32 cannot hold counts as the smallest that it can.
        let surprise = |p: &f32| -f64::from(p.max(f32::MIN_POSITIVE)).ln();
        let nll = self.each(|record| record.columns[column].p.iter().map(surprise).sum());
        let entropy = self.each(|record| record.columns[column].entropy.iter().map(|&x| f64::from(x)).sum());
        let agreement = self.own_next(column).map(|next| {
            self.each(|record| {
                let [mine, own] = [column, next].map(|column| &record.columns[column].top);
                mine.iter().zip(own).filter(|(mine, own)| mine == own).count() as f64
            })
        });
        let ends = ENTROPY_EDGES[1..].iter().map(|&end| Some(end)).chain([None]);
        let by_entropy = ENTROPY_EDGES.into_iter().zip(ends);
        let by_entropy = by_entropy.map(|edges| self.bin(column, edges, |rows, at| rows.entropy[at].into())).collect();
        let confidence = (0..CONFIDENCE_BINS).map(|bin| {
            let edge = |bin: usize| bin as f64 / CONFIDENCE_BINS as f64;
            // Rounding may make a probability a little more than 1.
            (edge(bin), Some(edge(bin + 1)).filter(|_| bin + 1 < CONFIDENCE_BINS))
        });
        let calibration = confidence.map(|edges| self.bin(column, edges, |rows, at| rows.top_p[at].into())).collect();
        ColumnPlan { hits, controls, nll, entropy, agreement, by_entropy, calibration }
    }

    fn bin(&mut self, column: usize, (from, to): (f64, Option<f64>), of: impl Fn(&Rows, usize) -> f64) -> BinPlan {
        let inside = |rows: &Rows, at| of(rows, at) >= from && to.is_none_or(|to| of(rows, at) < to);
        let count = self.count(column, inside);
        let hits = self.count(column, |rows, at| inside(rows, at) && rows.rank[at] == 1);
        let sum = self.each(|record| {
            let rows = &record.columns[column];
            (0..record.targets).filter(|&at| inside(rows, at)).map(|at| of(rows, at)).sum()
        });
        BinPlan { from, to, count, hits, sum }
    }

    /// The column of the next token of the model that a column's drafts are for.
    fn own_next(&self, column: usize) -> Option<usize> {
        let Column { method, folder, offset, .. } = self.run.columns[column];
        let next = |other: &Column| match method {
            Method::Heads => other.method == Method::Heads && other.folder == folder && other.offset == 1,
            _ => other.offset == 1 && other.method != Method::Heads,
        };
        (offset > 1).then(|| self.run.columns.iter().position(next)).flatten()
    }

    /// Chains of columns of one method from offset 2 on. Heads that may know the text's tokens are taken with them, as
    /// drafting does.
    fn drafters(&mut self) -> Vec<DraftPlan> {
        let folders: Vec<Option<usize>> = [None].into_iter().chain((0..self.run.heads.len()).map(Some)).collect();
        let mut plans = Vec::new();
        for folder in folders {
            let method = if folder.is_some() { Method::Heads } else { Method::Marginal };
            let of = |offset: usize, given: bool| {
                let wanted = Column { method, folder, offset, given };
                self.run.columns.iter().position(|column| *column == wanted)
            };
            let chain: Vec<usize> = (2..).map_while(|offset| of(offset, true).or_else(|| of(offset, false))).collect();
            if chain.is_empty() {
                continue;
            }
            // A round begins before any target whose chain stays within the targets.
            let rounds = |record: &Record| (record.targets + 1).saturating_sub(chain.len());
            let anchors = self.each(|record| rounds(record) as f64);
            let mut right = Vec::new();
            for depth in 1..=chain.len() {
                right.push(self.each(|record| {
                    let hit = |at: usize, depth: usize| record.columns[chain[depth]].rank[at + depth] == 1;
                    (0..rounds(record)).filter(|&at| (0..depth).all(|depth| hit(at, depth))).count() as f64
                }));
            }
            let name = self.run.name(&self.run.columns[chain[0]]);
            plans.push(DraftPlan { name, chain, anchors, right });
        }
        plans
    }

    fn nucleus(&mut self) -> Vec<usize> {
        let sum =
            |record: &Record, mass: usize| record.nucleus.get(mass).into_iter().flatten().map(|&x| f64::from(x)).sum();
        (0..NUCLEUS_MASSES.len()).map(|mass| self.each(|record| sum(record, mass))).collect()
    }

    fn lens(&mut self) -> Vec<(usize, usize)> {
        let depths = self.records.iter().map(|record| record.lens.len()).max().unwrap_or(0);
        let mut plans = Vec::new();
        for depth in 0..depths {
            let sum = self.each(|record| record.lens.get(depth).copied().unwrap_or(0.0));
            let count = self.each(|record| record.lens.get(depth).map_or(0.0, |_| record.targets as f64));
            plans.push((sum, count));
        }
        plans
    }
}

impl ColumnPlan {
    fn report(&self, run: &Run, column: &Column, targets: usize, bootstrap: &Bootstrap) -> ColumnReport {
        let bins = |plans: &[BinPlan]| plans.iter().map(|plan| plan.report(bootstrap)).collect();
        let calibration_error = bootstrap.interval(|totals| {
            let distance = |bin: &BinPlan| (totals[bin.hits] - totals[bin.sum]).abs();
            self.calibration.iter().map(distance).sum::<f64>() / totals[targets]
        });
        ColumnReport {
            name: run.name(column),
            column: column.clone(),
            accuracy: self.hits.iter().map(|&hits| self.accuracy(hits, targets, bootstrap)).collect(),
            nll: bootstrap.ratio(self.nll, targets),
            entropy: bootstrap.ratio(self.entropy, targets),
            agreement: self.agreement.map(|agreement| bootstrap.ratio(agreement, targets)),
            by_entropy: bins(&self.by_entropy),
            calibration: bins(&self.calibration),
            calibration_error,
        }
    }

    fn accuracy(&self, (top, hits, control): (usize, usize, usize), targets: usize, bootstrap: &Bootstrap) -> Accuracy {
        let controls = self.controls;
        let difference =
            bootstrap.interval(|totals| totals[hits] / totals[targets] - totals[control] / totals[controls]);
        let (accuracy, control) = (bootstrap.ratio(hits, targets), bootstrap.ratio(control, controls));
        let control_collapses = control.value < accuracy.value / 2.0 && difference.low > 0.0;
        Accuracy { top, accuracy, control, control_collapses }
    }
}

impl BinPlan {
    fn report(&self, bootstrap: &Bootstrap) -> Bin {
        let count = bootstrap.total(self.count);
        let accuracy = bootstrap.ratio(self.hits, self.count);
        Bin { from: self.from, to: self.to, mean: bootstrap.total(self.sum) / count, count: count as u64, accuracy }
    }
}

struct DraftPlan {
    name: String,
    chain: Vec<usize>,
    anchors: usize,
    /// Rounds whose first 1, 2, ... drafts are right.
    right: Vec<usize>,
}

impl DraftPlan {
    fn report(self, bootstrap: &Bootstrap) -> Drafting {
        let Self { name, chain, anchors, right } = self;
        let before = [anchors].into_iter().chain(right.iter().copied());
        let acceptance = right.iter().zip(before).map(|(&right, before)| bootstrap.ratio(right, before)).collect();
        let accepted_length =
            bootstrap.interval(|totals| right.iter().map(|&right| totals[right]).sum::<f64>() / totals[anchors]);
        Drafting { name, columns: chain, acceptance, accepted_length }
    }
}

/// The place of the column that others of its offset are compared with.
fn baseline(run: &Run, column: &Column) -> Option<usize> {
    let method = if column.offset == 1 { Method::Next } else { Method::Marginal };
    run.columns.iter().position(|other| other.method == method && column.comparable(other) && other != column)
}

fn contrasts(run: &Run, plans: &[ColumnPlan], targets: usize, bootstrap: &Bootstrap) -> Vec<Contrast> {
    let mut all = Vec::new();
    for (at, column) in run.columns.iter().enumerate() {
        let Some(baseline) = baseline(run, column) else { continue };
        for (&(top, mine, _), &(_, other, _)) in plans[at].hits.iter().zip(&plans[baseline].hits) {
            let difference = bootstrap.interval(|totals| (totals[mine] - totals[other]) / totals[targets]);
            all.push(Contrast { column: at, baseline, top, difference });
        }
    }
    all
}

fn gaps(run: &Run, plans: &[ColumnPlan], bootstrap: &Bootstrap) -> Vec<GapClosed> {
    let mut all = Vec::new();
    for (at, column) in run.columns.iter().enumerate() {
        let heads = |other: &Column| other.method == Method::Heads && column.comparable(other);
        let Some(first) = run.columns.iter().position(heads).filter(|&first| first < at && heads(column)) else {
            continue;
        };
        let Some(marginal) = baseline(run, column).filter(|_| column.offset > 1) else { continue };
        for (list, &(top, mine, _)) in plans[at].hits.iter().enumerate() {
            let (first_hits, marginal_hits) = (plans[first].hits[list].1, plans[marginal].hits[list].1);
            let closed = bootstrap
                .interval(|totals| (totals[mine] - totals[first_hits]) / (totals[marginal_hits] - totals[first_hits]));
            all.push(GapClosed { column: at, first, marginal, top, closed });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::settings::{DataFacts, HeadFacts, Shard};
    use super::*;

    fn settings() -> Settings {
        Settings {
            protocol: "own".to_owned(),
            model: "m".to_owned(),
            model_fingerprint: "0".to_owned(),
            data: DataFacts { name: "d".to_owned(), fingerprint: "0".to_owned(), samples: 3 },
            methods: vec![Method::Next, Method::Marginal, Method::Heads],
            offsets: 3,
            top: vec![1, 2],
            last: 4,
            min_target: 0,
            mass: 0.99,
            feed: 1,
            lens_samples: 1,
            context: 64,
            truncate: false,
            resamples: 200,
            seed: 1,
        }
    }

    fn folder(label: &str) -> FolderFacts {
        let head = |offset| HeadFacts { offset, ahead: 0, backbone: false, layers: 1, mix: None, draft_over_step: 0.5 };
        FolderFacts {
            label: label.to_owned(),
            fingerprint: "0".to_owned(),
            summary: String::new(),
            parameters: 9,
            heads: vec![head(2), head(3)],
        }
    }

    fn run() -> Run {
        let (settings, heads) = (settings(), vec![folder("a"), folder("b")]);
        let columns = Run::columns(&settings, &heads);
        Run { version: Run::VERSION, settings, heads, columns, shard: Shard::WHOLE }
    }

    /// Ranks of a column; everything else is plain.
    fn rows(ranks: &[u32]) -> Rows {
        Rows {
            rank: ranks.to_vec(),
            control: ranks.iter().enumerate().map(|(at, _)| if at + 1 < ranks.len() { 9 } else { 0 }).collect(),
            p: vec![0.5; ranks.len()],
            top: ranks.to_vec(),
            top_p: vec![0.75; ranks.len()],
            entropy: vec![0.3; ranks.len()],
        }
    }

    fn record(sample: usize, columns: &[&[u32]]) -> Record {
        let targets = columns[0].len();
        Record {
            sample,
            targets,
            columns: columns.iter().map(|ranks| rows(ranks)).collect(),
            nucleus: vec![vec![2; targets], vec![3; targets], vec![4 + sample as u32; targets]],
            entropy: vec![1.0; targets],
            lens: if sample == 0 { vec![4.0, 2.0] } else { Vec::new() },
        }
    }

    #[test]
    fn columns_follow_from_the_settings() {
        let names: Vec<String> =
            run().columns.iter().map(|column| format!("{} {}", run().name(column), column.offset)).collect();
        let want =
            "next 1,marginal 1,marginal 2,marginal 3,heads a 1,heads a 2,heads a 3,heads b 1,heads b 2,heads b 3";
        assert_eq!(names.join(","), want);
    }

    #[test]
    fn known_records_give_known_numbers() {
        let run = run();
        let good: &[u32] = &[1, 1, 1, 2];
        let (first, ours, marginal): (&[u32], &[u32], &[u32]) = (&[1, 2, 3, 3], &[1, 1, 2, 3], &[1, 1, 1, 3]);
        let third: &[u32] = &[3, 1, 3, 1];
        let columns = [good, good, marginal, third, good, first, third, good, ours, third];
        let records: Vec<Record> = (0..3).map(|sample| record(sample, &columns)).chain([Record::default()]).collect();
        let report = Report::new(&run, &records).unwrap();
        assert_eq!((report.samples, report.too_short, report.targets), (3, 1, 12));
        let top1 = |column: usize| report.columns[column].accuracy[0].accuracy.value;
        assert_eq!([0, 2, 5, 8].map(top1), [0.75, 0.75, 0.25, 0.5]);
        // All samples are alike, so nothing varies.
        assert_eq!(report.columns[0].accuracy[0].accuracy.low, 0.75);
        assert_eq!(report.columns[0].accuracy[1].accuracy.value, 1.0);
        assert_eq!(report.columns[0].accuracy[0].control.value, 0.0);
        assert!(report.columns[0].accuracy[0].control_collapses);
        let gap = report.gaps.iter().find(|gap| gap.column == 8 && gap.top == 1).unwrap();
        assert_eq!((gap.first, gap.marginal, gap.closed.value), (5, 2, 0.5));
        let contrast = report.contrasts.iter().find(|contrast| contrast.column == 5 && contrast.top == 1).unwrap();
        assert_eq!((contrast.baseline, contrast.difference.value), (2, -0.5));
        // Of the first heads: three rounds; draft 2 right at target 0, then draft 3 right at target 1.
        let drafting = &report.drafting[1];
        assert_eq!((&drafting.name[..], &drafting.columns[..]), ("heads a", &[5, 6][..]));
        assert!((drafting.acceptance[0].value - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(drafting.acceptance[1].value, 1.0);
        assert!((drafting.accepted_length.value - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(report.nucleus.iter().map(|found| found.size.value).collect::<Vec<_>>(), [2.0, 3.0, 5.0]);
        assert_eq!(report.lens.iter().map(|depth| depth.divergence.value).collect::<Vec<_>>(), [1.0, 0.5]);
        let calibration = &report.columns[0].calibration[7];
        assert_eq!((calibration.count, calibration.accuracy.value), (12, 0.75));
        assert!(report.columns[0].calibration_error.value.abs() < 1e-12);
        assert_eq!(report.columns[0].by_entropy[1].count, 12);
        assert!((report.columns[0].nll.value - 2f64.ln()).abs() < 1e-7);
        assert_eq!(report.columns[5].agreement.unwrap().value, 0.25);
        // The same, whichever shard a sample came from.
        let again = Report::new(&Run { shard: Shard { index: 2, of: 5 }, ..run }, &records).unwrap();
        assert_eq!(serde_json::to_string(&again).unwrap(), serde_json::to_string(&report).unwrap());
    }

    #[test]
    fn what_cannot_be_reported_is_refused() {
        let run = run();
        assert!(Report::new(&run, &[Record::default()]).unwrap_err().to_string().contains("none of 1 samples"));
        let broken = Record { targets: 3, ..Record::default() };
        assert!(Report::new(&run, &[broken]).unwrap_err().to_string().contains("sample 1 is broken"));
    }
}
