//! What a model computes, whatever family it is of: its blocks one by one, and the tensors that they need by their roles.
//!
//! A family ([`families`](super::families)) turns a configuration into a [`ModelSpec`]. The forward pass, training, memory
//! estimates, inspection and checkpoints read the spec alone.

use super::rope::Rope;

/// The structure of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// Elements of a hidden state.
    pub hidden_size: usize,
    /// Rows of the embedding and of the LM head: token ids are below it.
    pub vocab_size: usize,
    /// The factor of a token's embedding.
    pub embedding_scale: f32,
    /// The blocks, in the order that a row passes them. There is at least one.
    pub blocks: Vec<BlockSpec>,
    /// The norm before the LM head.
    pub final_norm: Norm,
    /// The bound that logits x are bent to: they become `cap * tanh(x / cap)`.
    pub logit_softcap: Option<f32>,
    /// The factor of the logits.
    pub logit_scale: f32,
    /// Whether the embedding is the LM head too.
    pub tied: bool,
}

/// One block: a mixer, which reads other positions, and an MLP, each behind a norm and added to the residual stream.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockSpec {
    /// The mixer, which moves information between positions.
    pub mixer: Mixer,
    /// The MLP.
    pub mlp: Mlp,
    /// The norm before each of the two.
    pub norm: Norm,
    /// Whether there is such a norm after each of them too, over what it is about to add to the stream.
    pub post_norm: bool,
    /// The factor of what each of the two adds to the stream.
    pub residual_scale: f32,
    /// Whether mixer and MLP both read the block's input, instead of the MLP what the mixer has added to it.
    pub parallel: bool,
}

/// The mixer, which moves information between positions.
#[derive(Clone, Debug, PartialEq)]
pub enum Mixer {
    /// Softmax attention over keys and values.
    Attention(Attention),
    /// A state of fixed size that each position moves on.
    DeltaNet(DeltaNet),
}

/// Causal attention with grouped keys and values.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads: a divisor of the query heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// The factor of the scores.
    pub scale: f32,
    /// The bound that scaled scores x are bent to: they become `cap * tanh(x / cap)`.
    pub softcap: Option<f32>,
    /// The rotary embedding of queries and keys, or none ([`Rope::none`]).
    pub rope: Rope,
    /// Positions that a position sees, itself included; `None`: all before it.
    pub window: Option<usize>,
    /// The RMSNorm of each query head and each key head before they are rotated.
    pub qk_norm: Option<QkNorm>,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether the output projection has a bias.
    pub out_bias: bool,
    /// Whether what the heads give is multiplied with the sigmoid of a projection of the block's input.
    pub output_gate: bool,
}

/// A gated DeltaNet (arXiv 2412.06464): each value head keeps a matrix `S`, `[key_dim, value_dim]`, which every position moves on.
///
/// The block's normalised input is projected to queries, keys and values, which pass a causal convolution and SiLU. Queries and
/// keys are scaled to length 1, queries also by `1 / sqrt(key_dim)`. Then, for each value head,
///
/// - `S = decay * S`, `decay = exp(-exp(A) * softplus(a + bias))` with a projection `a` of the input;
/// - `S = S + k (beta * (v - Sᵀ k))ᵀ`, `beta = sigmoid(b)` with a projection `b`;
/// - the output is `Sᵀ q`, RMS-normalised and multiplied with `silu(z)`, `z` being a projection of the input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeltaNet {
    /// Query and key heads.
    pub key_heads: usize,
    /// Value heads, a multiple of the key heads: each key head serves as many.
    pub value_heads: usize,
    /// Elements of a query or key head, a multiple of four.
    pub key_dim: usize,
    /// Elements of a value head, a multiple of those of a key head.
    pub value_dim: usize,
    /// Positions that the convolution sees, the row's own included.
    pub taps: usize,
    /// Added to the mean square in the norm of the output.
    pub eps: f64,
    /// Whether key head h serves the value heads h, h + key_heads, ... instead of neighbouring ones: so do files of llama.cpp.
    pub tiled: bool,
    /// Whether the file holds `-exp(A)` in place of `A`: so do these.
    pub whole_rates: bool,
}

/// An RMSNorm over the elements of a head, with one scale for all query heads and one for all key heads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QkNorm {
    /// Added to the mean square.
    pub eps: f64,
    /// Added to the scales that files hold: 1 where they hold what these differ from 1 by.
    pub offset: f32,
}

/// `down(activation(up(x)))`, or gated `down(activation(gate(x)) * up(x))`.
#[derive(Clone, Debug, PartialEq)]
pub struct Mlp {
    /// Elements between the projections.
    pub inner: usize,
    /// The nonlinearity.
    pub activation: Activation,
    /// Whether there is a gate.
    pub gated: bool,
    /// Whether the projections have biases.
    pub bias: bool,
}

/// A normalization over a hidden state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Norm {
    /// `x / sqrt(mean(x²) + eps) * (offset + weight)`.
    Rms {
        /// Added to the mean square.
        eps: f64,
        /// Added to the scales that files hold: 1 where they hold what these differ from 1 by.
        offset: f32,
    },
    /// `(x - mean) / sqrt(variance + eps) * weight + bias`.
    Layer {
        /// Added to the variance.
        eps: f64,
    },
}

impl Norm {
    /// The number that is added to the mean square, or to the variance.
    pub fn eps(self) -> f64 {
        let (Self::Rms { eps, .. } | Self::Layer { eps }) = self;
        eps
    }

    /// The number that is added to the scales that files hold.
    pub fn offset(self) -> f32 {
        match self {
            Self::Rms { offset, .. } => offset,
            Self::Layer { .. } => 0.0,
        }
    }

    /// Whether it is a LayerNorm, which has a bias.
    pub fn is_layer(self) -> bool {
        matches!(self, Self::Layer { .. })
    }
}

/// The nonlinearity of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// `x / 2 * (1 + erf(x / sqrt(2)))`.
    Gelu,
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x³)))`.
    GeluTanh,
}

/// A tensor of a model by what it is for, whatever a file calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The embedding of tokens, `[vocab, hidden]`.
    Embedding,
    /// A part of a block, counted from 0.
    Block(usize, BlockRole, Part),
    /// The norm before the LM head.
    FinalNorm(Part),
    /// The LM head, `[vocab, hidden]`, where it is not the embedding.
    LmHead,
}

/// The role of a tensor within a block. Matrices are `[outputs, inputs]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlockRole {
    /// The norm before the mixer.
    MixerNorm,
    /// The projection to queries.
    Query,
    /// The projection to keys.
    Key,
    /// The projection to values.
    Value,
    /// The scale of the norm of query heads.
    QueryNorm,
    /// The scale of the norm of key heads.
    KeyNorm,
    /// The projection to the gate of the heads' output.
    OutputGate,
    /// The projection of the heads' values back to the stream.
    Output,
    /// The projection of a delta net to queries, keys and values together.
    DeltaInput,
    /// The projection to `b`, one for each value head.
    DeltaBeta,
    /// The projection to `a`, one for each value head.
    DeltaDecay,
    /// The projection to the gate `z`.
    DeltaGate,
    /// The convolution's weights, `[channels, 1, taps]`, oldest first.
    DeltaConv,
    /// `A` of each value head.
    DeltaRate,
    /// The numbers that are added to `a` of each value head.
    DeltaBias,
    /// The scale of the output's norm, `[value_dim]`.
    DeltaNorm,
    /// The projection of the values back to the stream.
    DeltaOutput,
    /// The norm of what the mixer adds to the stream.
    MixerPostNorm,
    /// The norm before the MLP.
    MlpNorm,
    /// The norm of what the MLP adds to the stream.
    MlpPostNorm,
    /// The MLP's gate.
    Gate,
    /// The MLP's projection up.
    Up,
    /// The MLP's projection down.
    Down,
}

/// The part of a linear map or of a norm that a tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The matrix, or the scale of a norm.
    Weight,
    /// The numbers that are added.
    Bias,
    /// The tensor itself, whose name has no ending.
    Itself,
}

impl ModelSpec {
    /// Every tensor that the model needs, with its shape, outermost dimension first.
    pub fn tensors(&self) -> Vec<(Role, Vec<usize>)> {
        let table = vec![self.vocab_size, self.hidden_size];
        let mut tensors = vec![(Role::Embedding, table.clone())];
        for (index, block) in self.blocks.iter().enumerate() {
            let of_block = block.tensors(self.hidden_size).into_iter();
            tensors.extend(of_block.map(|(role, part, shape)| (Role::Block(index, role, part), shape)));
        }
        tensors.extend(self.final_norm.parts().map(|part| (Role::FinalNorm(part), vec![self.hidden_size])));
        if !self.tied {
            tensors.push((Role::LmHead, table));
        }
        tensors
    }

    /// What the model has that training has no way back through, if anything.
    pub(crate) fn untrained(&self) -> Option<&'static str> {
        let qk_less_one = |attention: &Attention| attention.qk_norm.is_some_and(|norm| norm.offset != 0.0);
        let less_one = |block: &BlockSpec| block.norm.offset() != 0.0 || block.attention().is_some_and(qk_less_one);
        if self.is_recurrent() {
            return Some("recurrent layers");
        }
        if self.attentions().any(|attention| attention.output_gate) {
            return Some("gates of attention's output");
        }
        if self.logit_softcap.is_some() || self.attentions().any(|attention| attention.softcap.is_some()) {
            return Some("soft caps of scores or logits");
        }
        if self.blocks.iter().any(|block| block.post_norm) {
            return Some("norms after attention and MLP");
        }
        if self.logit_scale != 1.0 || self.blocks.iter().any(|block| block.residual_scale != 1.0) {
            return Some("factors of the logits or of what blocks add to the stream");
        }
        (self.final_norm.offset() != 0.0 || self.blocks.iter().any(less_one))
            .then_some("norms whose scales are stored less one")
    }

    /// The rotary embedding of the last block that has one.
    pub(crate) fn rope(&self) -> Option<&Rope> {
        self.attentions().map(|attention| &attention.rope).filter(|rope| rope.rotary_dim > 0).last()
    }

    /// The attention of the blocks that have one.
    pub fn attentions(&self) -> impl Iterator<Item = &Attention> {
        self.blocks.iter().filter_map(BlockSpec::attention)
    }

    /// Whether a block keeps a state that rows move on.
    pub fn is_recurrent(&self) -> bool {
        self.blocks.iter().any(|block| block.attention().is_none())
    }

    /// The last block.
    pub fn last_block(&self) -> &BlockSpec {
        self.blocks.last().expect("a model has at least one block")
    }

    /// The last block with attention, which is what a layer of a multi-token head is like.
    pub fn last_attending(&self) -> &BlockSpec {
        let attending = self.blocks.iter().rfind(|block| block.attention().is_some());
        attending.expect("families have at least one block with attention")
    }

    /// The attention of the last block that has one.
    pub fn last_attention(&self) -> &Attention {
        self.last_attending().attention().expect("it was found by that")
    }

    /// The block that layer `layer` of a multi-token head with `layers` of them is like: heads are like the last blocks, in
    /// whose place they may be, and have attention.
    pub fn block_of_head(&self, layer: usize, layers: usize) -> &BlockSpec {
        let first = self.blocks.len().saturating_sub(layers);
        let block = self.blocks.get(first + layer).filter(|block| block.attention().is_some());
        block.unwrap_or_else(|| self.last_attending())
    }

    /// The same value of every block, or the most of any.
    pub(crate) fn most(&self, of: impl Fn(&BlockSpec) -> usize) -> usize {
        self.blocks.iter().map(of).max().unwrap_or(0)
    }
}

impl BlockSpec {
    /// The attention of the block, if its mixer is that.
    pub fn attention(&self) -> Option<&Attention> {
        match &self.mixer {
            Mixer::Attention(attention) => Some(attention),
            Mixer::DeltaNet(_) => None,
        }
    }

    /// Rows of the matrix of a part that it has.
    pub fn rows(&self, role: BlockRole) -> usize {
        let matrix = |(other, part, shape): (BlockRole, Part, Vec<usize>)| {
            (other == role && part == Part::Weight).then(|| shape[0])
        };
        // What a file stacks has as many rows for every size of a hidden state.
        self.tensors(1).into_iter().find_map(matrix).unwrap_or(0)
    }

    /// Every tensor of the block, with its shape.
    pub fn tensors(&self, hidden: usize) -> Vec<BlockTensor> {
        let mut tensors = Vec::new();
        let norm = |role, tensors: &mut Vec<_>| {
            tensors.extend(self.norm.parts().map(|part| (role, part, vec![hidden])));
        };
        norm(BlockRole::MixerNorm, &mut tensors);
        match &self.mixer {
            Mixer::Attention(attention) => attention.tensors(hidden, &mut tensors),
            Mixer::DeltaNet(delta) => delta.tensors(hidden, &mut tensors),
        }
        norm(BlockRole::MlpNorm, &mut tensors);
        if self.post_norm {
            norm(BlockRole::MixerPostNorm, &mut tensors);
            norm(BlockRole::MlpPostNorm, &mut tensors);
        }
        if self.mlp.gated {
            linear(BlockRole::Gate, self.mlp.inner, hidden, self.mlp.bias, &mut tensors);
        }
        linear(BlockRole::Up, self.mlp.inner, hidden, self.mlp.bias, &mut tensors);
        linear(BlockRole::Down, hidden, self.mlp.inner, self.mlp.bias, &mut tensors);
        tensors
    }
}

/// Adds the tensors of a linear map, `[outputs, inputs]`.
fn linear(role: BlockRole, outputs: usize, inputs: usize, bias: bool, tensors: &mut Vec<BlockTensor>) {
    tensors.push((role, Part::Weight, vec![outputs, inputs]));
    tensors.extend(bias.then(|| (role, Part::Bias, vec![outputs])));
}

/// A tensor of a block, and its shape.
type BlockTensor = (BlockRole, Part, Vec<usize>);

impl Attention {
    fn tensors(&self, hidden: usize, tensors: &mut Vec<BlockTensor>) {
        linear(BlockRole::Query, self.q_size(), hidden, self.qkv_bias, tensors);
        linear(BlockRole::Key, self.kv_size(), hidden, self.qkv_bias, tensors);
        linear(BlockRole::Value, self.kv_size(), hidden, self.qkv_bias, tensors);
        if self.output_gate {
            linear(BlockRole::OutputGate, self.q_size(), hidden, self.qkv_bias, tensors);
        }
        if self.qk_norm.is_some() {
            tensors.push((BlockRole::QueryNorm, Part::Weight, vec![self.head_dim]));
            tensors.push((BlockRole::KeyNorm, Part::Weight, vec![self.head_dim]));
        }
        linear(BlockRole::Output, hidden, self.q_size(), self.out_bias, tensors);
    }

    /// Elements of all query heads of a row.
    pub fn q_size(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Elements of all key heads (and of all value heads) of a row.
    pub fn kv_size(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

impl DeltaNet {
    /// The largest key head that the kernels hold.
    pub const MAX_KEY_DIM: usize = 128;

    /// The longest convolution.
    pub const MAX_TAPS: usize = 16;

    fn tensors(&self, hidden: usize, tensors: &mut Vec<BlockTensor>) {
        let Self { value_heads, value_dim, taps, .. } = *self;
        linear(BlockRole::DeltaInput, self.channels(), hidden, false, tensors);
        linear(BlockRole::DeltaBeta, value_heads, hidden, false, tensors);
        linear(BlockRole::DeltaDecay, value_heads, hidden, false, tensors);
        linear(BlockRole::DeltaGate, self.v_size(), hidden, false, tensors);
        tensors.push((BlockRole::DeltaConv, Part::Weight, vec![self.channels(), 1, taps]));
        tensors.push((BlockRole::DeltaRate, Part::Itself, vec![value_heads]));
        tensors.push((BlockRole::DeltaBias, Part::Itself, vec![value_heads]));
        tensors.push((BlockRole::DeltaNorm, Part::Weight, vec![value_dim]));
        linear(BlockRole::DeltaOutput, hidden, self.v_size(), false, tensors);
    }

    /// Elements of all key heads (and of all query heads) of a row.
    pub fn k_size(&self) -> usize {
        self.key_heads * self.key_dim
    }

    /// Elements of all value heads of a row.
    pub fn v_size(&self) -> usize {
        self.value_heads * self.value_dim
    }

    /// Elements of queries, keys and values of a row: what the convolution goes over.
    pub fn channels(&self) -> usize {
        2 * self.k_size() + self.v_size()
    }
}

impl Norm {
    /// The tensors of it.
    pub(super) fn parts(self) -> impl Iterator<Item = Part> {
        [Some(Part::Weight), self.is_layer().then_some(Part::Bias)].into_iter().flatten()
    }
}
