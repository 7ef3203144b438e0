//! OTLP → Jaeger → OTLP gives the trace again, but for what Jaeger cannot hold.

use base64::{Engine, engine::general_purpose::STANDARD};
use proptest::prelude::*;
use prost::Message;
use proto::otlp::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::{Span, TracesData, span::Link},
};
use translate::{
    NO_SERVICE_NAME,
    jaeger::{self, Protocol},
};

use crate::{
    old_forms,
    otlp::{Alone, spans, spans_of, text, trace},
    thrift_writer::{V, binary, call},
};

fn json(value: Option<&Value>) -> serde_json::Value {
    let inner = |value: &AnyValue| json(value.value.as_ref());
    match value {
        None => serde_json::Value::Null,
        Some(Value::StringValue(text)) => text.as_str().into(),
        Some(Value::BoolValue(value)) => (*value).into(),
        Some(Value::IntValue(value)) => (*value).into(),
        Some(Value::DoubleValue(value)) => (*value).into(),
        Some(Value::BytesValue(bytes)) => STANDARD.encode(bytes).into(),
        Some(Value::ArrayValue(array)) => array.values.iter().map(inner).collect(),
        Some(Value::KvlistValue(list)) => {
            let pairs = list.values.iter().map(|pair| (pair.key.clone(), pair.value.as_ref().map_or(serde_json::Value::Null, inner)));
            serde_json::Value::Object(pairs.collect())
        }
    }
}

/// Jaeger's tags hold neither arrays nor maps nor nothing.
fn flat(attributes: &mut [KeyValue]) {
    for attribute in attributes {
        let value = attribute.value.as_ref().and_then(|value| value.value.as_ref());
        let text = match value {
            None => String::new(),
            Some(Value::ArrayValue(_) | Value::KvlistValue(_)) => json(value).to_string(),
            Some(_) => continue,
        };
        attribute.value = Some(AnyValue { value: Some(Value::StringValue(text)) });
    }
}

fn expected((mut resource, mut scope, mut span): Alone) -> Alone {
    if resource.attributes.iter().all(|attribute| attribute.key != "service.name") {
        resource.attributes.insert(0, text("service.name", NO_SERVICE_NAME));
    }
    flat(&mut resource.attributes);
    flat(&mut scope.attributes);
    flat(&mut span.attributes);
    for event in &mut span.events {
        flat(&mut event.attributes);
    }
    // A reference is two ids.
    let bare = |link: &Link| Link { trace_id: link.trace_id.clone(), span_id: link.span_id.clone(), ..Link::default() };
    span.links = span.links.iter().map(bare).collect();
    // What Jaeger has no place for.
    scope.dropped_attributes_count = 0;
    span.flags &= 1;
    span.status.get_or_insert_default();
    (resource, scope, span)
}

fn there_and_back(trace: &TracesData) -> Vec<Alone> {
    spans_of(&jaeger::requests(&jaeger::batches(trace)).unwrap().concat())
}

proptest! {
    #[test]
    fn a_trace_comes_back(trace in trace()) {
        let expected: Vec<Alone> = spans(&trace).into_iter().map(expected).collect();
        prop_assert_eq!(there_and_back(&trace), expected);
    }

    #[test]
    fn spans_alone_come_back(trace in trace()) {
        let mut requests = vec![];
        for batch in jaeger::batches(&trace) {
            for span in &batch.spans {
                let alone = jaeger::Span { process: span.process.clone().or(batch.process.clone()), ..span.clone() };
                requests.extend(jaeger::request_of_span(&alone.encode_to_vec()).unwrap());
            }
        }
        prop_assert_eq!(spans_of(&requests), there_and_back(&trace));
    }

    #[test]
    fn the_json_of_the_query_api_comes_back(trace in trace()) {
        let batches = jaeger::batches(&trace);
        let Some(json) = jaeger::write_json(&batches) else {
            prop_assert!(batches.is_empty());
            return Ok(());
        };
        let read = jaeger::read_json(json.to_string().as_bytes()).unwrap();
        let expected: Vec<Alone> = spans(&trace).into_iter().map(expected).map(micros).collect();
        prop_assert_eq!(spans_of(&jaeger::requests(&read).unwrap().concat()), expected);
    }

    #[test]
    fn thrift_in_both_protocols_comes_back(trace in trace()) {
        let batches = jaeger::batches(&trace);
        let expected: Vec<Alone> = spans(&trace).into_iter().map(expected).map(micros).collect();
        let read = |one: &dyn Fn(V) -> Vec<u8>| {
            let requests: Vec<Vec<u8>> = batches.iter().map(|batch| one(old_forms::jaeger(batch))).collect();
            spans_of(&requests.concat())
        };
        prop_assert_eq!(&read(&|batch| jaeger::request_of_thrift(&binary(&batch)).unwrap()), &expected);
        for (protocol, compact) in [(Protocol::Compact, true), (Protocol::Binary, false)] {
            let agent = |batch| jaeger::request_of_agent(protocol, &call(compact, "emitBatch", batch), 1).unwrap();
            prop_assert_eq!(&read(&agent), &expected, "{:?}", protocol);
        }
    }
}

/// As formats hold it that count microseconds.
fn micros((resource, scope, mut span): Alone) -> Alone {
    let duration = (span.end_time_unix_nano - span.start_time_unix_nano) / 1000 * 1000;
    span.start_time_unix_nano = span.start_time_unix_nano / 1000 * 1000;
    span.end_time_unix_nano = span.start_time_unix_nano + duration;
    for event in &mut span.events {
        event.time_unix_nano = event.time_unix_nano / 1000 * 1000;
    }
    (resource, scope, span)
}

fn with(change: impl FnOnce(&mut Span)) -> Span {
    let mut span = Span {
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        parent_span_id: vec![3; 8],
        status: Some(Default::default()),
        ..Span::default()
    };
    change(&mut span);
    span
}

fn trace_of(span: Span) -> TracesData {
    let scope_spans = proto::otlp::trace::v1::ScopeSpans {
        scope: Some(Default::default()),
        spans: vec![span],
        ..Default::default()
    };
    let resource_spans = proto::otlp::trace::v1::ResourceSpans {
        resource: Some(Default::default()),
        scope_spans: vec![scope_spans],
        ..Default::default()
    };
    TracesData { resource_spans: vec![resource_spans] }
}

fn check(span: Span) {
    let back: Vec<Span> = there_and_back(&trace_of(span.clone())).into_iter().map(|(_, _, span)| span).collect();
    assert_eq!(back, [span]);
}

#[test]
fn a_link_to_the_parent_stays_a_link() {
    let link = |span_id: u8| Link { trace_id: vec![1; 16], span_id: vec![span_id; 8], ..Link::default() };
    check(with(|span| span.links = vec![link(3)]));
    check(with(|span| span.links = vec![link(4), link(3)]));
    check(with(|span| span.links = vec![Link { attributes: vec![text("opentracing.ref_type", "child_of")], ..link(4) }]));
    check(with(|span| span.links = vec![Link { attributes: vec![text("opentracing.ref_type", "follows_from")], ..link(3) }]));
}

/// Readers of Jaeger's JSON look for the parent among the references CHILD_OF.
#[test]
fn a_link_to_the_parent_does_not_hide_the_parent() {
    let link = Link { trace_id: vec![1; 16], span_id: vec![3; 8], ..Link::default() };
    let batches = jaeger::batches(&trace_of(with(|span| span.links = vec![link])));
    let json = jaeger::write_json(&batches).unwrap();
    let kinds: Vec<&str> = json["spans"][0]["references"].as_array().unwrap().iter().map(|r| r["refType"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["CHILD_OF", "FOLLOWS_FROM"]);
}

#[test]
fn a_span_that_only_follows_from_its_parent_comes_back() {
    let reference = |span_id: u8| jaeger::SpanRef {
        trace_id: vec![1; 16],
        span_id: vec![span_id; 8],
        ref_type: jaeger::RefType::FollowsFrom.into(),
    };
    let span = jaeger::Span {
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        references: vec![reference(3), reference(4)],
        start_time: Some(Default::default()),
        duration: Some(Default::default()),
        ..Default::default()
    };
    let process = Some(jaeger::Process { service_name: "shop".into(), tags: vec![] });
    let batches = [jaeger::Batch { spans: vec![span], process }];
    let request = jaeger::requests(&batches).unwrap().concat();
    let trace = <TracesData as prost::Message>::decode(request.as_slice()).unwrap();
    assert_eq!(jaeger::batches(&trace), batches);
}

#[test]
fn flags_and_warnings_of_jaeger_come_back() {
    let mut batch = jaeger::batches(&TracesData::default());
    assert!(batch.is_empty());
    let span = jaeger::Span {
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        flags: 3,
        warnings: vec!["clock skew".into()],
        start_time: Some(Default::default()),
        duration: Some(Default::default()),
        ..Default::default()
    };
    let process = Some(jaeger::Process { service_name: "shop".into(), tags: vec![] });
    batch.push(jaeger::Batch { spans: vec![span], process });
    let request = jaeger::requests(&batch).unwrap().concat();
    let trace = <TracesData as prost::Message>::decode(request.as_slice()).unwrap();
    assert_eq!(jaeger::batches(&trace), batch);
}

/// An end before the start is no duration: it comes back as the start.
#[test]
fn an_end_before_the_start_becomes_the_start() {
    let span = with(|span| (span.start_time_unix_nano, span.end_time_unix_nano) = (5_000, 2_000));
    let (_, _, back) = there_and_back(&trace_of(span)).remove(0);
    assert_eq!((back.start_time_unix_nano, back.end_time_unix_nano), (5_000, 5_000));
}

#[test]
fn the_ends_of_numbers_and_times_come_back() {
    use proto::otlp::trace::v1::span::Event;
    let number = |key: &str, value: Value| KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }) };
    check(with(|span| {
        (span.start_time_unix_nano, span.end_time_unix_nano) = (1, u64::MAX);
        span.events = vec![Event { time_unix_nano: u64::MAX, ..Event::default() }];
        span.attributes = vec![
            number("least", Value::IntValue(i64::MIN)),
            number("most", Value::IntValue(i64::MAX)),
            number("infinite", Value::DoubleValue(f64::NEG_INFINITY)),
            number("smallest", Value::DoubleValue(f64::MIN_POSITIVE)),
            number("empty", Value::BytesValue(vec![])),
        ];
        span.dropped_events_count = u32::MAX;
    }));
}
