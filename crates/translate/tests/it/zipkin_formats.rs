//! What Zipkin's clients send.

use serde_json::json;
use translate::zipkin::{self, Annotation, Format, Kind, Span};

use crate::thrift_writer::{V, binary};

fn read(format: Format, body: &[u8]) -> Vec<Span> {
    let mut spans = vec![];
    zipkin::read(format, body, &mut |span| spans.push(span)).unwrap();
    spans
}

fn read_json(format: Format, body: &serde_json::Value) -> Vec<Span> {
    read(format, body.to_string().as_bytes())
}

#[test]
fn json_is_read_leniently() {
    let body = json!([{
        "traceId": "463AC35C9F6413AD", "id": "1", "parentId": null, "kind": "client", "name": "get",
        "timestamp": "1472470996199000", "duration": 207000.0,
        "localEndpoint": { "serviceName": "frontend", "ipv4": "127.0.0.1", "port": "8080", "more": [1, {}] },
        "remoteEndpoint": null, "annotations": null, "tags": { "n": 1, "b": true, "s": "x", "none": null },
        "shared": null, "unknown": { "deep": [[[]]] }
    }]);
    let span = read_json(Format::JsonV2, &body).remove(0);
    assert_eq!(zipkin::trace_id_text(&span.trace_id), "463ac35c9f6413ad");
    assert_eq!((span.kind, span.timestamp, span.duration), (Some(Kind::Client), 1_472_470_996_199_000, 207_000));
    assert_eq!((span.local_endpoint.service_name.as_str(), span.local_endpoint.port), ("frontend", 8080));
    let tag = |key| span.tag(key).unwrap();
    assert_eq!([tag("n"), tag("b"), tag("s"), tag("none")], ["1", "true", "x", ""]);
}

#[test]
fn ids_that_are_none_are_left_to_the_check_of_ids() {
    let spans = read_json(Format::JsonV2, &json!([{ "traceId": "xyz", "id": "1" }, { "traceId": "1", "id": "" }]));
    assert!(spans[0].trace_id.is_zero() && !spans[0].id.is_zero());
    assert!(!spans[1].trace_id.is_zero() && spans[1].id.is_zero());
    for body in ["{}", "[{}]", "[", "[1]", "", "[{\"traceId\":\"1\"}]", "[] x"] {
        assert!(zipkin::request(Format::JsonV2, body.as_bytes(), 0).is_err(), "{body}");
        assert!(zipkin::request(Format::JsonV1, body.as_bytes(), 0).is_err(), "{body}");
    }
    assert!(zipkin::request(Format::JsonV2, b"[]", 0).unwrap().is_empty());
}

/// A call as one version 1 span: both sides, with a detail of each.
fn call() -> serde_json::Value {
    let front = json!({ "serviceName": "front", "ipv4": "10.0.0.1" });
    let back = json!({ "serviceName": "back", "ipv4": "10.0.0.2", "port": 9000 });
    json!([{
        "traceId": "1", "id": "2", "parentId": "3", "name": "get", "timestamp": 100, "duration": 50,
        "annotations": [
            { "timestamp": 100, "value": "cs", "endpoint": front },
            { "timestamp": 110, "value": "sr", "endpoint": back },
            { "timestamp": 115, "value": "cache miss", "endpoint": back },
            { "timestamp": 130, "value": "ss", "endpoint": back },
            { "timestamp": 150, "value": "cr", "endpoint": front },
        ],
        "binaryAnnotations": [
            { "key": "http.path", "value": "/api", "endpoint": front },
            { "key": "rows", "value": 7, "type": "I32", "endpoint": back },
            { "key": "sa", "value": true, "endpoint": back },
        ],
        "debug": true
    }])
}

fn check_call(spans: &[Span]) {
    let [client, server] = spans else { panic!("two sides: {spans:?}") };
    assert_eq!((client.kind, server.kind), (Some(Kind::Client), Some(Kind::Server)));
    assert_eq!((client.id, client.parent_id), (server.id, server.parent_id));
    assert_eq!((client.shared, server.shared), (false, true));
    assert_eq!((client.timestamp, client.duration), (100, 50));
    assert_eq!((server.timestamp, server.duration), (110, 20));
    assert_eq!(client.local_endpoint.service_name, "front");
    assert_eq!(client.remote_endpoint, server.local_endpoint);
    assert_eq!((server.local_endpoint.service_name.as_str(), server.local_endpoint.port), ("back", 9000));
    assert_eq!(client.tags, [("http.path".to_owned(), "/api".to_owned())]);
    assert_eq!(server.tags, [("rows".to_owned(), "7".to_owned())]);
    assert_eq!(server.annotations, [Annotation { timestamp: 115, value: "cache miss".into() }]);
    assert!(client.annotations.is_empty() && client.debug && server.debug);
}

#[test]
fn a_call_in_json_of_version_1() {
    check_call(&read_json(Format::JsonV1, &call()));
}

#[test]
fn a_call_in_thrift() {
    let front = || V::Struct(vec![(1, V::I32(0x0a00_0001)), (3, V::Text("front"))]);
    let back = || V::Struct(vec![(1, V::I32(0x0a00_0002)), (2, V::I16(9000)), (3, V::Text("back"))]);
    let moment = |time, value, host| V::Struct(vec![(1, V::I64(time)), (2, V::Text(value)), (3, host)]);
    let tag = |key, value, kind, host| V::Struct(vec![(1, V::Text(key)), (2, V::Bytes(value)), (3, V::I32(kind)), (4, host)]);
    let span = V::Struct(vec![
        (1, V::I64(1)),
        (3, V::Text("get")),
        (4, V::I64(2)),
        (5, V::I64(3)),
        (
            6,
            V::List(vec![
                moment(100, "cs", front()),
                moment(110, "sr", back()),
                moment(115, "cache miss", back()),
                moment(130, "ss", back()),
                moment(150, "cr", front()),
            ]),
        ),
        (
            8,
            V::List(vec![
                tag("http.path", b"/api".to_vec(), 6, front()),
                tag("rows", 7i32.to_be_bytes().to_vec(), 3, back()),
                tag("sa", vec![1], 0, back()),
            ]),
        ),
        (9, V::Bool(true)),
        (10, V::I64(100)),
        (11, V::I64(50)),
    ]);
    check_call(&read(Format::ThriftV1, &binary(&V::List(vec![span]))));
}

#[test]
fn a_local_span_of_version_1() {
    let body = json!([{
        "traceId": "1", "id": "2", "name": "work", "timestamp": 5, "duration": 6,
        "binaryAnnotations": [{ "key": "lc", "value": "", "endpoint": { "serviceName": "job" } }]
    }]);
    let span = read_json(Format::JsonV1, &body).remove(0);
    assert_eq!((span.kind, span.local_endpoint.service_name.as_str(), span.tags.len()), (None, "job", 0));
}

#[test]
fn a_span_without_a_timestamp_gets_one() {
    let start = |span: serde_json::Value| {
        let request = zipkin::request(Format::JsonV2, json!([span]).to_string().as_bytes(), 9_000).unwrap();
        crate::otlp::spans_of(&request).remove(0).2.start_time_unix_nano
    };
    assert_eq!(start(json!({ "traceId": "1", "id": "2", "annotations": [{ "timestamp": 4, "value": "x" }] })), 4_000);
    assert_eq!(start(json!({ "traceId": "1", "id": "2" })), 9_000);
    assert_eq!(start(json!({ "traceId": "1", "id": "2", "timestamp": 3 })), 3_000);
}

#[test]
fn absent_things_are_left_out_of_the_answer() {
    let given = json!([{ "traceId": "0000000000000001", "id": "0000000000000002" }]);
    assert_eq!(zipkin::write_json(&read_json(Format::JsonV2, &given)), given);
}

#[test]
fn annotations_of_opentelemetry_are_events() {
    let event = |value: &str| {
        let body = json!([{ "traceId": "1", "id": "2", "annotations": [{ "timestamp": 4, "value": value }] }]);
        let request = zipkin::request(Format::JsonV2, body.to_string().as_bytes(), 0).unwrap();
        let event = crate::otlp::spans_of(&request).remove(0).2.events.remove(0);
        (event.name, event.attributes.len())
    };
    assert_eq!(event("retry"), ("retry".into(), 0));
    assert_eq!(event("\"retry\": {\"n\": 2}"), ("retry".into(), 1));
    assert_eq!(event("{\"retry\": {\"n\": 2, \"m\": 3}}"), ("retry".into(), 2));
    for other in ["{\"a\": 1}", "{\"a\": {}, \"b\": {}}", "{}", "{x}", "\"x\"", "\"x\": 1}"] {
        assert_eq!(event(other), (other.into(), 0));
    }
}
