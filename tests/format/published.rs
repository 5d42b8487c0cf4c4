//! The configurations of models that people have, as their authors publish them, but for numbers that nothing here depends on.

use std::path::Path;

use foretoken::format::config::ModelConfig;
use foretoken::format::spec::BlockSpec;
use serde_json::{Value, json};

use crate::samples::bytes;

fn published(name: &str) -> (String, Value) {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/format/configs")).join(format!("{name}.json"));
    let file: Value = serde_json::from_slice(&std::fs::read(path).expect(name)).expect("json");
    (file["hub"].as_str().expect("a name on the hub").to_owned(), file["config"].clone())
}

fn parse(name: &str) -> ModelConfig {
    let (_, config) = published(name);
    ModelConfig::parse(&bytes(&config), None).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn sizes_ropes_and_end_tokens_are_read() {
    // Name, family; blocks, heads, their keys and values, their size; the rope's base; whether the LM head is tied; end tokens.
    #[rustfmt::skip]
    let models = [
        ("llama-3.2-1b-instruct", "llama", [16, 32, 8, 64], 5e5, true, vec![128001, 128008, 128009]),
        ("tinyllama-1.1b-chat", "llama", [22, 32, 4, 64], 1e4, false, vec![2]),
        ("smollm2-135m-instruct", "llama", [30, 9, 3, 64], 1e5, true, vec![2]),
        ("minicpm5-2b", "llama", [42, 16, 2, 128], 5e6, false, vec![2, 130073]),
        ("mistral-7b-v0.1", "mistral", [32, 32, 8, 128], 1e4, false, vec![2]),
        ("mistral-7b-instruct-v0.3", "mistral", [32, 32, 8, 128], 1e6, false, vec![2]),
        ("qwen2.5-coder-0.5b-instruct", "qwen2", [24, 14, 2, 64], 1e6, true, vec![151645]),
        ("qwen3-0.6b", "qwen3", [28, 16, 8, 128], 1e6, true, vec![151645]),
        ("smollm3-3b", "smollm3", [36, 16, 4, 128], 5e6, true, vec![128012]),
        ("granite-3.3-2b-instruct", "granite", [40, 32, 8, 64], 1e7, true, vec![0]),
        ("gemma-3-270m", "gemma3_text", [18, 4, 1, 256], 1e6, true, vec![1]),
    ];
    let mut seen = Vec::new();
    for (name, family, sizes, theta, tied, ends) in models {
        let config = parse(name);
        let ModelConfig { num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim, .. } = config;
        assert_eq!([num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim], sizes, "{name}");
        let bases: Vec<f64> = config.spec.blocks.iter().map(|block| block.attention().unwrap().rope.theta).collect();
        assert!(bases.contains(&theta), "{name}: {bases:?}");
        assert_eq!((config.model_type.as_str(), config.spec.tied), (family, tied), "{name}");
        assert_eq!((config.eos_token_ids, config.torch_dtype.as_deref()), (ends, Some("bfloat16")), "{name}");
        seen.push(format!("{name}.json"));
    }
    let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/format/configs")).expect("the folder");
    let mut files: Vec<String> =
        folder.map(|file| file.expect("a file").file_name().into_string().expect("a name")).collect();
    files.sort();
    seen.sort();
    assert_eq!(files, seen);
}

#[test]
fn what_is_special_about_each_is_read() {
    let of = |config: &ModelConfig, what: fn(&BlockSpec) -> bool| -> usize {
        config.spec.blocks.iter().filter(|block| what(block)).count()
    };
    let llama = parse("llama-3.2-1b-instruct");
    let scaling = llama.spec.last_attention().rope.scaling.clone().expect("a scaled rope");
    assert_eq!((scaling.factor, scaling.original_max_position_embeddings), (32.0, 8192));
    // Heads are not even shares of the hidden state.
    let qwen = parse("qwen3-0.6b");
    assert_eq!((qwen.hidden_size, qwen.spec.last_attention().q_size()), (1024, 2048));
    let windows = |name| of(&parse(name), |block| block.attention().unwrap().window.is_some());
    assert_eq!(["mistral-7b-v0.1", "mistral-7b-instruct-v0.3", "gemma-3-270m"].map(windows), [32, 0, 15]);
    let biased = |name| of(&parse(name), |block| block.attention().unwrap().qkv_bias);
    assert_eq!(["qwen2.5-coder-0.5b-instruct", "qwen3-0.6b"].map(biased), [24, 0]);
    let normed = |name| of(&parse(name), |block| block.attention().unwrap().qk_norm.is_some());
    assert_eq!(["qwen2.5-coder-0.5b-instruct", "qwen3-0.6b", "gemma-3-270m"].map(normed), [0, 28, 18]);
    let smollm = parse("smollm3-3b");
    let still: Vec<usize> =
        (0..36).filter(|&block| smollm.spec.blocks[block].attention().unwrap().rope.rotary_dim == 0).collect();
    assert_eq!(still, [3, 7, 11, 15, 19, 23, 27, 31, 35]);
    let granite = parse("granite-3.3-2b-instruct").spec;
    let block = granite.last_block();
    let factors =
        [granite.embedding_scale, block.attention().unwrap().scale, block.residual_scale, granite.logit_scale];
    assert_eq!(factors, [12.0, 0.015625, 0.22, 0.125]);
}

#[test]
fn a_language_model_within_another_is_found() {
    let (_, text) = published("gemma-3-270m");
    let alone = parse("gemma-3-270m");
    let mut within = text.clone();
    let fields = within.as_object_mut().expect("an object");
    let moved = ["eos_token_id", "bos_token_id", "torch_dtype"].map(|key| (key, fields.remove(key).expect(key)));
    let mut whole = json!({"model_type": "gemma3", "text_config": within, "vision_config": {"hidden_size": 1152}});
    whole.as_object_mut().expect("an object").extend(moved.map(|(key, value)| (key.to_owned(), value)));
    assert_eq!(ModelConfig::parse(&bytes(&whole), None).unwrap(), alone);
    // What the inner configuration says itself holds.
    whole["text_config"]["eos_token_id"] = json!([1, 106]);
    assert_eq!(ModelConfig::parse(&bytes(&whole), None).unwrap().eos_token_ids, [1, 106]);
}
