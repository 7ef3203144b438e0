//! B29: bodies of Zipkin and Jaeger, whole and damaged, on the ports where they come. What readers do with any bytes is
//! shown by the fuzz targets of `translate`; here the program answers, goes on, and stores what it has acknowledged.

use reqwest::{Method, header};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::UdpSocket;

use super::field;
use crate::{
    client::Access,
    server::{Server, Settings, until},
    spans::TimeRange,
};

/// A span of Jaeger's thrift with this id, in a batch; its first microsecond is `start`.
fn thrift_batch(id: u8, start_us: u64) -> Vec<u8> {
    let process = [&[12, 0, 1, 11, 0, 1, 0, 0, 0, 4][..], b"shop", &[0]].concat();
    let number = |field: u8, value: u64| [&[10, 0, field][..], &value.to_be_bytes()].concat();
    let span = [number(1, id.into()), number(3, id.into()), number(8, start_us), vec![0]].concat();
    [&process[..], &[15, 0, 2, 12, 0, 0, 0, 1], &span, &[0]].concat()
}

/// Its batch in a call of `emitBatch`, in the binary protocol.
fn datagram(id: u8, start_us: u64) -> Vec<u8> {
    [&[0x80, 1, 0, 4, 0, 0, 0, 9][..], b"emitBatch", &[0, 0, 0, 1, 12, 0, 1], &thrift_batch(id, start_us), &[0]].concat()
}

/// A span of Zipkin's first version in thrift.
fn zipkin_thrift(id: u8, start_us: u64) -> Vec<u8> {
    let number = |field: u8, value: u64| [&[10, 0, field][..], &value.to_be_bytes()].concat();
    [&[12, 0, 0, 0, 1][..], &number(1, id.into()), &number(4, id.into()), &number(10, start_us), &[0]].concat()
}

fn zipkin_protobuf(id: u8, start_us: u64) -> Vec<u8> {
    let time = [&[0x31][..], &start_us.to_le_bytes()].concat();
    field(1, &[field(1, &[id; 16]), field(3, &[id; 8]), field(5, b"get"), time].concat())
}

/// A call of `PostSpans`.
fn jaeger_protobuf(id: u8, start_us: u64) -> Vec<u8> {
    let mut seconds = vec![8];
    prost::encoding::encode_varint(start_us / 1_000_000, &mut seconds);
    let span = [field(1, &[id; 16]), field(2, &[id; 8]), field(3, b"get"), field(6, &seconds)].concat();
    let batch = [field(1, &span), field(2, &field(1, b"shop"))].concat();
    let message = field(1, &batch);
    [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat()
}

/// The body cut at many places, and with one bit turned at as many; `steps` apart.
fn damaged(body: &[u8], steps: usize) -> Vec<Vec<u8>> {
    let cut = (0..body.len()).step_by(steps).map(|length| body[..length].to_vec());
    let turned = (0..body.len()).step_by(steps).map(|at| {
        let mut body = body.to_vec();
        body[at] ^= 1 << (at % 8);
        body
    });
    cut.chain(turned).collect()
}

fn settings(folder: &TempDir) -> Settings {
    let endpoint = json!({ "endpoint": "127.0.0.1:0" });
    let jaeger = json!({ "grpc": endpoint, "thrift_http": endpoint, "thrift_compact": endpoint, "thrift_binary": endpoint });
    Settings::new(folder.path())
        .with("server.jaeger_query_endpoint", "127.0.0.1:0")
        .with("distributor.receivers.zipkin", endpoint)
        .with("distributor.receivers.jaeger.protocols", jaeger)
}

async fn accepted(server: &Server) -> f64 {
    server.client.metric("sostenuto_ingester_spans_accepted_total").await
}

#[tokio::test]
async fn damaged_bodies_are_answered_and_cost_nothing_else() {
    let folder = TempDir::new().unwrap();
    let server = Server::start(&settings(&folder)).await;
    let start_us = TimeRange::lately().start_s * 1_000_000;
    let zipkin = json!([{ "traceId": "1", "id": "1", "timestamp": start_us, "name": "get", "localEndpoint": { "serviceName": "shop" }, "tags": { "a": "b" } }]);
    let zipkin = zipkin.to_string().into_bytes();
    let grpc = "/jaeger.api_v2.CollectorService/PostSpans";
    let forms: [(&str, &str, &str, Vec<u8>); 6] = [
        ("zipkin", "/api/v2/spans", "application/json", zipkin.clone()),
        ("zipkin", "/api/v1/spans", "application/json", zipkin),
        ("zipkin", "/api/v2/spans", "application/x-protobuf", zipkin_protobuf(2, start_us)),
        ("zipkin", "/api/v1/spans", "application/x-thrift", zipkin_thrift(3, start_us)),
        ("jaeger_thrift_http", "/api/traces", "application/x-thrift", thrift_batch(4, start_us)),
        ("jaeger_grpc", grpc, "application/grpc", jaeger_protobuf(5, start_us)),
    ];
    for (port, path, content_type, body) in &forms {
        let builder = Access::default().builder();
        let client = if path == &grpc { builder.http2_prior_knowledge() } else { builder }.build().unwrap();
        let send = async |body: Vec<u8>| {
            let post = client.request(Method::POST, format!("http://{}{path}", server.address(port)));
            let answer = post.header(header::CONTENT_TYPE, *content_type).body(body).send().await.unwrap();
            match answer.headers().get("grpc-status").map(|status| status.to_str().unwrap().to_owned()).as_deref() {
                Some("3") => 400,
                Some("8") => 413,
                Some(other) => panic!("{path}: gRPC's {other}"),
                None => answer.status().as_u16(),
            }
        };
        let before = accepted(&server).await;
        assert!(matches!(send(body.clone()).await, 200 | 202), "{path} {content_type}");
        assert_eq!(accepted(&server).await - before, 1.0, "{path} {content_type}");
        for damaged in damaged(body, 3) {
            let status = send(damaged.clone()).await;
            assert!(matches!(status, 200 | 202 | 400 | 413), "{path} {content_type}: {status} for {damaged:x?}");
        }
        for bomb in [vec![12, 0x7f, 0xff, 0xff, 0xff], vec![0xff; 3_000], vec![b'['; 100_000], [15, 0, 99].repeat(20_000), [12, 0, 99].repeat(20_000)] {
            let status = send(bomb).await;
            assert!(matches!(status, 400 | 413), "{path} {content_type}: {status}");
        }
        assert!(matches!(send(body.clone()).await, 200 | 202), "{path} {content_type} after all that");
    }
    assert!(!server.log().contains("panic"), "{}", server.log());
}

#[tokio::test]
async fn damaged_datagrams_are_counted() {
    let folder = TempDir::new().unwrap();
    let server = Server::start(&settings(&folder)).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let start_us = TimeRange::lately().start_s * 1_000_000;
    let good = datagram(6, start_us);
    let metric = async |name: &str| {
        let (_, metrics) = server.client.get("/metrics", &[]).await;
        let lines = metrics.as_str().unwrap().lines().filter(|line| line.starts_with(name)).map(str::to_owned).collect::<Vec<_>>();
        lines.iter().map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum::<f64>()
    };
    let mut sent = 0.0;
    for port in ["jaeger_thrift_binary", "jaeger_thrift_compact"] {
        for damaged in damaged(&good, 2) {
            socket.send_to(&damaged, server.address(port)).await.unwrap();
            sent += 1.0;
            // What the system drops of a burst proves nothing, so there is none.
            until("the datagram was taken", async || metric("sostenuto_receiver_datagrams_received_total").await == sent).await;
        }
    }
    until("some were found damaged", async || metric("sostenuto_receiver_datagrams_dropped_total").await > 50.0).await;
    let before = accepted(&server).await;
    socket.send_to(&datagram(7, start_us), server.address("jaeger_thrift_binary")).await.unwrap();
    until("a good one is stored", async || accepted(&server).await == before + 1.0).await;
    assert!(!server.log().contains("panic"), "{}", server.log());
}
