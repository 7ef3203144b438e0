//! An object store that is away, or whose answers get lost: it costs time, and no span.

use std::sync::atomic::Ordering::SeqCst;

use tempfile::TempDir;

use crate::{
    client::Client,
    s3_server::{S3Server, in_bucket},
    server::{Server, Settings, until},
    spans::{TimeRange, request, span_id, trace_id, trace_spans},
};

const RUN: u64 = 23;
const SPANS: u64 = 4;

#[tokio::test]
async fn an_outage_costs_time_only() {
    let (folder, bucket) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let s3 = S3Server::start(bucket.path()).await;
    let settings = in_bucket(Settings::new(folder.path()), s3.address).with("ingester.max_block_duration", "50ms");
    let range = TimeRange::lately();
    let server = Server::start(&settings).await;
    push(&server.client, 0..10, range).await;
    until("the first spans are in a block", async || flushed(&server).await == 10 * SPANS).await;
    assert_eq!(server.client.count("{ }", range).await, 10 * SPANS);

    s3.refuse("");
    push(&server.client, 10..20, range).await;
    let refused = s3.counts().refused.load(SeqCst);
    until("a flush tries again and again", async || s3.counts().refused.load(SeqCst) > refused + 2).await;
    // What is live is found, and what comes is taken.
    push(&server.client, 20..30, range).await;
    found(&server.client, 10..30).await;

    s3.release();
    until("everything is in blocks", async || flushed(&server).await == 30 * SPANS).await;
    assert_eq!(server.client.count("{ }", range).await, 30 * SPANS);
    server.kill();
    let server = Server::start(&settings).await;
    assert_eq!(server.replayed, 0, "what was flushed is not in the log any more");
    assert_eq!(server.client.count("{ }", range).await, 30 * SPANS);
    found(&server.client, 0..30).await;
}

/// The commit of a flush, and each block, may have arrived although the store said that it failed.
#[tokio::test]
async fn writes_whose_answers_are_lost_are_not_made_twice() {
    let (folder, bucket) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let s3 = S3Server::start(bucket.path()).await;
    let settings = in_bucket(Settings::new(folder.path()), s3.address);
    let range = TimeRange::lately();
    let server = Server::start(&settings).await;
    s3.lose_answers("traces/");
    for round in 0..5 {
        push(&server.client, round * 10..(round + 1) * 10, range).await;
        let report = server.client.flush().await;
        assert_eq!((&report["spans"], &report["commits"]), (&(10 * SPANS).into(), &1.into()), "{report}");
        assert_eq!(server.client.count("{ }", range).await, (round + 1) * 10 * SPANS);
    }
    let lost = s3.counts().answers_lost.load(SeqCst);
    assert!(lost >= 5, "only {lost} answers were lost");
    server.kill();
    s3.release();
    let server = Server::start(&settings).await;
    assert_eq!(server.client.count("{ }", range).await, 50 * SPANS);
    found(&server.client, 0..50).await;
}

/// Nothing can be flushed, so the log fills up to its limit: what cannot be kept is not acknowledged.
#[tokio::test]
async fn a_full_log_refuses_and_recovers() {
    let (folder, bucket) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let s3 = S3Server::start(bucket.path()).await;
    let settings = in_bucket(Settings::new(folder.path()), s3.address)
        .with("ingester.max_block_duration", "50ms")
        .with("storage.wal.segment_bytes", "64KiB")
        .with("storage.wal.disk_bytes", "512KiB");
    let range = TimeRange::lately();
    let server = Server::start(&settings).await;
    assert_eq!(server.client.count("{ }", range).await, 0);
    s3.hold("");
    let mut acknowledged = 0;
    let refusal = loop {
        let spans = trace_spans(RUN, acknowledged, 0..64, range);
        match server.client.try_push(request("shop", spans)).await {
            Ok(()) => acknowledged += 1,
            Err(refusal) => break refusal,
        }
        assert!(acknowledged < 1_000, "a log of 512 KiB takes more than 10 MB");
    };
    assert!(acknowledged >= 10, "{acknowledged} requests of about 12 KB fill the log: {refusal}");
    assert_eq!(server.client.count("{ }", range).await, acknowledged * 64, "what was refused is not there");

    s3.release();
    let spans = trace_spans(RUN, acknowledged, 0..64, range);
    let again = request("shop", spans);
    until("the log has room again", async || server.client.try_push(again.clone()).await.is_ok()).await;
    assert_eq!(server.client.count("{ }", range).await, (acknowledged + 1) * 64);
    server.kill();
    let server = Server::start(&settings).await;
    assert_eq!(server.client.count("{ }", range).await, (acknowledged + 1) * 64);
}

async fn push(client: &Client, numbers: std::ops::Range<u64>, range: TimeRange) {
    for number in numbers {
        client.push(request("shop", trace_spans(RUN, number, 0..SPANS, range))).await;
    }
}

async fn found(client: &Client, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let expected = (0..SPANS).map(|index| (span_id(number, index), 1)).collect();
        assert_eq!(client.span_ids(&trace_id(RUN, number)).await, expected, "spans of trace {number}");
    }
}

async fn flushed(server: &Server) -> u64 {
    server.client.metric("sostenuto_ingester_spans_flushed_total").await as u64
}
