//! Heads over rows that are staged on the GPU, as drafts use them: the bits are those of the analysis.

use std::borrow::Cow;
use std::path::Path;

use super::Session;
use crate::format::files::MemoryFiles;
use crate::gpu::Gpu;
use crate::kernels::tests::adapters::on_every_set;
use crate::kernels::{Extent, MAX_BATCH_ROWS, Op, State};
use crate::{Engine, EngineOptions, KernelSet};

fn golden(name: &str) -> MemoryFiles {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let entries = std::fs::read_dir(folder).expect("a golden folder").map(|entry| entry.expect("an entry"));
    let read = |entry: std::fs::DirEntry| {
        let name = entry.file_name().into_string().expect("a name");
        (name, Cow::Owned(std::fs::read(entry.path()).expect("a golden file")))
    };
    MemoryFiles { name: name.to_owned(), files: entries.map(read).collect() }
}

fn session(gpu: &Gpu, backbone: &str, heads: &str, set: KernelSet) -> Session {
    let options = EngineOptions { kernels: Some(set), self_test: false, ..EngineOptions::default() };
    let (base, heads) = (golden(backbone), golden(heads));
    let engine = pollster::block_on(Engine::load_with_heads(gpu, &base, &heads, &options, &mut |_| {}));
    engine.expect("it loads").session().expect("a session")
}

fn replay(session: &Session, ops: &[&[Op]], rows: usize, keys: usize) {
    let extent = Extent { rows: rows as u32, logit_rows: 1, keys: keys as u32, many: false };
    let all = || ops.iter().copied().flatten();
    session.model.gpu.submit(None, |recorder| all().for_each(|op| op.record(recorder, extent)), None);
}

fn logits(session: &Session) -> Vec<u32> {
    let found: Vec<f32> = pollster::block_on(session.model.gpu.read(&session.buffers.logits)).expect("logits");
    found[..session.model.sizes.vocab as usize].iter().map(|x| x.to_bits()).collect()
}

/// Puts `text` through the body in chunks, and through every head where `refill`, all but its last token.
fn read_text(session: &Session, text: &[u32], chunks: &[usize], refill: bool) {
    session.model.gpu.write(&session.buffers.text, 0, text);
    let mut first = 0;
    for &wanted in chunks.iter().cycle() {
        let rows = wanted.min(text.len() - 1 - first);
        if rows == 0 {
            break;
        }
        session.write_rows(text, first, rows);
        session.write_state(State {
            committed: first as u32,
            length: text.len() as u32,
            num_rows: rows as u32,
            ..State::default()
        });
        let plan = &session.plan;
        let heads = plan.heads.iter().filter(|_| refill).flat_map(|heads| &heads.heads);
        let ops: Vec<&[Op]> = std::iter::once(&plan.body[..]).chain(heads.map(|head| &head.refill[..])).collect();
        replay(session, &ops, rows, first + rows);
        first += rows;
    }
}

#[test]
fn staged_rows_give_the_bits_of_the_analysis() {
    let text: Vec<u32> = (0..40).map(|i| 3 + i * 29 % 90).collect();
    let drafts = [17, 44, 8];
    on_every_set(|gpu, set| {
        for (backbone, heads) in [
            ("llama-gqa", "heads-parallel"),
            ("llama-sharded", "heads-whs"),
            ("neox-parallel", "heads-sequential"),
            ("llama-odd", "heads-deepseek"),
            ("mistral", "heads-medusa"),
        ] {
            let what = format!("{heads}, {set}, {}", gpu.summary());
            let mut analysed = session(gpu, backbone, heads, set);
            let extended: Vec<u32> = text.iter().chain(&drafts).copied().collect();
            let want = pollster::block_on(analysed.head_logits(&extended)).expect("logits");
            let last = text.len() - 2;
            let want: Vec<Vec<u32>> =
                want.iter().map(|head| head[last].iter().map(|x| x.to_bits()).collect()).collect();

            let staged = session(gpu, backbone, heads, set);
            let plan = staged.plan.heads.as_ref().expect("heads");
            let mut candidates = [0; MAX_BATCH_ROWS * MAX_BATCH_ROWS];
            (0..drafts.len()).for_each(|depth| candidates[depth * MAX_BATCH_ROWS] = drafts[depth]);
            staged.model.gpu.write(&staged.buffers.candidates, 0, &candidates);
            // Refilled with the text, the last row alone at the end; or rows again that are there already.
            for window in [1, 6] {
                read_text(&staged, &text, &[13, 7, 1, 1, 2], true);
                for (head, want) in plan.heads.iter().zip(&want).filter(|(head, _)| !head.backbone) {
                    replay(&staged, &[&plan.windows[window - 1..window], &head.full], window, text.len());
                    assert!(logits(&staged) == *want, "{what}: +{}, window {window}", head.offset);
                }
            }
            // Refilled afterwards, from what the body has left.
            let staged = session(gpu, backbone, heads, set);
            let plan = staged.plan.heads.as_ref().expect("heads");
            staged.model.gpu.write(&staged.buffers.candidates, 0, &candidates);
            read_text(&staged, &text, &[32], false);
            for (head, want) in plan.heads.iter().zip(&want).filter(|(head, _)| !head.backbone) {
                for first in (0..text.len() - 1).step_by(MAX_BATCH_ROWS) {
                    let rows = MAX_BATCH_ROWS.min(text.len() - 1 - first);
                    staged.write_rows(&text, first, rows);
                    let (committed, num_rows) = (first as u32, rows as u32);
                    let length = text.len() as u32;
                    staged.write_state(State { committed, length, num_rows, ..State::default() });
                    replay(&staged, &[&head.refill], rows, first + rows);
                }
                replay(&staged, &[&plan.windows[..1], &head.full], 1, text.len());
                assert!(logits(&staged) == *want, "{what}: +{} refilled late", head.offset);
            }
        }
    });
}
