//! Attributes and their values.

use std::borrow::Cow;

use model::ATTRIBUTE_DEPTH_MAX;

use super::reader::{Payload, Reader, WireError, text};
use crate::otlp::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList, any_value::Value as Any};

/// One attribute.
#[derive(Clone, Debug, PartialEq)]
pub struct Attribute<'a> {
    pub key: Cow<'a, str>,
    pub value: Value<'a>,
    /// The whole `AnyValue` message of the value as it came; empty if there is none.
    pub raw: &'a [u8],
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// No value, or one of a kind this reader does not know.
    Empty,
    String(Cow<'a, str>),
    Bool(bool),
    Int(i64),
    Double(f64),
    Bytes(&'a [u8]),
    /// The bytes of an `ArrayValue`; see [`array_values`].
    Array(&'a [u8]),
    /// The bytes of a `KeyValueList`; see [`map_entries`].
    Map(&'a [u8]),
}

impl<'a> Value<'a> {
    /// Reads one level of an `AnyValue`.
    #[inline]
    pub(super) fn read(message: &'a [u8]) -> Result<Self, WireError> {
        if let Some(value) = plain_value(message) {
            return Ok(value);
        }
        let mut value = Self::Empty;
        let mut reader = Reader::new(message);
        while let Some(field) = reader.field()? {
            value = match field {
                (1, Payload::Bytes(bytes)) => Self::String(text(bytes)),
                (2, Payload::Varint(bits)) => Self::Bool(bits != 0),
                (3, Payload::Varint(bits)) => Self::Int(bits as i64),
                (4, Payload::Fixed64(bits)) => Self::Double(f64::from_bits(bits)),
                (5, Payload::Bytes(bytes)) => Self::Array(bytes),
                (6, Payload::Bytes(bytes)) => Self::Map(bytes),
                (7, Payload::Bytes(bytes)) => Self::Bytes(bytes),
                (number @ 1..=7, _) => return Err(WireError::WireType(number)),
                _ => continue,
            };
        }
        Ok(value)
    }
}

impl<'a> Attribute<'a> {
    /// Reads a `KeyValue`; its value by one level.
    #[inline]
    fn read(message: &'a [u8]) -> Result<Self, WireError> {
        let (key, raw) = key_and_raw(message)?;
        Ok(Self { key: text(key), value: Value::read(raw)?, raw })
    }
}

/// Shortcut for a `KeyValue` as senders write nearly all of them: the key, then the value, each under 128 bytes.
/// `None` for any other, which may still be right.
#[inline(always)]
fn plain_key_value(key_value: &[u8]) -> Option<(&[u8], &[u8])> {
    let [0x0a, key_length @ ..0x80, rest @ ..] = key_value else { return None };
    let (key, rest) = rest.split_at_checked(usize::from(*key_length))?;
    let [0x12, raw_length @ ..0x80, raw @ ..] = rest else { return None };
    (raw.len() == usize::from(*raw_length)).then_some((key, raw))
}

/// Shortcut for an `AnyValue` of one field: a string under 128 bytes, a boolean, an integer of up to 14 bits, a double.
/// `None` for any other, which may still be right.
#[inline(always)]
fn plain_value(any_value: &[u8]) -> Option<Value<'_>> {
    match any_value {
        [0x0a, length @ ..0x80, bytes @ ..] if bytes.len() == usize::from(*length) => Some(Value::String(text(bytes))),
        [0x10, bits @ ..0x80] => Some(Value::Bool(*bits != 0)),
        [0x18, bits @ ..0x80] => Some(Value::Int(i64::from(*bits))),
        [0x18, low @ 0x80..=0xff, high @ 0..0x80] => Some(Value::Int(i64::from(*low & 0x7f) | i64::from(*high) << 7)),
        [0x21, bits @ ..] => Some(Value::Double(f64::from_le_bytes(bits.try_into().ok()?))),
        _ => None,
    }
}

/// Whether [`plain_value`] reads it, without reading it.
#[inline(always)]
fn is_plain_value(any_value: &[u8]) -> bool {
    match any_value {
        [0x0a, length @ ..0x80, bytes @ ..] => bytes.len() == usize::from(*length),
        [0x10 | 0x18, 0..0x80] | [0x18, 0x80..=0xff, 0..0x80] => true,
        [0x21, bits @ ..] => bits.len() == 8,
        _ => false,
    }
}

#[inline]
fn key_and_raw(key_value: &[u8]) -> Result<(&[u8], &[u8]), WireError> {
    if let Some(plain) = plain_key_value(key_value) {
        return Ok(plain);
    }
    let (mut key, mut raw): (&[u8], &[u8]) = (&[], &[]);
    let mut reader = Reader::new(key_value);
    while let Some(field) = reader.field()? {
        match field {
            (1, Payload::Bytes(bytes)) => key = bytes,
            (2, Payload::Bytes(bytes)) => raw = bytes,
            (number @ 1..=2, _) => return Err(WireError::WireType(number)),
            _ => {}
        }
    }
    Ok((key, raw))
}

/// Whether the `KeyValue` has a value at all: an empty one is not the same as none.
fn has_value(key_value: &[u8]) -> bool {
    let mut reader = Reader::new(key_value);
    std::iter::from_fn(|| reader.field().ok()?).any(|field| matches!(field, (2, Payload::Bytes(_))))
}

/// Why a value is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ValueFault {
    TooDeep,
    Malformed(WireError),
}

impl From<WireError> for ValueFault {
    fn from(error: WireError) -> Self {
        Self::Malformed(error)
    }
}

/// Checks a `KeyValue` with everything in it.
#[inline]
pub(super) fn check_key_value(message: &[u8]) -> Result<(), ValueFault> {
    if plain_key_value(message).is_some_and(|(_, raw)| is_plain_value(raw)) {
        return Ok(());
    }
    check_key_value_within(message, ATTRIBUTE_DEPTH_MAX)
}

#[inline]
fn check_key_value_within(message: &[u8], levels: usize) -> Result<(), ValueFault> {
    // Every occurrence of the value is checked, not only the one that counts.
    let mut reader = Reader::new(message);
    while let Some(field) = reader.field()? {
        match field {
            (1, Payload::Bytes(_)) => {}
            (2, Payload::Bytes(bytes)) => check_any_value(bytes, levels)?,
            (number @ 1..=2, _) => return Err(WireError::WireType(number).into()),
            _ => {}
        }
    }
    Ok(())
}

/// `levels`: how many arrays and maps may still be entered. The recursion is as deep as that, no deeper.
fn check_any_value(message: &[u8], levels: usize) -> Result<(), ValueFault> {
    let mut reader = Reader::new(message);
    while let Some(field) = reader.field()? {
        match field {
            (1 | 7, Payload::Bytes(_)) | (2 | 3, Payload::Varint(_)) | (4, Payload::Fixed64(_)) => {}
            (number @ 5..=6, Payload::Bytes(bytes)) => {
                let levels = levels.checked_sub(1).ok_or(ValueFault::TooDeep)?;
                let mut items = Reader::new(bytes);
                while let Some(item) = items.field()? {
                    match item {
                        (1, Payload::Bytes(item)) if number == 5 => check_any_value(item, levels)?,
                        (1, Payload::Bytes(item)) => check_key_value_within(item, levels)?,
                        (1, _) => return Err(WireError::WireType(1).into()),
                        _ => {}
                    }
                }
            }
            (number @ 1..=7, _) => return Err(WireError::WireType(number).into()),
            _ => {}
        }
    }
    Ok(())
}

/// The attributes of a resource, scope, span, event or link, in the order they came; repeated keys are not removed.
#[derive(Clone)]
pub struct Attributes<'a> {
    reader: Reader<'a>,
    /// The field number of the attributes in the message around them.
    field: u32,
    /// Leave out what nests too deep.
    shallow_only: bool,
}

impl<'a> Attributes<'a> {
    #[inline]
    pub(super) fn new(checked: &'a [u8], field: u32) -> Self {
        Self { reader: Reader::new(checked), field, shallow_only: false }
    }

    #[inline]
    pub(super) fn shallow_only(self, shallow_only: bool) -> Self {
        Self { shallow_only, ..self }
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    #[inline]
    fn next(&mut self) -> Option<Attribute<'a>> {
        loop {
            let message = self.reader.next_bytes(self.field)?;
            if self.shallow_only && check_key_value(message).is_err() {
                continue;
            }
            return Attribute::read(message).ok();
        }
    }
}

/// An attribute whose texts are not looked at yet: for a reader that meets the same texts again and again.
#[derive(Clone, Copy)]
pub struct RawAttribute<'a> {
    message: &'a [u8],
    /// As it came: perhaps not UTF-8.
    pub key: &'a [u8],
    raw: &'a [u8],
}

impl<'a> RawAttribute<'a> {
    /// The value as it came if it is a string, and written as nearly all are; perhaps not UTF-8.
    /// `None` for any other, which may be a string all the same.
    #[inline]
    pub fn plain_text(&self) -> Option<&'a [u8]> {
        match self.raw {
            [0x0a, length @ ..0x80, bytes @ ..] if bytes.len() == usize::from(*length) => Some(bytes),
            _ => None,
        }
    }

    /// Reads it. `None` if it is malformed, which one of a span that was parsed is not.
    #[inline]
    pub fn read(&self) -> Option<Attribute<'a>> {
        Attribute::read(self.message).ok()
    }
}

/// The attributes of a span that was parsed, in the order they came.
#[derive(Clone)]
pub struct RawAttributes<'a> {
    reader: Reader<'a>,
    field: u32,
}

impl<'a> RawAttributes<'a> {
    #[inline]
    pub(super) fn new(checked: &'a [u8], field: u32) -> Self {
        Self { reader: Reader::new(checked), field }
    }
}

impl<'a> Iterator for RawAttributes<'a> {
    type Item = RawAttribute<'a>;

    #[inline]
    fn next(&mut self) -> Option<RawAttribute<'a>> {
        let message = self.reader.next_bytes(self.field)?;
        let (key, raw) = key_and_raw(message).ok()?;
        Some(RawAttribute { message, key, raw })
    }
}

/// The elements of a [`Value::Array`].
#[derive(Clone)]
pub struct Values<'a> {
    reader: Reader<'a>,
}

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    #[inline]
    fn next(&mut self) -> Option<Value<'a>> {
        Value::read(self.reader.next_bytes(1)?).ok()
    }
}

/// The elements of a [`Value::Array`]; ends at the first that cannot be read.
pub fn array_values(array: &[u8]) -> Values<'_> {
    Values { reader: Reader::new(array) }
}

/// The entries of a [`Value::Map`]; ends at the first that cannot be read.
pub fn map_entries(map: &[u8]) -> Attributes<'_> {
    Attributes::new(map, 1)
}

/// Reads an `AnyValue` message into the owned type, however deep it nests up to the bound (prost's own reader
/// refuses legal depths). For bytes that were checked when they came in: what is damaged or too deep reads as empty.
pub fn any_value(message: &[u8]) -> AnyValue {
    any_value_within(message, ATTRIBUTE_DEPTH_MAX)
}

fn any_value_within(message: &[u8], levels: usize) -> AnyValue {
    let value = match Value::read(message).unwrap_or(Value::Empty) {
        Value::Empty => None,
        Value::String(text) => Some(Any::StringValue(text.into_owned())),
        Value::Bool(value) => Some(Any::BoolValue(value)),
        Value::Int(value) => Some(Any::IntValue(value)),
        Value::Double(value) => Some(Any::DoubleValue(value)),
        Value::Bytes(bytes) => Some(Any::BytesValue(bytes.to_vec())),
        Value::Array(_) | Value::Map(_) if levels == 0 => None,
        Value::Array(array) => {
            let mut items = Reader::new(array);
            let values = std::iter::from_fn(|| Some(any_value_within(items.next_bytes(1)?, levels - 1))).collect();
            Some(Any::ArrayValue(ArrayValue { values }))
        }
        Value::Map(map) => {
            let mut entries = Reader::new(map);
            let values = std::iter::from_fn(|| {
                let entry = entries.next_bytes(1)?;
                let (key, raw) = key_and_raw(entry).ok()?;
                let value = has_value(entry).then(|| any_value_within(raw, levels - 1));
                Some(KeyValue { key: text(key).into_owned(), value })
            });
            Some(Any::KvlistValue(KeyValueList { values: values.collect() }))
        }
    };
    AnyValue { value }
}
