//! Against the golden checkpoint's tokenizer: `<s>` before a text, `</s>` the end token, bytes and a few words.

use super::*;

const END: u32 = 2;

fn tokenizer() -> Tokenizer {
    Tokenizer::from_json(include_bytes!("../../../tests/golden/llama-gqa/tokenizer.json")).unwrap()
}

fn try_read(text: &str, format: DataFormat) -> Result<Vec<Document>> {
    let tokenizer = tokenizer();
    read(text.as_bytes(), format, &Vocabulary { tokenizer: &tokenizer, size: 96, end: Some(END) })
}

fn lines(text: &str) -> Vec<Document> {
    try_read(text, DataFormat::Lines).unwrap()
}

#[track_caller]
fn fails(text: &str, format: DataFormat, parts: &[&str]) {
    let error = try_read(text, format).unwrap_err().to_string();
    assert!(parts.iter().all(|part| error.contains(part)), "{error}");
}

#[test]
fn a_prompts_tokens_are_those_of_generation() {
    let tokenizer = tokenizer();
    let documents = lines(r#"{"prompt": "The red", "completion": " hen was"}"#);
    let prompt = tokenizer.encode("The red", true).unwrap();
    let completion = tokenizer.encode(" hen was", false).unwrap();
    assert_eq!(documents[0].prompt, Some(Prompt { ids: prompt.clone(), shared: prompt.len() }));
    assert_eq!(documents[0].ids, [&prompt[..], &completion, &[END]].concat());
    assert_eq!(documents[0].opening(1), prompt);
    // Beside {"text"}, and lines with nothing on them.
    let documents = lines("\u{feff}\n{\"text\": \"The red hen\"}\r\n\n{\"prompt\": \"a\", \"completion\": \"b\"}");
    let text = [tokenizer.encode("The red hen", true).unwrap(), vec![END]].concat();
    assert_eq!((&documents[0].ids, &documents[0].prompt, documents[0].line), (&text, &None, 2));
    assert_eq!(documents[0].opening(3), &text[..3]);
    assert_eq!(documents[0].opening(99), &text[..text.len() - 1], "nothing goes on after an end token");
    assert_eq!(documents[1].line, 4);
    // What people note beside a text is theirs.
    assert_eq!(lines(r#"{"text": "The red hen", "source": 7, "prompt": null}"#)[0].ids, text);
}

#[test]
fn a_line_divides_documents() {
    let tokenizer = tokenizer();
    let text = "one\ntwo\n<|endoftext|>\nthree\n<|endoftext|>\n\n<|endoftext|>\n";
    let documents = try_read(text, DataFormat::Text).unwrap();
    let expected = |text: &str| [tokenizer.encode(text, true).unwrap(), vec![END]].concat();
    assert_eq!(documents.len(), 2);
    assert_eq!((&documents[0].ids, documents[0].line), (&expected("one\ntwo"), 1));
    assert_eq!((&documents[1].ids, documents[1].line), (&expected("three"), 4));
    // Within a line it is text.
    assert_eq!(try_read("a <|endoftext|> b", DataFormat::Text).unwrap().len(), 1);
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    let good = "{\"text\": \"a\"}\n";
    for (line, parts) in [
        ("{\"text\": ", &["line 2", "expected a JSON object"][..]),
        ("[1]", &["line 2", "expected a JSON object", "[1]"]),
        ("{\"text\": 5}", &["line 2", "`text`", "expected a text, got 5"]),
        ("{\"prompt\": null, \"completion\": \"\"}", &["line 2", "prompt and completion, or text; got completion"]),
        ("{\"prompt\": \"a\"}", &["line 2", "prompt and completion, or text; got prompt"]),
        ("{}", &["line 2", "got no field"]),
        ("{\"text\": \"a\", \"prompt\": \"b\"}", &["line 2", "got prompt and text"]),
        ("{\"txt\": \"b\", \"id\": 1}", &["line 2", "prompt and completion, or text; got id and txt"]),
    ] {
        fails(&format!("{good}{line}\n"), DataFormat::Lines, parts);
    }
    for empty in ["", "\n \n", "\u{feff}"] {
        fails(empty, DataFormat::Lines, &["empty"]);
        fails(empty, DataFormat::Text, &["empty"]);
    }
    fails("<|endoftext|>\n", DataFormat::Text, &["empty"]);
    let tokenizer = tokenizer();
    let small = Vocabulary { tokenizer: &tokenizer, size: 20, end: None };
    let error = read(b"a\n<|endoftext|>\nThe red", DataFormat::Text, &small).unwrap_err().to_string();
    assert!(error.contains("line ") && error.contains("vocabulary of 20 tokens"), "{error}");
    let error = read(b"a\n\xff", DataFormat::Text, &small).unwrap_err().to_string();
    assert!(error.contains("line 2") && error.contains("its byte 1"), "{error}");
    assert!(DataFormat::of_name("a.csv").unwrap_err().to_string().contains(".jsonl"));
    assert_eq!(DataFormat::of_name("a.b.JSONL").unwrap(), DataFormat::Lines);
    assert_eq!(DataFormat::of_name("a.txt").unwrap(), DataFormat::Text);
}

fn documents(of: &[(&[u32], usize)]) -> Vec<Document> {
    of.iter()
        .enumerate()
        .map(|(n, (ids, prompt))| {
            let prompt = Some(Prompt { ids: ids[..*prompt].to_vec(), shared: *prompt });
            Document { line: n + 1, ids: ids.to_vec(), prompt, ended: true }
        })
        .collect()
}

#[test]
fn windows_share_a_token() {
    // The end token of the first document begins the second.
    let documents = documents(&[(&[9, 1, 2, 9], 0), (&[9, 3, 4, 9], 0)]);
    let data = Dataset::new(&documents, DataFormat::Text, 3, Counted::Completion).unwrap();
    let batches: Vec<_> = data.in_order(2).collect();
    assert_eq!(batches[0].ids, [9, 1, 2, 2, 9, 3]);
    assert_eq!(batches[0].counts, [false, true, true, false, true, true]);
    assert_eq!(batches[1].ids, [3, 4, 9, 0, 0, 0]);
    assert_eq!(batches[1].counts, [false, true, true, false, false, false]);
    assert_eq!((data.len(), data.targets(), data.unused), (3, 6, 0));
    // Another token that ends one and begins the next occurs twice.
    let open: Vec<_> = documents.iter().map(|document| Document { ended: false, ..document.clone() }).collect();
    let open = Dataset::new(&open, DataFormat::Text, 3, Counted::Completion).unwrap();
    assert_eq!(open.in_order(3).next().unwrap().ids, [9, 1, 2, 2, 9, 9, 9, 3, 4]);
    let longer = Dataset::new(&documents, DataFormat::Text, 5, Counted::Completion).unwrap();
    assert_eq!((longer.len(), longer.unused), (1, 2));
    let error = Dataset::new(&documents, DataFormat::Text, 8, Counted::All).unwrap_err().to_string();
    assert!(error.contains("7 tokens") && error.contains("`length`"), "{error}");
}

#[test]
fn lines_are_cut_padded_and_dropped() {
    let documents =
        documents(&[(&[5, 6, 7], 2), (&[5, 6, 7, 8, 9], 2), (&[1, 2, 3, 4, 5], 4), (&[1, 2], 0), (&[1], 0)]);
    let data = Dataset::new(&documents, DataFormat::Lines, 4, Counted::Completion).unwrap();
    assert_eq!((data.len(), data.dropped, data.truncated), (3, 2, 1));
    let batch = data.in_order(3).next().unwrap();
    assert_eq!(batch.ids, [5, 6, 7, 0, 5, 6, 7, 8, 1, 2, 0, 0]);
    let counts: Vec<u32> = batch.counts.iter().map(|&counts| u32::from(counts)).collect();
    assert_eq!(counts, [0, 0, 1, 0, 0, 0, 1, 1, 0, 1, 0, 0]);
    let all = Dataset::new(&documents, DataFormat::Lines, 4, Counted::All).unwrap();
    assert_eq!((all.len(), all.dropped, all.targets()), (4, 1, 2 + 3 + 3 + 1));
    let error = Dataset::new(&documents[2..3], DataFormat::Lines, 4, Counted::Completion).unwrap_err().to_string();
    assert!(error.contains("`length`"), "{error}");
    assert!(Dataset::new(&documents, DataFormat::Lines, 1, Counted::All).is_err());
}

#[test]
fn the_order_is_a_function_of_seed_and_step() {
    let of: Vec<[u32; 2]> = (0..10).map(|n| [1, n]).collect();
    let data = Dataset::each(of.iter().map(|ids| (&ids[..], 0)), 2, Counted::All).unwrap();
    let mut batches = data.batches(7, 2, 2);
    assert_eq!(batches.steps_an_epoch(), 3);
    let steps: Vec<_> = (0..5).map(|step| batches.step(step)).collect();
    assert!(steps.iter().all(|step| step.len() == 2 && step[0].ids.len() == 4));
    // From the middle, backwards, from another start: the same.
    for step in [4, 0, 3, 2, 1, 0] {
        assert_eq!(batches.step(step), steps[step as usize]);
        assert_eq!(data.batches(7, 2, 2).step(step), steps[step as usize]);
    }
    let seen: Vec<u32> = steps.iter().flatten().flat_map(|batch| [batch.ids[1], batch.ids[3]]).collect();
    let epoch = |n: usize| {
        let mut epoch = seen[10 * n..][..10].to_vec();
        epoch.sort_unstable();
        epoch
    };
    assert_eq!([epoch(0), epoch(1)], [(0..10).collect::<Vec<_>>(), (0..10).collect()]);
    assert_ne!(seen[..10], seen[10..], "reshuffled");
    assert_ne!(data.batches(8, 2, 2).step(0), steps[0]);
}

/// Sequences of these lengths.
fn of_lengths(lengths: &[usize]) -> Dataset {
    let texts: Vec<Vec<u32>> = lengths.iter().map(|&length| vec![1; length]).collect();
    Dataset::each(texts.iter().map(|ids| (&ids[..], 0)), 16, Counted::Completion).unwrap()
}

#[test]
fn no_micro_batch_has_more_targets_than_the_most() {
    let counted = |batch: &MicroBatch| batch.counts.iter().filter(|&&counts| counts).count();
    for lengths in [&[16, 9, 5, 3, 2][..], &[4, 7], &[5]] {
        let data = of_lengths(lengths);
        for sequences in [1, 2, 4, 7] {
            let mut batches = data.batches(3, sequences, 1);
            let most = (0..200).flat_map(|step| batches.step(step)).map(|batch| counted(&batch)).max().unwrap();
            assert!(most <= data.most_targets(sequences), "{lengths:?}, {sequences} at a time: {most}");
            let most = data.in_order(sequences).map(|batch| counted(&batch)).max().unwrap();
            assert!(most <= data.most_targets_in_order(sequences), "{lengths:?}, {sequences} in order: {most}");
        }
    }
    // The longest sequence ends one epoch and begins the next.
    let data = of_lengths(&[16, 9, 5, 3, 2]);
    assert_eq!((data.most_targets(4), data.most_targets_in_order(4)), (15 + 15 + 8 + 8, 15 + 8 + 4 + 2));
}

#[test]
fn a_head_that_looks_far_has_fewer_targets() {
    let data = of_lengths(&[5, 3]);
    assert_eq!([1, 2, 4, 5].map(|offset| data.targets_at(offset)), [4 + 2, 3 + 1, 1, 0]);
    let documents = documents(&[(&[5, 6, 7, 8], 3)]);
    let data = Dataset::new(&documents, DataFormat::Lines, 4, Counted::Completion).unwrap();
    assert_eq!([1, 3, 4].map(|offset| data.targets_at(offset)), [1, 1, 0]);
}
