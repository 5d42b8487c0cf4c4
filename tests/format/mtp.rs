//! Multi-token heads: what is refused, and how.

use std::borrow::Cow;
use std::collections::BTreeMap;

use foretoken::format::checkpoint::{Checkpoint, HeadKind};
use foretoken::format::config::ModelConfig;
use foretoken::format::files::MemoryFiles;
use foretoken::format::mtp::{
    HeadSet, HeadSource, Init, InitOptions, InitSource, LoraOptions, Wiring, add_lora, halved, init_heads, without_lora,
};
use foretoken::{ErrorKind, Result};
use pollster::block_on;
use serde_json::{Value, json};

use crate::samples::{bytes, checkpoint, gpt_neox, llama, with, zeros};

fn config(value: &Value) -> ModelConfig {
    ModelConfig::parse(&bytes(value), None).expect("a valid configuration")
}

/// The sizes of the tiny Llama.
fn backbone() -> Value {
    json!({
        "model_type": "llama", "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 2, "vocab_size": 300
    })
}

/// A description of three heads and a LoRA for the tiny Llama.
pub fn described() -> Value {
    json!({
        "format": "foretoken-mtp", "version": 1, "kind": "parallel", "backbone": backbone(),
        "heads": [
            {"offset": 1, "backbone_last_layer": true},
            {"offset": 2, "layers": 1, "source": {"layer": 1}},
            {"offset": 4, "layers": 2, "source": {"mix": {"temperature": 0.1}}, "own_norm": true}
        ],
        "lora": {"rank": 2, "alpha": 4, "targets": ["q_proj", "v_proj"], "blocks": [0]}
    })
}

/// The tensors of those heads.
pub fn tensors() -> Vec<(String, Vec<usize>)> {
    let config = config(&llama());
    let mut all = config.layer_tensors("heads.1.layers.0");
    all.extend(config.layer_tensors("heads.2.layers.0"));
    all.extend(config.layer_tensors("heads.2.layers.1"));
    let more: [(&str, &[usize]); 6] = [
        ("heads.2.mix", &[1]),
        ("heads.2.norm.weight", &[8]),
        ("lora.0.q_proj.a", &[2, 8]),
        ("lora.0.q_proj.b", &[8, 2]),
        ("lora.0.v_proj.a", &[2, 8]),
        ("lora.0.v_proj.b", &[4, 2]),
    ];
    all.extend(more.map(|(name, shape)| (name.to_owned(), shape.to_vec())));
    all
}

fn put(files: &mut MemoryFiles, name: &str, bytes: Vec<u8>) {
    files.files.insert(name.to_owned(), Cow::Owned(bytes));
}

/// A folder of heads.
pub fn folder(description: &Value, tensors: &[(String, Vec<usize>)]) -> MemoryFiles {
    let mut files = MemoryFiles { name: "memory".to_owned(), ..MemoryFiles::default() };
    put(&mut files, "mtp_config.json", bytes(description));
    put(&mut files, "mtp.safetensors", zeros(tensors));
    files
}

#[track_caller]
fn refused<T>(result: Result<T>, kind: ErrorKind, words: &[&str]) {
    let error = crate::refused(result, words);
    assert_eq!(error.kind(), kind, "{error}");
}

fn refuse(description: Value, kind: ErrorKind, parts: &[&str]) {
    let files = folder(&description, &tensors());
    refused(block_on(HeadSet::open(&files, &config(&llama()))), kind, parts);
}

#[test]
fn the_own_layout_is_read() {
    let files = folder(&described(), &tensors());
    let set = block_on(HeadSet::open(&files, &config(&llama()))).unwrap();
    assert_eq!((set.kind, set.heads.len(), set.norms_less_one), (HeadKind::Foretoken, 3, false));
    assert_eq!(set.heads.iter().map(|head| head.offset).collect::<Vec<_>>(), [1, 2, 4]);
    assert_eq!(set.heads[0].wiring, Wiring::LastLayer);
    assert_eq!(set.heads[1].source, HeadSource::Layer(1));
    assert_eq!(set.heads[2].final_norm.as_deref(), Some("heads.2.norm"));
    let lora = set.lora.as_ref().unwrap();
    assert_eq!((lora.rank, lora.scale(), lora.gated, lora.parts.len()), (2, 2.0, false, 2));
    assert_eq!(lora.parts[1].linear, "model.layers.0.self_attn.v_proj");
    assert!(set.unused.is_empty());
    let summary = set.summary();
    assert!(summary.contains("3 parallel heads") && summary.contains("2 layers on a mix"), "{summary}");
}

#[test]
fn what_no_head_needs_is_told_and_other_structures_are_refused() {
    let mut list = tensors();
    list.push(("heads.9.stray".to_owned(), vec![1]));
    let files = folder(&described(), &list);
    let set = block_on(HeadSet::open(&files, &config(&llama()))).unwrap();
    assert_eq!(set.unused, ["heads.9.stray"]);
    list.push(("heads.1.layers.0.self_attn.q_norm.weight".to_owned(), vec![2]));
    let files = folder(&described(), &list);
    let result = block_on(HeadSet::open(&files, &config(&llama())));
    refused(result, ErrorKind::Unsupported, &["q_norm"]);
}

#[test]
fn broken_descriptions_are_refused() {
    let changed = |changes: Value| with(described(), changes);
    let format = ErrorKind::Format;
    refuse(changed(json!({"format": "other"})), format, &["`format`: expected \"foretoken-mtp\", got \"other\""]);
    refuse(changed(json!({"version": 2})), ErrorKind::Unsupported, &["version", "2", "1"]);
    refuse(changed(json!({"version": "1"})), format, &["`version`: expected 1, got \"1\""]);
    refuse(changed(json!({"kind": "medusa"})), format, &["`kind`: expected \"parallel\" or", "got \"medusa\""]);
    refuse(changed(json!({"kind": null})), format, &["null"]);
    refuse(changed(json!({"head": []})), ErrorKind::Unsupported, &["`head`", "heads"]);
    refuse(changed(json!({"heads": []})), format, &["1 to 32"]);
    refuse(changed(json!({"heads": [3]})), format, &["head 1", "3"]);
    let heads = |head: Value| changed(json!({"heads": [head]}));
    refuse(
        heads(json!({"offset": 34, "layers": 1, "source": {"layer": 1}})),
        format,
        &["head 1", "`offset`: expected a whole number from 1 to 33, got 34"],
    );
    refuse(
        heads(json!({"offset": 2, "layers": 0, "source": {"layer": 1}})),
        format,
        &["`layers`: expected a whole number from 1 to 64, got 0"],
    );
    refuse(heads(json!({"offset": 2, "layers": 1})), format, &["source"]);
    refuse(
        heads(json!({"offset": 2, "layers": 1, "source": {"layer": 3}})),
        format,
        &["head 1, `source`", "`layer`: expected a whole number from 1 to 2, got 3"],
    );
    refuse(heads(json!({"offset": 2, "layers": 1, "source": {"head": 1}})), format, &["head 1"]);
    refuse(heads(json!({"offset": 2, "backbone_last_layer": true})), format, &["offset", "2"]);
    refuse(heads(json!({"offset": 2, "layer": 1})), ErrorKind::Unsupported, &["`layer`"]);
    let third = json!([{"offset": 3, "layers": 1, "source": {"layer": 1}}]);
    refuse(
        changed(json!({"kind": "sequential", "heads": third})),
        format,
        &["`offset` 3", "expected a head of offset 2"],
    );
    let twice = json!({"offset": 2, "layers": 1, "source": {"layer": 1}});
    refuse(changed(json!({"heads": [twice, twice]})), format, &["head 2", "offset", "above the 2", "got 2"]);
    refuse(heads(json!({"layers": 1, "source": {"layer": 1}})), format, &["`offset`", "1 to 33, got nothing"]);
    let mix = json!({"offset": 2, "layers": 1, "source": {"mix": {"temperature": -1}}});
    refuse(heads(mix), format, &["head 1, `source`, `mix`", "temperature"]);
}

#[test]
fn a_description_says_everything_once() {
    let whole = described().to_string();
    for (from, to, part) in [
        ("{\"alpha\"", "{\"rank\":3,\"alpha\"", "`rank` occurs twice"),
        ("\"own_norm\":true", "\"own_norm\":null", "null"),
        ("\"own_norm\":true", "\"own_norm\":true,\"offset\":4", "`offset` occurs twice"),
    ] {
        assert_eq!(whole.matches(from).count(), 1, "{from}");
        let mut files = folder(&described(), &tensors());
        put(&mut files, "mtp_config.json", whole.replace(from, to).into_bytes());
        let result = block_on(HeadSet::open(&files, &config(&llama())));
        refused(result, ErrorKind::Format, &["mtp_config.json", part]);
    }
}

#[test]
fn heads_for_another_model_are_refused() {
    for (key, value, got) in [
        ("hidden_size", json!(16), "8"),
        ("vocab_size", json!(301), "300"),
        ("num_hidden_layers", json!(3), "2"),
        ("model_type", json!("mistral"), "llama"),
    ] {
        let changes = json!({"backbone": with(backbone(), json!({ key: value }))});
        refuse(with(described(), changes), ErrorKind::Format, &[key, got]);
    }
    let mut list = tensors();
    list.iter_mut().find(|(name, _)| name == "heads.1.layers.0.mlp.up_proj.weight").unwrap().1 = vec![13, 8];
    let files = folder(&described(), &list);
    let result = block_on(HeadSet::open(&files, &config(&llama())));
    refused(result, ErrorKind::Format, &["heads.1.layers.0.mlp.up_proj.weight", "[12, 8]", "[13, 8]"]);
    let files = folder(&described(), &tensors()[1..]);
    let result = block_on(HeadSet::open(&files, &config(&llama())));
    refused(result, ErrorKind::Format, &["heads.1.layers.0.input_layernorm.weight", "missing"]);
}

#[test]
fn lora_of_another_rank_or_target_is_refused() {
    let lora = |changes: Value| with(described(), json!({"lora": with(described()["lora"].clone(), changes)}));
    refuse(lora(json!({"rank": 3})), ErrorKind::Format, &["lora.0.q_proj.a", "[3, 8]", "[2, 8]"]);
    refuse(lora(json!({"rank": 0})), ErrorKind::Format, &["rank"]);
    refuse(lora(json!({"targets": ["o_proj"]})), ErrorKind::Unsupported, &["o_proj", "q_proj"]);
    refuse(lora(json!({"targets": []})), ErrorKind::Format, &["targets", "got []"]);
    refuse(lora(json!({"targets": ["q_proj", "q_proj"]})), ErrorKind::Format, &["\"q_proj\" occurs twice"]);
    refuse(lora(json!({"blocks": [2]})), ErrorKind::Format, &["blocks", "0 to 1", "got [2]"]);
    refuse(lora(json!({"blocks": [1, 0]})), ErrorKind::Format, &["ascending"]);
    refuse(lora(json!({"alpha": 0})), ErrorKind::Format, &["alpha"]);
    refuse(lora(json!({"dropout": 0.1})), ErrorKind::Unsupported, &["dropout"]);
}

#[test]
fn medusa_heads_need_the_same_vocabulary() {
    let file = |vocab: usize| {
        let shapes: [(&str, Vec<usize>); 3] =
            [("0.0.linear.weight", vec![8, 8]), ("0.0.linear.bias", vec![8]), ("0.1.weight", vec![vocab, 8])];
        let mut files = checkpoint(&llama());
        put(&mut files, "medusa_lm_head.safetensors", zeros(&shapes.map(|(name, shape)| (name.to_owned(), shape))));
        files
    };
    let files = file(300);
    let set = block_on(HeadSet::open(&files, &config(&llama()))).unwrap();
    assert_eq!((set.kind, set.heads[0].offset), (HeadKind::Medusa, 2));
    let files = file(400);
    let result = block_on(HeadSet::open(&files, &config(&llama())));
    refused(result, ErrorKind::Format, &["0.1.weight", "vocabulary of 400", "300"]);
    let mut files = checkpoint(&llama());
    put(&mut files, "medusa_lm_head.safetensors", zeros(&[("x".to_owned(), vec![1])]));
    refused(block_on(HeadSet::open(&files, &config(&llama()))), ErrorKind::Format, &["no head"]);
}

#[test]
fn layouts_that_are_not_implemented_are_named() {
    let mut list = config(&gpt_neox()).expected_tensors();
    list.push(("mtp.fc.weight".to_owned(), vec![32, 64]));
    list.push(("mtp.layers.0.input_layernorm.weight".to_owned(), vec![32]));
    let mut files = checkpoint(&gpt_neox());
    put(&mut files, "model.safetensors", zeros(&list));
    let opened = block_on(Checkpoint::open(&files)).unwrap();
    refused(block_on(HeadSet::of_checkpoint(&opened)), ErrorKind::Unsupported, &["Qwen", "gpt_neox"]);
    let mut list = config(&llama()).expected_tensors();
    list.push(("midlayer.hidden_norm.weight".to_owned(), vec![8]));
    let mut files = checkpoint(&llama());
    put(&mut files, "model.safetensors", zeros(&list));
    let opened = block_on(Checkpoint::open(&files)).unwrap();
    refused(block_on(HeadSet::of_checkpoint(&opened)), ErrorKind::Unsupported, &["EAGLE-3"]);
    let files = checkpoint(&llama());
    let opened = block_on(Checkpoint::open(&files)).unwrap();
    assert!(block_on(HeadSet::of_checkpoint(&opened)).unwrap().is_none());
    let open = |files| block_on(HeadSet::open(files, &config(&llama()))).map(|_| ());
    refused(open(&files), ErrorKind::Unsupported, &["no multi-token heads in memory", "a whole model is there"]);
    refused(open(&MemoryFiles::default()), ErrorKind::Io, &["mtp_config.json", "model.layers.2."]);
}

// ---------------------------------------------------------------------------------------- heads to train, and a LoRA

fn made(init: Init) -> BTreeMap<String, Vec<u8>> {
    let model = checkpoint(&llama());
    let checkpoint = block_on(Checkpoint::open(&model)).unwrap();
    let (source, seed) = (InitSource::Default, 5);
    let options = InitOptions::default().heads(2).source(source).init(init).seed(seed);
    block_on(init_heads(&checkpoint, &options)).unwrap()
}

fn in_memory(files: &BTreeMap<String, Vec<u8>>) -> MemoryFiles {
    let files = files.iter().map(|(name, bytes)| (name.clone(), Cow::Owned(bytes.clone()))).collect();
    MemoryFiles { name: "memory".to_owned(), files }
}

/// A tensor's bytes.
fn tensor(files: &BTreeMap<String, Vec<u8>>, name: &str) -> Vec<u8> {
    let all = safetensors::SafeTensors::deserialize(&files["mtp.safetensors"]).unwrap();
    all.tensor(name).unwrap().data().to_vec()
}

#[test]
fn random_heads_leave_the_first_a_copy() {
    let [copies, random, beyond] = [Init::Copy, Init::Random, Init::RandomBeyondFirst].map(made);
    for (head, like) in [(0, &copies), (1, &random)] {
        let name = format!("heads.{head}.layers.0.mlp.up_proj.weight");
        assert_eq!(tensor(&beyond, &name), tensor(like, &name));
        assert_ne!(tensor(&copies, &name), tensor(&random, &name));
    }
}

#[test]
fn a_lora_is_put_to_heads_and_taken_from_them() {
    for model in [llama(), gpt_neox()] {
        let config = config(&model);
        let model = checkpoint(&model);
        let opened = block_on(Checkpoint::open(&model)).unwrap();
        let (source, init) = (InitSource::Default, Init::Copy);
        let options = InitOptions::default().heads(1).source(source).init(init);
        let plain = block_on(init_heads(&opened, &options)).unwrap();
        let options = LoraOptions::new(3, 1).seed(1);
        let mut with = plain.clone();
        add_lora(&mut with, &config, &options).unwrap();
        let files = in_memory(&with);
        let set = block_on(HeadSet::open(&files, &config)).unwrap();
        let lora = set.lora.unwrap();
        assert_eq!((lora.rank, lora.scale(), lora.parts.len()), (3, 1.0, config.adaptable().len()));
        assert!(set.unused.is_empty(), "{:?}", set.unused);
        let bound = 1.0 / (config.hidden_size as f32).sqrt();
        let a = tensor(&with, &lora.parts[0].a);
        let a: Vec<f32> = a.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        assert!(a.iter().all(|value| value.abs() <= bound) && a.iter().any(|value| *value < 0.0), "{a:?}");
        assert!(tensor(&with, &lora.parts[0].b).iter().all(|&byte| byte == 0));
        // Twice, or senseless: refused.
        refused(add_lora(&mut with, &config, &options), ErrorKind::Input, &["already"]);
        for (options, word) in
            [(options.rank(0), "rank 0"), (options.blocks(0), "0 blocks"), (options.blocks(3), "3 blocks")]
        {
            refused(add_lora(&mut plain.clone(), &config, &options), ErrorKind::Input, &[word]);
        }
        // Trained with the backbone, head 1 is its last block: merged it has no tensors of its own.
        assert!(set.heads[0].target);
        let without = without_lora(&with).unwrap();
        assert!(!without.contains_key("mtp.safetensors"));
        let files = in_memory(&without);
        let set = block_on(HeadSet::open(&files, &config)).unwrap();
        assert_eq!((set.lora, &set.heads[0].wiring), (None, &Wiring::LastLayer));
        // Beside a gated one the next token is that of the model as it was, so head 1 gives way to its last block.
        let mut gated = plain.clone();
        add_lora(&mut gated, &config, &options.gated(true)).unwrap();
        let files = in_memory(&gated);
        let set = block_on(HeadSet::open(&files, &config)).unwrap();
        assert_eq!((&set.heads[0].wiring, set.heads[0].target), (&Wiring::LastLayer, false));
        assert!(set.lora.unwrap().gated && set.unused.is_empty());
        assert!(!without_lora(&gated).unwrap().contains_key("mtp.safetensors"));
    }
}

#[test]
fn a_lora_brings_the_last_block_where_no_head_predicts_the_next_token() {
    let model = llama();
    let config = config(&model);
    let model = checkpoint(&model);
    let opened = block_on(Checkpoint::open(&model)).unwrap();
    let (source, init) = (InitSource::Default, Init::Random);
    let options = InitOptions::default().heads(2).sequential(true).source(source).init(init);
    let plain = block_on(init_heads(&opened, &options)).unwrap();
    // The second reads what the first makes.
    let mut description: Value = serde_json::from_slice(&plain["mtp_config.json"]).unwrap();
    description["heads"][1]["source"] = json!({"head": 1});
    let mut with = plain.clone();
    with.insert("mtp_config.json".to_owned(), description.to_string().into_bytes());
    add_lora(&mut with, &config, &LoraOptions::new(3, 1).seed(1)).unwrap();
    let files = in_memory(&with);
    let set = block_on(HeadSet::open(&files, &config)).unwrap();
    assert_eq!(set.heads.iter().map(|head| head.offset).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(set.heads[0].wiring, Wiring::LastLayer);
    assert_eq!(set.heads[2].source, HeadSource::Head(1));
    assert!(set.unused.is_empty(), "{:?}", set.unused);
    for number in 0..2 {
        for name in ["layers.0.mlp.up_proj.weight", "projection.weight"] {
            let [before, now] = [number, number + 1].map(|number| format!("heads.{number}.{name}"));
            assert_eq!(tensor(&plain, &before), tensor(&with, &now), "{before}");
        }
    }
}

#[test]
fn heads_take_half_the_bytes_where_f16_can_hold_them() {
    let files = made(Init::Random);
    let halves = halved(&files).unwrap();
    let name = "heads.1.layers.0.mlp.up_proj.weight";
    let (whole, half) = (tensor(&files, name), tensor(&halves, name));
    assert_eq!(whole.len(), 2 * half.len());
    for (whole, half) in whole.as_chunks().0.iter().zip(half.as_chunks().0) {
        let (whole, half) = (f32::from_le_bytes(*whole), half::f16::from_le_bytes(*half).to_f32());
        assert!((whole - half).abs() <= whole.abs() / 2048.0 + 1e-7, "{whole} {half}");
    }
    let read = in_memory(&halves);
    block_on(HeadSet::open(&read, &config(&llama()))).unwrap();
    // 1e6 in place of one value.
    let mut large = files.clone();
    let bytes = large.get_mut("mtp.safetensors").unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&1e6_f32.to_le_bytes());
    refused(halved(&large), ErrorKind::Format, &["f16", "inf"]);
}
