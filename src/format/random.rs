//! A checkpoint out of nothing: random weights of a given shape.

use std::borrow::Cow;

use safetensors::tensor::TensorView;
use serde_json::json;

use crate::format::files::MemoryFiles;
use crate::format::stored::StoredType;
use crate::reference::random::{pcg4d, uniform};

/// The shape of a Llama with tied embeddings, without a tokenizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RandomLlama {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Width of the MLP.
    pub intermediate: usize,
    /// Token ids.
    pub vocab: usize,
    /// Positions.
    pub context: usize,
    /// Type of the weights.
    pub dtype: StoredType,
}

impl RandomLlama {
    /// The names of shapes that benches know: about as many weights.
    pub const NAMES: [&str; 4] = ["15m", "1b", "3b", "8b"];

    /// The shape of a name: `15m`; `1b` is TinyLlama's, `3b` and `8b` are those of Llama 3.
    pub fn named(name: &str, dtype: StoredType) -> Option<Self> {
        let (llama3, context) = (128_256, 2048);
        Some(match name {
            "15m" => Self::s15m(dtype),
            "1b" => Self {
                hidden: 2048,
                layers: 22,
                heads: 32,
                kv_heads: 4,
                intermediate: 5632,
                vocab: 32_000,
                context,
                dtype,
            },
            "3b" => Self {
                hidden: 3072,
                layers: 28,
                heads: 24,
                kv_heads: 8,
                intermediate: 8192,
                vocab: llama3,
                context,
                dtype,
            },
            "8b" => Self {
                hidden: 4096,
                layers: 32,
                heads: 32,
                kv_heads: 8,
                intermediate: 14_336,
                vocab: llama3,
                context,
                dtype,
            },
            _ => return None,
        })
    }

    /// 15 million weights: the shape of the benches.
    pub fn s15m(dtype: StoredType) -> Self {
        Self { hidden: 288, layers: 6, heads: 6, kv_heads: 6, intermediate: 768, vocab: 32_000, context: 2048, dtype }
    }

    /// The smallest that has everything, for quick runs.
    pub fn tiny(dtype: StoredType) -> Self {
        Self { hidden: 64, layers: 2, heads: 4, kv_heads: 4, intermediate: 128, vocab: 512, context: 128, dtype }
    }

    /// The checkpoint, always the same for a shape. Every matrix keeps the variance of what it is multiplied with, so that
    /// nothing overflows however many layers there are.
    pub fn files(&self) -> MemoryFiles {
        let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = self
            .shapes()
            .into_iter()
            .zip(0..)
            .map(|((name, shape), seed)| {
                let values = self.weights(&shape, seed);
                (name, shape, values)
            })
            .collect();
        let stored = self.dtype.in_file().expect("a type of elements");
        let views = tensors.iter().map(|(name, shape, bytes)| {
            (name, TensorView::new(stored, shape.clone(), bytes).expect("as many bytes as the shape takes"))
        });
        let weights = safetensors::serialize(views, None).expect("names and shapes are valid");
        let files = [("config.json", self.config().into_bytes()), ("model.safetensors", weights)];
        MemoryFiles {
            name: format!(
                "random Llama {} x {}, {}, MLP {}, vocabulary {}, {}",
                self.layers,
                self.hidden,
                self.heads_named(),
                self.intermediate,
                self.vocab,
                self.dtype
            ),
            files: files.map(|(name, bytes)| (name.to_owned(), Cow::Owned(bytes))).into(),
        }
    }

    fn heads_named(&self) -> String {
        let same = self.kv_heads == self.heads;
        if same { format!("{} heads", self.heads) } else { format!("{} heads, {} of keys", self.heads, self.kv_heads) }
    }

    fn config(&self) -> String {
        json!({
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocab,
            "max_position_embeddings": self.context,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10_000.0,
            "hidden_act": "silu",
            "tie_word_embeddings": true,
        })
        .to_string()
    }

    fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let (hidden, inner) = (self.hidden, self.intermediate);
        let keys = hidden / self.heads * self.kv_heads;
        let mut shapes = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocab, hidden])];
        for layer in 0..self.layers {
            let of_layer: [(&str, Vec<usize>); 9] = [
                ("input_layernorm", vec![hidden]),
                ("self_attn.q_proj", vec![hidden, hidden]),
                ("self_attn.k_proj", vec![keys, hidden]),
                ("self_attn.v_proj", vec![keys, hidden]),
                ("self_attn.o_proj", vec![hidden, hidden]),
                ("post_attention_layernorm", vec![hidden]),
                ("mlp.gate_proj", vec![inner, hidden]),
                ("mlp.up_proj", vec![inner, hidden]),
                ("mlp.down_proj", vec![hidden, inner]),
            ];
            shapes.extend(of_layer.map(|(name, shape)| (format!("model.layers.{layer}.{name}.weight"), shape)));
        }
        shapes.push(("model.norm.weight".to_owned(), vec![hidden]));
        shapes
    }

    /// Ones for a norm; for a matrix uniform numbers of variance 1 / inputs.
    fn weights(&self, shape: &[usize], seed: u32) -> Vec<u8> {
        let count = shape.iter().product();
        if shape.len() == 1 {
            return self.dtype.encode(&vec![1.0; count]);
        }
        let scale = (3.0 / shape[1] as f32).sqrt();
        let four = |i| pcg4d([seed, i, 0xbe7c, 0x1a5e]).map(|bits| scale * (2.0 * uniform(bits) - 1.0));
        let values: Vec<f32> = (0..count.div_ceil(4) as u32).flat_map(four).take(count).collect();
        self.dtype.encode(&values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::checkpoint::Checkpoint;

    #[test]
    fn the_checkpoint_is_complete_in_every_dtype() {
        for &dtype in StoredType::ELEMENTS {
            let files = RandomLlama::tiny(dtype).files();
            let checkpoint = pollster::block_on(Checkpoint::open(&files)).expect("it opens");
            checkpoint.check().expect("every tensor is there, and none is wrong");
            assert_eq!(files.files, RandomLlama::tiny(dtype).files().files);
        }
    }

    #[test]
    fn every_named_shape_is_a_model_that_loads() {
        for name in RandomLlama::NAMES {
            // The shapes of a block do not depend on how many there are, nor on the vocabulary.
            let shape = RandomLlama::named(name, StoredType::F16).expect("it is listed");
            let files = RandomLlama { layers: 1, vocab: 64, ..shape }.files();
            let checkpoint = pollster::block_on(Checkpoint::open(&files)).expect("it opens");
            checkpoint.check().unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        assert_eq!(RandomLlama::named("2b", StoredType::F16), None);
    }
}
