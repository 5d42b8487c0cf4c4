//! matmul and matmul_tiled: every format, width and set, what can follow, and that rows do not feel each other.

use super::adapters::{on_every_adapter, on_every_set, pass};
use crate::format::stored::StoredType;
use crate::gpu::Gpu;
use crate::kernels::declared::ACTIVATIONS;
use crate::kernels::{
    Activation, Bias, Finish, KernelSet, MAX_BATCH_ROWS, MAX_CHUNK_ROWS, MatmulForm, Store, WeightFormat, Widths,
};
use crate::reference::random::pcg4d;
use crate::self_test::product::{Plain, Product};
use crate::self_test::product_is_invariant;

fn product(gpu: &Gpu, form: MatmulForm, inputs: usize, columns: usize) -> Product<'_> {
    Product::new(gpu, form, Plain::random(inputs, columns, (inputs * columns) as u32))
}

/// Right at every width, and with the same bits whichever rows are beside a row, few or many.
fn check_widths(format: WeightFormat) {
    let every: Vec<usize> = (1..=MAX_BATCH_ROWS).chain([MAX_BATCH_ROWS + 1, 47, MAX_CHUNK_ROWS]).collect();
    let some = vec![1, 2, 7, 8, MAX_BATCH_ROWS + 1, MAX_CHUNK_ROWS];
    on_every_set(|gpu, set| {
        for (index, &shape) in set.product_shapes().iter().enumerate() {
            let widths = if index == 0 { &every } else { &some };
            for pipelines in [Widths::Each, Widths::Fixed] {
                // What blocks differ in is how a thread reads them, not how threads share their sums.
                if format.blocks().is_some() && index > 0 && pipelines == Widths::Fixed {
                    continue;
                }
                let form = MatmulForm { shape, ..MatmulForm::plain(set, pipelines, format, 0) };
                // Inputs that nothing divides: elements are then read a run at a time; and inputs that are read in as many runs as there can be.
                let lengths = if format.blocks().is_some() { &[format.block_inputs().max(99)][..] } else { &[99, 96] };
                for (&inputs, widths) in lengths.iter().zip([widths, &some]) {
                    let product = product(gpu, form, inputs, 70);
                    widths.iter().for_each(|&rows| pass(gpu, product.check(rows)));
                    let invariant = pollster::block_on(product_is_invariant(&product, MAX_BATCH_ROWS, widths, false));
                    let case = format!("{}, {set}, {format}, {shape:?}, {pipelines:?}", gpu.summary());
                    assert_eq!(invariant, Ok(true), "{case}: {inputs} inputs");
                }
            }
        }
    });
}

/// A test of each format, so that they run side by side.
macro_rules! widths_of {
    ($($name:ident $stored:ident,)*) => {
        mod rows_are_right_and_independent_at_every_width {
            use super::{StoredType, WeightFormat};

            $(#[test]
            fn $name() {
                super::check_widths(WeightFormat::of(StoredType::$stored));
            })*

            #[test]
            fn every_format_is_tested() {
                assert_eq!([$(StoredType::$stored),*].len(), StoredType::ALL.len());
            }
        }
    };
}

widths_of! {
    f32 F32,
    f16 F16,
    bf16 BF16,
    q2k Q2K,
    q3k Q3K,
    q4_0 Q4_0,
    q4_1 Q4_1,
    q4k Q4K,
    q5_0 Q5_0,
    q5_1 Q5_1,
    q5k Q5K,
    q6k Q6K,
    q8_0 Q8_0,
    iq4nl Iq4Nl,
    iq4xs Iq4Xs,
    mxfp4 Mxfp4,
}

#[test]
fn packed_weights_give_the_bits_of_the_same_weights_in_f32() {
    on_every_set(|gpu, set| {
        let shapes =
            WeightFormat::packed_at_load().map(|format| (format, if format.block_inputs() == 32 { 352 } else { 512 }));
        for (format, inputs) in shapes {
            let columns = 134;
            let plain = Plain::random(inputs, columns, 5);
            let rounded = |w: &[f32]| format.rounded(w, inputs);
            let same = Plain { gate: rounded(&plain.gate), up: rounded(&plain.up), bias: plain.bias.clone(), inputs };
            let compute = |format, plain, rows: usize| {
                let product = Product::new(gpu, MatmulForm::plain(set, Widths::Each, format, 0), plain);
                let rows: Vec<usize> = (0..rows).collect();
                pollster::block_on(product.compute(&rows)).expect("the device works")
            };
            for rows in [1, 8, 40] {
                let packed = compute(format, plain.clone(), rows);
                let dense = compute(WeightFormat::F32, same.clone(), rows);
                // What stands beyond the columns is what was there before: the same in both.
                assert_eq!(packed, dense, "{}, {set}, {format}: {rows} rows, {inputs} -> {columns}", gpu.summary());
            }
        }
    });
}

#[test]
fn products_of_any_shape_are_right() {
    let listed = [(1, 1), (4, 4), (3, 5), (16, 64), (17, 65), (1000, 33), (64, 700)];
    let random = (0..8).map(|i| pcg4d([i, 2, 3, 4])).map(|r| (1 + r[0] as usize % 300, 1 + r[1] as usize % 300));
    let shapes: Vec<_> = listed.into_iter().chain(random).collect();
    on_every_set(|gpu, set| {
        for &(inputs, columns) in &shapes {
            for &shape in set.product_shapes() {
                let plain = MatmulForm::plain(set, Widths::Each, WeightFormat::F32, 0);
                let product = product(gpu, MatmulForm { shape, ..plain }, inputs, columns);
                [1, 2, 37].into_iter().for_each(|rows| pass(gpu, product.check(rows)));
                let invariant = pollster::block_on(product_is_invariant(&product, 3, &[2, 37], false));
                assert_eq!(invariant, Ok(true), "{}, {set}, {shape:?}, {inputs} -> {columns}", gpu.summary());
            }
        }
    });
}

#[test]
fn logits_have_soft_caps() {
    on_every_set(|gpu, set| {
        // What follows a product does not know the format, nor how threads share its sums.
        let plain = MatmulForm::plain(set, Widths::Each, WeightFormat::F16, 0);
        let form = MatmulForm { activation: Activation::Softcap, ..plain };
        let capped = product(gpu, form, 75, 70);
        [1, 6, 33].into_iter().for_each(|rows| pass(gpu, capped.check(rows)));
        let invariant = pollster::block_on(product_is_invariant(&capped, 3, &[2, 3, 8, 40], false));
        assert_eq!(invariant, Ok(true), "{}, {set}", gpu.summary());
        let capped = Product::with_partials(gpu, form, Plain::random(75, 70, 9));
        [1, 8].into_iter().for_each(|rows| pass(gpu, capped.check_partials(rows)));
    });
}

#[test]
fn a_product_keeps_what_a_softmax_of_it_needs() {
    on_every_set(|gpu, set| {
        for (format, columns) in [
            (WeightFormat::F32, 1),
            (WeightFormat::F16, 63),
            (WeightFormat::BF16, 64),
            (WeightFormat::F32, 65),
            (WeightFormat::F32, 515),
            (WeightFormat::Q8_0, 37),
        ] {
            for &shape in set.product_shapes() {
                let form = MatmulForm { shape, ..MatmulForm::plain(set, Widths::Fixed, format, 0) };
                let product = Product::with_partials(gpu, form, Plain::random(75, columns, 9));
                [1, 8, 32].into_iter().for_each(|rows| pass(gpu, product.check_partials(rows)));
            }
        }
    });
}

/// Forms in which every two switches meet in every combination.
fn pairwise_forms(set: KernelSet) -> impl Iterator<Item = MatmulForm> {
    (0..8).map(move |i| MatmulForm {
        set,
        widths: Widths::Each,
        shape: set.product_shapes()[i % set.product_shapes().len()],
        format: [WeightFormat::F16, WeightFormat::BF16, WeightFormat::F32][i % 3],
        activation: ACTIVATIONS[i / 2],
        finish: Finish::gated(i % 2 == 0),
        bias: Bias::with([0, 3, 4, 7].contains(&i)),
        store: if [0, 3, 5, 6].contains(&i) { Store::Add } else { Store::Set },
    })
}

#[test]
fn what_follows_a_product_is_right() {
    on_every_set(|gpu, set| {
        let formats = WeightFormat::packed_at_load().cycle();
        let packed = pairwise_forms(set).zip(formats).map(|(form, format)| MatmulForm { format, ..form });
        for (i, form) in pairwise_forms(set).chain(packed).enumerate() {
            let product = product(gpu, form, 30 + i, 61 + 5 * i);
            [1, 2, 33].into_iter().for_each(|rows| pass(gpu, product.check(rows)));
            let invariant = pollster::block_on(product_is_invariant(&product, 3, &[2, 33], false));
            assert_eq!(invariant, Ok(true), "{}, {form:?}", gpu.summary());
        }
    });
}

/// Weights of zero leave the bias: what comes out is the activation of these numbers.
fn activated(gpu: &Gpu, activation: Activation, values: &[f32]) -> Vec<f32> {
    let form = MatmulForm::plain(KernelSet::Software, Widths::Fixed, WeightFormat::F32, 0);
    let zeros = vec![0.0; values.len() * 4];
    let plain = Plain { inputs: 4, gate: zeros.clone(), up: zeros, bias: values.repeat(2) };
    let product = Product::new(gpu, MatmulForm { activation, bias: Bias::Add, ..form }, plain);
    let rows = pollster::block_on(product.compute(&[0])).expect("the device works");
    rows[0][4..4 + values.len()].to_vec()
}

#[test]
fn activations_are_right_from_end_to_end() {
    use crate::reference::matmul::{gelu, gelu_tanh, silu};
    let values: Vec<f32> =
        (-400..=400).map(|i| i as f32 * 0.03).chain([-3e38, -1e4, -100.0, 100.0, 1e4, 3e38]).collect();
    on_every_adapter(|gpu| {
        for (activation, reference) in
            [(Activation::Silu, silu as fn(f64) -> f64), (Activation::Gelu, gelu), (Activation::GeluTanh, gelu_tanh)]
        {
            for (&x, y) in values.iter().zip(activated(gpu, activation, &values)) {
                let (got, want) = (f64::from(y), reference(x.into()));
                // WGSL allows tanh an absolute error of 1e-5, which is multiplied with x / 2.
                let tolerance = 1e-5 * f64::from(x.abs()).max(0.1);
                assert!((got - want).abs() <= tolerance, "{}: {activation:?}({x}) = {got}, not {want}", gpu.summary());
            }
        }
    });
}

#[test]
fn halves_below_the_normal_range_count() {
    // 2^-24 .. 2^-15: a fifth of the weights of some checkpoints are this small.
    let weights = |n: usize| (0..n).map(|i| (1 + i % 511) as f32 * 2f32.powi(-24)).collect::<Vec<_>>();
    on_every_adapter(|gpu| {
        let plain = Plain { inputs: 20, gate: weights(20 * 12), up: weights(20 * 12), bias: vec![0.0; 24] };
        let form = MatmulForm::plain(KernelSet::Software, Widths::Fixed, WeightFormat::F16, 0);
        let product = Product::new(gpu, form, plain);
        let (got, want) = (pollster::block_on(product.compute(&[0])).expect("works"), product.expected(0));
        let worst = got[0][4..16].iter().zip(&want[4..16]).map(|(g, w)| (f64::from(*g) - w).abs()).fold(0.0, f64::max);
        println!("{}: {worst:e} of {:e}", gpu.summary(), want[4]);
        assert!(worst < 1e-3 * want[4].abs(), "{}", gpu.summary());
    });
}
