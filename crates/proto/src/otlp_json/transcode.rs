//! A request in JSON as the same request in protobuf, without messages in between.
//!
//! Reads what [`super::decode`] reads, in the same way. Beside the body there is in memory what comes out, which is hardly ever
//! longer: the shortest fields of JSON are about as long as the longest of protobuf.

use std::ops::Range;

use model::ATTRIBUTE_DEPTH_MAX;

use super::{JsonError, base64_bytes, id};
use crate::json::Reader;

type Result<T> = std::result::Result<T, JsonError>;
/// Reads a value and writes it as a field of this number.
type Write = fn(&mut Reader<'_>, &mut Vec<u8>, u32) -> Result<()>;

/// The most memory that [`to_protobuf`] takes beside this body.
pub fn protobuf_bytes_max(body: &[u8]) -> usize {
    let text = match std::str::from_utf8(body) {
        Ok(_) => 0,
        // A byte that is not UTF-8 becomes three that are.
        Err(_) => body.len().saturating_mul(3),
    };
    // `{"kind":-1},` has 12 bytes and becomes 13.
    let out = text.max(body.len());
    text.saturating_add(out).saturating_add(out / 8)
}

/// Reads a request. Takes at most [`protobuf_bytes_max`] of memory.
pub fn to_protobuf(body: &[u8]) -> Result<Vec<u8>> {
    let text = String::from_utf8_lossy(body);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    // Without lists of its own.
    let mut reader = Reader::new(text, 0);
    let mut out = Vec::with_capacity(text.len() + text.len() / 8);
    object::<2>(&mut reader, &mut out, |key| {
        Some(match key {
            "resourceSpans" => (1, |reader, out, number| each(reader, out, number, resource_spans)),
            _ => return None,
        })
    })?;
    reader.end()?;
    Ok(out)
}

fn resource_spans(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<()> {
    object::<4>(reader, out, |key| {
        Some(match key {
            "resource" => (1, |reader, out, number| one(reader, out, number, resource)),
            "scopeSpans" => (2, |reader, out, number| each(reader, out, number, scope_spans)),
            "schemaUrl" => (3, text),
            _ => return None,
        })
    })
}

fn resource(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<()> {
    object::<3>(reader, out, |key| {
        Some(match key {
            "attributes" => (1, attributes),
            "droppedAttributesCount" => (2, count),
            _ => return None,
        })
    })
}

fn scope_spans(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<()> {
    object::<4>(reader, out, |key| {
        Some(match key {
            "scope" => (1, |reader, out, number| one(reader, out, number, scope)),
            "spans" => (2, |reader, out, number| each(reader, out, number, span)),
            "schemaUrl" => (3, text),
            _ => return None,
        })
    })
}

fn scope(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<()> {
    object::<5>(reader, out, |key| {
        Some(match key {
            "name" => (1, text),
            "version" => (2, text),
            "attributes" => (3, attributes),
            "droppedAttributesCount" => (4, count),
            _ => return None,
        })
    })
}

fn span(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<()> {
    object::<17>(reader, out, |key| {
        Some(match key {
            "traceId" => (1, hex),
            "spanId" => (2, hex),
            "traceState" => (3, text),
            "parentSpanId" => (4, hex),
            "name" => (5, text),
            "kind" => (6, enumeration),
            "startTimeUnixNano" => (7, fixed64),
            "endTimeUnixNano" => (8, fixed64),
            "attributes" => (9, attributes),
            "droppedAttributesCount" => (10, count),
            "events" => (11, |reader, out, number| each(reader, out, number, event)),
            "droppedEventsCount" => (12, count),
            "links" => (13, |reader, out, number| each(reader, out, number, link)),
            "droppedLinksCount" => (14, count),
            "status" => (15, |reader, out, number| one(reader, out, number, status)),
            "flags" => (16, fixed32),
            _ => return None,
        })
    })
}

fn event(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<()> {
    object::<5>(reader, out, |key| {
        Some(match key {
            "timeUnixNano" => (1, fixed64),
            "name" => (2, text),
            "attributes" => (3, attributes),
            "droppedAttributesCount" => (4, count),
            _ => return None,
        })
    })
}

fn link(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<()> {
    object::<7>(reader, out, |key| {
        Some(match key {
            "traceId" => (1, hex),
            "spanId" => (2, hex),
            "traceState" => (3, text),
            "attributes" => (4, attributes),
            "droppedAttributesCount" => (5, count),
            "flags" => (6, fixed32),
            _ => return None,
        })
    })
}

fn status(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<()> {
    object::<4>(reader, out, |key| {
        Some(match key {
            "message" => (2, text),
            "code" => (3, enumeration),
            _ => return None,
        })
    })
}

/// Reads an object whose names stand for these fields; others are passed over.
fn object<const N: usize>(
    reader: &mut Reader<'_>,
    out: &mut Vec<u8>,
    named: fn(&str) -> Option<(u32, Write)>,
) -> Result<()> {
    let mut message = Message::<N>::new();
    reader.object(|reader, key| match named(key) {
        Some((number, write)) => message.field(out, number, |out| write(reader, out, number)),
        None => reader.skip(),
    })
}

fn attributes(reader: &mut Reader<'_>, out: &mut Vec<u8>, number: u32) -> Result<()> {
    key_values(reader, out, number, ATTRIBUTE_DEPTH_MAX + 1)
}

fn key_values(reader: &mut Reader<'_>, out: &mut Vec<u8>, number: u32, levels: usize) -> Result<()> {
    each(reader, out, number, |reader, out| {
        let mut message = Message::<3>::new();
        reader.object(|reader, key| match key {
            "key" => message.field(out, 1, |out| text(reader, out, 1)),
            "value" => message.field(out, 2, |out| one(reader, out, 2, |reader, out| any_value(reader, out, levels))),
            _ => reader.skip(),
        })
    })
}

/// `levels`: how many arrays and maps may still be entered; what is deeper is passed over. The recursion is as deep as that.
/// A value is written also where it is empty or 0, and of several the last counts.
fn any_value(reader: &mut Reader<'_>, out: &mut Vec<u8>, levels: usize) -> Result<()> {
    const VALUE: u32 = 0;
    let mut message = Message::<1>::new();
    reader.object(|reader, key| match key {
        "stringValue" => message.field(out, VALUE, |out| {
            bytes(out, 1, reader.string()?.as_bytes());
            Ok(())
        }),
        "boolValue" => message.field(out, VALUE, |out| {
            varint_field(out, 2, u64::from(reader.boolean()?));
            Ok(())
        }),
        "intValue" => message.field(out, VALUE, |out| {
            varint_field(out, 3, reader.integer::<i64>()? as u64);
            Ok(())
        }),
        "doubleValue" => message.field(out, VALUE, |out| {
            fixed(out, 4, FIXED64, &reader.double()?.to_le_bytes());
            Ok(())
        }),
        "arrayValue" if levels > 0 => message.field(out, VALUE, |out| {
            one(reader, out, 5, |reader, out| {
                let mut array = Message::<2>::new();
                reader.object(|reader, key| match key {
                    "values" => array.field(out, 1, |out| {
                        each(reader, out, 1, |reader, out| any_value(reader, out, levels - 1))
                    }),
                    _ => reader.skip(),
                })
            })
        }),
        "kvlistValue" if levels > 0 => message.field(out, VALUE, |out| {
            one(reader, out, 6, |reader, out| {
                let mut map = Message::<2>::new();
                reader.object(|reader, key| match key {
                    "values" => map.field(out, 1, |out| key_values(reader, out, 1, levels - 1)),
                    _ => reader.skip(),
                })
            })
        }),
        "bytesValue" => message.field(out, VALUE, |out| {
            bytes(out, 7, &base64_bytes(reader)?);
            Ok(())
        }),
        _ => reader.skip(),
    })
}

/// Where the fields of a message stand that is being written at the end of the output. A field that comes again replaces what
/// it was; in protobuf it would be added to it.
struct Message<const N: usize> {
    written: [Option<Range<usize>>; N],
}

impl<const N: usize> Message<N> {
    fn new() -> Self {
        Self { written: [const { None }; N] }
    }

    fn field(&mut self, out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<()> {
        if let Some(before) = self.written[number as usize].take() {
            out.drain(before.clone());
            for behind in self.written.iter_mut().flatten().filter(|other| other.start >= before.end) {
                *behind = behind.start - before.len()..behind.end - before.len();
            }
        }
        let start = out.len();
        write(out)?;
        self.written[number as usize] = (out.len() > start).then_some(start..out.len());
        Ok(())
    }
}

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const LENGTH: u32 = 2;
const FIXED32: u32 = 5;

/// A message for each item of a list.
fn each(
    reader: &mut Reader<'_>,
    out: &mut Vec<u8>,
    number: u32,
    item: impl Fn(&mut Reader<'_>, &mut Vec<u8>) -> Result<()>,
) -> Result<()> {
    reader.list(|reader| one(reader, out, number, &item)).map(|_: Vec<()>| ())
}

/// A message, whose length stands before it and is known after it.
fn one(
    reader: &mut Reader<'_>,
    out: &mut Vec<u8>,
    number: u32,
    content: impl FnOnce(&mut Reader<'_>, &mut Vec<u8>) -> Result<()>,
) -> Result<()> {
    varint(out, u64::from(number << 3 | LENGTH));
    let begin = out.len();
    content(reader, out)?;
    let end = out.len();
    varint(out, (end - begin) as u64);
    out[begin..].rotate_left(end - begin);
    Ok(())
}

fn text(reader: &mut Reader<'_>, out: &mut Vec<u8>, number: u32) -> Result<()> {
    let text = reader.string()?;
    if !text.is_empty() {
        bytes(out, number, text.as_bytes());
    }
    Ok(())
}

fn hex(reader: &mut Reader<'_>, out: &mut Vec<u8>, number: u32) -> Result<()> {
    let id = id(reader)?;
    if !id.is_empty() {
        bytes(out, number, &id);
    }
    Ok(())
}

fn count(reader: &mut Reader<'_>, out: &mut Vec<u8>, number: u32) -> Result<()> {
    let count: u32 = reader.integer()?;
    if count != 0 {
        varint_field(out, number, u64::from(count));
    }
    Ok(())
}

fn enumeration(reader: &mut Reader<'_>, out: &mut Vec<u8>, number: u32) -> Result<()> {
    let value = reader.enumeration()?;
    if value != 0 {
        varint_field(out, number, i64::from(value) as u64);
    }
    Ok(())
}

fn fixed64(reader: &mut Reader<'_>, out: &mut Vec<u8>, number: u32) -> Result<()> {
    let value: u64 = reader.integer()?;
    if value != 0 {
        fixed(out, number, FIXED64, &value.to_le_bytes());
    }
    Ok(())
}

fn fixed32(reader: &mut Reader<'_>, out: &mut Vec<u8>, number: u32) -> Result<()> {
    let value: u32 = reader.integer()?;
    if value != 0 {
        fixed(out, number, FIXED32, &value.to_le_bytes());
    }
    Ok(())
}

fn bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    varint(out, u64::from(number << 3 | LENGTH));
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn varint_field(out: &mut Vec<u8>, number: u32, value: u64) {
    varint(out, u64::from(number << 3 | VARINT));
    varint(out, value);
}

fn fixed(out: &mut Vec<u8>, number: u32, wire: u32, value: &[u8]) {
    varint(out, u64::from(number << 3 | wire));
    out.extend_from_slice(value);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use proptest::prelude::*;

    use super::{super::{decode, encode}, *};
    use crate::{arbitrary::request, otlp::collector::trace::v1::ExportTraceServiceRequest};

    /// Read both ways.
    fn check(body: &[u8]) {
        let (direct, decoded) = (to_protobuf(body), decode(body));
        if let Ok(bytes) = &direct {
            let most = protobuf_bytes_max(body);
            assert!(bytes.len() <= most, "{} bytes, at most {most}", bytes.len());
            if let Ok(decoded) = &decoded {
                assert_eq!(&ExportTraceServiceRequest::decode(bytes.as_slice()).unwrap(), decoded);
            }
        }
        // Many empty items have too many messages, but not too many bytes.
        match (direct, decoded) {
            (Err(direct), Err(decoded)) if !decoded.to_string().contains("too many items") => assert_eq!(direct, decoded),
            (direct, decoded) => assert!(decoded.is_err() || direct.is_ok()),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn both_ways_agree(request in request(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut body = encode(&request);
            prop_assert_eq!(to_protobuf(&body).map(|bytes| ExportTraceServiceRequest::decode(bytes.as_slice()).unwrap()), Ok(request));
            let at = at.index(body.len());
            check(&body[..at]);
            body[at] = byte;
            check(&body);
        }

        #[test]
        fn both_ways_agree_on_random_text(text in r#"[\[\]{}:,"\\a-e0-9 .-]{0,60}"#) {
            check(text.as_bytes());
        }
    }

    #[test]
    fn the_last_of_equal_names_counts() {
        let all = r#""traceId":"0a","spanId":"0b","name":"a","kind":2,"flags":7,"attributes":[{"key":"k","value":{"intValue":0}}],
            "events":[{"name":"e","name":""}],"links":[{"traceId":"01"},{}],"status":{"code":2},"startTimeUnixNano":"9""#;
        let again = r#""name":"b","kind":0,"attributes":[{"key":"l","key":"m","value":{"stringValue":"s","boolValue":false},
            "value":{"doubleValue":-0.0}}],"events":null,"status":{"message":"m"},"traceId":"","flags":9"#;
        let nested = r#""attributes":[{"value":{"arrayValue":{"values":[{"intValue":1}],"values":[{},{"bytesValue":"AQ=="}]},
            "kvlistValue":{"values":[{"key":"x","value":null}],"values":[]}}},{"value":{"kvlistValue":{"values":[{"key":"y"}]}}}]"#;
        for fields in [all.into(), format!("{all},{again}"), format!("{again},{all}"), format!("{all},{nested},{again}"), nested.into()] {
            let spans = format!(r#""spans":[{{}},{{{fields}}},{{{fields},{fields}}}]"#);
            for scopes in [
                format!(r#""scopeSpans":[{{{spans}}}]"#),
                format!(r#""resource":{{"attributes":[{{"key":"old"}}]}},"scopeSpans":[{{{spans},"scope":{{"name":"n"}},{spans}}}],"resource":{{"droppedAttributesCount":1}}"#),
            ] {
                check(format!(r#"{{"resourceSpans":[{{{scopes}}},{{}}],"x":[1]}}"#).as_bytes());
                check(format!(r#"{{"resourceSpans":[{{}}],"resourceSpans":[{{{scopes}}}]}}"#).as_bytes());
            }
        }
    }

    #[test]
    fn deep_and_tiny_things_stay_in_their_bounds() {
        for levels in [1, 64, 65, 66, 10_000] {
            let open = r#"{"arrayValue":{"values":["#.repeat(levels);
            let value = format!(r#"{open}{{"stringValue":"x"}}{}"#, "]}}".repeat(levels));
            let span = format!(r#"{{"attributes":[{{"key":"k","value":{value}}}]}}"#);
            let body = format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{span}]}}]}}]}}"#);
            // Deeper than protobuf's own reader goes.
            let decoded = decode(body.as_bytes()).map(|request| request.encode_to_vec());
            assert_eq!(to_protobuf(body.as_bytes()), decoded, "{levels} levels");
        }
        let spans = |span: &str| format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{}]}}]}}]}}"#, vec![span; 5_000].join(","));
        for span in ["{}", r#"{"kind":-1}"#, r#"{"name":"a"}"#, r#"{"flags":1}"#, r#"{"links":[{}]}"#, r#"{"status":{}}"#] {
            let body = spans(span);
            assert!(to_protobuf(body.as_bytes()).unwrap().len() <= protobuf_bytes_max(body.as_bytes()), "{span}");
        }
        let mut bytes = spans(r#"{"name":"?"}"#).into_bytes();
        bytes.iter_mut().filter(|byte| **byte == b'?').for_each(|byte| *byte = 0xff);
        check(&bytes);
    }
}
