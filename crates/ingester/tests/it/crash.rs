//! The process ends, at each stage between acknowledgement and the removal of the log; the next start makes it good.

use std::sync::Arc;

use bytesize::ByteSize;
use ingester::{Ingester, IngesterConfig};
use test_stores::{Asked, Fault, Kind, TestStore};

use crate::{Fixture, config, copy_log, each_once, storage};

/// Checks the start on what a crash left, before and after its own flush, after one more crash, and with new spans.
async fn each_span_is_found_once(
    (store, log): (Arc<TestStore>, tempfile::TempDir),
    spans: std::ops::Range<u64>,
) -> Fixture {
    store.heal();
    let next = Fixture::start(&store, log).await;
    assert_eq!(next.found("a").await, each_once(spans.clone()), "after the start");
    let log = next.crashed();
    next.ingester.flush().await.unwrap();
    assert_eq!(next.found("a").await, each_once(spans.clone()), "after its flush");
    drop(next);
    let again = Fixture::start(&store, log).await;
    again.ingester.flush().await.unwrap();
    assert_eq!(again.found("a").await, each_once(spans.clone()), "after a crash between flush and removal");
    again.push("a", [spans.end]).await;
    again.ingester.flush().await.unwrap();
    let (store, log) = again.crash();
    let last = Fixture::start(&store, log).await;
    assert_eq!(last.found("a").await, each_once(spans.start..spans.end + 1), "new spans after the crash");
    last
}

#[tokio::test]
async fn before_the_cut() {
    let fixture = Fixture::new().await;
    fixture.push("a", 0..30).await;
    fixture.push("a", 30..60).await;
    each_span_is_found_once(fixture.crash(), 0..60).await;
}

#[tokio::test]
async fn after_the_cut_before_the_block() {
    let fixture = Fixture::new().await;
    fixture.push("a", 0..30).await;
    fixture.store.rule(|asked| if asked.kind == Kind::Put { Fault::Before } else { Fault::None });
    fixture.ingester.flush().await.unwrap_err();
    fixture.push("a", 30..60).await;
    each_span_is_found_once(fixture.crash(), 0..60).await;
}

#[tokio::test]
async fn after_the_block_before_the_commit() {
    let fixture = Fixture::new().await;
    fixture.push("a", 0..30).await;
    fixture.store.rule(|asked| if asked.kind == Kind::Put && asked.is_commit() { Fault::Before } else { Fault::None });
    fixture.ingester.flush().await.unwrap_err();
    fixture.push("a", 30..60).await;
    each_span_is_found_once(fixture.crash(), 0..60).await;
}

#[tokio::test]
async fn after_the_commit_before_the_segments_are_removed() {
    let fixture = Fixture::new().await;
    fixture.push("a", 0..30).await;
    let log = fixture.crashed();
    fixture.ingester.flush().await.unwrap();
    let next = each_span_is_found_once((fixture.store.clone(), log), 0..30).await;
    assert_eq!(next.ingester.replayed().requests, 0);
}

#[tokio::test]
async fn after_the_commit_with_newer_spans_in_the_log() {
    let fixture = Fixture::new().await;
    fixture.push("a", 0..30).await;
    let log = fixture.crashed();
    fixture.ingester.flush().await.unwrap();
    fixture.push("a", 30..60).await;
    copy_log(fixture.dir.path(), log.path());
    each_span_is_found_once((fixture.store.clone(), log), 0..60).await;
}

#[tokio::test]
async fn between_the_commits_of_two_tenants() {
    let fixture = Fixture::new().await;
    fixture.push("a", 0..30).await;
    fixture.push("b", 0..30).await;
    let of_b = |asked: &Asked| asked.kind == Kind::Put && asked.is_commit() && asked.key.as_ref().starts_with("b/");
    fixture.store.rule(move |asked| if of_b(asked) { Fault::Before } else { Fault::None });
    fixture.ingester.flush().await.unwrap_err();
    let next = each_span_is_found_once(fixture.crash(), 0..30).await;
    assert_eq!(next.found("b").await, each_once(0..30));
}

/// One generation of the replay holds requests that a table has and requests that it has not.
#[tokio::test]
async fn a_tenant_whose_table_knows_part_of_the_log_is_found_whole() {
    let fixture = Fixture::new().await;
    fixture.push("a", 0..10).await;
    let log = fixture.crashed();
    fixture.ingester.flush().await.unwrap();
    for round in 1..4 {
        fixture.push("b", round * 10..round * 10 + 10).await;
        copy_log(fixture.dir.path(), log.path());
        fixture.ingester.flush().await.unwrap();
    }
    fixture.push("a", 10..20).await;
    copy_log(fixture.dir.path(), log.path());
    let next = each_span_is_found_once((fixture.store.clone(), log), 0..20).await;
    assert_eq!(next.found("b").await, each_once(10..40));
}

#[tokio::test]
async fn a_log_larger_than_memory_is_flushed_while_it_is_replayed() {
    let fixture = Fixture::with(|config| IngesterConfig { wal_segment_max: ByteSize::kib(16), ..config }).await;
    for i in 0..20 {
        fixture.push("a", i * 100..i * 100 + 100).await;
    }
    let (store, log) = fixture.crash();
    let config = IngesterConfig { cut_bytes: ByteSize::kib(8), memory_max: ByteSize::kib(384), ..config(log.path()) };
    let ingester = Ingester::open(config, storage(&store).await).await.unwrap();
    assert!(ingester.replayed().log.segments > 10);
    assert_eq!(ingester.replayed().spans, 2000);
    assert!(ingester.stats().flushed_spans > 0);
    let next = Fixture { store, dir: log, ingester };
    next.ingester.flush().await.unwrap();
    assert_eq!(next.found("a").await, each_once(0..2000));
}

#[tokio::test]
async fn a_start_waits_for_the_store_to_know_what_the_table_has() {
    let fixture = Fixture::new().await;
    fixture.push("a", 0..30).await;
    let log = fixture.crashed();
    fixture.ingester.flush().await.unwrap();
    fixture.store.go_away();
    let opening = Ingester::open(config(log.path()), storage(&fixture.store).await);
    let store = fixture.store.clone();
    let back = async {
        while store.failed() < 2 {
            tokio::task::yield_now().await;
        }
        store.heal();
    };
    let (ingester, ()) = tokio::join!(opening, back);
    let next = Fixture { store: fixture.store, dir: log, ingester: ingester.unwrap() };
    assert_eq!(next.ingester.replayed().skipped_requests, 1);
    assert_eq!(next.found("a").await, each_once(0..30));
}
