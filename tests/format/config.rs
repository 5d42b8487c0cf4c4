//! Configurations: every family, older and newer keys, and everything that must be refused.

use foretoken::format::config::ModelConfig;
use foretoken::format::rope::Rope;
use foretoken::format::spec::{Activation, Attention, BlockSpec, Norm};
use foretoken::{ErrorKind, Result};
use serde_json::{Value, json};

use crate::samples::{bytes, gpt_neox, llama, with};
use crate::{common, refused};

fn parse(config: &Value) -> Result<ModelConfig> {
    ModelConfig::parse(&bytes(config), None)
}

/// The block that all blocks of `config` are like.
fn block(config: &ModelConfig) -> &BlockSpec {
    let block = config.spec.last_block();
    assert!(config.spec.blocks.iter().all(|other| other == block), "{config:?}");
    block
}

fn attention(config: &ModelConfig) -> &Attention {
    block(config).attention().unwrap()
}

fn rope(config: &ModelConfig) -> &Rope {
    &attention(config).rope
}

#[track_caller]
fn accepted(base: Value, changes: Value) -> ModelConfig {
    parse(&with(base, changes)).unwrap()
}

#[track_caller]
fn unsupported(base: Value, changes: Value, words: &[&str]) {
    let error = refused(parse(&with(base, changes)), words);
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

#[track_caller]
fn broken(base: Value, changes: Value, words: &[&str]) {
    let error = refused(parse(&with(base, changes)), words);
    assert_eq!(error.kind(), ErrorKind::Format, "{error}");
}

#[test]
fn llama_defaults_and_fields() {
    let config = parse(&llama()).unwrap();
    let (block, attention) = (block(&config), attention(&config));
    assert_eq!((config.head_dim, attention.q_size(), attention.kv_size()), (2, 8, 4));
    assert_eq!((block.norm, block.mlp.activation), (Norm::Rms { eps: 1e-5, offset: 0.0 }, Activation::Silu));
    assert!(block.mlp.gated && config.tie_word_embeddings && config.spec.tied && !block.parallel);
    assert!(!attention.qkv_bias && !attention.out_bias && !block.mlp.bias && attention.qk_norm.is_none());
    assert_eq!((config.bos_token_id, config.eos_token_ids.as_slice()), (Some(1), [2].as_slice()));
    let config = accepted(llama(), json!({"num_key_value_heads": null, "head_dim": 6, "attention_bias": true}));
    let attention = config.spec.last_attention();
    assert_eq!((attention.kv_heads, attention.q_size()), (4, 24));
    assert!(attention.qkv_bias && attention.out_bias);
    let config = accepted(llama(), json!({"torch_dtype": "float16", "num_nextn_predict_layers": 1, "something": [1]}));
    assert_eq!((config.torch_dtype.as_deref(), config.num_nextn_predict_layers), (Some("float16"), 1));
    assert_eq!(accepted(llama(), json!({"dtype": "bfloat16"})).torch_dtype.as_deref(), Some("bfloat16"));
}

#[test]
fn gpt_neox_defaults_and_fields() {
    let config = parse(&gpt_neox()).unwrap();
    let (norm, spec) = (Norm::Layer { eps: 1e-5 }, block(&config));
    assert_eq!((config.head_dim, config.num_key_value_heads), (8, 4));
    assert_eq!((spec.norm, config.spec.final_norm, rope(&config).rotary_dim), (norm, norm, 2));
    assert!(
        spec.parallel
            && spec.attention().unwrap().qkv_bias
            && spec.attention().unwrap().out_bias
            && spec.mlp.bias
            && !spec.mlp.gated
    );
    assert!(!block(&accepted(gpt_neox(), json!({"use_parallel_residual": false}))).parallel);
    assert!(!attention(&accepted(gpt_neox(), json!({"attention_bias": false}))).qkv_bias);
    assert_eq!(rope(&accepted(gpt_neox(), json!({"rotary_pct": null}))).rotary_dim, 2);
    assert_eq!(rope(&accepted(gpt_neox(), json!({"rotary_pct": 1.0}))).rotary_dim, 8);
    assert_eq!(rope(&accepted(gpt_neox(), json!({"rotary_emb_base": 500.0}))).theta, 500.0);
    for (name, form) in [
        ("gelu", Activation::Gelu),
        ("gelu_new", Activation::GeluTanh),
        ("gelu_fast", Activation::GeluTanh),
        ("gelu_pytorch_tanh", Activation::GeluTanh),
    ] {
        assert_eq!(block(&accepted(gpt_neox(), json!({"hidden_act": name}))).mlp.activation, form);
    }
}

#[test]
fn both_spellings_of_rope_mean_the_same() {
    let old = json!({"rope_theta": 5e5, "rope_scaling": {
        "type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16
    }});
    let new = json!({"rope_theta": null, "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16
    }});
    let old = rope(&accepted(llama(), old)).clone();
    assert_eq!(old, *rope(&accepted(llama(), new)));
    assert_eq!(old.scaling.as_ref().unwrap().original_max_position_embeddings, 16);
    let plain = accepted(llama(), json!({"rope_parameters": {"rope_type": "default", "rope_theta": 77.0}}));
    assert_eq!((rope(&plain).theta, &rope(&plain).scaling), (77.0, &None));
    let partial = json!({"rotary_pct": null, "rope_parameters": {"partial_rotary_factor": 0.5, "rope_theta": 1e4}});
    assert_eq!(rope(&accepted(gpt_neox(), partial)).rotary_dim, 4);
    let without_original = json!({"rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0
    }});
    let scaled = accepted(llama(), without_original);
    assert_eq!(rope(&scaled).scaling.as_ref().unwrap().original_max_position_embeddings, 64);
}

/// Values of transformers 5.23.0 (`LlamaRotaryEmbedding.inv_freq`, single precision) for one head of 16.
#[test]
fn inverse_frequencies_equal_those_of_transformers() {
    let scaled = json!({"head_dim": 16, "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16
    }});
    let expected = [
        0.5760563611984253,
        0.024240344762802124,
        0.004700753837823868,
        0.0009115831344388425,
        0.00017677668074611574,
        3.428102354519069e-05,
        6.647869668086059e-06,
        1.289173155782919e-06,
    ];
    let got = rope(&accepted(llama(), scaled)).inv_freq();
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(expected) {
        assert!((got / expected - 1.0).abs() < 1e-6, "expected {expected}, got {got}");
    }
    let plain = rope(&accepted(llama(), json!({"head_dim": 4}))).inv_freq();
    assert_eq!(plain, [1.0, 0.01]);
}

#[test]
fn end_tokens_come_from_the_generation_config_first() {
    let ids = |config: Value, generation: &str| {
        ModelConfig::parse(&bytes(&config), Some(generation.as_bytes())).map(|config| config.eos_token_ids)
    };
    assert_eq!(ids(llama(), r#"{"eos_token_id": [5, 6]}"#).unwrap(), [5, 6]);
    assert_eq!(ids(llama(), r#"{"eos_token_id": 7}"#).unwrap(), [7]);
    assert_eq!(ids(llama(), r#"{"eos_token_id": null}"#).unwrap(), [2]);
    assert_eq!(ids(llama(), "{}").unwrap(), [2]);
    assert_eq!(ids(with(llama(), json!({"eos_token_id": [3, 4]})), "{}").unwrap(), [3, 4]);
    assert_eq!(ids(with(llama(), json!({"eos_token_id": null})), "{}").unwrap(), Vec::<u32>::new());
    refused(ids(llama(), r#"{"eos_token_id": "2"}"#), &["generation_config.json", "eos_token_id", "\"2\""]);
    refused(ids(llama(), "nonsense"), &["generation_config.json"]);
    refused(ids(llama(), r#"{"eos_token_id": [2, 300]}"#), &["eos", "300", "vocabulary"]);
    refused(ids(llama(), r#"{"eos_token_id": 301}"#), &["generation_config.json", "301"]);
    assert_eq!(ids(with(llama(), json!({"eos_token_id": 999})), r#"{"eos_token_id": 3}"#).unwrap(), [3]);
    broken(llama(), json!({"eos_token_id": 300}), &["eos", "300", "vocabulary"]);
    broken(llama(), json!({"bos_token_id": 300}), &["bos", "300", "vocabulary"]);
    broken(llama(), json!({"eos_token_id": -1}), &["eos_token_id", "-1"]);
    broken(llama(), json!({"eos_token_id": 4294967296u64}), &["eos_token_id"]);
}

#[test]
fn mistral_has_a_window_and_llama_none() {
    let mistral = || with(llama(), json!({"model_type": "mistral"}));
    let window = |changes: Value| attention(&accepted(mistral(), changes)).window;
    assert_eq!(window(json!({"sliding_window": null})), None);
    assert_eq!(window(json!({"sliding_window": 63})), Some(63));
    assert_eq!(window(json!({})), Some(4096), "transformers' default for mistral");
    assert_eq!(attention(&accepted(llama(), json!({"sliding_window": 7}))).window, None, "transformers reads none");
    broken(mistral(), json!({"sliding_window": 0}), &["sliding_window", "whole number from 1", "0"]);
    let config = accepted(mistral(), json!({"attention_bias": true, "mlp_bias": true}));
    assert!(!attention(&config).qkv_bias && !block(&config).mlp.bias, "transformers reads none");
}

#[test]
fn qwen2_has_biases_and_windows_in_its_upper_blocks() {
    let qwen2 = |changes: Value| with(with(llama(), json!({"model_type": "qwen2"})), changes);
    let config = parse(&qwen2(json!({"sliding_window": 9, "max_window_layers": 1}))).unwrap();
    let spec = attention(&config);
    assert!(spec.qkv_bias && !spec.out_bias && spec.qk_norm.is_none() && spec.window.is_none());
    let windows = |changes: Value| -> Vec<Option<usize>> {
        let config = accepted(qwen2(json!({"use_sliding_window": true})), changes);
        config.spec.blocks.iter().map(|block| block.attention().unwrap().window).collect()
    };
    assert_eq!(windows(json!({"sliding_window": 9, "max_window_layers": 1})), [None, Some(9)]);
    assert_eq!(windows(json!({"max_window_layers": 0})), [Some(4096); 2], "transformers' default window");
    assert_eq!(windows(json!({"sliding_window": 9})), [None; 2], "transformers' default of 28 blocks without");
    let types = json!(["sliding_attention", "full_attention"]);
    assert_eq!(windows(json!({"sliding_window": 9, "layer_types": types})), [Some(9), None]);
    broken(qwen2(json!({})), json!({ "layer_types": types }), &["layer_types", "use_sliding_window"]);
    for wrong in [json!(["full_attention"]), json!(["full_attention", "linear_attention"]), json!("full_attention")] {
        broken(qwen2(json!({})), json!({ "layer_types": wrong }), &["layer_types", "2 times"]);
    }
    broken(qwen2(json!({"use_sliding_window": true})), json!({"sliding_window": 0}), &["sliding_window", "0"]);
}

#[test]
fn qwen3_normalises_heads_of_a_size_of_their_own() {
    let qwen3 = json!({"model_type": "qwen3", "rms_norm_eps": 1e-3});
    let config = accepted(llama(), qwen3.clone());
    let spec = attention(&config);
    assert_eq!((spec.head_dim, spec.q_size(), spec.scale), (128, 512, 1.0 / 128f32.sqrt()), "transformers' default");
    assert_eq!(spec.qk_norm.map(|norm| norm.eps), Some(1e-3));
    assert!(!spec.qkv_bias && !spec.out_bias);
    let config = accepted(with(llama(), qwen3), json!({"head_dim": 6, "attention_bias": true}));
    assert!(attention(&config).qkv_bias && attention(&config).out_bias);
    let tensors = config.expected_tensors();
    let norm = ("model.layers.1.self_attn.k_norm.weight".to_owned(), vec![6]);
    assert!(tensors.contains(&norm), "{tensors:?}");
    assert_eq!(tensors.len(), 2 + 2 * (2 + 4 * 2 + 2 + 3));
}

#[test]
fn whatever_would_change_the_result_is_refused_by_name() {
    unsupported(llama(), json!({"model_type": "qwen9"}), &["model_type", "qwen9", "llama", "mistral", "gpt_neox"]);
    unsupported(llama(), json!({"hidden_act": "relu"}), &["hidden_act", "relu", "silu"]);
    unsupported(gpt_neox(), json!({"hidden_act": "quick_gelu"}), &["hidden_act", "quick_gelu", "gelu_new"]);
    unsupported(gpt_neox(), json!({"hidden_act": "silu"}), &["hidden_act", "silu"]);
    for rope_type in ["linear", "dynamic", "yarn", "mrope"] {
        unsupported(llama(), json!({"rope_scaling": {"type": rope_type, "factor": 2.0}}), &[rope_type]);
        unsupported(gpt_neox(), json!({"rope_parameters": {"rope_type": rope_type, "factor": 2.0}}), &[rope_type]);
    }
    let nested = json!({"rope_parameters": {"full_attention": {"rope_type": "default"}}});
    unsupported(llama(), nested, &["full_attention"]);
    unsupported(llama(), json!({"partial_rotary_factor": 0.5}), &["partial", "0.5"]);
    unsupported(gpt_neox(), json!({"num_key_value_heads": 2}), &["num_key_value_heads", "4", "2"]);
    unsupported(gpt_neox(), json!({"head_dim": 16}), &["head_dim", "8", "16"]);
    for (key, value) in [
        ("quantization_config", json!({"bits": 4})),
        ("attn_logit_softcapping", json!(50.0)),
        ("final_logit_softcapping", json!(30.0)),
        ("logit_scale", json!(0.0625)),
        ("logits_scaling", json!(8.0)),
        ("residual_multiplier", json!(0.22)),
        ("embedding_multiplier", json!(12.0)),
        ("attention_multiplier", json!(0.015625)),
        ("layer_types", json!(["full_attention", "linear_attention"])),
        ("no_rope_layers", json!([1, 1, 1, 0])),
        ("num_local_experts", json!(8)),
        ("qk_norm", json!(true)),
        ("clip_qkv", json!(8.0)),
        ("is_encoder_decoder", json!(true)),
        ("position_embedding_type", json!("alibi")),
    ] {
        for base in [llama(), gpt_neox()] {
            unsupported(base, json!({ key: value }), &[key]);
        }
    }
    for (key, value, by) in [
        ("quantization", json!({"group_size": 64, "bits": 4}), "by MLX"),
        ("quantization_config", json!({"quant_method": "bitsandbytes", "load_in_4bit": true}), "by bitsandbytes"),
        ("quantization_config", json!({"quant_method": "gptq", "bits": 4}), "by GPTQ"),
        ("quantization_config", json!({"quant_method": "awq", "bits": 4}), "by AWQ"),
        ("quantization_config", json!({"quant_method": "fp8"}), "by FP8"),
        ("quantization_config", json!({"quant_method": "compressed-tensors"}), "by compressed-tensors"),
        ("quantization_config", json!({"quant_method": "new"}), "by new"),
    ] {
        unsupported(llama(), json!({ key: value }), &[key, "the weights are packed", by, "BF16, F16 or F32"]);
    }
}

#[test]
fn neutral_values_of_the_same_fields_are_accepted() {
    let neutral = json!({
        "pretraining_tp": 1, "quantization_config": null, "attn_logit_softcapping": null, "logit_scale": 1.0,
        "residual_multiplier": 1, "layer_types": ["full_attention", "full_attention"], "no_rope_layers": [],
        "num_local_experts": 0, "qk_norm": false, "is_encoder_decoder": false, "rope_scaling": {}, "partial_rotary_factor": 1.0
    });
    accepted(llama(), neutral);
}

#[test]
fn configurations_are_read_as_tools_write_them() {
    let parse = |text: &str| ModelConfig::parse(text.as_bytes(), None);
    let config = with(llama(), json!({"pretraining_tp": 4})).to_string();
    let plain = parse(&config).unwrap();
    for written in [
        format!("\u{feff}{config}"),
        config.replacen('{', "{\"max_grad\": Infinity, \"list\": [NaN, -Infinity], \"NaN\": \"-Infinity\",", 1),
    ] {
        assert_eq!(format!("{:?}", parse(&written).unwrap()), format!("{plain:?}"), "{written}");
    }
    // Of a field that is read they are no numbers.
    refused(parse(&config.replace("10000.0", "Infinity")), &["rope_theta", "Infinity"]);
    refused(parse(&config.replace("0.00001", "NaN").replace("1e-5", "NaN")), &["rms_norm_eps", "NaN"]);
}

#[test]
fn sizes_that_make_no_sense_are_refused_with_the_field() {
    let sizes = [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
    ];
    for key in sizes {
        for base in [llama(), gpt_neox()] {
            broken(base.clone(), json!({ key: null }), &[key, "missing"]);
            for value in [json!(0), json!(-1), json!(1.5), json!("8"), json!([8]), json!(2147483648u64), json!(1e300)] {
                broken(base.clone(), json!({ key: value }), &[key, "whole number"]);
            }
        }
    }
    broken(llama(), json!({"hidden_size": 9}), &["hidden_size", "9", "num_attention_heads", "4"]);
    broken(llama(), json!({"num_key_value_heads": 3}), &["num_attention_heads", "4", "num_key_value_heads", "3"]);
    broken(llama(), json!({"num_key_value_heads": 8}), &["num_key_value_heads"]);
    broken(llama(), json!({"num_hidden_layers": 2147483647}), &["num_hidden_layers", "2147483647"]);
    broken(llama(), json!({"head_dim": 2147483646}), &["head_dim"]);
    broken(
        llama(),
        json!({"head_dim": 65536, "num_attention_heads": 65536, "num_key_value_heads": 1}),
        &["num_attention_heads"],
    );
    broken(llama(), json!({"head_dim": 3}), &["even", "3"]);
    broken(llama(), json!({"rms_norm_eps": 0}), &["rms_norm_eps", "above 0"]);
    broken(llama(), json!({"rms_norm_eps": "1e-5"}), &["rms_norm_eps"]);
    broken(gpt_neox(), json!({"layer_norm_eps": -1e-5}), &["layer_norm_eps"]);
    broken(llama(), json!({"rope_theta": 1e-300}), &["rope_theta", "at least 1"]);
    broken(llama(), json!({"rope_theta": 0}), &["rope_theta"]);
    broken(llama(), json!({"rope_theta": [10000]}), &["rope_theta"]);
    broken(gpt_neox(), json!({"rope_theta": 5e5}), &["rotary_emb_base", "rope_theta", "disagree"]);
    broken(gpt_neox(), json!({"rotary_pct": 1.5}), &["rotary_pct", "1.5"]);
    broken(gpt_neox(), json!({"rotary_pct": 0.01}), &["rotated"]);
    broken(llama(), json!({"tie_word_embeddings": "yes"}), &["tie_word_embeddings", "yes"]);
    broken(llama(), json!({"model_type": null}), &["model_type", "missing"]);
    broken(llama(), json!({"model_type": 5}), &["model_type", "5"]);
    broken(llama(), json!({"rope_scaling": {"type": "llama3", "factor": 8.0}}), &["low_freq_factor", "missing"]);
    let equal =
        json!({"rope_scaling": {"type": "llama3", "factor": 8.0, "low_freq_factor": 2.0, "high_freq_factor": 2.0}});
    broken(llama(), equal, &["high_freq_factor"]);
    for text in ["", "[]", "5", "{", "{\"a\":1e999}"] {
        refused(ModelConfig::parse(text.as_bytes(), None), &["config.json", "JSON object"]);
    }
    refused(ModelConfig::parse(&[0xff, 0xfe], None), &["config.json"]);
}

#[test]
fn expected_tensors_have_hugging_faces_names_and_shapes() {
    let config = accepted(
        llama(),
        json!({"tie_word_embeddings": false, "head_dim": 6, "attention_bias": true, "mlp_bias": true}),
    );
    let tensors: std::collections::BTreeMap<_, _> = config.expected_tensors().into_iter().collect();
    assert_eq!(tensors.len(), 3 + 2 * (2 + 2 * 7));
    for (name, shape) in [
        ("model.embed_tokens.weight", vec![300, 8]),
        ("model.layers.1.self_attn.q_proj.weight", vec![24, 8]),
        ("model.layers.1.self_attn.k_proj.bias", vec![12]),
        ("model.layers.0.self_attn.o_proj.weight", vec![8, 24]),
        ("model.layers.0.self_attn.o_proj.bias", vec![8]),
        ("model.layers.0.mlp.down_proj.weight", vec![8, 12]),
        ("model.layers.0.mlp.gate_proj.bias", vec![12]),
        ("model.norm.weight", vec![8]),
        ("lm_head.weight", vec![300, 8]),
    ] {
        assert_eq!(tensors.get(name), Some(&shape), "{name}");
    }
    assert!(!parse(&llama()).unwrap().expected_tensors().iter().any(|(name, _)| name == "lm_head.weight"));

    let config = parse(&gpt_neox()).unwrap();
    let tensors: std::collections::BTreeMap<_, _> = config.expected_tensors().into_iter().collect();
    assert_eq!(tensors.len(), 4 + 2 * 12);
    for (name, shape) in [
        ("gpt_neox.embed_in.weight", vec![300, 32]),
        ("gpt_neox.layers.1.attention.query_key_value.weight", vec![96, 32]),
        ("gpt_neox.layers.1.attention.query_key_value.bias", vec![96]),
        ("gpt_neox.layers.0.mlp.dense_4h_to_h.weight", vec![32, 64]),
        ("gpt_neox.layers.0.post_attention_layernorm.bias", vec![32]),
        ("gpt_neox.final_layer_norm.weight", vec![32]),
        ("embed_out.weight", vec![300, 32]),
    ] {
        assert_eq!(tensors.get(name), Some(&shape), "{name}");
    }
    let names = [config.embedding_name(), config.lm_head_name()];
    assert_eq!(names, ["gpt_neox.embed_in.weight", "embed_out.weight"]);
}

#[test]
fn known_buffers_are_told_from_unknown_tensors() {
    let (tied, neox) = (parse(&llama()).unwrap(), parse(&gpt_neox()).unwrap());
    assert!(tied.is_known_buffer("lm_head.weight") && !neox.is_known_buffer("embed_out.weight"));
    assert!(tied.is_known_buffer("model.layers.0.self_attn.rotary_emb.inv_freq"));
    assert!(neox.is_known_buffer("gpt_neox.layers.3.attention.masked_bias"));
    assert!(neox.is_known_buffer("gpt_neox.layers.3.attention.bias"));
    assert!(!neox.is_known_buffer("gpt_neox.layers.3.attention.dense.bias"));
    assert!(!tied.is_known_buffer("model.layers.0.self_attn.q_norm.weight"));
    assert!(tied.is_in_block("model.layers.1.self_attn.q_norm.weight"));
    for outside in ["model.layers.2.eh_proj.weight", "model.norm.weight", "model.layers.x", "model.layersx.0.a"] {
        assert!(!tied.is_in_block(outside), "{outside}");
    }
}

#[test]
fn stories260k_is_read() {
    let Some(folder) = common::shared("models/stories260K") else { return };
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let config = ModelConfig::parse(&read("config.json"), Some(&read("generation_config.json"))).unwrap();
    assert_eq!((config.hidden_size, config.num_key_value_heads, config.head_dim), (64, 4, 8));
    assert_eq!((&config.eos_token_ids, rope(&config).theta), (&vec![2], 1e4));
}

/// Gemma 2 as its checkpoints have it.
fn gemma2() -> Value {
    json!({
        "model_type": "gemma2", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 100, "max_position_embeddings": 512,
        "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 64, "rms_norm_eps": 1e-6, "sliding_window": 32,
        "rope_theta": 10000.0, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "attention_bias": false,
    })
}

#[test]
fn gemma2_caps_scores_and_logits() {
    let caps = |config: &ModelConfig| (config.spec.last_attention().softcap, config.spec.logit_softcap);
    let config = parse(&gemma2()).unwrap();
    assert_eq!(caps(&config), (Some(50.0), Some(30.0)));
    let windows: Vec<_> = config.spec.blocks.iter().map(|block| block.attention().unwrap().window).collect();
    assert_eq!(windows, [Some(32), None, Some(32)]);
    assert!(config.spec.blocks.iter().all(|block| block.post_norm && block.attention().unwrap().qk_norm.is_none()));
    assert!(config.spec.tied && config.spec.embedding_scale == 8.0 && config.spec.last_attention().scale == 0.125);
    // `null` is no cap; where nothing is said, transformers has one.
    let none = json!({"attn_logit_softcapping": null, "final_logit_softcapping": null});
    assert_eq!(caps(&accepted(gemma2(), none)), (None, None));
    let mut silent = gemma2();
    silent.as_object_mut().unwrap().retain(|key, _| !key.ends_with("softcapping"));
    assert_eq!(caps(&parse(&silent).unwrap()), (Some(50.0), Some(30.0)));
    let types = json!(["full_attention", "sliding_attention", "sliding_attention"]);
    let config = accepted(gemma2(), json!({"layer_types": types}));
    assert_eq!(config.spec.blocks[0].attention().unwrap().window, None);
    for wrong in [json!(-1.0), json!(1e-50), json!(1e300), json!("30")] {
        broken(gemma2(), json!({"final_logit_softcapping": wrong}), &["final_logit_softcapping", "a"]);
    }
    unsupported(gemma2(), json!({"use_bidirectional_attention": true}), &["use_bidirectional_attention"]);
}

/// Qwen3.5 as its checkpoints have it: a model of text and images.
fn qwen3_5() -> Value {
    let ropes = json!({
        "rope_theta": 1e7, "rope_type": "default", "partial_rotary_factor": 0.25, "mrope_section": [11, 11, 10],
        "mrope_interleaved": true,
    });
    let text = json!({
        "model_type": "qwen3_5_text", "hidden_size": 1024, "intermediate_size": 3584, "num_hidden_layers": 8,
        "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 256, "vocab_size": 248320, "hidden_act": "silu",
        "max_position_embeddings": 262144, "rms_norm_eps": 1e-6, "full_attention_interval": 4, "attn_output_gate": true,
        "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_num_key_heads": 16,
        "linear_num_value_heads": 16, "mamba_ssm_dtype": "float32", "mtp_num_hidden_layers": 1,
        "mtp_use_dedicated_embeddings": false, "rope_parameters": ropes, "attention_bias": false, "eos_token_id": 248044,
        "dtype": "bfloat16",
    });
    json!({
        "architectures": ["Qwen3_5ForConditionalGeneration"], "model_type": "qwen3_5", "text_config": text,
        "tie_word_embeddings": true, "vision_config": {"depth": 12, "hidden_size": 768}, "image_token_id": 248056,
    })
}

/// The same with changes of its text part.
fn with_text(changes: Value) -> Value {
    let mut config = qwen3_5();
    config["text_config"].as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    config
}

#[test]
fn qwen3_5_has_delta_nets_and_gated_attention() {
    let config = parse(&qwen3_5()).unwrap();
    let attends = |config: &ModelConfig| -> Vec<bool> {
        config.spec.blocks.iter().map(|block| block.attention().is_some()).collect()
    };
    assert_eq!(attends(&config), [false, false, false, true, false, false, false, true]);
    let attention = config.spec.last_attention();
    assert!(attention.output_gate && !attention.qkv_bias);
    assert_eq!((attention.rope.rotary_dim, attention.rope.theta, attention.scale), (64, 1e7, 1.0 / 16.0));
    assert_eq!(attention.qk_norm.map(|norm| norm.offset), Some(1.0));
    assert!(config.spec.tied && config.spec.final_norm == (Norm::Rms { eps: 1e-6, offset: 1.0 }));
    assert_eq!(
        (&config.model_type[..], config.vocab_size, &config.eos_token_ids[..]),
        ("qwen3_5_text", 248320, &[248044][..])
    );
    let tensors = config.expected_tensors();
    for (name, shape) in [
        ("model.layers.0.linear_attn.in_proj_qkv.weight", vec![6144, 1024]),
        ("model.layers.0.linear_attn.conv1d.weight", vec![6144, 1, 4]),
        ("model.layers.0.linear_attn.A_log", vec![16]),
        ("model.layers.0.linear_attn.norm.weight", vec![128]),
        ("model.layers.3.self_attn.q_proj.weight", vec![4096, 1024]),
    ] {
        assert!(tensors.contains(&(name.to_owned(), shape)), "{name}");
    }
    assert_eq!(tensors.len(), 2 + 6 * 14 + 2 * 11);
    let types = json!(["full_attention", "linear_attention", "full_attention", "linear_attention"]);
    let config = parse(&with_text(json!({"num_hidden_layers": 4, "layer_types": types}))).unwrap();
    assert_eq!(attends(&config), [true, false, true, false]);

    let refuses = |changes: Value, words: &[&str]| unsupported(with_text(changes), json!({}), words);
    refuses(json!({"attn_output_gate": false}), &["`attn_output_gate` = false"]);
    refuses(json!({"full_attention_interval": 9}), &["no block has attention", "full_attention"]);
    refuses(json!({"linear_key_head_dim": 256}), &["`linear_key_head_dim` = 256", "multiple of 4 up to 128"]);
    refuses(json!({"linear_value_head_dim": 64}), &["`linear_value_head_dim` = 64", "multiple of 128"]);
    refuses(json!({"linear_conv_kernel_dim": 17}), &["`linear_conv_kernel_dim` = 17", "up to 16"]);
    refuses(json!({"linear_num_value_heads": 1040}), &["17039360 elements", "16777216"]);
    refuses(json!({"quantization_config": {"quant_method": "fp8"}}), &["quantization_config", "FP8"]);
    broken(with_text(json!({"linear_num_key_heads": 3})), json!({}), &["linear_num_value_heads", "multiple of"]);
    let types = json!(vec!["sliding_attention"; 8]);
    broken(with_text(json!({"layer_types": types})), json!({}), &["layer_types", "8 times", "linear_attention"]);
    // What stands beside the text part counts where that says nothing.
    unsupported(
        with_text(json!({})),
        json!({"quantization_config": {"quant_method": "gptq"}}),
        &["quantization_config", "GPTQ"],
    );
}

/// Gemma 3 as its first checkpoints wrote it, before version 5 of transformers.
fn gemma3() -> Value {
    json!({
        "model_type": "gemma3_text", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 8, "num_attention_heads": 4,
        "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 100, "max_position_embeddings": 512,
        "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 64, "rms_norm_eps": 1e-6, "sliding_window": 32,
        "sliding_window_pattern": 6, "rope_local_base_freq": 10000.0, "rope_theta": 1e6, "rope_scaling": null,
        "attn_logit_softcapping": null, "final_logit_softcapping": null, "attention_bias": false,
    })
}

#[test]
fn gemma3_has_windows_and_ropes_by_block() {
    let norm = Norm::Rms { eps: 1e-6, offset: 1.0 };
    let kinds = |config: &ModelConfig| -> Vec<(Option<usize>, f64)> {
        let attentions = config.spec.attentions();
        attentions.map(|attention| (attention.window, attention.rope.theta)).collect()
    };
    let (local, global) = ((Some(32), 1e4), (None, 1e6));
    let config = parse(&gemma3()).unwrap();
    assert_eq!(kinds(&config), [local, local, local, local, local, global, local, local]);
    assert!(config.spec.tied && config.spec.embedding_scale == 8.0 && config.spec.final_norm == norm);
    for block in &config.spec.blocks {
        assert!(block.norm == norm && block.post_norm && block.mlp.activation == Activation::GeluTanh);
        let attention = block.attention().unwrap();
        assert_eq!((attention.scale, attention.qk_norm.map(|norm| norm.offset)), (0.125, Some(1.0)));
    }
    // As version 5 writes it.
    let types = json!(["sliding_attention", "full_attention"]);
    let ropes = json!({"sliding_attention": {"rope_theta": 5000.0}, "full_attention": {"rope_theta": 70000.0}});
    let newer = json!({
        "num_hidden_layers": 2, "layer_types": types, "rope_parameters": ropes, "rope_theta": null, "rope_local_base_freq": null,
    });
    assert_eq!(kinds(&accepted(gemma3(), newer)), [(Some(32), 5000.0), (None, 70000.0)]);
    unsupported(gemma3(), json!({"attn_logit_softcapping": 50.0}), &["attn_logit_softcapping"]);
    unsupported(gemma3(), json!({"final_logit_softcapping": 30.0}), &["final_logit_softcapping"]);
    unsupported(gemma3(), json!({"rope_scaling": {"factor": 8.0, "rope_type": "linear"}}), &["rope_scaling"]);
    let linear = json!({"full_attention": {"rope_type": "linear", "factor": 8.0}});
    unsupported(gemma3(), json!({"rope_parameters": linear}), &["linear"]);
    broken(gemma3(), json!({"sliding_window": 0}), &["sliding_window", "1 to"]);
    // Families without such fields go on refusing them.
    unsupported(llama(), json!({"query_pre_attn_scalar": 64}), &["query_pre_attn_scalar"]);
}

/// Phi-4-mini's rope, in a model of two blocks.
fn phi3() -> Value {
    json!({
        "model_type": "phi3", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 100, "max_position_embeddings": 131072, "original_max_position_embeddings": 4096,
        "partial_rotary_factor": 0.75, "rope_theta": 10000.0, "sliding_window": 262144, "rms_norm_eps": 1e-5,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.0, 1.5, 1.5, 2.0, 2.0], "long_factor": [9, 9, 9, 9, 9, 9]},
    })
}

#[test]
fn phi3_rotates_short_texts_by_the_short_factors() {
    let config = parse(&phi3()).unwrap();
    let rope = rope(&config);
    assert_eq!((rope.rotary_dim, rope.longest, config.max_position_embeddings), (12, Some(4096), 4096));
    // The square root of 1 + ln(32) / ln(4096).
    assert!((rope.amplitude - (1.0f64 + 5.0 / 12.0).sqrt()).abs() < 1e-12, "{rope:?}");
    let frequencies = rope.inv_freq();
    assert!((frequencies[2] * 1.5 - 1e4f64.powf(-4.0 / 12.0)).abs() < 1e-6, "{frequencies:?}");
    let names: Vec<(String, Vec<usize>)> = config.expected_tensors();
    let shape =
        |end: &str| names.iter().find(|(name, _)| name == &format!("model.layers.1.{end}.weight")).unwrap().1.clone();
    assert_eq!((shape("self_attn.qkv_proj"), shape("mlp.gate_up_proj")), (vec![128, 64], vec![192, 64]));
    assert_eq!(names.len(), 2 * 6 + 3);
    // Newer files have it in one place; a factor may be stated.
    let parameters = json!({
        "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1, 1, 1, 1, 1, 1], "long_factor": [2, 2, 2, 2, 2, 2],
        "partial_rotary_factor": 0.75, "original_max_position_embeddings": 2048, "attention_factor": 1.25,
    });
    let changes = json!({"rope_scaling": null, "partial_rotary_factor": null, "rope_parameters": parameters});
    let config = accepted(phi3(), changes);
    let rope = self::rope(&config);
    assert_eq!((rope.amplitude, rope.rotary_dim, config.max_position_embeddings), (1.25, 12, 2048));
    for wrong in [json!(null), json!([1.0]), json!([1, 1, 1, 1, 1, 0]), json!([1, 1, 1, 1, 1, "a"])] {
        let changes = json!({"rope_scaling": {"type": "longrope", "short_factor": wrong}});
        broken(phi3(), changes, &["`short_factor`", "6 numbers above 0"]);
    }
}

#[test]
fn granite_has_factors() {
    let granite =
        with(llama(), json!({"model_type": "granite", "attention_multiplier": 0.5, "embedding_multiplier": 12}));
    let config = accepted(granite.clone(), json!({"residual_multiplier": 0.25, "logits_scaling": 8}));
    let spec = &config.spec;
    let factors = [spec.embedding_scale, attention(&config).scale, block(&config).residual_scale, spec.logit_scale];
    assert_eq!(factors, [12.0, 0.5, 0.25, 0.125]);
    // The factors that a configuration leaves out are 1 in transformers.
    let plain = parse(&with(llama(), json!({"model_type": "granite"}))).unwrap();
    assert_eq!((attention(&plain).scale, block(&plain).residual_scale, plain.spec.logit_scale), (1.0, 1.0, 1.0));
    for wrong in [json!(0), json!(-1), json!("8"), json!(1e-50), json!(1e300)] {
        broken(granite.clone(), json!({"logits_scaling": wrong}), &["`logits_scaling`"]);
    }
}

#[test]
fn smollm3_leaves_blocks_unrotated() {
    let smollm3 = with(llama(), json!({"model_type": "smollm3", "num_hidden_layers": 5}));
    let kinds = |changes: Value| -> Vec<(bool, Option<usize>)> {
        let config = accepted(smollm3.clone(), changes);
        config.spec.attentions().map(|attention| (attention.rope.rotary_dim > 0, attention.window)).collect()
    };
    let (rotates, still) = ((true, None), (false, None));
    assert_eq!(kinds(json!({})), [rotates, rotates, rotates, still, rotates]);
    assert_eq!(kinds(json!({"no_rope_layer_interval": 2})), [rotates, still, rotates, still, rotates]);
    assert_eq!(kinds(json!({"no_rope_layers": [0, 1, 1, 1, 1, 0, 0]})), [still, rotates, rotates, rotates, rotates]);
    let window = json!({"use_sliding_window": true, "sliding_window": 7});
    assert_eq!(kinds(window), [rotates, rotates, rotates, (false, Some(7)), rotates]);
    let types = vec!["full_attention", "full_attention", "full_attention", "full_attention", "sliding_attention"];
    broken(smollm3.clone(), json!({"layer_types": types}), &["sliding_attention", "no window is on"]);
    for wrong in [json!([1, 1]), json!([1, 1, 1, 1, 2]), json!("1")] {
        broken(smollm3.clone(), json!({"no_rope_layers": wrong}), &["`no_rope_layers`", "5 times 0 or 1"]);
    }
    // Where it is not said, it is tied.
    let mut silent = smollm3.clone();
    silent.as_object_mut().unwrap().remove("tie_word_embeddings");
    assert!(parse(&silent).unwrap().spec.tied);
}
