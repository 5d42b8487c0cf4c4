//! Texts, flags and heads that are not trained on, and folders that are left alone.

use super::*;
use crate::support::Refused::{self, Error, Usage};

#[test]
fn bad_texts_and_flags_are_refused_before_anything_is_written() {
    let place = Place::new();
    let good = pair("a", "b");
    place.write("empty.jsonl", "");
    place.write("broken.jsonl", &format!("{good}\n{{\"prompt\": \n"));
    place.write("types.jsonl", "{\"text\": 3}");
    place.write("fields.jsonl", "{\"txt\": \"a\"}");
    place.write("long.jsonl", &pair(&"the red hen ".repeat(20), "b"));
    place.write("short.txt", "hen");
    place.write("two.jsonl", &json!({"text": "a"}).to_string());
    place.write("text.csv", "hen");
    fs::write(place.path("bytes.txt"), b"a\n\xff").unwrap();
    let heads = golden("heads-neox");
    let cases: &[(&str, &[&str], Refused<'_>)] = &[
        ("empty.jsonl", &[], Error("{place}/empty.jsonl: expected texts, got an empty file")),
        (
            "broken.jsonl",
            &[],
            Error(
                "{place}/broken.jsonl: line 2: expected a JSON object: EOF while parsing a value at column 11, in {\"prompt\": ",
            ),
        ),
        ("types.jsonl", &[], Error("{place}/types.jsonl: line 1: `text`: expected a text, got 3")),
        (
            "fields.jsonl",
            &[],
            Error("{place}/fields.jsonl: line 1: expected the fields prompt and completion, or text; got txt"),
        ),
        (
            "long.jsonl",
            &[],
            Error(
                "{place}/long.jsonl: no sequence has a token to learn from: all 1 prompts fill the 16 tokens of a sequence \
                 (--seq-len), or nothing follows them",
            ),
        ),
        (
            "short.txt",
            &[],
            Error("{place}/short.txt: the text has 4 tokens, a sequence 16: give more text, or a smaller --seq-len"),
        ),
        ("text.csv", &[], Error("{place}/text.csv: expected a file whose name ends in .txt or .jsonl")),
        ("bytes.txt", &[], Error("{place}/bytes.txt: line 2: expected UTF-8 text, but its byte 1 is not")),
        ("none.txt", &[], Error("{place}/none.txt: {not found}")),
        (
            "story.txt",
            &["no lr"],
            Error("--lr is needed: there is no training.json in {model}, which could record \"learning_rate\""),
        ),
        ("story.txt", &["--lr", "nan"], Error("--lr NaN: expected a number above 0 that f32 holds")),
        (
            "story.txt",
            &["--seq-len", "129"],
            Usage(
                "the argument '--seq-len <TOKENS>' cannot be used multiple times\n\nUsage: foretoken train [OPTIONS] --data \
                 <FILE> --out <DIR>",
            ),
        ),
        ("story.txt", &["--mode", "joint", "--lora-rank", "0"], Error("--lora-rank 0: expected at least 1")),
        ("story.txt", &["--gated"], Error("--gated: it is for the LoRA that --mode joint trains with the heads")),
        (
            "story.txt",
            &["--target", "marginal", "--heads", "4"],
            Error("--target marginal: expected heads for tokens up to +3, as far as marginals go, got +4"),
        ),
        (
            "story.txt",
            &["--target", "marginal", "--heads", "1"],
            Error("--target marginal --heads 1: the marginal begins with token +2"),
        ),
        (
            "story.txt",
            &["--target", "marginal", "--kind", "sequential"],
            Error(
                "--target marginal: sequential heads read the token before the one they predict, which a marginal leaves open; \
                 use --target shifted",
            ),
        ),
        ("story.txt", &["--depth", "3"], Error("3 layers a head: expected 1 to 2, the backbone's")),
        ("story.txt", &["--source", "9"], Error("source 9: expected a block from 1 to 2")),
        (
            "story.txt",
            &["--warmup-heads", &heads],
            Error(
                "{heads}: mtp_config.json, `backbone`: these heads are for a backbone with `model_type` gpt_neox; this model has \
                 llama",
            ),
        ),
        (
            "story.txt",
            &["--warmup-heads", &place.model],
            Error(
                "no multi-token heads in {model}: a whole model is there, and drafting with a second model is not implemented; give \
                 heads that were made for this model, or draft by lookup",
            ),
        ),
        ("story.txt", &["--valid", "none.txt"], Error("none.txt: {not found}")),
        ("story.txt", &["--resume"], Error("{place}/out: there is no run to resume")),
        (
            "story.txt",
            &["--accumulate", "288230376151711744"],
            Error("--accumulate 288230376151711744: expected at most 4096"),
        ),
        (
            "story.txt",
            &["--heads", "16"],
            Error("the head for token +16 sees none in sequences of 16 tokens: use a larger --seq-len, or fewer heads"),
        ),
        (
            "two.jsonl",
            &["--heads", "4"],
            Error("no token of the data counts for the head for token +3: use longer texts, or fewer heads"),
        ),
        (
            "story.txt",
            &["--mode", "baseline", "--heads", "1"],
            Error("--heads: --mode baseline trains what the model itself predicts, and no heads"),
        ),
    ];
    let (not_found, folder) = (not_found(), place.text(""));
    let places = [
        ("{model}", &place.model[..]),
        ("{heads}", &heads),
        ("{place}", folder.trim_end_matches(['/', '\\'])),
        ("{not found}", &not_found),
    ];
    for (data, flags, expected) in cases {
        place.train(data, "out", flags).refused(*expected, &places, &format!("{data} {flags:?}"));
        assert!(!place.path("out").exists(), "{data} {flags:?}");
    }
    let (model, data, out) = (&place.model, place.text("story.txt"), place.text("out"));
    let base = ["train", "--model", model, "--data", &data, "--out", &out, "--lr", "1"];
    let too_many = |batch: &str, length: usize| {
        format!(
            "--batch {batch} with --seq-len {length}: expected at most 65000 tokens together; use a smaller --batch with a \
             larger --accumulate, or a smaller --seq-len"
        )
    };
    for (flags, expected) in [
        (["--seq-len", "129"], "--seq-len 129: the model's context holds 128 tokens".to_owned()),
        (["--batch", "1000000000000"], too_many("1000000000000", 2)),
        // Where nobody names a length, it is the model's context.
        (["--batch", "600"], too_many("600", 128)),
    ] {
        foretoken(&[&base[..], &flags].concat()).refused(Error(&expected), &places, flags[0]);
    }
    assert!(!place.path("out").exists());
}

#[test]
fn heads_that_cannot_be_trained_are_refused_before_own_texts_are_written() {
    let place = Place::new();
    place.trained("story.txt", "joint", &["--mode", "joint", "--steps", "1"]);
    edit_json(&place.path("joint/mtp_config.json"), |config| config["lora"]["alpha"] = json!(4));
    place.trained("story.txt", "baseline", &["--mode", "baseline", "--steps", "1"]);
    for (heads, mode, message) in [
        ("joint", "joint", "a LoRA with alpha 4 and rank 8 is not trained: they must be equal"),
        ("baseline", "frozen", "there is nothing to train"),
    ] {
        let heads = place.text(heads);
        let flags = ["--warmup-heads", &heads, "--mode", mode, "--steps", "1", "--self-distill"];
        place.train("story.txt", "out", &flags).fails_with(message);
        assert!(!place.path("out").exists(), "{message}");
    }
}

#[test]
fn a_folder_with_heads_is_left_alone() {
    let place = Place::new();
    let (folder, heads) = golden_copy("heads-parallel");
    let before = fs::read(folder.path().join("mtp.safetensors")).unwrap();
    let (model, data) = (&place.model, place.text("story.txt"));
    for more in [&[][..], &["--resume"]] {
        let flags = ["train", "--model", model, "--data", &data, "--out", &heads, "--lr", "1", "--seq-len", "16"];
        foretoken(&[&flags[..], more].concat()).fails_with(if more.is_empty() {
            "already"
        } else {
            "no run to resume"
        });
    }
    assert_eq!(fs::read(folder.path().join("mtp.safetensors")).unwrap(), before);
    assert!(!folder.path().join("checkpoint").exists());
}

#[test]
fn a_recorded_rate_must_be_a_number() {
    let (folder, model) = golden_copy(CASE);
    let place = Place { model, ..Place::new() };
    for (record, message) in [("{}", "got null"), ("{\"learning_rate\": -1}", "got -1"), ("{", "training.json")] {
        fs::write(folder.path().join("training.json"), record).unwrap();
        place.train("story.txt", "out", &["no lr"]).fails_with_in(message, record);
    }
}
