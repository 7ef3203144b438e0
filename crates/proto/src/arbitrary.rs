//! Random requests that an exporter could send.

use proptest::{collection::vec, prelude::*};

use crate::otlp::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList, any_value::Value as Any},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span},
};

fn any_owned_value() -> impl Strategy<Value = AnyValue> {
    let leaf = prop_oneof![
        ".{0,12}".prop_map(Any::StringValue),
        any::<bool>().prop_map(Any::BoolValue),
        any::<i64>().prop_map(Any::IntValue),
        any::<f64>().prop_map(Any::DoubleValue),
        vec(any::<u8>(), 0..12).prop_map(Any::BytesValue),
    ];
    let leaf = leaf.prop_map(|value| AnyValue { value: Some(value) });
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|values| Any::ArrayValue(ArrayValue { values })),
            vec(key_value(inner), 0..4).prop_map(|values| Any::KvlistValue(KeyValueList { values })),
        ]
        .prop_map(|value| AnyValue { value: Some(value) })
    })
}

fn key_value(value: impl Strategy<Value = AnyValue>) -> impl Strategy<Value = KeyValue> {
    (".{0,8}", proptest::option::weighted(0.9, value)).prop_map(|(key, value)| KeyValue { key, value })
}

fn attributes() -> impl Strategy<Value = Vec<KeyValue>> {
    vec(key_value(any_owned_value()), 0..4)
}

fn id(length: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(1u8.., length)
}

fn event() -> impl Strategy<Value = span::Event> {
    (any::<u64>(), ".{0,8}", attributes(), any::<u32>()).prop_map(
        |(time_unix_nano, name, attributes, dropped_attributes_count)| span::Event {
            time_unix_nano,
            name,
            attributes,
            dropped_attributes_count,
        },
    )
}

fn link() -> impl Strategy<Value = span::Link> {
    (vec(any::<u8>(), 0..20), vec(any::<u8>(), 0..10), ".{0,8}", attributes(), any::<u32>(), any::<u32>()).prop_map(
        |(trace_id, span_id, trace_state, attributes, dropped_attributes_count, flags)| span::Link {
            trace_id,
            span_id,
            trace_state,
            attributes,
            dropped_attributes_count,
            flags,
        },
    )
}

fn span() -> impl Strategy<Value = Span> {
    (
        (id(16), id(8), prop_oneof![Just(Vec::new()), id(8)], ".{0,8}", ".{0,200}"),
        (0..6i32, any::<u64>(), any::<u64>(), any::<u32>(), any::<[u32; 3]>()),
        (attributes(), vec(event(), 0..3), vec(link(), 0..3)),
        (".{0,8}", 0..3i32),
    )
        .prop_map(|(ids, numbers, lists, status)| {
            let (trace_id, span_id, parent_span_id, trace_state, name) = ids;
            let (kind, start_time_unix_nano, end_time_unix_nano, flags, dropped) = numbers;
            let (attributes, events, links) = lists;
            Span {
                trace_id,
                span_id,
                trace_state,
                parent_span_id,
                name,
                kind,
                start_time_unix_nano,
                end_time_unix_nano,
                attributes,
                dropped_attributes_count: dropped[0],
                events,
                dropped_events_count: dropped[1],
                links,
                dropped_links_count: dropped[2],
                status: Some(Status { message: status.0, code: status.1 }),
                flags,
            }
        })
}

fn scope_spans() -> impl Strategy<Value = ScopeSpans> {
    (".{0,8}", ".{0,8}", attributes(), any::<u32>(), vec(span(), 0..4), ".{0,8}").prop_map(
        |(name, version, attributes, dropped_attributes_count, spans, schema_url)| ScopeSpans {
            scope: Some(InstrumentationScope { name, version, attributes, dropped_attributes_count }),
            spans,
            schema_url,
        },
    )
}

pub(crate) fn request() -> impl Strategy<Value = ExportTraceServiceRequest> {
    let resource = (attributes(), any::<u32>(), vec(scope_spans(), 0..3), ".{0,8}").prop_map(
        |(attributes, dropped_attributes_count, scope_spans, schema_url)| ResourceSpans {
            resource: Some(Resource { attributes, dropped_attributes_count }),
            scope_spans,
            schema_url,
        },
    );
    vec(resource, 0..3).prop_map(|resource_spans| ExportTraceServiceRequest { resource_spans })
}
