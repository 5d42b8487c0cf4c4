//! The tensors that a configuration implies, by their names in the checkpoint.
//!
//! Names and shapes only; whether a checkpoint has them is [`Checkpoint`](super::checkpoint::Checkpoint)'s concern.

use super::config::ModelConfig;
use super::families::tensor_name;
use super::spec::{BlockRole, BlockSpec, Part, Role};

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
            Role::Block(index, role, part) => self.locate_in(&names.block_name(index), role, part, shape),
            Role::FinalNorm(part) => (tensor_name(names.final_norm, part), shape),
            Role::LmHead => (self.own_lm_head_name(), shape),
        }
    }

    fn locate_in(&self, block: &str, role: BlockRole, part: Part, mut shape: Vec<usize>) -> Named {
        let place = self.names.place(role);
        shape[0] = place.rows(shape[0]);
        (tensor_name(&place.in_block(block), part), shape)
    }

    /// The name of the tensor of a role.
    pub fn name_of(&self, role: Role) -> String {
        self.locate(role, vec![1]).0
    }

    /// The tensors of a head's layer whose names begin with `at`.
    pub fn layer_tensors(&self, at: &str) -> Vec<(String, Vec<usize>)> {
        self.block_tensors(at, self.spec.last_block())
    }

    /// The tensors of a block like `spec` whose names begin with `at`.
    pub fn block_tensors(&self, at: &str, spec: &BlockSpec) -> Vec<(String, Vec<usize>)> {
        let mut tensors = Vec::new();
        for (role, part, shape) in spec.tensors(self.spec.hidden_size) {
            add(&mut tensors, self.locate_in(at, role, part, shape));
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
        let attention = self.spec.last_block().attention();
        let sizes = [
            (BlockRole::Query, attention.q_size()),
            (BlockRole::Key, attention.kv_size()),
            (BlockRole::Value, attention.kv_size()),
        ];
        let mut products = Vec::new();
        for (role, size) in sizes {
            let place = self.names.place(role);
            let product = (place.name(), place.rows(size));
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
    pub(super) fn own_lm_head_name(&self) -> String {
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
