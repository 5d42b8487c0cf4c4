//! A product with weights, on the GPU and by the reference, for any choice of its rows.

use super::KernelCheck;
use super::bench::{compare, noise, read, run, weights, wide};
use crate::Result;
use crate::gpu::{Buffer, Gpu};
use crate::kernels::{
    Activation, Bias, Extent, Finish, MAX_CHUNK_ROWS, MatmulForm, MatmulIo, Op, Over, Partials, State, Store, matmul,
    matmul_with_partials,
};
use crate::reference::attention::softcapped;
use crate::reference::{marginal, matmul as reference};

/// The cap of capped products, which their outputs come near.
const SOFTCAP: f32 = 2.5;

/// Plain numbers: `gate` and `up` are `[columns, inputs]`, `bias` has a value for each of their columns, gate first.
#[derive(Clone)]
pub(crate) struct Plain {
    pub inputs: usize,
    pub gate: Vec<f32>,
    pub up: Vec<f32>,
    pub bias: Vec<f32>,
}

impl Plain {
    /// Random weights that give outputs of some units.
    pub fn random(inputs: usize, columns: usize, seed: u32) -> Self {
        let scale = 6.0 / (inputs as f32).sqrt();
        let matrix = |seed| noise(seed, inputs * columns).iter().map(|w| w * scale).collect();
        Self { inputs, gate: matrix(seed), up: matrix(seed + 1), bias: noise(seed + 2, 2 * columns) }
    }

    /// The same with more inputs, whose weights are 0: whole blocks, and not all formats have a 0.
    fn widened(self, inputs: usize) -> Self {
        let widen = |w: &[f32]| -> Vec<f32> {
            let zeros = vec![0.0; inputs - self.inputs];
            w.chunks_exact(self.inputs).flat_map(|w| [w, &zeros].concat()).collect()
        };
        Self { inputs, gate: widen(&self.gate), up: widen(&self.up), bias: self.bias }
    }

    fn columns(&self) -> usize {
        self.gate.len() / self.inputs
    }

    fn weights(&self, gpu: &Gpu, form: MatmulForm) -> Buffer {
        if form.finish == Finish::Plain {
            return weights(gpu, &self.gate, self.inputs, form.format);
        }
        weights(gpu, &reference::alternate(&self.gate, &self.up, self.inputs), self.inputs, form.format)
    }
}

/// A product and the rows it can be asked for.
pub(crate) struct Product<'a> {
    gpu: &'a Gpu,
    form: MatmulForm,
    plain: Plain,
    /// `[MAX_CHUNK_ROWS, x_stride]`; what lies beyond the inputs must not matter.
    rows: Vec<f32>,
    /// The content of `y` before: `[MAX_CHUNK_ROWS, y_stride]`.
    before: Vec<f32>,
    x: Buffer,
    y: Buffer,
    /// `[MAX_CHUNK_ROWS, partials]`, the last one of a row is nobody's.
    partials: Buffer,
    op: Op,
}

impl<'a> Product<'a> {
    pub fn new(gpu: &'a Gpu, form: MatmulForm, plain: Plain) -> Self {
        Self::build(gpu, form, plain, false)
    }

    /// One that keeps partials of its outputs.
    pub fn with_partials(gpu: &'a Gpu, form: MatmulForm, plain: Plain) -> Self {
        Self::build(gpu, form, plain, true)
    }

    fn build(gpu: &'a Gpu, form: MatmulForm, mut plain: Plain, with_partials: bool) -> Self {
        if form.format.blocks().is_some() {
            let inputs = form.format.padded(plain.inputs);
            plain = plain.widened(inputs);
        }
        let weight = plain.weights(gpu, form);
        plain.gate = form.format.rounded(&plain.gate, plain.inputs);
        plain.up = form.format.rounded(&plain.up, plain.inputs);
        let (inputs4, columns4) = (form.format.padded(plain.inputs) / 4, plain.columns().div_ceil(4));
        // More than the product needs, so that a wrong stride shows.
        let (x_stride4, y_stride4) = (inputs4 + 1, columns4 + 2);
        let rows = noise(7, MAX_CHUNK_ROWS * x_stride4 * 4);
        let before = noise(8, MAX_CHUNK_ROWS * y_stride4 * 4);
        let (x, y) = (gpu.storage_with("x", &rows), gpu.storage_with("y", &before));
        let biased = form.bias == Bias::Add;
        let bias = biased.then(|| gpu.storage_with("bias", &packed_bias(&plain, form.finish)));
        let softcap = (form.activation == Activation::Softcap).then(|| gpu.uniform("softcap", &SOFTCAP));
        let io = MatmulIo {
            state: &gpu.storage_with("state", &[State::default()]),
            x: &x,
            weight: &weight,
            y: &y,
            bias: bias.as_ref(),
            softcap: softcap.as_ref(),
            columns4: columns4 as u32,
            inputs4: inputs4 as u32,
            x_stride4: x_stride4 as u32,
            y_stride4: y_stride4 as u32,
            y_first4: 1,
            over: Over::Rows,
        };
        let stride = form.partials(io.columns4) + 1;
        let partials = gpu.storage("partials", 8 * MAX_CHUNK_ROWS as u64 * u64::from(stride));
        let kept = Partials { vocab: 4 * io.y_first4 + plain.columns() as u32, stride, first: 0 };
        let op =
            if with_partials { matmul_with_partials(gpu, form, io, kept, &partials) } else { matmul(gpu, form, io) };
        Self { gpu, form, plain, rows, before, x, y, partials, op }
    }

    /// `y` of these rows, computed together in this order.
    pub async fn compute(&self, order: &[usize]) -> Result<Vec<Vec<f32>>> {
        let rows = order.len() as u32;
        self.gpu.write(&self.x, 0, &self.in_order(&self.rows, order));
        self.gpu.write(&self.y, 0, &self.in_order(&self.before, order));
        run(self.gpu, &[&self.op], Extent { rows, logit_rows: rows, keys: 0 });
        let y = read::<f32>(self.gpu, &self.y, self.before.len()).await?;
        Ok(y.chunks_exact(y.len() / MAX_CHUNK_ROWS).take(order.len()).map(<[f32]>::to_vec).collect())
    }

    fn in_order(&self, rows: &[f32], order: &[usize]) -> Vec<f32> {
        let stride = rows.len() / MAX_CHUNK_ROWS;
        order.iter().flat_map(|&row| rows[row * stride..][..stride].iter().copied()).collect()
    }

    /// `y` of one row by the reference.
    pub fn expected(&self, row: usize) -> Vec<f64> {
        let x = &self.in_order(&self.rows, &[row])[..self.plain.inputs];
        let columns = self.plain.columns();
        let (gate_bias, up_bias) = self.plain.bias.split_at(columns);
        let linear = |w: &[f32], bias| reference::matmul(x, w, (self.form.bias == Bias::Add).then_some(bias));
        let mut y: Vec<f64> =
            linear(&self.plain.gate, gate_bias).into_iter().map(|v| activate(self.form.activation, v)).collect();
        if self.form.finish == Finish::Gated {
            y.iter_mut().zip(linear(&self.plain.up, up_bias)).for_each(|(y, up)| *y *= up);
        }
        // The products of padded columns are zero.
        y.resize(columns.next_multiple_of(4), activate(self.form.activation, 0.0));
        let mut out = wide(&self.in_order(&self.before, &[row]));
        for (out, y) in out[4..].iter_mut().zip(y) {
            *out = match self.form.store {
                Store::Set => y,
                Store::Add => *out + y,
                Store::Mul => *out * y,
            };
        }
        out
    }

    /// Compares the first `rows` rows with the reference.
    pub async fn check(&self, rows: usize) -> Result<KernelCheck> {
        let order: Vec<usize> = (0..rows).collect();
        let got = self.compute(&order).await?.concat();
        let want: Vec<f64> = order.iter().flat_map(|&row| self.expected(row)).collect();
        let kernel = if self.form.activation == Activation::None { "matmul" } else { "matmul activated" };
        Ok(compare(kernel, self.label(rows), &got, &want))
    }

    /// Compares what is kept of the first `rows` rows with the reference.
    pub async fn check_partials(&self, rows: usize) -> Result<KernelCheck> {
        let order: Vec<usize> = (0..rows).collect();
        let mut got = self.compute(&order).await?.concat();
        let expected: Vec<Vec<f64>> = order.iter().map(|&row| self.expected(row)).collect();
        let mut want = expected.concat();
        let columns = self.plain.columns();
        let stride = self.partials.size() as usize / 8 / MAX_CHUNK_ROWS;
        let block = 4 * self.form.partial_columns4() as usize;
        let found = read::<[f32; 2]>(self.gpu, &self.partials, rows * stride).await?;
        for (kept, y) in found.chunks_exact(stride).zip(expected) {
            let reference = marginal::partials(&y[4..4 + columns], block);
            want.extend(reference.iter().flat_map(|&(highest, sum)| [highest, sum]));
            got.extend(kept[..reference.len()].iter().flatten());
        }
        Ok(compare("matmul with partials", self.label(rows), &got, &want))
    }

    fn label(&self, rows: usize) -> String {
        let form = self.form;
        let switch = |on: bool, name: &'static str| if on { name } else { "" };
        format!(
            "{} {} {:?}{}{}{} [{rows}, {}] -> {}",
            form.set,
            form.format,
            form.activation,
            switch(form.finish == Finish::Gated, " gated"),
            switch(form.bias == Bias::Add, " bias"),
            match form.store {
                Store::Set => "",
                Store::Add => " accumulate",
                Store::Mul => " gate",
            },
            self.plain.inputs,
            self.plain.columns(),
        )
    }
}

fn packed_bias(plain: &Plain, finish: Finish) -> Vec<f32> {
    let (gate, up) = plain.bias.split_at(plain.columns());
    if finish == Finish::Plain {
        let mut bias = gate.to_vec();
        bias.resize(gate.len().next_multiple_of(4), 0.0);
        return bias;
    }
    reference::alternate(gate, up, 1)
}

fn activate(activation: Activation, value: f64) -> f64 {
    match activation {
        Activation::None => value,
        Activation::Silu => reference::silu(value),
        Activation::Gelu => reference::gelu(value),
        Activation::GeluTanh => reference::gelu_tanh(value),
        Activation::Sigmoid => 1.0 / (1.0 + (-value).exp()),
        Activation::Softcap => softcapped(value, SOFTCAP.into()),
    }
}
