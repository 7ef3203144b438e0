//! Requests as a whole: empty, unknown, damaged, compressed, mislabelled, at the ends of JSON.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use prost::Message;
use proto::otlp::{
    collector::trace::v1::ExportTraceServiceRequest,
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{JSON, PROTOBUF, Told, WAYS, Way, field, request, send, told};
use crate::{
    server::{Server, Settings},
    spans::{TimeRange, attribute, trace_id, trace_spans},
};

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(vec![], Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// B01.
#[tokio::test]
async fn nothing_is_taken() {
    let folder = TempDir::new().unwrap();
    let server = Server::start(&Settings::new(folder.path())).await;
    let of = |resource_spans| ExportTraceServiceRequest { resource_spans };
    let empty = [
        of(vec![]),
        of(vec![ResourceSpans::default(); 3]),
        of(vec![ResourceSpans { scope_spans: vec![ScopeSpans::default()], ..ResourceSpans::default() }]),
    ];
    for way in WAYS {
        for request in &empty {
            assert_eq!(send(&server.client, way, request).await, Told::Taken { rejected: 0 }, "{way:?}");
        }
    }
    for body in ["{}", "{\"resourceSpans\":[]}", "{\"resourceSpans\":null}", " {\"resourceSpans\":[{\"scopeSpans\":[{}]}]}\n"] {
        let answer = server.client.post(JSON, "", body.into()).await;
        assert_eq!((answer.status, answer.body.as_slice()), (200, &b"{}"[..]), "partial success is unset: {body}");
    }
}

/// B02.
#[tokio::test]
async fn what_is_no_request_is_refused() {
    let (folder, range) = (TempDir::new().unwrap(), TimeRange::lately());
    let server = Server::start(&Settings::new(folder.path())).await;
    let good = request(trace_spans(1, 1, 0..3, range)).encode_to_vec();
    let mut overlong = vec![0x0a];
    overlong.extend([0xff; 10]);
    let mut very_deep = vec![];
    // As a client would write it from the inside out, but for the lengths, which say too much.
    for _ in 0..100_000 {
        very_deep.extend([0x0a, 0x7f]);
    }
    let cases: [(&str, Vec<u8>); 10] = [
        ("cut", good[..good.len() - 3].to_vec()),
        ("noise", (0..2000_u32).map(|n| (n * n >> 5) as u8).collect()),
        ("a length without end", overlong),
        ("lengths that lie", very_deep),
        ("text", b"resourceSpans".to_vec()),
        ("field 0", [&good[..], &[0, 0]].concat()),
        ("a group", [&good[..], &[0x0b, 0x0c]].concat()),
        ("a wire type that there is not", [&good[..], &[0x0e]].concat()),
        ("a number where a message belongs", [&good[..], &[0x08, 1]].concat()),
        ("a varint that does not end", [&good[..], &[0x10, 0x80]].concat()),
    ];
    for (what, body) in cases {
        assert_eq!(told(Way::Protobuf, &server.client.post(PROTOBUF, "", body.clone()).await), Told::Invalid, "{what}");
        assert_eq!(told(Way::Grpc, &server.client.call("", &body).await), Told::Invalid, "{what}");
        assert_eq!(told(Way::Json, &server.client.post(JSON, "", body).await), Told::Invalid, "{what}");
    }
    assert_eq!(server.client.count("{ }", range).await, 0);
    assert_eq!(told(Way::Grpc, &server.client.call("", &good).await), Told::Taken { rejected: 0 });
    assert_eq!(told(Way::Protobuf, &server.client.post(PROTOBUF, "", good).await), Told::Taken { rejected: 0 });
    assert_eq!(server.client.count("{ }", range).await, 3, "the same request twice");
}

/// B03: what a later OTLP may have.
#[tokio::test]
async fn what_is_not_known_is_passed_over() {
    let (folder, range) = (TempDir::new().unwrap(), TimeRange::lately());
    let server = Server::start(&Settings::new(folder.path())).await;
    let unknown = [field(100, b"new"), vec![0x88, 0x7d, 1], vec![0x8d, 0x7d, 0, 0, 0, 0], vec![0x89, 0x7d, 0, 0, 0, 0, 0, 0, 0, 0]].concat();
    let with = |message: Vec<u8>| [unknown.clone(), message, unknown.clone()].concat();
    let span = trace_spans(3, 1, 0..1, range).remove(0);
    let resource = Resource { attributes: vec![attribute("service.name", "shop".into())], ..Resource::default() };
    let spans = with(field(2, &with(span.encode_to_vec())));
    let body = with(field(1, &with([field(1, &with(resource.encode_to_vec())), field(2, &spans)].concat())));
    assert_eq!(told(Way::Protobuf, &server.client.post(PROTOBUF, "", body.clone()).await), Told::Taken { rejected: 0 });
    assert_eq!(told(Way::Grpc, &server.client.call("", &body).await), Told::Taken { rejected: 0 });
    let stored = server.client.trace(&trace_id(3, 1)).await;
    assert_eq!((stored.len(), &stored[0].name, &stored[0].attributes), (1, &span.name, &span.attributes));

    let id: String = trace_id(3, 2).iter().map(|byte| format!("{byte:02x}")).collect();
    let new = json!({ "a": [1, { "b": null }], "c": "d" });
    let span = json!({ "traceId": id.to_uppercase(), "spanId": "0000000000000007", "name": "n", "new": new, "kind": 77,
        "startTimeUnixNano": span.start_time_unix_nano, "endTimeUnixNano": span.end_time_unix_nano.to_string(),
        "attributes": [{ "key": "k", "new": new, "value": { "newValue": new } }] });
    let body = json!({ "new": new, "resourceSpans": [{ "new": new, "scopeSpans": [{ "new": new, "spans": [span] }] }] });
    let answer = server.client.post("application/json; charset=utf-8", "", body.to_string().into()).await;
    assert_eq!(told(Way::Json, &answer), Told::Taken { rejected: 0 });
    let stored = server.client.trace(&trace_id(3, 2)).await;
    assert_eq!((stored.len(), stored[0].name.as_str(), stored[0].kind), (1, "n", 0));
}

/// B04.
#[tokio::test]
async fn compression_is_undone_or_refused() {
    let (folder, range) = (TempDir::new().unwrap(), TimeRange::lately());
    let server = Server::start(&Settings::new(folder.path())).await;
    let good = request(trace_spans(4, 1, 0..3, range)).encode_to_vec();
    let packed = gzip(&good);
    let mut wrong_sum = packed.clone();
    let at = wrong_sum.len() - 6;
    wrong_sum[at] ^= 1;
    let (first, second) = good.split_at(good.len() / 2);
    let cases: [(&str, &str, Vec<u8>, Told); 10] = [
        ("gzip", "cut", packed[..packed.len() - 9].to_vec(), Told::Invalid),
        ("gzip", "a wrong sum", wrong_sum, Told::Invalid),
        ("gzip", "something behind it", [&packed[..], b"garbage"].concat(), Told::Invalid),
        ("gzip", "not compressed", good.clone(), Told::Invalid),
        ("zstd", "another compression", packed.clone(), Told::Invalid),
        ("gzip", "compressed twice", gzip(&packed), Told::Invalid),
        ("gzip", "two members", [gzip(first), gzip(second)].concat(), Told::Taken { rejected: 0 }),
        ("zstd", "good", zstd::encode_all(&good[..], 3).unwrap(), Told::Taken { rejected: 0 }),
        ("br", "not supported", packed.clone(), Told::Unsupported),
        ("gzip, gzip", "not supported", packed.clone(), Told::Unsupported),
    ];
    for (encoding, what, body, expected) in cases {
        assert_eq!(told(Way::Protobuf, &server.client.post(PROTOBUF, encoding, body.clone()).await), expected, "{encoding}, {what}");
        assert_eq!(told(Way::Grpc, &server.client.call(encoding, &body).await), expected, "{encoding}, {what}, gRPC");
    }
    assert_eq!(server.client.count("{ }", range).await, 3);
}

/// B06: frames of gRPC that lie.
#[tokio::test]
async fn frames_that_lie_cost_only_their_call() {
    let (folder, range) = (TempDir::new().unwrap(), TimeRange::lately());
    let settings = Settings::new(folder.path()).with("distributor.receivers.otlp.protocols.grpc.max_recv_msg_size_mib", 4);
    let server = Server::start(&settings).await;
    let good = request(trace_spans(6, 1, 0..3, range)).encode_to_vec();
    server.client.push(good.clone()).await;
    let frame = |compressed: u8, length: u32, message: &[u8]| [&[compressed][..], &length.to_be_bytes(), message].concat();
    let before = server.peak_memory_bytes();
    for (what, body, expected) in [
        ("four gigabytes, it says", frame(0, u32::MAX, &good), Told::TooLarge),
        ("one byte more than may be", frame(0, (4 << 20) + 1, &good), Told::TooLarge),
        ("more than there is", frame(0, good.len() as u32 + 1, &good), Told::Invalid),
        ("less than there is", frame(0, good.len() as u32 - 1, &good), Told::Invalid),
        ("compressed with nothing", frame(1, good.len() as u32, &good), Told::Invalid),
        ("a flag that there is not", frame(7, good.len() as u32, &good), Told::Invalid),
        ("a cut prefix", vec![0, 0, 0], Told::Invalid),
        ("no message", vec![], Told::Invalid),
        ("a hundred thousand messages", frame(0, 0, &[]).repeat(100_000), Told::Invalid),
    ] {
        let got = told(Way::Grpc, &server.client.call_framed("", body).await);
        assert_eq!(got, expected, "{what}");
    }
    let grown = server.peak_memory_bytes() - before;
    assert!(grown < 64 << 20, "{grown} bytes more");
    assert_eq!(told(Way::Grpc, &server.client.call("", &good).await), Told::Taken { rejected: 0 });
    assert_eq!(server.client.count("{ }", range).await, 3);
}

/// B08.
#[tokio::test]
async fn what_a_body_says_that_it_is_decides() {
    let (folder, range) = (TempDir::new().unwrap(), TimeRange::lately());
    let server = Server::start(&Settings::new(folder.path())).await;
    let (protobuf, json) = (request(trace_spans(8, 1, 0..2, range)).encode_to_vec(), proto::otlp_json::encode(&request(trace_spans(8, 2, 0..2, range))));
    for (content_type, body, expected) in [
        ("application/x-protobuf", &protobuf, 200),
        ("application/protobuf", &protobuf, 200),
        ("Application/X-Protobuf; proto=x", &protobuf, 200),
        ("application/json", &json, 200),
        ("application/JSON;charset=UTF-8", &json, 200),
        ("application/json", &protobuf, 400),
        ("application/x-protobuf", &json, 400),
        ("text/plain", &json, 415),
        ("application/octet-stream", &protobuf, 415),
        ("application/x-protobuf, application/json", &protobuf, 415),
        ("", &protobuf, 415),
    ] {
        let answer = server.client.post(content_type, "", body.clone()).await;
        assert_eq!(answer.status, expected, "{content_type}: {}", String::from_utf8_lossy(&answer.body));
        if expected == 400 {
            assert_eq!(answer.headers["content-type"], content_type, "the answer has the form of the question");
        }
    }
    assert_eq!(server.client.count("{ }", range).await, 4);
}

/// B10.
#[tokio::test]
async fn json_at_its_ends_is_answered() {
    let (folder, range) = (TempDir::new().unwrap(), TimeRange::lately());
    let server = Server::start(&Settings::new(folder.path())).await;
    let span = |number: u64, more: &str| {
        let id: String = trace_id(10, number).iter().map(|byte| format!("{byte:02x}")).collect();
        let start = range.start_s * 1_000_000_000;
        let more = if more.is_empty() { String::new() } else { format!(",{more}") };
        format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{"traceId":"{id}","spanId":"0000000000000001","startTimeUnixNano":{start}{more}}}]}}]}}]}}"#)
    };
    let value = |value: &str| format!(r#""attributes":[{{"key":"k","value":{{{value}}}}}]"#);
    let cases: Vec<(&str, String, Told)> = vec![
        ("plain", String::new(), Told::Taken { rejected: 0 }),
        ("a name twice: the last counts", r#""name":"a","name":"b""#.into(), Told::Taken { rejected: 0 }),
        ("snake case is no name of a field", r#""span_id":"x","start_time_unix_nano":"x""#.into(), Told::Taken { rejected: 0 }),
        ("an enum in words", r#""kind":"SPAN_KIND_SERVER""#.into(), Told::Invalid),
        ("an id in base64", r#""spanId":"AAAAAAAAAAE=""#.into(), Told::Invalid),
        ("1e400", value(r#""doubleValue":1e400"#), Told::Invalid),
        ("NaN, bare", value(r#""doubleValue":NaN"#), Told::Invalid),
        ("NaN, quoted", value(r#""doubleValue":"NaN""#), Told::Taken { rejected: 0 }),
        ("a number beyond 64 bits", value(r#""intValue":"9223372036854775808""#), Told::Invalid),
        ("the least number", value(r#""intValue":"-9223372036854775808""#), Told::Taken { rejected: 0 }),
        ("a number of a million digits", value(&format!(r#""intValue":{}"#, "1".repeat(1_000_000))), Told::Invalid),
        ("half a surrogate", r#""name":"\ud800""#.into(), Told::Invalid),
        ("a surrogate pair", r#""name":"\ud83d\ude00""#.into(), Told::Taken { rejected: 0 }),
        ("a control character", "\"name\":\"a\nb\"".into(), Told::Invalid),
        ("deep, unknown", format!(r#""x":{}1{}"#, "[".repeat(10_000), "]".repeat(10_000)), Told::Taken { rejected: 0 }),
        ("deep, within a value", value(&format!("{}{}", r#""arrayValue":{"values":[{"#.repeat(10_000), "}]}".repeat(10_000))), Told::Invalid),
    ];
    let mut stored = 0;
    for (number, (what, more, expected)) in (0..).zip(cases) {
        stored += u64::from(expected == Told::Taken { rejected: 0 });
        let answer = server.client.post(JSON, "", span(number, &more).into()).await;
        assert_eq!(told(Way::Json, &answer), expected, "{what}");
    }
    let mark = format!("\u{feff}{}", span(100, ""));
    assert_eq!(told(Way::Json, &server.client.post(JSON, "", mark.into()).await), Told::Taken { rejected: 0 }, "a byte order mark");
    for body in ["[".repeat(100_000), "{\"resourceSpans\":[".repeat(20_000), format!("{{\"x\":{}", "1".repeat(1_000_000)), "null".into(), "[]".into(), String::new(), "{} {}".into()] {
        let told = told(Way::Json, &server.client.post(JSON, "", body.clone().into()).await);
        assert!(matches!(told, Told::Invalid) || body == "null", "{}: {told:?}", &body[..body.len().min(40)]);
    }
    assert_eq!(server.client.count("{ }", range).await, stored + 1);
    let (status, body) = server.client.get("/api/search", &[("q", "{ }".into())]).await;
    assert!(status == 200 && matches!(body, Value::Object(_)), "{body}");
}
