//! OTLP/HTTP with an ordinary client.

use std::io::Write;

use flate2::{
    Compression,
    write::{GzEncoder, ZlibEncoder},
};
use prost::Message;
use proto::{
    otlp::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    otlp_json,
};
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};
use tonic_types::StatusExt;

use crate::setup::{RETRY_AFTER, Server, bad_span, config, large_request, request, span};

const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

fn compress(encoding: &str, body: &[u8]) -> Vec<u8> {
    match encoding {
        "gzip" => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
        "deflate" => {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
        "zstd" => zstd::encode_all(body, 3).unwrap(),
        _ => body.to_vec(),
    }
}

fn encode(content_type: &str, request: &ExportTraceServiceRequest) -> Vec<u8> {
    if content_type.starts_with(JSON) { otlp_json::encode(request) } else { request.encode_to_vec() }
}

async fn post(server: &Server, content_type: &str, encoding: &str, body: Vec<u8>) -> Response {
    let request = Client::new().post(server.url()).header("content-type", content_type);
    let request = if encoding.is_empty() { request } else { request.header("content-encoding", encoding) };
    request.body(body).send().await.unwrap()
}

/// What the body of a refusal says: the code, the message, and whether it names a delay.
async fn refusal(response: Response) -> (i32, String, bool) {
    let content_type = response.headers()["content-type"].to_str().unwrap().to_owned();
    let body = response.bytes().await.unwrap();
    if content_type == JSON {
        let body: Value = serde_json::from_slice(&body).unwrap();
        let delay = body["details"][0]["@type"] == "type.googleapis.com/google.rpc.RetryInfo";
        (body["code"].as_i64().unwrap() as i32, body["message"].as_str().unwrap().to_owned(), delay)
    } else {
        assert_eq!(content_type, PROTOBUF);
        let status = tonic_types::pb::Status::decode(&body[..]).unwrap();
        let details = tonic::Status::with_details(status.code.into(), &status.message, body).get_error_details();
        (status.code, status.message, details.retry_info().is_some())
    }
}

#[tokio::test]
async fn every_form_and_encoding_is_taken() {
    let server = Server::start(config()).await;
    let mut sent = 0;
    for content_type in [PROTOBUF, JSON, "application/json; charset=utf-8"] {
        for encoding in ["", "identity", "gzip", "zstd", "deflate"] {
            let body = compress(encoding, &encode(content_type, &request((1..100).map(span).collect())));
            let response = post(&server, content_type, encoding, body).await;
            assert_eq!(response.status(), StatusCode::OK, "{content_type} {encoding}");
            assert_eq!(response.headers()["content-type"], content_type.split(';').next().unwrap());
            let answer = response.bytes().await.unwrap();
            assert_eq!(&answer[..], if content_type == PROTOBUF { &b""[..] } else { b"{}" });
            sent += 99;
            assert_eq!(server.stored(), sent, "{content_type} {encoding}");
        }
    }
    for (content_type, empty) in [(PROTOBUF, ""), (JSON, "{}"), (JSON, r#"{"resourceSpans":[{"scopeSpans":[]}]}"#)] {
        assert_eq!(post(&server, content_type, "", empty.into()).await.status(), StatusCode::OK, "{empty:?}");
    }
    let prior_knowledge = Client::builder().http2_prior_knowledge().build().unwrap();
    let body = request(vec![span(1)]).encode_to_vec();
    let response = prior_knowledge.post(server.url()).header("content-type", PROTOBUF).body(body).send().await.unwrap();
    assert_eq!((response.status(), response.version()), (StatusCode::OK, reqwest::Version::HTTP_2));
}

#[tokio::test]
async fn bad_spans_are_told_and_good_ones_kept() {
    let server = Server::start(config()).await;
    let mixed = request(vec![span(1), bad_span(), span(2), bad_span()]);
    let response = post(&server, PROTOBUF, "", mixed.encode_to_vec()).await;
    assert_eq!(response.status(), StatusCode::OK);
    let answer = ExportTraceServiceResponse::decode(response.bytes().await.unwrap()).unwrap();
    let partial = answer.partial_success.unwrap();
    assert_eq!(partial.rejected_spans, 2);
    assert!(partial.error_message.contains("2 invalid_trace_id"), "{}", partial.error_message);
    assert_eq!(server.stored(), 2);

    let response = post(&server, JSON, "", otlp_json::encode(&mixed)).await;
    let answer: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    let message = partial.error_message;
    assert_eq!(answer, json!({ "partialSuccess": { "rejectedSpans": "2", "errorMessage": message } }));

    let response = post(&server, PROTOBUF, "", request(vec![bad_span()]).encode_to_vec()).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    let body = response.bytes().await.unwrap();
    let details = tonic::Status::with_details(tonic::Code::InvalidArgument, "", body).get_error_details();
    assert_eq!(details.bad_request().unwrap().field_violations.len(), 1);
}

#[tokio::test]
async fn what_cannot_pass_is_refused_in_its_own_form() {
    let server = Server::start(config()).await;
    let good = request(vec![span(1)]).encode_to_vec();
    let gzip = compress("gzip", &good);
    let cut_gzip = gzip[..gzip.len() - 5].to_vec();
    let deep = format!("{{\"resourceSpans\":{}", "[".repeat(10_000));
    let (bad, media, invalid, unimplemented) = (StatusCode::BAD_REQUEST, StatusCode::UNSUPPORTED_MEDIA_TYPE, 3, 12);
    for (content_type, encoding, body, status, code, says) in [
        (PROTOBUF, "", b"\x0a\x05\x00".to_vec(), bad, invalid, "middle of a field"),
        (PROTOBUF, "", b"{}".to_vec(), bad, invalid, "not an OTLP trace request"),
        (PROTOBUF, "gzip", cut_gzip, bad, invalid, "Gzip"),
        (PROTOBUF, "gzip", good.clone(), bad, invalid, "Gzip"),
        (PROTOBUF, "zstd", gzip.clone(), bad, invalid, "Zstd"),
        (PROTOBUF, "", gzip, bad, invalid, "not an OTLP trace request"),
        (PROTOBUF, "br", good.clone(), media, unimplemented, "gzip,zstd,deflate"),
        (PROTOBUF, "gzip, gzip", good.clone(), media, unimplemented, "gzip,zstd,deflate"),
        ("text/plain", "", good.clone(), media, unimplemented, "application/x-protobuf"),
        ("", "", good.clone(), media, unimplemented, "application/x-protobuf"),
        (JSON, "", good, bad, invalid, "JSON body"),
        (JSON, "", b"{\"resourceSpans\":".to_vec(), bad, invalid, "JSON body"),
        (JSON, "", deep.into_bytes(), bad, invalid, "JSON body"),
        (JSON, "", vec![0xff; 100], bad, invalid, "JSON body"),
    ] {
        let what = format!("{content_type:?} {encoding:?} {says:?}");
        let response = post(&server, content_type, encoding, body).await;
        assert_eq!(response.status(), status, "{what}");
        assert!(response.headers().get("retry-after").is_none(), "{what}");
        let in_own_form = if content_type == PROTOBUF { PROTOBUF } else { JSON };
        assert_eq!(response.headers()["content-type"], in_own_form, "{what}");
        let (answered, message, delay) = refusal(response).await;
        assert_eq!((answered, delay), (code, false), "{what}");
        assert!(message.contains(says), "{what}: {message}");
    }
    assert_eq!(server.stored(), 0);
}

#[tokio::test]
async fn wrong_methods_and_paths_are_told_apart() {
    let server = Server::start(config()).await;
    for method in [Method::GET, Method::PUT, Method::DELETE, Method::OPTIONS] {
        let response = Client::new().request(method, server.url()).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(response.headers()["allow"], "POST");
    }
    for path in ["", "v1/metrics", "v1/traces/", "v1//traces"] {
        let url = format!("http://{}/{path}", server.http);
        let response = Client::new().post(url).header("content-type", PROTOBUF).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
        assert!(refusal(response).await.1.contains("/v1/traces"));
    }
}

#[tokio::test]
async fn size_is_bounded_before_and_after_decompression() {
    let server = Server::start(config()).await;
    let large = large_request().encode_to_vec();
    let bomb = compress("gzip", &vec![0; 30 << 20]);
    for (encoding, body) in [
        ("", large.clone()),
        ("gzip", compress("gzip", &large)),
        ("zstd", compress("zstd", &large)),
        ("deflate", compress("deflate", &large)),
        ("gzip", bomb),
    ] {
        let response = post(&server, PROTOBUF, encoding, body).await;
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE, "{encoding}");
        assert!(response.headers().get("retry-after").is_none());
        let (code, message, delay) = refusal(response).await;
        assert_eq!((code, delay), (8, false));
        assert!(message.contains("1048576"), "{message}");
    }
    assert_eq!(server.stored(), 0);
    let response = post(&server, PROTOBUF, "", request(vec![span(1)]).encode_to_vec()).await;
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn memory_of_all_requests_is_bounded() {
    // Three quarters of it, 120 KiB, are for requests and live spans.
    let server = Server::with_memory(config(), 160 << 10).await;
    let body = request((0..200).map(|_| span(1)).collect()).encode_to_vec();
    let small = post(&server, PROTOBUF, "", body[..0].to_vec()).await;
    assert_eq!(small.status(), StatusCode::OK);
    // The budget is used up by a request that does not end.
    let mut stuck = tokio::net::TcpStream::connect(server.http).await.unwrap();
    let head = format!("POST /v1/traces HTTP/1.1\r\nhost: a\r\ncontent-type: {PROTOBUF}\r\ncontent-length: 100000\r\n\r\n");
    tokio::io::AsyncWriteExt::write_all(&mut stuck, head.as_bytes()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stuck, &[0; 90 << 10]).await.unwrap();
    loop {
        let response = post(&server, PROTOBUF, "", body.clone()).await;
        if response.status() == StatusCode::SERVICE_UNAVAILABLE {
            assert_eq!(response.headers()["retry-after"], RETRY_AFTER.as_secs().to_string());
            let (code, message, delay) = refusal(response).await;
            assert_eq!((code, delay), (14, true));
            assert!(message.contains("overloaded"), "{message}");
            break;
        }
        assert_eq!(response.status(), StatusCode::OK, "until the other request has arrived");
    }
    drop(stuck);
    while post(&server, PROTOBUF, "", body.clone()).await.status() != StatusCode::OK {}
}

#[tokio::test]
async fn a_rate_is_told_with_a_delay_and_a_burst_without() {
    let body = request((1..100).map(span).collect()).encode_to_vec();
    let server = Server::with_rate(config(), 1, body.len() as u64).await;
    assert_eq!(post(&server, PROTOBUF, "gzip", compress("gzip", &body)).await.status(), StatusCode::OK);
    for content_type in [PROTOBUF, JSON] {
        let small = encode(content_type, &request((1..10).map(span).collect()));
        let response = post(&server, content_type, "", small).await;
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        let seconds: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!(seconds >= RETRY_AFTER.as_secs());
        let (code, message, delay) = refusal(response).await;
        assert_eq!((code, delay), (8, true));
        assert!(message.starts_with("RATE_LIMITED:"), "{message}");
    }
    let response = post(&server, PROTOBUF, "", [&body[..], &body].concat()).await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert!(response.headers().get("retry-after").is_none());
    assert!(!refusal(response).await.2);
}

#[tokio::test]
async fn an_ingester_that_shuts_down_is_told_with_a_delay() {
    let server = Server::start(config()).await;
    server.ingester.shutdown().await.unwrap();
    let response = post(&server, JSON, "", otlp_json::encode(&request(vec![span(1)]))).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["retry-after"], RETRY_AFTER.as_secs().to_string());
    assert_eq!(refusal(response).await.0, 14);
}

#[tokio::test]
async fn the_tenant_is_in_the_header() {
    let server = Server::start(receivers::Config { multitenancy: true, ..config() }).await;
    let send = async |tenants: &[&str]| {
        let mut post = Client::new().post(server.url()).header("content-type", PROTOBUF);
        for tenant in tenants {
            post = post.header("X-Scope-OrgID", *tenant);
        }
        let response = post.body(request(vec![span(1)]).encode_to_vec()).send().await.unwrap();
        let status = response.status();
        (status, if status.is_success() { 0 } else { refusal(response).await.0 })
    };
    assert_eq!(send(&["team-1"]).await, (StatusCode::OK, 0));
    assert_eq!(send(&[]).await, (StatusCode::UNAUTHORIZED, 16));
    assert_eq!(send(&["a|b"]).await, (StatusCode::BAD_REQUEST, 3));
    assert_eq!(send(&["../x"]).await, (StatusCode::BAD_REQUEST, 3));
    assert_eq!(send(&["a", "b"]).await, (StatusCode::BAD_REQUEST, 3));
    let live = |name: &str| query::LiveData::live(&server.ingester, &model::TenantId::parse(name).unwrap()).len();
    assert_eq!((live("team-1"), live("single-tenant")), (1, 0));
}
