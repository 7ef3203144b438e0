//! OTLP → Zipkin → OTLP and Zipkin → OTLP → Zipkin.

use std::net::{Ipv4Addr, Ipv6Addr};

use base64::{Engine, engine::general_purpose::STANDARD};
use model::{SpanId, TraceId};
use prost::Message;
use proptest::{
    collection::{btree_map, vec},
    option,
    prelude::*,
};
use proto::otlp::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::TracesData,
};
use translate::{
    NO_SERVICE_NAME,
    zipkin::{self, Annotation, Endpoint, Format, Kind, Span},
};

use crate::{
    old_forms,
    otlp::{Alone, attribute, spans, spans_of, text, trace},
    thrift_writer::binary,
};

const RECEIVED: u64 = 1_700_000_000_123_456_789;

fn written(spans: &[Span]) -> [(Format, Vec<u8>); 2] {
    [
        (Format::JsonV2, zipkin::write_json(spans).to_string().into_bytes()),
        (Format::ProtobufV2, zipkin::write_protobuf(spans)),
    ]
}

/// A value as JSON holds it: no bytes.
fn plain(value: &AnyValue) -> AnyValue {
    let value = value.value.clone().map(|value| match value {
        Value::BytesValue(bytes) => Value::StringValue(STANDARD.encode(bytes)),
        Value::ArrayValue(mut array) => {
            array.values = array.values.iter().map(plain).collect();
            Value::ArrayValue(array)
        }
        Value::KvlistValue(mut list) => {
            plain_all(&mut list.values);
            Value::KvlistValue(list)
        }
        other => other,
    });
    AnyValue { value }
}

fn plain_all(attributes: &mut [KeyValue]) {
    for attribute in attributes {
        attribute.value = attribute.value.as_ref().map(plain);
    }
}

fn json(value: &AnyValue) -> String {
    fn any(value: &AnyValue) -> serde_json::Value {
        match plain(value).value {
            None => serde_json::Value::Null,
            Some(Value::StringValue(text)) => text.into(),
            Some(Value::BoolValue(value)) => value.into(),
            Some(Value::IntValue(value)) => value.into(),
            Some(Value::DoubleValue(value)) => value.into(),
            Some(Value::BytesValue(_)) => unreachable!("made plain"),
            Some(Value::ArrayValue(array)) => array.values.iter().map(any).collect(),
            Some(Value::KvlistValue(list)) => serde_json::Value::Object(
                list.values.iter().map(|pair| (pair.key.clone(), any(pair.value.as_ref().unwrap()))).collect(),
            ),
        }
    }
    any(value).to_string()
}

/// Tags are texts, and one key has one.
fn as_texts(attributes: &mut Vec<KeyValue>) {
    let mut seen = std::collections::HashSet::new();
    attributes.retain(|attribute| seen.insert(attribute.key.clone()));
    for attribute in attributes {
        let any = attribute.value.clone().unwrap_or_default();
        let text = match &any.value {
            None => String::new(),
            Some(Value::StringValue(text)) => text.clone(),
            Some(Value::DoubleValue(number)) => number.to_string(),
            Some(Value::BytesValue(bytes)) => STANDARD.encode(bytes),
            Some(_) => json(&any),
        };
        attribute.value = Some(AnyValue { value: Some(Value::StringValue(text)) });
    }
}

fn expected((mut resource, mut scope, mut span): Alone) -> Alone {
    let service = resource.attributes.iter().position(|attribute| attribute.key == "service.name");
    let service = service.map_or_else(|| text("service.name", NO_SERVICE_NAME), |at| resource.attributes.remove(at));
    // Zipkin has no resource: its attributes become tags.
    span.attributes.append(&mut resource.attributes);
    as_texts(&mut span.attributes);
    as_texts(&mut scope.attributes);
    for event in &mut span.events {
        plain_all(&mut event.attributes);
        event.dropped_attributes_count = 0;
        event.time_unix_nano = event.time_unix_nano / 1000 * 1000;
    }
    for link in &mut span.links {
        plain_all(&mut link.attributes);
        link.flags = 0;
    }
    // What Zipkin has no place for.
    scope.dropped_attributes_count = 0;
    span.flags = 0;
    span.status.get_or_insert_default();
    let nanos = span.end_time_unix_nano - span.start_time_unix_nano;
    let duration = if nanos == 0 { 0 } else { (nanos / 1000).max(1) * 1000 };
    span.start_time_unix_nano = span.start_time_unix_nano / 1000 * 1000;
    span.end_time_unix_nano = span.start_time_unix_nano + duration;
    (Resource { attributes: vec![service], dropped_attributes_count: 0 }, scope, span)
}

/// A map has no order.
fn sorted(alone: &[Alone]) -> Vec<Alone> {
    let mut alone = alone.to_vec();
    for (_, scope, span) in &mut alone {
        span.attributes.sort_by(|a, b| a.key.cmp(&b.key));
        scope.attributes.sort_by(|a, b| a.key.cmp(&b.key));
    }
    alone
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    ("(|[a-z]{1,6})", option::of(any::<u32>()), option::of(any::<u128>()), any::<u16>()).prop_map(
        |(service_name, ipv4, ipv6, port)| Endpoint {
            service_name,
            ipv4: ipv4.map(Ipv4Addr::from),
            ipv6: ipv6.map(Ipv6Addr::from),
            port,
        },
    )
}

fn zipkin_span() -> impl Strategy<Value = Span> {
    let ids = (1u128.., option::of(1u64..), 1u64..);
    let kind = option::of(prop::sample::select(vec![Kind::Client, Kind::Server, Kind::Producer, Kind::Consumer]));
    let times = (0..1u64 << 53, 0..1u64 << 53);
    let annotation = (1..1u64 << 53, ".{0,8}").prop_map(|(timestamp, value)| Annotation { timestamp, value });
    let lists = (vec(annotation, 0..3), btree_map("[a-z]{1,4}\\.x", ".{0,8}", 0..4));
    (ids, kind, "(|.{1,8})", times, endpoint(), endpoint(), lists, any::<(bool, bool)>()).prop_map(
        |((trace_id, parent_id, id), kind, name, times, local_endpoint, remote_endpoint, lists, flags)| Span {
            trace_id: TraceId::from(trace_id),
            parent_id: parent_id.map(|id| SpanId(id.to_be_bytes())),
            id: SpanId(id.to_be_bytes()),
            kind,
            name,
            timestamp: times.0,
            duration: times.1,
            local_endpoint,
            remote_endpoint,
            annotations: lists.0,
            tags: lists.1.into_iter().collect(),
            debug: flags.0,
            shared: flags.1,
        },
    )
}

proptest! {
    #[test]
    fn a_trace_comes_back(trace in trace()) {
        let expected: Vec<Alone> = spans(&trace).into_iter().map(expected).collect();
        for (format, body) in written(&zipkin::spans(&trace)) {
            let back = spans_of(&zipkin::request(format, &body, RECEIVED).unwrap());
            prop_assert_eq!(sorted(&back), sorted(&expected), "{:?}", format);
        }
    }

    #[test]
    fn a_trace_comes_back_from_version_1(trace in trace()) {
        let expected: Vec<Alone> = spans(&trace).into_iter().map(expected).collect();
        let spans = zipkin::spans(&trace);
        for (format, body) in [(Format::JsonV1, old_forms::zipkin_json(&spans)), (Format::ThriftV1, binary(&old_forms::zipkin_thrift(&spans)))] {
            let back = spans_of(&zipkin::request(format, &body, RECEIVED).unwrap());
            prop_assert_eq!(sorted(&back), sorted(&expected), "{:?}", format);
        }
    }

    #[test]
    fn zipkin_spans_come_back(given in vec(zipkin_span(), 0..4)) {
        for (format, body) in written(&given) {
            let mut read = vec![];
            zipkin::read(format, &body, &mut |span| read.push(span)).unwrap();
            prop_assert_eq!(&read, &given, "{:?} as such", format);
            let request = zipkin::request(format, &body, RECEIVED).unwrap();
            let mut back = zipkin::spans(&TracesData::decode(request.as_slice()).unwrap());
            back.iter_mut().for_each(|span| span.tags.sort());
            prop_assert_eq!(&back, &given, "{:?} through OTLP", format);
        }
    }
}

fn tags_of(attributes: &[(&str, Value)], change: impl FnOnce(&mut proto::otlp::trace::v1::Span)) -> Span {
    let mut span = proto::otlp::trace::v1::Span {
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        kind: 3,
        attributes: attributes.iter().map(|(key, value)| attribute(key, value.clone())).collect(),
        ..Default::default()
    };
    change(&mut span);
    let scope_spans = proto::otlp::trace::v1::ScopeSpans { spans: vec![span], ..Default::default() };
    let resource_spans = proto::otlp::trace::v1::ResourceSpans { scope_spans: vec![scope_spans], ..Default::default() };
    zipkin::spans(&TracesData { resource_spans: vec![resource_spans] }).remove(0)
}

#[test]
fn the_other_side_of_a_call_is_named() {
    let text = |text: &str| Value::StringValue(text.into());
    let span = tags_of(&[("server.address", text("db.example")), ("net.peer.ip", text("10.0.0.7")), ("net.peer.port", Value::IntValue(5432))], |_| {});
    let expected = Endpoint { service_name: "db.example".into(), ipv4: Some([10, 0, 0, 7].into()), ipv6: None, port: 5432 };
    assert_eq!(span.remote_endpoint, expected);
    assert_eq!(span.tags, [("server.address".to_owned(), "db.example".to_owned())]);
    let span = tags_of(&[("server.address", text("db.example")), ("peer.service", text("orders"))], |_| {});
    assert_eq!(span.remote_endpoint.service_name, "orders");
    // A server's own address is not the other side.
    assert!(tags_of(&[("server.address", text("me"))], |span| span.kind = 2).remote_endpoint.is_empty());
    // What would not come back as it is stays a tag.
    let span = tags_of(&[("net.peer.ip", text("010.0.0.7")), ("net.peer.port", text("80"))], |_| {});
    assert!(span.remote_endpoint.is_empty() && span.tags.len() == 2, "{span:?}");
}

#[test]
fn an_error_of_zipkin_is_a_status() {
    let check = |tags: serde_json::Value| {
        let body = serde_json::json!([{ "traceId": "1", "id": "2", "timestamp": 1, "tags": tags }]).to_string();
        let (_, _, span) = spans_of(&zipkin::request(Format::JsonV2, body.as_bytes(), RECEIVED).unwrap()).remove(0);
        let status = span.status.unwrap();
        (status.code, status.message, span.attributes.len())
    };
    assert_eq!(check(serde_json::json!({ "error": "timeout" })), (2, "timeout".into(), 0));
    assert_eq!(check(serde_json::json!({ "error": "true" })), (2, String::new(), 0));
    assert_eq!(check(serde_json::json!({ "error": "" })), (2, String::new(), 0));
    assert_eq!(check(serde_json::json!({ "error": "false" })), (0, String::new(), 1));
    assert_eq!(check(serde_json::json!({ "otel.status_code": "OK" })), (1, String::new(), 0));
    assert_eq!(check(serde_json::json!({ "otel.status_code": "ERROR", "error": "true" })), (2, "true".into(), 0));
}
