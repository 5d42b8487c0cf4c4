//! Small valid files, made here, from which the tests make broken ones.

use std::borrow::Cow;
use std::collections::BTreeMap;

use foretoken::format::config::ModelConfig;
use foretoken::format::files::MemoryFiles;
use serde_json::{Value, json};

/// A tiny Llama configuration.
pub fn llama() -> Value {
    json!({
        "model_type": "llama", "vocab_size": 300, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "hidden_act": "silu", "rope_theta": 10000.0, "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2
    })
}

/// A tiny GPT-NeoX configuration.
pub fn gpt_neox() -> Value {
    json!({
        "model_type": "gpt_neox", "vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 64, "layer_norm_eps": 1e-5, "hidden_act": "gelu",
        "rotary_pct": 0.25, "rotary_emb_base": 10000
    })
}

/// `base` with the fields of `changes` set.
pub fn with(mut base: Value, changes: Value) -> Value {
    let map = base.as_object_mut().expect("an object");
    map.extend(changes.as_object().expect("an object").clone());
    base
}

/// The bytes of a JSON value.
pub fn bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// The bytes of a file with this header and as many zero bytes of data.
pub fn safetensors(header: &str, data_len: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(vec![0; data_len]);
    file
}

/// A file with F32 tensors of zeros.
pub fn zeros(tensors: &[(String, Vec<usize>)]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, shape) in tensors {
        let start = end;
        end += 4 * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]}));
    }
    safetensors(&Value::Object(header).to_string(), end)
}

/// The files of a checkpoint, without a tokenizer, whose weights are zeros.
pub fn checkpoint(config: &Value) -> MemoryFiles {
    let expected = ModelConfig::parse(&bytes(config), None).expect("a valid configuration").expected_tensors();
    let files = [("config.json", bytes(config)), ("model.safetensors", zeros(&expected))];
    let files = files.map(|(name, bytes)| (name.to_owned(), Cow::Owned(bytes)));
    MemoryFiles { name: "memory".to_owned(), files: BTreeMap::from(files) }
}

/// A byte-level BPE tokenizer with two special tokens: ids 0 and 1, then the bytes' characters, then a few merges.
pub fn byte_level_tokenizer() -> Value {
    let mut tokens: Vec<String> = ["<s>", "</s>"].map(str::to_owned).to_vec();
    tokens.extend((0..=255u8).map(|byte| byte_char(byte).to_string()));
    let merges = [["h", "e"], ["Ġ", "he"], ["Ã", "¼"]];
    tokens.extend(merges.iter().map(|[left, right]| format!("{left}{right}")));
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<s>"), special(1, "</s>")],
        "normalizer": null, "pre_tokenizer": byte_level, "post_processor": byte_level, "decoder": byte_level,
        "model": model(&tokens, json!(merges), json!({}))
    })
}

/// A tokenizer as made from sentencepiece: a first space, `▁` for spaces, bytes for unknown characters.
pub fn byte_fallback_tokenizer() -> Value {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    tokens.extend((0..=255u8).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(["▁", "h", "e", "u", "ü", "▁h", "▁he"].map(str::to_owned));
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        ]},
        "pre_tokenizer": null,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
        },
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}
        ]},
        "model": model(&tokens, json!(["▁ h", "▁h e"]), json!({"byte_fallback": true, "unk_token": "<unk>", "fuse_unk": true}))
    })
}

/// The same vocabulary with a Metaspace pre-tokenizer and decoder.
pub fn metaspace_tokenizer() -> Value {
    let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    let changes = json!({"normalizer": null, "pre_tokenizer": metaspace, "decoder": metaspace});
    with(byte_fallback_tokenizer(), changes)
}

/// Every tokenizer made here, by name.
pub fn tokenizers() -> [(&'static str, Value); 3] {
    [
        ("byte level", byte_level_tokenizer()),
        ("byte fallback", byte_fallback_tokenizer()),
        ("metaspace", metaspace_tokenizer()),
    ]
}

fn special(id: u32, content: &str) -> Value {
    json!({
        "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        "special": true
    })
}

fn model(tokens: &[String], merges: Value, changes: Value) -> Value {
    let vocab: serde_json::Map<_, _> =
        tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    let model = json!({"type": "BPE", "dropout": null, "unk_token": null, "vocab": vocab, "merges": merges});
    with(model, changes)
}

/// The character that stands for a byte in byte-level vocabularies: printable ones for themselves, the others in order
/// from U+0100.
fn byte_char(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&other| !printable(other)).count() as u32;
    char::from_u32(0x100 + before).expect("a character")
}
