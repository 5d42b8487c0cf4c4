//! Models written as GGUF files: what they become, that nothing of them is lost, and what cannot be written.

use std::borrow::Cow;

use foretoken::format::checkpoint::Checkpoint;
use foretoken::format::files::{Files, MemoryFiles};
use foretoken::format::gguf::Gguf;
use foretoken::format::quantize::{Quantization, Target};
use foretoken::format::stored::StoredType;
use foretoken::{ErrorKind, Result};
use pollster::block_on;
use serde_json::{Value, json};

use crate::allocations::most_held;
use crate::common::golden_in_memory;
use crate::gguf::{self, Builder, F32, GOLDEN, TEXT, assert_same, golden_gguf, list, numbers, open};
use crate::refused;

fn target(name: &str) -> Target {
    name.parse().unwrap()
}

/// The file that a model becomes, and the notes on it.
fn written(files: &impl Files, to: &str) -> Result<(MemoryFiles, Vec<String>)> {
    let plan = block_on(Quantization::plan(files, target(to)))?;
    let mut bytes = Vec::new();
    block_on(plan.write(2, &mut |part| {
        bytes.extend_from_slice(part);
        Ok(())
    }))?;
    assert_eq!(bytes.len() as u64, plan.bytes());
    Ok((gguf::files(&[("model.gguf", bytes)]), plan.notes().to_vec()))
}

fn file(files: &impl Files, to: &str) -> MemoryFiles {
    written(files, to).unwrap().0
}

fn header(files: &MemoryFiles) -> Gguf {
    block_on(Gguf::read(files, files.files.keys().next().unwrap())).unwrap().unwrap()
}

/// The bytes of a tensor as they lie in a file.
fn stored(files: &MemoryFiles, name: &str) -> (StoredType, Vec<usize>, Vec<u8>) {
    let gguf = header(files);
    let info = &gguf.tensors.tensors[name];
    let bytes = &files.files[&info.file][info.range.start as usize..info.range.end as usize];
    (info.dtype, info.shape.clone(), bytes.to_vec())
}

/// A file of a golden folder with changes.
fn edited(case: &str, name: &str, change: impl FnOnce(&mut Value)) -> MemoryFiles {
    let mut files = golden_in_memory(case);
    let mut json = serde_json::from_slice(&files.files[name]).unwrap();
    change(&mut json);
    files.files.insert(name.to_owned(), Cow::Owned(json.to_string().into_bytes()));
    files
}

#[test]
fn a_folder_computes_the_same_as_a_file() {
    for name in GOLDEN.into_iter().chain(["llama-sharded"]) {
        assert_same(&file(&golden_in_memory(name), "f32"), name);
    }
    assert_same(&file(&golden_in_memory("llama-f16"), "f16"), "llama-f16");
    assert_same(&file(&golden_in_memory("llama-bf16"), "bf16"), "llama-bf16");
}

/// The files of `make_gguf.py` are written by the package `gguf`, rows turned by the rule of llama.cpp's conversion.
#[test]
fn a_folder_becomes_what_other_programs_make_of_it() {
    for name in GOLDEN {
        let theirs = golden_gguf(name);
        let (dtype, ..) = stored(&theirs, "blk.0.attn_q.weight");
        let ours = file(&golden_in_memory(name), dtype.name());
        let (our_header, their_header) = (header(&ours), header(&theirs));
        let names = |header: &Gguf| header.tensors.tensors.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&our_header), names(&their_header), "{name}");
        for tensor in names(&their_header) {
            let (ours, theirs) = (stored(&ours, &tensor), stored(&theirs, &tensor));
            if tensor == "rope_freqs.weight" {
                let numbers =
                    |bytes: &[u8]| bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<_>>();
                for (a, b) in numbers(&ours.2).into_iter().zip(numbers(&theirs.2)) {
                    assert!((a / b - 1.0).abs() < 1e-6, "{name}: {a} {b}");
                }
            } else {
                assert!(ours == theirs, "{name}: {tensor}: {:?} {:?}, {:?} {:?}", ours.0, ours.1, theirs.0, theirs.1);
            }
        }
        for key in their_header.keys() {
            // What a folder does not say, or says in `tokenizer_config.json`.
            if ["general.name", "tokenizer.chat_template"].contains(&key) {
                continue;
            }
            assert_eq!(our_header.json(key), their_header.json(key), "{name}: {key}");
        }
    }
}

#[test]
fn a_file_keeps_what_it_says() {
    let source = golden_gguf("llama-gqa");
    let written = file(&source, "q8_0");
    let (before, after) = (header(&source), header(&written));
    for key in before.keys() {
        assert_eq!(before.json(key), after.json(key), "{key}");
    }
    assert_eq!(after.json("general.file_type"), Some(json!(7)));
    assert_eq!(after.json("general.quantization_version"), Some(json!(2)));
    assert_eq!(after.json("tokenizer.chat_template"), Some(json!("{{ messages }}")));
    // The tensors have the type that is asked for: bytes stay.
    let same = file(&source, "f32");
    for name in before.tensors.tensors.keys() {
        assert_eq!(stored(&source, name), stored(&same, name), "{name}");
    }
    let again = file(&written, "q8_0");
    assert_eq!(again.files, written.files, "once more is nothing new");
    // Parts become one file.
    let parts = golden_in_memory("gguf/llama-sharded");
    let whole = file(&parts, "f32");
    assert_same(&whole, "llama-sharded");
    assert!(!header(&whole).keys().any(|key| key.starts_with("split.")));
}

#[test]
fn weights_are_close_to_what_they_were() {
    let folder = golden_in_memory("llama-gqa");
    let original = open(&folder).unwrap();
    let mut before = f64::INFINITY;
    // Parts of the weights' mean size: what Gaussian weights lose at so many bits, and a quarter more.
    for (to, most) in
        [("q4_0", 0.105), ("q4_1", 0.09), ("q5_0", 0.055), ("q5_1", 0.045), ("q8_0", 0.0075), ("f16", 3e-4)]
    {
        let files = file(&folder, to);
        let written = open(&files).unwrap();
        written.check().unwrap();
        let (mut error, mut size) = (0.0, 0.0);
        for info in original.tensors().filter(|info| info.shape.len() == 2) {
            let written_info = written.tensor(&info.name).unwrap();
            let got = decoded(&written, &info.name);
            let want = numbers(info, &block_on(original.read(info)).unwrap());
            assert_eq!(got.len(), want.len());
            if written_info.dtype.name().eq_ignore_ascii_case(to) {
                for (got, want) in got.iter().zip(&want) {
                    error += f64::from(got - want).powi(2);
                    size += f64::from(*want).powi(2);
                }
            }
        }
        let share = (error / size).sqrt();
        println!("{to}: {share}");
        assert!(share <= most && share < before, "{to}: {share}");
        before = share;
    }
}

fn decoded(checkpoint: &Checkpoint<'_, MemoryFiles>, name: &str) -> Vec<f32> {
    let info = checkpoint.tensor(name).unwrap();
    let bytes = block_on(checkpoint.read(info)).unwrap();
    match info.dtype {
        StoredType::Q8_0 | StoredType::Q4_0 | StoredType::Q4_1 | StoredType::Q5_0 | StoredType::Q5_1 => {
            by_hand(info.dtype, &bytes)
        }
        _ => numbers(info, &bytes),
    }
}

/// The weights of blocks of 32, as ggml describes them.
fn by_hand(dtype: StoredType, bytes: &[u8]) -> Vec<f32> {
    let half = |bytes: &[u8]| half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
    let nibble = |bytes: &[u8], at: usize| i32::from(bytes[at % 16] >> (at / 16 * 4) & 15);
    let fifth = |bytes: &[u8], at: usize| i32::from(bytes[at / 8] >> (at % 8) & 1) << 4;
    let (_, len) = dtype.unit();
    let weight = |block: &[u8], at: usize| match dtype {
        StoredType::Q8_0 => half(block) * f32::from(block[2 + at] as i8),
        StoredType::Q4_0 => half(block) * (nibble(&block[2..], at) - 8) as f32,
        StoredType::Q4_1 => half(block) * nibble(&block[4..], at) as f32 + half(&block[2..]),
        StoredType::Q5_0 => half(block) * ((nibble(&block[6..], at) | fifth(&block[2..], at)) - 16) as f32,
        _ => half(block) * (nibble(&block[8..], at) | fifth(&block[4..], at)) as f32 + half(&block[2..]),
    };
    bytes.chunks_exact(len).flat_map(|block| (0..32).map(move |at| weight(block, at)).collect::<Vec<_>>()).collect()
}

/// A file of eight blocks whose rows are 256 weights, and 96 in the projection down.
fn wide(tied: bool) -> MemoryFiles {
    let mut file = Builder::llama().without("token_embd.weight").without("output_norm.weight");
    file.pairs.retain(|(key, _)| !key.contains("length") && !key.contains("count"));
    for part in ["attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down"]
    {
        file = file.without(&format!("blk.0.{part}.weight"));
    }
    for (key, number) in [
        ("embedding_length", 256u32),
        ("feed_forward_length", 512),
        ("block_count", 8),
        ("context_length", 64),
        ("attention.head_count", 2),
    ] {
        file.set(&format!("llama.{key}"), gguf::value(gguf::U32, &number.to_le_bytes()));
    }
    file.set("tokenizer.ggml.tokens", list(TEXT, &[gguf::text("a")]));
    file.add("token_embd.weight", &[256, 4]);
    file.add("output_norm.weight", &[256]);
    if !tied {
        file.add("output.weight", &[256, 4]);
    }
    for block in 0..8 {
        for (name, shape) in [
            ("attn_norm", &[256][..]),
            ("attn_q", &[256, 256]),
            ("attn_k", &[256, 256]),
            ("attn_v", &[256, 256]),
            ("attn_output", &[256, 256]),
            ("ffn_norm", &[256]),
            ("ffn_gate", &[256, 512]),
            ("ffn_up", &[256, 512]),
            ("ffn_down", &[512, 256]),
        ] {
            file.add(&format!("blk.{block}.{name}.weight"), shape);
        }
    }
    gguf::files(&[("wide.gguf", file.bytes())])
}

#[test]
fn types_are_mixed_as_llama_cpp_mixes_them() {
    let type_of = |gguf: &Gguf, name: &str| gguf.tensors.tensors[&format!("{name}.weight")].dtype.name();
    for (to, main) in [("q4_k", "Q4_K"), ("Q4_K_M", "Q4_K"), ("q5_k", "Q5_K")] {
        let gguf = header(&file(&wide(false), to));
        assert_eq!(type_of(&gguf, "output"), "Q6_K");
        assert_eq!(type_of(&gguf, "token_embd"), main);
        assert_eq!(type_of(&gguf, "blk.3.attn_norm"), "F32");
        for block in 0..8 {
            // The first eighth, the last, and every third between.
            let expected = if [0, 3, 6, 7].contains(&block) { "Q6_K" } else { main };
            for (part, expected) in [("attn_v", expected), ("ffn_down", expected), ("attn_q", main), ("ffn_up", main)] {
                assert_eq!(type_of(&gguf, &format!("blk.{block}.{part}")), expected, "{to}: block {block}, {part}");
            }
        }
    }
    for (to, main, file_type) in [("q4_0", "Q4_0", 2), ("q6_k", "Q6_K", 18), ("q8_0", "Q8_0", 7), ("bf16", "BF16", 32)]
    {
        let gguf = header(&file(&wide(true), to));
        let head = if ["q8_0", "bf16"].contains(&to) { main } else { "Q6_K" };
        assert_eq!((type_of(&gguf, "token_embd"), type_of(&gguf, "blk.0.attn_v")), (head, main));
        assert_eq!(gguf.json("general.file_type"), Some(json!(file_type)));
    }
}

#[test]
fn rows_that_are_no_whole_blocks_get_another_type_and_it_is_said() {
    let (files, notes) = written(&golden_in_memory("llama-gqa"), "q4_k").unwrap();
    assert_eq!(stored(&files, "blk.0.attn_q.weight").0, StoredType::Q5_0);
    assert_eq!(stored(&files, "blk.0.ffn_down.weight").0, StoredType::Q5_0);
    let told = |words: &str| assert!(notes.iter().any(|note| note.contains(words)), "{words}: {notes:?}");
    told("rows of 32 weights are no whole blocks of Q4_K, which have 256: Q5_0 takes its place");
    told("of Q6_K, which have 256: Q8_0 takes its place");
    // Rows of 24.
    let (files, notes) = written(&golden_in_memory("llama-odd"), "q4_0").unwrap();
    assert_eq!(stored(&files, "blk.0.attn_q.weight").0, StoredType::F16);
    assert!(notes.iter().any(|note| note.contains("no whole blocks of Q4_0, which have 32: F16")), "{notes:?}");
    let (_, notes) = written(&file(&golden_in_memory("llama-gqa"), "q8_0"), "q4_0").unwrap();
    assert!(notes.iter().any(|note| note.contains("of Q8_0 are rounded once more")), "{notes:?}");
}

#[test]
fn gemmas_scales_are_stored_whole() {
    for case in ["gemma2", "gemma3"] {
        let folder = edited(case, "config.json", |config| {
            // What files know of themselves: scores by the size of a head, a window in every block but each sixth.
            config["query_pre_attn_scalar"] = json!(12);
            config.as_object_mut().unwrap().remove("layer_types");
        });
        let files = file(&folder, "f32");
        let (ours, theirs) = (open(&files).unwrap(), open(&folder).unwrap());
        ours.check().unwrap();
        assert_eq!(ours.config().spec.blocks.len(), 3);
        for info in theirs.tensors() {
            let plus = if info.shape.len() == 1 { 1.0 } else { 0.0 };
            let want: Vec<f32> =
                numbers(info, &block_on(theirs.read(info)).unwrap()).iter().map(|w| w + plus).collect();
            assert_eq!(decoded(&ours, &info.name), want, "{case}: {}", info.name);
        }
        // As they are, the golden ones are others than files can describe.
        let error = refused(
            written(&golden_in_memory(case), "f32"),
            &["as a GGUF file: metadata of a gemma", "cannot say what block 0"],
        );
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
}

#[test]
fn a_template_and_special_tokens_come_along() {
    let mut files = edited("llama-gqa", "tokenizer_config.json", |config| {
        config["chat_template"] = json!([{"name": "tools", "template": "a"}, {"name": "default", "template": "b"}]);
        config["pad_token"] = json!({"content": "<unk>"});
    });
    let gguf = header(&file(&files, "f16"));
    assert_eq!(gguf.json("tokenizer.chat_template"), Some(json!("b")));
    assert_eq!(gguf.json("tokenizer.ggml.padding_token_id"), Some(json!(0)));
    files.files.insert("chat_template.jinja".to_owned(), Cow::Borrowed(b"{{ messages }}"));
    let gguf = header(&file(&files, "f16"));
    assert_eq!(gguf.json("tokenizer.chat_template"), Some(json!("{{ messages }}")));
}

/// A vocabulary as SentencePiece's conversions have it.
fn sentencepiece() -> Value {
    let mut tokens = vec!["<unk>".to_owned(), "<s>".to_owned(), "</s>".to_owned()];
    tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(["▁", "a", "b", "c", "ab", "▁ab", "abc", "▁abc", "▁▁"].map(str::to_owned));
    let vocab: serde_json::Map<String, Value> =
        tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    let special = |id: usize| json!({"id": id, "content": tokens[id], "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0), special(1), special(2)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "vocab": vocab,
            "merges": ["a b", "▁ ab", "ab c", "▁ab c", "▁ abc", "▁ ▁"]},
    })
}

/// A folder with so many tokens.
fn with_tokenizer(tokenizer: &Value, rows: usize) -> MemoryFiles {
    let mut files = edited("llama-gqa", "config.json", |config| config["vocab_size"] = json!(rows));
    let mut tensors = std::collections::BTreeMap::new();
    {
        let original = golden_in_memory("llama-gqa");
        let checkpoint = open(&original).unwrap();
        for info in checkpoint.tensors() {
            let mut values = numbers(info, &block_on(checkpoint.read(info)).unwrap());
            let mut shape = info.shape.clone();
            if shape[0] == 96 && shape.len() == 2 {
                values.resize(rows * shape[1], 0.0);
                shape[0] = rows;
            }
            tensors.insert(info.name.clone(), (shape, values));
        }
    }
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        .map(|(name, (shape, values))| (name, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect()))
        .collect();
    let views = bytes.iter().map(|(name, shape, bytes)| {
        (name.clone(), safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    files.files.insert("model.safetensors".to_owned(), Cow::Owned(safetensors::serialize(views, None).unwrap()));
    files.files.insert("tokenizer.json".to_owned(), Cow::Owned(tokenizer.to_string().into_bytes()));
    files
}

#[test]
fn a_vocabulary_with_bytes_is_written_with_scores() {
    let folder = with_tokenizer(&sentencepiece(), 272);
    let files = file(&folder, "f32");
    let gguf = header(&files);
    assert_eq!(gguf.json("tokenizer.ggml.model"), Some(json!("llama")));
    assert_eq!(gguf.json("tokenizer.ggml.add_space_prefix"), Some(json!(true)));
    let types = gguf.json("tokenizer.ggml.token_type").unwrap();
    // Unknown, control, bytes, normal, and rows that no token has.
    assert_eq!(
        [&types[0], &types[1], &types[3], &types[259], &types[268]],
        [2, 3, 6, 1, 5].map(|kind| json!(kind)).each_ref()
    );
    let scores = gguf.json("tokenizer.ggml.scores").unwrap();
    let score = |id: usize| scores[id].as_f64().unwrap();
    // `▁abc` is made by the fourth merge first.
    assert_eq!([score(263), score(264), score(265), score(266)], [0.0, -1.0, -2.0, -3.0]);
    let [ours, theirs] = [&files, &folder].map(|files| block_on(open(files).unwrap().tokenizer()).unwrap());
    for text in ["abc ab", "abc  ab\n", "é€", "", "cab abcabc ", "ab</s>"] {
        assert_eq!(ours.encode(text, true).unwrap(), theirs.encode(text, true).unwrap(), "{text:?}");
        let ids = theirs.encode(text, true).unwrap();
        assert_eq!(ours.decode(&ids, true).unwrap(), theirs.decode(&ids, true).unwrap(), "{text:?}");
    }
    let mut gemma = sentencepiece();
    gemma["normalizer"] = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    gemma["decoder"]["decoders"].as_array_mut().unwrap().pop();
    let gguf = header(&file(&with_tokenizer(&gemma, 268), "f32"));
    assert_eq!(gguf.json("tokenizer.ggml.add_space_prefix"), Some(json!(false)));
}

#[test]
fn what_cannot_be_written_is_refused_by_name() {
    let refuse = |files: &MemoryFiles, words: &[&str]| refused(written(files, "f16"), words);
    let neox = golden_in_memory("neox-parallel");
    refuse(&neox, &["neox-parallel: a gpt_neox model cannot be written as a GGUF file; these can: llama, qwen2"]);
    refuse(&golden_in_memory("qwen2-window"), &["qwen2.attention.sliding_window"]);
    let mut files = golden_in_memory("llama-gqa");
    files.files.remove("tokenizer.json");
    refuse(&files, &["tokenizer.json not found in llama-gqa; a GGUF file holds its tokenizer"]);
    let bare = Builder::llama().bytes();
    refuse(&gguf::files(&[("a.gguf", bare)]), &["a.gguf: it holds no tokenizer"]);
    let tokenizer = |change: fn(&mut Value)| edited("llama-gqa", "tokenizer.json", change);
    refuse(&tokenizer(|json| json["normalizer"] = json!({"type": "Lowercase"})), &["tokenizer.json", "normalizer"]);
    refuse(&tokenizer(|json| json["pre_tokenizer"]["add_prefix_space"] = json!(true)), &["its pre_tokenizer"]);
    refuse(&tokenizer(|json| json["model"]["ignore_merges"] = json!(true)), &["`ignore_merges`"]);
    let template = |json: &mut Value| {
        let single = json["post_processor"]["single"].as_array_mut().unwrap();
        single.insert(0, single[0].clone());
    };
    refuse(&edited("llama-gqa", "tokenizer.json", template), &["it puts the tokens [1, 1] beside texts"]);
    let rows = |json: &mut Value| {
        let mut token = json["added_tokens"][0].clone();
        (token["id"], token["content"]) = (json!(96), json!("<more>"));
        json["added_tokens"].as_array_mut().unwrap().push(token);
    };
    refuse(&edited("llama-gqa", "tokenizer.json", rows), &["\"<more>\" has the id 96, but the embedding 96 rows"]);
    let (_, notes) = written(&tokenizer(|json| json["normalizer"] = json!({"type": "NFC"})), "f16").unwrap();
    assert!(notes.iter().any(|note| note.contains("Unicode's form NFC")), "{notes:?}");
}

#[test]
fn weights_that_a_type_cannot_hold_are_named() {
    let mut file = Builder::llama().with("tokenizer.ggml.tokens", list(TEXT, &[gguf::text("a")]));
    file.set("llama.rope.freq_base", gguf::value(F32, &1e4f32.to_le_bytes()));
    let with = |weight: f32| {
        let mut bytes = file.bytes();
        // The first tensor is the embedding.
        let at = bytes.len() - file.data;
        bytes[at..at + 4].copy_from_slice(&weight.to_le_bytes());
        gguf::files(&[("a.gguf", bytes)])
    };
    let words = ["a.gguf", "tensor \"token_embd.weight\"", "exceeds what F16 can hold"];
    refused(written(&with(1e5), "f16"), &words);
    refused(written(&with(f32::NAN), "bf16"), &["tensor \"token_embd.weight\": a weight is no finite number"]);
    self::file(&with(1e5), "bf16");
}

#[test]
fn types_are_known_by_name() {
    for name in ["q8_0", "Q4_K", "q4_k_m", "Q5_K_M", "f32", "BF16"] {
        assert!(name.parse::<Target>().is_ok(), "{name}");
    }
    let error = refused("q9".parse::<Target>(), &["the type 'q9' is not known; there are: f32, f16, bf16, q8_0, q6_k"]);
    assert_eq!(error.kind(), ErrorKind::Input);
    refused("iq4_nl".parse::<Target>(), &["the type 'iq4_nl' can be read, but not written"]);
}

#[test]
fn memory_is_that_of_a_part() {
    let mut file = Builder::llama().without("token_embd.weight");
    file.set("tokenizer.ggml.tokens", list(TEXT, &[gguf::text("a")]));
    file.add("token_embd.weight", &[8, 1 << 21]);
    let files = gguf::files(&[("a.gguf", file.bytes())]);
    let (plan, _) = most_held(|| block_on(Quantization::plan(&files, target("f16"))).unwrap());
    let mut len = 0;
    let (_, held) = most_held(|| {
        let sink = &mut |part: &[u8]| {
            len += part.len();
            Ok(())
        };
        block_on(plan.write(1, sink)).unwrap();
    });
    assert!(len > 32 << 20 && held < 16 << 20, "{held} bytes for a file of {len}");
}
