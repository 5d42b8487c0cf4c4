//! Whole checkpoints: single and sharded files, missing ones, accounting of tensors, traces of multi-token heads.

use std::borrow::Cow;
use std::ops::Range;

use foretoken::format::checkpoint::{Checkpoint, HeadKind};
use foretoken::format::files::{Files, MemoryFiles};
use foretoken::{ErrorKind, Result};
use pollster::block_on;
use serde_json::json;

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
    refused(open(&files), &["m-2.safetensors", "is missing", "index.json"]);

    let mut files = sharded(&[]);
    put(&mut files, "m-2.safetensors", zeros(&tensors(&[("model.embed_tokens.weight", &[300, 8])])));
    refused(open(&files), &["m-2.safetensors", "model.embed_tokens.weight", "m-1.safetensors"]);

    let mut files = sharded(&[]);
    put(&mut files, "model.safetensors.index.json", br#"{"weight_map":{"a":"../../etc/passwd"}}"#.to_vec());
    refused(open(&files), &["index.json", "../../etc/passwd"]);
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
    open(&with_tensor("model.layers.0.self_attn.rotary_emb.inv_freq")).unwrap().check().unwrap();
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
