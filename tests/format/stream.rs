//! Streamed text: the pieces together are what decoding at once gives, and none ends inside a character.

use foretoken::format::stream::StreamDecoder;
use foretoken::format::tokenizer::Tokenizer;
use proptest::prelude::*;

use crate::samples::{byte_fallback_tokenizer, byte_level_tokenizer, bytes, tokenizers};
use crate::tokenizer::{Expected, Real, real};

fn made(json: &serde_json::Value) -> Tokenizer {
    Tokenizer::from_json(&bytes(json)).unwrap()
}

fn stream(tokenizer: &Tokenizer, prompt: &[u32], ids: &[u32], skip_special: bool) -> String {
    let mut decoder = StreamDecoder::new(tokenizer, prompt, skip_special).unwrap();
    let mut text: String = ids.iter().map(|&id| decoder.push(id).unwrap()).collect();
    text.push_str(&decoder.finish().unwrap());
    text
}

/// Checks `ids` from nothing and after every prompt that they start with.
#[track_caller]
fn check(tokenizer: &Tokenizer, ids: &[u32], place: &str) {
    for skip_special in [true, false] {
        let all = tokenizer.decode(ids, skip_special).unwrap();
        assert_eq!(stream(tokenizer, &[], ids, skip_special), all, "{place}: {ids:?}");
        for split in 1..ids.len() {
            let (prompt, rest) = ids.split_at(split);
            let before = tokenizer.decode(prompt, skip_special).unwrap();
            let got = stream(tokenizer, prompt, rest, skip_special);
            match all.strip_prefix(&before) {
                Some(after) if !before.ends_with('\u{fffd}') => assert_eq!(got, after, "{place}: {prompt:?} {rest:?}"),
                // The prompt ends inside a character, which the first piece then holds.
                _ => assert!(all.ends_with(&got), "{place}: {got:?} does not end {all:?}: {prompt:?} {rest:?}"),
            }
        }
    }
}

#[test]
fn expected_texts_are_streamed_whole() {
    for Real { name, tokenizer, expected } in real() {
        for Expected { ids, .. } in expected {
            check(tokenizer, ids, name);
        }
    }
}

#[test]
fn texts_are_streamed_whole_by_made_tokenizers() {
    for (name, json) in tokenizers() {
        let tokenizer = made(&json);
        for text in ["he he", "  he", " ", "", "ü he ü", "日本語 he 🎈🎈", "\n\n he\n", "</s> he <s>", "🎈"]
        {
            check(&tokenizer, &tokenizer.encode(text, true).unwrap(), name);
        }
    }
}

#[test]
fn characters_come_when_they_are_complete() {
    let tokenizer = made(&byte_level_tokenizer());
    let byte = |byte: u8| u32::from(byte) + 2;
    let mut decoder = StreamDecoder::new(&tokenizer, &[], true).unwrap();
    let pieces: Vec<String> = "é🎈a".bytes().map(|b| decoder.push(byte(b)).unwrap()).collect();
    assert_eq!(pieces, ["", "é", "", "", "", "🎈", "a"]);
    assert_eq!(decoder.push(byte(0xf0)).unwrap(), "");
    assert_eq!(decoder.pending().unwrap(), "\u{fffd}");
    assert_eq!(decoder.push(byte(b'b')).unwrap(), "\u{fffd}b");
    assert_eq!(decoder.push(byte(0xc3)).unwrap(), "");
    assert_eq!(decoder.finish().unwrap(), "\u{fffd}");
}

#[test]
fn a_run_of_byte_tokens_comes_when_it_ends_and_is_pending_before() {
    let tokenizer = made(&byte_fallback_tokenizer());
    let mut decoder = StreamDecoder::new(&tokenizer, &[], true).unwrap();
    let byte = |byte: u8| u32::from(byte) + 3;
    assert_eq!(decoder.push(byte(b'\n')).unwrap(), "");
    assert_eq!(decoder.pending().unwrap(), "\n");
    assert_eq!(decoder.push(byte(b'x')).unwrap(), "");
    assert_eq!(decoder.push(260).unwrap(), "\nxh");
    assert_eq!(decoder.pending().unwrap(), "");
}

#[test]
fn a_first_space_is_lost_only_where_decoding_loses_it() {
    let tokenizer = made(&byte_fallback_tokenizer());
    let word = tokenizer.encode("he", false).unwrap();
    assert_eq!(word.len(), 1);
    assert_eq!(stream(&tokenizer, &[], &word, true), "he");
    assert_eq!(stream(&tokenizer, &word, &word, true), " he");
    assert_eq!(stream(&tokenizer, &[1], &word, true), "he", "a skipped token is no text");
}

/// The cost of a token does not grow with the text: this would take minutes if it did.
#[test]
fn long_texts_are_streamed_in_linear_time() {
    for (name, json) in tokenizers() {
        let tokenizer = made(&json);
        let size = tokenizer.vocab_size() as u32;
        let ids: Vec<u32> =
            (0..40_000u32).map(|i| i.wrapping_mul(2_654_435_761) >> 7).map(|hash| hash % size).collect();
        assert_eq!(stream(&tokenizer, &[], &ids, true), tokenizer.decode(&ids, true).unwrap(), "{name}");
    }
    let tokenizer = made(&byte_level_tokenizer());
    let broken = vec![2 + 0xff; 40_000];
    assert_eq!(stream(&tokenizer, &[], &broken, true), tokenizer.decode(&broken, true).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_ids_are_streamed_whole(seeds in prop::collection::vec(any::<u32>(), 0..24), narrow in any::<bool>()) {
        for (name, json) in tokenizers() {
            let tokenizer = made(&json);
            // Half of the cases draw from few tokens, so that runs of one kind are long.
            let size = if narrow { 12 } else { tokenizer.vocab_size() as u32 + 2 };
            let ids: Vec<u32> = seeds.iter().map(|seed| seed % size).collect();
            for skip_special in [true, false] {
                let all = tokenizer.decode(&ids, skip_special).unwrap();
                prop_assert_eq!(stream(&tokenizer, &[], &ids, skip_special), all, "{}", name);
            }
            for split in 0..ids.len() {
                stream(&tokenizer, &ids[..split], &ids[split..], true);
            }
        }
    }

    #[test]
    fn any_text_is_streamed_whole(text in "\\PC{0,12}") {
        for (name, json) in tokenizers() {
            let tokenizer = made(&json);
            check(&tokenizer, &tokenizer.encode(&text, true).unwrap(), name);
        }
    }
}
