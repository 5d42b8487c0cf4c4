//! The weights of a model in the kernels' layout, whatever names and shapes the checkpoint gives them.

use super::lora::Changes;
use super::upload::{Arrangement, Matrix, Placed, Tensor, Uploader, padded};
use crate::format::checkpoint::Checkpoint;
use crate::format::config::ModelConfig;
use crate::format::files::Files;
use crate::format::layouts::tensor_name;
use crate::format::spec::{Attention, BlockRole, BlockSpec, DeltaNet, Mixer, Norm, Part};
use crate::format::tensors::Tensors;
use crate::gpu::{Buffer, Gpu};
use crate::kernels::WeightFormat;
use crate::kernels::weights::TOGETHER;
use crate::{Error, Result};

/// Bytes of a matrix over the vocabulary that are read at a time, unless that were fewer rows than [`PART_ROWS`]: each part is
/// written input by input.
const PART_BYTES: usize = 16 << 20;
const PART_ROWS: usize = 8 << 10;

/// A matrix with its optional bias. The bias is kept per shard.
#[derive(Clone)]
pub(crate) struct Linear {
    pub matrix: Matrix,
    pub bias: Option<Vec<Buffer>>,
}

/// A norm, its scale, and for a LayerNorm its shift.
#[derive(Clone)]
pub(crate) struct NormWeights {
    pub norm: Norm,
    pub scale: Buffer,
    pub shift: Option<Buffer>,
}

/// The weights of a mixer.
#[derive(Clone)]
pub(crate) struct MixerWeights {
    /// Queries, keys and values, heads padded to a multiple of four; of a delta net `b` and `a` behind them, padded too.
    pub input: Linear,
    /// Scales of the norm of query heads, then of key heads: `[2, head_dim]`, padded.
    pub qk_norm: Option<Buffer>,
    /// The gate of what the heads give.
    pub gate: Option<Linear>,
    pub out: Linear,
    /// The weights that only a delta net has.
    pub delta: Option<DeltaWeights>,
}

/// The small weights of a delta net.
#[derive(Clone)]
pub(crate) struct DeltaWeights {
    /// `[taps, channels]`, oldest first.
    pub conv: Buffer,
    /// `[2, value_heads]`: the rate of each head, at most 0, and what is added to `a`.
    pub rates: Buffer,
    /// The scale of the norm of the heads' output, `[value_dim]`.
    pub norm: Buffer,
}

/// One block, of the backbone or of a multi-token head.
#[derive(Clone)]
pub(crate) struct Layer {
    /// The description of what it computes.
    pub spec: BlockSpec,
    pub attention_norm: NormWeights,
    pub mixer: MixerWeights,
    pub mlp_norm: NormWeights,
    /// The norms of what the mixer and the MLP add to the stream, where there are such.
    pub post_norms: Option<[NormWeights; 2]>,
    /// Gate and up in alternating blocks of four when gated.
    pub mlp_in: Linear,
    pub mlp_out: Linear,
}

impl Layer {
    /// The attention of a layer whose mixer is that.
    pub fn attention(&self) -> &Attention {
        self.spec.attention().expect("whoever asks has keys and values, or trains, which other mixers are refused for")
    }

    /// The products.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        let Self { mixer: MixerWeights { input, gate, out, .. }, mlp_in, mlp_out, .. } = self;
        [input, out, mlp_in, mlp_out].into_iter().chain(gate)
    }
}

/// All weights.
#[derive(Clone)]
pub(crate) struct Weights {
    pub embedding: Matrix,
    pub layers: Vec<Layer>,
    /// With the factor of the logits in it.
    pub final_norm: NormWeights,
    /// `None` when tied to the embedding.
    pub lm_head: Option<Matrix>,
}

impl Weights {
    /// The matrices of all blocks.
    pub fn block_matrices(&self) -> impl Iterator<Item = &Matrix> {
        let linears = self.layers.iter().flat_map(Layer::linears);
        linears.map(|linear| &linear.matrix)
    }
}

/// Reads the weights of `checkpoint`, with `changes` to some; at most `vocab_columns` columns of a matrix over the
/// vocabulary in one buffer; matrices are packed in `quantize`, or as they are stored; `on_bytes` hears the size of each tensor, or part of one, as it arrives.
pub(super) async fn load<F: Files>(
    gpu: &Gpu,
    checkpoint: &Checkpoint<'_, F>,
    changes: &Changes,
    (vocab_columns, quantize): (usize, Option<WeightFormat>),
    on_bytes: &mut (dyn FnMut(u64) + Send),
) -> Result<Weights> {
    let config = checkpoint.config();
    let mut loader = Loader::new(gpu, checkpoint.all(), config, on_bytes);
    loader.changes = Some(changes);
    loader.quantize = quantize;
    let spec = &config.spec;
    loader.vocab_columns = vocab_columns;
    let embedding = loader.vocabulary(&config.embedding_name()).await?;
    let mut layers = Vec::with_capacity(spec.blocks.len());
    for (index, block) in spec.blocks.iter().enumerate() {
        layers.push(loader.layer(&config.layer_name(index), block).await?);
    }
    // The LM head is linear: its input is scaled in place of the logits.
    let final_norm = loader.norm_times(config.names.final_norm, spec.final_norm, spec.logit_scale).await?;
    let lm_head = if spec.tied { None } else { Some(loader.vocabulary(&config.lm_head_name()).await?) };
    gpu.flush_writes().await?;
    Ok(Weights { embedding, layers, final_norm, lm_head })
}

/// Reads tensors that are known to be there with the right shapes; for a dry device only what their headers say.
pub(super) struct Loader<'a, 'f, F: Files> {
    tensors: &'a Tensors<'f, F>,
    config: &'a ModelConfig,
    uploader: Uploader<'a>,
    on_bytes: &'a mut (dyn FnMut(u64) + Send),
    changes: Option<&'a Changes>,
    /// The number that is added to the scales of norms.
    pub norm_offset: f32,
    /// The origins of values that are to be trained: then everything is kept in f32.
    pub placed: Option<Vec<Placed>>,
    /// The format in which matrices are packed, unless they are to be trained; `None`: as they are stored.
    pub quantize: Option<WeightFormat>,
    /// Columns of a matrix over the vocabulary that lie in one buffer at most.
    pub vocab_columns: usize,
}

impl<'a, 'f, F: Files> Loader<'a, 'f, F> {
    pub fn new(
        gpu: &'a Gpu,
        tensors: &'a Tensors<'f, F>,
        config: &'a ModelConfig,
        on_bytes: &'a mut (dyn FnMut(u64) + Send),
    ) -> Self {
        let uploader = Uploader::new(gpu);
        Self {
            tensors,
            config,
            uploader,
            on_bytes,
            changes: None,
            norm_offset: 0.0,
            placed: None,
            quantize: None,
            vocab_columns: usize::MAX,
        }
    }

    /// The block like `spec` whose tensors' names begin with `at`.
    pub async fn layer(&mut self, at: &str, spec: &BlockSpec) -> Result<Layer> {
        let (hidden, mlp) = (self.config.hidden_size, &spec.mlp);
        let name = |role| self.config.names.place(role).in_block(at);
        let [mixer_norm, mlp_norm] = [BlockRole::MixerNorm, BlockRole::MlpNorm].map(name);
        let down = name(BlockRole::Down);
        let (mlp_in, mlp_in_arrangement, mlp_in_block) = match mlp.gated {
            true => self.gated(at, spec),
            false => (vec![name(BlockRole::Up)], Arrangement::plain(mlp.inner, hidden), 4),
        };
        Ok(Layer {
            spec: spec.clone(),
            attention_norm: self.norm(&mixer_norm, spec.norm).await?,
            mixer: match &spec.mixer {
                Mixer::Attention(attention) => self.attention(at, attention).await?,
                Mixer::DeltaNet(delta) => self.delta_net(at, delta).await?,
            },
            mlp_norm: self.norm(&mlp_norm, spec.norm).await?,
            post_norms: self.post_norms(at, spec).await?,
            mlp_in: self.linear(&mlp_in, &mlp_in_arrangement, mlp_in_block, mlp.bias).await?,
            mlp_out: self.linear(&[down], &Arrangement::plain(hidden, mlp.inner), 4, mlp.bias).await?,
        })
    }

    async fn attention(&mut self, at: &str, attention: &Attention) -> Result<MixerWeights> {
        let hidden = self.config.hidden_size;
        let (qkv, arrangement) = self.qkv(at, attention);
        let out = self.config.names.place(BlockRole::Output).in_block(at);
        Ok(MixerWeights {
            input: self.linear(&qkv, &arrangement, 4, attention.qkv_bias).await?,
            qk_norm: self.qk_norm(at, attention).await?,
            gate: self.output_gate(at, attention).await?,
            out: self.linear(&[out], &out_arrangement(hidden, attention), 4, attention.out_bias).await?,
            delta: None,
        })
    }

    async fn output_gate(&mut self, at: &str, attention: &Attention) -> Result<Option<Linear>> {
        if !attention.output_gate {
            return Ok(None);
        }
        let (names, arrangement) = self.heads_of(at, attention.head_dim, &[(BlockRole::OutputGate, attention.heads)]);
        self.linear(&names, &arrangement, 4, attention.qkv_bias).await.map(Some)
    }

    async fn delta_net(&mut self, at: &str, delta: &DeltaNet) -> Result<MixerWeights> {
        let hidden = self.config.hidden_size;
        let name = |role| self.config.names.place(role).in_block(at);
        let parts = [
            (BlockRole::DeltaInput, delta.channels()),
            (BlockRole::DeltaBeta, delta.value_heads),
            (BlockRole::DeltaDecay, delta.value_heads),
        ];
        let rows =
            |(tensor, (_, rows)): (usize, (BlockRole, usize))| padded((0..rows).map(move |row| Some((tensor, row))));
        let columns = parts.into_iter().enumerate().flat_map(rows).collect();
        let arrangement = Arrangement { columns, inputs: padded((0..hidden).map(Some)) };
        let [gate, out] = [BlockRole::DeltaGate, BlockRole::DeltaOutput].map(name);
        Ok(MixerWeights {
            input: self.linear(&parts.map(|(role, _)| name(role)), &arrangement, 4, false).await?,
            qk_norm: Some(self.unit_scales(delta).await?),
            gate: Some(self.linear(&[gate], &Arrangement::plain(delta.v_size(), hidden), 4, false).await?),
            out: self.linear(&[out], &Arrangement::plain(hidden, delta.v_size()), 4, false).await?,
            delta: Some(self.small_of_delta_net(at, delta).await?),
        })
    }

    /// Scales that make an RMSNorm of queries and keys one that leaves keys with length 1, and queries with `1 / sqrt(key_dim)`.
    async fn unit_scales(&mut self, delta: &DeltaNet) -> Result<Buffer> {
        let of_keys = 1.0 / (delta.key_dim as f64).sqrt();
        let scales = [of_keys * of_keys, of_keys].map(|scale| vec![scale as f32; delta.key_dim]);
        self.uploader.vector("unit scales", &scales.concat()).await
    }

    async fn small_of_delta_net(&mut self, at: &str, delta: &DeltaNet) -> Result<DeltaWeights> {
        let name = |role, part| tensor_name(&self.config.names.place(role).in_block(at), part);
        let [conv_name, norm_name] = [BlockRole::DeltaConv, BlockRole::DeltaNorm].map(|role| name(role, Part::Weight));
        let [rate, bias] = [BlockRole::DeltaRate, BlockRole::DeltaBias].map(|role| name(role, Part::Itself));
        let conv = self.tensor(&conv_name).await?.to_f32();
        let tap = |tap: usize| conv.iter().copied().skip(tap).step_by(delta.taps);
        let conv: Vec<f32> = (0..delta.taps).flat_map(tap).collect();
        let rates = self.tensor(&rate).await?.to_f32();
        let whole = |&rate: &f32| if delta.whole_rates { rate } else { -f64::from(rate).exp() as f32 };
        let mut rates: Vec<f32> = rates.iter().map(whole).collect();
        rates.extend(self.tensor(&bias).await?.to_f32());
        let norm = self.tensor(&norm_name).await?.to_f32();
        Ok(DeltaWeights {
            conv: self.uploader.vector(&conv_name, &conv).await?,
            rates: self.uploader.vector(&rate, &rates).await?,
            norm: self.uploader.vector(&norm_name, &norm).await?,
        })
    }

    async fn post_norms(&mut self, at: &str, spec: &BlockSpec) -> Result<Option<[NormWeights; 2]>> {
        if !spec.post_norm {
            return Ok(None);
        }
        let names = [BlockRole::MixerPostNorm, BlockRole::MlpPostNorm];
        let [mixer, mlp] = names.map(|role| self.config.names.place(role).in_block(at));
        Ok(Some([self.norm(&mixer, spec.norm).await?, self.norm(&mlp, spec.norm).await?]))
    }

    /// The products of the block `at` that give queries, keys and values, each once, and how they are joined.
    pub fn qkv(&self, at: &str, attention: &Attention) -> (Vec<String>, Arrangement) {
        let Attention { heads, kv_heads, head_dim, .. } = *attention;
        let parts = [(BlockRole::Query, heads), (BlockRole::Key, kv_heads), (BlockRole::Value, kv_heads)];
        self.heads_of(at, head_dim, &parts)
    }

    /// The products of the block `at` that give so many heads of each role, each once, and how they are joined.
    fn heads_of(&self, at: &str, head_dim: usize, parts: &[(BlockRole, usize)]) -> (Vec<String>, Arrangement) {
        let names = self.config.names;
        let rows = |role| parts.iter().filter(|(other, _)| *other == role).map(|(_, heads)| heads * head_dim).sum();
        let mut products: Vec<&str> = Vec::new();
        let mut columns = Vec::new();
        for &(role, heads) in parts {
            let place = names.place(role);
            let known = products.iter().position(|product| *product == place.name());
            let tensor = known.unwrap_or(products.len());
            if known.is_none() {
                products.push(place.name());
            }
            for head in 0..heads {
                let first = place.first_row(rows, head, head_dim);
                columns.extend(padded((first..first + head_dim).map(|row| Some((tensor, row)))));
            }
        }
        let products = products.into_iter().map(|product| format!("{at}.{product}")).collect();
        (products, Arrangement { columns, inputs: padded((0..self.config.hidden_size).map(Some)) })
    }

    /// The products of the block `at` that give gate and up, each once, how they are joined, and in blocks of how many columns.
    fn gated(&self, at: &str, spec: &BlockSpec) -> (Vec<String>, Arrangement, usize) {
        let places = [BlockRole::Gate, BlockRole::Up].map(|role| self.config.names.place(role));
        let mut products: Vec<String> = places.map(|place| place.in_block(at)).into();
        products.dedup();
        let [gate, up] = places.map(|place| place.first_row(|_| spec.mlp.inner, 0, 0));
        let parts = [(0, gate), (products.len() - 1, up)];
        (products, gated_arrangement(spec.mlp.inner, self.config.hidden_size, parts), 8)
    }

    /// The scales of a block's norms of query and key heads.
    async fn qk_norm(&mut self, at: &str, attention: &Attention) -> Result<Option<Buffer>> {
        let Some(norm) = attention.qk_norm else { return Ok(None) };
        let names = [BlockRole::QueryNorm, BlockRole::KeyNorm].map(|role| self.config.names.place(role).in_block(at));
        let names = names.map(|name| tensor_name(&name, Part::Weight));
        let mut values = Vec::new();
        for name in &names {
            let scale = self.scale(name, norm.offset).await?;
            values.extend(padded(scale.into_iter().map(Some)).into_iter().map(Option::unwrap_or_default));
        }
        let buffer = self.uploader.vector(&names[0], &values).await?;
        let rows = |tensor| padded((0..attention.head_dim).map(move |row| Some((tensor, row))));
        let columns = [rows(0), rows(1)].concat();
        let tensors = names.map(|name| (name, vec![attention.head_dim])).into();
        self.note_origin(&buffer, tensors, Arrangement { columns, inputs: vec![Some(0)] });
        Ok(Some(buffer))
    }

    pub async fn tensor(&mut self, name: &str) -> Result<Tensor<'f>> {
        let info = self.tensors.get(name).expect("the caller has seen every tensor that it expects");
        if let Some(tensor) = self.changes.and_then(|changes| changes.instead_of(name)) {
            (self.on_bytes)(info.byte_len());
            return Ok(tensor.clone());
        }
        if self.uploader.is_dry() {
            return Ok(Tensor::dry(info));
        }
        let bytes = self.tensors.read(info).await?;
        (self.on_bytes)(info.byte_len());
        Tensor::new(info, bytes)
    }

    pub async fn matrix(&mut self, names: &[&str], arrangement: &Arrangement, block: usize) -> Result<Matrix> {
        let mut tensors = Vec::with_capacity(names.len());
        for name in names {
            let tensor = self.tensor(name).await?;
            tensors.push(match self.changes.and_then(|changes| changes.of(name)) {
                Some(change) => change.apply(name, &tensor)?,
                None => tensor,
            });
        }
        if self.placed.is_none() {
            return self.uploader.matrix(names[0], tensors, arrangement, block, self.quantize).await;
        }
        let tensors: Vec<_> = tensors.into_iter().map(Tensor::widened).collect();
        let shapes = tensors.iter().map(Tensor::shape).zip(names).map(|(shape, name)| ((*name).to_owned(), shape));
        let shapes = shapes.collect();
        let matrix = self.uploader.matrix(names[0], tensors, arrangement, block, None).await?;
        let [shard] = &matrix.shards[..] else {
            return Err(Error::unsupported(format!("{}: too large a matrix to be trained on this adapter", names[0])));
        };
        let buffer = shard.buffer.clone();
        self.note(Placed { buffer, tensors: shapes, arrangement: arrangement.clone(), together: TOGETHER });
        Ok(matrix)
    }

    /// A matrix over the vocabulary, `[vocab, hidden]`. It can be far larger than any other, and comes in parts: a browser's
    /// wasm would keep the memory for the whole of it for good.
    pub async fn vocabulary(&mut self, name: &str) -> Result<Matrix> {
        let (vocab, hidden) = (self.config.vocab_size, self.config.hidden_size);
        let info = self.tensors.get(name).expect("the caller has seen every tensor that it expects");
        let plain = Arrangement::plain(vocab, hidden);
        let format = self.quantize.unwrap_or(WeightFormat::of(info.dtype));
        let matrix = self.uploader.reserve(name, format, &plain, 4, self.vocab_columns)?;
        if self.uploader.is_dry() {
            return Ok(matrix);
        }
        let rows = (PART_BYTES / info.dtype.bytes_of(hidden)).max(PART_ROWS).next_multiple_of(4);
        for first in (0..vocab).step_by(rows) {
            let part = first..vocab.min(first + rows);
            let arrangement = Arrangement::plain(part.len(), hidden);
            let bytes = self.tensors.read_rows(info, part).await?;
            (self.on_bytes)(bytes.len() as u64);
            self.uploader.fill(&matrix, first, &[Tensor::new(info, bytes)?], &arrangement).await?;
        }
        Ok(matrix)
    }

    /// A vector on the GPU.
    pub async fn vector(&mut self, name: &str, values: &[f32]) -> Result<Buffer> {
        self.uploader.vector(name, values).await
    }

    /// Notes where the values of `buffer` came from, if that is wanted; `[inputs, columns]`.
    pub fn note_origin(&mut self, buffer: &Buffer, tensors: Vec<(String, Vec<usize>)>, arrangement: Arrangement) {
        self.note(Placed { buffer: buffer.clone(), tensors, arrangement, together: 1 });
    }

    fn note(&mut self, placed: Placed) {
        if let Some(all) = &mut self.placed {
            all.push(placed);
        }
    }

    /// A vector whose elements are the rows of the only tensor.
    pub fn note_origin_of_vector(&mut self, buffer: &Buffer, name: String, count: usize) {
        let columns = padded((0..count).map(|row| Some((0, row))));
        self.note_origin(buffer, vec![(name, vec![count])], Arrangement { columns, inputs: vec![Some(0)] });
    }

    pub async fn linear(
        &mut self,
        names: &[String],
        arrangement: &Arrangement,
        block: usize,
        bias: bool,
    ) -> Result<Linear> {
        let weights: Vec<String> = names.iter().map(|name| tensor_name(name, Part::Weight)).collect();
        let weights: Vec<&str> = weights.iter().map(String::as_str).collect();
        let matrix = self.matrix(&weights, arrangement, block).await?;
        let bias = if bias { Some(self.bias(names, arrangement, &matrix).await?) } else { None };
        Ok(Linear { matrix, bias })
    }

    async fn bias(&mut self, names: &[String], arrangement: &Arrangement, matrix: &Matrix) -> Result<Vec<Buffer>> {
        let mut tensors = Vec::with_capacity(names.len());
        for name in names {
            tensors.push(self.tensor(&tensor_name(name, Part::Bias)).await?.to_f32());
        }
        let value = |column: &Option<(usize, usize)>| column.map_or(0.0, |(tensor, row)| tensors[tensor][row]);
        let values: Vec<f32> = arrangement.columns.iter().map(value).collect();
        let part = |first4: u32, columns4: u32| &values[first4 as usize * 4..][..columns4 as usize * 4];
        let mut buffers = Vec::with_capacity(matrix.shards.len());
        for shard in &matrix.shards {
            buffers.push(self.uploader.vector("bias", part(shard.first4, shard.columns4)).await?);
        }
        let shapes =
            tensors.iter().zip(names).map(|(tensor, name)| (tensor_name(name, Part::Bias), vec![tensor.len()]));
        let arrangement = Arrangement { columns: arrangement.columns.clone(), inputs: vec![Some(0)] };
        self.note_origin(&buffers[0], shapes.collect(), arrangement);
        Ok(buffers)
    }

    /// The scale of a norm. What is added to it, by the model or by the layout of its heads, is never added twice.
    async fn scale(&mut self, name: &str, offset: f32) -> Result<Vec<f32>> {
        let mut scale = self.tensor(name).await?.to_f32();
        let offset = offset.max(self.norm_offset);
        scale.iter_mut().for_each(|scale| *scale += offset);
        Ok(scale)
    }

    pub async fn norm(&mut self, name: &str, norm: Norm) -> Result<NormWeights> {
        self.norm_times(name, norm, 1.0).await
    }

    /// A norm, and its result `times` a number.
    async fn norm_times(&mut self, name: &str, norm: Norm, times: f32) -> Result<NormWeights> {
        let mut scale = self.scale(&tensor_name(name, Part::Weight), norm.offset()).await?;
        scale.iter_mut().for_each(|scale| *scale *= times);
        let count = scale.len();
        let scale = self.uploader.vector(name, &scale).await?;
        self.note_origin_of_vector(&scale, tensor_name(name, Part::Weight), count);
        if !norm.is_layer() {
            return Ok(NormWeights { norm, scale, shift: None });
        }
        let mut shift = self.tensor(&tensor_name(name, Part::Bias)).await?.to_f32();
        shift.iter_mut().for_each(|shift| *shift *= times);
        let shift = self.uploader.vector(name, &shift).await?;
        self.note_origin_of_vector(&shift, tensor_name(name, Part::Bias), count);
        Ok(NormWeights { norm, scale, shift: Some(shift) })
    }
}

/// All rows; inputs are the heads' values, each head padded.
fn out_arrangement(hidden: usize, attention: &Attention) -> Arrangement {
    let size = attention.head_dim;
    let inputs = (0..attention.heads).flat_map(|head| padded((0..size).map(move |d| Some(head * size + d)))).collect();
    Arrangement { columns: padded((0..hidden).map(|row| Some((0, row)))), inputs }
}

/// Four rows of the gate, the same four of the up projection, and so on; each of the two by its tensor and first row.
fn gated_arrangement(inner: usize, hidden: usize, parts: [(usize, usize); 2]) -> Arrangement {
    let place = |(tensor, first): (usize, usize), row| (row < inner).then_some((tensor, first + row));
    let four = |first| parts.into_iter().flat_map(move |part| (first..first + 4).map(move |row| place(part, row)));
    let columns = (0..inner).step_by(4).flat_map(four).collect();
    Arrangement { columns, inputs: padded((0..hidden).map(Some)) }
}
