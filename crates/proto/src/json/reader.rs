//! A pull reader of JSON text. Nothing in it recurses: depth is the caller's to bound.

use std::{borrow::Cow, str::FromStr};

use serde::de::IgnoredAny;

/// What is wrong with a JSON body, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}, at byte {offset} of the JSON body")]
pub struct JsonError {
    what: String,
    offset: usize,
}

pub(crate) struct Reader<'a> {
    text: &'a str,
    at: usize,
    /// How much more the lists that are read may take.
    heap_bytes_left: usize,
}

impl<'a> Reader<'a> {
    /// Lists take at most `heap_bytes_max` together, by the size of their items.
    pub(crate) fn new(text: &'a str, heap_bytes_max: usize) -> Self {
        Self { text, at: 0, heap_bytes_left: heap_bytes_max }
    }

    pub(crate) fn error(&self, what: impl Into<String>) -> JsonError {
        JsonError { what: what.into(), offset: self.at }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// The next byte that is not white space; 0 at the end.
    fn peek(&mut self) -> u8 {
        let rest = self.rest().as_bytes();
        self.at += rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n')).count();
        self.text.as_bytes().get(self.at).copied().unwrap_or(0)
    }

    fn accept(&mut self, byte: u8) -> bool {
        let found = self.peek() == byte;
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8) -> Result<(), JsonError> {
        if self.accept(byte) { Ok(()) } else { Err(self.error(format!("expected {:?}", byte as char))) }
    }

    fn accept_word(&mut self, word: &str) -> bool {
        self.peek();
        let found = self.rest().starts_with(word);
        self.at += if found { word.len() } else { 0 };
        found
    }

    /// Refuses anything but white space after the document.
    pub(crate) fn end(&mut self) -> Result<(), JsonError> {
        self.peek();
        if self.rest().is_empty() { Ok(()) } else { Err(self.error("expected the end")) }
    }

    /// Reads an object; `field` must consume the value of each key. `null` is an object without fields.
    pub(crate) fn object(
        &mut self,
        mut field: impl FnMut(&mut Self, &str) -> Result<(), JsonError>,
    ) -> Result<(), JsonError> {
        if self.accept_word("null") {
            return Ok(());
        }
        self.expect(b'{')?;
        if self.accept(b'}') {
            return Ok(());
        }
        loop {
            let key = self.quoted()?;
            self.expect(b':')?;
            field(self, &key)?;
            if self.accept(b'}') {
                return Ok(());
            }
            self.expect(b',')?;
        }
    }

    /// Reads an array of what `item` reads. `null` is an empty array.
    pub(crate) fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, JsonError>,
    ) -> Result<Vec<T>, JsonError> {
        let mut items = Vec::new();
        if self.accept_word("null") {
            return Ok(items);
        }
        self.expect(b'[')?;
        if self.accept(b']') {
            return Ok(items);
        }
        loop {
            let left = self.heap_bytes_left.checked_sub(size_of::<T>());
            self.heap_bytes_left = left.ok_or_else(|| self.error("too many items that are empty or nearly so"))?;
            items.push(item(self)?);
            if self.accept(b']') {
                return Ok(items);
            }
            self.expect(b',')?;
        }
    }

    /// A string; `null` is the empty one.
    pub(crate) fn string(&mut self) -> Result<Cow<'a, str>, JsonError> {
        if self.accept_word("null") { Ok(Cow::Borrowed("")) } else { self.quoted() }
    }

    fn quoted(&mut self) -> Result<Cow<'a, str>, JsonError> {
        if self.peek() != b'"' {
            return Err(self.error("expected a string"));
        }
        let rest = self.rest();
        let (mut escaped, mut plain) = (false, true);
        for (index, byte) in rest.bytes().enumerate().skip(1) {
            match byte {
                _ if escaped => escaped = false,
                b'"' => {
                    let quoted = &rest[..=index];
                    let text = match plain {
                        true => Cow::Borrowed(&rest[1..index]),
                        false => serde_json::from_str::<String>(quoted)
                            .map(Cow::Owned)
                            .map_err(|_| self.error("a string holds an invalid escape or a control character"))?,
                    };
                    self.at += quoted.len();
                    return Ok(text);
                }
                b'\\' => (escaped, plain) = (true, false),
                0..0x20 => plain = false,
                _ => {}
            }
        }
        Err(self.error("a string does not end"))
    }

    pub(crate) fn boolean(&mut self) -> Result<bool, JsonError> {
        if self.accept_word("true") {
            Ok(true)
        } else if self.accept_word("false") || self.accept_word("null") {
            Ok(false)
        } else {
            Err(self.error("expected true or false"))
        }
    }

    /// The text of a number.
    fn number(&mut self) -> Result<&'a str, JsonError> {
        self.peek();
        let rest = self.rest();
        let length = rest.bytes().take_while(|b| matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')).count();
        let number = &rest[..length];
        if serde_json::from_str::<IgnoredAny>(number).is_err() {
            return Err(self.error("expected a number"));
        }
        self.at += length;
        Ok(number)
    }

    /// The text of a number, or of a string that should hold one.
    fn number_or_string(&mut self) -> Result<Cow<'a, str>, JsonError> {
        if self.accept_word("null") {
            Ok(Cow::Borrowed("0"))
        } else if self.peek() == b'"' {
            self.quoted()
        } else {
            self.number().map(Cow::Borrowed)
        }
    }

    /// An integer, as a number or as a string.
    pub(crate) fn integer<T: FromStr + TryFrom<i64>>(&mut self) -> Result<T, JsonError> {
        let text = self.number_or_string()?;
        text.parse()
            .ok()
            // `1e3` and `5.0` are integers too, as far as a double holds them exactly.
            .or_else(|| whole(text.parse().ok()?).and_then(|number| T::try_from(number).ok()))
            .ok_or_else(|| self.error(format!("{:?} is not an integer that fits its field", cut(&text))))
    }

    /// The number of an enum. OTLP/JSON has no enum names.
    pub(crate) fn enumeration(&mut self) -> Result<i32, JsonError> {
        if self.peek() == b'"' {
            return Err(self.error("an enum is written as its number, not as a string"));
        }
        self.integer()
    }

    /// A double, as a number or as a string; the strings may be `NaN`, `Infinity`, `-Infinity`.
    pub(crate) fn double(&mut self) -> Result<f64, JsonError> {
        let quoted = self.peek() == b'"';
        let text = self.number_or_string()?;
        match text.as_ref() {
            "NaN" if quoted => return Ok(f64::NAN),
            "Infinity" if quoted => return Ok(f64::INFINITY),
            "-Infinity" if quoted => return Ok(f64::NEG_INFINITY),
            _ => {}
        }
        let value = text.parse().ok().filter(|value: &f64| value.is_finite());
        value.ok_or_else(|| self.error(format!("{:?} is not a number that a double holds", cut(&text))))
    }

    /// Passes over one value of any kind and depth.
    pub(crate) fn skip(&mut self) -> Result<(), JsonError> {
        let mut values = serde_json::Deserializer::from_str(self.rest()).into_iter::<IgnoredAny>();
        let skipped = values.next();
        let length = values.byte_offset();
        match skipped {
            Some(Ok(_)) => {
                self.at += length;
                Ok(())
            }
            _ => Err(self.error("expected a value")),
        }
    }
}

/// The integer a double is, if it is one and exact.
fn whole(number: f64) -> Option<i64> {
    const EXACT_MAX: f64 = (1u64 << 53) as f64;
    (number.fract() == 0.0 && number.abs() <= EXACT_MAX).then_some(number as i64)
}

/// Enough of a text to find it again in the request.
fn cut(text: &str) -> &str {
    let end = text.char_indices().nth(40).map_or(text.len(), |(index, _)| index);
    &text[..end]
}
