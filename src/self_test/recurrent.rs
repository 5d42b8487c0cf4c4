//! The kernels of a delta net over a batch of rows, on the GPU and by the reference.

use super::KernelCheck;
use super::attending::Token;
use super::bench::{compare, noise, read, run, wide};
use crate::Result;
use crate::gpu::Gpu;
use crate::kernels::{
    Committed, DeltaBuffers, DeltaInputsIo, DeltaRuleIo, DeltaShape, Extent, KernelSet, Row, State, delta_commit,
    delta_inputs, delta_rule,
};
use crate::reference;

/// A batch over a committed state, all of it noise.
pub(crate) struct Recurring<'a> {
    gpu: &'a Gpu,
    set: KernelSet,
    shape: DeltaShape,
    rows: Vec<Row>,
    /// `[rows, inputs_stride]`
    inputs: Vec<f32>,
    /// `[value_heads, key_dim, value_dim]`
    matrices: Vec<f32>,
    /// `[taps - 1, channels]`
    last: Vec<f32>,
    /// `[taps, channels]`
    conv: Vec<f32>,
    /// `[2, value_heads]`
    rates: Vec<f32>,
    /// `[rows, channels]`
    mixed: Vec<f32>,
    /// `[rows, value_heads]` of (decay, beta)
    steps: Vec<f32>,
}

impl<'a> Recurring<'a> {
    /// The rows of `tokens`, which follow some text; or `prompt` rows that follow one another, without masks.
    pub fn new(gpu: &'a Gpu, set: KernelSet, shape: DeltaShape, tokens: &[Token], prompt: usize) -> Self {
        let of = |token: &Token| Row { position: token.position, mask: token.mask, ..Row::default() };
        let rows: Vec<Row> =
            if tokens.is_empty() { vec![Row::default(); prompt] } else { tokens.iter().map(of).collect() };
        let size = |width: u32| width as usize;
        let heads = size(shape.value_heads);
        let mut rates: Vec<f32> = noise(84, heads).iter().map(|x| -0.1 - x.abs()).collect();
        rates.extend(noise(85, heads));
        let steps = noise(87, rows.len() * heads * 2).iter().map(|x| 0.5 + 0.4 * x).collect();
        // Keys of about length 1, as the rule takes them.
        let unit = (3.0 / shape.key_dim as f32).sqrt();
        Self {
            gpu,
            set,
            shape,
            inputs: noise(81, rows.len() * size(shape.inputs_stride())),
            matrices: noise(82, size(shape.matrices())),
            last: noise(83, size(shape.taps - 1) * size(shape.channels())),
            conv: noise(86, size(shape.taps * shape.channels())),
            rates,
            mixed: noise(88, rows.len() * size(shape.channels())).iter().map(|x| x * unit).collect(),
            steps,
            rows,
        }
    }

    /// The rows that a row's state has been moved on by, itself last.
    fn ancestors(&self, row: usize) -> Vec<usize> {
        let mask = self.rows[row].mask;
        (0..=row).filter(|&earlier| mask == 0 || mask >> earlier & 1 == 1).collect()
    }

    fn channels(&self) -> usize {
        self.shape.channels() as usize
    }

    /// The matrices as the kernels keep them: blocks of four elements of a column lie together.
    fn packed(&self, matrices: &[f64]) -> Vec<f64> {
        let (keys, values) = (self.shape.key_dim as usize, self.shape.value_dim as usize);
        let head = |head: &[f64]| -> Vec<f64> {
            let places = (0..keys / 4).flat_map(|block| (0..values * 4).map(move |at| (4 * block + at % 4, at / 4)));
            places.map(|(key, value)| head[key * values + value]).collect()
        };
        matrices.chunks_exact(keys * values).flat_map(head).collect()
    }

    fn buffers(&self) -> (DeltaBuffers, State) {
        let buffers = DeltaBuffers::new(self.gpu, self.shape, self.rows.len());
        let mut kept: Vec<f32> = self.packed(&wide(&self.matrices)).iter().map(|&x| x as f32).collect();
        kept.extend(&self.last);
        self.gpu.write(&buffers.kept, 0, &kept);
        self.gpu.write(&buffers.inputs, 0, &self.inputs);
        self.gpu.write(&buffers.mixed, 0, &self.mixed);
        self.gpu.write(&buffers.steps, 0, &self.steps);
        (buffers, State { num_rows: self.rows.len() as u32, ..State::default() })
    }

    fn extent(&self) -> Extent {
        Extent { rows: self.rows.len() as u32, logit_rows: 0, keys: 0 }
    }

    fn label(&self) -> String {
        let (rows, prompt) = (self.rows.len(), self.rows[0].mask == 0);
        format!("{} {:?}, {rows} rows{}", self.set, self.shape, if prompt { " of a prompt" } else { "" })
    }

    /// Inputs and steps of all rows.
    pub async fn check_inputs(&self) -> Result<KernelCheck> {
        let Self { gpu, shape, .. } = self;
        let (buffers, state) = self.buffers();
        let (channels, heads, stride) = (self.channels(), shape.value_heads as usize, shape.inputs_stride() as usize);
        let convolved = gpu.storage("convolved", 4 * (self.rows.len() * channels) as u64);
        let io = DeltaInputsIo {
            state: &gpu.storage_with("state", &[state]),
            rows: &gpu.storage_with("rows", &self.rows),
            conv: &gpu.storage_with("conv", &self.conv),
            rates: &gpu.storage_with("rates", &self.rates),
            convolved: &convolved,
        };
        run(gpu, &[&delta_inputs(gpu, &buffers, io)], self.extent());
        let mut got = read::<f32>(gpu, &convolved, self.rows.len() * channels).await?;
        got.extend(read::<f32>(gpu, &buffers.steps, self.steps.len()).await?);

        let weights: Vec<&[f32]> = self.conv.chunks_exact(channels).collect();
        let (mut want, mut steps) = (Vec::new(), Vec::new());
        for row in 0..self.rows.len() {
            let mut inputs: Vec<&[f32]> = self.last.chunks_exact(channels).collect();
            inputs.extend(self.ancestors(row).iter().map(|at| &self.inputs[at * stride..][..channels]));
            want.extend(reference::delta_net::convolved(&inputs[inputs.len() - weights.len()..], &weights));
            let gates = &self.inputs[row * stride..][channels..stride];
            let a = &gates[gates.len() / 2..];
            steps.extend((0..heads).flat_map(|head| {
                reference::delta_net::steps(a[head], gates[head], self.rates[head], self.rates[heads + head])
            }));
        }
        want.extend(steps);
        Ok(compare("delta_inputs", self.label(), &got, &want))
    }

    /// The head's part of a row.
    fn of_head(&self, row: usize, head: usize) -> [&[f32]; 3] {
        let DeltaShape { key_heads, value_heads, key_dim, value_dim, .. } = self.shape;
        let (keys, key_dim, value_dim) = (self.shape.keys() as usize, key_dim as usize, value_dim as usize);
        let row = &self.mixed[row * self.channels()..][..self.channels()];
        let group = if self.shape.tiled { 1 } else { (value_heads / key_heads) as usize };
        let key = head / group % key_heads as usize * key_dim;
        [&row[key..][..key_dim], &row[keys + key..][..key_dim], &row[2 * keys + head * value_dim..][..value_dim]]
    }

    /// What the reference makes of the heads of `row`'s path: deltas and outputs of the row, and the matrices after it.
    fn expected(&self, path: &[usize]) -> [Vec<f64>; 3] {
        let size = (self.shape.key_dim * self.shape.value_dim) as usize;
        let heads = self.shape.value_heads as usize;
        let mut all: [Vec<f64>; 3] = Default::default();
        for head in 0..heads {
            let mut matrix = wide(&self.matrices[head * size..][..size]);
            let mut last = [Vec::new(), Vec::new()];
            for &row in path {
                let step = [0, 1].map(|at| f64::from(self.steps[2 * (row * heads + head) + at]));
                last = reference::delta_net::delta_rule(&mut matrix, self.of_head(row, head), step);
            }
            let [delta, out] = last;
            [delta, out, matrix].into_iter().zip(&mut all).for_each(|(of_head, all)| all.extend(of_head));
        }
        all
    }

    /// The rule over all rows, and the state once those of `path` are committed; without one, once all are.
    pub async fn check_rule(&self, path: Option<&[usize]>) -> Result<KernelCheck> {
        let (gpu, set, values) = (self.gpu, self.set, self.shape.values() as usize);
        let (buffers, state) = self.buffers();
        let out = gpu.storage("out", 4 * (self.rows.len() * values) as u64);
        let state = gpu.storage_with("state", &[state]);
        let io = DeltaRuleIo { state: &state, rows: &gpu.storage_with("rows", &self.rows), out: &out };
        let all: Vec<usize> = (0..self.rows.len()).collect();
        let which = path.unwrap_or(&all);
        let listed: Vec<u32> = std::iter::once(which.len()).chain(which.iter().copied()).map(|n| n as u32).collect();
        let committed = if path.is_some() { Committed::Path } else { Committed::Rows };
        let commit = delta_commit(gpu, &buffers, committed, (&state, &gpu.storage_with("path", &listed)));
        run(gpu, &[&delta_rule(gpu, set, &buffers, io), &commit], self.extent());
        let mut got = read::<f32>(gpu, &buffers.deltas, self.rows.len() * values).await?;
        got.extend(read::<f32>(gpu, &out, self.rows.len() * values).await?);
        got.extend(read::<f32>(gpu, &buffers.kept, self.matrices.len() + self.last.len()).await?);

        let rows = (0..self.rows.len()).map(|row| self.expected(&self.ancestors(row)));
        let (deltas, outs): (Vec<_>, Vec<_>) = rows.map(|[delta, out, _]| (delta, out)).unzip();
        let matrices = if which.is_empty() {
            wide(&self.matrices)
        } else {
            self.expected(which).into_iter().nth(2).unwrap_or_default()
        };
        let mut last: Vec<f64> = wide(&self.last);
        let (channels, stride) = (self.channels(), self.shape.inputs_stride() as usize);
        last.extend(which.iter().flat_map(|row| wide(&self.inputs[row * stride..][..channels])));
        let want =
            [deltas.concat(), outs.concat(), self.packed(&matrices), last.split_off(last.len() - self.last.len())];
        Ok(compare("delta_rule", self.label(), &got, &want.concat()))
    }
}
