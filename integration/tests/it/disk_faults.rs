//! A disk that takes no more, and blocks that changed on it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::{
    server::{Server, Settings, until},
    spans::{TimeRange, attribute, request, span_id, trace_id, trace_spans},
};

const RUN: u64 = 29;
const SPANS: u64 = 4;

/// A write to the log fails in the middle: the clients in it are told to come again, and everybody else's spans stay.
#[tokio::test]
async fn a_log_that_cannot_grow_loses_nothing() {
    let folder = TempDir::new().unwrap();
    let settings = Settings::new(folder.path());
    let limited = settings.clone().with_files_of_at_most(1024);
    let range = TimeRange::lately();
    let server = Server::start(&limited).await;
    let mut repeated = 0;
    for number in 0..60 {
        // 60 requests of 64 KiB: three times what one file may hold.
        let mut spans = trace_spans(RUN, number, 0..SPANS, range);
        for span in &mut spans {
            span.attributes.extend((0..10).map(|at| attribute(&format!("payload {at}"), "x".repeat(1600))));
        }
        let body = request("shop", spans);
        until("the log takes the request", async || {
            let taken = server.client.try_push(body.clone()).await.is_ok();
            repeated += u64::from(!taken);
            taken
        })
        .await;
    }
    assert!(repeated >= 2, "{repeated} writes failed: the limit was not met");
    let expected = 60 * SPANS;
    assert_eq!(server.client.count("{ }", range).await, expected);
    server.kill();
    let server = Server::start(&settings).await;
    assert_eq!(server.client.count("{ }", range).await, expected);
    for number in 0..60 {
        let expected = (0..SPANS).map(|index| (span_id(number, index), 1)).collect();
        assert_eq!(server.client.span_ids(&trace_id(RUN, number)).await, expected, "spans of trace {number}");
    }
}

/// A changed byte of a block costs that block and is said; nothing wrong is answered.
#[tokio::test]
async fn a_changed_block_is_left_out_and_said() {
    let folder = TempDir::new().unwrap();
    let settings = Settings::new(folder.path());
    let range = TimeRange::lately();
    let server = Server::start(&settings).await;
    let mut files: Vec<PathBuf> = Vec::new();
    for number in 0..3 {
        server.client.push(request("shop", trace_spans(RUN, number, 0..SPANS, range))).await;
        server.client.flush().await;
        let new = blocks(&settings.data().join("blocks")).into_iter().find(|file| !files.contains(file));
        files.push(new.expect("a flush writes a block"));
    }
    assert!(server.stop().await.success());
    let good = fs::read(&files[1]).unwrap();
    for at in [4, good.len() / 3, good.len() / 2, good.len() - 9] {
        let mut bad = good.clone();
        bad[at] ^= 0x20;
        fs::write(&files[1], &bad).unwrap();
        let server = Server::start(&settings).await;
        let parameters = [("q", "{ } | count_over_time()".to_owned()), ("start", range.start_s.to_string()), ("end", range.end_s.to_string())];
        let (status, partial, body) = server.client.get_marked("/api/metrics/query", &parameters).await;
        assert_eq!((status, body["series"][0]["value"].as_f64()), (200, Some(2.0 * SPANS as f64)), "byte {at}: {body}");
        let partial = partial.unwrap_or_else(|| panic!("byte {at}: the answer does not say that it is partial"));
        assert!(partial.contains("1 block"), "byte {at}: {partial}");
        for number in [0, 2] {
            assert_eq!(server.client.span_ids(&trace_id(RUN, number)).await.len() as u64, SPANS, "byte {at}");
        }
        // What comes in is not concerned.
        server.client.push(request("shop", trace_spans(RUN, 0, 0..1, range))).await;
        server.kill();
    }
    fs::write(&files[1], &good).unwrap();
    let server = Server::start(&settings).await;
    assert_eq!(server.client.count("{ }", range).await, 3 * SPANS);
}

fn blocks(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            found.extend(blocks(&entry));
        } else if entry.extension().is_some_and(|extension| extension == "parquet") && !entry.to_str().unwrap().contains("_delta_log") {
            found.push(entry);
        }
    }
    found
}
