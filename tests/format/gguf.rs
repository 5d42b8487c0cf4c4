//! GGUF files: what llama.cpp's conversion changes is undone, and broken files are named.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use foretoken::format::checkpoint::{Checkpoint, HeadKind};
use foretoken::format::files::{Files, MemoryFiles};
use foretoken::format::gguf::Gguf;
use foretoken::format::layouts;
use foretoken::format::safetensors::TensorInfo;
use foretoken::format::stored::StoredType;
use foretoken::{ErrorKind, Result};
use pollster::block_on;
use proptest::prelude::*;

use crate::allocations::most_held;
use crate::common::{golden, golden_in_memory};
use crate::refused;

/// Golden checkpoints that are there as one GGUF file too.
pub(crate) const GOLDEN: [&str; 9] = [
    "llama-gqa",
    "llama-rope3",
    "llama-bias",
    "llama-f16",
    "llama-bf16",
    "llama-head-dim",
    "qwen2-gqa",
    "qwen3",
    "mistral-window",
];

/// Types of values.
pub(crate) const U32: u32 = 4;
pub(crate) const F32: u32 = 6;
const FLAG: u32 = 7;
pub(crate) const TEXT: u32 = 8;
pub(crate) const LIST: u32 = 9;

/// A file to be written, sound or not.
#[derive(Clone)]
pub(crate) struct Builder {
    version: u32,
    pub(crate) pairs: Vec<(String, Vec<u8>)>,
    /// Name, sizes with the innermost first, type, and place in the data.
    tensors: Vec<(String, Vec<u64>, u32, u64)>,
    pub(crate) data: usize,
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

pub(crate) fn value(kind: u32, bytes: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes(), bytes].concat()
}

pub(crate) fn list(kind: u32, items: &[Vec<u8>]) -> Vec<u8> {
    let head = [kind.to_le_bytes().to_vec(), (items.len() as u64).to_le_bytes().to_vec()].concat();
    value(LIST, &[head, items.concat()].concat())
}

impl Builder {
    /// A tiny llama with tied embeddings, and tensors of zeros.
    pub(crate) fn llama() -> Self {
        let mut file = Self { version: 3, pairs: Vec::new(), tensors: Vec::new(), data: 0 };
        file.set("general.architecture", value(TEXT, &text("llama")));
        for (key, number) in [
            ("embedding_length", 8u32),
            ("feed_forward_length", 12),
            ("block_count", 1),
            ("context_length", 64),
            ("attention.head_count", 2),
        ] {
            file.set(&format!("llama.{key}"), value(U32, &number.to_le_bytes()));
        }
        file.set("llama.attention.layer_norm_rms_epsilon", value(F32, &1e-5f32.to_le_bytes()));
        file.add("token_embd.weight", &[8, 6]);
        file.add("output_norm.weight", &[8]);
        file.add_block(0);
        file
    }

    pub(crate) fn add_block(&mut self, block: usize) {
        for (name, shape) in [
            ("attn_norm", &[8][..]),
            ("attn_q", &[8, 8]),
            ("attn_k", &[8, 8]),
            ("attn_v", &[8, 8]),
            ("attn_output", &[8, 8]),
            ("ffn_norm", &[8]),
            ("ffn_gate", &[8, 12]),
            ("ffn_up", &[8, 12]),
            ("ffn_down", &[12, 8]),
        ] {
            self.add(&format!("blk.{block}.{name}.weight"), shape);
        }
    }

    pub(crate) fn set(&mut self, key: &str, value: Vec<u8>) {
        self.pairs.retain(|(known, _)| known != key);
        self.pairs.push((key.to_owned(), value));
    }

    pub(crate) fn with(mut self, key: &str, value: Vec<u8>) -> Self {
        self.set(key, value);
        self
    }

    pub(crate) fn without(mut self, key: &str) -> Self {
        self.pairs.retain(|(known, _)| known != key);
        self.tensors.retain(|(name, ..)| name != key);
        self
    }

    /// Adds a tensor in F32.
    pub(crate) fn add(&mut self, name: &str, sizes: &[u64]) {
        let start = self.data.next_multiple_of(32);
        self.tensors.push((name.to_owned(), sizes.to_vec(), 0, start as u64));
        self.data = start + 4 * sizes.iter().product::<u64>() as usize;
    }

    /// Changes the first tensor.
    fn first(mut self, change: impl FnOnce(&mut (String, Vec<u64>, u32, u64))) -> Self {
        change(&mut self.tensors[0]);
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = [&b"GGUF"[..], &self.version.to_le_bytes()].concat();
        for count in [self.tensors.len(), self.pairs.len()] {
            bytes.extend((count as u64).to_le_bytes());
        }
        for (key, value) in &self.pairs {
            bytes.extend(text(key));
            bytes.extend(value);
        }
        for (name, sizes, kind, place) in &self.tensors {
            bytes.extend(text(name));
            bytes.extend((sizes.len() as u32).to_le_bytes());
            sizes.iter().for_each(|size| bytes.extend(size.to_le_bytes()));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(place.to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(32) + self.data, 0);
        bytes
    }
}

pub(crate) fn files(files: &[(&str, Vec<u8>)]) -> MemoryFiles {
    let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), Cow::Owned(bytes.clone())));
    MemoryFiles { name: "memory".to_owned(), files: files.collect() }
}

pub(crate) fn open(files: &MemoryFiles) -> Result<Checkpoint<'_, MemoryFiles>> {
    block_on(Checkpoint::open(files))
}

/// Fails unless the file is refused with these words.
#[track_caller]
fn check_bytes(bytes: Vec<u8>, kind: ErrorKind, words: &[&str]) {
    let files = files(&[("a.gguf", bytes)]);
    let checked = open(&files).and_then(|checkpoint| checkpoint.check());
    let error = refused(checked, &[&["memory"], words].concat());
    assert_eq!(error.kind(), kind, "{error}");
}

#[track_caller]
fn broken(file: &Builder, words: &[&str]) {
    check_bytes(file.bytes(), ErrorKind::Format, &[&["a.gguf"], words].concat());
}

#[track_caller]
fn unsupported(file: &Builder, words: &[&str]) {
    check_bytes(file.bytes(), ErrorKind::Unsupported, &[&["a.gguf"], words].concat());
}

/// A golden checkpoint as one GGUF file.
pub(crate) fn golden_gguf(name: &str) -> MemoryFiles {
    let bytes = std::fs::read(golden("gguf").join(format!("{name}.gguf"))).unwrap();
    files(&[("model.gguf", bytes)])
}

pub(crate) fn parts() -> MemoryFiles {
    golden_in_memory("gguf/llama-sharded")
}

/// Elements as numbers.
pub(crate) fn numbers(info: &TensorInfo, bytes: &[u8]) -> Vec<f32> {
    match info.dtype {
        StoredType::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        StoredType::F16 => bytes.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(),
        _ => bytes.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect(),
    }
}

#[track_caller]
pub(crate) fn assert_same(gguf: &MemoryFiles, name: &str) {
    let folder = golden_in_memory(name);
    let (ours, theirs) = (open(gguf).unwrap(), open(&folder).unwrap());
    ours.check().unwrap();
    let (mut config, expected) = (ours.config().clone(), theirs.config());
    for block in &mut config.spec.blocks {
        let foretoken::format::spec::Mixer::Attention(attention) = &mut block.mixer else { panic!("{name}") };
        let theirs = &expected.spec.last_attention().rope;
        for (a, b) in attention.rope.inv_freq().into_iter().zip(theirs.inv_freq()) {
            assert!((a / b - 1.0).abs() < 1e-6, "{name}: {a} {b}");
        }
        attention.rope = theirs.clone();
    }
    assert_eq!(config.spec, expected.spec, "{name}");
    assert_eq!(config.max_position_embeddings, expected.max_position_embeddings);
    assert_eq!(
        (config.bos_token_id, config.eos_token_ids, config.names),
        (expected.bos_token_id, expected.eos_token_ids.clone(), expected.names)
    );
    let account = ours.account();
    assert_eq!(account.used, theirs.account().used, "{name}");
    assert_eq!((account.unknown, account.missing), (vec![], vec![]), "{name}");
    for tensor in account.used {
        let values = |checkpoint: &Checkpoint<'_, MemoryFiles>| {
            let info = checkpoint.tensor(&tensor).unwrap();
            (info.shape.clone(), numbers(info, &block_on(checkpoint.read(info)).unwrap()))
        };
        assert_eq!(values(&ours), values(&theirs), "{name}: {tensor}");
    }
    let tokenizers = [block_on(ours.tokenizer()).unwrap(), block_on(theirs.tokenizer()).unwrap()];
    for text in ["", "the red hen", "The café, and \"Tom\" was 😀!\n", "</s>he<s> in", "  20 € "] {
        let [ours, theirs] = tokenizers.each_ref().map(|tokenizer| tokenizer.encode(text, true).unwrap());
        assert_eq!(ours, theirs, "{name}: {text:?}");
        let [ours, theirs] = tokenizers.each_ref().map(|tokenizer| tokenizer.decode(&theirs, false).unwrap());
        assert_eq!(ours, theirs, "{name}: {text:?}");
    }
}

#[test]
fn a_file_is_the_folder_that_it_was_made_from() {
    for name in GOLDEN {
        assert_same(&golden_gguf(name), name);
    }
}

#[test]
fn parts_are_one_model() {
    assert_same(&parts(), "llama-sharded");
    let names = |name: &str| layouts::gguf_files(name, parts().files.into_keys()).len();
    assert_eq!(names("llama-sharded-00002-of-00003.gguf"), 3);
    assert_eq!(names("llama-sharded.gguf"), 0);
    let mut missing = parts();
    missing.files.remove("llama-sharded-00002-of-00003.gguf");
    let words = &["llama-sharded-00002-of-00003.gguf not found in gguf/llama-sharded", "download it too"];
    assert_eq!(refused(open(&missing), words).kind(), ErrorKind::Io);
    let mut twice = parts();
    let first = twice.files["llama-sharded-00001-of-00003.gguf"].clone();
    twice.files.insert("llama-sharded-00003-of-00003.gguf".to_owned(), first.clone());
    refused(open(&twice), &["llama-sharded-00003-of-00003.gguf", "`split.no`: expected 2, got 0"]);
    refused(
        open(&files(&[("model.gguf", first.to_vec())])),
        &["model.gguf", "one of 3 parts", "NAME-00001-of-00003.gguf"],
    );
}

#[test]
fn rows_of_heads_are_read_in_any_part() {
    let gguf = golden_gguf("llama-gqa");
    let checkpoint = open(&gguf).unwrap();
    let info: &TensorInfo = checkpoint.tensor("model.layers.0.self_attn.q_proj.weight").unwrap();
    assert_eq!(info.interleaved, Some(8));
    let whole = block_on(checkpoint.read(info)).unwrap();
    let row = whole.len() / 32;
    for Range { start, end } in [0..1, 3..9, 7..8, 8..16, 5..32] {
        let rows = block_on(checkpoint.all().read_rows(info, start..end)).unwrap();
        assert_eq!(*rows, whole[start * row..end * row], "{start}..{end}");
        let bytes = block_on(checkpoint.read_range(info, start as u64 * 10..end as u64 * 10)).unwrap();
        assert_eq!(*bytes, whole[start * 10..end * 10]);
    }
}

#[test]
fn which_file_is_meant_has_to_be_clear() {
    let (a, b) = (Builder::llama().bytes(), Builder::llama().bytes());
    open(&files(&[("a.gguf", a.clone()), ("mmproj-a.gguf", b"x".to_vec()), ("config.json", b"{}".to_vec())])).unwrap();
    let several = files(&[("a-Q4_0.gguf", a.clone()), ("a-Q8_0.gguf", b)]);
    let error =
        refused(open(&several), &["memory: several GGUF files are there: a-Q4_0.gguf, a-Q8_0.gguf; name the one"]);
    assert_eq!(error.kind(), ErrorKind::Input);
    // Beside safetensors it is not looked at.
    refused(open(&files(&[("a.gguf", a), ("model.safetensors", vec![0; 8])])), &["config.json not found"]);
}

#[test]
fn files_of_other_kinds_are_named() {
    let kind = |kind| Builder::llama().with("general.type", value(TEXT, &text(kind)));
    unsupported(&kind("adapter"), &["this is an adapter (a LoRA), not a model: merge it"]);
    unsupported(&kind("mmproj"), &["a projector of images or sound, not a model"]);
    unsupported(&kind("imatrix"), &["expected a model, got a file of type \"imatrix\""]);
    for name in ["mamba", "clip", "", "LLAMA"] {
        let file = Builder::llama().with("general.architecture", value(TEXT, &text(name)));
        let words = if name == "clip" {
            "a projector"
        } else {
            "is not supported; there are: llama, qwen2, qwen3, qwen35, gemma2, gemma3"
        };
        unsupported(&file, &[words]);
    }
    unsupported(&Builder::llama().without("general.architecture"), &["`general.architecture` \"\""]);
    check_bytes(b"version https://git-lfs.github.com/spec/v1\n".to_vec(), ErrorKind::Format, &["a Git LFS pointer"]);
    check_bytes(b"<!DOCTYPE html>".to_vec(), ErrorKind::Format, &["a web page"]);
    check_bytes(b"other bytes than it should".to_vec(), ErrorKind::Format, &["byte 0: expected the bytes \"GGUF\""]);
    check_bytes(Vec::new(), ErrorKind::Format, &["byte 0"]);
    check_bytes(b"GG".to_vec(), ErrorKind::Format, &["byte 0"]);
}

#[test]
fn versions_are_told_apart() {
    let version = |version| Builder { version, ..Builder::llama() };
    open(&files(&[("a.gguf", version(2).bytes())])).unwrap().check().unwrap();
    broken(&version(1), &["byte 4: version 1 is not supported"]);
    broken(&version(3u32.swap_bytes()), &["byte 4: a big-endian file"]);
    broken(&version(4), &["byte 4: expected version 2 or 3"]);
}

#[test]
fn broken_headers_are_named_by_their_byte() {
    let whole = Builder::llama().bytes();
    for len in [4, 8, 16, 23, 24, 31, 40, 60, 200, 500] {
        check_bytes(whole[..len].to_vec(), ErrorKind::Format, &["a.gguf", "byte ", "truncated or broken"]);
    }
    check_bytes(
        whole[..whole.len() - 1].to_vec(),
        ErrorKind::Format,
        &["a.gguf", "tensor \"blk.0.ffn_down.weight\"", "exceed"],
    );
    for (place, what) in [(8, "tensors"), (16, "keys")] {
        for count in [1 << 20, 1 << 63, u64::MAX] {
            let mut bytes = whole.clone();
            bytes[place..place + 8].copy_from_slice(&count.to_le_bytes());
            check_bytes(bytes, ErrorKind::Format, &["byte 24: expected at most", what, &count.to_string()]);
        }
    }
    // The length of the first key, and of its value.
    for place in [24, 24 + 8 + 20 + 4] {
        for len in [1 << 20, 1 << 63, u64::MAX] {
            let mut bytes = whole.clone();
            bytes[place..place + 8].copy_from_slice(&len.to_le_bytes());
            check_bytes(
                bytes,
                ErrorKind::Format,
                &[&format!("byte {}: expected {len} times 1 bytes", place + 8), "are left"],
            );
        }
    }
    let mut twice = Builder::llama();
    let pair = twice.pairs[1].clone();
    twice.pairs.push(pair);
    broken(&twice, &["the key `llama.embedding_length` occurs twice"]);
    let mut twice = Builder::llama();
    let tensor = twice.tensors[1].clone();
    twice.tensors.push(tensor);
    broken(&twice, &["the tensor \"output_norm.weight\" occurs twice"]);
    broken(&Builder::llama().with("a", value(13, &[])), &["expected a type of a value from 0 to 12, got 13"]);
    broken(&Builder::llama().with("", value(FLAG, &[1])), &["the name of a value was expected"]);
    broken(&Builder::llama().first(|tensor| tensor.0.clear()), &["the name of a tensor was expected"]);
}

#[test]
fn lists_are_held_against_the_file() {
    let items = |kind: u32, count: u64| [kind.to_le_bytes().to_vec(), count.to_le_bytes().to_vec()].concat();
    for kind in [0, 4, 8, 9, 12] {
        for count in [1 << 40, 1 << 61, 1 << 63, u64::MAX] {
            let file = Builder::llama().with("a", value(LIST, &items(kind, count)));
            broken(&file, &[&format!("expected {count} times"), "are left"]);
        }
    }
    let nested = |depth: usize| (0..depth).fold(items(U32, 0), |inner, _| [items(LIST, 1), inner].concat());
    open(&files(&[("a.gguf", Builder::llama().with("a", value(LIST, &nested(4))).bytes())])).unwrap();
    broken(&Builder::llama().with("a", value(LIST, &nested(5))), &["at most 4 lists within each other"]);
}

#[test]
fn tensors_lie_aligned_apart_and_within_the_file() {
    let first = |change: fn(&mut (String, Vec<u64>, u32, u64))| Builder::llama().first(change);
    broken(&first(|tensor| tensor.3 = 16), &["\"token_embd.weight\": it begins at byte 16", "no multiple of 32"]);
    broken(&first(|tensor| tensor.3 = 192), &["overlaps another tensor's bytes"]);
    broken(&first(|tensor| tensor.3 = 1 << 63), &["\"token_embd.weight\"", "exceed the file"]);
    broken(&first(|tensor| tensor.3 = 1 << 20), &["\"token_embd.weight\"", "exceed the file"]);
    broken(&first(|tensor| tensor.1 = vec![1 << 62, 1 << 62]), &["\"token_embd.weight\"", "exceed the file"]);
    broken(&first(|tensor| tensor.1 = vec![]), &["expected 1 to 4 dimensions, got 0"]);
    broken(&first(|tensor| tensor.1 = vec![1; 5]), &["expected 1 to 4 dimensions, got 5"]);
    broken(&first(|tensor| tensor.2 = 2), &["rows of 8 elements are no whole blocks of Q4_0, which have 32"]);
    for (kind, name) in [(99, "got type 99"), (24, "got I8")] {
        let file = Builder::llama().first(|tensor| tensor.2 = kind);
        check_bytes(file.bytes(), ErrorKind::Unsupported, &["tensor \"model.embed_tokens.weight\"", name]);
    }
    for alignment in [0u32, 3, 48, 1 << 21] {
        let file = Builder::llama().with("general.alignment", value(U32, &alignment.to_le_bytes()));
        broken(&file, &["`general.alignment`: expected a power of two", &alignment.to_string()]);
    }
    broken(
        &Builder::llama().with("general.alignment", value(TEXT, &text("32"))),
        &["expected a whole number", "\"32\""],
    );
    let mut empty = Builder::llama();
    empty.add("blk.0.attn_q.bias", &[0]);
    check_bytes(empty.bytes(), ErrorKind::Format, &["self_attn.q_proj.bias", "expected shape [8]", "got [0]"]);
}

#[test]
fn what_changes_the_mathematics_is_done_or_refused() {
    let number = |number: u32| value(U32, &number.to_le_bytes());
    let float = |number: f32| value(F32, &number.to_le_bytes());
    let with = |key: &str, value| Builder::llama().with(&format!("llama.{key}"), value);
    unsupported(&with("expert_count", number(8)), &["`llama.expert_count` = 8", "would compute something else"]);
    unsupported(&with("logit_scale", float(0.5)), &["`llama.logit_scale` = 0.5"]);
    unsupported(&with("attention.causal", value(FLAG, &[0])), &["`llama.attention.causal` = false"]);
    unsupported(&with("rope.dimension_count", number(2)), &["`llama.rope.dimension_count` = 2 beside heads of 4"]);
    unsupported(&with("attention.value_length", number(8)), &["`llama.attention.value_length` = 8 beside heads of 4"]);
    unsupported(&with("rope.scaling.type", value(TEXT, &text("yarn"))), &["`llama.rope.scaling.type` = \"yarn\""]);
    let linear = with("rope.scaling.type", value(TEXT, &text("linear")));
    unsupported(&linear.with("llama.rope.scaling.factor", float(2.0)), &["`llama.rope.scaling.type` = \"linear\""]);
    let by_block = list(U32, &[1u32, 2].map(|heads| heads.to_le_bytes().to_vec()));
    unsupported(
        &with("attention.head_count_kv", by_block),
        &["`llama.attention.head_count_kv` differs from block to block"],
    );
    broken(&Builder::llama().without("llama.block_count"), &["`llama.block_count` is missing"]);
    broken(&Builder::llama().without("llama.embedding_length"), &["`llama.embedding_length` is missing"]);
    broken(&Builder::llama().without("token_embd.weight"), &["tensor \"token_embd.weight\" is missing"]);
    let lost = Builder::llama().without("blk.0.attn_q.weight");
    check_bytes(lost.bytes(), ErrorKind::Format, &["q_proj.weight\" is missing", "by the metadata"]);
    let mut more = Builder::llama();
    more.add("blk.0.attn_sub_norm.weight", &[8]);
    check_bytes(
        more.bytes(),
        ErrorKind::Unsupported,
        &["model.layers.0.attn_sub_norm.weight", "would compute something else"],
    );
    for harmless in [
        with("expert_count", number(0)),
        with("logit_scale", float(1.0)),
        with("attention.causal", value(FLAG, &[1])),
        with("rope.scaling.type", value(TEXT, &text("none"))),
        with("attention.sliding_window", number(64)),
        with("vocab_size", number(9)),
    ] {
        let files = files(&[("a.gguf", harmless.bytes())]);
        open(&files).unwrap().check().unwrap();
        assert_eq!(open(&files).unwrap().config().model_type, "llama");
    }
    let files = files(&[("a.gguf", with("attention.sliding_window", number(3)).bytes())]);
    let config = open(&files).unwrap().config().clone();
    assert_eq!((config.spec.last_attention().window, &config.model_type[..]), (Some(3), "mistral"));
}

/// A file of a Gemma, without a window.
fn gemma(architecture: &str, norms: &[(&str, u64)]) -> Builder {
    let mut file = Builder::llama();
    for (key, _) in &mut file.pairs {
        *key = key.replace("llama.", &format!("{architecture}."));
    }
    file.set("general.architecture", value(TEXT, &text(architecture)));
    for (name, size) in norms {
        file.add(&format!("blk.0.{name}.weight"), &[*size]);
    }
    file
}

#[test]
fn gemma_2_has_its_caps() {
    let mut file = gemma("gemma2", &[("post_attention_norm", 8), ("post_ffw_norm", 8)]);
    broken(&file, &["`gemma2.attention.sliding_window` is missing"]);
    file.set("gemma2.attention.sliding_window", value(U32, &3u32.to_le_bytes()));
    let caps = |file: &Builder| {
        let files = files(&[("a.gguf", file.bytes())]);
        let checkpoint = open(&files).unwrap();
        checkpoint.check().unwrap();
        let spec = &checkpoint.config().spec;
        let attention = spec.last_attention();
        assert_eq!((spec.last_block().norm.offset(), attention.window, attention.scale), (0.0, Some(3), 0.5));
        (attention.softcap, spec.logit_softcap)
    };
    // As llama.cpp has them where the file says nothing.
    assert_eq!(caps(&file), (Some(50.0), Some(30.0)));
    let stated = file.with("gemma2.attn_logit_softcapping", value(F32, &20f32.to_le_bytes()));
    assert_eq!(
        caps(&stated.with("gemma2.final_logit_softcapping", value(F32, &7f32.to_le_bytes()))),
        (Some(20.0), Some(7.0))
    );
    // Others have none.
    let llama = Builder::llama().with("llama.final_logit_softcapping", value(F32, &7f32.to_le_bytes()));
    unsupported(&llama, &["final_logit_softcapping"]);
}

#[test]
fn gemma_3_has_its_scales_whole() {
    let norms = [("post_attention_norm", 8), ("post_ffw_norm", 8), ("attn_q_norm", 4), ("attn_k_norm", 4)];
    let file = gemma("gemma3", &norms);
    broken(&file, &["`gemma3.attention.sliding_window` is missing"]);
    let files =
        files(&[("a.gguf", file.with("gemma3.attention.sliding_window", value(U32, &3u32.to_le_bytes())).bytes())]);
    let checkpoint = open(&files).unwrap();
    checkpoint.check().unwrap();
    let spec = &checkpoint.config().spec;
    let (block, attention) = (spec.last_block(), spec.last_attention());
    assert_eq!((spec.final_norm.offset(), block.norm.offset(), attention.qk_norm.unwrap().offset), (0.0, 0.0, 0.0));
    assert_eq!((block.post_norm, attention.window, attention.scale, attention.rope.theta), (true, Some(3), 0.5, 1e4));
    assert_eq!((spec.embedding_scale, spec.tied), (8f32.sqrt(), true));
    // What no block of the family has is not left out.
    let mut llama = Builder::llama();
    llama.add("blk.0.post_ffw_norm.weight", &[8]);
    check_bytes(llama.bytes(), ErrorKind::Unsupported, &["post_ffw_norm.weight", "would compute something else"]);
}

#[test]
fn divisors_of_the_rope_are_honoured_or_refused() {
    let mut file = Builder::llama();
    file.add("rope_freqs.weight", &[2]);
    broken_rope(&file, &["tensor \"rope_freqs.weight\": expected numbers above 0, got 0"]);
    let mut bytes = file.bytes();
    let at = bytes.len() - 8;
    bytes[at..].copy_from_slice(&[1f32.to_le_bytes(), 4f32.to_le_bytes()].concat());
    let files = files(&[("a.gguf", bytes)]);
    let checkpoint = open(&files).unwrap();
    assert_eq!(checkpoint.config().spec.last_attention().rope.inv_freq(), [1.0, 0.01 / 4.0]);
    assert_eq!(checkpoint.account().unknown, [""; 0]);
    let mut file = Builder::llama();
    file.add("rope_freqs.weight", &[3]);
    broken_rope(&file, &["tensor \"rope_freqs.weight\": expected shape [2] by the metadata, got [3]"]);
}

#[track_caller]
fn broken_rope(file: &Builder, words: &[&str]) {
    check_bytes(file.bytes(), ErrorKind::Format, words);
}

#[test]
fn heads_are_told_by_their_tensors() {
    let number = |number: u32| value(U32, &number.to_le_bytes());
    let found = |file: &Builder| {
        let files = files(&[("a.gguf", file.bytes())]);
        let checkpoint = open(&files).unwrap();
        checkpoint.check().unwrap();
        let heads = checkpoint.multi_token_heads();
        (
            checkpoint.config().num_hidden_layers,
            heads.into_iter().map(|heads| (heads.kind, heads.tensors.len(), heads.note)).collect::<Vec<_>>(),
        )
    };
    let mut file = Builder::llama().with("llama.block_count", number(2)).with("llama.nextn_predict_layers", number(1));
    let note =
        |found| format!("the metadata announces 1 extra layers (num_nextn_predict_layers), the tensors hold {found}");
    assert_eq!(found(&file), (1, vec![(HeadKind::DeepSeek, 0, note(0))]), "announced, but stripped");
    file.add_block(1);
    for (name, sizes) in [("eh_proj", &[16, 8][..]), ("enorm", &[8]), ("hnorm", &[8]), ("shared_head_norm", &[8])] {
        file.add(&format!("blk.1.nextn.{name}.weight"), sizes);
    }
    assert_eq!(found(&file), (1, vec![(HeadKind::DeepSeek, 13, note(1))]));
    // Without a word of the metadata.
    let (blocks, heads) = found(&file.clone().without("llama.nextn_predict_layers"));
    assert_eq!((blocks, heads[0].0, heads[0].1), (1, HeadKind::DeepSeek, 13));
    let files = files(&[("a.gguf", file.bytes())]);
    let checkpoint = open(&files).unwrap();
    let set = block_on(foretoken::format::mtp::HeadSet::of_checkpoint(&checkpoint)).unwrap().expect("heads");
    assert_eq!((set.heads.len(), set.unused.len()), (1, 0));
    broken(&Builder::llama().with("llama.nextn_predict_layers", number(2)), &["expected at most 1 blocks, got 2"]);
}

/// A vocabulary of letters, and merges of them.
fn with_tokenizer(model: &str, pre: Option<&str>) -> Builder {
    let texts = |texts: &[&str]| list(TEXT, &texts.iter().map(|item| text(item)).collect::<Vec<_>>());
    let mut file = Builder::llama().with("tokenizer.ggml.model", value(TEXT, &text(model)));
    file.set("tokenizer.ggml.tokens", texts(&["<unk>", "<s>", "</s>", "h", "e", "he"]));
    let kinds = [2u32, 3, 3, 1, 1, 1].map(|kind| kind.to_le_bytes().to_vec());
    file.set("tokenizer.ggml.token_type", list(5, &kinds));
    file.set("tokenizer.ggml.merges", texts(&["h e"]));
    file.set("tokenizer.ggml.bos_token_id", value(U32, &1u32.to_le_bytes()));
    if let Some(pre) = pre {
        file.set("tokenizer.ggml.pre", value(TEXT, &text(pre)));
    }
    file
}

#[track_caller]
fn tokenizer(file: &Builder) -> Result<foretoken::format::tokenizer::Tokenizer> {
    let files = files(&[("a.gguf", file.bytes())]);
    block_on(open(&files).unwrap().tokenizer())
}

#[test]
fn tokenizers_that_are_not_done_are_named() {
    let refuse = |file: &Builder, words: &[&str]| refused(tokenizer(file), &[&["memory: a.gguf"], words].concat());
    refuse(
        &with_tokenizer("bert", None),
        &["`tokenizer.ggml.model` \"bert\" is not supported; there are: gpt2, llama"],
    );
    refuse(
        &with_tokenizer("gpt2", Some("kimi-k2")),
        &["`tokenizer.ggml.pre` \"kimi-k2\"", "there are: default, gpt-2, smollm"],
    );
    let gpt2 = || with_tokenizer("gpt2", Some("gpt-2"));
    refuse(&gpt2().without("tokenizer.ggml.merges"), &["`tokenizer.ggml.merges`: expected a list of merges"]);
    refuse(&gpt2().without("tokenizer.ggml.tokens"), &["`tokenizer.ggml.tokens`: expected a list of tokens"]);
    refuse(
        &gpt2().with("tokenizer.ggml.merges", list(TEXT, &[text("h x")])),
        &["merge 0", "\"x\" is not in the vocabulary"],
    );
    refuse(&gpt2().with("tokenizer.ggml.merges", list(TEXT, &[text("he")])), &["merge 0", "expected two tokens"]);
    refuse(
        &gpt2().with("tokenizer.ggml.token_type", list(5, &[vec![0; 4]])),
        &["expected 6 numbers, one a token, got 1"],
    );
    refuse(
        &gpt2().with("tokenizer.ggml.tokens", list(TEXT, &[[&text("a")[..8], b"\xff"].concat()])),
        &["token 0 is not UTF-8"],
    );
    let id = |key| gpt2().with(key, value(U32, &[9, 0, 0, 0]));
    refuse(&id("tokenizer.ggml.padding_token_id"), &["9 lies outside the vocabulary of 6"]);
    broken(&id("tokenizer.ggml.bos_token_id"), &["its metadata, read as: config.json: `bos_token_id`: 9 lies outside"]);
    refuse(&gpt2().without("tokenizer.ggml.model"), &["`tokenizer.ggml.model` is missing"]);
    let llama = with_tokenizer("llama", None).without("tokenizer.ggml.merges");
    refuse(&llama, &["`tokenizer.ggml.scores`: expected a list of numbers"]);
    let files = files(&[("a.gguf", Builder::llama().bytes())]);
    assert!(!open(&files).unwrap().has_tokenizer());
}

#[test]
fn flags_of_a_tokenizer_are_heeded() {
    let flag = |on: bool| value(FLAG, &[on.into()]);
    let ids = |file: &Builder, text: &str| tokenizer(file).unwrap().encode(text, true).unwrap();
    let gpt2 = || with_tokenizer("gpt2", None);
    assert_eq!(ids(&gpt2(), "he</s>h"), [5, 2, 3]);
    assert_eq!(ids(&with_tokenizer("gpt2", Some("llama-bpe")), "he"), [1, 5], "the kin of Llama 3 begins with a token");
    assert_eq!(ids(&gpt2().with("tokenizer.ggml.add_bos_token", flag(true)), "he"), [1, 5]);
    let ends = gpt2().with("tokenizer.ggml.add_eos_token", flag(true));
    assert_eq!(ids(&ends.with("tokenizer.ggml.eos_token_id", value(U32, &2u32.to_le_bytes())), "he"), [5, 2]);

    let texts = |texts: &[&str]| list(TEXT, &texts.iter().map(|item| text(item)).collect::<Vec<_>>());
    let mut llama = with_tokenizer("llama", None).without("tokenizer.ggml.merges");
    llama
        .set("tokenizer.ggml.tokens", texts(&["<unk>", "<s>", "</s>", "h", "e", "▁", "he", "▁h", "<0x0A>", "<think>"]));
    let kinds = [2u32, 3, 3, 1, 1, 1, 1, 1, 6, 4].map(|kind| kind.to_le_bytes().to_vec());
    llama.set("tokenizer.ggml.token_type", list(5, &kinds));
    let scores = |he: f32, h: f32| {
        list(F32, &[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, he, h, 0.0, 0.0].map(|score: f32| score.to_le_bytes().to_vec()))
    };
    let llama = llama.with("tokenizer.ggml.scores", scores(-1.0, -2.0));
    assert_eq!(ids(&llama, "he"), [1, 5, 6], "the likelier pair is merged first");
    assert_eq!(ids(&llama.clone().with("tokenizer.ggml.scores", scores(-2.0, -1.0)), "he"), [1, 7, 4]);
    assert_eq!(ids(&llama.clone().with("tokenizer.ggml.add_space_prefix", flag(false)), "he"), [1, 6]);
    assert_eq!(ids(&llama.clone().with("tokenizer.ggml.add_bos_token", flag(false)), "he"), [5, 6]);
    assert_eq!(ids(&llama, "he\n<think>h"), [1, 5, 6, 8, 9, 3]);
    let made = tokenizer(&llama).unwrap();
    assert!(made.is_special(1) && !made.is_special(9));
    assert_eq!(made.decode(&[1, 5, 6, 8, 9, 3], true).unwrap(), "he\n<think>h");
}

/// Files that are not in memory: each read is a copy.
struct Copies(MemoryFiles);

impl Files for Copies {
    async fn len(&self, name: &str) -> Result<Option<u64>> {
        self.0.len(name).await
    }

    async fn read(&self, name: &str, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        Ok(Cow::Owned(self.0.read(name, range).await?.into_owned()))
    }

    fn describe(&self) -> String {
        self.0.describe()
    }
}

#[test]
fn long_headers_are_read_in_parts() {
    let tokens: Vec<Vec<u8>> = (0..200_000).map(|id| text(&format!("token {id}"))).collect();
    let file = Builder::llama().with("tokens", list(TEXT, &tokens)).with("none", list(TEXT, &[]));
    let bytes = file.bytes();
    let files = Copies(files(&[("a.gguf", bytes.clone())]));
    let (gguf, most) = most_held(|| block_on(Gguf::read(&files, "a.gguf")).unwrap().unwrap());
    assert!(most < bytes.len() + (16 << 20), "{most}");
    let list = gguf.texts("tokens").unwrap().unwrap();
    assert_eq!((list.len(), list.texts().last()), (200_000, Some(&b"token 199999"[..])));
    assert!(gguf.texts("none").unwrap().unwrap().is_empty());
    assert_eq!(gguf.tensors.tensors.len(), 11);
    refused(gguf.text("tokens"), &["`tokens`: expected a string in UTF-8, got a list"]);
}

/// How many inputs each of the tests below tries; a long run is asked for by the environment.
fn cases() -> ProptestConfig {
    let cases = std::env::var("FORETOKEN_FUZZ_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig { max_shrink_iters: 4096, ..ProptestConfig::with_cases(cases.unwrap_or(1024)) }
}

/// Reads whatever the file is as far as that goes; holds no more of memory than the file and 16 MiB.
fn read_hostile(bytes: Vec<u8>) {
    let len = bytes.len();
    let memory = files(&[("a.gguf", bytes)]);
    let copies = Copies(memory.clone());
    let (header, most) = most_held(|| block_on(Gguf::read(&copies, "a.gguf")));
    assert!(most <= len + (16 << 20), "{most} bytes for a file of {len}");
    if let Ok(Some(gguf)) = header {
        for info in gguf.tensors.tensors.values() {
            assert!(info.range.start < info.range.end && info.range.end <= len as u64);
            assert_eq!(info.shape.iter().product::<usize>() as u64, info.num_elements());
        }
        gguf.keys().for_each(|key| drop(gguf.json(key)));
    }
    let (checkpoint, most) = most_held(|| open(&memory));
    assert!(most <= len + (16 << 20), "{most} bytes for a file of {len}");
    if let Ok(checkpoint) = checkpoint {
        let _ = checkpoint.check();
        checkpoint.account();
        for info in checkpoint.tensors() {
            let bytes = block_on(checkpoint.read(info)).unwrap();
            let _ = info.check_finite(&bytes);
        }
    }
    if let Ok(tokenizer) = block_on(layouts::tokenizer(&memory)) {
        for text in ["", " he ü 🎈\n", "</s>12 345"] {
            let _ = tokenizer.encode(text, true).and_then(|ids| tokenizer.decode(&ids, false));
        }
    }
}

/// Numbers that break careless arithmetic.
fn number() -> impl Strategy<Value = u64> {
    let chosen =
        prop::sample::select(vec![0, 1, 2, 31, 32, 33, 255, 1 << 31, 1 << 32, 1 << 61, 1 << 62, 1 << 63, u64::MAX]);
    prop_oneof![chosen, any::<u64>(), 0..4096u64]
}

/// Valid files, the seeds of others.
fn seeds() -> &'static BTreeMap<usize, Vec<u8>> {
    static SEEDS: std::sync::OnceLock<BTreeMap<usize, Vec<u8>>> = std::sync::OnceLock::new();
    SEEDS.get_or_init(|| {
        let golden = ["llama-bf16", "qwen3"].map(|name| golden_gguf(name).files["model.gguf"].to_vec());
        let small =
            [Builder::llama().bytes(), with_tokenizer("gpt2", None).bytes(), with_tokenizer("llama", None).bytes()];
        golden.into_iter().chain(small).enumerate().collect()
    })
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200), begin in 0..25usize) {
        let whole = Builder::llama().bytes();
        read_hostile([&whole[..begin], &bytes].concat());
    }

    #[test]
    fn damaged_files(
        which in 0..5usize,
        writes in prop::collection::vec((any::<u16>(), any::<u8>()), 0..4),
        numbers in prop::collection::vec((any::<u16>(), number()), 0..3),
        cut in prop::option::weighted(0.2, any::<u16>()),
    ) {
        // Most of a file is weights: changes fall into the header.
        let mut bytes = seeds()[&which].clone();
        let header = bytes.len().min(5000);
        for (place, byte) in writes {
            bytes[usize::from(place) % header] = byte;
        }
        for (place, number) in numbers {
            let place = usize::from(place) % (header - 8);
            bytes[place..place + 8].copy_from_slice(&number.to_le_bytes());
        }
        if let Some(cut) = cut {
            bytes.truncate(usize::from(cut) % bytes.len());
        }
        read_hostile(bytes);
    }

    #[test]
    fn any_tensors(tensors in prop::collection::vec((prop::collection::vec(number(), 0..5), 0..45u32, number()), 1..4)) {
        let mut file = Builder::llama();
        for (index, (sizes, kind, place)) in tensors.into_iter().enumerate() {
            file.tensors[index] = (file.tensors[index].0.clone(), sizes, kind, place / 32 * 32);
        }
        read_hostile(file.bytes());
    }

    #[test]
    fn any_value_of_any_key(which in 2..5usize, key in any::<prop::sample::Index>(), kind in 0..14u32, inner in 0..14u32, count in number(), rest in prop::collection::vec(any::<u8>(), 0..24)) {
        let mut file = [Builder::llama(), with_tokenizer("gpt2", None), with_tokenizer("llama", None)][which - 2].clone();
        let key = key.index(file.pairs.len());
        let head = if kind == LIST { [inner.to_le_bytes().to_vec(), count.to_le_bytes().to_vec()].concat() } else { Vec::new() };
        file.pairs[key].1 = value(kind, &[head, rest].concat());
        read_hostile(file.bytes());
    }
}
