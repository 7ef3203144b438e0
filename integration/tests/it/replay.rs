//! Killed while it waits, in the middle of its start, for an object store that does not answer.
//!
//! The log sets a record aside whose replay ends the process twice. Waiting is not such an end: whoever is killed again
//! and again until the store is back loses nothing.

use std::sync::atomic::Ordering::SeqCst;

use tempfile::TempDir;

use crate::{
    s3_server::{S3Server, in_bucket},
    server::{Server, Settings, Starting, until},
    spans::{TimeRange, request, span_id, trace_id, trace_spans},
};

const RUN: u64 = 11;
const TRACES: u64 = 5;
const SPANS: u64 = 4;
const KILLS: usize = 3;

#[tokio::test]
async fn kills_while_the_store_is_away_lose_nothing() {
    let (folder, bucket) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let s3 = S3Server::start(bucket.path()).await;
    let settings = in_bucket(Settings::new(folder.path()), s3.address);
    let range = TimeRange::lately();
    let server = Server::start(&settings).await;
    // One block, so that there is a table whose answer a start needs.
    server.client.push(request("shop", trace_spans(RUN, 0, 0..SPANS, range))).await;
    server.client.flush().await;
    for number in 1..TRACES {
        server.client.push(request("shop", trace_spans(RUN, number, 0..SPANS, range))).await;
    }
    server.kill();

    s3.hold("_delta_log");
    for _ in 0..KILLS {
        let before = s3.counts().asked_and_held.load(SeqCst);
        let starting = Starting::spawn(&settings);
        until("the start asks the store for the table", async || s3.counts().asked_and_held.load(SeqCst) > before).await;
        starting.kill();
    }
    s3.release();

    let server = Server::start(&settings).await;
    assert_eq!(server.client.count("{ }", range).await, TRACES * SPANS);
    for number in 0..TRACES {
        let expected = (0..SPANS).map(|index| (span_id(number, index), 1)).collect();
        assert_eq!(server.client.span_ids(&trace_id(RUN, number)).await, expected, "spans of trace {number}");
    }
}
