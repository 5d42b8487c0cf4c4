//! Attention within sequences, picked rows and mixes against their references.

use super::adapters::{on_every_adapter, on_every_set, pass};
use crate::Result;
use crate::gpu::{Buffer, Gpu};
use crate::kernels::train::{self, HeadsOf, MixDotIo, MixIo, MixSoftmaxInputsIo, NO_ROW, PickIo, SequenceShape, Turn};
use crate::kernels::{Extent, KernelSet, Op, Store};
use crate::reference::train::causal::{self, Place, Sequences};
use crate::reference::train::{mix, rows};
use crate::self_test::KernelCheck;
use crate::self_test::bench::{compare, noise, read, run, wide};

/// Ops of training do not look at it.
const ANY: Extent = Extent { rows: 0, logit_rows: 0, keys: 0 };

const fn shape(sequences: usize, length: usize, heads: usize, kv_heads: usize, head_dim: usize) -> Sequences {
    Sequences { sequences, length, heads, kv_heads, head_dim, window: None }
}

const SHAPES: [Sequences; 9] = [
    shape(3, 5, 3, 1, 8),
    shape(1, 1, 1, 1, 4),
    shape(2, 33, 4, 2, 12),
    shape(2, 70, 2, 2, 20),
    shape(1, 128, 2, 1, 32),
    shape(1, 257, 1, 1, 64),
    Sequences { window: Some(1), ..shape(2, 9, 2, 1, 8) },
    Sequences { window: Some(13), ..shape(2, 70, 4, 2, 12) },
    Sequences { window: Some(300), ..shape(1, 33, 2, 2, 8) },
];

fn on_gpu(shape: Sequences) -> SequenceShape {
    let [sequences, length, heads] = [shape.sequences, shape.length, shape.heads].map(|n| n as u32);
    let [kv_heads, head_dim] = [shape.kv_heads, shape.head_dim].map(|n| n as u32);
    SequenceShape { sequences, length, heads, kv_heads, head_dim, window: shape.window.map(|window| window as u32) }
}

fn heads(buffer: &Buffer, place: Place) -> HeadsOf<'_> {
    HeadsOf { buffer, stride: place.stride as u32, first: place.first as u32 }
}

/// Compares what a kernel leaves in a buffer that held `before` with what the reference makes of the same.
async fn check(
    gpu: &Gpu,
    (kernel, form): (&str, String),
    before: &[f32],
    op: impl FnOnce(&Buffer) -> Op,
    reference: impl FnOnce(&mut [f64]),
) -> Result<KernelCheck> {
    let buffer = gpu.storage_with("result", before);
    run(gpu, &[&op(&buffer)], ANY);
    let got = read::<f32>(gpu, &buffer, before.len()).await?;
    let mut want = wide(before);
    reference(&mut want);
    Ok(compare(kernel, form, &got, &want))
}

#[test]
fn rows_turn_by_their_position_and_back() {
    on_every_adapter(|gpu| {
        for (shape, half) in SHAPES.into_iter().flat_map(|shape| [(shape, shape.head_dim / 2), (shape, 1)]) {
            let qkv = noise(1, shape.rows() * shape.in_qkv()[0].stride);
            let angles = (0..shape.length * half).map(|i| 0.7 * (i / half) as f32 + 0.2 * (i % half) as f32);
            let table: Vec<[f32; 2]> = angles.map(|angle| [angle.cos(), angle.sin()]).collect();
            let exact: Vec<[f64; 2]> = table.iter().map(|turn| turn.map(f64::from)).collect();
            for back in [false, true] {
                let rotation = gpu.storage_with("rotation", &table);
                let turn = if back { Turn::Back } else { Turn::Forward };
                let op = |qkv: &_| train::rope_rows(gpu, on_gpu(shape), 2 * half as u32, turn, qkv, &rotation);
                let reference = |qkv: &mut [f64]| causal::rope_rows(shape, half, back, qkv, &exact);
                pass(gpu, check(gpu, ("rope_rows", format!("{shape:?} {half} {back}")), &qkv, op, reference));
            }
        }
    });
}

#[test]
fn causal_products_are_right() {
    on_every_adapter(|gpu| {
        for shape in SHAPES {
            let [q, k, v] = shape.in_qkv();
            let out = shape.in_out();
            let (qkv, rows) = (noise(2, shape.rows() * q.stride), noise(3, shape.rows() * out.stride));
            // Values of what no position sees may be anything, and must stay as they are.
            let mut m = noise(4, shape.scores());
            m.iter_mut().enumerate().filter(|(at, _)| !shape.is_seen(*at)).for_each(|(_, m)| *m = 9.0);
            let (qkv_buffer, rows_buffer) = (gpu.storage_with("qkv", &qkv), gpu.storage_with("rows", &rows));
            let (qkv, rows) = (wide(&qkv), wide(&rows));
            for (a_buffer, a, a_place, b_place) in [(&qkv_buffer, &qkv, q, k), (&rows_buffer, &rows, out, v)] {
                let (a_heads, b_heads) = (heads(a_buffer, a_place), heads(&qkv_buffer, b_place));
                let op = |m: &_| train::causal_scores(gpu, on_gpu(shape), 0.3, a_heads, b_heads, m);
                let reference =
                    |m: &mut [f64]| causal::scores(shape, f64::from(0.3f32), (a, a_place), (&qkv, b_place), m);
                pass(gpu, check(gpu, ("causal_scores", format!("{shape:?}")), &m, op, reference));
            }
            m.iter_mut().enumerate().filter(|(at, _)| !shape.is_seen(*at)).for_each(|(_, m)| *m = f32::NAN);
            let m_buffer = gpu.storage_with("m", &m);
            let m = wide(&m);
            let before = noise(5, shape.rows() * q.stride);
            let op = |dqkv: &_| {
                let b = heads(&qkv_buffer, k);
                train::causal_gather(gpu, on_gpu(shape), 0.3, &m_buffer, b, heads(dqkv, q))
            };
            let reference = |dqkv: &mut [f64]| causal::gather(shape, f64::from(0.3f32), &m, (&qkv, k), (dqkv, q));
            pass(gpu, check(gpu, ("causal_gather", format!("{shape:?}")), &before, op, reference));
            for (a_buffer, a, a_place, place) in [(&qkv_buffer, &qkv, q, k), (&rows_buffer, &rows, out, v)] {
                let op = |dqkv: &_| {
                    let a = heads(a_buffer, a_place);
                    train::causal_scatter(gpu, on_gpu(shape), 0.3, &m_buffer, a, heads(dqkv, place))
                };
                let reference =
                    |dqkv: &mut [f64]| causal::scatter(shape, f64::from(0.3f32), &m, (a, a_place), (dqkv, place));
                pass(gpu, check(gpu, ("causal_scatter", format!("{shape:?}")), &before, op, reference));
            }
        }
    });
}

#[test]
fn causal_softmaxes_and_their_gradients_are_right() {
    on_every_set(|gpu, set| {
        for shape in SHAPES {
            let m: Vec<f32> = noise(6, shape.scores()).iter().map(|x| 12.0 * x).collect();
            let op = |m: &_| train::causal_softmax(gpu, set, on_gpu(shape), m);
            // Scores of what no position sees stay, and are too large for the tolerance: they go by their bits.
            let below = |m: &[f32]| -> Vec<f32> {
                m.iter().enumerate().map(|(at, &m)| if shape.is_seen(at) { m } else { 0.0 }).collect()
            };
            let form = |what: &str| ("causal_softmax", format!("{what}{shape:?}"));
            pass(gpu, check(gpu, form(""), &below(&m), op, |m| causal::softmax(shape, m)));
            let mut p = wide(&m);
            causal::softmax(shape, &mut p);
            let p: Vec<f32> = p.iter().map(|&p| p as f32).collect();
            let p_buffer = gpu.storage_with("p", &p);
            let op = |dm: &_| train::causal_softmax_inputs(gpu, set, on_gpu(shape), &p_buffer, dm);
            let before = below(&noise(7, shape.scores()));
            let reference = |dm: &mut [f64]| causal::softmax_inputs(shape, &wide(&p), dm);
            pass(gpu, check(gpu, form("gradient "), &before, op, reference));
            untouched(gpu, set, shape, &m);
        }
    });
}

/// Asserts that values of what no position sees keep their bits.
fn untouched(gpu: &Gpu, set: KernelSet, shape: Sequences, m: &[f32]) {
    let [a, b] = [gpu.storage_with("m", m), gpu.storage_with("dm", m)];
    let shape_on_gpu = on_gpu(shape);
    let ops = [
        train::causal_softmax(gpu, set, shape_on_gpu, &a),
        train::causal_softmax_inputs(gpu, set, shape_on_gpu, &a, &b),
    ];
    run(gpu, &ops.iter().collect::<Vec<_>>(), ANY);
    for buffer in [&a, &b] {
        let got: Vec<f32> = pollster::block_on(read(gpu, buffer, m.len())).expect("the device works");
        for (at, (got, m)) in got.iter().zip(m).enumerate() {
            assert!(shape.is_seen(at) || got.to_bits() == m.to_bits(), "{}, {set}: value {at}", gpu.summary());
        }
    }
}

#[test]
fn rows_are_picked_and_put_back() {
    on_every_adapter(|gpu| {
        // The last takes workgroups in two dimensions.
        for (count, width, step) in [(1, 4, 1), (15, 12, 2), (67, 260, 3), (33_000, 256, 1)] {
            let picked: Vec<Option<usize>> =
                (0..count).step_by(step).map(|i| (i % 5 != 3).then(|| count - 1 - i)).collect();
            let listed: Vec<u32> = picked.iter().map(|pick| pick.map_or(NO_ROW, |row| row as u32)).collect();
            let picks = gpu.storage_with("picks", &listed);
            let (x, y) = (noise(8, count * width), noise(9, picked.len() * width));
            let x_buffer = gpu.storage_with("x", &x);
            let (n, width4) = (picked.len() as u32, width as u32 / 4);
            let op = |y: &_| train::gather_rows(gpu, n, width4, PickIo { picks: &picks, x: &x_buffer, y });
            let taken = |y: &mut [f64]| y.copy_from_slice(&rows::gather(&wide(&x), width, &picked));
            pass(gpu, check(gpu, ("gather_rows", format!("[{count}, {width}]")), &y, op, taken));
            let y_buffer = gpu.storage_with("y", &y);
            let op = |x: &_| train::scatter_rows(gpu, n, width4, PickIo { picks: &picks, x: &y_buffer, y: x });
            let put = |x: &mut [f64]| rows::scatter(&wide(&y), width, &picked, x);
            pass(gpu, check(gpu, ("scatter_rows", format!("[{count}, {width}]")), &x, op, put));
        }
    });
}

#[test]
fn mixes_and_their_gradients_are_right() {
    on_every_adapter(|gpu| {
        for (layers, temperature) in [(1, 1.0), (3, 0.5), (31, 2.0)] {
            let [logits, dots, before] = [10, 11, 12].map(|seed| noise(seed, layers));
            let weights: Vec<f32> = noise(13, layers).iter().map(|x| x.abs()).collect();
            let n = layers as u32;
            let of = |values: &[f32]| gpu.storage_with("mix", values);
            let form = || ("mix_softmax", format!("{layers} layers"));
            let op = |weights: &_| train::mix_softmax(gpu, n, temperature, &of(&logits), weights);
            let want = |weights: &mut [f64]| {
                weights.copy_from_slice(&mix::softmax(&wide(&logits), temperature.into()));
            };
            pass(gpu, check(gpu, form(), &before, op, want));
            let op = |dlogits: &_| {
                let io = MixSoftmaxInputsIo { weights: &of(&weights), dots: &of(&dots), dlogits };
                train::mix_softmax_inputs(gpu, n, temperature, io)
            };
            let want = |dlogits: &mut [f64]| {
                let change = mix::softmax_inputs(&wide(&weights), &wide(&dots), temperature.into());
                mix::mix(1.0, &change, dlogits);
            };
            pass(gpu, check(gpu, form(), &before, op, want));
        }
        for count in [4, 60, 2052, 100_000, 8_400_000] {
            let [x, y] = [14, 15].map(|seed| noise(seed, count));
            let weights = gpu.storage_with("weights", &[0.5f32, -0.7, 0.25]);
            let (x_buffer, count4) = (gpu.storage_with("x", &x), count as u32 / 4);
            for store in Store::OF_SUMS {
                let accumulate = store == Store::Add;
                let op = |y: &_| train::mix(gpu, count4, 1, store, MixIo { weights: &weights, x: &x_buffer, y });
                let want = |y: &mut [f64]| {
                    y.iter_mut().filter(|_| !accumulate).for_each(|y| *y = 0.0);
                    mix::mix(f64::from(-0.7f32), &wide(&x), y);
                };
                pass(gpu, check(gpu, ("mix", format!("{count}, {accumulate}")), &y, op, want));
            }
            let y_buffer = gpu.storage_with("y", &y);
            let op = |dots: &_| train::mix_dot(gpu, count4, 2, MixDotIo { x: &x_buffer, dy: &y_buffer, dots });
            let sum = crate::reference::train::dot(&wide(&x), &wide(&y));
            let want = |dots: &mut [f64]| dots[2] += sum;
            pass(gpu, check(gpu, ("mix_dot", format!("{count}")), &[3.0, -2.0, 1.5, 4.0], op, want));
        }
    });
}
