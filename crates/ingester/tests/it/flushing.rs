//! Live spans out, into blocks.

use std::sync::Arc;

use bytesize::ByteSize;
use ingester::{FlushError, Ingester, IngesterConfig, PushError};
use model::ErrorKind;
use query::LiveData;
use test_stores::{Fault, Kind, TestStore};

use crate::{Fixture, HOUR, NOW, config, each_once, request, span, storage, tenant};

#[tokio::test]
async fn a_flush_moves_everything_into_the_table_and_frees_memory_and_log() {
    let fixture = Fixture::new().await;
    fixture.push("a", 0..100).await;
    fixture.push("b", 0..10).await;
    fixture.push("a", 100..200).await;
    assert!(fixture.ingester.stats().memory.live > 0);
    let report = fixture.ingester.flush().await.unwrap();
    assert_eq!((report.commits, report.blocks, report.spans, report.segments_removed), (2, 2, 210, 1));

    assert!(fixture.ingester.live(&tenant("a")).is_empty());
    assert_eq!(fixture.found("a").await, each_once(0..200));
    assert_eq!(fixture.found("b").await, each_once(0..10));
    let snapshot = storage(&fixture.store).await.table(&tenant("a")).await.unwrap().snapshot();
    assert_eq!(snapshot.transactions, [(fixture.ingester.ingester_id().to_owned(), 1)].into());
    assert_eq!((snapshot.blocks[0].rows, snapshot.blocks[0].traces), (200, 20));
    let stats = fixture.ingester.stats();
    assert_eq!((stats.memory.live, stats.cuts_waiting, stats.flushed_spans), (0, 0, 210));
    assert!(stats.log.disk_bytes < 1000, "{} bytes of log", stats.log.disk_bytes);

    // Nothing to do is not a commit.
    assert_eq!(fixture.ingester.flush().await.unwrap().commits, 0);
}

#[tokio::test]
async fn spans_of_other_hours_go_to_blocks_of_their_own() {
    let fixture = Fixture::new().await;
    let mut late: Vec<_> = (1000..1010).map(span).collect();
    late.iter_mut().for_each(|s| s.start_time_unix_nano = NOW - 30 * HOUR);
    fixture.push("a", 0..20).await;
    fixture.ingester.push(&tenant("a"), request(late)).await.unwrap();
    assert_eq!(fixture.ingester.flush().await.unwrap().blocks, 2);
    let snapshot = storage(&fixture.store).await.table(&tenant("a")).await.unwrap().snapshot();
    let starts: Vec<i64> = snapshot.blocks.iter().map(|b| b.min_start_unix_nano).collect();
    assert_eq!(starts, [(NOW - 30 * HOUR) as i64, NOW as i64]);
    assert_eq!(fixture.found("a").await, each_once((0..20).chain(1000..1010)));
}

#[tokio::test]
async fn a_span_sent_twice_is_stored_once() {
    let fixture = Fixture::new().await;
    fixture.push("a", 0..10).await;
    fixture.push("a", 5..15).await;
    assert_eq!(fixture.ingester.flush().await.unwrap().spans, 15);
    assert_eq!(fixture.found("a").await, each_once(0..15));
}

/// Waits for what the flusher does by itself.
async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_are_flushed_by_themselves_when_they_are_many_or_old() {
    for change in [
        (|config| IngesterConfig { cut_bytes: ByteSize::kib(1), ..config }) as fn(IngesterConfig) -> IngesterConfig,
        |config| IngesterConfig { live_age_max_ms: 1, ..config },
        |config| IngesterConfig { memory_max: ByteSize::kib(192), ..config },
    ] {
        let fixture = Fixture::with(change).await;
        fixture.push("a", 0..500).await;
        until(|| fixture.ingester.stats().flushed_spans == 500).await;
        assert_eq!(fixture.found("a").await, each_once(0..500));
    }
}

#[tokio::test]
async fn while_the_store_is_away_spans_are_taken_until_memory_is_full_and_none_is_lost() {
    let fixture = Fixture::with(|config| IngesterConfig { memory_max: ByteSize::mib(2), ..config }).await;
    fixture.push("a", 0..10).await;
    fixture.ingester.flush().await.unwrap();
    fixture.store.go_away();
    let mut next = 10;
    let refused = loop {
        match fixture.ingester.push(&tenant("a"), request((next..next + 100).map(span).collect())).await {
            Ok(_) => next += 100,
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, PushError::Memory(_)), "{refused}");
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    assert!(next > 500, "only {next} spans in two mebibytes");
    let failed = fixture.ingester.flush().await.unwrap_err();
    assert!(matches!(failed, FlushError::Store { .. }), "{failed}");

    fixture.store.heal();
    assert_eq!(fixture.found("a").await, each_once(0..next));
    fixture.ingester.flush().await.unwrap();
    assert_eq!(fixture.found("a").await, each_once(0..next));
    assert_eq!(fixture.ingester.stats().memory.live, 0);
    fixture.push("a", [next]).await;
}

#[tokio::test]
async fn one_tenants_failure_is_not_anothers() {
    let fixture = Fixture::new().await;
    fixture.store.rule(|asked| match asked.kind {
        Kind::Put if asked.key.as_ref().starts_with("a/") => Fault::Before,
        _ => Fault::None,
    });
    fixture.push("a", 0..10).await;
    fixture.push("b", 0..10).await;
    fixture.ingester.flush().await.unwrap_err();
    // A later generation of the same tenant waits for the earlier one.
    fixture.push("a", 10..20).await;
    fixture.push("b", 10..20).await;
    fixture.ingester.flush().await.unwrap_err();
    assert!(fixture.ingester.live(&tenant("b")).is_empty());
    let snapshot = storage(&fixture.store).await.table(&tenant("a")).await.unwrap().snapshot();
    assert!(snapshot.transactions.is_empty() && snapshot.blocks.is_empty());

    fixture.store.heal();
    fixture.ingester.flush().await.unwrap();
    for name in ["a", "b"] {
        assert_eq!(fixture.found(name).await, each_once(0..20));
    }
    assert!(fixture.ingester.stats().log.disk_bytes < 1000);
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_not_made_twice() {
    let fixture = Fixture::new().await;
    fixture.push("a", 0..10).await;
    // Every commit arrives, and no answer does; nor can we look.
    fixture.store.rule(|asked| match (asked.is_commit(), asked.kind) {
        (true, Kind::Put) => Fault::After,
        (true, _) => Fault::Before,
        (false, _) => Fault::None,
    });
    let _ = fixture.ingester.flush().await;
    fixture.store.heal();
    fixture.ingester.flush().await.unwrap();
    assert_eq!(fixture.found("a").await, each_once(0..10));
    let snapshot = storage(&fixture.store).await.table(&tenant("a")).await.unwrap().snapshot();
    assert_eq!((snapshot.blocks.len(), snapshot.version), (1, 0));
}

#[tokio::test]
async fn shutdown_leaves_nothing_behind() {
    let fixture = Fixture::new().await;
    fixture.push("a", 0..10).await;
    let report = fixture.ingester.shutdown().await.unwrap();
    assert_eq!(report.spans, 10);
    let refused = fixture.ingester.push(&tenant("a"), request(vec![span(1)])).await.unwrap_err();
    assert!(matches!(refused, PushError::ShuttingDown), "{refused}");
    assert_eq!(refused.kind(), ErrorKind::Unavailable);

    let (store, log) = fixture.crash();
    let next = Fixture::start(&store, log).await;
    assert_eq!(next.ingester.replayed().log.records, 0);
    assert_eq!(next.found("a").await, each_once(0..10));
}

#[tokio::test]
async fn an_ingester_refuses_a_log_in_use() {
    let fixture = Fixture::new().await;
    let store = TestStore::new();
    let refused = Ingester::open(config(fixture.dir.path()), storage(&Arc::clone(&store)).await).await;
    assert!(refused.err().unwrap().to_string().contains("write-ahead log"));
}
