//! More than the server can take: it says so, keeps what it acknowledged, and takes everything once it can.

use std::collections::BTreeMap;

use futures::future::join_all;
use http::header::RETRY_AFTER;
use tempfile::TempDir;

use crate::{
    client::Client,
    s3_server::{S3Server, in_bucket},
    server::{Server, Settings, until},
    spans::{TimeRange, attribute, request, span_id, trace_id, trace_spans},
};

const RUN: u64 = 37;
/// Senders at the same time, and the requests of each: together several times what the memory holds.
const SENDERS: u64 = 8;
const REQUESTS: u64 = 100;
const SPANS: u64 = 32;
const VALUE_BYTES: usize = 2_000;
const MEMORY: u64 = 32 << 20;
const PROTOBUF: &str = "application/x-protobuf";

/// The store stands still, so nothing can leave memory.
#[tokio::test]
async fn what_memory_cannot_hold_is_refused_and_taken_later() {
    let (folder, bucket) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let s3 = S3Server::start(bucket.path()).await;
    let settings = in_bucket(Settings::new(folder.path()), s3.address)
        .with("ingester.max_block_duration", "50ms")
        .with("ingester.max_memory", "32MiB")
        .with("overrides.defaults.ingestion.rate_limit_bytes", "10GiB");
    let range = TimeRange::lately();
    let server = Server::start(&settings).await;
    // The table is there and known.
    server.client.push(body(0, range)).await;
    until("the first spans are in a block", async || {
        server.client.metric("sostenuto_ingester_spans_flushed_total").await as u64 == SPANS
    })
    .await;
    let before = server.peak_memory_bytes();
    s3.hold("");

    let senders = (0..SENDERS).map(|sender| send_once(&server.client, sender, range));
    let mut refused: Vec<u64> = join_all(senders).await.into_iter().flatten().collect();
    let offered = SENDERS * REQUESTS;
    assert!((refused.len() as u64) < offered, "memory for some was there");
    assert!(refused.len() as u64 > offered / 4, "only {} of {offered} requests were refused", refused.len());
    refused.extend(refused_over_grpc(&server.client, offered + 1, range).await);
    assert!(server.client.metric("sostenuto_ingester_memory_refusals_total").await >= refused.len() as f64);
    // Code and buffers of connections that are touched for the first time count too, and the allocator keeps some back.
    let grown = server.peak_memory_bytes() - before;
    assert!(grown < 3 * MEMORY, "with {MEMORY} bytes for spans the server took {grown}");
    // What is acknowledged is found, and nothing else.
    let last = *refused.iter().max().unwrap();
    let missing = |refused: &[u64]| (last + 1 - refused.len() as u64) * SPANS;
    assert_eq!(server.client.count("{ }", range).await, missing(&refused));

    // As it goes on, and until the end, senders come again.
    s3.release();
    for number in &refused {
        let body = body(*number, range);
        until("the request is taken", async || server.client.try_push(body.clone()).await.is_ok()).await;
    }
    assert_eq!(server.client.count("{ }", range).await, missing(&[]));
    server.kill();
    let server = Server::start(&settings).await;
    for number in 0..=last {
        let expected: BTreeMap<_, _> = (0..SPANS).map(|index| (span_id(number, index), 1)).collect();
        assert_eq!(server.client.span_ids(&trace_id(RUN, number)).await, expected, "spans of trace {number}");
    }
    assert!(server.stop().await.success());
}

/// A request of about 70 KB that does not become smaller in memory.
fn body(number: u64, range: TimeRange) -> Vec<u8> {
    let mut spans = trace_spans(RUN, number, 0..SPANS, range);
    for (index, span) in spans.iter_mut().enumerate() {
        let value = format!("{number} {index} ").repeat(VALUE_BYTES / 8);
        span.attributes.push(attribute("payload", value[..VALUE_BYTES.min(value.len())].to_owned()));
    }
    request("shop", spans)
}

/// Sends each of a sender's requests once; those that were refused.
async fn send_once(client: &Client, sender: u64, range: TimeRange) -> Vec<u64> {
    let mut refused = vec![];
    for number in (1..=REQUESTS).map(|request| sender * REQUESTS + request) {
        let answer = client.post(PROTOBUF, "", body(number, range)).await;
        match answer.status {
            200 => {}
            503 => {
                let seconds = answer.headers.get(RETRY_AFTER).expect("a refusal that passes says when to come again");
                assert!(seconds.to_str().unwrap().parse::<u64>().unwrap() > 0);
                let said = String::from_utf8_lossy(&answer.body).into_owned();
                assert!(said.contains("ingester.max_memory"), "{said}");
                refused.push(number);
            }
            status => panic!("{status}: {}", String::from_utf8_lossy(&answer.body)),
        }
    }
    refused
}

/// Sends until a request is refused; its number.
async fn refused_over_grpc(client: &Client, first: u64, range: TimeRange) -> Option<u64> {
    for number in first..first + 1_000 {
        let answer = client.call("", &body(number, range)).await;
        let text = |name: &str| answer.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        // A call that passes says so behind its message.
        let Some(status) = text("grpc-status") else { continue };
        assert_eq!(status, "14", "UNAVAILABLE: {:?}", text("grpc-message"));
        let details = text("grpc-status-details-bin").expect("details of the refusal");
        let details = base64::Engine::decode(&base64::prelude::BASE64_STANDARD_NO_PAD, details.trim_end_matches('=')).unwrap();
        assert!(String::from_utf8_lossy(&details).contains("google.rpc.RetryInfo"), "{details:?}");
        return Some(number);
    }
    panic!("everything passes over gRPC");
}
