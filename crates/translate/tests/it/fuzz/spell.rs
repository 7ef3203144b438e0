//! Spells messages of a shape with bytes, each of which makes a choice; zeros when there are no more, and they stand for
//! what is ordinary. So coverage can guide the bytes, and a short input is a plain message.
//!
//! Some choices are odd: a field twice, out of order, of another type or of no known number, an id of a wrong length, a
//! text that is not UTF-8, a number at the end of its range, a value inside a hundred others.

/// What a field holds, apart from how a format writes it.
pub enum Shape {
    Bool,
    Whole(Width),
    Double,
    Text,
    Bytes,
    /// Of so many bytes; hex in JSON.
    Id(usize),
    /// An IP address of so many bytes.
    Address(usize),
    /// One of some words; its place among them in protobuf.
    Word(&'static [&'static str]),
    /// Texts by texts.
    Map,
    List(&'static Shape),
    Message(&'static [Field]),
    /// A message with one of its fields.
    OneOf(&'static [Field]),
}

/// How a format writes a whole number where it has several ways.
#[derive(Clone, Copy, PartialEq)]
pub enum Width {
    I16,
    I32,
    I64,
    Fixed32,
    Fixed64,
    /// Hex in JSON.
    HalfId,
    /// An address of four bytes: text in JSON.
    Address,
}

pub struct Field {
    pub number: u32,
    pub name: &'static str,
    pub shape: Shape,
}

pub const fn field(number: u32, name: &'static str, shape: Shape) -> Field {
    Field { number, name, shape }
}

pub enum Value {
    Bool(bool),
    Whole(i64, Width),
    Double(f64),
    /// Perhaps not UTF-8.
    Text(Vec<u8>),
    Bytes(Vec<u8>),
    Id(Vec<u8>),
    Address(Vec<u8>),
    Word(usize, &'static str),
    Map(Vec<(Vec<u8>, Vec<u8>)>),
    List(Vec<Value>),
    /// Number, name, value.
    Message(Vec<(u32, &'static str, Value)>),
}

/// Messages inside each other, ordinarily.
const LEVELS: usize = 9;
/// And in the odd case: above what readers allow, and below what exhausts a stack.
const LEVELS_ODD: usize = 150;

const TEXTS: [&[u8]; 30] = [
    b"shop", b"", b"GET /", b"service.name", b"error", b"true", b"false", b"span.kind", b"server", b"event", b"message",
    b"otel.status_code", b"ERROR", b"OK", b"otel.status_description", b"otel.scope.name", b"otlp.link.0",
    b"0102030405060708090a0b0c0d0e0f10|0102030405060708||{}|0", b"{\"a\": 1}", b"\"x\": {\"a\": [1, null]}",
    b"otel.dropped_events_count", b"99999999999999999999", b"-1", b"10.0.0.7", b"1e400", "ä ß 漢 \u{202e}".as_bytes(),
    b"\0\x1b[31m\r\n", b"\xff\xfe", b"\xc0\x80\xed\xa0\x80", b"w3c.tracestate",
];
const WHOLES: [i64; 14] = [
    1, 0, 2, 1_700_000_000_000_000, 1_700_000_000_000_000_000, -1, i64::MAX, i64::MIN, 99, 1 << 53, 0xffff_ffff, 65_536,
    i32::MIN as i64, 9_223_372_036_854_776,
];
/// What fits whatever a format has for small numbers.
const SMALL: [i64; 5] = [1, 0, 2, 3, 99];
const DOUBLES: [f64; 8] = [0.5, 0.0, -0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300, f64::MIN_POSITIVE / 2.0];

pub struct Speller<'a> {
    choices: std::slice::Iter<'a, u8>,
    /// One decision in so many is odd; none if 0.
    odd: usize,
}

impl<'a> Speller<'a> {
    pub fn new(bytes: &'a [u8], odd: usize) -> Self {
        Self { choices: bytes.iter(), odd }
    }

    pub fn below(&mut self, bound: usize) -> usize {
        usize::from(self.choices.next().copied().unwrap_or(0)) % bound
    }

    /// What decides nothing any more.
    pub fn rest(&self) -> &'a [u8] {
        self.choices.as_slice()
    }

    fn is_odd(&mut self) -> bool {
        self.odd > 0 && self.below(self.odd) == 1
    }

    fn text(&mut self) -> Vec<u8> {
        if self.is_odd() {
            return b"x".repeat(self.below(20) * 200);
        }
        TEXTS[self.below(TEXTS.len())].to_vec()
    }

    fn bytes(&mut self, ordinary: usize) -> Vec<u8> {
        let length = if self.is_odd() { self.below(40) } else { ordinary };
        let first = if self.is_odd() { 0 } else { 1 + self.below(4) as u8 };
        vec![first; length]
    }

    fn whole(&mut self, width: Width) -> i64 {
        let small = matches!(width, Width::I16 | Width::I32 | Width::Fixed32) && !self.is_odd();
        let of: &[i64] = if small { &SMALL } else { &WHOLES };
        of[self.below(of.len())]
    }

    pub fn value(&mut self, shape: &Shape) -> Value {
        self.value_within(shape, LEVELS)
    }

    fn value_within(&mut self, shape: &Shape, levels: usize) -> Value {
        if self.is_odd() {
            return self.of_any_type();
        }
        match shape {
            Shape::Bool => Value::Bool(self.below(2) == 1),
            Shape::Whole(width) => Value::Whole(self.whole(*width), *width),
            Shape::Double => Value::Double(DOUBLES[self.below(DOUBLES.len())]),
            Shape::Text => Value::Text(self.text()),
            Shape::Bytes => Value::Bytes(self.bytes(3)),
            Shape::Id(length) => Value::Id(self.bytes(*length)),
            Shape::Address(length) => Value::Address(self.bytes(*length)),
            Shape::Word(words) => {
                let at = self.below(words.len());
                Value::Word(at, words[at])
            }
            Shape::Map => Value::Map((0..self.length()).map(|_| (self.text(), self.text())).collect()),
            Shape::List(element) => Value::List((0..self.length()).map(|_| self.value_within(element, levels)).collect()),
            Shape::Message(fields) => self.message(fields, levels),
            Shape::OneOf(fields) => self.one_of(fields, levels),
        }
    }

    fn length(&mut self) -> usize {
        if self.is_odd() { self.below(100) } else { [1, 0, 2, 3][self.below(4)] }
    }

    fn message(&mut self, fields: &[Field], levels: usize) -> Value {
        let Some(levels) = levels.checked_sub(1) else { return Value::Message(vec![]) };
        let mut entries = vec![];
        for field in fields {
            let times = if self.is_odd() { [0, 2, 3][self.below(3)] } else { 1 };
            for _ in 0..times {
                entries.push((field.number, field.name, self.value_within(&field.shape, levels)));
            }
        }
        if self.is_odd() {
            let number = [0, 7, 200, 1 << 28][self.below(4)];
            entries.push((number, "unknown", self.of_any_type()));
        }
        if self.is_odd() && !entries.is_empty() {
            let at = self.below(entries.len());
            entries.rotate_left(at);
        }
        Value::Message(entries)
    }

    fn one_of(&mut self, fields: &[Field], levels: usize) -> Value {
        let plain = |field: &&Field| !matches!(field.shape, Shape::Message(_));
        let nested: Vec<&Field> = fields.iter().filter(|field| !plain(field)).collect();
        if self.is_odd() && !nested.is_empty() {
            let field = nested[self.below(nested.len())];
            let levels = 1 + self.below(LEVELS_ODD);
            return in_each_other(field, levels);
        }
        let choices: Vec<&Field> = fields.iter().filter(|field| levels > 1 || plain(field)).collect();
        let field = choices[self.below(choices.len())];
        Value::Message(vec![(field.number, field.name, self.value_within(&field.shape, levels.saturating_sub(1)))])
    }

    fn of_any_type(&mut self) -> Value {
        match self.below(8) {
            0 => Value::Text(self.text()),
            1 => Value::Whole(self.whole(Width::I64), Width::I64),
            2 => Value::Whole(self.whole(Width::I32), Width::I32),
            3 => Value::Bool(true),
            4 => Value::Double(f64::NAN),
            5 => Value::Message(vec![]),
            6 => Value::List(vec![Value::Whole(1, Width::Fixed64)]),
            _ => Value::Bytes(self.bytes(16)),
        }
    }
}

/// Messages of `outer`'s field so deep in each other: each list has one element, and the innermost value is none.
fn in_each_other(outer: &Field, levels: usize) -> Value {
    let Shape::Message([list, ..]) = &outer.shape else { return Value::Message(vec![]) };
    let mut value = Value::Message(vec![]);
    for _ in 0..levels {
        let element = match &list.shape {
            // An entry of a map: a key beside the value.
            Shape::List(Shape::Message([key, of])) => Value::Message(vec![
                (key.number, key.name, Value::Text(b"k".to_vec())),
                (of.number, of.name, value),
            ]),
            _ => value,
        };
        let inner = Value::Message(vec![(list.number, list.name, Value::List(vec![element]))]);
        value = Value::Message(vec![(outer.number, outer.name, inner)]);
    }
    value
}

/// A few bytes of a body replaced, put in, left out or written twice, and perhaps the end missing.
pub fn damaged(mut body: Vec<u8>, choices: &[u8]) -> Vec<u8> {
    let mut speller = Speller::new(choices, 0);
    for _ in 0..1 + speller.below(4) {
        if body.is_empty() {
            break;
        }
        let at = (speller.below(256) << 8 | speller.below(256)) % body.len();
        let end = (at + 1 + speller.below(16)).min(body.len());
        match speller.below(6) {
            0 | 1 => body[at] = speller.below(256) as u8,
            2 => body.insert(at, speller.below(256) as u8),
            3 => drop(body.drain(at..end)),
            4 => body.extend_from_within(at..end),
            _ => body.truncate(at),
        }
    }
    body
}
