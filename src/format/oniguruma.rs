//! Split patterns of tokenizers, which are Oniguruma's, for the engine that we have.
//!
//! Tokenizers are made with Oniguruma, in its Ruby-like syntax; here they run on fancy-regex, which needs no C. The two read some
//! constructs differently: `{3}+`, `^` and `$`, `\w` and `\b`, `[[:alpha:]]`. So a pattern is taken apart by Oniguruma's
//! rules and written anew from constructs of which both make the same, and what is not known to have such a spelling is
//! refused. Which these are was found by comparing both engines, over every character and over random texts
//! (`tests/tokenizers/compare.py`). Both have the character properties of Unicode 16.

mod class;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::iter::Peekable;
use std::str::CharIndices;

use class::{Class, escape_class, property};

/// Groups within groups, more than any pattern has.
const MAX_DEPTH: usize = 50;

/// Beyond it Oniguruma has no number of repetitions.
const MAX_REPEAT: u32 = 100_000;

/// Characters of more than one letter in another case: "ss" is "ß" then, and only Oniguruma minds.
const FOLDED_PAIRS: [(char, char); 5] = [('s', 's'), ('f', 'f'), ('f', 'i'), ('f', 'l'), ('s', 't')];

/// The pattern, which is Oniguruma's, as fancy-regex reads it; fails with the construct that has no such spelling and its place.
pub(super) fn translate(pattern: &str) -> Result<String, String> {
    let mut parser = Parser { rest: pattern.char_indices().peekable(), pattern, depth: 0, goes_on: false };
    let part = parser.alternatives(Flags::default())?;
    match parser.rest.peek() {
        // After a match of nothing they do not go on from the same place.
        None if parser.goes_on && part.nullable => Err("\"\\G\" in a pattern that may match nothing".to_owned()),
        None => Ok(part.text),
        Some(_) => Err(parser.unknown("\")\" without its \"(\"")),
    }
}

/// The options in force.
#[derive(Clone, Copy, Default)]
struct Flags {
    /// `(?i)`: upper and lower case are one.
    any_case: bool,
    /// `(?m)`, which elsewhere is called `s`: a dot stands for a line break too.
    dot_all: bool,
}

/// A translated part of a pattern.
#[derive(Default)]
struct Part {
    text: String,
    /// Whether it can match nothing.
    nullable: bool,
    /// The letters that it can begin and end with, where case does not matter.
    first: BTreeSet<char>,
    last: BTreeSet<char>,
    /// Whether a quantifier behind it takes all of it, without a group around it.
    atom: bool,
}

impl Part {
    /// One character of a set.
    fn one(text: impl Into<String>) -> Self {
        Self { text: text.into(), atom: true, ..Self::default() }
    }

    /// A place between characters.
    fn place(text: &str) -> Self {
        Self { text: text.to_owned(), nullable: true, atom: true, ..Self::default() }
    }

    /// One character, whose case may not matter.
    fn character(c: char, flags: Flags) -> Self {
        let mut text = String::new();
        escape(&mut text, c);
        if !flags.any_case || !c.is_ascii_alphabetic() {
            return Self::one(text);
        }
        let letters = BTreeSet::from([c.to_ascii_lowercase()]);
        Self { text: format!("(?i:{text})"), first: letters.clone(), last: letters, atom: true, nullable: false }
    }

    fn grouped(&self) -> String {
        if self.atom { self.text.clone() } else { format!("(?:{})", self.text) }
    }
}

/// Writes a character so that it is nothing but itself.
fn escape(text: &mut String, c: char) {
    if c.is_ascii_alphanumeric() {
        text.push(c);
    } else {
        let _ = write!(text, "\\x{{{:X}}}", u32::from(c));
    }
}

/// Whether one of the pairs of letters, without regard to their case, is one character in another case.
fn folds(first: &BTreeSet<char>, second: &BTreeSet<char>) -> bool {
    FOLDED_PAIRS.iter().any(|(a, b)| first.contains(a) && second.contains(b))
}

struct Parser<'p> {
    rest: Peekable<CharIndices<'p>>,
    pattern: &'p str,
    depth: usize,
    /// Whether `\G` is used, the end of the match before.
    goes_on: bool,
}

impl Parser<'_> {
    fn at(&mut self) -> usize {
        self.rest.peek().map_or(self.pattern.len(), |(at, _)| *at)
    }

    fn peek(&mut self) -> Option<char> {
        self.rest.peek().map(|(_, c)| *c)
    }

    fn next(&mut self) -> Option<char> {
        self.rest.next().map(|(_, c)| c)
    }

    fn take(&mut self, c: char) -> bool {
        self.rest.next_if(|(_, next)| *next == c).is_some()
    }

    /// The part of the pattern that is not read yet.
    fn tail(&mut self) -> &str {
        let at = self.at();
        &self.pattern[at..]
    }

    fn take_text(&mut self, text: &str) -> bool {
        let found = self.tail().starts_with(text);
        if found {
            for _ in text.chars() {
                self.next();
            }
        }
        found
    }

    /// The error for what was just read.
    fn unknown(&mut self, what: &str) -> String {
        let at = self.at();
        let before = self.pattern[..at].chars().count();
        format!("{what}, up to character {before} of the pattern")
    }

    fn ends_early(&mut self) -> String {
        self.unknown("the pattern ends within a construct")
    }

    /// `a|b`, to the end of the group that it stands in.
    fn alternatives(&mut self, flags: Flags) -> Result<Part, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.unknown("more groups within groups than are supported"));
        }
        let mut all = self.sequence(flags)?;
        while self.take('|') {
            let other = self.sequence(flags)?;
            all.text.push('|');
            all.text += &other.text;
            all.nullable |= other.nullable;
            all.first.extend(other.first);
            all.last.extend(other.last);
            all.atom = false;
        }
        self.depth -= 1;
        Ok(all)
    }

    /// `ab`, to the next `|` or the end of the group.
    fn sequence(&mut self, flags: Flags) -> Result<Part, String> {
        let mut all = Part { nullable: true, ..Part::default() };
        let mut parts = 0;
        while self.peek().is_some_and(|c| c != '|' && c != ')') {
            let part = self.quantified(flags)?;
            if folds(&all.last, &part.first) {
                return Err(self.unknown("letters that together are one character in another case"));
            }
            all.text += &part.text;
            if all.nullable {
                all.first.extend(&part.first);
            }
            if !part.nullable {
                all.last.clear();
            }
            all.last.extend(part.last);
            all.nullable &= part.nullable;
            all.atom = parts == 0 && part.atom;
            parts += 1;
        }
        Ok(all)
    }

    fn quantified(&mut self, flags: Flags) -> Result<Part, String> {
        let mut part = self.part(flags)?;
        while let Some(Quantifier { least, most, suffix }) = self.quantifier()? {
            let many = most.is_none_or(|most| most > 1);
            if many && part.nullable {
                return Err(self.unknown("a repetition of what may match nothing"));
            }
            if many && folds(&part.last, &part.first) {
                return Err(self.unknown("letters that together are one character in another case"));
            }
            let range = match (least, most) {
                (0, None) => "*".to_owned(),
                (1, None) => "+".to_owned(),
                (0, Some(1)) => "?".to_owned(),
                (least, None) => format!("{{{least},}}"),
                (least, Some(most)) => format!("{{{least},{most}}}"),
            };
            part.text = format!("{}{range}{suffix}", part.grouped());
            part.atom = false;
            part.nullable |= least == 0;
        }
        Ok(part)
    }

    /// The quantifier that follows. After one of `?`, `*` and `+` stands what makes it lazy or possessive; after numbers only
    /// what makes it lazy, and `+` repeats it.
    fn quantifier(&mut self) -> Result<Option<Quantifier>, String> {
        let (least, most) = match self.peek() {
            Some('?') => (0, Some(1)),
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('{') => return self.interval(),
            _ => return Ok(None),
        };
        self.next();
        let suffix = if self.take('?') {
            "?"
        } else if self.take('+') {
            "+"
        } else {
            ""
        };
        Ok(Some(Quantifier { least, most, suffix }))
    }

    /// `{2,3}`; a brace that begins no such thing is a character.
    fn interval(&mut self) -> Result<Option<Quantifier>, String> {
        let Some((inside, _)) = self.tail()[1..].split_once('}') else { return Ok(None) };
        let inside = inside.to_owned();
        let number = |text: &str| text.parse::<u32>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
        let (least, most) = match inside.split_once(',') {
            Some(("", "")) => return Ok(None),
            Some(("", most)) => (Some(0), number(most).map(Some)),
            Some((least, "")) => (number(least), Some(None)),
            Some((least, most)) => (number(least), number(most).map(Some)),
            None => (number(&inside), number(&inside).map(Some)),
        };
        let (Some(least), Some(most)) = (least, most) else {
            return match inside.bytes().all(|b| b.is_ascii_digit() || b == b',') {
                true => Err(self.unknown("a number of repetitions that is too large")),
                false => Ok(None),
            };
        };
        self.take_text(&format!("{{{inside}}}"));
        if least.max(most.unwrap_or(0)) > MAX_REPEAT {
            return Err(self.unknown("a number of repetitions that is too large"));
        }
        if most.is_some_and(|most| most < least) {
            return Err(self.unknown("a range of repetitions from its end"));
        }
        let lazy = self.take('?');
        if lazy && !inside.contains(',') {
            return Err(self.unknown("\"?\" after a fixed number of repetitions"));
        }
        Ok(Some(Quantifier { least, most, suffix: if lazy { "?" } else { "" } }))
    }

    fn part(&mut self, flags: Flags) -> Result<Part, String> {
        let Some(c) = self.next() else { return Err(self.ends_early()) };
        Ok(match c {
            '(' => return self.group(flags),
            '[' => {
                let mut class = Class::default();
                self.class(&mut class, flags)?;
                return Ok(Part { first: class.letter(), last: class.letter(), ..Part::one(class.text) });
            }
            '\\' => return self.escaped(flags),
            '.' if flags.dot_all => Part::one("(?s:.)"),
            '.' => Part::one("."),
            // At the end of a text that ends with a line break no line begins.
            '^' => Part::place(r"(?:\A|(?m:^)(?!\z))"),
            '$' => Part::place("(?m:$)"),
            '*' | '+' | '?' => return Err(self.unknown("a quantifier after nothing")),
            _ => return self.character(c, flags),
        })
    }

    fn character(&mut self, c: char, flags: Flags) -> Result<Part, String> {
        self.check_case(c, flags)?;
        Ok(Part::character(c, flags))
    }

    /// Other alphabets have characters that in another case are several.
    fn check_case(&mut self, c: char, flags: Flags) -> Result<(), String> {
        let cased = !c.is_ascii() && (c.is_alphanumeric() || ('\u{300}'..='\u{36F}').contains(&c));
        if flags.any_case && cased {
            return Err(self.unknown(&format!("{c:?} in any case")));
        }
        Ok(())
    }

    fn group(&mut self, flags: Flags) -> Result<Part, String> {
        if !self.take('?') {
            return self.inside("(?:", flags);
        }
        for (begin, nullable) in [("=", true), ("!", true), ("<=", true), ("<!", true), (":", false), (">", false)] {
            if self.take_text(begin) {
                let part = self.inside(&format!("(?{begin}"), flags)?;
                let none = BTreeSet::new();
                return Ok(match nullable {
                    true => Part { nullable, first: none.clone(), last: none, ..part },
                    false => part,
                });
            }
        }
        if self.take('<') {
            return self.named(flags);
        }
        let flags = self.options(flags)?;
        if self.take(':') {
            return self.inside("(?:", flags);
        }
        if !self.take(')') {
            return Err(self.unknown("a group of a kind that is not supported"));
        }
        // Options without a group are in force to the end of the one they stand in, whose other alternatives they take along.
        let part = self.alternatives(flags)?;
        Ok(Part { text: format!("(?:{})", part.text), atom: true, ..part })
    }

    /// Reads a named group. The name is dropped, as nothing may refer to it.
    fn named(&mut self, flags: Flags) -> Result<Part, String> {
        while self.peek().is_some_and(|c| c == '_' || c.is_ascii_alphanumeric()) {
            self.next();
        }
        if !self.take('>') {
            return Err(self.unknown("a group of a kind that is not supported"));
        }
        self.inside("(?:", flags)
    }

    fn options(&mut self, mut flags: Flags) -> Result<Flags, String> {
        let mut on = true;
        while let Some(c) = self.peek().filter(|c| *c != ':' && *c != ')') {
            self.next();
            match c {
                '-' => on = false,
                'i' => flags.any_case = on,
                'm' => flags.dot_all = on,
                _ => return Err(self.unknown(&format!("the group option {c:?}"))),
            }
        }
        Ok(flags)
    }

    /// The alternatives of a group, and its end.
    fn inside(&mut self, begin: &str, flags: Flags) -> Result<Part, String> {
        let part = self.alternatives(flags)?;
        if !self.take(')') {
            return Err(self.unknown("\"(\" without its \")\""));
        }
        Ok(Part { text: format!("{begin}{})", part.text), atom: true, ..part })
    }

    /// What follows a backslash outside of brackets.
    fn escaped(&mut self, flags: Flags) -> Result<Part, String> {
        let Some(c) = self.peek() else { return Err(self.ends_early()) };
        let word = class::WORD_BESIDE;
        let place = match c {
            'A' => r"\A".to_owned(),
            'z' => r"\z".to_owned(),
            'Z' => r"(?=\n?\z)".to_owned(),
            'G' => {
                self.goes_on = true;
                r"\G".to_owned()
            }
            'b' => format!("(?:(?<={word})(?!{word})|(?<!{word})(?={word}))"),
            'B' => format!("(?:(?<={word})(?={word})|(?<!{word})(?!{word}))"),
            'w' | 'W' | 'N' | 'O' => {
                self.next();
                return Ok(Part::one(match c {
                    'w' => word.to_owned(),
                    'W' => format!("[^{word}]"),
                    'N' => r"[^\n]".to_owned(),
                    _ => "(?s:.)".to_owned(),
                }));
            }
            _ => {
                return match self.escape(true)? {
                    Escape::Set(text) => Ok(Part::one(text)),
                    Escape::Char(c) => self.character(c, flags),
                };
            }
        };
        self.next();
        Ok(Part::place(&place))
    }

    /// What follows a backslash anywhere: a set of characters, or one.
    fn escape(&mut self, outside: bool) -> Result<Escape, String> {
        let Some(c) = self.next() else { return Err(self.ends_early()) };
        if let Some(text) = escape_class(c) {
            return Ok(Escape::Set(text.to_owned()));
        }
        Ok(Escape::Char(match c {
            'p' | 'P' => return self.property(c == 'P', outside).map(Escape::Set),
            't' => '\t',
            'n' => '\n',
            'r' => '\r',
            'f' => '\x0C',
            'v' => '\x0B',
            'a' => '\x07',
            'e' => '\x1B',
            'u' => {
                let digits: String = (0..4).filter_map(|_| self.next()).collect();
                self.code(&digits)?
            }
            'x' => self.hexadecimal()?,
            _ if c.is_ascii_alphanumeric() => return Err(self.unknown(&format!("\"\\{c}\""))),
            _ => c,
        }))
    }

    fn hexadecimal(&mut self) -> Result<char, String> {
        let braced = self.take('{');
        let most = if braced { 8 } else { 2 };
        let mut digits = String::new();
        while digits.len() < most
            && let Some(c) = self.peek().filter(char::is_ascii_hexdigit)
        {
            self.next();
            digits.push(c);
        }
        if braced && !self.take('}') {
            return Err(self.unknown("a number of a character that is not supported"));
        }
        match self.code(&digits)? {
            // Two digits are a byte, and a byte above those is no character.
            c if !braced && !c.is_ascii() => Err(self.unknown("a byte that is no character")),
            c => Ok(c),
        }
    }

    fn code(&mut self, digits: &str) -> Result<char, String> {
        let all = digits.bytes().all(|b| b.is_ascii_hexdigit());
        let code = u32::from_str_radix(digits, 16).ok().filter(|_| all).and_then(char::from_u32);
        code.ok_or_else(|| self.unknown("a number that no character has"))
    }

    /// `{Lu}` and `{^Lu}` after `\p` and `\P`.
    fn property(&mut self, negated: bool, outside: bool) -> Result<String, String> {
        if !self.take('{') {
            return Err(self.unknown("\"\\p\" without a name in braces"));
        }
        let negated = negated != self.take('^');
        let mut name = String::new();
        loop {
            match self.next() {
                Some('}') => break,
                Some(c) => name.push(c),
                None => return Err(self.ends_early()),
            }
        }
        match property(&name, outside) {
            Some(set) if negated => Ok(format!("[^{set}]")),
            Some(set) => Ok(format!("[{set}]")),
            None => Err(self.unknown(&format!("the property \"{name}\""))),
        }
    }
}

struct Quantifier {
    least: u32,
    most: Option<u32>,
    suffix: &'static str,
}

/// The meaning of a backslash and what follows it.
enum Escape {
    /// One of the characters of a class.
    Set(String),
    Char(char),
}

#[cfg(test)]
mod tests;
