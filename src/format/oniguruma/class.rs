//! Sets of characters: brackets, classes by letter, POSIX names, properties.

use std::collections::BTreeSet;

use super::{Escape, Flags, Parser, escape};

/// `\w` in brackets, and `[[:word:]]`.
const WORD: &str = r"[\w&&[^\x{200C}\x{200D}]]";

/// `\w` by itself and what `\b` looks at: for characters of Latin-1 Oniguruma asks another table there.
pub(super) const WORD_BESIDE: &str = r"[[\w&&[^\x{200C}\x{200D}]]\x{B2}\x{B3}\x{B9}\x{BC}-\x{BE}]";

/// General categories, short and long: both engines have the same characters in each.
const CATEGORIES: [(&str, &str); 36] = [
    ("L", "letter"),
    ("Lu", "uppercaseletter"),
    ("Ll", "lowercaseletter"),
    ("Lt", "titlecaseletter"),
    ("Lm", "modifierletter"),
    ("Lo", "otherletter"),
    ("M", "mark"),
    ("Mn", "nonspacingmark"),
    ("Mc", "spacingmark"),
    ("Me", "enclosingmark"),
    ("N", "number"),
    ("Nd", "decimalnumber"),
    ("Nl", "letternumber"),
    ("No", "othernumber"),
    ("P", "punctuation"),
    ("Pc", "connectorpunctuation"),
    ("Pd", "dashpunctuation"),
    ("Ps", "openpunctuation"),
    ("Pe", "closepunctuation"),
    ("Pi", "initialpunctuation"),
    ("Pf", "finalpunctuation"),
    ("Po", "otherpunctuation"),
    ("S", "symbol"),
    ("Sm", "mathsymbol"),
    ("Sc", "currencysymbol"),
    ("Sk", "modifiersymbol"),
    ("So", "othersymbol"),
    ("Z", "separator"),
    ("Zs", "spaceseparator"),
    ("Zl", "lineseparator"),
    ("Zp", "paragraphseparator"),
    ("C", "other"),
    ("Cc", "control"),
    ("Cf", "format"),
    ("Cn", "unassigned"),
    ("Co", "privateuse"),
];

/// Scripts and other properties of the same characters in both engines.
const PROPERTIES: [&str; 44] = [
    "Alphabetic",
    "Uppercase",
    "Lowercase",
    "Emoji",
    "Ideographic",
    "Dash",
    "Math",
    "Han",
    "Hiragana",
    "Katakana",
    "Hangul",
    "Bopomofo",
    "Thai",
    "Lao",
    "Khmer",
    "Myanmar",
    "Tibetan",
    "Mongolian",
    "Latin",
    "Greek",
    "Cyrillic",
    "Armenian",
    "Georgian",
    "Hebrew",
    "Arabic",
    "Syriac",
    "Thaana",
    "Ethiopic",
    "Cherokee",
    "Devanagari",
    "Bengali",
    "Gurmukhi",
    "Gujarati",
    "Oriya",
    "Tamil",
    "Telugu",
    "Kannada",
    "Malayalam",
    "Sinhala",
    "Braille",
    "Common",
    "Inherited",
    "Yi",
    "Coptic",
];

/// The set that `\d` and the like stand for in brackets; `None` for another letter.
pub(super) fn escape_class(letter: char) -> Option<&'static str> {
    Some(match letter {
        'd' => r"\d",
        'D' => r"\D",
        's' => r"\s",
        'S' => r"\S",
        'h' => "[0-9A-Fa-f]",
        'H' => "[^0-9A-Fa-f]",
        'w' => WORD,
        'W' => r"[^[\w&&[^\x{200C}\x{200D}]]]",
        _ => return None,
    })
}

/// Names of properties, of which both engines must have the characters.
#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    CATEGORIES.into_iter().flat_map(|(short, long)| [short, long]).chain(PROPERTIES)
}

/// What stands in brackets for a property; outside of brackets one has other characters.
pub(super) fn property(name: &str, outside: bool) -> Option<String> {
    let plain: String = name.chars().filter(|c| !matches!(c, ' ' | '_' | '-')).collect::<String>().to_ascii_lowercase();
    match plain.as_str() {
        "word" => return Some(if outside { WORD_BESIDE } else { WORD }.to_owned()),
        "alnum" => return Some(r"\p{Alphabetic}\p{Nd}".to_owned()),
        "xdigit" => return Some("0-9A-Fa-f".to_owned()),
        "blank" => return Some(r"\p{Zs}\t".to_owned()),
        "ascii" => return Some(r"\x{0}-\x{7F}".to_owned()),
        "any" => return Some(r"\x{0}-\x{10FFFF}".to_owned()),
        "alpha" => return Some(r"\p{Alphabetic}".to_owned()),
        "upper" => return Some(r"\p{Uppercase}".to_owned()),
        "lower" => return Some(r"\p{Lowercase}".to_owned()),
        "digit" => return Some(r"\p{Nd}".to_owned()),
        "punct" => return Some(r"\p{P}".to_owned()),
        "cntrl" => return Some(r"\p{Cc}".to_owned()),
        "space" | "whitespace" => return Some(r"\s".to_owned()),
        _ => {}
    }
    let category = CATEGORIES.iter().find(|(short, long)| *long == plain || short.eq_ignore_ascii_case(&plain));
    let found = category.map(|(short, _)| *short);
    let other = || PROPERTIES.iter().copied().find(|known| known.eq_ignore_ascii_case(&plain));
    found.or_else(other).map(|name| format!(r"\p{{{name}}}"))
}

/// `[[:alpha:]]` and the like.
fn posix(name: &str) -> Option<&'static str> {
    Some(match name {
        "alpha" => r"\p{Alphabetic}",
        "digit" => r"\d",
        "alnum" => r"\p{Alphabetic}\p{Nd}",
        "upper" => r"\p{Uppercase}",
        "lower" => r"\p{Lowercase}",
        "space" => r"\s",
        "punct" => r"\p{P}\p{S}",
        "cntrl" => r"\p{Cc}",
        "blank" => r"\p{Zs}\t",
        "xdigit" => "0-9A-Fa-f",
        "word" => WORD,
        "ascii" => r"\x{0}-\x{7F}",
        _ => return None,
    })
}

/// Sets whose characters have no other case but within the set.
const CASELESS: [&str; 24] = [
    r"\d",
    r"\s",
    r"[\p{N}]",
    r"[\p{Nd}]",
    r"[\p{Nl}]",
    r"[\p{No}]",
    r"[\p{P}]",
    r"[\p{Pc}]",
    r"[\p{Pd}]",
    r"[\p{Ps}]",
    r"[\p{Pe}]",
    r"[\p{Pi}]",
    r"[\p{Pf}]",
    r"[\p{Po}]",
    r"[\p{S}]",
    r"[\p{Sm}]",
    r"[\p{Sc}]",
    r"[\p{Sk}]",
    r"[\p{So}]",
    r"[\p{Z}]",
    r"[\p{Zs}]",
    r"[\p{Zl}]",
    r"[\p{Zp}]",
    r"[\p{Cc}]",
];

/// A set in brackets, translated.
#[derive(Default)]
pub(super) struct Class {
    pub(super) text: String,
    /// Its characters, as long as it is a list of them.
    listed: Option<BTreeSet<char>>,
}

impl Class {
    /// Its letter without regard to case, where it is a class of one: that is as good as the letter.
    pub(super) fn letter(&self) -> BTreeSet<char> {
        let letters = self.listed.as_ref().filter(|listed| listed.len() == 1).into_iter().flatten();
        letters.filter(|c| c.is_ascii_alphabetic()).map(char::to_ascii_lowercase).collect()
    }
}

/// The item read last within brackets, which decides the meaning of a hyphen after it.
enum Item {
    Nothing,
    Char(char),
    Range,
    Set,
}

impl Parser<'_> {
    /// What stands in brackets, after the first.
    pub(super) fn class(&mut self, class: &mut Class, flags: Flags) -> Result<(), String> {
        self.depth += 1;
        if self.depth > super::MAX_DEPTH {
            return Err(self.unknown("more brackets within brackets than are supported"));
        }
        let negated = self.take('^');
        let mut earlier = String::new();
        let mut part = String::new();
        let mut last = Item::Nothing;
        let mut listed = (!negated).then(BTreeSet::new);
        loop {
            let Some(c) = self.next() else { return Err(self.unknown("\"[\" without its \"]\"")) };
            match c {
                ']' if matches!(last, Item::Nothing) => return Err(self.unknown("brackets around nothing")),
                ']' => break,
                '[' => {
                    let set = self.nested(flags)?;
                    part += &set;
                    (last, listed) = (Item::Set, None);
                }
                '&' if self.take('&') => {
                    if matches!(last, Item::Nothing) {
                        return Err(self.unknown("\"&&\" after nothing"));
                    }
                    earlier += &format!("[{part}]&&");
                    part.clear();
                    (last, listed) = (Item::Nothing, None);
                }
                '-' => last = self.hyphen(&mut part, last, &mut listed, flags)?,
                '\\' => match self.class_escape()? {
                    Escape::Set(set) => {
                        if flags.any_case && !CASELESS.contains(&set.as_str()) {
                            return Err(self.unknown("letters by a property in any case"));
                        }
                        part += &set;
                        (last, listed) = (Item::Set, None);
                    }
                    Escape::Char(c) => last = self.member(&mut part, c, &mut listed, flags)?,
                },
                _ => last = self.member(&mut part, c, &mut listed, flags)?,
            }
        }
        self.depth -= 1;
        let whole = if earlier.is_empty() { part } else { format!("{earlier}[{part}]") };
        let set = format!("[{}{whole}]", if negated { "^" } else { "" });
        class.text = if flags.any_case { format!("(?i:{set})") } else { set };
        class.listed = listed;
        Ok(())
    }

    fn member(
        &mut self,
        part: &mut String,
        c: char,
        listed: &mut Option<BTreeSet<char>>,
        flags: Flags,
    ) -> Result<Item, String> {
        self.check_case(c, flags)?;
        escape(part, c);
        if let Some(listed) = listed {
            listed.insert(c);
        }
        Ok(Item::Char(c))
    }

    /// A set within brackets: brackets, or a POSIX name.
    fn nested(&mut self, flags: Flags) -> Result<String, String> {
        if self.peek() != Some(':') {
            let mut class = Class::default();
            self.class(&mut class, Flags { any_case: false, ..flags })?;
            if flags.any_case {
                return Err(self.unknown("brackets within brackets in any case"));
            }
            return Ok(class.text);
        }
        let inside = self.tail()[1..].split_once(":]").map(|(inside, _)| inside.to_owned());
        let set = inside.as_deref().and_then(|name| posix(name.strip_prefix('^').unwrap_or(name)));
        let (Some(name), Some(set)) = (inside, set) else {
            return Err(self.unknown("\"[:\" without a name that is known"));
        };
        if flags.any_case {
            return Err(self.unknown("letters by a name in any case"));
        }
        self.take_text(&format!(":{name}:]"));
        Ok(format!("[{}{set}]", if name.starts_with('^') { "^" } else { "" }))
    }

    /// A hyphen: the middle of a range, or itself where it is first or last or follows a range.
    fn hyphen(
        &mut self,
        part: &mut String,
        last: Item,
        listed: &mut Option<BTreeSet<char>>,
        flags: Flags,
    ) -> Result<Item, String> {
        let closes = self.peek() == Some(']');
        match last {
            Item::Char(first) if !closes => {
                let end = match self.next() {
                    Some('\\') => match self.class_escape()? {
                        Escape::Char(c) => c,
                        Escape::Set(_) => return Err(self.unknown("a range to a set of characters")),
                    },
                    Some(c) if !matches!(c, '[' | '-' | '&') => c,
                    Some(_) => return Err(self.unknown("a range to a character that is not escaped")),
                    None => return Err(self.ends_early()),
                };
                self.range(part, first, end, listed, flags)
            }
            Item::Set if !closes => Err(self.unknown("a range from a set of characters")),
            Item::Nothing | Item::Range if self.peek() == Some('-') => {
                Err(self.unknown("hyphens that are not escaped"))
            }
            _ => self.member(part, '-', listed, flags),
        }
    }

    fn range(
        &mut self,
        part: &mut String,
        first: char,
        end: char,
        listed: &mut Option<BTreeSet<char>>,
        flags: Flags,
    ) -> Result<Item, String> {
        if end < first {
            return Err(self.unknown("a range of characters from its end"));
        }
        if flags.any_case && !end.is_ascii() {
            return Err(self.unknown("a range of characters in any case"));
        }
        part.push('-');
        escape(part, end);
        *listed = None;
        Ok(Item::Range)
    }

    /// What follows a backslash within brackets, where `\b` is a character.
    fn class_escape(&mut self) -> Result<Escape, String> {
        if self.take('b') {
            return Ok(Escape::Char('\x08'));
        }
        self.escape(false)
    }
}
