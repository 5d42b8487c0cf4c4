//! The names under which layouts hand out tensors: a family says them, and a role finds its tensor by them.
//!
//! Names and shapes only; whether a checkpoint has them is [`Checkpoint`](crate::format::checkpoint::Checkpoint)'s concern.

use crate::error::{Error, Result};
use crate::format::config::ModelConfig;
use crate::format::spec::{BlockRole, BlockSpec, ModelSpec, Part, Role};

/// The names of a family's tensors in its files. `.weight` and `.bias` come behind.
#[derive(Debug, PartialEq, Eq)]
pub struct TensorNames {
    /// The embedding of tokens.
    pub embedding: &'static str,
    /// The beginning of the names of a block's tensors, before its number.
    pub blocks: &'static str,
    /// The norm before the LM head.
    pub final_norm: &'static str,
    /// The LM head.
    pub lm_head: &'static str,
    /// A part of a block, by name within the block.
    pub block: &'static [(BlockRole, Place)],
    /// Parts that `block` does not name.
    pub others: &'static [(BlockRole, Place)],
    /// Whether published modules of multi-token heads on such a backbone name their layers' tensors as its blocks'.
    pub modules: bool,
}

/// Where a part of a block lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A tensor of its own.
    Own(&'static str),
    /// A tensor that holds queries, keys and values head by head: the rows of head h begin at `(3 h + part) * head_dim`.
    Fused {
        /// The tensor.
        name: &'static str,
        /// 0 for queries, 1 for keys, 2 for values.
        part: usize,
    },
    /// A tensor that holds queries and the gates of the heads' output head by head: the rows of head h begin at
    /// `(2 h + part) * head_dim`.
    Gated {
        /// The tensor.
        name: &'static str,
        /// 0 for queries, 1 for gates.
        part: usize,
    },
    /// A tensor that holds several parts, one after the other: this one behind those.
    Stacked {
        /// The tensor.
        name: &'static str,
        /// The parts before it.
        behind: &'static [BlockRole],
    },
}

impl Place {
    /// The name within the block.
    pub fn name(self) -> &'static str {
        let (Self::Own(name) | Self::Fused { name, .. } | Self::Gated { name, .. } | Self::Stacked { name, .. }) = self;
        name
    }

    /// The name of the part in the block whose tensors' names begin with `at`.
    pub fn in_block(self, at: &str) -> String {
        format!("{at}.{}", self.name())
    }

    /// The first row of a head that is the `head`-th of its kind, in a block whose parts have so many `rows`.
    pub fn first_row(self, rows: impl Fn(BlockRole) -> usize, head: usize, head_dim: usize) -> usize {
        match self {
            Self::Own(_) => head * head_dim,
            Self::Fused { part, .. } => (3 * head + part) * head_dim,
            Self::Gated { part, .. } => (2 * head + part) * head_dim,
            Self::Stacked { behind, .. } => behind.iter().map(|&role| rows(role)).sum::<usize>() + head * head_dim,
        }
    }
}

impl TensorNames {
    /// Where a part of a block lies. `TensorNames::check` has made sure that it has a place.
    pub fn place(&self, role: BlockRole) -> Place {
        self.find(role).expect("names are checked against the spec when a configuration is read")
    }

    /// Where a part of a block lies, if the family has it.
    pub(in crate::format) fn find(&self, role: BlockRole) -> Option<Place> {
        self.block.iter().chain(self.others).find(|(known, _)| *known == role).map(|(_, place)| *place)
    }

    /// Rows of the tensor that holds a part with `rows` rows of a block like `block`.
    fn rows(&self, role: BlockRole, block: &BlockSpec, rows: usize) -> usize {
        match self.place(role) {
            Place::Own(_) => rows,
            Place::Fused { .. } => 3 * rows,
            Place::Gated { .. } => 2 * rows,
            Place::Stacked { name, .. } => {
                let beside = self.block.iter().filter(|(_, place)| place.name() == name);
                beside.map(|(role, _)| block.rows(*role)).sum()
            }
        }
    }

    /// Checks that every part of every block of `spec` has a place.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for the first that has none.
    pub(in crate::format) fn check(&self, spec: &ModelSpec) -> Result<()> {
        for (index, block) in spec.blocks.iter().enumerate() {
            let lost = block.tensors(spec.hidden_size).into_iter().find(|(role, ..)| self.find(*role).is_none());
            if let Some((role, ..)) = lost {
                let Self { blocks, .. } = self;
                let message =
                    format!("block {index} needs a tensor {role:?}, for which files with {blocks} have no name");
                return Err(Error::unsupported(message));
            }
        }
        Ok(())
    }

    /// The beginning of the names of the tensors of block `index`.
    pub fn block_name(&self, index: usize) -> String {
        format!("{}.{index}", self.blocks)
    }
}

/// The name of a tensor of the module `module`.
pub fn tensor_name(module: &str, part: Part) -> String {
    match part {
        Part::Weight => format!("{module}.weight"),
        Part::Bias => format!("{module}.bias"),
        Part::Itself => module.to_owned(),
    }
}

/// The names that Llama's files began with; families that grew out of it keep them.
pub(in crate::format) const LLAMA_NAMES: TensorNames = TensorNames {
    embedding: "model.embed_tokens",
    blocks: "model.layers",
    final_norm: "model.norm",
    lm_head: "lm_head",
    block: &[
        (BlockRole::MixerNorm, Place::Own("input_layernorm")),
        (BlockRole::Query, Place::Own("self_attn.q_proj")),
        (BlockRole::Key, Place::Own("self_attn.k_proj")),
        (BlockRole::Value, Place::Own("self_attn.v_proj")),
        (BlockRole::QueryNorm, Place::Own("self_attn.q_norm")),
        (BlockRole::KeyNorm, Place::Own("self_attn.k_norm")),
        (BlockRole::Output, Place::Own("self_attn.o_proj")),
        (BlockRole::MlpNorm, Place::Own("post_attention_layernorm")),
        (BlockRole::Gate, Place::Own("mlp.gate_proj")),
        (BlockRole::Up, Place::Own("mlp.up_proj")),
        (BlockRole::Down, Place::Own("mlp.down_proj")),
    ],
    others: &[],
    modules: true,
};

/// A tensor's name and its shape, outermost dimension first.
type Named = (String, Vec<usize>);

impl ModelConfig {
    /// The name and shape of every tensor that the forward pass reads. Parts that share a tensor name it once.
    pub fn expected_tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut tensors = Vec::new();
        for (role, shape) in self.spec.tensors() {
            add(&mut tensors, self.locate(role, shape));
        }
        tensors
    }

    /// The name of a tensor, and the shape of what lies there if the role's own is `shape`.
    fn locate(&self, role: Role, shape: Vec<usize>) -> Named {
        let names = self.names;
        match role {
            Role::Embedding => (self.embedding_name(), shape),
            Role::Block(index, role, part) => {
                let spec = self.spec.blocks.get(index).unwrap_or(self.spec.last_block());
                self.locate_in(&names.block_name(index), spec, (role, part), shape)
            }
            Role::FinalNorm(part) => (tensor_name(names.final_norm, part), shape),
            Role::LmHead => (self.own_lm_head_name(), shape),
        }
    }

    /// The same in the block like `spec` whose tensors' names begin with `at`.
    fn locate_in(&self, at: &str, spec: &BlockSpec, (role, part): (BlockRole, Part), mut shape: Vec<usize>) -> Named {
        shape[0] = self.names.rows(role, spec, shape[0]);
        (tensor_name(&self.names.place(role).in_block(at), part), shape)
    }

    /// The name of the tensor of a role.
    pub fn name_of(&self, role: Role) -> String {
        self.locate(role, vec![1]).0
    }

    /// The tensors of a head's layer whose names begin with `at`.
    pub fn layer_tensors(&self, at: &str) -> Vec<(String, Vec<usize>)> {
        self.block_tensors(at, self.spec.last_attending())
    }

    /// The tensors of a block like `spec` whose names begin with `at`.
    pub fn block_tensors(&self, at: &str, spec: &BlockSpec) -> Vec<(String, Vec<usize>)> {
        let mut tensors = Vec::new();
        for (role, part, shape) in spec.tensors(self.spec.hidden_size) {
            add(&mut tensors, self.locate_in(at, spec, (role, part), shape));
        }
        tensors
    }

    /// The tensors of a norm over the hidden state called `name`.
    pub fn norm_tensors(&self, name: &str) -> Vec<(String, Vec<usize>)> {
        let named = |part| (tensor_name(name, part), vec![self.spec.hidden_size]);
        self.spec.final_norm.parts().map(named).collect()
    }

    /// The name that the tensors of block `index` begin with.
    pub fn layer_name(&self, index: usize) -> String {
        self.names.block_name(index)
    }

    /// The products of a block that a LoRA may change, by name within the block, with their outputs.
    pub fn adaptable(&self) -> Vec<(&'static str, usize)> {
        let attention = self.spec.last_attention();
        let sizes = [
            (BlockRole::Query, attention.q_size()),
            (BlockRole::Key, attention.kv_size()),
            (BlockRole::Value, attention.kv_size()),
        ];
        let mut products = Vec::new();
        for (role, size) in sizes {
            let product = (self.names.place(role).name(), self.names.rows(role, self.spec.last_attending(), size));
            if !products.contains(&product) {
                products.push(product);
            }
        }
        products
    }

    /// The name of the token embedding, `[vocab_size, hidden_size]`.
    pub fn embedding_name(&self) -> String {
        tensor_name(self.names.embedding, Part::Weight)
    }

    /// The name that an LM head has where it is not the embedding.
    pub(in crate::format) fn own_lm_head_name(&self) -> String {
        tensor_name(self.names.lm_head, Part::Weight)
    }

    /// The name of the LM head, `[vocab_size, hidden_size]`: the embedding's where they are tied.
    pub fn lm_head_name(&self) -> String {
        if self.spec.tied { self.embedding_name() } else { self.own_lm_head_name() }
    }

    /// Whether a tensor of this name belongs to one of the model's blocks.
    pub fn is_in_block(&self, name: &str) -> bool {
        let number = name.strip_prefix(self.names.blocks).and_then(|rest| rest.strip_prefix('.')?.split('.').next());
        number.and_then(|number| number.parse().ok()).is_some_and(|block: usize| block < self.spec.blocks.len())
    }

    /// Whether `name` is a tensor that some checkpoints carry and no forward pass needs: rotary frequencies and causal
    /// masks that follow from the configuration, and the LM head where it is the embedding.
    pub fn is_known_buffer(&self, name: &str) -> bool {
        let buffers = [".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias"];
        let tied_head = self.spec.tied && name == self.own_lm_head_name();
        tied_head || buffers.iter().any(|buffer| name.ends_with(buffer))
    }
}

fn add(tensors: &mut Vec<Named>, tensor: Named) {
    if !tensors.contains(&tensor) {
        tensors.push(tensor);
    }
}
