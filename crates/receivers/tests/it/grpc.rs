//! OTLP/gRPC with tonic's client, and frames that no client sends.

use bytes::Bytes;
use prost::Message;
use proto::otlp::collector::trace::v1::{ExportTraceServiceResponse, trace_service_client::TraceServiceClient};
use tonic::{
    Code, Request, Status,
    codec::CompressionEncoding,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;

use crate::setup::{RETRY_AFTER, Server, bad_span, config, large_request, request, span};

async fn client(server: &Server) -> TraceServiceClient<Channel> {
    TraceServiceClient::connect(format!("http://{}", server.grpc)).await.unwrap()
}

/// Refused for good: nothing makes an OTLP client send it again.
fn assert_final(status: &Status, code: Code) {
    assert_eq!(status.code(), code, "{status:?}");
    assert!(status.get_details_retry_info().is_none(), "{status:?}");
}

fn assert_retryable(status: &Status, code: Code) {
    assert_eq!(status.code(), code, "{status:?}");
    let delay = status.get_details_retry_info().expect("RetryInfo").retry_delay.unwrap();
    assert!(delay >= RETRY_AFTER, "{delay:?}");
}

#[tokio::test]
async fn spans_are_taken_plain_and_compressed() {
    let server = Server::start(config()).await;
    let mut stored = 0;
    for encoding in [None, Some(CompressionEncoding::Gzip), Some(CompressionEncoding::Zstd)] {
        let mut client = client(&server).await.accept_compressed(CompressionEncoding::Gzip);
        if let Some(encoding) = encoding {
            client = client.send_compressed(encoding);
        }
        let answer = client.export(request((1..100).map(span).collect())).await.unwrap().into_inner();
        assert_eq!(answer, ExportTraceServiceResponse::default());
        stored += 99;
        assert_eq!(server.stored(), stored, "{encoding:?}");
        client.export(request(vec![])).await.unwrap();
    }
}

#[tokio::test]
async fn bad_spans_are_told_and_good_ones_kept() {
    let server = Server::start(config()).await;
    let mut client = client(&server).await;
    let answer = client.export(request(vec![span(1), bad_span()])).await.unwrap().into_inner();
    let partial = answer.partial_success.unwrap();
    assert_eq!((partial.rejected_spans, server.stored()), (1, 1));
    assert!(partial.error_message.contains("invalid_trace_id"), "{}", partial.error_message);

    let status = client.export(request(vec![bad_span()])).await.unwrap_err();
    assert_final(&status, Code::InvalidArgument);
    assert!(status.get_details_bad_request().is_some());
}

#[tokio::test]
async fn too_large_is_final_and_too_fast_is_not() {
    let body = request((1..100).map(span).collect());
    let server = Server::with_rate(config(), 1, body.encoded_len() as u64).await;
    let mut plain = client(&server).await;
    let mut zipped = client(&server).await.send_compressed(CompressionEncoding::Gzip);
    for client in [&mut plain, &mut zipped] {
        assert_final(&client.export(large_request()).await.unwrap_err(), Code::ResourceExhausted);
    }
    plain.export(body.clone()).await.unwrap();
    assert_retryable(&plain.export(request(vec![span(1); 20])).await.unwrap_err(), Code::ResourceExhausted);
    let twice = request((1..200).map(span).collect());
    assert_final(&plain.export(twice).await.unwrap_err(), Code::ResourceExhausted);
}

#[tokio::test]
async fn an_ingester_that_shuts_down_is_unavailable() {
    let server = Server::start(config()).await;
    server.ingester.shutdown().await.unwrap();
    let status = client(&server).await.export(request(vec![span(1)])).await.unwrap_err();
    assert_retryable(&status, Code::Unavailable);
}

#[tokio::test]
async fn the_tenant_is_in_the_metadata() {
    let server = Server::start(receivers::Config { multitenancy: true, ..config() }).await;
    let mut client = client(&server).await;
    let mut send = async |tenants: &[&str]| {
        let mut request = Request::new(request(vec![span(1)]));
        for tenant in tenants {
            request.metadata_mut().append("x-scope-orgid", tenant.parse().unwrap());
        }
        client.export(request).await.map_or_else(|status| status.code(), |_| Code::Ok)
    };
    assert_eq!(send(&["team-1"]).await, Code::Ok);
    assert_eq!(send(&[]).await, Code::Unauthenticated);
    assert_eq!(send(&[".."]).await, Code::InvalidArgument);
    assert_eq!(send(&["a", "a"]).await, Code::InvalidArgument);
}

#[tokio::test]
async fn other_services_are_unimplemented() {
    let server = Server::start(config()).await;
    let channel = Endpoint::from_shared(format!("http://{}", server.grpc)).unwrap().connect_lazy();
    let mut client = TraceServiceClient::with_origin(channel, "http://host/prefix".parse().unwrap());
    let status = client.export(request(vec![span(1)])).await.unwrap_err();
    assert_final(&status, Code::Unimplemented);
    assert!(status.message().contains("TraceService/Export"), "{status:?}");
}

#[tokio::test]
async fn frames_that_lie_cost_only_their_call() {
    let server = Server::start(config()).await;
    let http = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let url = format!("http://{}/opentelemetry.proto.collector.trace.v1.TraceService/Export", server.grpc);
    let message = request(vec![span(1)]).encode_to_vec();
    let frame = |flag: u8, length: u32, message: &[u8]| {
        Bytes::from([&[flag][..], &length.to_be_bytes(), message].concat())
    };
    let whole = frame(0, message.len() as u32, &message);
    let unsupported = "snappy";
    for (what, encoding, body, code) in [
        ("whole", "", whole.clone(), Code::Ok),
        ("empty body", "", Bytes::new(), Code::InvalidArgument),
        ("empty message", "", frame(0, 0, b""), Code::Ok),
        ("cut prefix", "", whole.slice(..3), Code::InvalidArgument),
        ("cut message", "", whole.slice(..whole.len() - 1), Code::InvalidArgument),
        ("length of 4 GiB", "", frame(0, u32::MAX, &message), Code::ResourceExhausted),
        ("two messages", "", [&whole[..], &whole].concat().into(), Code::InvalidArgument),
        ("unknown flag", "", frame(7, message.len() as u32, &message), Code::InvalidArgument),
        ("compressed, not told how", "", frame(1, message.len() as u32, &message), Code::InvalidArgument),
        ("broken gzip", "gzip", frame(1, message.len() as u32, &message), Code::InvalidArgument),
        ("told gzip, not compressed", "gzip", whole.clone(), Code::Ok),
        ("unsupported encoding", unsupported, frame(1, 1, b"x"), Code::Unimplemented),
        ("not a request", "", frame(0, 3, b"\x0a\x05\x00"), Code::InvalidArgument),
    ] {
        let call = http.post(&url).header("content-type", "application/grpc").header("te", "trailers");
        let call = if encoding.is_empty() { call } else { call.header("grpc-encoding", encoding) };
        let response = call.body(body).send().await.unwrap();
        assert_eq!(response.status(), 200, "{what}");
        // A call that succeeds has its status in the trailers.
        let status = response.headers().get("grpc-status").map_or("0", |status| status.to_str().unwrap());
        assert_eq!(Code::from_bytes(status.as_bytes()), code, "{what}");
        if code == Code::Unimplemented {
            assert_eq!(response.headers()["grpc-accept-encoding"], "identity,gzip,zstd,deflate");
        }
    }
    let response = http.post(&url).header("content-type", "application/json").body("{}").send().await.unwrap();
    assert_eq!(response.status(), 415);
    let mut client = client(&server).await;
    client.export(request(vec![span(1)])).await.unwrap();
}
