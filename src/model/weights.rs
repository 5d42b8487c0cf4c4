//! The weights of a model in the kernels' layout, whatever names and shapes the checkpoint gives them.

use super::lora::Changes;
use super::upload::{Arrangement, Matrix, Placed, Tensor, Uploader, padded};
use crate::format::checkpoint::Checkpoint;
use crate::format::config::{Family, ModelConfig};
use crate::format::files::Files;
use crate::format::tensors::Tensors;
use crate::gpu::Gpu;
use crate::kernels::WeightFormat;
use crate::{Error, Result};

/// Bytes of a matrix over the vocabulary that are read at a time, unless that were fewer rows than [`PART_ROWS`]: each part is
/// written input by input.
const PART_BYTES: usize = 16 << 20;
const PART_ROWS: usize = 8 << 10;

/// A matrix with its optional bias. The bias is kept per shard.
pub(crate) struct Linear {
    pub matrix: Matrix,
    pub bias: Option<Vec<wgpu::Buffer>>,
}

/// Scale, and for LayerNorm shift, of a norm.
pub(crate) struct NormWeights {
    pub scale: wgpu::Buffer,
    pub shift: Option<wgpu::Buffer>,
}

/// One block of the backbone.
pub(crate) struct Layer {
    pub attention_norm: NormWeights,
    /// Queries, keys and values; heads padded to a multiple of four.
    pub qkv: Linear,
    pub out: Linear,
    pub mlp_norm: NormWeights,
    /// Gate and up in alternating blocks of four when gated.
    pub mlp_in: Linear,
    pub mlp_out: Linear,
}

/// All weights.
pub(crate) struct Weights {
    pub embedding: Matrix,
    pub layers: Vec<Layer>,
    pub final_norm: NormWeights,
    /// `None` when tied to the embedding.
    pub lm_head: Option<Matrix>,
}

impl Weights {
    /// The matrices of all blocks.
    pub fn block_matrices(&self) -> impl Iterator<Item = &Matrix> {
        let linears = self.layers.iter().flat_map(|layer| [&layer.qkv, &layer.out, &layer.mlp_in, &layer.mlp_out]);
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
    let (embedding, head) = (config.embedding_name(), config.lm_head_name());
    loader.vocab_columns = vocab_columns;
    let embedding = loader.vocabulary(embedding).await?;
    let mut layers = Vec::with_capacity(config.num_hidden_layers);
    for index in 0..config.num_hidden_layers {
        layers.push(loader.layer(&config.layer_name(index)).await?);
    }
    let final_norm = match config.family {
        Family::Llama => loader.norm("model.norm").await?,
        Family::GptNeox => loader.norm("gpt_neox.final_layer_norm").await?,
    };
    let lm_head = if config.tie_word_embeddings { None } else { Some(loader.vocabulary(head).await?) };
    gpu.flush_writes();
    gpu.check()?;
    Ok(Weights { embedding, layers, final_norm, lm_head })
}

/// Reads tensors that are known to be there with the right shapes.
pub(super) struct Loader<'a, 'f, F: Files> {
    tensors: &'a Tensors<'f, F>,
    config: &'a ModelConfig,
    uploader: Uploader<'a>,
    on_bytes: &'a mut (dyn FnMut(u64) + Send),
    changes: Option<&'a Changes>,
    /// What is added to the scales of norms.
    pub norm_offset: f32,
    /// To be trained: everything is kept in f32, and this remembers where it came from.
    pub placed: Option<Vec<Placed>>,
    /// What matrices are packed in, unless they are to be trained; `None`: as they are stored.
    pub quantize: Option<WeightFormat>,
    /// At most so many columns of a matrix over the vocabulary lie in one buffer.
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

    /// The layer whose tensors' names begin with `at`.
    pub async fn layer(&mut self, at: &str) -> Result<Layer> {
        match self.config.family {
            Family::Llama => self.llama_layer(at).await,
            Family::GptNeox => self.gpt_neox_layer(at).await,
        }
    }

    async fn llama_layer(&mut self, at: &str) -> Result<Layer> {
        let config = self.config;
        let (qkv, qkv_arrangement) = self.qkv(at);
        let attention = |part: &str| format!("{at}.self_attn.{part}");
        let mlp = |part: &str| format!("{at}.mlp.{part}");
        Ok(Layer {
            attention_norm: self.norm(&format!("{at}.input_layernorm")).await?,
            qkv: self.linear(&qkv, &qkv_arrangement, 4, config.attention_bias).await?,
            out: self.linear(&[attention("o_proj")], &self.out_arrangement(), 4, config.attention_bias).await?,
            mlp_norm: self.norm(&format!("{at}.post_attention_layernorm")).await?,
            mlp_in: self
                .linear(&[mlp("gate_proj"), mlp("up_proj")], &self.gated_arrangement(), 8, config.mlp_bias)
                .await?,
            mlp_out: self
                .linear(
                    &[mlp("down_proj")],
                    &Arrangement::plain(config.hidden_size, config.intermediate_size),
                    4,
                    config.mlp_bias,
                )
                .await?,
        })
    }

    async fn gpt_neox_layer(&mut self, at: &str) -> Result<Layer> {
        let config = self.config;
        let (qkv, qkv_arrangement) = self.qkv(at);
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        Ok(Layer {
            attention_norm: self.norm(&format!("{at}.input_layernorm")).await?,
            qkv: self.linear(&qkv, &qkv_arrangement, 4, config.attention_bias).await?,
            out: self
                .linear(&[format!("{at}.attention.dense")], &self.out_arrangement(), 4, config.attention_bias)
                .await?,
            mlp_norm: self.norm(&format!("{at}.post_attention_layernorm")).await?,
            mlp_in: self
                .linear(&[format!("{at}.mlp.dense_h_to_4h")], &Arrangement::plain(inner, hidden), 4, config.mlp_bias)
                .await?,
            mlp_out: self
                .linear(&[format!("{at}.mlp.dense_4h_to_h")], &Arrangement::plain(hidden, inner), 4, config.mlp_bias)
                .await?,
        })
    }

    /// The products of the layer `at` that give queries, keys and values, and how they are joined.
    pub fn qkv(&self, at: &str) -> (Vec<String>, Arrangement) {
        let config = self.config;
        let (heads, kv_heads, size) = (config.num_attention_heads, config.num_key_value_heads, config.head_dim);
        let names = config.adaptable().into_iter().map(|(name, _)| format!("{at}.{name}")).collect();
        let rows: Vec<(usize, usize)> = match config.family {
            Family::Llama => {
                let each = |tensor: usize, count: usize| (0..count).map(move |head| (tensor, head * size));
                each(0, heads).chain(each(1, kv_heads)).chain(each(2, kv_heads)).collect()
            }
            // The fused rows run head by head: its queries, its keys, its values.
            Family::GptNeox => {
                (0..3).flat_map(|part| (0..heads).map(move |head| (0, (head * 3 + part) * size))).collect()
            }
        };
        (names, self.qkv_arrangement(&rows))
    }

    /// Columns of the heads that start at `(tensor, row)`, each padded to a multiple of four.
    fn qkv_arrangement(&self, heads: &[(usize, usize)]) -> Arrangement {
        let size = self.config.head_dim;
        let columns =
            heads.iter().flat_map(|&(tensor, row)| padded((0..size).map(move |d| Some((tensor, row + d))))).collect();
        Arrangement { columns, inputs: padded((0..self.config.hidden_size).map(Some)) }
    }

    /// All rows; inputs are the heads' values, each head padded.
    fn out_arrangement(&self) -> Arrangement {
        let (heads, size) = (self.config.num_attention_heads, self.config.head_dim);
        let inputs = (0..heads).flat_map(|head| padded((0..size).map(move |d| Some(head * size + d)))).collect();
        Arrangement { columns: padded((0..self.config.hidden_size).map(|row| Some((0, row)))), inputs }
    }

    /// Four rows of the gate, the same four of the up projection, and so on.
    fn gated_arrangement(&self) -> Arrangement {
        let inner = self.config.intermediate_size;
        let row = |tensor, row| (row < inner).then_some((tensor, row));
        let columns = (0..inner).step_by(4).flat_map(|first| (0..8).map(move |i| row(i / 4, first + i % 4))).collect();
        Arrangement { columns, inputs: padded((0..self.config.hidden_size).map(Some)) }
    }

    pub async fn tensor(&mut self, name: &str) -> Result<Tensor<'f>> {
        let info = self.tensors.get(name).expect("the caller has seen every tensor that it expects");
        if let Some(tensor) = self.changes.and_then(|changes| changes.instead_of(name)) {
            (self.on_bytes)(info.byte_len());
            return Ok(tensor.clone());
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
            return self.uploader.matrix(names[0], tensors, arrangement, block, self.quantize);
        }
        let tensors: Vec<_> = tensors.into_iter().map(Tensor::widened).collect();
        let shapes = tensors.iter().map(Tensor::shape).zip(names).map(|(shape, name)| ((*name).to_owned(), shape));
        let shapes = shapes.collect();
        let matrix = self.uploader.matrix(names[0], tensors, arrangement, block, None)?;
        let [shard] = &matrix.shards[..] else {
            return Err(Error::unsupported(format!("{}: too large a matrix to be trained on this adapter", names[0])));
        };
        self.note_origin(&shard.buffer, shapes, arrangement.clone());
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
        let rows = (PART_BYTES / (hidden * info.dtype.size_bytes())).max(PART_ROWS).next_multiple_of(4);
        for first in (0..vocab).step_by(rows) {
            let part = first..vocab.min(first + rows);
            let arrangement = Arrangement::plain(part.len(), hidden);
            let bytes = self.tensors.read_rows(info, part).await?;
            (self.on_bytes)(bytes.len() as u64);
            self.uploader.fill(&matrix, first, &[Tensor::new(info, bytes)?], &arrangement)?;
        }
        Ok(matrix)
    }

    /// A vector on the GPU.
    pub fn vector(&mut self, name: &str, values: &[f32]) -> wgpu::Buffer {
        self.uploader.vector(name, values)
    }

    /// Notes where the values of `buffer` came from, if that is wanted.
    pub fn note_origin(&mut self, buffer: &wgpu::Buffer, tensors: Vec<(String, Vec<usize>)>, arrangement: Arrangement) {
        if let Some(placed) = &mut self.placed {
            placed.push(Placed { buffer: buffer.clone(), tensors, arrangement });
        }
    }

    /// A vector whose elements are the rows of the only tensor.
    pub fn note_origin_of_vector(&mut self, buffer: &wgpu::Buffer, name: String, count: usize) {
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
        let weights: Vec<String> = names.iter().map(|name| format!("{name}.weight")).collect();
        let weights: Vec<&str> = weights.iter().map(String::as_str).collect();
        let matrix = self.matrix(&weights, arrangement, block).await?;
        let bias = if bias { Some(self.bias(names, arrangement, &matrix).await?) } else { None };
        Ok(Linear { matrix, bias })
    }

    async fn bias(
        &mut self,
        names: &[String],
        arrangement: &Arrangement,
        matrix: &Matrix,
    ) -> Result<Vec<wgpu::Buffer>> {
        let mut tensors = Vec::with_capacity(names.len());
        for name in names {
            tensors.push(self.tensor(&format!("{name}.bias")).await?.to_f32());
        }
        let value = |column: &Option<(usize, usize)>| column.map_or(0.0, |(tensor, row)| tensors[tensor][row]);
        let values: Vec<f32> = arrangement.columns.iter().map(value).collect();
        let part = |first4: u32, columns4: u32| &values[first4 as usize * 4..][..columns4 as usize * 4];
        let shards = &matrix.shards;
        let buffers: Vec<_> = shards.iter().map(|s| self.uploader.vector("bias", part(s.first4, s.columns4))).collect();
        let shapes = tensors.iter().zip(names).map(|(tensor, name)| (format!("{name}.bias"), vec![tensor.len()]));
        let arrangement = Arrangement { columns: arrangement.columns.clone(), inputs: vec![Some(0)] };
        self.note_origin(&buffers[0], shapes.collect(), arrangement);
        Ok(buffers)
    }

    pub async fn norm(&mut self, name: &str) -> Result<NormWeights> {
        let mut scale = self.tensor(&format!("{name}.weight")).await?.to_f32();
        scale.iter_mut().for_each(|scale| *scale += self.norm_offset);
        let count = scale.len();
        let scale = self.uploader.vector(name, &scale);
        self.note_origin_of_vector(&scale, format!("{name}.weight"), count);
        let shift = match self.config.family {
            Family::Llama => None,
            Family::GptNeox => {
                let shift = self.tensor(&format!("{name}.bias")).await?.to_f32();
                let shift = self.uploader.vector(name, &shift);
                self.note_origin_of_vector(&shift, format!("{name}.bias"), count);
                Some(shift)
            }
        };
        Ok(NormWeights { scale, shift })
    }
}
