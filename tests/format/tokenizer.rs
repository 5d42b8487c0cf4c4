//! Token ids against what the tokenizers' own Python package gave, and broken files.

use std::sync::LazyLock;

use foretoken::ErrorKind;
use foretoken::format::tokenizer::Tokenizer;
use foretoken::train::data::{self, DataFormat, Vocabulary};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::samples::{byte_fallback_tokenizer, byte_level_tokenizer, bytes, tokenizers, with};
use crate::{common, refused};

/// One entry of `../shared/tokenizers/expected/*.json`.
#[derive(Deserialize)]
pub struct Expected {
    text: String,
    pub ids: Vec<u32>,
    ids_no_special: Vec<u32>,
    decoded: String,
    decoded_skip_special: String,
}

/// A real tokenizer and what it must give.
pub struct Real {
    pub name: &'static str,
    pub tokenizer: Tokenizer,
    pub expected: Vec<Expected>,
}

/// Every real tokenizer that is there.
pub fn real() -> &'static [Real] {
    static REAL: LazyLock<Vec<Real>> = LazyLock::new(|| {
        let files = [
            ("gpt2", "tokenizers/gpt2/tokenizer.json"),
            ("smollm2", "tokenizers/smollm/tokenizer.json"),
            ("stories260K", "models/stories260K/tokenizer.json"),
        ];
        files.into_iter().filter_map(|(name, file)| load(name, file)).collect()
    });
    &REAL
}

fn load(name: &'static str, file: &str) -> Option<Real> {
    let json = std::fs::read(common::shared(file)?).unwrap();
    let expected = std::fs::read(common::shared(&format!("tokenizers/expected/{name}.json"))?).unwrap();
    let tokenizer = Tokenizer::from_json(&json).unwrap();
    Some(Real { name, tokenizer, expected: serde_json::from_slice(&expected).unwrap() })
}

#[test]
fn ids_and_texts_equal_the_expected_ones() {
    for Real { name, tokenizer, expected } in real() {
        for Expected { text, ids, ids_no_special, decoded, decoded_skip_special } in expected {
            assert_eq!(&tokenizer.encode(text, true).unwrap(), ids, "{name}: {text:?}");
            assert_eq!(&tokenizer.encode(text, false).unwrap(), ids_no_special, "{name}: {text:?}");
            let decode = |skip| tokenizer.decode(ids_no_special, skip).unwrap();
            assert_eq!(&tokenizer.decode(ids, true).unwrap(), decoded_skip_special, "{name}: {text:?}");
            assert!([&decode(false), &tokenizer.decode(ids, false).unwrap()].contains(&decoded), "{name}: {text:?}");
        }
    }
}

#[test]
fn user_text_can_be_kept_from_becoming_special_tokens() {
    for (name, json) in tokenizers() {
        let tokenizer = Tokenizer::from_json(&bytes(&json)).unwrap();
        let has_special = |ids: &[u32]| {
            ids.iter().any(|&id| tokenizer.is_special(id) && tokenizer.token_text(id).unwrap() != "<unk>")
        };
        assert!(has_special(&tokenizer.encode("he</s>he", false).unwrap()), "{name}");
        assert!(!has_special(&tokenizer.encode_as_text("he</s>he<s>").unwrap()), "{name}");
    }
}

#[test]
fn truncation_and_padding_of_the_file_are_dropped() {
    let truncation = json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    let padding = json!({
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "<s>"
    });
    let file = with(byte_level_tokenizer(), json!({"truncation": truncation, "padding": padding}));
    let tokenizer = Tokenizer::from_json(&bytes(&file)).unwrap();
    assert_eq!(tokenizer.encode("abcdef", true).unwrap().len(), 6);
}

#[test]
fn facts_about_the_vocabulary() {
    let tokenizer = Tokenizer::from_json(&bytes(&byte_fallback_tokenizer())).unwrap();
    assert_eq!(tokenizer.vocab_size(), 3 + 256 + 7);
    assert_eq!(tokenizer.token_text(3 + 0x0a).as_deref(), Some("<0x0A>"));
    assert_eq!(tokenizer.token_text(9999), None);
    assert!(tokenizer.is_special(1) && !tokenizer.is_special(3) && !tokenizer.is_special(9999));
    assert_eq!(tokenizer.decode(&[1, 9999, 4_000_000_000], true).unwrap(), "");
}

#[test]
fn a_completion_has_the_tokens_of_the_text_it_stands_in() {
    let read = |tokenizer: &Tokenizer, prompt: &str, completion: &str| {
        let line = json!({"prompt": prompt, "completion": completion}).to_string();
        let vocabulary = Vocabulary { tokenizer, size: tokenizer.vocab_size(), end: None };
        data::read(line.as_bytes(), DataFormat::Lines, &vocabulary).unwrap().remove(0)
    };
    for (name, file) in tokenizers() {
        let tokenizer = Tokenizer::from_json(&bytes(&file)).unwrap();
        let encode = |text: &str| tokenizer.encode(text, true).unwrap();
        let document = read(&tokenizer, "he he", " he");
        assert_eq!(document.ids, encode("he he he"), "{name}");
        assert_eq!(document.ids[..document.first_target()], encode("he he"), "{name}");
        assert_eq!(read(&tokenizer, "he", "").first_target(), encode("he").len(), "{name}");
    }
    // "▁he", the one token after <s>, is the completion's; what the model would be asked to continue is the prompt all the same.
    let tokenizer = Tokenizer::from_json(&bytes(&byte_fallback_tokenizer())).unwrap();
    let document = read(&tokenizer, "h", "e");
    assert_eq!((document.ids.len(), document.first_target()), (2, 1));
    assert_eq!(document.opening(9), tokenizer.encode("h", true).unwrap());
}

/// `base` with the value at a JSON pointer replaced.
fn at(base: Value, pointer: &str, value: Value) -> Value {
    let mut changed = base;
    *changed.pointer_mut(pointer).unwrap() = value;
    changed
}

#[track_caller]
fn check(file: Value, kind: ErrorKind, words: &[&str]) {
    let error = refused(Tokenizer::from_json(&bytes(&file)), &[&["tokenizer.json"], words].concat());
    assert_eq!(error.kind(), kind, "{error}");
}

#[test]
fn components_of_other_families_are_refused_by_name() {
    let (level, fallback) = (byte_level_tokenizer, byte_fallback_tokenizer);
    let unsupported = |file, words: &[&str]| check(file, ErrorKind::Unsupported, words);
    for kind in ["Unigram", "WordPiece", "WordLevel"] {
        unsupported(at(level(), "/model/type", json!(kind)), &[kind, "BPE"]);
    }
    unsupported(with(level(), json!({"model": {"type": "Unigram", "vocab": [["a", 0.5]]}})), &["Unigram"]);
    unsupported(at(level(), "/model/dropout", json!(0.1)), &["dropout", "0.1"]);
    let affix = with(level()["model"].clone(), json!({"end_of_word_suffix": "</w>"}));
    unsupported(with(level(), json!({"model": affix})), &["end_of_word_suffix"]);
    unsupported(
        with(level(), json!({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AA"}})),
        &["Precompiled"],
    );
    unsupported(with(level(), json!({"pre_tokenizer": {"type": "BertPreTokenizer"}})), &["BertPreTokenizer"]);
    unsupported(with(level(), json!({"post_processor": {"type": "RobertaProcessing"}})), &["RobertaProcessing"]);
    unsupported(
        with(level(), json!({"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true}})),
        &["WordPiece"],
    );
    unsupported(with(level(), json!({"decoder": {"type": "BPEDecoder", "suffix": "</w>"}})), &["BPEDecoder"]);
    unsupported(at(fallback(), "/decoder/decoders/3/stop", json!(1)), &["Strip", "stop"]);
    unsupported(at(fallback(), "/decoder/decoders/3/start", json!(2)), &["Strip", "start"]);
}

#[test]
fn split_patterns_are_read_as_oniguruma_reads_them() {
    let tokenizer = |pattern: &str| {
        let split = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        let bytes_of =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
        let parts = json!({"type": "Sequence", "pretokenizers": [split, bytes_of]});
        with(byte_level_tokenizer(), json!({"pre_tokenizer": parts}))
    };
    let ids = |pattern: &str, text: &str| {
        Tokenizer::from_json(&bytes(&tokenizer(pattern))).unwrap().encode(text, false).unwrap()
    };
    let (he, letter) = (2 + 256, |letter: u8| u32::from(letter) + 2);
    // Possessive, it would leave nothing for the last letter, and "he" would be whole.
    assert_eq!(ids("(?:.{2})+e", "hahe"), [letter(b'h'), letter(b'a'), he]);
    assert_eq!(ids("^h", "he\nhe"), [letter(b'h'), letter(b'e'), letter(b'\n'), letter(b'h'), letter(b'e')]);
    assert_eq!(ids("[[:alpha:]]", "hé"), [letter(b'h'), letter(0xC3), letter(0xA9)]);
    assert_eq!(ids("[[:punct:]]", "he"), [he]);
    let unsupported = |pattern: &str, words: &[&str]| check(tokenizer(pattern), ErrorKind::Unsupported, words);
    unsupported(r"(h)\1", &["pre_tokenizer", "Split", "regular expression", "up to character 5"]);
    unsupported("(?i:ß)", &["'ß' in any case"]);
    let replace = json!({"type": "Replace", "pattern": {"Regex": r"\X"}, "content": ""});
    let normalizer = with(byte_level_tokenizer(), json!({"normalizer": replace}));
    check(normalizer, ErrorKind::Unsupported, &["normalizer", "Replace", r#""\\X""#]);
    let decoder = at(byte_fallback_tokenizer(), "/decoder/decoders/0/pattern", json!({"Regex": "▁+"}));
    check(decoder, ErrorKind::Unsupported, &["decoder", "plain text is"]);
    let plain = at(byte_fallback_tokenizer(), "/decoder/decoders/0/pattern", json!({"Regex": "▁"}));
    let plain = Tokenizer::from_json(&bytes(&plain)).unwrap();
    assert_eq!(plain.decode(&plain.encode("he he", true).unwrap(), true).unwrap(), "he he");
}

/// The crate takes an engine that gives up for the end of the matches.
#[test]
fn a_text_that_the_engine_gives_up_on_has_no_ids() {
    let tokenizer = Tokenizer::from_json(&bytes(&byte_level_tokenizer())).unwrap();
    let text = |spaces| format!("he{}he he", " ".repeat(spaces));
    assert!(tokenizer.encode(&text(100_000), true).unwrap().len() > 100_000);
    let error = tokenizer.encode(&text(1_100_000), true).unwrap_err().to_string();
    assert!(error.contains("the regex engine gave up on the split pattern at byte 2 of"), "{error}");
}

#[test]
fn added_tokens_are_text_where_others_are_bytes() {
    let token = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": false})
    };
    let first = 2 + 256 + 3;
    // The fourth is what the merges make of " he", and the fifth the letter of a byte.
    let tokens = [
        token(first, "Ĺódź"),
        token(first + 1, "éĠ"),
        token(first + 2, "中"),
        token(2 + 256 + 1, "Ġhe"),
        token(2, "Ā"),
    ];
    let mut file = byte_level_tokenizer();
    file["added_tokens"].as_array_mut().unwrap().extend(tokens);
    let tokenizer = Tokenizer::from_json(&bytes(&file)).unwrap();
    let decode = |ids: &[u32]| tokenizer.decode(ids, true).unwrap();
    assert_eq!(decode(&[first, first + 1, first + 2, 2 + 256 + 1, 2]), "ĹódźéĠ中 he\0");
    for text in ["Ĺódź he", "he中éĠ"] {
        assert_eq!(decode(&tokenizer.encode(text, true).unwrap()), text);
    }
    // Half a character before one stays half a character.
    assert_eq!(decode(&[2 + 0xC3, first + 1]), "\u{fffd}éĠ");
}

#[test]
fn an_unknown_token_that_nothing_needs_may_be_missing() {
    let fallback = at(byte_fallback_tokenizer(), "/model/unk_token", json!("<none>"));
    assert!(Tokenizer::from_json(&bytes(&at(fallback.clone(), "/model/byte_fallback", json!(false)))).is_err());
    let tokenizer = Tokenizer::from_json(&bytes(&fallback)).unwrap();
    assert_eq!(tokenizer.decode(&tokenizer.encode("日", true).unwrap(), true).unwrap(), "日");
    let level = at(byte_level_tokenizer(), "/model/unk_token", json!("<none>"));
    let tokenizer = Tokenizer::from_json(&bytes(&level)).unwrap();
    assert_eq!(tokenizer.decode(&tokenizer.encode("日", true).unwrap(), true).unwrap(), "日");
    let mut short = fallback;
    short["model"]["vocab"].as_object_mut().unwrap().remove("<0xFF>");
    check(short, ErrorKind::Format, &["<none>"]);
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_file() {
    let file = [&b"\xEF\xBB\xBF"[..], &bytes(&byte_level_tokenizer())].concat();
    assert_eq!(Tokenizer::from_json(&file).unwrap().encode("he", false).unwrap().len(), 1);
}

/// Each of these makes the tokenizers crate panic, or take other ids than the file states.
#[test]
fn files_that_the_crate_would_trust_are_refused() {
    let (level, fallback) = (byte_level_tokenizer, byte_fallback_tokenizer);
    let broken = |file, words: &[&str]| check(file, ErrorKind::Format, words);
    broken(at(level(), "/model/merges", json!([["h", "Ġhe"], ["Ġhe", "Ġhe"]])), &["merge 0", "hĠhe"]);
    broken(at(level(), "/model/merges", json!([["h", "zz"]])), &["merge 0", "zz"]);
    broken(at(level(), "/model/merges", json!(["h e x"])), &["merge 0"]);
    broken(at(level(), "/model/merges", json!(["he"])), &["merge 0"]);
    broken(at(level(), "/model/vocab/he", json!(5)), &["share"]);
    broken(at(level(), "/model/vocab/he", json!(-5)), &["-5"]);
    broken(at(level(), "/model/vocab/he", json!(4294967296u64)), &["4294967296"]);
    let without_bytes = at(fallback(), "/model/byte_fallback", json!(false));
    broken(at(without_bytes, "/model/unk_token", json!("<none>")), &["<none>"]);
    broken(at(level(), "/added_tokens/0/id", json!(7)), &["<s>", "expected id 7", "id 0"]);
    broken(at(level(), "/added_tokens/0/content", json!("<new>")), &["<new>", "expected id 0"]);
    broken(at(level(), "/added_tokens/0/content", json!("")), &["no id"]);
    broken(at(fallback(), "/post_processor/special_tokens", json!({})), &["<s>", "special_tokens"]);
    broken(
        at(fallback(), "/post_processor/single", json!([{"Sequence": {"id": "B", "type_id": 0}}])),
        &["second text"],
    );
    broken(at(fallback(), "/decoder/decoders", json!({})), &["decoder", "decoders"]);
    broken(at(fallback(), "/decoder", json!({"decoders": []})), &["decoder", "type"]);
    broken(at(fallback(), "/decoder/decoders/0/pattern", json!({"Regex": "("})), &["tokenizer.json"]);
    broken(at(fallback(), "/normalizer/normalizers/1/pattern", json!({"String": ""})), &["normalizer", "empty"]);
    broken(at(level(), "/model", json!({"type": "BPE"})), &["vocab"]);
    broken(at(level(), "/version", json!("2.0")), &["2.0"]);
    broken(json!({}), &["model"]);
    broken(json!([]), &["tokenizer.json"]);
}
