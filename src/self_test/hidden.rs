//! Checks of what heads need: copy_hidden, compact_hidden, lora, stage_window, shift_tokens.

use super::KernelCheck;
use super::bench::{compare, compare_exactly, noise, read, run};
use crate::Result;
use crate::gpu::Gpu;
use crate::kernels::{
    CompactHiddenIo, CopyHidden, Extent, LoraIo, LoraParams, MAX_BATCH_ROWS, NO_ADAPTER, Over, Place, Row,
    ShiftTokensIo, ShiftTokensParams, StageWindowIo, StageWindowParams, State, Store, compact_hidden, copy_hidden,
    lora, shift_tokens, stage_window,
};
use crate::reference;

const SLOTS: usize = 70;

/// Carries `rows` rows from `x` to `y`, with a history of [`SLOTS`] rows on either side.
pub(crate) async fn check_copy_hidden(
    gpu: &Gpu,
    width: usize,
    (from, to): (Place, Place),
    rows: usize,
    (weight, store): (f32, Store),
) -> Result<KernelCheck> {
    // So that the last rows would lie beyond the history.
    let (committed, logit_row) = (SLOTS - 5, 2);
    let start = |place| match place {
        Place::Rows => 0,
        Place::Committed | Place::Same => committed,
        Place::Wanted => committed + logit_row,
    };
    let room = |place| if matches!(place, Place::Rows | Place::Same) { rows } else { SLOTS - start(place) };
    let (x, y) = (noise(61, SLOTS * width), noise(62, SLOTS * width));
    let state = State { committed: committed as u32, logit_row: logit_row as u32, ..State::default() };
    let state = gpu.storage_with("state", &[state]);
    let target = gpu.storage_with("y", &y);
    let wanted = from == Place::Wanted || to == Place::Wanted;
    let over = if wanted { Over::LogitRows } else { Over::Rows };
    let io = CopyHidden { x: (&gpu.storage_with("x", &x), from), y: (&target, to), weight, store, over };
    let op = copy_hidden(gpu, width as u32, SLOTS as u32, &state, io);
    let n = rows as u32;
    let extent =
        if wanted { Extent { rows: 0, logit_rows: n, keys: 0 } } else { Extent { rows: n, logit_rows: 0, keys: 0 } };
    run(gpu, &[&op], extent);
    let mut want: Vec<f64> = y.iter().map(|&y| y.into()).collect();
    let moved = rows.min(room(from)).min(room(to));
    let adds = store == Store::Add;
    if from == Place::Same {
        let to = |row| (start(from), start(to) + row, 1);
        (0..moved).for_each(|row| reference::hidden::copy_hidden(&x, &mut want, width, to(row), weight, adds));
    } else {
        reference::hidden::copy_hidden(&x, &mut want, width, (start(from), start(to), moved), weight, adds);
    }
    let got = read::<f32>(gpu, &target, SLOTS * width).await?;
    Ok(compare("copy_hidden", format!("{from:?} to {to:?} [{rows}, {width}]"), &got, &want))
}

/// Adds a change of `rank` to every other of `rows` rows of `columns` columns; a third of the blocks have none.
pub(crate) async fn check_lora(gpu: &Gpu, columns: usize, rank: usize, rows: usize) -> Result<KernelCheck> {
    let t_stride = 2 * rank + 3;
    let (t, b, y) = (noise(64, rows * t_stride), noise(65, rank * columns), noise(66, rows * columns));
    let starts: Vec<Option<usize>> = (0..columns / 4).map(|block| [Some(0), Some(rank), None][block % 3]).collect();
    let listed: Vec<u32> = starts.iter().map(|start| start.map_or(NO_ADAPTER, |start| start as u32)).collect();
    let batch: Vec<Row> = (0..rows).map(|row| Row { adapter: row as u32 % 2, ..Row::default() }).collect();
    let target = gpu.storage_with("y", &y);
    let io = LoraIo {
        state: &gpu.storage_with("state", &[State::default()]),
        rows: &gpu.storage_with("rows", &batch),
        t: &gpu.storage_with("t", &t),
        b: &gpu.storage_with("b", &b),
        starts: &gpu.storage_with("starts", &listed),
        y: &target,
    };
    let params = LoraParams { columns4: columns as u32 / 4, rank: rank as u32, t_stride: t_stride as u32 };
    run(gpu, &[&lora(gpu, params, io)], Extent { rows: rows as u32, logit_rows: 0, keys: 0 });
    let got = read::<f32>(gpu, &target, rows * columns).await?;
    let mut want = Vec::new();
    for (row, y) in y.chunks_exact(columns).enumerate() {
        let none = vec![None; starts.len()];
        let starts = if batch[row].adapter == 1 { &starts } else { &none };
        want.extend(reference::lora::lora(y, &t[row * t_stride..][..t_stride], &b, rank, starts));
        let same = || got[row * columns..][..columns].iter().zip(y).all(|(got, y)| got.to_bits() == y.to_bits());
        if batch[row].adapter == 0 && !same() {
            return Ok(compare_exactly("compact_hidden", format!("row {row} without its adapter"), &[0], &[1]));
        }
    }
    Ok(compare("lora", format!("rank {rank} [{rows}, {columns}]"), &got, &want))
}

/// Keeps the rows of `path` after a batch behind `first` committed tokens.
pub(crate) async fn check_compact_hidden(gpu: &Gpu, width: usize, first: usize, path: &[usize]) -> Result<KernelCheck> {
    let mut history = noise(63, SLOTS * width);
    let state = gpu.storage_with("state", &[State { committed: (first + path.len()) as u32, ..State::default() }]);
    let mut listed = vec![path.len() as u32];
    listed.extend(path.iter().map(|&row| row as u32));
    listed.resize(64, 0);
    let buffer = gpu.storage_with("history", &history);
    let io = CompactHiddenIo { state: &state, path: &gpu.storage_with("path", &listed), history: &buffer };
    let op = compact_hidden(gpu, width as u32, SLOTS as u32, io);
    run(gpu, &[&op], Extent { rows: 1, logit_rows: 1, keys: 0 });
    reference::hidden::compact_hidden(&mut history, width, first, path);
    let got: Vec<u32> = read::<f32>(gpu, &buffer, SLOTS * width).await?.iter().map(|x| x.to_bits()).collect();
    let want: Vec<u32> = history.iter().map(|x| x.to_bits()).collect();
    Ok(compare_exactly("compact_hidden", format!("{path:?}"), &got, &want))
}

/// Stages `rows` rows of a text of `length` tokens, and gives them the tokens `ahead` of them.
pub(crate) async fn check_stage_window(gpu: &Gpu, length: usize, rows: usize, ahead: usize) -> Result<KernelCheck> {
    const VOCAB: u32 = 1000;
    let text: Vec<u32> = (0..SLOTS as u32 + 1).map(|i| 7 * i % VOCAB).collect();
    let drafts: Vec<u32> = (0..MAX_BATCH_ROWS as u32).map(|i| 500 + i).collect();
    let candidates: Vec<u32> =
        drafts.iter().flat_map(|&id| (0..MAX_BATCH_ROWS as u32).map(move |r| id + 400 * r)).collect();
    let before = State { committed: 3, length: length as u32, limit: 99, num_rows: 9, ..State::default() };
    let state = gpu.storage_with("state", &[before]);
    let batch = gpu.storage_with("rows", &[Row { token: 1, position: 2, mask: 3, target_token: 4, adapter: 1 }; 64]);
    let params = StageWindowParams { num_rows: rows as u32, context: SLOTS as u32, adapter: 1 };
    let stage = stage_window(gpu, params, StageWindowIo { state: &state, rows: &batch });
    let candidates = &gpu.storage_with("candidates", &candidates);
    let io = ShiftTokensIo { state: &state, rows: &batch, text: &gpu.storage_with("text", &text), candidates };
    let tokens = shift_tokens(gpu, ShiftTokensParams { ahead: ahead as u32, vocab: VOCAB }, io);
    run(gpu, &[&stage, &tokens], Extent { rows: rows as u32, logit_rows: 1, keys: 0 });
    let (first, count) = reference::hidden::stage_window(length, rows);
    let row = |i: usize| {
        let token = reference::hidden::shift_tokens(&text[..length], &drafts, first + i, ahead);
        Row { token, position: (first + i) as u32, adapter: 1, ..Row::default() }
    };
    let mut got: Vec<u32> = read(gpu, &state, 8).await?;
    got.extend(read::<u32>(gpu, &batch, 5 * count).await?);
    let logit_row = count.max(1) as u32 - 1;
    let after = State { committed: first as u32, num_rows: count as u32, logit_row, ..before };
    let mut want = bytemuck::cast::<State, [u32; 8]>(after).to_vec();
    want.extend((0..count).flat_map(|i| bytemuck::cast::<Row, [u32; 5]>(row(i))));
    Ok(compare_exactly("stage_window", format!("{rows} rows of {length}, {ahead} ahead"), &got, &want))
}
