//! What no good client sends, by every way in: it has its answer, the good spans beside it are kept, and the program goes on.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use prost::Message;
use proto::{
    otlp::{
        collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
        common::v1::{AnyValue, ArrayValue, KeyValue, any_value::Value},
        trace::v1::{ResourceSpans, ScopeSpans, Span},
    },
    otlp_json,
};
use tempfile::TempDir;

use crate::{
    client::{Answer, Client},
    server::{Server, Settings},
    spans::{TimeRange, trace_id, trace_spans},
};

const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Protobuf,
    Json,
    Grpc,
}

const WAYS: [Way; 3] = [Way::Protobuf, Way::Json, Way::Grpc];

/// What a client is told.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    /// Stored, but for so many spans.
    Taken { rejected: i64 },
    /// Never to be sent again: nothing in it is valid.
    Invalid,
    /// Never to be sent again: too large.
    TooLarge,
    Unsupported,
    /// Anything else.
    Other(String),
}

fn told(way: Way, answer: &Answer) -> Told {
    let rejected = |response: ExportTraceServiceResponse| response.partial_success.map_or(0, |partial| partial.rejected_spans);
    let grpc_status = answer.headers.get("grpc-status").map(|status| status.to_str().unwrap().to_owned());
    match (way, answer.status, grpc_status.as_deref()) {
        (Way::Protobuf, 200, None) => {
            Told::Taken { rejected: rejected(ExportTraceServiceResponse::decode(&answer.body[..]).unwrap()) }
        }
        (Way::Json, 200, None) => {
            let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
            let rejected = &body["partialSuccess"]["rejectedSpans"];
            Told::Taken { rejected: rejected.as_str().map_or(0, |count| count.parse().unwrap()) }
        }
        // A message, and the status in trailers behind it; a call that fails has its status in the headers.
        (Way::Grpc, 200, None) => {
            Told::Taken { rejected: rejected(ExportTraceServiceResponse::decode(&answer.body[5..]).unwrap()) }
        }
        (Way::Grpc, 200, Some("3")) | (Way::Protobuf | Way::Json, 400, None) => Told::Invalid,
        (Way::Grpc, 200, Some("8")) | (Way::Protobuf | Way::Json, 413, None) => Told::TooLarge,
        (Way::Grpc, 200, Some("12")) | (Way::Protobuf | Way::Json, 415, None) => Told::Unsupported,
        (_, status, grpc) => Told::Other(format!("HTTP {status}, gRPC {grpc:?}: {}", String::from_utf8_lossy(&answer.body))),
    }
}

async fn send(client: &Client, way: Way, request: &ExportTraceServiceRequest) -> Told {
    let answer = match way {
        Way::Protobuf => client.post(PROTOBUF, "", request.encode_to_vec()).await,
        Way::Json => client.post(JSON, "", otlp_json::encode(request)).await,
        Way::Grpc => client.call("", &request.encode_to_vec()).await,
    };
    told(way, &answer)
}

fn request(spans: Vec<Span>) -> ExportTraceServiceRequest {
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }] }
}

/// An attribute whose value is so many arrays, one in the other.
fn nested(depth: usize) -> KeyValue {
    let innermost = AnyValue { value: Some(Value::IntValue(1)) };
    let array = |value| AnyValue { value: Some(Value::ArrayValue(ArrayValue { values: vec![value] })) };
    KeyValue { key: "deep".into(), value: Some((0..depth).fold(innermost, |value, _| array(value))), ..KeyValue::default() }
}

/// One span of each kind between two good ones: what becomes of it, and whether the request says so.
#[tokio::test]
async fn a_bad_span_costs_itself() {
    type Change = fn(&mut Span);
    let cases: [(&str, bool, Change); 15] = [
        ("no trace id", false, |span| span.trace_id.clear()),
        ("a trace id of zeros", false, |span| span.trace_id.fill(0)),
        ("a short trace id", false, |span| span.trace_id.truncate(8)),
        ("a long trace id", false, |span| span.trace_id.push(1)),
        ("no span id", false, |span| span.span_id.clear()),
        ("a span id of zeros", false, |span| span.span_id.fill(0)),
        ("a long span id", false, |span| span.span_id.extend([1; 8])),
        ("its own parent", true, |span| span.parent_span_id.clone_from(&span.span_id)),
        ("no times", true, |span| (span.start_time_unix_nano, span.end_time_unix_nano) = (0, 0)),
        ("the last time there is", true, |span| (span.start_time_unix_nano, span.end_time_unix_nano) = (u64::MAX, u64::MAX)),
        ("an end before its start", true, |span| span.end_time_unix_nano = 1),
        ("a kind and a status of the future", true, |span| {
            span.kind = 99;
            span.status = Some(proto::otlp::trace::v1::Status { code: 42, message: "\u{1b}[31m\0".into() });
        }),
        ("no name, and keys that are empty or come twice", true, |span| {
            span.name.clear();
            let again = span.attributes[0].clone();
            span.attributes.extend([KeyValue::default(), again]);
        }),
        ("numbers that are none", true, |span| {
            for value in [f64::NAN, f64::INFINITY, -0.0] {
                span.attributes.push(KeyValue {
                    key: "number".into(),
                    value: Some(AnyValue { value: Some(Value::DoubleValue(value)) }),
                    ..KeyValue::default()
                });
            }
        }),
        ("a value that is too deep", false, |span| span.attributes.push(nested(70))),
    ];
    let (folder, range) = (TempDir::new().unwrap(), TimeRange::lately());
    let settings = Settings::new(folder.path());
    let server = Server::start(&settings).await;
    let mut kept = vec![];
    for (run, way) in (100..).zip(WAYS) {
        for (number, (what, valid, change)) in (0..).zip(&cases) {
            let mut spans = trace_spans(run, number, 0..3, range);
            change(&mut spans[1]);
            let answer = send(&server.client, way, &request(spans)).await;
            assert_eq!(answer, Told::Taken { rejected: i64::from(!valid) }, "{what}, {way:?}");
            kept.push((run, number, if *valid { 3 } else { 2 }, format!("{what}, {way:?}")));
            if !valid {
                let mut alone = trace_spans(run, number, 1..2, range);
                change(&mut alone[0]);
                assert_eq!(send(&server.client, way, &request(alone)).await, Told::Invalid, "{what}, alone, {way:?}");
            }
        }
    }
    for state in ["live", "flushed"] {
        for (run, number, spans, what) in &kept {
            assert_eq!(server.client.span_ids(&trace_id(*run, *number)).await.len(), *spans, "{what}, {state}");
        }
        server.client.flush().await;
    }
    assert!(server.stop().await.success());
}

/// As deep as an SDK may send them, and deeper than most clients can read them.
#[tokio::test]
async fn deep_values_are_kept() {
    let (folder, range) = (TempDir::new().unwrap(), TimeRange::lately());
    let server = Server::start(&Settings::new(folder.path())).await;
    for (run, way) in (1..).zip(WAYS) {
        let mut spans = trace_spans(run, 1, 0..3, range);
        spans[1].attributes.push(nested(60));
        assert_eq!(send(&server.client, way, &request(spans)).await, Told::Taken { rejected: 0 }, "{way:?}");
    }
    assert_eq!(server.client.count("{ }", range).await, 9);
    server.client.flush().await;
    assert_eq!(server.client.count("{ }", range).await, 9);
}

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
    let cases: [(&str, Vec<u8>); 5] = [
        ("cut", good[..good.len() - 3].to_vec()),
        ("noise", (0..2000_u32).map(|n| (n * n >> 5) as u8).collect()),
        ("a length without end", overlong),
        ("lengths that lie", very_deep),
        ("text", b"resourceSpans".to_vec()),
    ];
    for (what, body) in cases {
        assert_eq!(told(Way::Protobuf, &server.client.post(PROTOBUF, "", body.clone()).await), Told::Invalid, "{what}");
        assert_eq!(told(Way::Grpc, &server.client.call("", &body).await), Told::Invalid, "{what}");
        assert_eq!(told(Way::Json, &server.client.post(JSON, "", body).await), Told::Invalid, "{what}");
    }
    for body in ["[".repeat(100_000), "{\"resourceSpans\":[".repeat(20_000), format!("{{\"x\":{}", "1".repeat(1_000_000))] {
        assert_eq!(told(Way::Json, &server.client.post(JSON, "", body.into_bytes()).await), Told::Invalid);
    }
    assert_eq!(told(Way::Protobuf, &server.client.post("text/plain", "", good.clone()).await), Told::Unsupported);
    assert_eq!(told(Way::Protobuf, &server.client.post(PROTOBUF, "br", good.clone()).await), Told::Unsupported);
    assert_eq!(told(Way::Grpc, &server.client.call("snappy", &good).await), Told::Unsupported);

    assert_eq!(server.client.count("{ }", range).await, 0);
    assert_eq!(told(Way::Grpc, &server.client.call("", &good).await), Told::Taken { rejected: 0 });
    assert_eq!(told(Way::Protobuf, &server.client.post(PROTOBUF, "", good).await), Told::Taken { rejected: 0 });
    assert_eq!(server.client.count("{ }", range).await, 3, "the same request twice");
}

/// Names that are not UTF-8 do arrive; protobuf of most languages lets them pass.
#[tokio::test]
async fn text_that_is_none_is_replaced() {
    let (folder, range) = (TempDir::new().unwrap(), TimeRange::lately());
    let server = Server::start(&Settings::new(folder.path())).await;
    for (run, way) in [(1, Way::Protobuf), (2, Way::Grpc)] {
        let mut spans = trace_spans(run, 1, 0..2, range);
        spans[1].name = "MARKED".into();
        let mut body = request(spans).encode_to_vec();
        let at = body.windows(6).position(|bytes| bytes == b"MARKED").unwrap();
        body[at + 1] = 0xff;
        let answer = match way {
            Way::Grpc => server.client.call("", &body).await,
            _ => server.client.post(PROTOBUF, "", body).await,
        };
        assert_eq!(told(way, &answer), Told::Taken { rejected: 0 });
        let names: Vec<String> = server.client.trace(&trace_id(run, 1)).await.into_iter().map(|span| span.name).collect();
        assert!(names.contains(&"M\u{fffd}RKED".to_owned()), "{names:?}");
    }
}

/// Requests that are small on the wire and large in memory, and ones that are large on the wire.
#[tokio::test]
async fn bombs_are_refused_within_bounded_memory() {
    const LIMIT: usize = 8 << 20;
    const INFLATED: usize = 256 << 20;
    let (folder, range) = (TempDir::new().unwrap(), TimeRange::lately());
    let settings = Settings::new(folder.path())
        .with("distributor.receivers.otlp.protocols.grpc.max_recv_msg_size_mib", LIMIT >> 20)
        .with("distributor.receivers.otlp.protocols.http.max_request_body_size", LIMIT);
    let server = Server::start(&settings).await;
    let client = &server.client;
    let good = request(trace_spans(1, 1, 0..3, range)).encode_to_vec();
    client.push(good.clone()).await;

    let (mut gzip, mut zstd) = (GzEncoder::new(vec![], Compression::default()), zstd::Encoder::new(vec![], 1).unwrap());
    let zeros = vec![0; 1 << 20];
    for _ in 0..INFLATED >> 20 {
        gzip.write_all(&zeros).unwrap();
        zstd.write_all(&zeros).unwrap();
    }
    let bombs = [("gzip", gzip.finish().unwrap()), ("zstd", zstd.finish().unwrap())];
    let before = server.peak_memory_bytes();
    for (encoding, bomb) in &bombs {
        assert!(bomb.len() < LIMIT, "{encoding}: {} bytes on the wire", bomb.len());
        assert_eq!(told(Way::Protobuf, &client.post(PROTOBUF, encoding, bomb.clone()).await), Told::TooLarge, "{encoding}");
        assert_eq!(told(Way::Json, &client.post(JSON, encoding, bomb.clone()).await), Told::TooLarge, "{encoding}");
        assert_eq!(told(Way::Grpc, &client.call(encoding, bomb).await), Told::TooLarge, "{encoding}");
    }
    let large = vec![0; LIMIT + 1];
    assert_eq!(told(Way::Protobuf, &client.post(PROTOBUF, "", large.clone()).await), Told::TooLarge);
    assert_eq!(told(Way::Grpc, &client.call("", &large).await), Told::TooLarge);
    let grown = server.peak_memory_bytes() - before;
    assert!(grown < 10 * LIMIT as u64, "{grown} bytes more for requests of at most {LIMIT}");
    assert_eq!(told(Way::Grpc, &client.call("", &good).await), Told::Taken { rejected: 0 });
    assert_eq!(client.count("{ }", range).await, 3);
}
