//! The kernels of training against their references, on every adapter, without and with bounds checks.

use super::adapters::{checked_gpus, gpus, pass};
use crate::gpu::{Buffer, Gpu};
use crate::kernels::declared::ACTIVATIONS;
use crate::kernels::train::product::{Cut, matmul_inputs_cut, matmul_weights_cut};
use crate::kernels::train::{
    ActivateForm, ActivateInputsIo, ActivateIo, AdamIo, AdamStep, Columns, HeadNormInputsIo, HeadNormWeightsIo,
    LoraInputsIo, LoraWeightsIo, NormInputsIo, NormWeightsIo, activate, activate_inputs, adamw, clip_factor,
    column_sums, head_norm_inputs, head_norm_weights, lora_inputs, lora_weights, norm_inputs, norm_weights, squares,
};
use crate::kernels::{
    Activation, AttentionShape, Extent, HeadNormParams, KernelSet, LoraParams, NO_ADAPTER, NormForm, Op, Store,
    WeightFormat,
};
use crate::reference::matmul::pack;
use crate::reference::train as reference;
use crate::reference::train::activate::Curve;
use crate::self_test::bench::{bits, compare, noise, read, run, weights, wide};

fn on_all(test: impl Fn(&'static Gpu)) {
    for gpu in gpus().iter().chain(checked_gpus()) {
        println!("{}", gpu.summary());
        test(gpu);
    }
}

/// Runs an op; it has one size, whatever the extent.
fn run_fixed(gpu: &Gpu, op: &Op) {
    run(gpu, &[op], Extent { rows: 0, logit_rows: 0, keys: 0 });
}

/// Compares the whole of a buffer with the reference.
fn check(gpu: &Gpu, kernel: &str, form: impl std::fmt::Display, buffer: &Buffer, want: &[f64]) {
    pass(gpu, async { Ok(compare(kernel, form, &read::<f32>(gpu, buffer, want.len()).await?, want)) });
}

/// Rows of `width` values that lie from column 4 on in rows of two blocks more: a wrong stride shows.
struct Strided {
    width: usize,
    all: Vec<f32>,
    buffer: Buffer,
}

impl Strided {
    fn new(gpu: &Gpu, seed: u32, rows: usize, width: usize) -> Self {
        let all = noise(seed, rows * Self::stride_of(width));
        Self { width, buffer: gpu.storage_with("rows", &all), all }
    }

    fn stride_of(width: usize) -> usize {
        width.next_multiple_of(4) + 8
    }

    fn columns(&self) -> Columns<'_> {
        Columns { buffer: &self.buffer, stride4: Self::stride_of(self.width) as u32 / 4, first4: 1 }
    }

    /// Zeros for what pads the last block: the products take padded columns as such.
    fn without_padding(gpu: &Gpu, seed: u32, rows: usize, width: usize) -> Self {
        let mut new = Self::new(gpu, seed, rows, width);
        let stride = Self::stride_of(width);
        new.all.chunks_exact_mut(stride).for_each(|row| row[4 + width..4 + width.next_multiple_of(4)].fill(0.0));
        gpu.write(&new.buffer, 0, &new.all);
        new
    }

    fn rows(&self) -> Vec<Vec<f64>> {
        self.all.chunks_exact(Self::stride_of(self.width)).map(|row| wide(&row[4..4 + self.width])).collect()
    }

    /// The buffer's content once `values` are set in or added to its rows.
    fn with(&self, values: &[Vec<f64>], accumulate: bool) -> Vec<f64> {
        let mut all = wide(&self.all);
        for (row, values) in all.chunks_exact_mut(Self::stride_of(self.width)).zip(values) {
            for i in 0..self.width.next_multiple_of(4) {
                let value = values.get(i).copied().unwrap_or_default();
                row[4 + i] = if accumulate { row[4 + i] + value } else { value };
            }
        }
        all
    }
}

/// Rows, columns, inputs.
const PRODUCTS: [[usize; 3]; 8] =
    [[1, 1, 1], [3, 5, 7], [15, 12, 12], [16, 37, 12], [9, 70, 99], [17, 256, 68], [33, 8, 300], [70, 130, 61]];

/// The cuts and stores in which a format, the `number`-th, is tested: pipelines of products take long to compile. All of them in f32;
/// every other format in each cut with one of the stores, and with bounds checks in tiles alone. Cut, format and store are pieces of
/// a shader that do not know each other, so every two that meet are enough.
fn cuts_and_stores(format: WeightFormat, number: usize, checked: bool) -> Vec<(Cut, Store)> {
    let all = Cut::ALL.into_iter().flat_map(|cut| Store::OF_SUMS.map(|store| (cut, store)));
    if format == WeightFormat::F32 {
        return all.collect();
    }
    let store = |cut| Store::nth((number + usize::from(cut == Cut::Tiles) + usize::from(checked)) % 2);
    all.filter(|&(cut, of)| of == store(cut) && (cut == Cut::Tiles || !checked)).collect()
}

#[test]
fn inputs_of_products_get_their_gradient() {
    for (gpu, checked) in gpus().iter().map(|gpu| (gpu, false)).chain(checked_gpus().iter().map(|gpu| (gpu, true))) {
        println!("{}", gpu.summary());
        for (n, [rows, columns, inputs]) in PRODUCTS.into_iter().enumerate() {
            for (number, format) in WeightFormat::all().enumerate() {
                let inputs = inputs.next_multiple_of(format.block_inputs());
                let w = noise(n as u32, columns * inputs);
                let weight = weights(gpu, &w, inputs, format);
                // What pads dy meets weights of zero.
                let dy = Strided::new(gpu, 1, rows, columns);
                let sizes = [rows, columns.div_ceil(4), inputs.div_ceil(4)].map(|size| size as u32);
                let w = wide(&format.rounded(&w, inputs));
                let want: Vec<_> = dy.rows().iter().map(|dy| reference::product::matmul_inputs(dy, &w)).collect();
                for (cut, store) in cuts_and_stores(format, number, checked) {
                    let dx = Strided::new(gpu, 2, rows, inputs);
                    let form = (cut, format, store);
                    run_fixed(gpu, &matmul_inputs_cut(gpu, form, sizes, dy.columns(), &weight, dx.columns()));
                    let form = format!("{cut:?} {format} {store:?} [{rows}, {columns}] -> {inputs}");
                    check(gpu, "matmul_inputs", form, &dx.buffer, &dx.with(&want, store == Store::Add));
                }
            }
        }
    }
}

#[test]
fn weights_of_products_get_their_gradient() {
    on_all(|gpu| {
        for [rows, columns, inputs] in PRODUCTS {
            let [x, dy] =
                [(1, inputs), (2, columns)].map(|(seed, width)| Strided::without_padding(gpu, seed, rows, width));
            let before = pack(&noise(3, columns * inputs), inputs);
            let sizes = [rows, columns.div_ceil(4), inputs.div_ceil(4)].map(|size| size as u32);
            let (x_rows, dy_rows) = (x.rows(), dy.rows());
            let pairs: Vec<_> = x_rows.iter().zip(&dy_rows).map(|(x, dy)| (&x[..], &dy[..])).collect();
            let mut want = pack(&reference::product::matmul_weights(&pairs), inputs);
            want.iter_mut().zip(&before).for_each(|(want, &before)| *want += f64::from(before));
            for cut in Cut::ALL {
                let dw = gpu.storage_with("dw", &before);
                run_fixed(gpu, &matmul_weights_cut(gpu, cut, sizes, x.columns(), dy.columns(), &dw));
                check(gpu, "matmul_weights", format!("{cut:?} [{rows}, {inputs}] x [{columns}]"), &dw, &want);
            }
        }
    });
}

#[test]
fn biases_get_the_sums_of_columns() {
    on_all(|gpu| {
        for (rows, columns) in [(1, 4), (5, 12), (70, 260), (1000, 36)] {
            let dy = Strided::new(gpu, 1, rows, columns);
            let before = noise(2, columns);
            let sums = gpu.storage_with("sums", &before);
            run_fixed(gpu, &column_sums(gpu, rows as u32, columns as u32 / 4, dy.columns(), &sums));
            let dy = dy.rows();
            let mut want = reference::product::column_sums(&dy.iter().map(|dy| &dy[..]).collect::<Vec<_>>());
            want.iter_mut().zip(&before).for_each(|(want, &before)| *want += f64::from(before));
            check(gpu, "column_sums", format!("[{rows}, {columns}]"), &sums, &want);
        }
    });
}

#[test]
fn adapters_get_their_gradients() {
    on_all(|gpu| {
        for (columns, rank, rows) in [(4, 1, 2), (36, 3, 5), (260, 8, 17), (768, 64, 40)] {
            let t_stride = (2 * rank + 3usize).next_multiple_of(4);
            let (t, b, dy) = (noise(1, rows * t_stride), noise(2, rank * columns), noise(3, rows * columns));
            let starts: Vec<_> = (0..columns / 4).map(|block| [Some(0), Some(rank), None][block % 3]).collect();
            let listed: Vec<u32> = starts.iter().map(|start| start.map_or(NO_ADAPTER, |start| start as u32)).collect();
            let params = LoraParams { columns4: columns as u32 / 4, rank: rank as u32, t_stride: t_stride as u32 };
            let before = noise(4, rank * columns);
            // What dt held does not matter.
            let (dt, db) = (gpu.storage_with("dt", &t), gpu.storage_with("db", &before));
            let listed = gpu.storage_with("starts", &listed);
            let [on_t, on_b, on_dy] = [&t, &b, &dy].map(|values| gpu.storage_with("values", values));
            let io = LoraInputsIo { dy: &on_dy, b: &on_b, starts: &listed, dt: &dt };
            run_fixed(gpu, &lora_inputs(gpu, rows as u32, params, io));
            let io = LoraWeightsIo { t: &on_t, dy: &on_dy, starts: &listed, db: &db };
            run_fixed(gpu, &lora_weights(gpu, rows as u32, params, io));
            let (t, b, dy) = (wide(&t), wide(&b), wide(&dy));
            let inner = |dy: &[f64]| reference::lora::lora_inputs(dy, &b, rank, &starts, t_stride);
            let want: Vec<f64> = dy.chunks_exact(columns).flat_map(inner).collect();
            check(gpu, "lora_inputs", format!("[{rows}, {columns}], rank {rank}"), &dt, &want);
            let pairs: Vec<_> = t.chunks_exact(t_stride).zip(dy.chunks_exact(columns)).collect();
            let mut want = reference::lora::lora_weights(&pairs, rank, &starts);
            want.iter_mut().zip(&before).for_each(|(want, &before)| *want += f64::from(before));
            check(gpu, "lora_weights", format!("[{rows}, {columns}], rank {rank}"), &db, &want);
        }
    });
}

#[test]
fn norms_get_their_gradients() {
    const EPS: f32 = 1e-5;
    on_all(|gpu| {
        for set in KernelSet::available(gpu.summary()) {
            for (width, rows, layer) in [(1, 1), (12, 15), (63, 2), (257, 9), (2048, 3), (36, 600)]
                .into_iter()
                .flat_map(|(width, rows)| [(width, rows, false), (width, rows, true)])
            {
                // A LayerNorm of one value is constant: rounding is all that is left of its gradient.
                if layer && width == 1 {
                    continue;
                }
                let stride = usize::next_multiple_of(width, 4);
                let [x, dy, dx] = [1, 2, 3].map(|seed| noise(seed, rows * stride));
                // A mean and a deviation that are not those of any noise.
                let x: Vec<f32> = x.iter().map(|x| 0.5 + 3.0 * x).collect();
                let [scale, dscale, dshift] = [4, 5, 6].map(|seed| noise(seed, width));
                let on = |values: &[f32]| gpu.storage_with("values", values);
                let [on_x, on_dy, on_dx] = [&x, &dy, &dx].map(|values| on(values));
                let [on_scale, on_dscale, on_dshift] = [&scale, &dscale, &dshift].map(|values| on(values));
                let stats = gpu.storage("stats", 8 * rows as u64);
                let io = NormInputsIo { x: &on_x, dy: &on_dy, scale: &on_scale, dx: &on_dx, stats: &stats };
                let sizes = [rows, width, stride].map(|size| size as u32);
                run_fixed(
                    gpu,
                    &norm_inputs(gpu, set, NormForm::with_shift(layer), sizes[0], sizes[1], sizes[2], EPS, io),
                );
                let shift = layer.then_some(&on_dshift);
                let io = NormWeightsIo { x: &on_x, dy: &on_dy, stats: &stats, dscale: &on_dscale, dshift: shift };
                run_fixed(gpu, &norm_weights(gpu, sizes[0], sizes[1], sizes[2], io));

                let form = format!("{set} {} [{rows}, {width}]", if layer { "layer" } else { "rms" });
                let (x, dy, scale, eps) = (wide(&x), wide(&dy), wide(&scale), f64::from(EPS));
                let pairs = || x.chunks_exact(stride).zip(dy.chunks_exact(stride));
                let pairs: Vec<_> = pairs().map(|(x, dy)| (&x[..width], &dy[..width])).collect();
                let mut want = wide(&dx);
                for (want, (x, dy)) in want.chunks_exact_mut(stride).zip(&pairs) {
                    let gradient = reference::norm::norm_inputs(x, dy, &scale, layer, eps);
                    want.iter_mut().zip(gradient).for_each(|(want, gradient)| *want += gradient);
                }
                check(gpu, "norm_inputs", &form, &on_dx, &want);
                let want: Vec<f64> = pairs.iter().flat_map(|(x, _)| reference::norm::stats(x, layer, eps)).collect();
                check(gpu, "norm_inputs", format!("{form} stats"), &stats, &want);
                let sums = reference::norm::norm_weights(&pairs, layer, eps);
                for (name, buffer, before, sums) in
                    [("scale", &on_dscale, &dscale, &sums[0]), ("shift", &on_dshift, &dshift, &sums[1])]
                {
                    let mut want = wide(before);
                    if name == "scale" || layer {
                        want.iter_mut().zip(sums).for_each(|(want, sum)| *want += sum);
                    }
                    check(gpu, "norm_weights", format!("{form} {name}"), buffer, &want);
                }
            }
        }
    });
}

fn curve(activation: Activation) -> Curve {
    match activation {
        Activation::None => reference::activate::NONE,
        Activation::Silu => reference::activate::SILU,
        Activation::Gelu => reference::activate::GELU,
        Activation::GeluTanh => reference::activate::GELU_TANH,
        Activation::Sigmoid | Activation::Softcap => unreachable!("no MLP has it"),
    }
}

#[test]
fn activations_get_their_gradients() {
    on_all(|gpu| {
        for (activation, gated) in ACTIVATIONS.into_iter().flat_map(|a| [(a, false), (a, true)]) {
            for (rows, inner4) in [(1, 1), (15, 9), (3, 130)] {
                let width = inner4 * if gated { 8 } else { 4 };
                let pre: Vec<f32> = noise(1, rows * width).iter().map(|x| 6.0 * x).collect();
                let dout = noise(2, rows * inner4 * 4);
                let [on_pre, on_dout] = [&pre, &dout].map(|values| gpu.storage_with("values", values));
                let [out, dpre] = [dout.len(), pre.len()].map(|n| gpu.storage("out", 4 * n as u64));
                let (n, n4) = (rows as u32, inner4 as u32);
                let form = ActivateForm { activation, gated, rows: n, inner4: n4 };
                run_fixed(gpu, &activate(gpu, form, ActivateIo { pre: &on_pre, out: &out }));
                let io = ActivateInputsIo { pre: &on_pre, dout: &on_dout, dpre: &dpre };
                run_fixed(gpu, &activate_inputs(gpu, form, io));
                let (pre, dout, curve) = (wide(&pre), wide(&dout), curve(activation));
                let form = format!("{activation:?}{} [{rows}, {}]", if gated { " gated" } else { "" }, inner4 * 4);
                check(gpu, "activate", &form, &out, &reference::activate::activate(curve, gated, &pre));
                let want = reference::activate::activate_inputs(curve, gated, &pre, &dout);
                check(gpu, "activate_inputs", &form, &dpre, &want);
            }
        }
    });
}

#[test]
fn slopes_are_right_from_end_to_end() {
    let pre: Vec<f32> = (-399..=399).map(|i| i as f32 * 0.03).chain([-3e38, -1e4, -100.0, 100.0, 3e38]).collect();
    on_all(|gpu| {
        for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
            let dpre = gpu.storage("dpre", 4 * pre.len() as u64);
            let [on_pre, dout] = [pre.clone(), vec![1.0; pre.len()]].map(|values| gpu.storage_with("values", &values));
            let n4 = pre.len() as u32 / 4;
            let form = ActivateForm { activation, gated: false, rows: 1, inner4: n4 };
            let io = ActivateInputsIo { pre: &on_pre, dout: &dout, dpre: &dpre };
            run_fixed(gpu, &activate_inputs(gpu, form, io));
            let got = pollster::block_on(read::<f32>(gpu, &dpre, pre.len())).expect("the device works");
            let mut worst = 0f64;
            for (&x, got) in pre.iter().zip(got) {
                // Far below zero the clamped function itself is a line that almost lies on zero.
                let error = (f64::from(got) - (curve(activation).slope)(x.into())).abs();
                assert!(error <= 1e-5, "{}: slope of {activation:?} at {x} is {got}", gpu.summary());
                worst = worst.max(error);
            }
            println!("{worst:.1e} of 1e-5  slope of {activation:?}");
        }
    });
}

#[test]
fn squares_are_added_to_one_norm() {
    on_all(|gpu| {
        for count in [1, 3, 255, 2048, 2049, 70_001, 1 << 20] {
            let grad = noise(1, count);
            let norms = gpu.storage_with("norms", &[7f32; 3]);
            run_fixed(gpu, &squares(gpu, count as u32, &gpu.storage_with("grad", &grad), &norms, 1));
            let want = [7.0, reference::step::squares(&wide(&grad)), 7.0];
            check(gpu, "squares", count, &norms, &want);
        }
    });
}

/// The norm of tensors of which the second holds `value`, and what `clip_factor` makes of it.
fn clipped(gpu: &Gpu, max_norm: f32, value: f32) -> (Vec<f32>, [f64; 2]) {
    let mut tensors = [noise(1, 100), noise(2, 3000), noise(3, 20)];
    tensors[1][2222] = value;
    let (norms, clip) = (gpu.storage("norms", 12), gpu.storage("clip", 12));
    for (slot, tensor) in tensors.iter().enumerate() {
        let op = squares(gpu, tensor.len() as u32, &gpu.storage_with("grad", tensor), &norms, slot as u32);
        run_fixed(gpu, &op);
    }
    run_fixed(gpu, &clip_factor(gpu, 3, max_norm, &norms, &clip));
    let sums = tensors.map(|tensor| reference::step::squares(&wide(&tensor)));
    let (norm, factor) = reference::step::clip_factor(&sums, max_norm.into());
    let got = pollster::block_on(read::<f32>(gpu, &clip, 3)).expect("the device works");
    (got, [norm, factor.unwrap_or(f64::NAN)])
}

#[test]
fn long_gradients_are_clipped() {
    on_all(|gpu| {
        for max_norm in [0.0, 1.0, 30.0, 1e9] {
            let (got, want) = clipped(gpu, max_norm, 0.5);
            pass(gpu, async { Ok(compare("clip_factor", max_norm, &got[1..2], &want[1..])) });
            pass(gpu, async { Ok(compare("clip_factor", max_norm, &got[..1], &want[..1])) });
            assert_eq!(got[2], 1.0, "{}", gpu.summary());
        }
    });
}

#[test]
fn what_is_not_finite_is_found() {
    on_all(|gpu| {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3e38] {
            for max_norm in [0.0, 1.0] {
                assert_eq!(clipped(gpu, max_norm, value).0[2], 0.0, "{}: {value}, {max_norm}", gpu.summary());
            }
        }
    });
}

#[test]
fn parameters_take_steps() {
    let betas = [0.9f32, 0.999].map(f64::from);
    let adam = reference::step::Adam { rate: 3e-3, decay: 0.1, betas, eps: 1e-8, step: 0 };
    on_all(|gpu| {
        for (count, scale, factor) in [(1, 1.0, 1.0), (37, 4.0, 0.25), (70_000, 1.0, 0.5)] {
            let values = noise(1, count);
            let state = [values.clone(), vec![0.0; count], vec![0.0; count]];
            let buffers = state.each_ref().map(|values| gpu.storage_with("state", values));
            let grad = gpu.storage("grad", 4 * count as u64);
            let clip = gpu.storage_with("clip", &[1.0f32, factor, 1.0, 0.0]);
            let uniform = gpu.uniform("step", &AdamStep::default());
            let [value, first, second] = buffers.each_ref();
            let io = AdamIo { step: &uniform, clip: &clip, value, grad: &grad, first, second };
            let op = adamw(gpu, count as u32, scale, io);
            let mut want: Vec<[f64; 3]> = values.iter().map(|&value| [value.into(), 0.0, 0.0]).collect();
            for step in 1..=5 {
                let gradient = noise(10 + step as u32, count);
                gpu.write(&grad, 0, &gradient);
                gpu.write(&uniform, 0, &[of_step(adam, step)]);
                run_fixed(gpu, &op);
                let adam = reference::step::Adam { step, rate: adam.rate * f64::from(scale), ..adam };
                for (want, &g) in want.iter_mut().zip(&gradient) {
                    *want = reference::step::adamw(adam, *want, f64::from(g) * f64::from(factor));
                }
            }
            for (n, (name, buffer)) in ["value", "first", "second"].iter().zip(&buffers).enumerate() {
                let want: Vec<f64> = want.iter().map(|want| want[n]).collect();
                check(gpu, "adamw", format!("{name} of {count}"), buffer, &want);
            }
            // A norm that is not finite leaves every bit where it is.
            let held = || buffers.each_ref().map(|b| bits(&pollster::block_on(gpu.read(b)).expect("works")));
            let before = held();
            gpu.write(&clip, 0, &[f32::NAN, f32::NAN, 0.0]);
            gpu.write(&grad, 0, &vec![f32::NAN; count]);
            run_fixed(gpu, &op);
            assert_eq!(held(), before, "{}", gpu.summary());
        }
    });
}

fn of_step(adam: reference::step::Adam, step: i32) -> AdamStep {
    let [beta1, beta2] = adam.betas;
    AdamStep {
        rate: adam.rate as f32,
        decay: adam.decay as f32,
        beta1: beta1 as f32,
        beta2: beta2 as f32,
        eps: adam.eps as f32,
        correction1: (1.0 - beta1.powi(step)) as f32,
        correction2: (1.0 - beta2.powi(step)) as f32,
        pad: 0.0,
    }
}

#[test]
fn a_gradient_has_the_same_bits_again() {
    on_all(|gpu| {
        let (rows, columns, inputs) = (37, 68, 52);
        let [x, dy] = [(1, inputs), (2, columns)].map(|(seed, width)| Strided::new(gpu, seed, rows, width));
        let weight = weights(gpu, &noise(3, columns * inputs), inputs, WeightFormat::F32);
        let sizes = [rows, columns / 4, inputs / 4].map(|size| size as u32);
        let again = |cut| {
            let (dw, dx) = (gpu.storage("dw", 4 * (columns * inputs) as u64), Strided::new(gpu, 4, rows, inputs));
            run_fixed(gpu, &matmul_weights_cut(gpu, cut, sizes, x.columns(), dy.columns(), &dw));
            let form = (cut, WeightFormat::F32, Store::Add);
            run_fixed(gpu, &matmul_inputs_cut(gpu, form, sizes, dy.columns(), &weight, dx.columns()));
            [&dw, &dx.buffer].map(|b| bits(&pollster::block_on(gpu.read(b)).expect("the device works")))
        };
        Cut::ALL.iter().for_each(|&cut| assert_eq!(again(cut), again(cut), "{}: {cut:?}", gpu.summary()));
    });
}

#[test]
fn norms_of_heads_have_gradients() {
    on_all(|gpu| {
        for ([heads, kv_heads], width, rows) in [([1, 1], 1, 1), ([4, 2], 6, 3), ([8, 2], 128, 5), ([70, 35], 12, 9)] {
            let (head_dim, eps) = (usize::next_multiple_of(width, 4), 1e-5_f32);
            let context = 1;
            let shape = AttentionShape::new(heads, kv_heads, head_dim as u32, context);
            let padded = |seed, n| {
                let mut x = noise(seed, n);
                x.chunks_exact_mut(head_dim).for_each(|head| head[width..].fill(0.0));
                x
            };
            let row = shape.qkv_stride() as usize;
            let [x, dy] = [1, 2].map(|seed| padded(seed, rows * row));
            let [scale, before] = [3, 4].map(|seed| padded(seed, 2 * head_dim));
            let [x_buffer, dy_buffer] = [&x, &dy].map(|values| gpu.storage_with("rows", values));
            let dscale = gpu.storage_with("dscale", &before);
            let dx = gpu.storage("dx", 4 * (rows * row) as u64);
            let inverses = gpu.storage("inverses", 4 * (rows * row / head_dim) as u64);
            let params = HeadNormParams::new(shape, width as u32, eps);
            let scale_buffer = gpu.storage_with("scale", &scale);
            let (x_of, dy_of, inverses_of) = (&x_buffer, &dy_buffer, &inverses);
            let io = HeadNormInputsIo { x: x_of, dy: dy_of, scale: &scale_buffer, dx: &dx, inverses: inverses_of };
            run_fixed(gpu, &head_norm_inputs(gpu, params, rows as u32, io));
            let io = HeadNormWeightsIo { x: x_of, dy: dy_of, inverses: inverses_of, dscale: &dscale };
            run_fixed(gpu, &head_norm_weights(gpu, params, rows as u32, io));
            let (x, dy, scale, eps) = (wide(&x), wide(&dy), wide(&scale), f64::from(eps));
            let sizes = [heads as usize, kv_heads as usize, width, head_dim];
            let scales = [&scale[..width], &scale[head_dim..][..width]];
            let pairs = x.chunks_exact(row).zip(dy.chunks_exact(row));
            let want: Vec<f64> =
                pairs.flat_map(|(x, dy)| reference::head_norm::head_norm_inputs(x, dy, sizes, scales, eps)).collect();
            let form = format!("{heads} + {kv_heads} of {width}, {rows} rows");
            check(gpu, "head_norm_inputs", &form, &dx, &want);
            let mut want = wide(&before);
            for (half, change) in reference::head_norm::head_norm_weights(&x, &dy, sizes, eps).iter().enumerate() {
                change.iter().enumerate().for_each(|(d, change)| want[half * head_dim + d] += change);
            }
            check(gpu, "head_norm_weights", &form, &dscale, &want);
        }
    });
}
