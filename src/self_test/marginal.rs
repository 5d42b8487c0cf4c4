//! Checks of the kernels that marginalize: nucleus, siblings, mixture, ranking.

use super::KernelCheck;
use super::bench::{compare, compare_exactly, noise, read, run, wide};
use crate::Result;
use crate::gpu::Gpu;
use crate::kernels::{
    Branch, Cursor, Extent, KernelSet, MAX_BATCH_ROWS, MixtureIo, NormalizerIo, Nucleus, NucleusIo, NucleusParams,
    Ranked, Ranking, RankingIo, RankingParams, Row, SiblingsIo, State, mixture, normalizer, nucleus, ranking, siblings,
};
use crate::reference::marginal as reference;

fn extent(rows: usize) -> Extent {
    Extent { rows: rows as u32, logit_rows: rows as u32, keys: 0 }
}

/// Two sums of f32 agree on where a mass is reached up to this much of it.
const MASS_MARGIN: f64 = 1e-5;

/// The nuclei of rows of logits of the same length.
pub(crate) async fn check_nucleus(
    gpu: &Gpu,
    set: KernelSet,
    logits: &[Vec<f32>],
    mass: f32,
    most: u32,
) -> Result<KernelCheck> {
    let (count, vocab) = (logits.len(), logits[0].len());
    let (stride, capacity) = (vocab + 3, (most as usize).min(vocab));
    let padded: Vec<f32> = logits.iter().flat_map(|row| row.iter().copied().chain([9e9; 3])).collect();
    // One row more, whose logits nobody wants.
    let rows: Vec<Row> = (0..=count as u32).map(|at| Row { position: 10 + at, ..Row::default() }).collect();
    let nuclei = gpu.storage("nuclei", (count * size_of::<Nucleus>()) as u64);
    let branches = gpu.storage("branches", (count * capacity * size_of::<Branch>()) as u64);
    let params = NucleusParams {
        vocab: vocab as u32,
        stride: stride as u32,
        mass,
        most,
        capacity: capacity as u32,
        pad: [0; 3],
    };
    let io = NucleusIo {
        params: &gpu.uniform("nucleus", &params),
        state: &gpu.storage_with("state", &[State { logit_row: 1, ..State::default() }]),
        rows: &gpu.storage_with("rows", &rows),
        logits: &gpu.storage_with("logits", &padded),
        probabilities: &gpu.storage("probabilities", 4 * padded.len() as u64),
        nuclei: &nuclei,
        branches: &branches,
    };
    run(gpu, &[&nucleus(gpu, set, io)], extent(count));
    let found: Vec<Nucleus> = read(gpu, &nuclei, count).await?;
    let listed: Vec<Branch> = read(gpu, &branches, count * capacity).await?;
    let form = format!("{set} [{count}, {vocab}], mass {mass}, at most {most}");
    let (mut ids, mut wanted_ids, mut got, mut want) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (row, nucleus) in found.iter().enumerate() {
        let ordered = reference::ordered(&logits[row]);
        let size = right_size(&ordered, mass.into(), nucleus.size as usize);
        let kept = size.min(capacity);
        wanted_ids.extend([size, kept, 12 + row, row * capacity].map(|n| n as u32));
        ids.extend([nucleus.size, nucleus.count, nucleus.position, nucleus.first]);
        let mut branches = listed[row * capacity..][..kept].to_vec();
        if kept > 64 {
            let place = |id: u32| ordered.iter().position(|(other, _)| *other == id as usize);
            branches.sort_by_cached_key(|branch| place(branch.token));
        }
        wanted_ids.extend(ordered[..kept].iter().map(|(id, _)| *id as u32));
        ids.extend(branches.iter().map(|branch| branch.token));
        let sum = |part: &[(usize, f64)]| part.iter().map(|(_, p)| p).sum::<f64>();
        want.extend([sum(&ordered[..kept]), sum(&ordered[kept..])]);
        got.extend([nucleus.covered, nucleus.left_out]);
        want.extend(ordered[..kept].iter().map(|(_, p)| p));
        got.extend(branches.iter().map(|branch| branch.probability));
    }
    let exact = compare_exactly("nucleus", &form, &ids, &wanted_ids);
    Ok(if exact.passed { compare("nucleus", form, &got, &want) } else { exact })
}

/// `got` if it is as right as the reference's size.
fn right_size(ordered: &[(usize, f64)], mass: f64, got: usize) -> usize {
    let want = reference::nucleus_size(ordered, mass);
    let sum = |size: usize| ordered[..size.min(ordered.len())].iter().map(|(_, p)| p).sum::<f64>();
    let reaches = got > 0 && sum(got) > mass - MASS_MARGIN && sum(got - 1) < mass + MASS_MARGIN;
    if reaches && mass < 1.0 { got } else { want }
}

/// Three chunks of at most `most` rows of a nucleus of `count` branches at `position`.
pub(crate) async fn check_siblings(
    gpu: &Gpu,
    context: u32,
    position: u32,
    count: u32,
    most: u32,
) -> Result<KernelCheck> {
    const FIRST: u32 = 5;
    let branch = |at: u32| Branch { token: 7 + 3 * at, probability: 1.0 / (1.0 + at as f32) };
    let branches: Vec<Branch> = (0..FIRST + count).map(branch).collect();
    let state_before = State { committed: 3, length: 4, limit: 90, num_rows: 2, logit_row: 1, ..State::default() };
    let (state, rows) =
        (gpu.storage_with("state", &[state_before]), gpu.storage("rows", (size_of::<Row>() * MAX_BATCH_ROWS) as u64));
    let cursor = gpu.storage_with("cursor", &[Cursor { nucleus: 1, most, advance: 1, ..Cursor::default() }]);
    let nucleus = Nucleus { count, position, first: FIRST, ..Nucleus::default() };
    let row_weights = gpu.storage("row weights", 4 * MAX_BATCH_ROWS as u64);
    let io = SiblingsIo {
        cursor: &cursor,
        nuclei: &gpu.storage_with("nuclei", &[Nucleus::default(), nucleus]),
        branches: &gpu.storage_with("branches", &branches),
        state: &state,
        rows: &rows,
        row_weights: &row_weights,
    };
    let op = siblings(gpu, context, io);
    let (mut got, mut want) = (Vec::new(), Vec::new());
    let mut first = 0;
    for _ in 0..3 {
        run(gpu, &[&op], extent(1));
        let chunk = (count - first).min(most).min(context.saturating_sub(position));
        for at in 0..most {
            let used = at < chunk;
            let branch = branches[(FIRST + if used { first + at } else { 0 }) as usize];
            want.extend([branch.token, position, if used { 1 << at } else { 1 }, 0, 0]);
        }
        want.extend((0..most).map(|at| {
            let used = at < chunk;
            if used { branches[(FIRST + first + at) as usize].probability.to_bits() } else { 0 }
        }));
        let state_after = State { committed: position, num_rows: chunk, logit_row: 0, ..state_before };
        want.extend(bytemuck::cast::<State, [u32; 8]>(state_after));
        want.extend([1, first + chunk, first / most, most, 1]);
        first += chunk;
        got.extend(bytemuck::cast_slice::<Row, u32>(&read::<Row>(gpu, &rows, most as usize).await?));
        got.extend(read::<u32>(gpu, &row_weights, most as usize).await?);
        got.extend(read::<u32>(gpu, &state, 8).await?);
        got.extend(read::<u32>(gpu, &cursor, 5).await?);
    }
    Ok(compare_exactly("siblings", format!("{count} at {position} of {context}, {most} a chunk"), &got, &want))
}

/// `chunks` chunks of `rows` rows, after a mixture that must be forgotten.
pub(crate) async fn check_mixture(
    gpu: &Gpu,
    set: KernelSet,
    vocab: usize,
    rows: usize,
    chunks: u32,
) -> Result<KernelCheck> {
    let stride = vocab.next_multiple_of(4);
    let state = State { num_rows: rows as u32, ..State::default() };
    let cursor = gpu.storage("cursor", size_of::<Cursor>() as u64);
    let row_weights = gpu.storage("row weights", 4 * rows as u64);
    // A row more, which is not to be mixed in.
    let logits = gpu.storage("logits", 4 * ((rows + 1) * stride) as u64);
    // Of seven tokens each, however a product groups them.
    let kept = vocab.div_ceil(7);
    let partials = gpu.storage("partials", 8 * (rows * kept) as u64);
    let normalizers = gpu.storage("normalizers", 8 * rows as u64);
    let out = gpu.storage_with("mixture", &vec![0.5f32; stride]);
    let io = MixtureIo {
        state: &gpu.storage_with("state", &[state]),
        cursor: &cursor,
        normalizers: &normalizers,
        logits: &logits,
        parts: &gpu.storage_with("parts", &vec![0.5f32; 2 * stride]),
        mixture: &out,
    };
    let sums = NormalizerIo { row_weights: &row_weights, partials: &partials, normalizers: &normalizers };
    let ops = [normalizer(gpu, set, kept as u32, sums), mixture(gpu, stride as u32, io)];
    let mut want = vec![0.0; vocab];
    for chunk in 0..chunks {
        let values: Vec<f32> = noise(60 + chunk, (rows + 1) * stride).iter().map(|x| 9.0 * x).collect();
        let weights: Vec<f32> = noise(7 + chunk, rows).iter().map(|x| (x + 1.0) / chunks as f32).collect();
        gpu.write(&logits, 0, &values);
        gpu.write(&row_weights, 0, &weights);
        gpu.write(&cursor, 0, &[Cursor { chunk, ..Cursor::default() }]);
        let mixed: Vec<&[f32]> = values.chunks_exact(stride).take(rows).map(|row| &row[..vocab]).collect();
        let of_rows = mixed.iter().flat_map(|row| reference::partials(&wide(row), 7));
        gpu.write(&partials, 0, &of_rows.map(|(highest, sum)| [highest as f32, sum as f32]).collect::<Vec<_>>());
        run(gpu, &[&ops[0], &ops[1]], extent(rows));
        reference::add_to_mixture(&mut want, &mixed, &weights);
    }
    let got = read::<f32>(gpu, &out, vocab).await?;
    Ok(compare("mixture", format!("{set} {chunks} x [{rows}, {vocab}]"), &got, &want))
}

/// Reports on rows of `values`.
pub(crate) async fn check_ranking(gpu: &Gpu, set: KernelSet, values: &[Vec<f32>], top: usize) -> Result<KernelCheck> {
    let (count, vocab) = (values.len(), values[0].len());
    let (stride, words) = (vocab + 3, Ranking::words(top));
    let padded: Vec<f32> = values.iter().flat_map(|row| row.iter().copied().chain([9e9; 3])).collect();
    let target = |row: usize| (row * 31 + vocab / 2) % vocab;
    let params = RankingParams { vocab: vocab as u32, stride: stride as u32, top: top as u32, pad: 0 };
    let reports = gpu.storage("reports", (4 * count * words) as u64);
    let io = RankingIo {
        params: &gpu.uniform("ranking", &params),
        values: &gpu.storage_with("values", &padded),
        targets: &gpu.storage_with("targets", &(0..count).map(|row| target(row) as u32).collect::<Vec<_>>()),
        reports: &reports,
    };
    let ranked = if count == 1 { Ranked::One } else { Ranked::LogitRows };
    run(gpu, &[&ranking(gpu, set, ranked, io)], extent(count));
    let found: Vec<u32> = read(gpu, &reports, count * words).await?;
    let form = format!("{set} [{count}, {vocab}], top {top}");
    let (mut ids, mut wanted_ids, mut got, mut want) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (row, report) in found.chunks_exact(words).enumerate() {
        let ranking = Ranking::of(report);
        let (sum, sum_log, before) = reference::sums(&values[row], target(row));
        let mut order: Vec<usize> = (0..vocab).collect();
        order.sort_by(|&a, &b| values[row][b].total_cmp(&values[row][a]).then(a.cmp(&b)));
        wanted_ids.push(before as u32);
        wanted_ids.extend(order[..top].iter().map(|&id| id as u32));
        ids.push(ranking.before_target);
        ids.extend(ranking.top.iter().map(|entry| entry.token));
        if top <= 64 {
            // The GPU has ordered these itself.
            wanted_ids.extend(order[..top].iter().map(|&id| id as u32));
            ids.extend(report[4..].iter().step_by(2));
        }
        want.extend([sum, sum_log, values[row][target(row)].into()]);
        got.extend([ranking.sum, ranking.sum_log, ranking.target]);
        want.extend(wide(&order[..top].iter().map(|&id| values[row][id]).collect::<Vec<_>>()));
        got.extend(ranking.top.iter().map(|entry| entry.probability));
    }
    let exact = compare_exactly("ranking", &form, &ids, &wanted_ids);
    Ok(if exact.passed { compare("ranking", form, &got, &want) } else { exact })
}
