//! Each kernel by itself: the bytes that it must move over the time that it takes, beside what reading alone reaches.

use serde::Serialize;

use super::stopwatch::{Spread, Stopwatch};
use crate::Result;
use crate::decode::Sampling;
use crate::gpu::{Buffer, Gpu};
use crate::kernels::weights::Shape;
use crate::kernels::{
    AttentionIo, AttentionShape, BENCH_READ_BYTES, Cursor, Extent, KernelSet, LogProbsIo, LogProbsParams, MatmulForm,
    MatmulIo, MixtureIo, NormIo, NormalizerIo, NucleusIo, NucleusParams, Op, Over, Row, SampleIo, Scoring, State,
    WeightFormat, Widths, attention_scores, attention_softmax, attention_values, bench_copy, bench_read, log_probs,
    matmul, mixture, norm, normalizer, nucleus, sample,
};
use crate::self_test::bench::{noise, weights};

/// How fast a kernel is.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct KernelRate {
    /// The kernel, the format of its weights and its size.
    pub kernel: String,
    /// Rows at a time.
    pub rows: u32,
    /// Seconds of a dispatch.
    pub seconds: Spread,
    /// Bytes a second: what the kernel must read and write, each once.
    pub bytes: Spread,
    /// `bytes` over what reading alone reaches.
    pub share_of_read: f64,
    /// Multiplications and additions a second, of products.
    pub flops: Option<f64>,
}

/// Bytes a second of reading and of copying.
pub(super) async fn memory(gpu: &Gpu, watch: &Stopwatch<'_>) -> Result<(Spread, Spread)> {
    let scale = Scale::of(gpu, false);
    let buffers: Vec<_> = (0..scale.buffers).map(|_| scattered(gpu, scale.buffer_bytes)).collect();
    let sums = gpu.storage("sums", BENCH_READ_BYTES);
    let copied = gpu.storage("copied", scale.buffer_bytes);
    let reads: Vec<Op> = buffers.iter().map(|buffer| bench_read(gpu, buffer, &sums)).collect();
    let copies: Vec<Op> = buffers.iter().map(|buffer| bench_copy(gpu, buffer, &copied)).collect();
    let bytes = (scale.buffers as u64 * scale.buffer_bytes) as f64;
    let read = time(watch, &reads, extent(1, 0)).await?.rate(bytes);
    let copy = time(watch, &copies, extent(1, 0)).await?.rate(2.0 * bytes);
    Ok((read, copy))
}

/// The rates of the kernels that take time.
pub(super) async fn rates(
    gpu: &Gpu,
    set: KernelSet,
    watch: &Stopwatch<'_>,
    read: f64,
    quick: bool,
    progress: &mut dyn FnMut(&str),
) -> Result<Vec<KernelRate>> {
    let scale = Scale::of(gpu, quick);
    let mut bench = KernelBench { gpu, set, watch, read, scale, rates: Vec::new() };
    for format in WeightFormat::all() {
        // Every width of the formats that most models have.
        let usual = ["F32", "F16", "Q8_0", "Q4_0", "Q4_K", "Q6_K"].contains(&format.name());
        if quick && !usual {
            continue;
        }
        progress(&format!("products with {format} weights"));
        bench.products(format, if quick || !usual { &[1] } else { &[1, 2, 4, 8, 32, 64] }).await?;
    }
    progress("attention, norm, probabilities and sampling");
    bench.attention().await?;
    bench.norm().await?;
    bench.vocabulary().await?;
    Ok(bench.rates)
}

/// How much data a measurement moves. On a GPU it must exceed the caches.
struct Scale {
    /// Bytes of a buffer of f32 weights.
    buffer_bytes: u64,
    /// Buffers to go through in turn.
    buffers: usize,
    attention: AttentionShape,
    vocab: u32,
}

impl Scale {
    fn of(gpu: &Gpu, quick: bool) -> Self {
        let shape = |heads, head_dim, context| AttentionShape::new(heads, heads, head_dim, context);
        match (gpu.summary().software, quick) {
            (false, false) => {
                Self { buffer_bytes: 128 << 20, buffers: 2, attention: shape(32, 128, 4096), vocab: 128_000 }
            }
            (true, false) => Self { buffer_bytes: 32 << 20, buffers: 1, attention: shape(8, 64, 1024), vocab: 32_000 },
            (_, true) => Self { buffer_bytes: 8 << 20, buffers: 1, attention: shape(2, 64, 256), vocab: 2000 },
        }
    }
}

struct KernelBench<'a> {
    gpu: &'a Gpu,
    set: KernelSet,
    watch: &'a Stopwatch<'a>,
    read: f64,
    scale: Scale,
    rates: Vec<KernelRate>,
}

impl KernelBench<'_> {
    /// Times `ops`, which move `bytes` together, and keeps the rate.
    async fn rate(&mut self, kernel: String, ops: &[Op], extent: Extent, bytes: f64, flops: Option<f64>) -> Result<()> {
        let seconds = time(self.watch, ops, extent).await?;
        self.rates.push(KernelRate {
            kernel,
            rows: extent.rows,
            seconds: seconds.times(1.0 / ops.len() as f64),
            bytes: seconds.rate(bytes),
            share_of_read: bytes / seconds.median / self.read,
            flops: flops.map(|flops| flops / seconds.median),
        });
        Ok(())
    }

    /// Products of `widths` rows with weights of `format`, 8192 columns wide.
    async fn products(&mut self, format: WeightFormat, widths: &[u32]) -> Result<()> {
        const COLUMNS4: u32 = 2048;
        let elements = self.scale.buffer_bytes / 4;
        let inputs4 = (elements / u64::from(COLUMNS4) / 16) as u32;
        // About as many bytes in every format.
        let shape = Shape { inputs: 4 * inputs4 as usize, columns: 4 * COLUMNS4 as usize };
        let bytes = format.bytes(shape);
        let copies = (self.scale.buffers as u64 * WeightFormat::F32.bytes(shape) / bytes) as usize;
        let state = self.gpu.storage_with("state", &[State::default()]);
        let x = self.gpu.storage_with("x", &noise(1, 64 * 4 * inputs4 as usize));
        let y = self.gpu.storage("y", 64 * 16 * u64::from(COLUMNS4));
        let tile = noise(2, 1 << 16);
        let values: Vec<f32> = tile.iter().copied().cycle().take(elements as usize).collect();
        let form = MatmulForm::plain(self.set, Widths::Each, format, COLUMNS4);
        let op = |_| {
            let io = MatmulIo {
                state: &state,
                x: &x,
                weight: &weights(self.gpu, &values, shape.inputs, format),
                y: &y,
                bias: None,
                softcap: None,
                columns4: COLUMNS4,
                inputs4,
                x_stride4: inputs4,
                y_stride4: COLUMNS4,
                y_first4: 0,
                over: Over::Rows,
            };
            matmul(self.gpu, form, io)
        };
        let ops: Vec<Op> = (0..copies).map(op).collect();
        let weights = elements as f64 * copies as f64;
        for &rows in widths {
            let name = format!("product {format} {} -> {}", 4 * inputs4, 4 * COLUMNS4);
            let flops = 2.0 * f64::from(rows) * weights;
            self.rate(name, &ops, extent(rows, 0), (copies as u64 * bytes) as f64, Some(flops)).await?;
        }
        Ok(())
    }

    /// The three kernels of attention for one row that sees the whole context.
    async fn attention(&mut self) -> Result<()> {
        let (gpu, set, shape) = (self.gpu, self.set, self.scale.attention);
        let keys = shape.context;
        let last = Row { position: keys - 1, ..Row::default() };
        let state = gpu.storage_with("state", &[State { committed: keys - 1, ..State::default() }]);
        let rows = gpu.storage_with("rows", &[last]);
        let qkv = gpu.storage_with("qkv", &noise(3, shape.qkv_stride() as usize));
        let [k, v] = [(), ()].map(|()| scattered(gpu, shape.cache_bytes()));
        let scores = gpu.storage("scores", 4 * u64::from(shape.heads * keys));
        let sums = gpu.storage("inverse_sums", 4 * u64::from(shape.heads));
        let out = gpu.storage("out", 4 * u64::from(shape.out_stride()));
        let io = AttentionIo {
            state: &state,
            rows: &rows,
            qkv: &qkv,
            keys: &k,
            values: &v,
            scores: &scores,
            inverse_sums: &sums,
            out: &out,
        };
        let parts = [
            ("scores", attention_scores(gpu, shape, Scoring { scale: 0.1, softcap: None }, io), 0.0, 1.0),
            ("softmax", attention_softmax(gpu, set, shape, io), 2.0, 0.0),
            ("values", attention_values(gpu, set, shape, io), 0.0, 1.0),
        ];
        let score_bytes = f64::from(shape.heads * keys) * 4.0;
        for (part, op, scores, cache) in parts {
            let name = format!("attention {part}, {keys} keys, {} heads of {}", shape.heads, shape.head_dim);
            let bytes = scores * score_bytes + cache * (score_bytes + shape.cache_bytes() as f64);
            self.rate(name, &[op], extent(1, keys), bytes, None).await?;
        }
        Ok(())
    }

    async fn norm(&mut self) -> Result<()> {
        const WIDTH: u32 = 4096;
        let values = WIDTH as usize * 64;
        let state = self.gpu.storage_with("state", &[State::default()]);
        let x = self.gpu.storage_with("x", &noise(4, values));
        let y = self.gpu.storage("y", 4 * values as u64);
        let scale = self.gpu.storage_with("scale", &noise(5, WIDTH as usize));
        let io = NormIo { state: &state, x: &x, y: &y, scale: &scale, shift: None, over: Over::Rows };
        let op = [norm(self.gpu, self.set, WIDTH, WIDTH, 1e-5, io)];
        for rows in [1, 64] {
            let bytes = 8.0 * f64::from(WIDTH) * f64::from(rows);
            self.rate(format!("RMSNorm of {WIDTH}"), &op, extent(rows, 0), bytes, None).await?;
        }
        Ok(())
    }

    /// Measures the kernels that go over the logits, counted as one read of them.
    async fn vocabulary(&mut self) -> Result<()> {
        let (gpu, vocab) = (self.gpu, self.scale.vocab);
        let rows = gpu.storage_with("rows", &[Row::default(); 32]);
        let logits = gpu.storage_with("logits", &noise(6, 32 * vocab as usize));
        let found = gpu.storage("log_probs", 4 * 32);
        let row_bytes = 4.0 * f64::from(vocab);
        let io = LogProbsIo { rows: &rows, logits: &logits, log_probs: &found };
        let op = log_probs(gpu, self.set, LogProbsParams { vocab, stride: vocab }, io);
        self.rate(format!("log_probs of {vocab}"), &[op], extent(32, 0), 32.0 * row_bytes, None).await?;
        self.marginals(&rows, &logits).await?;
        let filtered = Sampling { temperature: 1.0, top_k: 40, top_p: 0.9, ..Sampling::default() };
        for (name, sampling) in [("greedy", Sampling::default()), ("top-k and top-p", filtered)] {
            let io = SampleIo {
                params: &gpu.uniform("sample", &sampling.params(vocab, vocab)),
                state: &gpu.storage_with("state", &[State::default()]),
                rows: &rows,
                logits: &logits,
                probabilities: &gpu.storage("probabilities", 4 * 32 * u64::from(vocab)),
                counts: &gpu.storage("counts", 4 * u64::from(vocab)),
                sampled: &gpu.storage("sampled", 4 * 32),
            };
            self.rate(format!("sample {name} of {vocab}"), &[sample(gpu, self.set, io)], extent(1, 0), row_bytes, None)
                .await?;
        }
        Ok(())
    }
}

impl KernelBench<'_> {
    /// Measures what marginals take beyond forward passes: nuclei of 99 %, and mixtures of rows.
    async fn marginals(&mut self, rows: &Buffer, logits: &Buffer) -> Result<()> {
        let (gpu, set, vocab) = (self.gpu, self.set, self.scale.vocab);
        let params = NucleusParams { vocab, stride: vocab, mass: 0.99, most: vocab, capacity: vocab, pad: [0; 3] };
        let state = &gpu.storage_with("state", &[State { num_rows: 32, ..State::default() }]);
        let values = |label: &str, each: u64| gpu.storage(label, each * u64::from(vocab));
        let io = NucleusIo {
            params: &gpu.uniform("nucleus", &params),
            state,
            rows,
            logits,
            probabilities: &values("probabilities", 4),
            nuclei: &gpu.storage("nuclei", 32),
            branches: &values("branches", 8),
        };
        let row_bytes = 4.0 * f64::from(vocab);
        self.rate(format!("nucleus of {vocab}"), &[nucleus(gpu, set, io)], extent(1, 0), row_bytes, None).await?;
        let (row_weights, normalizers) = (gpu.storage_with("row weights", &[0.03f32; 32]), gpu.storage("n", 8 * 32));
        let io = MixtureIo {
            state,
            cursor: &gpu.storage("cursor", size_of::<Cursor>() as u64),
            normalizers: &normalizers,
            logits,
            parts: &values("parts", 8),
            mixture: &values("mixture", 4),
        };
        let kept = MatmulForm::plain(set, Widths::Fixed, WeightFormat::F32, vocab / 4).partials(vocab / 4);
        let partials = gpu.storage("partials", 8 * 32 * u64::from(kept));
        let sums = NormalizerIo { row_weights: &row_weights, partials: &partials, normalizers: &normalizers };
        let ops = [normalizer(gpu, set, kept, sums), mixture(gpu, vocab, io)];
        let seconds = time(self.watch, &ops, extent(32, 0)).await?;
        let bytes = 32.0 * (row_bytes + 8.0 * f64::from(kept));
        self.rates.push(KernelRate {
            kernel: format!("normalizer and mixture of {vocab}"),
            rows: 32,
            seconds,
            bytes: seconds.rate(bytes),
            share_of_read: bytes / seconds.median / self.read,
            flops: None,
        });
        Ok(())
    }
}

async fn time(watch: &Stopwatch<'_>, ops: &[Op], extent: Extent) -> Result<Spread> {
    watch.time(|recorder| ops.iter().for_each(|op| op.record(recorder, extent))).await
}

fn extent(rows: u32, keys: u32) -> Extent {
    Extent { rows, logit_rows: rows, keys }
}

/// A buffer of small numbers.
fn scattered(gpu: &Gpu, bytes: u64) -> Buffer {
    let tile = noise(9, 1 << 16);
    gpu.storage_with("scattered", &tile.iter().copied().cycle().take(bytes as usize / 4).collect::<Vec<_>>())
}
