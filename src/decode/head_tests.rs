//! Heads over rows that are staged on the GPU, as drafts use them: the bits are those of the analysis.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use super::{ReadOptions, Reading, Session};
use crate::format::files::MemoryFiles;
use crate::gpu::Gpu;
use crate::kernels::tests::adapters::on_every_set;
use crate::kernels::{Extent, MAX_BATCH_ROWS, Op, State};
use crate::{Engine, EngineOptions, KernelSet};

/// Every file of a golden folder.
pub(super) fn golden(name: &str) -> MemoryFiles {
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
    let extent = Extent { rows: rows as u32, logit_rows: 1, keys: keys as u32 };
    session.replay(ops, extent, None);
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
            let staging = staged.rounds.heads.as_ref().expect("heads");
            let mut candidates = [0; MAX_BATCH_ROWS * MAX_BATCH_ROWS];
            (0..drafts.len()).for_each(|depth| candidates[depth * MAX_BATCH_ROWS] = drafts[depth]);
            staged.model.gpu.write(&staged.buffers.candidates, 0, &candidates);
            // Refilled with the text, the last row alone at the end; or rows again that are there already.
            for window in [1, 6] {
                read_text(&staged, &text, &[13, 7, 1, 1, 2], true);
                for (head, want) in plan.heads.iter().zip(&want).filter(|(head, _)| !head.backbone) {
                    replay(&staged, &[&staging.windows[window - 1..window], &head.full], window, text.len());
                    assert!(logits(&staged) == *want, "{what}: +{}, window {window}", head.offset);
                }
            }
            // Refilled afterwards, from what the body has left.
            let staged = session(gpu, backbone, heads, set);
            let plan = staged.plan.heads.as_ref().expect("heads");
            let staging = staged.rounds.heads.as_ref().expect("heads");
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
                replay(&staged, &[&staging.windows[..1], &head.full], 1, text.len());
                assert!(logits(&staged) == *want, "{what}: +{} refilled late", head.offset);
            }
        }
    });
}

/// Logits of sequential heads that were fed over `text`, by head and position.
fn fed(
    session: &mut Session,
    text: &[u32],
    positions: Range<usize>,
    feed: usize,
) -> BTreeMap<(usize, usize), Vec<f32>> {
    let options = ReadOptions { positions, depths: false, heads: true, feed: Some(feed) };
    let mut found = BTreeMap::new();
    let mut keep = |reading, at, row: &[f32]| {
        if let Reading::Fed(head) = reading {
            found.insert((head, at), row.to_vec());
        }
    };
    pollster::block_on(session.read_logits(text, &options, &mut keep)).expect("logits");
    found
}

fn argmax(row: &[f32]) -> u32 {
    (0..row.len()).rev().max_by(|&a, &b| row[a].total_cmp(&row[b])).expect("a token") as u32
}

#[test]
fn fed_heads_have_not_read_what_comes() {
    let text: Vec<u32> = (0..44).map(|i| 3 + i * 29 % 90).collect();
    on_every_set(|gpu, set| {
        // The ends of what is read, and both sides of where a batch of 32 rows ends. Which rows are fed does not depend on the kernels:
        // with all sets but the first, those two sides alone.
        let (positions, checked) = match set == KernelSet::ALL[0] {
            true => (29..41, &[29, 31, 32, 33, 40][..]),
            false => (31..33, &[31, 32][..]),
        };
        for (backbone, heads) in [("neox-parallel", "heads-sequential"), ("llama-odd", "heads-deepseek")] {
            let what = format!("{heads}, {set}, {}", gpu.summary());
            let mut session = session(gpu, backbone, heads, set);
            let greedy = fed(&mut session, &text, positions.clone(), 1);
            let mixed = fed(&mut session, &text, positions.clone(), 3);
            let next = pollster::block_on(session.logits(&text)).expect("logits");
            let aheads: Vec<usize> =
                session.plan.heads.as_ref().expect("heads").heads.iter().map(|head| head.ahead).collect();
            assert_eq!(greedy.len(), aheads.len() * positions.len(), "{what}");
            for &at in checked {
                // The text up to there, then what the model and the heads expect.
                let mut expected = text[..=at].to_vec();
                expected.push(argmax(&next[at]));
                for (head, ahead) in aheads.iter().enumerate() {
                    let want = pollster::block_on(session.head_logits(&expected)).expect("logits");
                    let (want, got) = (&want[head][at], &greedy[&(head, at)]);
                    assert_eq!(expected.len(), at + 1 + ahead, "heads one after the other");
                    let [want_bits, got_bits] = [want, got].map(|row| bits(std::slice::from_ref(row)));
                    assert!(want_bits == got_bits, "{what}: head {head}, position {at}");
                    expected.push(argmax(want));
                }
                // The mixture over three next tokens.
                let mut likeliest: Vec<u32> = (0..next[at].len() as u32).collect();
                likeliest.sort_by(|&a, &b| next[at][b as usize].total_cmp(&next[at][a as usize]));
                let weights: Vec<f64> = likeliest[..3]
                    .iter()
                    .map(|&y| f64::from(next[at][y as usize] - next[at][likeliest[0] as usize]).exp())
                    .collect();
                let mut want = vec![0.0; next[at].len()];
                for (weight, &y) in weights.iter().zip(&likeliest) {
                    let given = [&text[..=at], &[y]].concat();
                    let row = &pollster::block_on(session.head_logits(&given)).expect("logits")[0][at];
                    let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
                    let share = weight / weights.iter().sum::<f64>();
                    want.iter_mut().zip(row).for_each(|(want, &x)| *want += share * f64::from(x).exp() / sum);
                }
                for (got, want) in mixed[&(0, at)].iter().zip(want) {
                    assert!((f64::from(*got).exp() - want).abs() < 1e-6, "{what}: position {at}: {got} {want}");
                }
            }
        }
    });
}

fn bits(rows: &[Vec<f32>]) -> Vec<Vec<u32>> {
    rows.iter().map(|row| row.iter().map(|x| x.to_bits()).collect()).collect()
}

/// Heads with a LoRA, which is gated, and their backbone.
pub(super) fn gated(name: &str) -> (MemoryFiles, MemoryFiles, serde_json::Value) {
    let mut files = golden(name);
    let expected: serde_json::Value = serde_json::from_slice(&files.files["expected.json"]).expect("json");
    let mut config: serde_json::Value = serde_json::from_slice(&files.files["mtp_config.json"]).expect("json");
    config["lora"]["gated"] = true.into();
    files.files.insert("mtp_config.json".to_owned(), Cow::Owned(config.to_string().into_bytes()));
    (golden(expected["backbone"].as_str().expect("a name")), files, expected)
}

#[test]
fn a_gated_lora_acts_on_what_heads_read_and_on_nothing_else() {
    on_every_set(|gpu, set| {
        for name in ["heads-lora", "heads-neox-lora"] {
            let what = format!("{name}, {set}, {}", gpu.summary());
            let (base, heads, expected) = gated(name);
            let options = EngineOptions { kernels: Some(set), self_test: false, ..EngineOptions::default() };
            let plain = pollster::block_on(Engine::load(gpu, &base, &options, &mut |_| {})).expect("it loads");
            let of = |heads: &MemoryFiles| {
                let engine = pollster::block_on(Engine::load_with_heads(gpu, &base, heads, &options, &mut |_| {}));
                engine.expect("it loads").session().expect("a session")
            };
            let (mut gated, mut merged) = (of(&heads), of(&golden(name)));
            let text: Vec<u32> =
                expected["ids"].as_array().expect("ids").iter().map(|id| id.as_u64().expect("an id") as u32).collect();
            let own = pollster::block_on(plain.session().expect("a session").logits(&text)).expect("logits");
            let read = |session: &mut Session| pollster::block_on(session.head_logits(&text)).expect("logits");
            let (want, got) = (read(&mut merged), read(&mut gated));
            for (want, got) in want[1].iter().flatten().zip(got[1].iter().flatten()) {
                assert!((want - got).abs() <= 2e-3, "{what}: heads {want} {got}");
            }
            assert!(bits(&got[0]) == bits(&own) && bits(&want[0]) != bits(&own), "{what}: the model's own");
        }
    });
}

#[test]
fn drafting_rows_give_the_bits_of_the_analysis() {
    on_every_set(|gpu, set| {
        for name in ["heads-lora", "heads-neox-lora"] {
            let what = format!("{name}, {set}, {}", gpu.summary());
            let (base, heads, _) = gated(name);
            let options = EngineOptions { kernels: Some(set), self_test: false, ..EngineOptions::default() };
            let engine = pollster::block_on(Engine::load_with_heads(gpu, &base, &heads, &options, &mut |_| {}));
            let engine = engine.expect("it loads");
            let text: Vec<u32> = (0..60).map(|i| 3 + i * 29 % 90).collect();
            let mut analysed = engine.session().expect("a session");
            let want = pollster::block_on(analysed.head_logits(&text)).expect("logits");
            // Filled up at once, or as far as the prompt and then by the windows of rounds that commit up to three tokens each.
            for (prompt, steps) in [(text.len(), &[][..]), (31, &[1, 3, 2, 1, 1, 3, 3, 2, 1, 3, 3, 3, 3])] {
                let mut staged = engine.session().expect("a session");
                read_text(&staged, &text[..prompt], &[13, 7, 1, 1, 2, 32], false);
                staged.refill_heads(prompt, text.len());
                let mut length = prompt;
                for step in std::iter::once(&0).chain(steps) {
                    let first = length - 1;
                    length += step;
                    let state = State { committed: first as u32, length: length as u32, ..State::default() };
                    staged.model.gpu.write(&staged.buffers.text, 0, &text[..length]);
                    if *step > 0 {
                        // What a round leaves: the model's own rows.
                        staged.write_rows(&text, first, *step);
                        staged.write_state(State { num_rows: *step as u32, ..state });
                        replay(&staged, &[&staged.plan.body], *step, length);
                    }
                    let plan = staged.plan.heads.as_ref().expect("heads");
                    let staging = staged.rounds.heads.as_ref().expect("heads");
                    for (ops, extent) in staging.staged(plan, 3, length as u32) {
                        staged.replay(&[ops], extent, None);
                    }
                    let head = plan.heads.iter().position(|head| !head.backbone).expect("a head");
                    replay(&staged, &[&plan.heads[head].refill], 3, length);
                    replay(&staged, &[&staging.windows[..1], &plan.heads[head].full], 1, length);
                    let want: Vec<u32> = want[head][length - 2].iter().map(|x| x.to_bits()).collect();
                    assert!(logits(&staged) == want, "{what}: +{}, length {length}", plan.heads[head].offset);
                }
                assert!(steps.is_empty() || length == text.len());
            }
        }
    });
}
