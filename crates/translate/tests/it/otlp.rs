//! Random traces, and spans apart from the groups in which they stand.

use prost::Message;
use proptest::{
    collection::{btree_map, vec},
    option,
    prelude::*,
};
use proto::otlp::{
    common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status, TracesData, span},
};

pub type Alone = (Resource, InstrumentationScope, Span);

/// The spans of the bytes of a request, each with its resource and scope.
pub fn spans_of(request: &[u8]) -> Vec<Alone> {
    spans(&TracesData::decode(request).expect("an OTLP request"))
}

pub fn spans(trace: &TracesData) -> Vec<Alone> {
    let mut all = vec![];
    for resource in &trace.resource_spans {
        for scope in &resource.scope_spans {
            for span in &scope.spans {
                all.push((resource.resource.clone().unwrap_or_default(), scope.scope.clone().unwrap_or_default(), span.clone()));
            }
        }
    }
    all
}

pub fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

pub fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }) }
}

fn value() -> impl Strategy<Value = AnyValue> {
    let leaf = prop_oneof![
        ".{0,12}".prop_map(Value::StringValue),
        any::<bool>().prop_map(Value::BoolValue),
        any::<i64>().prop_map(Value::IntValue),
        // Numbers whose decimal text is exact.
        any::<i32>().prop_map(|number| Value::DoubleValue(f64::from(number) / 4.0)),
        vec(any::<u8>(), 0..12).prop_map(Value::BytesValue),
    ];
    let leaf = option::weighted(0.95, leaf).prop_map(|value| AnyValue { value });
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(|values| Value::ArrayValue(ArrayValue { values })),
            keyed("[a-z]{1,4}", inner).prop_map(|values| Value::KvlistValue(KeyValueList { values })),
        ]
        .prop_map(|value| AnyValue { value: Some(value) })
    })
}

/// Keys differ, because maps are all that some formats have.
fn keyed(keys: &'static str, value: impl Strategy<Value = AnyValue>) -> impl Strategy<Value = Vec<KeyValue>> {
    let pairs = btree_map(keys, value, 0..4);
    pairs.prop_map(|pairs| pairs.into_iter().map(|(key, value)| KeyValue { key, value: Some(value) }).collect())
}

/// Some keys twice, and some without a value: lists of attributes hold both, though they should not.
fn listed(keys: &'static str, value: impl Strategy<Value = AnyValue>) -> impl Strategy<Value = Vec<KeyValue>> {
    (keyed(keys, value), 0..8u8).prop_map(|(mut attributes, choice)| {
        if let Some(first) = attributes.first().cloned().filter(|_| choice < 2) {
            let value = (choice == 0).then(|| AnyValue { value: Some(Value::StringValue("again".into())) });
            attributes.push(KeyValue { value, ..first });
        }
        attributes
    })
}

fn id(length: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(1u8.., length)
}

fn event() -> impl Strategy<Value = span::Event> {
    ("(|.{1,8}|\"x\": \\{\\})", any::<u64>(), keyed("(event|message|[a-z]{1,6})", value()), 0..3u32).prop_map(
        |(name, time_unix_nano, attributes, dropped_attributes_count)| span::Event {
            time_unix_nano,
            name,
            attributes,
            dropped_attributes_count,
        },
    )
}

fn link() -> impl Strategy<Value = span::Link> {
    (id(16), id(8), "(|[a-z]{1,4}=[a-z|]{1,4})", keyed("[a-z]{1,6}", value()), 0..3u32, any::<u32>()).prop_map(
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

const SECOND: u64 = 1_000_000_000;

fn one_span() -> impl Strategy<Value = Span> {
    let ids = (id(16), id(8), prop_oneof![Just(vec![]), id(8)]);
    let times = (SECOND..u64::MAX / 4, 0..100 * SECOND);
    let texts = ("(|.{1,10})", "(|[a-z]{1,4}=[a-z]{1,4})");
    let lists = (listed("(error|[a-z]{1,6}|s\\.[a-z]{1,3})", value()), vec(event(), 0..3), vec(link(), 0..3));
    let status = option::weighted(0.8, (0..3i32, "(|true|.{1,8})"));
    let rest = (0..6i32, any::<u32>(), (0..3u32, 0..3u32, 0..3u32));
    (ids, times, texts, lists, status, rest).prop_map(|(ids, times, texts, lists, status, rest)| {
        let (kind, flags, dropped) = rest;
        let (mut attributes, events, links) = lists;
        // A span that is an error has no room for an attribute that says so.
        attributes.retain(|attribute| status.as_ref().is_none_or(|(code, _)| *code != 2) || attribute.key != "error");
        Span {
            trace_id: ids.0,
            span_id: ids.1,
            parent_span_id: ids.2,
            name: texts.0,
            trace_state: texts.1,
            kind,
            flags,
            start_time_unix_nano: times.0,
            end_time_unix_nano: times.0 + times.1,
            attributes,
            events,
            links,
            dropped_attributes_count: dropped.0,
            dropped_events_count: dropped.1,
            dropped_links_count: dropped.2,
            status: status.map(|(code, message)| Status { code, message }),
        }
    })
}

pub fn trace() -> impl Strategy<Value = TracesData> {
    let scope = ("(|[a-z]{1,6})", "(|[0-9.]{1,4})", keyed("s[a-z]{1,3}", value()), 0..3u32).prop_map(
        |(name, version, attributes, dropped_attributes_count)| InstrumentationScope {
            name,
            version,
            attributes,
            dropped_attributes_count,
        },
    );
    let scope_spans = (option::weighted(0.8, scope), vec(one_span(), 0..4), "(|[a-z]{1,3}:)")
        .prop_map(|(scope, spans, schema_url)| ScopeSpans { scope, spans, schema_url });
    let resource = ("(|[a-z]{1,6})", listed("r\\.[a-z]{1,3}", value()), 0..3u32).prop_map(
        |(service, mut attributes, dropped_attributes_count)| {
            if !service.is_empty() {
                attributes.insert(0, text("service.name", &service));
            }
            Resource { attributes, dropped_attributes_count }
        },
    );
    let resource_spans = (option::weighted(0.8, resource), vec(scope_spans, 0..3), "(|[a-z]{1,3}:)")
        .prop_map(|(resource, scope_spans, schema_url)| ResourceSpans { resource, scope_spans, schema_url });
    vec(resource_spans, 0..4).prop_map(|resource_spans| TracesData { resource_spans })
}
