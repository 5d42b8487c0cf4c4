use super::translate;
use crate::format::tokenizer_parts::Engine;
use tokenizers::pattern::Pattern;

/// The matches of a pattern, as Oniguruma has them.
#[track_caller]
fn check(pattern: &str, text: &str, expected: &[&str]) {
    let engine = Engine::new(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
    let found = (&engine).find_matches(text).unwrap();
    let matches: Vec<&str> = found.iter().filter(|(_, is)| *is).map(|((start, end), _)| &text[*start..*end]).collect();
    assert_eq!(matches, expected, "{pattern} on {text:?}");
}

#[test]
fn quantifiers_of_quantifiers_are_no_possessive_ones() {
    check(r"\d{2}+", "12345", &["1234"]);
    check(r"\d{2}+5", "12345", &["12345"]);
    check(r"(?:\d{2})++\d", "12345 1234", &["12345", "234"]);
    check("a{,2}b", "aaab", &["aab"]);
    check(r"a{1,2}?", "aa", &["a", "a"]);
    check(r"\d++1", "221", &[]);
    check("a{b", "a{b", &["a{b"]);
    check("a{,}", "a{,}", &["a{,}"]);
}

#[test]
fn lines_begin_and_end_within_a_text() {
    check("^a", "a\na", &["a", "a"]);
    check("a$", "a\nab\na", &["a", "a"]);
    check(r"\Aa", "a\na", &["a"]);
    check(r"a\Z", "a\na\n", &["a"]);
    check(r"a\z", "a\na\n", &[]);
    check(r"\s+$", "a  \n b ", &["  ", " "]);
}

#[test]
fn sets_have_the_characters_that_oniguruma_gives_them() {
    check("[[:alpha:]]+", "éa1한", &["éa", "한"]);
    check("[[:punct:]]", "$,a", &["$", ","]);
    check(r"\p{Punct}", "$,a", &[","]);
    check(r"\w+", "½a\u{200d}b", &["½a", "b"]);
    check(r"[\w]+", "½a\u{200d}b", &["a", "b"]);
    check(r"\ba", "½a a", &["a"]);
    check(r"\h+", "fFg", &["fF"]);
    check(r"\p{^L}\p{uppercase letter}", "1A1a", &["1A"]);
    check(r"[^(\s|[.,])]+", "ab, c(d", &["ab", "c", "d"]);
    check(r"[a-z&&[^ae]]+", "abcde", &["bcd"]);
    check(r"(?m:.)", "\n", &["\n"]);
    check(".", "\n\r", &["\r"]);
}

#[test]
fn letters_are_one_in_any_case_where_asked_for() {
    check("(?i:'ll|'s)", "'LL 'ſ 'S", &["'LL", "'ſ", "'S"]);
    check("a(?i)b|c", "aB aC", &["aB", "aC"]);
    check("(?i:[sd])x", "Sx SX", &["Sx"]);
    check(r"(?i:\p{Lu})", "aA", &["A"]);
}

#[test]
fn a_match_can_go_on_from_the_one_before() {
    check(r"\A\d{2}|\G\d{2}", "12345 67", &["12", "34"]);
}

#[test]
fn what_has_no_known_spelling_is_refused() {
    for (pattern, what) in [
        (r"\pL", "without a name in braces"),
        (r"\p{InBasicLatin}", "the property \"InBasicLatin\""),
        (r"(a)\1", "\"\\1\""),
        (r"\k<n>", "\"\\k\""),
        (r"\R", "\"\\R\""),
        (r"\X", "\"\\X\""),
        ("(?i:ss)", "one character in another case"),
        ("(?i:s[s])", "one character in another case"),
        ("(?i:f(?:x|i))", "one character in another case"),
        ("(?i:s)+", "one character in another case"),
        ("(?i:ß)", "'ß' in any case"),
        (r"(?i:[\p{Lu}])", "by a property in any case"),
        ("(?x:a b)", "the group option 'x'"),
        ("(?~a)", "the group option '~'"),
        ("(?:a*)*", "what may match nothing"),
        ("(?=a)+", "what may match nothing"),
        ("a{,2}+b", "what may match nothing"),
        ("a{2}?", "after a fixed number"),
        ("a{3,1}", "from its end"),
        ("a{100001}", "too large"),
        ("a{99999999999}", "too large"),
        ("*a", "a quantifier after nothing"),
        ("[]a]", "brackets around nothing"),
        ("[a&&]", "brackets around nothing"),
        ("[&&a]", "\"&&\" after nothing"),
        (r"[\w-.]", "a range from a set"),
        ("[z-a]", "from its end"),
        ("[[:print:]]", "without a name that is known"),
        (r"\xE9", "a byte that is no character"),
        (r"\x{110000}", "a number that no character has"),
        (r"\G\d*", "\"\\G\" in a pattern that may match nothing"),
        ("a)", "without its \"(\""),
        ("(a", "without its \")\""),
        ("[a", "without its \"]\""),
        ("a\\", "ends within a construct"),
        ("(?", "a kind that is not supported"),
    ] {
        let error = translate(pattern).expect_err(pattern);
        assert!(error.contains(what), "{pattern}: {error}");
    }
    assert!(translate(&"(".repeat(10_000)).unwrap_err().contains("within groups"));
    assert!(translate(&"[".repeat(10_000)).unwrap_err().contains("within brackets"));
}

#[test]
fn where_the_engine_gives_up_is_no_end_of_the_matches() {
    let engine = Engine::new(r"\s+(?!\S)|\s+|\w+").unwrap();
    let text = format!("a{}b", " ".repeat(1_200_000));
    let error = (&engine).find_matches(&text).unwrap_err().to_string();
    assert!(error.contains("gave up on the split pattern at byte 1 of 1200002"), "{error}");
    assert_eq!((&engine).find_matches(&text[..900_000]).unwrap().len(), 2);
}

#[test]
fn every_property_has_a_set() {
    for pattern in super::class::names().map(|name| format!(r"\p{{{name}}}")) {
        Engine::new(&pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
    }
}

proptest::proptest! {
    /// Whatever a pattern is, it is translated or refused, and what is translated runs.
    #[test]
    fn no_pattern_panics(pattern in r"[\\()\[\]{}|?*+^$.&:=!<>,\-pPbBwsdGxui0-9La é\n]{0,24}", text in ".{0,20}") {
        if let Ok(engine) = Engine::new(&pattern) {
            let _ = (&engine).find_matches(&text);
        }
    }
}
