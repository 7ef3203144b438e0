//! What Jaeger's clients send.

use prost::Message;
use proto::otlp::{
    common::v1::any_value::Value,
    trace::v1::{TracesData, span::Link},
};
use translate::{
    SPAN_ELEMENTS_MAX,
    jaeger::{self, Protocol},
};

use crate::{
    otlp::{Alone, attribute, spans_of, text},
    thrift_writer::{V, binary, call},
};

fn tag(key: &'static str, kind: i32, field: i16, value: V) -> V {
    V::Struct(vec![(1, V::Text(key)), (2, V::I32(kind)), (field, value)])
}

pub fn batch() -> V {
    let tags = vec![
        tag("span.kind", 0, 3, V::Text("client")),
        tag("error", 2, 5, V::Bool(true)),
        tag("text", 0, 3, V::Text("a")),
        tag("double", 1, 4, V::Double(1.5)),
        tag("bool", 2, 5, V::Bool(false)),
        tag("long", 3, 6, V::I64(-7)),
        tag("binary", 4, 7, V::Bytes(vec![0, 255])),
    ];
    let log = V::Struct(vec![
        (1, V::I64(1_700_000_000_000_500)),
        (2, V::List(vec![tag("event", 0, 3, V::Text("retry")), tag("n", 3, 6, V::I64(1))])),
    ]);
    let elsewhere = V::Struct(vec![(1, V::I32(1)), (2, V::I64(9)), (3, V::I64(8)), (4, V::I64(7))]);
    let span = V::Struct(vec![
        (1, V::I64(2)),
        (2, V::I64(1)),
        (3, V::I64(3)),
        (4, V::I64(4)),
        (5, V::Text("GET /")),
        (6, V::List(vec![elsewhere])),
        (7, V::I32(1)),
        (8, V::I64(1_700_000_000_000_000)),
        (9, V::I64(2500)),
        (10, V::List(tags)),
        (11, V::List(vec![log])),
    ]);
    let process = V::Struct(vec![(1, V::Text("shop")), (2, V::List(vec![tag("hostname", 0, 3, V::Text("h1"))]))]);
    // Something that this version does not know.
    V::Struct(vec![(1, process), (2, V::List(vec![span])), (3, V::I64(12)), (99, V::List(vec![V::Struct(vec![(1, V::I16(1))])]))])
}

fn check(request: &[u8]) {
    let mut spans = spans_of(request);
    assert_eq!(spans.len(), 1);
    let (resource, scope, span): Alone = spans.remove(0);
    assert_eq!(resource.attributes, [text("service.name", "shop"), text("hostname", "h1")]);
    assert_eq!(scope, Default::default());
    assert_eq!(span.trace_id, [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2]);
    assert_eq!((span.span_id, span.parent_span_id), (vec![0, 0, 0, 0, 0, 0, 0, 3], vec![0, 0, 0, 0, 0, 0, 0, 4]));
    assert_eq!((span.name.as_str(), span.kind, span.flags), ("GET /", 3, 1));
    assert_eq!(span.start_time_unix_nano, 1_700_000_000_000_000_000);
    assert_eq!(span.end_time_unix_nano, 1_700_000_000_002_500_000);
    assert_eq!(span.status.map(|status| status.code), Some(2));
    let expected = [
        text("text", "a"),
        attribute("double", Value::DoubleValue(1.5)),
        attribute("bool", Value::BoolValue(false)),
        attribute("long", Value::IntValue(-7)),
        attribute("binary", Value::BytesValue(vec![0, 255])),
    ];
    assert_eq!(span.attributes, expected);
    assert_eq!(span.events.len(), 1);
    assert_eq!((span.events[0].name.as_str(), span.events[0].time_unix_nano), ("retry", 1_700_000_000_000_500_000));
    assert_eq!(span.events[0].attributes, [attribute("n", Value::IntValue(1))]);
    let trace_id = [8u64.to_be_bytes(), 9u64.to_be_bytes()].concat();
    assert_eq!(span.links, [Link { trace_id, span_id: 7u64.to_be_bytes().to_vec(), ..Link::default() }]);
}

#[test]
fn a_batch_in_the_binary_protocol() {
    check(&jaeger::request_of_thrift(&binary(&batch())).unwrap());
}

#[test]
fn a_datagram_of_each_protocol() {
    check(&jaeger::request_of_agent(Protocol::Compact, &call(true, "emitBatch", batch()), 0).unwrap());
    check(&jaeger::request_of_agent(Protocol::Binary, &call(false, "emitBatch", batch()), 0).unwrap());
    let other = call(false, "getSamplingStrategy", V::Text("shop"));
    assert!(jaeger::request_of_agent(Protocol::Binary, &other, 0).unwrap_err().to_string().contains("emitBatch"));
    assert!(jaeger::request_of_agent(Protocol::Compact, &call(false, "emitBatch", batch()), 0).is_err());
}

/// [`batch`] as Jaeger's collector writes its span into a queue.
pub const SPAN_JSON: &str = r#"{
    "traceId": "AAAAAAAAAAEAAAAAAAAAAg==", "spanId": "AAAAAAAAAAM=", "operationName": "GET /", "flags": 1,
    "references": [
        {"traceId": "AAAAAAAAAAEAAAAAAAAAAg==", "spanId": "AAAAAAAAAAQ="},
        {"traceId": "AAAAAAAAAAgAAAAAAAAACQ==", "spanId": "AAAAAAAAAAc=", "refType": "FOLLOWS_FROM"}],
    "startTime": "2023-11-14T22:13:20Z", "duration": "0.002500s",
    "tags": [
        {"key": "span.kind", "vStr": "client"}, {"key": "error", "vType": "BOOL", "vBool": true},
        {"key": "text", "vStr": "a"}, {"key": "double", "vType": "FLOAT64", "vFloat64": 1.5},
        {"key": "bool", "vType": "BOOL"}, {"key": "long", "vType": "INT64", "vInt64": "-7"},
        {"key": "binary", "vType": "BINARY", "vBinary": "AP8="}],
    "logs": [{"timestamp": "2023-11-14T22:13:20.000500Z", "fields": [
        {"key": "event", "vStr": "retry"}, {"key": "n", "vType": "INT64", "vInt64": "1"}]}],
    "process": {"serviceName": "shop", "tags": [{"key": "hostname", "vStr": "h1"}]}, "processId": "", "warnings": null}"#;

#[test]
fn a_span_alone_in_protobuf_and_json() {
    check(&jaeger::request_of_span_json(SPAN_JSON.as_bytes()).unwrap());
    let other_names = SPAN_JSON.replace("spanId", "span_id").replace("operationName", "operation_name").replace("vStr", "v_str");
    check(&jaeger::request_of_span_json(other_names.as_bytes()).unwrap());
    let hex = SPAN_JSON
        .replace("AAAAAAAAAAEAAAAAAAAAAg==", "00000000000000010000000000000002")
        .replace("AAAAAAAAAAM=", "3")
        .replace("\"INT64\"", "2");
    check(&jaeger::request_of_span_json(hex.as_bytes()).unwrap());
    let spans = jaeger::batches(&TracesData::decode(jaeger::request_of_thrift(&binary(&batch())).unwrap().as_slice()).unwrap());
    let alone = jaeger::Span { process: spans[0].process.clone(), ..spans[0].spans[0].clone() };
    check(&jaeger::request_of_span(&alone.encode_to_vec()).unwrap());
}

#[test]
fn what_is_no_span_in_json_is_named() {
    let wrong = |from: &str, to: &str| {
        assert!(SPAN_JSON.contains(from));
        jaeger::request_of_span_json(SPAN_JSON.replace(from, to).as_bytes()).unwrap_err().to_string()
    };
    assert!(wrong("\"traceId\": \"AAAAAAAAAAEAAAAAAAAAAg==\", \"spanId\": \"AAAAAAAAAAM=\"", "\"id\": 1").contains("traceId"));
    assert!(wrong("2023-11-14T22:13:20Z", "yesterday").contains("timestamp"));
    assert!(wrong("\"vInt64\": \"-7\"", "\"vInt64\": \"x\"").contains("vInt64"));
    assert!(wrong("FLOAT64", "DECIMAL").contains("DECIMAL"));
    assert!(wrong("AP8=", "*").contains("Jaeger JSON"));
    let many = format!(r#"{{"traceId": "1", "spanId": "2", "tags": [{}{{}}]}}"#, "{},".repeat(SPAN_ELEMENTS_MAX));
    assert!(jaeger::request_of_span_json(many.as_bytes()).unwrap_err().to_string().contains("more than"));
    let texts = format!(r#"{{"traceId": "1", "spanId": "2", "operationName": "{}\""}}"#, "{".repeat(SPAN_ELEMENTS_MAX + 1));
    assert_eq!(spans_of(&jaeger::request_of_span_json(texts.as_bytes()).unwrap())[0].2.name.len(), SPAN_ELEMENTS_MAX + 2);
}

#[test]
fn the_process_may_stand_behind_the_spans() {
    let V::Struct(mut fields) = batch() else { unreachable!() };
    fields.reverse();
    check(&jaeger::request_of_thrift(&binary(&V::Struct(fields))).unwrap());
}

#[test]
fn a_span_that_follows_from_another_is_below_it() {
    let from = V::Struct(vec![(1, V::I32(1)), (2, V::I64(2)), (3, V::I64(0)), (4, V::I64(7))]);
    let span = V::Struct(vec![(1, V::I64(2)), (2, V::I64(0)), (3, V::I64(3)), (6, V::List(vec![from]))]);
    let batch = V::Struct(vec![(1, V::Struct(vec![(1, V::Text("shop"))])), (2, V::List(vec![span]))]);
    let (_, _, span) = spans_of(&jaeger::request_of_thrift(&binary(&batch)).unwrap()).remove(0);
    assert_eq!(span.parent_span_id, 7u64.to_be_bytes());
    assert_eq!(span.links.len(), 1);
}
