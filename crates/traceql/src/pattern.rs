//! Regular expressions of queries: RE2 as Go reads it, run by the `regex` crate.
//!
//! The two syntaxes differ where a pattern of a query may well go: in RE2 `\d`, `\w`, `\s` and `\b` mean ASCII,
//! `{` is a plain character unless it begins a repetition, a class knows neither nesting nor set operations, and
//! `\Q…\E` quotes. A pattern is rewritten to mean the same here. The test table below lists each difference.
//!
//! Matching is linear in the text. Bounds: the pattern's length, and the size of what it compiles to.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use regex::{Regex, RegexBuilder};

/// The longest pattern, in bytes.
pub const PATTERN_BYTES_MAX: usize = 4 * 1024;
/// The largest compiled pattern, in bytes. Ten of them are the most that one query can hold.
pub const COMPILED_BYTES_MAX: usize = 1024 * 1024;

/// Patterns that stay compiled, together at most [`COMPILED_BYTES_MAX`] each.
const KEPT_MAX: usize = 16;

/// The patterns compiled last, newest first: a query needs its own once for every layout that it meets.
static KEPT: Mutex<VecDeque<(String, Regex)>> = Mutex::new(VecDeque::new());

/// Why a pattern cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("the pattern is {0} bytes long; at most {PATTERN_BYTES_MAX} are allowed")]
    TooLong(usize),
    #[error("the pattern needs more than {COMPILED_BYTES_MAX} bytes when compiled; use fewer or smaller repetitions")]
    TooLarge,
    #[error("the pattern is not a valid regular expression: {0}")]
    Invalid(String),
}

/// Compiles a pattern so that it matches whole values only, and a dot matches newlines too: `^(?s:…)$`.
pub fn compile_regex(pattern: &str) -> Result<Regex, PatternError> {
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(PatternError::TooLong(pattern.len()));
    }
    let kept = || KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, compiled)) = kept().iter().find(|(text, _)| text == pattern) {
        return Ok(compiled.clone());
    }
    let compiled = compile(pattern)?;
    let mut kept = kept();
    kept.push_front((pattern.to_owned(), compiled.clone()));
    kept.truncate(KEPT_MAX);
    Ok(compiled)
}

fn compile(pattern: &str) -> Result<Regex, PatternError> {
    let translated = Translation::of(pattern)?;
    RegexBuilder::new(&format!("^(?s:{translated})$"))
        .size_limit(COMPILED_BYTES_MAX)
        .dfa_size_limit(COMPILED_BYTES_MAX)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => PatternError::TooLarge,
            // The last line says what is wrong; those above draw the rewritten pattern.
            other => {
                let text = other.to_string();
                let line = text.lines().next_back().unwrap_or_default();
                PatternError::Invalid(line.trim_start_matches("error: ").to_owned())
            }
        })
}

const DIGIT: &str = "0-9";
const SPACE: &str = r"\t\n\x0C\r ";
const WORD: &str = "0-9A-Za-z_";

/// A walk over the pattern that writes its equal for the `regex` crate.
struct Translation<'p> {
    rest: &'p str,
    out: String,
    groups_open: usize,
}

impl<'p> Translation<'p> {
    fn of(pattern: &'p str) -> Result<String, PatternError> {
        let mut walk = Translation { rest: pattern, out: String::with_capacity(pattern.len() + 16), groups_open: 0 };
        while let Some(c) = walk.next() {
            match c {
                '\\' => walk.escape()?,
                '[' => walk.class()?,
                '(' => {
                    walk.groups_open += 1;
                    walk.out.push('(');
                }
                ')' => {
                    // Else `a)(b` would close the group that the pattern is put into.
                    walk.groups_open =
                        walk.groups_open.checked_sub(1).ok_or_else(|| invalid("unopened group"))?;
                    walk.out.push(')');
                }
                '{' => match repetition_length(walk.rest) {
                    Some(length) => {
                        walk.out.push('{');
                        walk.out.push_str(&walk.rest[..length]);
                        walk.rest = &walk.rest[length..];
                    }
                    None => walk.out.push_str(r"\{"),
                },
                '}' => walk.out.push_str(r"\}"),
                _ => walk.out.push(c),
            }
        }
        match walk.groups_open {
            0 => Ok(walk.out),
            _ => Err(invalid("unclosed group")),
        }
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    /// After a backslash outside of a class.
    fn escape(&mut self) -> Result<(), PatternError> {
        let c = self.next().ok_or_else(|| invalid("a backslash at the end"))?;
        match c {
            'd' => self.push_class("", DIGIT),
            'D' => self.push_class("^", DIGIT),
            's' => self.push_class("", SPACE),
            'S' => self.push_class("^", SPACE),
            'w' => self.push_class("", WORD),
            'W' => self.push_class("^", WORD),
            'b' => self.out.push_str(r"(?-u:\b)"),
            'B' => self.out.push_str(r"(?-u:\B)"),
            '<' | '>' => self.out.push(c),
            'Q' => {
                let (quoted, rest) = match self.rest.split_once(r"\E") {
                    Some((quoted, rest)) => (quoted, rest),
                    None => (self.rest, ""),
                };
                self.out.push_str(&regex::escape(quoted));
                self.rest = rest;
            }
            _ => {
                self.out.push('\\');
                self.out.push(c);
                self.braced_argument(c);
            }
        }
        Ok(())
    }

    /// `\p{Greek}` and `\x{263A}` keep their braces.
    fn braced_argument(&mut self, escaped: char) {
        if matches!(escaped, 'p' | 'P' | 'x')
            && self.rest.starts_with('{')
            && let Some(end) = self.rest.find('}')
        {
            self.out.push_str(&self.rest[..=end]);
            self.rest = &self.rest[end + 1..];
        }
    }

    fn push_class(&mut self, not: &str, items: &str) {
        self.out.push('[');
        self.out.push_str(not);
        self.out.push_str(items);
        self.out.push(']');
    }

    /// After `[`.
    fn class(&mut self) -> Result<(), PatternError> {
        self.out.push('[');
        if let Some(rest) = self.rest.strip_prefix('^') {
            self.out.push('^');
            self.rest = rest;
        }
        let mut first = true;
        loop {
            if !first && let Some(rest) = self.rest.strip_prefix(']') {
                self.rest = rest;
                self.out.push(']');
                return Ok(());
            }
            first = false;
            self.class_item()?;
            // A hyphen is a range unless it stands last.
            if self.rest.starts_with('-') && !self.rest.starts_with("-]") {
                self.rest = &self.rest[1..];
                self.out.push('-');
                self.class_item()?;
            }
        }
    }

    fn class_item(&mut self) -> Result<(), PatternError> {
        if self.rest.starts_with("[:")
            && let Some(end) = self.rest.find(":]")
        {
            self.out.push_str(&self.rest[..end + 2]);
            self.rest = &self.rest[end + 2..];
            return Ok(());
        }
        match self.next().ok_or_else(|| invalid("unclosed character class"))? {
            '\\' => {
                let c = self.next().ok_or_else(|| invalid("a backslash at the end"))?;
                match c {
                    'd' => self.out.push_str(DIGIT),
                    's' => self.out.push_str(SPACE),
                    'w' => self.out.push_str(WORD),
                    'D' => self.push_class("^", DIGIT),
                    'S' => self.push_class("^", SPACE),
                    'W' => self.push_class("^", WORD),
                    '<' | '>' => self.out.push(c),
                    _ => {
                        self.out.push('\\');
                        self.out.push(c);
                        self.braced_argument(c);
                    }
                }
            }
            c => {
                if matches!(c, '[' | ']' | '&' | '~' | '-' | '^') {
                    self.out.push('\\');
                }
                self.out.push(c);
            }
        }
        Ok(())
    }
}

fn invalid(what: &str) -> PatternError {
    PatternError::Invalid(what.to_owned())
}

/// If the text after a `{` is `n}`, `n,}` or `n,m}`: its length.
fn repetition_length(text: &str) -> Option<usize> {
    let end = text.find('}')?;
    let (least, most) = match text[..end].split_once(',') {
        Some((least, most)) => (least, most),
        None => (&text[..end], "0"),
    };
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    (!least.is_empty() && number(least) && number(most)).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(pattern: &str, matches: &[&str], others: &[&str]) {
        let regex = compile_regex(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
        for text in matches {
            assert!(regex.is_match(text), "{pattern} should match {text:?} ({regex})");
        }
        for text in others {
            assert!(!regex.is_match(text), "{pattern} should not match {text:?} ({regex})");
        }
    }

    #[test]
    fn matches_whole_values() {
        check("GET", &["GET"], &["GET /", "xGET", ""]);
        check("GET|POST", &["GET", "POST"], &["GETPOST", "GETx"]);
        check("GET.*", &["GET", "GET /a\nb"], &["get"]);
        check("(?i)ledger", &["Ledger"], &["ledgers"]);
        check("", &[""], &["a"]);
        check("^a$", &["a"], &["a\n"]);
    }

    #[test]
    fn means_what_re2_means() {
        check(r"\d+", &["12"], &["१२", ""]);
        check(r"\w", &["a", "_", "0"], &["é"]);
        check(r"\W", &["é", "-"], &["a"]);
        check(r"\S+", &["é-x"], &["a b"]);
        check(r"[\d.]+", &["1.2"], &["1a"]);
        check(r"[^\s]+", &["ab"], &["a b"]);
        check(r"[\D]", &["x"], &["1"]);
        check(r".*\bfoo\b.*", &["a foo b", "éfoo"], &["afoo"]);
        check(r".*\Bx", &["ax"], &["-x"]);
        check(r"/api/{id}", &["/api/{id}"], &["/api/id"]);
        check(r"a{2}", &["aa"], &["a{2}"]);
        check(r"a{2,}", &["aaa"], &["a"]);
        check(r"a{,2}", &["a{,2}"], &["aa"]);
        check(r"[a[b]", &["a", "[", "b"], &["]"]);
        check(r"[]a]", &["]", "a"], &["["]);
        check(r"[^]a]", &["b"], &["]", "a"]);
        check(r"[a&&b]+", &["a&b"], &["c"]);
        check(r"[+--]", &["+", ",", "-"], &["."]);
        check(r"[a-]", &["a", "-"], &["b"]);
        check(r"[[:alpha:]_]+", &["ab_"], &["1"]);
        check(r"\Qa.b(\E+", &["a.b(", "a.b(("], &["axb("]);
        check(r"\Qa.b", &["a.b"], &["axb"]);
        check(r"\<a\>", &["<a>"], &["a"]);
        check(r"\/v1\/cart\/.*", &["/v1/cart/7"], &[]);
        check(r"\p{Greek}+\x{263A}", &["αβ☺"], &["ab☺"]);
        check(r"\pL", &["é"], &["1"]);
        check(r"(?P<name>a)(?:b)", &["ab"], &[]);
    }

    #[test]
    fn refuses_what_is_invalid_or_too_big() {
        for pattern in ["(", ")", "a)(b", "[", "[z-a]", "*a", r"a\", "(?P<n", r"\8", "(?=a)", "[]", "x{3,1}"] {
            let error = compile_regex(pattern);
            assert!(matches!(error, Err(PatternError::Invalid(_))), "{pattern}: {error:?}");
        }
        assert_eq!(compile_regex(&"a".repeat(5000)).unwrap_err(), PatternError::TooLong(5000));
        assert_eq!(compile_regex(r"(\pL{1000}){1000}").unwrap_err(), PatternError::TooLarge);
        assert!(compile_regex(&"(".repeat(4000)).is_err());
        assert!(compile_regex(&format!("{}a{}", "(".repeat(2000), ")".repeat(2000))).is_err());
        let message = compile_regex("(?P<é").unwrap_err().to_string();
        assert!(!message.contains('\n'), "{message}");
    }

    proptest! {
        #[test]
        fn any_pattern_is_answered(pattern in r"[\\\[\](){}?*+|^$.,a-c0-9&~:dwsbQEpx-]{0,20}") {
            let _ = compile_regex(&pattern);
        }
    }
}
