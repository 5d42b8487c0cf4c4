//! Whole checkpoints: single and sharded files, missing ones, accounting of tensors, traces of multi-token heads.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use foretoken::format::checkpoint::{Checkpoint, HeadKind};
use foretoken::format::files::{Files, Known, MemoryFiles};
use foretoken::format::spec::{BlockRole, Part, Role};
use foretoken::{ErrorKind, Result};
use pollster::block_on;
use serde_json::{Value, json};

use crate::refused;
use crate::samples::{byte_level_tokenizer, bytes, checkpoint, gpt_neox, llama, safetensors, with, zeros};

fn open(files: &MemoryFiles) -> Result<Checkpoint<'_, MemoryFiles>> {
    block_on(Checkpoint::open(files))
}

fn put(files: &mut MemoryFiles, name: &str, content: Vec<u8>) {
    files.files.insert(name.to_owned(), Cow::Owned(content));
}

fn tensors(list: &[(&str, &[usize])]) -> Vec<(String, Vec<usize>)> {
    list.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec())).collect()
}

/// The sample with its tensors in two shards and further ones in the second.
fn sharded(extra: &[(&str, &[usize])]) -> MemoryFiles {
    let mut files = checkpoint(&llama());
    let expected = open(&files).unwrap().config().expected_tensors();
    let (first, second) = expected.split_at(5);
    let second = [second, &tensors(extra)].concat();
    let mut weight_map = serde_json::Map::new();
    for (shard, list) in [("m-1.safetensors", first), ("m-2.safetensors", &second)] {
        weight_map.extend(list.iter().map(|(name, _)| (name.clone(), json!(shard))));
        put(&mut files, shard, zeros(list));
    }
    files.files.remove("model.safetensors");
    put(&mut files, "model.safetensors.index.json", bytes(&json!({"weight_map": weight_map})));
    files
}

#[test]
fn a_checkpoint_in_one_file_opens() {
    let files = checkpoint(&llama());
    let opened = open(&files).unwrap();
    opened.check().unwrap();
    let info = opened.require("model.norm.weight", &[8]).unwrap();
    assert_eq!(block_on(opened.read(info)).unwrap().len(), 32);
    assert_eq!(block_on(opened.read_range(info, 4..12)).unwrap().len(), 8);
    for range in [0..33, 33..34, u64::MAX - 1..u64::MAX] {
        refused(block_on(opened.read_range(info, range)), &["model.norm.weight", "32 bytes"]);
    }
    #[expect(clippy::reversed_empty_ranges, reason = "the broken range is what is tested")]
    let backwards = 8..4;
    refused(block_on(opened.read_range(info, backwards)), &["model.norm.weight"]);
    assert_eq!(opened.names().count(), opened.config().expected_tensors().len());
    let account = opened.account();
    assert_eq!(account.used.len(), opened.names().count());
    assert!(account.missing.is_empty() && account.unknown.is_empty() && account.ignored.is_empty());
    assert!(opened.multi_token_heads().is_empty() && !opened.has_tokenizer());
}

#[test]
fn shards_open_and_must_agree_with_their_index() {
    let files = sharded(&[]);
    open(&files).unwrap().check().unwrap();

    let mut files = sharded(&[]);
    files.files.remove("m-2.safetensors");
    refused(open(&files), &["m-2.safetensors", "not found", "memory", "index.json"]);

    let mut files = sharded(&[("extra", &[2])]);
    put(&mut files, "m-2.safetensors", zeros(&tensors(&[("extra", &[2])])));
    refused(open(&files).unwrap().check(), &["model.layers.0", "is missing"]);

    let mut files = sharded(&[]);
    put(&mut files, "m-2.safetensors", zeros(&tensors(&[("model.embed_tokens.weight", &[300, 8])])));
    refused(open(&files).unwrap().check(), &["model.layers.0", "is missing"]);

    let mut files = sharded(&[]);
    put(&mut files, "model.safetensors.index.json", br#"{"weight_map":{"a":"../../etc/passwd"}}"#.to_vec());
    refused(open(&files), &["index.json", "../../etc/passwd"]);
}

#[test]
fn what_the_model_does_not_need_may_be_anywhere() {
    // A shard that holds more than the index lists, and an index that lists what no shard has, or what is in one that is not there.
    let mut files = sharded(&[("mtp.fc.weight", &[8, 16])]);
    let index = |files: &MemoryFiles| -> serde_json::Value {
        serde_json::from_slice(&files.files["model.safetensors.index.json"]).unwrap()
    };
    let mut map = index(&files);
    map["weight_map"].as_object_mut().unwrap().remove("mtp.fc.weight");
    map["weight_map"]["gone"] = json!("m-1.safetensors");
    map["weight_map"]["far"] = json!("m-3.safetensors");
    put(&mut files, "model.safetensors.index.json", bytes(&map));
    let opened = open(&files).unwrap();
    opened.check().unwrap();
    assert!(opened.tensor("mtp.fc.weight").is_some());
    // Of one tensor in two shards the index knows which; without its word nobody does.
    let expected = open(&files).unwrap().config().expected_tensors();
    put(&mut files, "m-1.safetensors", zeros(&[&expected[..5], &expected[7..8]].concat()));
    open(&files).unwrap().check().unwrap();
    let twice = tensors(&[("mtp.fc.weight", &[8, 16])]);
    put(&mut files, "m-1.safetensors", zeros(&[&expected[..5], &twice].concat()));
    refused(open(&files), &["m-2.safetensors", "\"mtp.fc.weight\" is in another file too"]);
}

#[test]
fn tensors_without_an_index_are_found() {
    let whole = checkpoint(&llama());
    let under = |names: &[(&str, &str)]| {
        let mut files = whole.clone();
        let weights = files.files.remove("model.safetensors").unwrap();
        for (name, from) in names {
            let content = if *from == "model" { weights.clone() } else { Cow::Owned(zeros(&tensors(&[(from, &[1])]))) };
            files.files.insert((*name).to_owned(), content);
        }
        files
    };
    for names in [
        &[("model-00001-of-00001.safetensors", "model")][..],
        &[("model-00001-of-00002.safetensors", "x"), ("model-00002-of-00002.safetensors", "model")],
        &[("pytorch_model-00001-of-00002.safetensors", "model"), ("pytorch_model-00002-of-00002.safetensors", "x")],
        &[("consolidated.safetensors", "model")],
        &[("weights.safetensors", "model"), ("mtp.safetensors", "x")],
    ] {
        open(&under(names)).unwrap().check().unwrap();
    }
    let lost = under(&[("model-00001-of-00002.safetensors", "model")]);
    refused(open(&lost), &["model-00002-of-00002.safetensors not found"]);
    let twice = under(&[("model-00001-of-00002.safetensors", "x"), ("model-00002-of-00002.safetensors", "x")]);
    refused(open(&twice), &["\"x\" is in another file too"]);
    let several: [&[(&str, &str)]; 2] = [
        &[("a.safetensors", "model"), ("b.safetensors", "model")],
        &[("a-00001-of-00001.safetensors", "model"), ("b-00001-of-00001.safetensors", "model")],
    ];
    for names in several {
        let ([(a, _), (b, _)], files) = ([names[0], names[1]], under(names));
        let named = format!("{a}, {b} are there, and nothing says which of them are the model");
        refused(open(&files), &["model.safetensors not found", &named]);
    }
    refused(open(&under(&[("model-00001-of-00000.safetensors", "x")])).and_then(|opened| opened.check()), &["missing"]);
}

#[test]
fn tensors_are_found_under_what_wrapped_the_model() {
    let wrapped = |config: &serde_json::Value, name: &dyn Fn(&str) -> String| {
        let mut files = checkpoint(config);
        let expected = open(&files).unwrap().config().expected_tensors();
        let list: Vec<_> = expected.into_iter().map(|(old, shape)| (name(&old), shape)).collect();
        put(&mut files, "model.safetensors", zeros(&list));
        files
    };
    let untied = with(llama(), json!({"tie_word_embeddings": false}));
    for config in [llama(), untied, gpt_neox()] {
        let ways: [&dyn Fn(&str) -> String; 9] = [
            &|name| format!("module.{name}"),
            &|name| format!("_orig_mod.{name}"),
            &|name| format!("module._orig_mod.{name}"),
            &|name| format!("base_model.model.{name}"),
            &|name| format!("_fsdp_wrapped_module.{name}"),
            // A part of the model is wrapped.
            &|name| name.replacen("model.", "model._orig_mod.", 1).replacen("gpt_neox.", "gpt_neox._orig_mod.", 1),
            &|name| name.replace("layers.1.", "layers.1._checkpoint_wrapped_module.module."),
            &|name| name.strip_prefix("model.").or(name.strip_prefix("gpt_neox.")).unwrap_or(name).to_owned(),
            &|name| if config["model_type"] == "llama" { format!("model.{name}") } else { format!("gpt_neox.{name}") },
        ];
        for (number, way) in ways.into_iter().enumerate() {
            let files = wrapped(&config, way);
            open(&files).unwrap().check().unwrap_or_else(|error| panic!("way {number}: {error}"));
        }
    }
    // Not all are there, or one of them twice: nothing is guessed, and the error says what there is.
    let odd = wrapped(&llama(), &|name| format!("student.{name}"));
    refused(
        open(&odd).unwrap().check(),
        &["\"model.embed_tokens.weight\" is missing", "\"student.model.embed_tokens.weight\" is there instead"],
    );
    // What is missing is said by its own name, and what is there of a product that is packed.
    let headless = wrapped(&with(llama(), json!({"tie_word_embeddings": false})), &|name| {
        if name == "lm_head.weight" { "odd".to_owned() } else { name.replacen("model.", "", 1) }
    });
    let error = refused(open(&headless).unwrap().check(), &["\"lm_head.weight\" is missing"]);
    assert!(!error.to_string().contains("instead"), "{error}");
    let packed = wrapped(&llama(), &|name| name.replace("0.mlp.up_proj.weight", "0.mlp.up_proj.qweight"));
    refused(open(&packed).unwrap().check(), &["up_proj.weight\" is missing", "up_proj.qweight\" is there instead"]);
    let mut twice = checkpoint(&llama());
    let mut list = open(&twice).unwrap().config().expected_tensors();
    list[0].0 = "module.model.embed_tokens.weight".to_owned();
    list.push(("_orig_mod.model.embed_tokens.weight".to_owned(), list[0].1.clone()));
    put(&mut twice, "model.safetensors", zeros(&list));
    refused(open(&twice).unwrap().check(), &["\"model.embed_tokens.weight\" is missing"]);
}

#[test]
fn the_language_model_of_one_that_sees_is_found() {
    let whole = json!({"model_type": "sees", "text_config": llama(), "vision_config": {"hidden_size": 8}});
    let ways: [&dyn Fn(&str) -> String; 2] =
        [&|name| format!("language_model.{name}"), &|name| name.replacen("model.", "model.language_model.", 1)];
    for way in ways {
        let mut files = checkpoint(&whole);
        let expected = open(&files).unwrap().config().expected_tensors();
        let mut list: Vec<_> = expected.iter().map(|(name, shape)| (way(name), shape.clone())).collect();
        let eye = "model.vision_tower.patch.weight";
        list.push((eye.to_owned(), vec![8, 8]));
        put(&mut files, "model.safetensors", zeros(&list));
        let opened = open(&files).unwrap();
        opened.check().unwrap();
        let account = opened.account();
        assert_eq!((account.used.len(), account.unknown), (expected.len(), vec![eye.to_owned()]));
    }
}

#[test]
fn an_lm_head_that_is_not_the_embedding_is_used() {
    let with_head = |config: &serde_json::Value, name: &str, shape: &[usize], change: Option<usize>| {
        let mut files = checkpoint(config);
        let mut list = open(&files).unwrap().config().expected_tensors();
        list.push((name.to_owned(), shape.to_vec()));
        let mut file = zeros(&list);
        if let Some(back) = change {
            let at = file.len() - back;
            file[at] = 1;
        }
        put(&mut files, "model.safetensors", file);
        files
    };
    let neox = with(gpt_neox(), json!({"tie_word_embeddings": true}));
    for (config, name, shape) in [
        (&llama(), "lm_head.weight", [300, 8]),
        (&neox, "embed_out.weight", [300, 32]),
        (&neox, "lm_head.weight", [300, 32]),
    ] {
        let same = with_head(config, name, &shape, None);
        let opened = open(&same).unwrap();
        assert!(opened.config().tie_word_embeddings && opened.notes().is_empty(), "{name}");
        // Its last number, and its first.
        for change in [4, 4 * shape[0] * shape[1]] {
            let other = with_head(config, name, &shape, Some(change));
            let opened = open(&other).unwrap();
            opened.check().unwrap();
            assert!(!opened.config().tie_word_embeddings, "{name}");
            assert!(opened.tensor(&opened.config().lm_head_name()).is_some(), "{name}");
            assert_eq!(opened.notes().len(), 1, "{name}");
            assert!(opened.notes()[0].contains(name), "{:?}", opened.notes());
        }
    }
    // A head without elements says nothing.
    let empty = with_head(&llama(), "lm_head.weight", &[0], None);
    let opened = open(&empty).unwrap();
    opened.check().unwrap();
    assert!(opened.config().tie_word_embeddings && opened.account().ignored == ["lm_head.weight"]);
    for shape in [&[][..], &[2400], &[300, 4, 2]] {
        let mut files = checkpoint(&llama());
        let mut list = open(&files).unwrap().config().expected_tensors();
        list[0].1 = shape.to_vec();
        list.push(("lm_head.weight".to_owned(), shape.to_vec()));
        put(&mut files, "model.safetensors", zeros(&list));
        refused(open(&files).unwrap().check(), &["expected shape [300, 8]"]);
    }
    // What cannot be used in its place is not left out either.
    let odd = with_head(&llama(), "lm_head.weight", &[301, 8], None);
    refused(open(&odd).unwrap().check(), &["lm_head.weight", "[300, 8]", "[301, 8]"]);
}

/// The sample with one more tensor, of any type and content.
fn with_tensor(config: &Value, name: &str, dtype: &str, shape: &[usize], content: &[u8]) -> MemoryFiles {
    let mut files = checkpoint(config);
    let file = files.files["model.safetensors"].to_vec();
    let (header, data) = file[8..].split_at(u64::from_le_bytes(file[..8].try_into().unwrap()) as usize);
    let mut header: Value = serde_json::from_slice(header).unwrap();
    header[name] = json!({"dtype": dtype, "shape": shape, "data_offsets": [data.len(), data.len() + content.len()]});
    put(&mut files, "model.safetensors", [&safetensors(&header.to_string(), 0), data, content].concat());
    files
}

/// A configuration, a buffer's name, type, shape and content, and what is wrong with it.
type BufferCase<'a> = (&'a Value, &'a str, &'a str, &'a [usize], &'a [u8], &'a str);

#[test]
fn buffers_are_those_that_follow_from_the_configuration() {
    const OWN: &str = "model.layers.1.self_attn.rotary_emb.inv_freq";
    const SHARED: &str = "model.rotary_emb.inv_freq";
    const MASK: &str = "gpt_neox.layers.0.attention.bias";
    const MASKED: &str = "gpt_neox.layers.1.attention.masked_bias";
    let f32s = |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|value| value.to_le_bytes()).collect() };
    let f64s: Vec<u8> = [1.0, 0.1, 0.01, 0.001f64].into_iter().flat_map(f64::to_le_bytes).collect();
    let f16s = [0x00, 0x3C, 0x66, 0x2E, 0x1F, 0x21, 0x19, 0x14];
    let (right, other) = (f32s(&[1.0, 0.1, 0.01, 0.001]), f32s(&[1.0, 0.031_622_8, 0.001, 0.000_031_622_8]));
    let masks = [[1, 0, 0, 1, 1, 0, 1, 1, 1], [1, 0, 0, 1, 1, 0, 0, 1, 1], [1; 9]];
    let [causal, window, all] = &masks.map(|mask: [u8; 9]| mask.to_vec());
    let wide = f32s(&masks[0].map(f32::from));
    let (llama, neox) = (with(llama(), json!({"head_dim": 8})), gpt_neox());
    let cases: [BufferCase<'_>; 21] = [
        (&llama, OWN, "F32", &[4], &right, ""),
        (&llama, OWN, "F16", &[4], &f16s, ""),
        (&llama, SHARED, "F64", &[1, 4], &f64s, ""),
        (&llama, SHARED, "F32", &[0], &[], ""),
        (
            &llama,
            OWN,
            "F32",
            &[4],
            &other,
            "(number 1 is 3.162e-2, expected 1.000e-1): the model was made with another base",
        ),
        (&llama, SHARED, "F32", &[4], &other, "are not those of config.json"),
        (&llama, OWN, "F32", &[4], &f32s(&[f32::NAN; 4]), "number 0 is NaN"),
        (&llama, OWN, "F32", &[2], &right[..8], "expected 4 rotary frequencies by config.json, got [2]"),
        (&llama, OWN, "I32", &[4], &right, "a buffer of I32 cannot be compared"),
        (&neox, MASK, "BOOL", &[1, 1, 3, 3], causal, ""),
        (&neox, MASK, "U8", &[3, 3], causal, ""),
        (&neox, MASK, "F32", &[1, 1, 3, 3], &wide, ""),
        (&neox, MASK, "BOOL", &[1, 1, 3, 3], window, "not causal: position 2 does not see position 0"),
        (&neox, MASK, "U8", &[1, 1, 3, 3], all, "not causal: position 0 sees position 1"),
        (&neox, MASK, "U8", &[1, 9], causal, "expected a causal mask, got [1, 9]"),
        (&neox, MASK, "I64", &[1, 1], &[1, 0, 0, 0, 0, 0, 0, 0], "a buffer of I64 cannot be compared"),
        (&neox, MASKED, "F32", &[], &f32s(&[-1e9]), ""),
        (&neox, MASKED, "F16", &[1], &[0x00, 0xFC], ""),
        (&neox, MASKED, "F32", &[], &f32s(&[0.0]), "expected a score of at most -9000 for what is masked, got 0"),
        (&neox, MASKED, "F32", &[], &f32s(&[f32::NAN]), "got NaN"),
        (&neox, MASKED, "F32", &[2], &f32s(&[-1e9; 2]), "expected one number, got [2]"),
    ];
    for (config, name, dtype, shape, content, wrong) in cases {
        let files = with_tensor(config, name, dtype, shape, content);
        let opened = open(&files).unwrap();
        match wrong {
            "" => opened.check().unwrap_or_else(|error| panic!("{name} {dtype} {shape:?}: {error}")),
            _ => drop(refused(opened.check(), &["model.safetensors in memory", name, wrong])),
        }
        assert_eq!(opened.account().ignored, [name]);
    }
}

/// Files that count how much is read of them, and keep what is found out.
struct Counted {
    files: MemoryFiles,
    bytes: AtomicU64,
    known: Known,
}

impl Files for Counted {
    async fn len(&self, name: &str) -> Result<Option<u64>> {
        self.files.len(name).await
    }

    async fn read(&self, name: &str, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        self.bytes.fetch_add(range.end - range.start, Relaxed);
        self.files.read(name, range).await
    }

    fn describe(&self) -> String {
        self.files.describe()
    }

    fn known(&self) -> Option<&Known> {
        Some(&self.known)
    }
}

#[test]
fn what_is_derived_is_compared_once() {
    let files = with_tensor(&llama(), "lm_head.weight", "F32", &[300, 8], &[0; 9600]);
    let files = Counted { files, bytes: AtomicU64::new(0), known: Known::default() };
    let read = || {
        files.bytes.store(0, Relaxed);
        assert!(block_on(Checkpoint::open(&files)).unwrap().config().tie_word_embeddings);
        files.bytes.load(Relaxed)
    };
    let (first, second) = (read(), read());
    assert_eq!(first - second, 2 * 9600);
}

#[test]
fn what_is_there_instead_of_a_checkpoint_is_named() {
    let folder = |names: &[&str]| MemoryFiles {
        name: "memory".to_owned(),
        files: names.iter().map(|name| ((*name).to_owned(), Cow::Borrowed(&b"{}"[..]))).collect(),
    };
    for (names, words) in [
        (
            &["adapter_config.json", "adapter_model.safetensors"][..],
            "this is an adapter (a LoRA), not a model; merge it",
        ),
        (&["tiny-q4_0.ggml"], "tiny-q4_0.ggml is a GGML file"),
        (&["tokenizer.json", "model.onnx"], "model.onnx is an ONNX export"),
        (&["pytorch_model.bin", "training_args.bin"], "pytorch_model.bin is a file of PyTorch's (a pickle)"),
        (&["consolidated.00.pth", "params.json"], "consolidated.00.pth is a file of PyTorch's"),
        (&["tf_model.h5"], "TensorFlow's"),
        (&["flax_model.msgpack"], "Flax's"),
        (&["consolidated.safetensors", "params.json"], "the layout of the model's makers"),
        (&["mtp_config.json", "mtp.safetensors"], "a folder of heads"),
        (&["snapshots", "refs"], "a folder of the hub's cache"),
        (&["models--org--name", "version.txt"], "this is the hub's cache: name the folder of a model in it"),
        (&["training_args.bin"], "expected a checkpoint in Hugging Face's layout"),
    ] {
        refused(open(&folder(names)), &["config.json not found in memory", words]);
    }
    let mut files = checkpoint(&llama());
    files.files.remove("model.safetensors");
    put(&mut files, "pytorch_model.bin", vec![0]);
    refused(open(&files), &["model.safetensors not found in memory", "pytorch_model.bin is a file of PyTorch's"]);
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    for (name, content, words) in [
        ("model.safetensors", &pointer[..], "a Git LFS pointer"),
        ("model.safetensors", b"GGUF\x03\0\0\0\xff\xff\xff\xff", "a GGUF file"),
        ("model.safetensors", b"PK\x03\x04\x14\0\x08\x08\0\0", "a file of PyTorch's"),
        ("model.safetensors", b"\x80\x02\x8a\x0al\xfc\x9c\x46", "a file of PyTorch's"),
        ("model.safetensors", b"<!DOCTYPE html><html>", "a web page"),
        ("model.safetensors", b"{\"error\":\"Invalid username or password.\"}", "a text, not the file itself"),
        ("model.safetensors", b"\n<html>\n<head>", "a text, not the file itself"),
        ("config.json", b"\xFF\xFE{\0}\0", "a text in UTF-16: save it as UTF-8"),
        ("config.json", pointer, "a Git LFS pointer"),
        ("config.json", b"<html><body>", "a web page"),
        ("generation_config.json", pointer, "a Git LFS pointer"),
    ] {
        let mut files = checkpoint(&llama());
        put(&mut files, name, content.to_vec());
        refused(open(&files), &[&format!("{name} in memory: this is {words}")]);
    }
    let mut files = checkpoint(&llama());
    put(&mut files, "tokenizer.json", pointer.to_vec());
    refused(block_on(open(&files).unwrap().tokenizer()), &["tokenizer.json in memory: this is a Git LFS pointer"]);
}

#[test]
fn missing_files_are_named() {
    let mut files = checkpoint(&llama());
    files.files.remove("model.safetensors");
    let error = refused(open(&files), &["model.safetensors not found in memory", "model.safetensors.index.json"]);
    assert_eq!(error.kind(), ErrorKind::Io);
    files.files.remove("config.json");
    refused(open(&files), &["config.json not found in memory"]);

    let mut files = checkpoint(&llama());
    refused(block_on(open(&files).unwrap().tokenizer()), &["tokenizer.json not found in memory"]);
    put(&mut files, "tokenizer.json", bytes(&byte_level_tokenizer()));
    let opened = open(&files).unwrap();
    assert!(opened.has_tokenizer());
    assert_eq!(block_on(opened.tokenizer()).unwrap().vocab_size(), 261);
}

#[test]
fn broken_files_are_named_with_their_folder() {
    let mut files = checkpoint(&llama());
    let whole = files.files["model.safetensors"].to_vec();
    for len in [0, 7, 8, 100, whole.len() - 1] {
        put(&mut files, "model.safetensors", whole[..len].to_vec());
        refused(open(&files), &["memory", "model.safetensors"]);
    }
    put(&mut files, "model.safetensors", [whole.as_slice(), &[0]].concat());
    refused(open(&files), &["memory", "model.safetensors"]);
    put(&mut files, "config.json", b"{}".to_vec());
    refused(open(&files), &["memory", "config.json", "model_type"]);
}

#[test]
fn tensors_of_other_shapes_and_types_are_refused() {
    let replaced = |from: &str, to: &str| {
        let mut files = checkpoint(&llama());
        let file = files.files["model.safetensors"].to_vec();
        let len = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        let header = String::from_utf8(file[8..8 + len].to_vec()).unwrap();
        assert!(header.contains(from), "{header}");
        put(&mut files, "model.safetensors", safetensors(&header.replacen(from, to, 1), file.len() - 8 - len));
        files
    };
    let files = replaced(r#""shape":[300,8]"#, r#""shape":[8,300]"#);
    refused(open(&files).unwrap().check(), &["model.embed_tokens.weight", "[300, 8]", "[8, 300]", "model.safetensors"]);
    let files = replaced(r#""dtype":"F32""#, r#""dtype":"I32""#);
    let opened = open(&files).unwrap();
    let error = refused(opened.check(), &["model.embed_tokens.weight", "F16", "I32"]);
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(opened.skipped().len(), 1);
    let files = replaced("model.norm.weight", "model.norm.height");
    let opened = open(&files).unwrap();
    refused(opened.check(), &["model.norm.weight", "missing", "[8]"]);
    let account = opened.account();
    assert_eq!(
        (account.missing, account.unknown),
        (vec!["model.norm.weight".into()], vec!["model.norm.height".into()])
    );
}

#[test]
fn known_buffers_and_heads_are_accounted_for() {
    let mut files = checkpoint(&gpt_neox());
    let mut list = open(&files).unwrap().config().expected_tensors();
    list.extend(tensors(&[("gpt_neox.layers.0.attention.bias", &[1, 1]), ("mtp.fc.weight", &[2, 4]), ("odd", &[1])]));
    put(&mut files, "model.safetensors", zeros(&list));
    let account = open(&files).unwrap().account();
    assert_eq!(account.ignored, ["gpt_neox.layers.0.attention.bias"]);
    assert_eq!((account.heads, account.unknown), (vec!["mtp.fc.weight".to_owned()], vec!["odd".to_owned()]));
}

#[test]
fn roles_find_their_tensors_under_the_names_of_every_family() {
    let found = |config: Value, role: Role| -> Option<String> {
        let files = checkpoint(&config);
        open(&files).unwrap().tensor_of(role).map(|info| info.name.clone())
    };
    let key = Role::Block(1, BlockRole::Key, Part::Weight);
    assert_eq!(found(llama(), key).as_deref(), Some("model.layers.1.self_attn.k_proj.weight"));
    assert_eq!(found(gpt_neox(), key).as_deref(), Some("gpt_neox.layers.1.attention.query_key_value.weight"));
    assert_eq!(found(gpt_neox(), Role::FinalNorm(Part::Bias)).as_deref(), Some("gpt_neox.final_layer_norm.bias"));
    assert_eq!(found(gpt_neox(), Role::LmHead).as_deref(), Some("embed_out.weight"));
    assert_eq!(found(llama(), Role::LmHead), None, "it is tied");
    assert_eq!(found(llama(), Role::Block(2, BlockRole::Key, Part::Weight)), None);
}

#[test]
fn a_tensor_of_a_block_that_the_family_has_not_is_refused() {
    let with_tensor = |name: &str| {
        let mut files = checkpoint(&llama());
        let mut list = open(&files).unwrap().config().expected_tensors();
        list.extend(tensors(&[(name, &[2])]));
        put(&mut files, "model.safetensors", zeros(&list));
        files
    };
    for name in ["model.layers.1.self_attn.q_norm.weight", "model.layers.0.self_attn.q_proj.bias"] {
        let error = open(&with_tensor(name)).unwrap().check().unwrap_err();
        let message = format!(
            "memory: tensor \"{name}\": the blocks of a llama model have none like it, so it would compute something else"
        );
        assert_eq!((error.kind(), error.to_string()), (ErrorKind::Unsupported, message));
    }
    open(&with_tensor("model.layers.2.self_attn.q_proj.bias")).unwrap().check().unwrap();
}

#[test]
fn multi_token_heads_are_found_by_their_layouts() {
    let check = |files: &MemoryFiles, kind: HeadKind, count: usize, note: &str| {
        let found = open(files).unwrap().multi_token_heads();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].kind, found[0].tensors.len()), (kind, count));
        assert!(found[0].note.contains(note), "{}", found[0].note);
    };
    let extra: &[(&str, &[usize])] =
        &[("model.layers.2.eh_proj.weight", &[8, 16]), ("model.layers.2.enorm.weight", &[8])];
    check(&sharded(extra), HeadKind::DeepSeek, 2, "announces 0 extra layers");
    assert!(open(&sharded(&extra[1..])).unwrap().multi_token_heads().is_empty(), "a layer too many is no head");
    check(&sharded(&[("mtp.fc.weight", &[8, 16])]), HeadKind::Qwen, 1, "1 tensor");
    check(&sharded(&[("model.mtp_layers.0.input_proj.weight", &[8, 16])]), HeadKind::MiMo, 1, "1 tensor");
    check(&sharded(&[("midlayer.hidden_norm.weight", &[8]), ("d2t", &[4])]), HeadKind::Eagle3, 2, "2 tensors");
    let mut files = checkpoint(&llama());
    put(&mut files, "medusa_lm_head.safetensors", Vec::new());
    check(&files, HeadKind::Medusa, 0, "medusa_lm_head.safetensors is there");
    let mut files = checkpoint(&llama());
    put(&mut files, "mtp_config.json", Vec::new());
    check(&files, HeadKind::Foretoken, 0, "mtp_config.json is there");
    let announced = checkpoint(&with(llama(), json!({"num_nextn_predict_layers": 1})));
    check(&announced, HeadKind::DeepSeek, 0, "announces 1 extra layers (num_nextn_predict_layers), the tensors hold 0");
}

/// Files whose reads give one byte less than asked for.
struct ShortReads(MemoryFiles);

impl Files for ShortReads {
    async fn len(&self, name: &str) -> Result<Option<u64>> {
        self.0.len(name).await
    }

    async fn read(&self, name: &str, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        self.0.read(name, range.start..range.end - 1).await
    }

    fn describe(&self) -> String {
        self.0.describe()
    }
}

/// Files that claim to be larger than anything worth reading.
struct Huge(MemoryFiles);

impl Files for Huge {
    async fn len(&self, name: &str) -> Result<Option<u64>> {
        Ok(self.0.len(name).await?.map(|_| 1 << 40))
    }

    async fn read(&self, name: &str, _: Range<u64>) -> Result<Cow<'_, [u8]>> {
        panic!("{name} was read before its length was checked")
    }

    fn describe(&self) -> String {
        self.0.describe()
    }
}

#[test]
fn short_reads_and_huge_files_are_errors() {
    let files = ShortReads(checkpoint(&llama()));
    let error = refused(block_on(Checkpoint::open(&files)), &["config.json", "memory", "expected", "got"]);
    assert_eq!(error.kind(), ErrorKind::Io);
    refused(block_on(Checkpoint::open(&Huge(checkpoint(&llama())))), &["config.json", "1099511627776"]);
}
