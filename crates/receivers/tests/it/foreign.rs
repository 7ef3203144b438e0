//! Zipkin and Jaeger: what is stored, and what a sender is told.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use model::{TenantId, TraceId};
use prost::Message;
use reqwest::{Client, Response, StatusCode, header::RETRY_AFTER};
use serde_json::{Value, json};
use tokio::net::UdpSocket;
use tonic::{Code, codegen::http::uri::PathAndQuery};
use translate::{jaeger, zipkin};

use crate::setup::{REQUEST_BYTES_MAX, Server, config};

fn zipkin_spans(count: u64) -> Value {
    let span = |id: u64| json!({ "traceId": format!("{id:x}"), "id": format!("{id:x}"), "timestamp": 1, "name": "get" });
    (1..=count).map(span).collect()
}

async fn post(url: String, content_type: &str, body: impl Into<reqwest::Body>) -> Response {
    Client::new().post(url).header("content-type", content_type).body(body).send().await.unwrap()
}

async fn post_zipkin(server: &Server, path: &str, content_type: &str, body: impl Into<reqwest::Body>) -> Response {
    post(format!("http://{}{path}", server.zipkin), content_type, body).await
}

fn batch(spans: u64) -> jaeger::Batch {
    let span = |id: u64| jaeger::Span {
        trace_id: u128::from(id).to_be_bytes().to_vec(),
        span_id: id.to_be_bytes().to_vec(),
        ..jaeger::Span::default()
    };
    let process = Some(jaeger::Process { service_name: "shop".into(), tags: vec![] });
    jaeger::Batch { spans: (1..=spans).map(span).collect(), process }
}

/// A batch of one span in thrift: the process `{1: "shop"}`, the span `{1: id, 3: id}`.
fn thrift_batch(id: u8) -> Vec<u8> {
    let process = [12, 0, 1, 11, 0, 1, 0, 0, 0, 4, b's', b'h', b'o', b'p', 0];
    let number = |field: u8| [10, 0, field, 0, 0, 0, 0, 0, 0, 0, id];
    [&process[..], &[15, 0, 2, 12, 0, 0, 0, 1], &number(1), &number(3), &[0, 0]].concat()
}

/// The same in the compact protocol, as a call of `emitBatch`.
fn datagram(id: u8) -> Vec<u8> {
    let head = [&[0x82, 0x81, 1, 9][..], b"emitBatch"].concat();
    let process = [&[0x1c, 0x18, 4][..], b"shop", &[0]].concat();
    let spans = [0x19, 0x1c, 0x16, id * 2, 0x26, id * 2, 0];
    [head, vec![0x1c], process, spans.to_vec(), vec![0, 0]].concat()
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn zipkin_takes_every_format_and_version() {
    let server = Server::start(config()).await;
    let json = zipkin_spans(3).to_string().into_bytes();
    let mut spans = vec![];
    zipkin::read(zipkin::Format::JsonV2, &json, &mut |span| spans.push(span)).unwrap();
    let thrift = [&[12, 0, 0, 0, 1][..], &[10, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 10, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 0]].concat();
    let mut stored = 0;
    for (path, content_type, body, spans) in [
        ("/api/v2/spans", "application/json", json.clone(), 3),
        ("/api/v2/spans", "application/x-protobuf", zipkin::write_protobuf(&spans), 3),
        ("/api/v1/spans", "application/json; charset=utf-8", json.clone(), 3),
        ("/api/v1/spans", "application/x-thrift", thrift, 1),
        ("/", "text/plain", json.clone(), 3),
        ("/api/v2/spans", "application/json", b"[]".to_vec(), 0),
    ] {
        let response = post_zipkin(&server, path, content_type, body).await;
        assert_eq!(response.status(), StatusCode::ACCEPTED, "{path} {content_type}");
        assert_eq!(response.bytes().await.unwrap(), "");
        stored += spans;
        assert_eq!(server.stored(), stored, "{path} {content_type}");
    }
    let request = Client::new().post(format!("http://{}/api/v2/spans", server.zipkin)).header("content-encoding", "gzip");
    assert_eq!(request.body(gzip(&json)).send().await.unwrap().status(), StatusCode::ACCEPTED);
    assert_eq!(server.stored(), stored + 3);
}

#[tokio::test]
async fn what_was_stored_of_zipkin_is_what_was_sent() {
    let server = Server::start(config()).await;
    let body = json!([{
        "traceId": "463ac35c9f6413ad", "id": "72485a3953bb6124", "parentId": "463ac35c9f6413ad", "kind": "SERVER",
        "name": "get /", "timestamp": 1_472_470_996_199_000u64, "duration": 207_000,
        "localEndpoint": { "serviceName": "frontend", "ipv4": "127.0.0.1" }, "shared": true,
        "annotations": [{ "timestamp": 1_472_470_996_238_000u64, "value": "wire receive" }],
        "tags": { "http.path": "/" }
    }]);
    let status = post_zipkin(&server, "/api/v2/spans", "application/json", body.to_string()).await.status();
    assert_eq!(status, StatusCode::ACCEPTED);
    let engine = query::Engine::new(server.storage.clone(), std::sync::Arc::new(server.ingester.clone()), Default::default());
    let request = query::TraceRequest { id: TraceId::parse("463ac35c9f6413ad").unwrap(), range: None };
    let trace = engine.trace_by_id(&[TenantId::single()], request).await.unwrap().trace.unwrap();
    assert_eq!(zipkin::write_json(&zipkin::spans(&trace)), body);
}

#[tokio::test]
async fn bad_bodies_are_refused_with_the_reason() {
    let server = Server::start(config()).await;
    for (path, content_type, body, word) in [
        ("/api/v2/spans", "application/json", "[{}]".as_bytes(), "traceId"),
        ("/api/v2/spans", "application/json", b"[{\"traceId\":\"x\",\"id\":\"1\"}]", "invalid_trace_id"),
        ("/api/v2/spans", "application/x-protobuf", b"\xff\xff", "Zipkin protobuf"),
        ("/api/v1/spans", "application/x-thrift", b"\x0c\x7f\xff\xff\xff", "Zipkin thrift"),
        ("/api/v1/spans", "application/json", b"{", "version 1"),
    ] {
        let response = post_zipkin(&server, path, content_type, body).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{word}");
        assert!(response.headers().get(RETRY_AFTER).is_none());
        let text = response.text().await.unwrap();
        assert!(text.contains(word), "{text}");
    }
    let large = vec![b' '; REQUEST_BYTES_MAX + 1];
    let response = post_zipkin(&server, "/api/v2/spans", "application/json", large).await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let request = Client::new().post(format!("http://{}/api/v2/spans", server.zipkin)).header("content-encoding", "br");
    assert_eq!(request.body("x").send().await.unwrap().status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(server.stored(), 0);
}

#[tokio::test]
async fn what_can_pass_later_is_told_so() {
    let server = Server::with_rate(config(), 1, 4096).await;
    let zipkin = (format!("http://{}/api/v2/spans", server.zipkin), "application/json", zipkin_spans(1).to_string().into_bytes());
    let jaeger = (format!("http://{}/api/traces", server.jaeger_thrift), "application/x-thrift", thrift_batch(1));
    for (url, content_type, body) in [zipkin, jaeger] {
        let mut status = StatusCode::ACCEPTED;
        // More than the burst, whatever time it takes.
        for _ in 0..1000 {
            let response = post(url.clone(), content_type, body.clone()).await;
            status = response.status();
            if status != StatusCode::ACCEPTED {
                assert!(response.headers().contains_key(RETRY_AFTER));
                break;
            }
        }
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS, "{url}");
    }
}

#[tokio::test]
async fn queries_on_zipkins_port_go_to_whoever_answers_them() {
    let server = Server::start(config()).await;
    let url = format!("http://{}/api/v2/services?x=1", server.zipkin);
    assert_eq!(reqwest::get(url).await.unwrap().text().await.unwrap(), "elsewhere /api/v2/services?x=1");
    let response = reqwest::get(format!("http://{}/api/sampling", server.jaeger_thrift)).await.unwrap();
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn tenants_are_told_apart() {
    let server = Server::start(receivers::Config { multitenancy: true, ..config() }).await;
    let url = format!("http://{}/api/v2/spans", server.zipkin);
    let send = async |tenant: Option<&str>| {
        let mut request = Client::new().post(&url).body(zipkin_spans(1).to_string());
        if let Some(tenant) = tenant {
            request = request.header("x-scope-orgid", tenant);
        }
        request.send().await.unwrap().status()
    };
    assert_eq!(send(None).await, StatusCode::UNAUTHORIZED);
    assert_eq!(send(Some("a|b")).await, StatusCode::BAD_REQUEST);
    assert_eq!(send(Some("a")).await, StatusCode::ACCEPTED);
    assert_eq!(server.stored(), 1);
}

#[tokio::test]
async fn jaeger_takes_thrift_over_http() {
    let server = Server::start(config()).await;
    let url = |path: &str| format!("http://{}{path}", server.jaeger_thrift);
    for content_type in ["application/x-thrift", "application/vnd.apache.thrift.binary; x=y"] {
        let response = post(url("/api/traces?format=jaeger.thrift"), content_type, thrift_batch(7)).await;
        assert_eq!(response.status(), StatusCode::ACCEPTED, "{content_type}");
    }
    assert_eq!(server.stored(), 2);
    let status = async |content_type, body| post(url("/api/traces"), content_type, body).await.status();
    assert_eq!(status("application/json", thrift_batch(1)).await, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(status("application/x-thrift", b"garbage".to_vec()).await, StatusCode::BAD_REQUEST);
    assert_eq!(reqwest::get(url("/api/traces")).await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(server.stored(), 2);
}

async fn post_spans(server: &Server, message: jaeger_call::PostSpans) -> Result<(), tonic::Status> {
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", server.jaeger_grpc)).unwrap();
    let mut client = tonic::client::Grpc::new(channel.connect().await.unwrap());
    client.ready().await.unwrap();
    let path = PathAndQuery::from_static("/jaeger.api_v2.CollectorService/PostSpans");
    let codec = tonic_prost::ProstCodec::<jaeger_call::PostSpans, jaeger_call::Empty>::default();
    client.unary(tonic::Request::new(message), path, codec).await.map(drop)
}

mod jaeger_call {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct PostSpans {
        #[prost(message, optional, tag = "1")]
        pub batch: Option<translate::jaeger::Batch>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Empty {}
}

#[tokio::test]
async fn jaeger_takes_protobuf_over_grpc() {
    let server = Server::start(config()).await;
    post_spans(&server, jaeger_call::PostSpans { batch: Some(batch(5)) }).await.unwrap();
    assert_eq!(server.stored(), 5);
    let mut nothing_valid = batch(1);
    nothing_valid.spans[0].span_id = vec![1];
    let status = post_spans(&server, jaeger_call::PostSpans { batch: Some(nothing_valid) }).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(batch(5).to_post_spans(), jaeger_call::PostSpans { batch: Some(batch(5)) }.encode_to_vec());
}

#[tokio::test]
async fn datagrams_are_stored_or_counted() {
    let server = Server::start(config()).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for id in 1..=20 {
        socket.send_to(&datagram(id), server.agent).await.unwrap();
    }
    socket.send_to(b"garbage", server.agent).await.unwrap();
    // On one machine a datagram is in the other socket when the call returns.
    server.shutdown.cancel();
    server.agent_ended.await.unwrap();
    assert_eq!(server.ingester.stats().accepted_spans, 20);
    assert_eq!(server.datagrams.received(), 21);
    assert_eq!(server.datagrams.dropped(), [("malformed", 1), ("refused", 0)]);
}
