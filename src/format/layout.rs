//! The tensors that a configuration implies, by their names in the checkpoint.
//!
//! Names and shapes only; whether a checkpoint has them is [`Checkpoint`](super::checkpoint::Checkpoint)'s concern.

use super::config::{Family, ModelConfig};

/// A tensor's name and its shape, outermost dimension first.
pub(super) type Expected = (String, Vec<usize>);

impl ModelConfig {
    /// Every tensor that the forward pass reads, under Hugging Face's names. Matrices are `[outputs, inputs]`.
    pub fn expected_tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut tensors = Vec::new();
        match self.family {
            Family::Llama => self.expect_llama(&mut tensors),
            Family::GptNeox => self.expect_gpt_neox(&mut tensors),
        }
        tensors
    }

    /// The tensors of a block whose names begin with `layer`: one of the backbone's, or a head's of the same structure.
    pub fn layer_tensors(&self, layer: &str) -> Vec<(String, Vec<usize>)> {
        let mut tensors = Vec::new();
        match self.family {
            Family::Llama => self.expect_llama_layer(layer, &mut tensors),
            Family::GptNeox => self.expect_gpt_neox_layer(layer, &mut tensors),
        }
        tensors
    }

    /// The tensors of a norm called `name`.
    pub fn norm_tensors(&self, name: &str) -> Vec<(String, Vec<usize>)> {
        let mut tensors = Vec::new();
        match self.family {
            Family::Llama => tensors.push((format!("{name}.weight"), vec![self.hidden_size])),
            Family::GptNeox => layer_norm(&mut tensors, name.to_owned(), self.hidden_size),
        }
        tensors
    }

    /// The name that the tensors of block `index` begin with.
    pub fn layer_name(&self, index: usize) -> String {
        match self.family {
            Family::Llama => format!("model.layers.{index}"),
            Family::GptNeox => format!("gpt_neox.layers.{index}"),
        }
    }

    /// The products of a block that a LoRA may change, by name within the block, with their outputs.
    pub fn adaptable(&self) -> Vec<(&'static str, usize)> {
        match self.family {
            Family::Llama => vec![
                ("self_attn.q_proj", self.q_size()),
                ("self_attn.k_proj", self.kv_size()),
                ("self_attn.v_proj", self.kv_size()),
            ],
            Family::GptNeox => vec![("attention.query_key_value", 3 * self.q_size())],
        }
    }

    /// The name of the token embedding, `[vocab_size, hidden_size]`.
    pub fn embedding_name(&self) -> &'static str {
        match self.family {
            Family::Llama => "model.embed_tokens.weight",
            Family::GptNeox => "gpt_neox.embed_in.weight",
        }
    }

    /// The name of the LM head, `[vocab_size, hidden_size]`: the embedding's where they are tied.
    pub fn lm_head_name(&self) -> &'static str {
        if self.tie_word_embeddings { self.embedding_name() } else { self.untied_lm_head_name() }
    }

    fn untied_lm_head_name(&self) -> &'static str {
        match self.family {
            Family::Llama => "lm_head.weight",
            Family::GptNeox => "embed_out.weight",
        }
    }

    /// Whether `name` is a tensor that some checkpoints carry and no forward pass needs: rotary frequencies and causal
    /// masks that follow from the configuration, and the LM head where it is the embedding.
    pub fn is_known_buffer(&self, name: &str) -> bool {
        let buffers = [".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias"];
        let tied_head = self.tie_word_embeddings && name == self.untied_lm_head_name();
        tied_head || buffers.iter().any(|buffer| name.ends_with(buffer))
    }

    fn expect_llama(&self, tensors: &mut Vec<Expected>) {
        let hidden = self.hidden_size;
        tensors.push((self.embedding_name().to_owned(), vec![self.vocab_size, hidden]));
        for layer in 0..self.num_hidden_layers {
            self.expect_llama_layer(&format!("model.layers.{layer}"), tensors);
        }
        tensors.push(("model.norm.weight".to_owned(), vec![hidden]));
        self.expect_lm_head(tensors);
    }

    fn expect_llama_layer(&self, layer: &str, tensors: &mut Vec<Expected>) {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let at = |part: &str| format!("{layer}.{part}");
        tensors.push((at("input_layernorm.weight"), vec![hidden]));
        linear(tensors, at("self_attn.q_proj"), [self.q_size(), hidden], self.attention_bias);
        linear(tensors, at("self_attn.k_proj"), [self.kv_size(), hidden], self.attention_bias);
        linear(tensors, at("self_attn.v_proj"), [self.kv_size(), hidden], self.attention_bias);
        linear(tensors, at("self_attn.o_proj"), [hidden, self.q_size()], self.attention_bias);
        tensors.push((at("post_attention_layernorm.weight"), vec![hidden]));
        linear(tensors, at("mlp.gate_proj"), [inner, hidden], self.mlp_bias);
        linear(tensors, at("mlp.up_proj"), [inner, hidden], self.mlp_bias);
        linear(tensors, at("mlp.down_proj"), [hidden, inner], self.mlp_bias);
    }

    fn expect_gpt_neox(&self, tensors: &mut Vec<Expected>) {
        let hidden = self.hidden_size;
        tensors.push((self.embedding_name().to_owned(), vec![self.vocab_size, hidden]));
        for layer in 0..self.num_hidden_layers {
            self.expect_gpt_neox_layer(&format!("gpt_neox.layers.{layer}"), tensors);
        }
        layer_norm(tensors, "gpt_neox.final_layer_norm".to_owned(), hidden);
        self.expect_lm_head(tensors);
    }

    fn expect_gpt_neox_layer(&self, layer: &str, tensors: &mut Vec<Expected>) {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let at = |part: &str| format!("{layer}.{part}");
        layer_norm(tensors, at("input_layernorm"), hidden);
        layer_norm(tensors, at("post_attention_layernorm"), hidden);
        linear(tensors, at("attention.query_key_value"), [3 * self.q_size(), hidden], self.attention_bias);
        linear(tensors, at("attention.dense"), [hidden, self.q_size()], self.attention_bias);
        linear(tensors, at("mlp.dense_h_to_4h"), [inner, hidden], self.mlp_bias);
        linear(tensors, at("mlp.dense_4h_to_h"), [hidden, inner], self.mlp_bias);
    }

    fn expect_lm_head(&self, tensors: &mut Vec<Expected>) {
        if !self.tie_word_embeddings {
            tensors.push((self.untied_lm_head_name().to_owned(), vec![self.vocab_size, self.hidden_size]));
        }
    }
}

fn linear(tensors: &mut Vec<Expected>, name: String, [outputs, inputs]: [usize; 2], bias: bool) {
    tensors.push((format!("{name}.weight"), vec![outputs, inputs]));
    if bias {
        tensors.push((format!("{name}.bias"), vec![outputs]));
    }
}

fn layer_norm(tensors: &mut Vec<Expected>, name: String, size: usize) {
    tensors.push((format!("{name}.weight"), vec![size]));
    tensors.push((format!("{name}.bias"), vec![size]));
}
