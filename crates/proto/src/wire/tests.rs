//! The reader against prost as the judge, and against bytes no encoder writes.

use proptest::{collection::vec, prelude::*};
use prost::Message;

use super::*;
use crate::{arbitrary::request, otlp::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList, any_value::Value as Any},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span},
}};

// What a request holds according to the reader, in prost's types. `Err` is a fault of the whole request.

fn read(request: &[u8]) -> Result<ExportTraceServiceRequest, WireError> {
    let mut out = ExportTraceServiceRequest::default();
    for resource in resource_spans(request) {
        let resource = resource?;
        let mut scope_spans = Vec::new();
        for scope in resource.scopes() {
            let scope = scope?;
            let mut spans = Vec::new();
            for message in scope.spans() {
                if let Ok(span) = SpanView::parse(message?) {
                    spans.push(owned_span(&span));
                }
            }
            scope_spans.push(ScopeSpans {
                scope: Some(InstrumentationScope {
                    name: scope.name.to_string(),
                    version: scope.version.to_string(),
                    attributes: owned_attributes(scope.attributes()),
                    dropped_attributes_count: scope.dropped_attributes_count,
                }),
                spans,
                schema_url: scope.schema_url.to_string(),
            });
        }
        out.resource_spans.push(ResourceSpans {
            resource: Some(Resource {
                attributes: owned_attributes(resource.attributes()),
                dropped_attributes_count: resource.dropped_attributes_count,
            }),
            scope_spans,
            schema_url: resource.schema_url.to_string(),
        });
    }
    Ok(out)
}

fn owned_span(span: &SpanView<'_>) -> Span {
    assert_eq!(span.attributes().count(), span.attribute_count());
    assert_eq!(span.events().count(), span.event_count());
    assert_eq!(span.links().count(), span.link_count());
    Span {
        trace_id: span.trace_id.to_vec(),
        span_id: span.span_id.to_vec(),
        trace_state: span.trace_state.to_string(),
        parent_span_id: span.parent_span_id.to_vec(),
        name: span.name.to_string(),
        kind: span.kind,
        start_time_unix_nano: span.start_time_unix_nano,
        end_time_unix_nano: span.end_time_unix_nano,
        attributes: owned_attributes(span.attributes()),
        dropped_attributes_count: span.dropped_attributes_count,
        events: span.events().map(|event| owned_event(&event)).collect(),
        dropped_events_count: span.dropped_events_count,
        links: span.links().map(|link| owned_link(&link)).collect(),
        dropped_links_count: span.dropped_links_count,
        status: Some(Status { message: span.status_message.to_string(), code: span.status_code }),
        flags: span.flags,
    }
}

fn owned_event(event: &EventView<'_>) -> span::Event {
    span::Event {
        time_unix_nano: event.time_unix_nano,
        name: event.name.to_string(),
        attributes: owned_attributes(event.attributes()),
        dropped_attributes_count: event.dropped_attributes_count,
    }
}

fn owned_link(link: &LinkView<'_>) -> span::Link {
    span::Link {
        trace_id: link.trace_id.to_vec(),
        span_id: link.span_id.to_vec(),
        trace_state: link.trace_state.to_string(),
        attributes: owned_attributes(link.attributes()),
        dropped_attributes_count: link.dropped_attributes_count,
        flags: link.flags,
    }
}

fn owned_attributes(attributes: Attributes<'_>) -> Vec<KeyValue> {
    attributes
        .map(|attribute| {
            let value = owned_value(&attribute.value);
            let raw = without_empty_messages(any_value(attribute.raw));
            assert_eq!(raw.value, value, "the raw bytes are the value's");
            KeyValue { key: attribute.key.into_owned(), value: value.map(|value| AnyValue { value: Some(value) }) }
        })
        .collect()
}

/// The value with an entry's empty `AnyValue` taken for the absent one: to OTLP both say "no value",
/// prost tells them apart, a view does not.
fn without_empty_messages(mut value: AnyValue) -> AnyValue {
    match &mut value.value {
        Some(Any::ArrayValue(array)) => {
            array.values = std::mem::take(&mut array.values).into_iter().map(without_empty_messages).collect();
        }
        Some(Any::KvlistValue(map)) => {
            for entry in &mut map.values {
                entry.value = entry.value.take().map(without_empty_messages).filter(|value| value.value.is_some());
            }
        }
        _ => {}
    }
    value
}

fn owned_value(value: &Value<'_>) -> Option<Any> {
    Some(match value {
        Value::Empty => return None,
        Value::String(text) => Any::StringValue(text.to_string()),
        Value::Bool(value) => Any::BoolValue(*value),
        Value::Int(value) => Any::IntValue(*value),
        Value::Double(value) => Any::DoubleValue(*value),
        Value::Bytes(bytes) => Any::BytesValue(bytes.to_vec()),
        Value::Array(array) => Any::ArrayValue(ArrayValue {
            values: array_values(array).map(|value| AnyValue { value: owned_value(&value) }).collect(),
        }),
        Value::Map(map) => Any::KvlistValue(KeyValueList { values: owned_attributes(map_entries(map)) }),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn reads_what_prost_wrote(request in request()) {
        prop_assert_eq!(read(&request.encode_to_vec()), Ok(request));
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        let _ = read(&bytes);
        let _ = SpanView::parse(&bytes);
        let _ = any_value(&bytes);
    }

    #[test]
    fn a_flipped_bit_never_panics(request in request(), at in any::<prop::sample::Index>()) {
        let mut bytes = request.encode_to_vec();
        if !bytes.is_empty() {
            let bit = at.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let _ = read(&bytes);
        }
    }

    /// A request cut anywhere is an error, except at the end of a resource: then it is a shorter request.
    #[test]
    fn a_cut_request_is_refused(request in request()) {
        let bytes = request.encode_to_vec();
        for length in 0..bytes.len() {
            let whole = (0..request.resource_spans.len()).find(|count| {
                let resource_spans = request.resource_spans[..*count].to_vec();
                ExportTraceServiceRequest { resource_spans }.encoded_len() == length
            });
            match whole {
                Some(count) => prop_assert_eq!(read(&bytes[..length]).unwrap().resource_spans.len(), count),
                None => prop_assert_eq!(read(&bytes[..length]), Err(WireError::Truncated)),
            }
        }
    }
}

// Bytes by hand.

fn field(number: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_varint(u64::from(number) << 3 | 2, &mut out);
    prost::encoding::encode_varint(payload.len() as u64, &mut out);
    out.extend_from_slice(payload);
    out
}

fn valid_span(more: &[u8]) -> Vec<u8> {
    [field(1, &[1; 16]), field(2, &[2; 8]), more.to_vec()].concat()
}

fn fault(span: &[u8]) -> &'static str {
    SpanView::parse(span).err().map_or("accepted", |fault| fault.reason())
}

/// A value inside this many arrays (or maps, by turns if `mixed`).
fn nested(levels: usize, mixed: bool) -> Vec<u8> {
    let mut value = field(1, b"x");
    for level in 0..levels {
        value = match mixed && level % 2 == 0 {
            false => field(5, &field(1, &value)),
            true => field(6, &field(1, &[field(1, b"k"), field(2, &value)].concat())),
        };
    }
    value
}

fn depth(value: &AnyValue) -> usize {
    match &value.value {
        Some(Any::ArrayValue(array)) => 1 + array.values.iter().map(depth).max().unwrap_or(0),
        Some(Any::KvlistValue(map)) => {
            1 + map.values.iter().filter_map(|entry| entry.value.as_ref()).map(depth).max().unwrap_or(0)
        }
        _ => 0,
    }
}

#[test]
fn nesting_is_bounded() {
    for mixed in [false, true] {
        let span_with = |levels| {
            let key_value = [field(1, b"deep"), field(2, &nested(levels, mixed))].concat();
            valid_span(&field(9, &key_value))
        };
        for (levels, answer) in [(64, "accepted"), (65, "attribute_too_deep"), (10_000, "attribute_too_deep")] {
            assert_eq!(fault(&span_with(levels)), answer, "{levels} levels");
        }
        let span = span_with(64);
        let attribute = SpanView::parse(&span).unwrap().attributes().next().unwrap();
        assert_eq!(depth(&any_value(attribute.raw)), 64, "read whole, though prost would refuse it");
        assert_eq!(depth(&any_value(&nested(10_000, mixed))), 64);
    }
}

#[test]
fn too_deep_attributes_of_a_resource_are_left_out_and_counted() {
    let deep = field(1, &[field(1, b"deep"), field(2, &nested(65, false))].concat());
    let flat = field(1, &[field(1, b"flat"), field(2, &field(1, b"x"))].concat());
    let resource = [deep, flat, vec![2 << 3, 5]].concat();
    let request = field(1, &field(1, &resource));
    let view = resource_spans(&request).next().unwrap().unwrap();
    let keys: Vec<_> = view.attributes().map(|attribute| attribute.key.into_owned()).collect();
    assert_eq!((keys, view.dropped_attributes_count), (vec!["flat".to_owned()], 6));
}

#[test]
fn resource_and_scope_may_follow_the_spans() {
    let span = field(2, &valid_span(&field(5, b"GET")));
    let scope = field(1, &field(1, b"library"));
    let resource = field(1, &field(1, &[field(1, b"service.name"), field(2, &field(1, b"shop"))].concat()));
    let request = field(1, &[field(2, &[span, scope].concat()), resource].concat());
    let read = read(&request).unwrap();
    let resource = &read.resource_spans[0];
    assert_eq!(resource.resource.as_ref().unwrap().attributes[0].key, "service.name");
    assert_eq!(resource.scope_spans[0].scope.as_ref().unwrap().name, "library");
    assert_eq!(resource.scope_spans[0].spans[0].name, "GET");
}

#[test]
fn invalid_utf8_is_repaired() {
    let key_value = [field(1, b"k\xff"), field(2, &field(1, b"a\xc0\x80b"))].concat();
    let span = valid_span(&[field(5, b"GET \xf0\x9f"), field(9, &key_value)].concat());
    let span = SpanView::parse(&span).unwrap();
    assert_eq!(span.name, "GET \u{fffd}");
    let attribute = span.attributes().next().unwrap();
    assert_eq!(attribute.key, "k\u{fffd}");
    assert_eq!(attribute.value, Value::String("a\u{fffd}\u{fffd}b".into()));
    assert_eq!(any_value(attribute.raw).value, Some(Any::StringValue("a\u{fffd}\u{fffd}b".into())));
}

#[test]
fn ids_are_checked() {
    let span = |trace: &[u8], id: &[u8], parent: &[u8]| [field(1, trace), field(2, id), field(4, parent)].concat();
    for (trace, id, parent, answer) in [
        (&[1; 16][..], &[1; 8][..], &[][..], "accepted"),
        (&[1; 16], &[1; 8], &[1; 8], "accepted"),
        (&[1; 16], &[1; 8], &[0; 8], "accepted"),
        (&[], &[1; 8], &[], "invalid_trace_id"),
        (&[1; 8], &[1; 8], &[], "invalid_trace_id"),
        (&[1; 17], &[1; 8], &[], "invalid_trace_id"),
        (&[0; 16], &[1; 8], &[], "invalid_trace_id"),
        (&[1; 16], &[], &[], "invalid_span_id"),
        (&[1; 16], &[1; 7], &[], "invalid_span_id"),
        (&[1; 16], &[0; 8], &[], "invalid_span_id"),
        (&[1; 16], &[1; 8], &[1; 4], "accepted"),
    ] {
        assert_eq!(fault(&span(trace, id, parent)), answer, "{trace:?} {id:?} {parent:?}");
    }
    for (parent, read) in [(&[0; 8][..], &[][..]), (&[1; 8], &[1; 8]), (&[1; 4], &[1; 4])] {
        let span = span(&[1; 16], &[1; 8], parent);
        assert_eq!(SpanView::parse(&span).unwrap().parent_span_id, read);
    }
}

#[test]
fn what_protobuf_allows_is_accepted() {
    let status = |code: u8| field(15, &[3 << 3, code]);
    // An unknown field of each wire type, an unknown enum value, and fields twice: the last counts.
    let unknown = [field(17, b"??"), vec![0x90, 1, 7], vec![0x9d, 1, 0, 0, 0, 0], vec![0xa1, 1, 0, 0, 0, 0, 0, 0, 0, 0]];
    let more = [unknown.concat(), vec![6 << 3, 99], field(5, b"a"), field(5, b"b"), status(42), status(2)].concat();
    let bytes = valid_span(&more);
    let span = SpanView::parse(&bytes).unwrap();
    assert_eq!((span.kind, span.name.as_ref(), span.status_code), (0, "b", 2));
    let bytes = valid_span(&status(42));
    assert_eq!(SpanView::parse(&bytes).unwrap().status_code, 0);
    assert_eq!(read(&[]), Ok(ExportTraceServiceRequest::default()));
}

#[test]
fn what_protobuf_forbids_is_refused() {
    for (bytes, error) in [
        (&[0x00, 0x00][..], WireError::FieldNumber),
        (&[0x80, 0x80, 0x80, 0x80, 0x10, 0x00], WireError::FieldNumber),
        (&[0x0b, 0x0c], WireError::Group(1)),
        (&[0x14], WireError::Group(2)),
        (&[0x0e], WireError::Group(1)),
        (&[0x08, 0x01], WireError::WireType(1)),
        (&[0x0a, 0x05, 0x00], WireError::Truncated),
        (&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], WireError::Truncated),
        (&[0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02], WireError::Varint),
        (&[0x10, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00], WireError::Varint),
        (&[0x80], WireError::Truncated),
    ] {
        assert_eq!(read(bytes), Err(error), "{bytes:x?}");
        // Inside a span the same costs the span only.
        let request = field(1, &field(2, &field(2, &[valid_span(&[]), bytes.to_vec()].concat())));
        if !matches!(error, WireError::WireType(_)) && bytes[0] != 0x0a {
            assert_eq!(read(&request).map(|read| read.resource_spans[0].scope_spans[0].spans.len()), Ok(0), "{bytes:x?}");
        }
    }
    let wrong_type_of_name = valid_span(&[5 << 3, 1]);
    assert_eq!(fault(&wrong_type_of_name), "malformed");
}
