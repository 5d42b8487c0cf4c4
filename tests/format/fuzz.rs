//! Broken copies of valid files: an error or something consistent, never a panic.

use foretoken::format::checkpoint::Checkpoint;
use foretoken::format::config::ModelConfig;
use foretoken::format::mtp::HeadSet;
use foretoken::format::safetensors::{Header, Index};
use foretoken::format::stream::StreamDecoder;
use foretoken::format::tokenizer::Tokenizer;
use pollster::block_on;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::safetensors::parse;
use crate::samples::{bytes, checkpoint, gpt_neox, llama, safetensors, tokenizers};

/// Changes to a file: bytes overwritten (places are taken modulo the length), then the end cut off.
#[derive(Clone, Debug)]
struct Damage {
    writes: Vec<(usize, u8)>,
    cut: Option<usize>,
}

fn damage() -> impl Strategy<Value = Damage> {
    let byte = prop_oneof![any::<u8>(), prop::sample::select(b"0123456789\"{}[],:-.e \\".to_vec())];
    (prop::collection::vec((any::<usize>(), byte), 0..4), prop::option::weighted(0.2, any::<usize>()))
        .prop_map(|(writes, cut)| Damage { writes, cut })
}

impl Damage {
    fn apply(&self, mut file: Vec<u8>) -> Vec<u8> {
        for &(place, byte) in &self.writes {
            let len = file.len();
            file[place % len] = byte;
        }
        if let Some(cut) = self.cut {
            file.truncate(cut % file.len());
        }
        file
    }
}

/// Numbers that break careless arithmetic.
fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        prop::sample::select(vec![
            0,
            1,
            2,
            3,
            4,
            8,
            300,
            1 << 16,
            1 << 31,
            (1 << 31) - 1,
            1 << 32,
            1 << 62,
            1 << 63,
            u64::MAX
        ])
        .prop_map(|number| json!(number)),
        any::<u64>().prop_map(|number| json!(number)),
        any::<i64>().prop_map(|number| json!(number)),
        prop::sample::select(vec![
            json!(0.5),
            json!(-1),
            json!(1e308),
            json!(5e-324),
            json!(null),
            json!("8"),
            json!([]),
            json!({})
        ]),
    ]
}

/// What a parsed header must satisfy, whatever the file held.
fn assert_consistent(header: &Header, file_len: u64) {
    for tensor in header.tensors.values() {
        assert!(tensor.range.start >= 8 && tensor.range.start < tensor.range.end && tensor.range.end <= file_len);
        let elements: u64 = tensor.shape.iter().map(|&size| size as u64).product();
        assert_eq!(elements * tensor.dtype.unit().1 as u64, tensor.byte_len());
    }
}

const HEADER: &str = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},
    "b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]},"c":{"dtype":"I64","shape":[1],"data_offsets":[32,40]}}"#;

/// Every place of a JSON value, as pointers.
fn places(value: &Value, at: String, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, inner)| places(inner, format!("{at}/{key}"), found)),
        Value::Array(list) => list.iter().enumerate().for_each(|(i, inner)| places(inner, format!("{at}/{i}"), found)),
        _ => {}
    }
    found.push(at);
}

fn use_tokenizer(json: &[u8]) {
    let Ok(tokenizer) = Tokenizer::from_json(json) else { return };
    for text in ["", " ", "he he ü 🎈\n", "</s> <s>he"] {
        let Ok(ids) = tokenizer.encode(text, true) else { continue };
        let _ = tokenizer.encode_as_text(text);
        let _ = tokenizer.decode(&ids, true);
        let Ok(mut decoder) = StreamDecoder::new(&tokenizer, &ids, true) else { continue };
        (0..12).chain(250..270).for_each(|id| drop(decoder.push(id)));
        let _ = decoder.finish();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn damaged_safetensors(damage in damage()) {
        let file = damage.apply(safetensors(HEADER, 40));
        if let Ok(header) = parse(&file) {
            assert_consistent(&header, file.len() as u64);
        }
    }

    #[test]
    fn any_bytes_as_safetensors(file in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = parse(&file);
        let _ = Header::parse("x", &file, u64::MAX);
        let _ = Index::parse("x", &file);
        let _ = ModelConfig::parse(&file, Some(&file));
        let _ = Tokenizer::from_json(&file);
    }

    #[test]
    fn any_numbers_in_a_header(shape in prop::collection::vec(number(), 0..4), start in number(), end in number(), len in 0..64u64) {
        let header = json!({"a": {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}}).to_string();
        let file_len = 8 + header.len() as u64 + len;
        if let Ok(header) = Header::parse("x", header.as_bytes(), file_len) {
            assert_consistent(&header, file_len);
        }
    }

    #[test]
    fn damaged_index(damage in damage()) {
        let file = damage.apply(br#"{"metadata":{"total_size":8},"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}}"#.to_vec());
        if let Ok(index) = Index::parse("x", &file) {
            assert!(index.shards().iter().all(|shard| !shard.contains(['/', '\\'])));
        }
    }

    #[test]
    fn damaged_config(damage in damage(), neox in any::<bool>()) {
        let file = damage.apply(bytes(&if neox { gpt_neox() } else { llama() }));
        if let Ok(config) = ModelConfig::parse(&file, None) {
            config.expected_tensors();
            config.spec.last_attention().rope.inv_freq();
        }
    }

    #[test]
    fn any_value_in_a_config(neox in any::<bool>(), changes in prop::collection::vec((any::<usize>(), number()), 1..4)) {
        let mut config = if neox { gpt_neox() } else { llama() };
        let keys: Vec<String> = config.as_object().unwrap().keys().cloned().collect();
        for (key, value) in changes {
            config[&keys[key % keys.len()]] = value;
        }
        if let Ok(config) = ModelConfig::parse(&bytes(&config), None) {
            let rope = &config.spec.last_attention().rope;
            prop_assert_eq!(rope.inv_freq().len() * 2, rope.rotary_dim);
            prop_assert!(rope.inv_freq().iter().all(|freq| freq.is_finite()));
            prop_assert!(rope.rotary_dim <= config.head_dim);
            for (_, shape) in config.expected_tensors() {
                prop_assert!(shape.iter().all(|&size| size > 0 && size < 1 << 31));
            }
        }
    }

    #[test]
    fn damaged_checkpoint(damage in damage(), which in any::<bool>()) {
        let mut files = checkpoint(&llama());
        let name = if which { "config.json" } else { "model.safetensors" };
        let file = files.files[name].to_vec();
        files.files.insert(name.to_owned(), damage.apply(file).into());
        if let Ok(opened) = block_on(Checkpoint::open(&files)) {
            let _ = opened.check();
            opened.account();
            opened.multi_token_heads();
            for info in opened.tensors() {
                let bytes = block_on(opened.read(info)).unwrap();
                let _ = info.check_finite(&bytes);
            }
        }
    }

    #[test]
    fn damaged_heads(damage in damage(), which in any::<bool>()) {
        let mut files = checkpoint(&llama());
        files.files.extend(crate::mtp::folder(&crate::mtp::described(), &crate::mtp::tensors()).files);
        let name = if which { "mtp_config.json" } else { "mtp.safetensors" };
        let file = files.files[name].to_vec();
        files.files.insert(name.to_owned(), damage.apply(file).into());
        let opened = block_on(Checkpoint::open(&files)).unwrap();
        if let Ok(Some(set)) = block_on(HeadSet::of_checkpoint(&opened)) {
            set.summary();
            set.parameters(opened.config());
        }
    }

    #[test]
    fn any_value_in_heads(place in any::<prop::sample::Index>(), value in number()) {
        let mut description = crate::mtp::described();
        let pointers = ["/version", "/backbone/head_dim", "/heads/1/offset", "/heads/1/layers", "/heads/1/source/layer",
            "/heads/2/source/mix/temperature", "/lora/rank", "/lora/alpha", "/lora/blocks/0"];
        *description.pointer_mut(place.get::<&str>(&pointers)).expect("a place") = value;
        let files = crate::mtp::folder(&description, &crate::mtp::tensors());
        let config = ModelConfig::parse(&bytes(&llama()), None).unwrap();
        let _ = block_on(HeadSet::open(&files, &config));
    }

    #[test]
    fn damaged_tokenizer(damage in damage(), which in 0..3usize) {
        use_tokenizer(&damage.apply(bytes(&tokenizers()[which].1)));
    }

    #[test]
    fn any_value_in_a_tokenizer(which in 0..3usize, place in any::<prop::sample::Index>(), value in number()) {
        let mut file = tokenizers()[which].1.clone();
        let mut found = Vec::new();
        let frame = json!({"a": file["added_tokens"], "n": file["normalizer"], "p": file["pre_tokenizer"],
            "t": file["post_processor"], "d": file["decoder"]});
        places(&frame, String::new(), &mut found);
        let pointer = place.get(&found);
        let pointer = [("/a", "/added_tokens"), ("/n", "/normalizer"), ("/p", "/pre_tokenizer"), ("/t", "/post_processor"), ("/d", "/decoder")]
            .iter().find_map(|(short, long)| pointer.strip_prefix(short).map(|rest| format!("{long}{rest}")));
        if let Some(target) = pointer.and_then(|pointer| file.pointer_mut(&pointer)) {
            *target = value;
        }
        use_tokenizer(&bytes(&file));
    }
}
