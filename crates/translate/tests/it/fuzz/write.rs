//! Writes values as protobuf, as JSON, and as what thrift's protocols write.

use prost::encoding::encode_varint;

use super::spell::{Value, Width};
use crate::thrift_writer::V;

pub fn protobuf(message: &Value) -> Vec<u8> {
    let mut out = vec![];
    match message {
        Value::Message(fields) => fields.iter().for_each(|(number, _, value)| protobuf_field(*number, value, &mut out)),
        other => protobuf_field(1, other, &mut out),
    }
    out
}

fn protobuf_field(number: u32, value: &Value, out: &mut Vec<u8>) {
    let tag = |wire_type: u64, out: &mut Vec<u8>| encode_varint(u64::from(number) << 3 | wire_type, out);
    let delimited = |content: &[u8], out: &mut Vec<u8>| {
        tag(2, out);
        encode_varint(content.len() as u64, out);
        out.extend_from_slice(content);
    };
    match value {
        Value::Text(bytes) | Value::Bytes(bytes) | Value::Id(bytes) | Value::Address(bytes) => delimited(bytes, out),
        Value::Message(_) => delimited(&protobuf(value), out),
        Value::List(values) => values.iter().for_each(|value| protobuf_field(number, value, out)),
        Value::Map(pairs) => {
            for (key, value) in pairs {
                let mut entry = vec![];
                protobuf_field(1, &Value::Bytes(key.clone()), &mut entry);
                protobuf_field(2, &Value::Bytes(value.clone()), &mut entry);
                delimited(&entry, out);
            }
        }
        Value::Whole(value, Width::Fixed64) => {
            tag(1, out);
            out.extend_from_slice(&value.to_le_bytes());
        }
        Value::Whole(value, Width::Fixed32) => {
            tag(5, out);
            out.extend_from_slice(&(*value as u32).to_le_bytes());
        }
        Value::Double(value) => {
            tag(1, out);
            out.extend_from_slice(&value.to_le_bytes());
        }
        Value::Whole(value, _) => {
            tag(0, out);
            encode_varint(*value as u64, out);
        }
        Value::Word(at, _) => {
            tag(0, out);
            encode_varint(*at as u64, out);
        }
        Value::Bool(value) => {
            tag(0, out);
            encode_varint(u64::from(*value), out);
        }
    }
}

pub fn json(value: &Value) -> Vec<u8> {
    let mut out = vec![];
    write_json(value, &mut out);
    out
}

fn write_json(value: &Value, out: &mut Vec<u8>) {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    match value {
        Value::Bool(value) => out.extend_from_slice(value.to_string().as_bytes()),
        Value::Whole(value, Width::HalfId) => quoted(format!("{:x}", *value as u64).as_bytes(), out),
        Value::Whole(value, Width::Fixed64) => quoted((*value as u64).to_string().as_bytes(), out),
        Value::Whole(value, Width::Address) => quoted(address(&(*value as u32).to_be_bytes()).as_bytes(), out),
        Value::Whole(value, _) => out.extend_from_slice(value.to_string().as_bytes()),
        Value::Double(value) if value.is_finite() => out.extend_from_slice(format!("{value:?}").as_bytes()),
        Value::Double(value) => quoted(if value.is_nan() { b"NaN" } else { b"Infinity" }, out),
        Value::Text(text) => quoted(text, out),
        Value::Bytes(bytes) => quoted(base64(bytes).as_bytes(), out),
        Value::Id(bytes) => quoted(hex(bytes).as_bytes(), out),
        Value::Address(bytes) => quoted(address(bytes).as_bytes(), out),
        Value::Word(_, word) => quoted(word.as_bytes(), out),
        Value::Map(pairs) => list(b'{', b'}', pairs, out, |(key, value), out| {
            quoted(key, out);
            out.push(b':');
            quoted(value, out);
        }),
        Value::List(values) => list(b'[', b']', values, out, write_json),
        Value::Message(fields) => list(b'{', b'}', fields, out, |(_, name, value), out| {
            quoted(name.as_bytes(), out);
            out.push(b':');
            write_json(value, out);
        }),
    }
}

fn list<T>(open: u8, close: u8, items: &[T], out: &mut Vec<u8>, each: impl Fn(&T, &mut Vec<u8>)) {
    out.push(open);
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        each(item, out);
    }
    out.push(close);
}

/// What is not UTF-8 is written as it is.
fn quoted(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            0..0x20 => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => out.push(*byte),
        }
    }
    out.push(b'"');
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn address(bytes: &[u8]) -> String {
    match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
        (Ok(bytes), _) => std::net::Ipv4Addr::from(bytes).to_string(),
        (_, Ok(bytes)) => std::net::Ipv6Addr::from(bytes).to_string(),
        _ => "not an address".to_owned(),
    }
}

/// For thrift's writers.
pub fn thrift(value: &Value) -> V {
    match value {
        Value::Bool(value) => V::Bool(*value),
        Value::Whole(value, Width::I16) => V::I16(*value as i16),
        Value::Whole(value, Width::I32 | Width::Fixed32 | Width::Address) => V::I32(*value as i32),
        Value::Whole(value, Width::I64 | Width::Fixed64 | Width::HalfId) => V::I64(*value),
        Value::Double(value) => V::Double(*value),
        Value::Text(bytes) | Value::Bytes(bytes) | Value::Id(bytes) | Value::Address(bytes) => V::Bytes(bytes.clone()),
        Value::Word(_, word) => V::Text(word),
        Value::Map(pairs) => V::List(pairs.iter().map(|(key, _)| V::Bytes(key.clone())).collect()),
        Value::List(values) => {
            // All elements of one list have the type of the first.
            let mut values: Vec<V> = values.iter().map(thrift).collect();
            let kind = values.first().map(V::kind);
            values.retain(|value| Some(value.kind()) == kind);
            V::List(values)
        }
        Value::Message(fields) => {
            V::Struct(fields.iter().map(|(number, _, value)| (*number as i16, thrift(value))).collect())
        }
    }
}
