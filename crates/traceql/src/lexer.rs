//! Text to tokens, each with its bytes.
//!
//! The lexer is contextual: after a scope (`.`, `span.`, `resource.`, …) comes an attribute's key, which runs until
//! a terminating character and may hold what elsewhere is an operator: `{ .a+.b = 1 }` compares one attribute
//! called `a+.b`. Numbers, durations and strings are decoded here. Whether a word is a name, a function or a
//! literal is for the parser to say, which knows what may stand there.

use crate::ast::{Attribute, AttributeName, Intrinsic, Scope, Span, SpanOfName};
use crate::duration::{self, DurationFault};
use crate::error::Fault;
use crate::names;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Symbol(Symbol),
    Int(i64),
    Float(f64),
    /// Nanoseconds.
    Duration(i64),
    String(String),
    /// A scoped attribute, `.key`, or an intrinsic with a colon.
    Attribute(Attribute),
    Word(String),
    End,
}

#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub kind: Kind,
    pub span: Span,
}

macro_rules! symbols {
    ($($name:ident $text:literal)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Symbol { $($name),* }

        impl Symbol {
            pub fn text(self) -> &'static str {
                match self { $(Symbol::$name => $text),* }
            }
        }

        /// Longer texts stand before their prefixes.
        const SYMBOLS: &[Symbol] = &[$(Symbol::$name),*];
    };
}

symbols! {
    NotDescendant "!>>" NotAncestor "!<<" UnionDescendant "&>>" UnionAncestor "&<<"
    And "&&" Or "||" Descendant ">>" Ancestor "<<" NotChild "!>" NotParent "!<" NotMatch "!~"
    UnionChild "&>" UnionParent "&<" UnionSibling "&~" Match "=~" NotEqual "!=" GreaterEqual ">=" LessEqual "<="
    Equal "=" Greater ">" Less "<" Tilde "~" Bang "!" Pipe "|" Comma ","
    Plus "+" Minus "-" Star "*" Slash "/" Percent "%" Caret "^"
    BraceOpen "{" BraceClose "}" ParenOpen "(" ParenClose ")" BracketOpen "[" BracketClose "]"
}

/// Whether an unquoted key ends before this character.
pub(crate) fn ends_key(c: char) -> bool {
    c.is_whitespace() || matches!(c, '{' | '}' | '(' | ')' | '=' | '~' | '!' | '<' | '>' | '&' | '|' | '^' | ',')
}

/// All tokens of the text; the last is `End`.
pub(crate) fn lex(text: &str) -> Result<Vec<Token>, Fault> {
    let mut lexer = Lexer { text, at: 0 };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_blanks()?;
        let start = lexer.at;
        let kind = lexer.token()?;
        let end = kind == Kind::End;
        tokens.push(Token { kind, span: lexer.span_from(start) });
        if end {
            return Ok(tokens);
        }
    }
}

/// One attribute and nothing else. Unlike in a query, `.5xx` is a key here: there are no numbers.
pub(crate) fn lex_attribute(text: &str) -> Result<Attribute, Fault> {
    let mut lexer = Lexer { text, at: 0 };
    let kind = if text.starts_with('.') { lexer.unscoped_key()? } else { lexer.token()? };
    let span = lexer.span_from(0);
    let attribute = match kind {
        Kind::Attribute(attribute) => attribute,
        Kind::Word(word) => word_as_attribute(&word, span)?,
        _ => {
            return Err(Fault::new(span, "this is not the name of an attribute")
                .help("write a scope and a key such as `span.http.method` or `.http.method`, or an intrinsic such as `name`"));
        }
    };
    if lexer.at < text.len() {
        let rest = Span { start: lexer.at as u32, end: text.len() as u32 };
        return Err(Fault::new(rest, "unexpected text after the name of the attribute")
            .help("put a key with special characters in quotes: `span.\"with space\"`"));
    }
    Ok(attribute)
}

/// An intrinsic without scope.
pub(crate) fn word_as_attribute(word: &str, span: Span) -> Result<Attribute, Fault> {
    match Intrinsic::from_unscoped(word) {
        Some(intrinsic) => Ok(Attribute {
            of_parent: false,
            name: AttributeName::Intrinsic(intrinsic),
            span: SpanOfName(span),
        }),
        None => Err(unknown_word(word, span)),
    }
}

pub(crate) fn unknown_word(word: &str, span: Span) -> Fault {
    let fault = Fault::new(span, format!("unknown name `{word}`"));
    match (names::like_field_word(word), word) {
        (Some(like), _) => fault.help(format!("did you mean `{like}`? (the attribute is written `.{word}`)")),
        (None, "and" | "AND") => fault.help("write `&&`"),
        (None, "or" | "OR") => fault.help("write `||`"),
        (None, "not" | "NOT") => fault.help("write `!`, or `not in [...]` after an operand"),
        (None, "null" | "NULL" | "None") => fault.help("write `nil`"),
        (None, _) => fault.help(format!(
            "an attribute is written `.{word}`, `span.{word}` or `resource.{word}`; a string has double quotes"
        )),
    }
}

struct Lexer<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Lexer<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn skip_while(&mut self, belongs: impl Fn(char) -> bool) {
        let rest = self.rest();
        self.at += rest.find(|c| !belongs(c)).unwrap_or(rest.len());
    }

    fn span_from(&self, start: usize) -> Span {
        Span { start: start as u32, end: self.at as u32 }
    }

    fn skip_blanks(&mut self) -> Result<(), Fault> {
        loop {
            self.skip_while(char::is_whitespace);
            let rest = self.rest();
            if rest.starts_with("//") {
                self.at += rest.find('\n').unwrap_or(rest.len());
            } else if let Some(comment) = rest.strip_prefix("/*") {
                let Some(length) = comment.find("*/") else {
                    let start = self.at as u32;
                    return Err(Fault::new(Span { start, end: start + 2 }, "this comment does not end")
                        .help("end it with `*/`"));
                };
                self.at += 2 + length + 2;
            } else {
                return Ok(());
            }
        }
    }

    fn token(&mut self) -> Result<Kind, Fault> {
        let start = self.at;
        let Some(c) = self.peek() else {
            return Ok(Kind::End);
        };
        let mut following = self.rest().chars().skip(1);
        match c {
            '0'..='9' => self.number(),
            '.' if following.next().is_some_and(|c| c.is_ascii_digit()) => self.number(),
            '.' => self.unscoped_key(),
            '"' => self.quoted_string(),
            '`' => self.raw_string(),
            c if c.is_alphabetic() || c == '_' => self.word(),
            _ => {
                let rest = self.rest();
                if let Some(symbol) = SYMBOLS.iter().find(|symbol| rest.starts_with(symbol.text())) {
                    self.at += symbol.text().len();
                    return Ok(Kind::Symbol(*symbol));
                }
                self.next();
                let fault = Fault::new(self.span_from(start), format!("unexpected character {c:?}"));
                Err(match c {
                    '\'' => fault.help("put strings in double quotes: \"text\""),
                    '&' => fault.help("write `&&`"),
                    '“' | '”' => fault.help("write plain double quotes: \"text\""),
                    _ => fault,
                })
            }
        }
    }

    fn number(&mut self) -> Result<Kind, Fault> {
        let start = self.at;
        self.skip_while(|c| c.is_ascii_digit());
        let mut float = false;
        if self.peek() == Some('.') {
            self.next();
            self.skip_while(|c| c.is_ascii_digit());
            float = true;
        }
        if let Some(length) = exponent_length(self.rest()) {
            self.at += length;
            float = true;
        }
        if self.peek().is_some_and(|c| c.is_alphanumeric() || c == '_' || (float && c == '.')) {
            self.skip_while(|c| c.is_alphanumeric() || matches!(c, '_' | '.'));
            return self.duration(start);
        }
        let digits = &self.text[start..self.at];
        let span = self.span_from(start);
        if float {
            match digits.parse::<f64>() {
                Ok(value) if value.is_finite() => Ok(Kind::Float(value)),
                _ => Err(Fault::new(span, "this number is too large").help("the largest is about 1.8e308")),
            }
        } else {
            digits.parse().map(Kind::Int).map_err(|_| {
                Fault::new(span, "this number is too large")
                    .help("integers have 64 bits: `minInt` and `maxInt` are the extremes")
            })
        }
    }

    fn duration(&self, start: usize) -> Result<Kind, Fault> {
        let span = self.span_from(start);
        let text = shortened(&self.text[start..self.at]);
        match duration::parse(&self.text[start..self.at]) {
            Ok(nanoseconds) => Ok(Kind::Duration(nanoseconds)),
            Err(DurationFault::TooLong) => {
                Err(Fault::new(span, format!("the duration `{text}` is too long")).help("the longest is about 292 years"))
            }
            Err(DurationFault::Malformed) if self.text[start..].starts_with('.') => {
                Err(Fault::new(span, format!("`{text}` is neither a number nor a duration"))
                    .help("a key that begins with a digit is written in quotes: `.\"5xx\"`"))
            }
            Err(DurationFault::Malformed) => Err(Fault::new(span, format!("`{text}` is neither a number nor a duration"))
                .help("durations are written `250ms`, `1.5s`, `1h30m`; units: ns us ms s m h d w y")),
        }
    }

    fn quoted_string(&mut self) -> Result<Kind, Fault> {
        let start = self.at;
        self.next();
        // Escapes such as `\xff` write bytes: only the whole must be UTF-8.
        let mut bytes = Vec::new();
        loop {
            let escape = self.at;
            match self.next() {
                None | Some('\n') => {
                    return Err(Fault::new(Span { start: start as u32, end: start as u32 + 1 }, "this string does not end")
                        .help("end it with a double quote; a line break is written `\\n`"));
                }
                Some('"') => break,
                Some('\\') => self.string_escape(escape, &mut bytes)?,
                Some(c) => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        String::from_utf8(bytes)
            .map(Kind::String)
            .map_err(|_| Fault::new(self.span_from(start), "the escapes of this string do not make valid UTF-8"))
    }

    fn string_escape(&mut self, start: usize, bytes: &mut Vec<u8>) -> Result<(), Fault> {
        let Some(c) = self.next() else {
            return Err(Fault::new(self.span_from(start), "this string does not end").help("end it with a double quote"));
        };
        let plain = match c {
            'a' => 0x07,
            'b' => 0x08,
            'f' => 0x0C,
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'v' => 0x0B,
            '\\' => b'\\',
            '"' => b'"',
            'x' => {
                let value = self.escape_digits(start, 2, 16)?;
                bytes.push(value as u8);
                return Ok(());
            }
            '0'..='7' => {
                self.at -= 1;
                let value = self.escape_digits(start, 3, 8)?;
                let byte = u8::try_from(value)
                    .map_err(|_| Fault::new(self.span_from(start), "an octal escape is at most `\\377`"))?;
                bytes.push(byte);
                return Ok(());
            }
            'u' | 'U' => {
                let value = self.escape_digits(start, if c == 'u' { 4 } else { 8 }, 16)?;
                let character = char::from_u32(value)
                    .ok_or_else(|| Fault::new(self.span_from(start), "this escape is not a Unicode character"))?;
                bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            _ => {
                return Err(Fault::new(self.span_from(start), format!("`\\{c}` is not an escape of a string"))
                    .help("write a backslash as `\\\\`, or put the string in backquotes"));
            }
        };
        bytes.push(plain);
        Ok(())
    }

    fn escape_digits(&mut self, start: usize, count: usize, radix: u32) -> Result<u32, Fault> {
        let mut value: u32 = 0;
        for _ in 0..count {
            match self.peek().and_then(|c| c.to_digit(radix)) {
                // Eight hexadecimal digits just fit.
                Some(digit) => value = (value << radix.ilog2()) | digit,
                None => {
                    return Err(Fault::new(self.span_from(start), format!("this escape needs {count} digits")));
                }
            }
            self.next();
        }
        Ok(value)
    }

    fn raw_string(&mut self) -> Result<Kind, Fault> {
        let start = self.at;
        self.next();
        let Some(end) = self.rest().find('`') else {
            return Err(Fault::new(Span { start: start as u32, end: start as u32 + 1 }, "this string does not end")
                .help("end it with a backquote"));
        };
        let content = self.rest()[..end].to_owned();
        self.at += end + 1;
        Ok(Kind::String(content))
    }

    fn word(&mut self) -> Result<Kind, Fault> {
        let start = self.at;
        self.skip_while(|c| c.is_alphanumeric() || c == '_');
        let word = &self.text[start..self.at];
        match self.peek() {
            Some('.') if word == "parent" => {
                self.next();
                self.parent_attribute(start)
            }
            Some('.') => match Scope::from_word(word) {
                Some(scope) => {
                    self.next();
                    self.key(start, false, Some(scope))
                }
                None => {
                    self.skip_while(|c| !ends_key(c) && c != '"');
                    let span = self.span_from(start);
                    let text = shortened(&self.text[start..self.at]);
                    Err(Fault::new(span, format!("`{word}` is not a scope")).help(format!(
                        "write `.{text}`, `span.{text}` or `resource.{text}`"
                    )))
                }
            },
            Some(':') => {
                self.next();
                self.skip_while(|c| c.is_alphanumeric() || c == '_');
                let span = self.span_from(start);
                let text = &self.text[start..self.at];
                match Intrinsic::from_scoped(text) {
                    Some(intrinsic) => Ok(Kind::Attribute(Attribute {
                        of_parent: false,
                        name: AttributeName::Intrinsic(intrinsic),
                        span: SpanOfName(span),
                    })),
                    None => {
                        let fault = Fault::new(span, format!("unknown intrinsic `{}`", shortened(text)));
                        Err(match names::like_scoped_intrinsic(text) {
                            Some(like) => fault.help(format!("did you mean `{like}`?")),
                            None => fault.help("an attribute has a dot after its scope: `span.http.method`"),
                        })
                    }
                }
            }
            _ => Ok(Kind::Word(word.to_owned())),
        }
    }

    /// After `parent.`: an intrinsic, a key, or a scope and a key. A key that is named like an intrinsic needs its scope or
    /// quotes.
    fn parent_attribute(&mut self, start: usize) -> Result<Kind, Fault> {
        let rest = self.rest();
        let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        if rest[length..].starts_with('.')
            && let Some(scope) = Scope::from_word(&rest[..length])
        {
            self.at += length + 1;
            return self.key(start, true, Some(scope));
        }
        let run = rest.find(|c| ends_key(c) || c == '"').unwrap_or(rest.len());
        if !rest[run..].starts_with('"')
            && let Some(intrinsic) = Intrinsic::of_parent_from(&rest[..run])
        {
            self.at += run;
            return Ok(Kind::Attribute(Attribute {
                of_parent: true,
                name: AttributeName::Intrinsic(intrinsic),
                span: SpanOfName(self.span_from(start)),
            }));
        }
        self.key(start, true, None)
    }

    fn unscoped_key(&mut self) -> Result<Kind, Fault> {
        let start = self.at;
        self.next();
        self.key(start, false, None)
    }

    /// The key after a scope's dot: quoted and unquoted parts, put together.
    fn key(&mut self, start: usize, of_parent: bool, scope: Option<Scope>) -> Result<Kind, Fault> {
        let mut key = String::new();
        while let Some(c) = self.peek() {
            if c == '"' {
                self.quoted_part(&mut key)?;
            } else if ends_key(c) {
                break;
            } else {
                self.next();
                key.push(c);
            }
        }
        let span = self.span_from(start);
        if key.is_empty() {
            return Err(Fault::new(span, format!("the attribute's name is missing after `{}`", &self.text[start..self.at]))
                .help("write for example `span.http.method`"));
        }
        Ok(Kind::Attribute(Attribute { of_parent, name: AttributeName::Key { scope, key }, span: SpanOfName(span) }))
    }

    fn quoted_part(&mut self, key: &mut String) -> Result<(), Fault> {
        let start = self.at;
        self.next();
        loop {
            let escape = self.at;
            match self.next() {
                None => {
                    return Err(Fault::new(Span { start: start as u32, end: start as u32 + 1 }, "this quoted name does not end")
                        .help("end it with a double quote"));
                }
                Some('"') => return Ok(()),
                Some('\\') => match self.next() {
                    Some(c @ ('"' | '\\')) => key.push(c),
                    _ => {
                        return Err(Fault::new(self.span_from(escape), "this is not an escape of a quoted name")
                            .help("only `\\\"` and `\\\\` are"));
                    }
                },
                Some(c) => key.push(c),
            }
        }
    }
}

/// The length of `e5`, `E-3` and the like at the start of the text.
fn exponent_length(text: &str) -> Option<usize> {
    let after = text.strip_prefix(['e', 'E'])?;
    let digits = after.strip_prefix(['+', '-']).unwrap_or(after);
    let count = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    (count > 0).then_some(text.len() - digits.len() + count)
}

/// Text of the query for a message: its beginning.
fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 64;
    match text.char_indices().nth(CHARS_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<Kind> {
        let mut kinds: Vec<Kind> = lex(text).unwrap_or_else(|f| panic!("{text}: {}", f.message)).into_iter().map(|t| t.kind).collect();
        assert_eq!(kinds.pop(), Some(Kind::End));
        kinds
    }

    fn key(of_parent: bool, scope: Option<Scope>, key: &str) -> Kind {
        Kind::Attribute(Attribute {
            of_parent,
            name: AttributeName::Key { scope, key: key.to_owned() },
            span: SpanOfName::default(),
        })
    }

    fn intrinsic(of_parent: bool, intrinsic: Intrinsic) -> Kind {
        Kind::Attribute(Attribute { of_parent, name: AttributeName::Intrinsic(intrinsic), span: SpanOfName::default() })
    }

    #[test]
    fn keys_run_until_a_terminating_character() {
        let table: &[(&str, Kind)] = &[
            (".a+.b", key(false, None, "a+.b")),
            (".a-b*c/d%e:f[0]@g", key(false, None, "a-b*c/d%e:f[0]@g")),
            ("span.http.method", key(false, Some(Scope::Span), "http.method")),
            ("resource.service.name", key(false, Some(Scope::Resource), "service.name")),
            ("event.a", key(false, Some(Scope::Event), "a")),
            ("link.a", key(false, Some(Scope::Link), "a")),
            ("instrumentation.a", key(false, Some(Scope::Instrumentation), "a")),
            ("span.\"with space\"", key(false, Some(Scope::Span), "with space")),
            (".foo.\"a b\".bar", key(false, None, "foo.a b.bar")),
            ("span.\"quo\\\"ted\\\\\"", key(false, Some(Scope::Span), "quo\"ted\\")),
            ("span.ünïcode/キー", key(false, Some(Scope::Span), "ünïcode/キー")),
            ("span.//not a comment".split(' ').next().unwrap(), key(false, Some(Scope::Span), "//not")),
            (".span.x", key(false, None, "span.x")),
            ("..5", key(false, None, ".5")),
            ("span.5xx", key(false, Some(Scope::Span), "5xx")),
            ("parent.x", key(true, None, "x")),
            ("parent.span.x", key(true, Some(Scope::Span), "x")),
            ("parent.span", key(true, None, "span")),
            ("parent.\"span.x\"", key(true, None, "span.x")),
            ("parent.name", intrinsic(true, Intrinsic::Name)),
            ("parent.\"name\"", key(true, None, "name")),
            ("parent.span.name", key(true, Some(Scope::Span), "name")),
            ("parent.names", key(true, None, "names")),
            ("parent.parent", key(true, None, "parent")),
            ("parent.nestedSetLeft", intrinsic(true, Intrinsic::NestedSetLeft)),
            ("parent.span:name", intrinsic(true, Intrinsic::Name)),
            ("parent.\"span:name\"", key(true, None, "span:name")),
            ("span:parentID", intrinsic(false, Intrinsic::ParentId)),
            ("trace:rootService", intrinsic(false, Intrinsic::RootServiceName)),
        ];
        for (text, kind) in table {
            assert_eq!(kinds(text), std::slice::from_ref(kind), "{text}");
        }
        assert_eq!(kinds("{.a=1}").len(), 5);
        assert_eq!(kinds(".a!~.b").len(), 3);
    }

    #[test]
    fn numbers_and_durations() {
        let table: &[(&str, Kind)] = &[
            ("0", Kind::Int(0)),
            ("007", Kind::Int(7)),
            ("9223372036854775807", Kind::Int(i64::MAX)),
            ("1.5", Kind::Float(1.5)),
            (".5", Kind::Float(0.5)),
            ("1e3", Kind::Float(1000.0)),
            ("1.5E-3", Kind::Float(0.0015)),
            ("100ms", Kind::Duration(100_000_000)),
            ("1.5s", Kind::Duration(1_500_000_000)),
            (".5s", Kind::Duration(500_000_000)),
            ("1h30m", Kind::Duration(5_400_000_000_000)),
            ("1m2.5s", Kind::Duration(62_500_000_000)),
            ("3µs", Kind::Duration(3_000)),
        ];
        for (text, kind) in table {
            assert_eq!(kinds(text), std::slice::from_ref(kind), "{text}");
        }
    }

    #[test]
    fn strings() {
        let table: &[(&str, &str)] = &[
            ("\"\"", ""),
            ("\"GET /\"", "GET /"),
            (r#""a\"b\\c\n\t""#, "a\"b\\c\n\t"),
            (r#""\u00e9\U0001F600\x41\101""#, "é😀AA"),
            (r#""\xc3\xa9""#, "é"),
            ("`raw \\n \" text`", "raw \\n \" text"),
            ("`two\nlines`", "two\nlines"),
        ];
        for (text, content) in table {
            assert_eq!(kinds(text), [Kind::String((*content).to_owned())], "{text}");
        }
    }

    #[test]
    fn symbols_are_greedy_and_blanks_free() {
        for symbol in SYMBOLS {
            assert_eq!(kinds(symbol.text()), [Kind::Symbol(*symbol)]);
        }
        assert_eq!(kinds("{ } // end\n /* a\nb */ }").len(), 3);
        assert_eq!(kinds("!>>~").len(), 2);
    }

    #[test]
    fn refuses_with_a_reason() {
        let table: &[(&str, u32, &str)] = &[
            ("'b'", 0, "unexpected character"),
            ("{ .a = \"x }", 7, "string does not end"),
            ("\"a\nb\"", 0, "string does not end"),
            ("`a", 0, "string does not end"),
            (r#""\q""#, 1, "not an escape"),
            (r#""\x4""#, 1, "needs 2 digits"),
            (r#""\xff""#, 0, "UTF-8"),
            (r#""\400""#, 1, "octal"),
            (r#""\ud800""#, 1, "Unicode"),
            ("span. ", 0, "missing after `span.`"),
            (". ", 0, "missing after `.`"),
            ("span.\"a", 5, "quoted name does not end"),
            ("span.\"a\\n\"", 7, "not an escape of a quoted name"),
            ("5lightyears", 0, "neither a number nor a duration"),
            ("0x1f", 0, "neither a number nor a duration"),
            ("1_000", 0, "neither a number nor a duration"),
            ("9223372036854775808", 0, "too large"),
            ("1e999", 0, "too large"),
            ("300y", 0, "too long"),
            (".5xx", 0, "neither"),
            ("service.name", 0, "not a scope"),
            ("span:nmae", 0, "unknown intrinsic"),
            ("/* a", 0, "comment does not end"),
            ("&", 0, "unexpected character"),
            ("#", 0, "unexpected character"),
        ];
        for (text, start, message) in table {
            let fault = lex(text).expect_err(text);
            assert!(fault.message.contains(message), "{text}: {}", fault.message);
            assert_eq!(fault.span.start, *start, "{text}");
        }
    }

    #[test]
    fn one_attribute_alone() {
        for (text, bare) in [
            (".foo", "foo"),
            (".5xx", "5xx"),
            ("span.foo", "foo"),
            ("name", "name"),
            ("span:name", "name"),
            ("event:name", "event:name"),
            ("span.\"with space\"", "with space"),
        ] {
            assert_eq!(lex_attribute(text).unwrap().name.bare(), bare, "{text}");
        }
        for text in ["", "foo", "5", "\"a\"", ".a .b", "span.", "span.a b", " .a", "{", "foo.bar", "name "] {
            assert!(lex_attribute(text).is_err(), "{text}");
        }
    }
}
