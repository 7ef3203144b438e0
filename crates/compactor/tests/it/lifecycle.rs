//! Compaction seen by those who read and write at the same time.

use std::sync::Arc;

use block::{promotion::PromotionPolicy, writer::WriterOptions};
use compactor::Compactor;
use model::TraceId;
use object_store::ObjectStoreExt;
use proto::otlp::trace::v1::Span;
use query::{Engine, MetricsRequest, SearchFilter, SearchRequest, TraceRequest};
use storage::Storage;
use test_stores::TestStore;
use tokio_util::sync::CancellationToken;

use crate::{
    fixture::{HOUR, LATER_UNIX_MS, blocks, eager, engine, flush, ledger, open, settle, snapshot, tenant},
    spans::{BASE, Row, SECOND, rows},
};

const QUERIES: [&str; 9] = [
    "{ }",
    "{ status = error }",
    "{ span.http.status_code > 200 }",
    "{ resource.service.name = \"orders\" && name = \"query\" }",
    "{ rootServiceName != \"gateway\" } | count() > 1",
    "{ } >> { kind = server }",
    "{ nestedSetParent < 0 } | by(resource.service.name)",
    "{ traceDuration > 1s && span.mixed != nil }",
    "{ span:childCount = 0 && event:name = \"exception\" }",
];
const METRICS: [&str; 3] = [
    "{ } | rate() by (resource.service.name)",
    "{ } | quantile_over_time(duration, 0.5, 0.9)",
    "{ status = error } | count_over_time() by (span.http.method)",
];

/// Everything that a user could see: each trace, and the answers to some queries.
async fn seen(engine: &Engine, rows: &[Row]) -> Vec<String> {
    let tenants = [tenant()];
    let mut ids: Vec<TraceId> = rows.iter().map(|row| TraceId::from_slice(&row.span.trace_id).unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut seen = vec![];
    for id in ids {
        let trace = engine.trace_by_id(&tenants, TraceRequest { id, range: None }).await.unwrap().trace;
        seen.push(format!("{trace:?}"));
    }
    for query in QUERIES {
        let filter = SearchFilter::TraceQl(query.into());
        let request = SearchRequest { filter, range: None, limit: 1000, spans_per_spanset: 0 };
        let found = engine.search(&tenants, request).await.unwrap().traces;
        // `service_stats` is a map without order.
        let found = found.into_iter().map(|mut trace| {
            let stats: std::collections::BTreeMap<_, _> = std::mem::take(&mut trace.service_stats).into_iter().collect();
            format!("{trace:?} {stats:?}")
        });
        seen.push(format!("{query}: {}", found.collect::<Vec<_>>().join("\n")));
    }
    for query in METRICS {
        let request = MetricsRequest {
            query: query.into(),
            start: BASE as i64,
            end: (BASE + 900 * SECOND) as i64,
            step: Some(60 * SECOND as i64),
            exemplars: Some(0),
            exemplars_max: 0,
            series_max: None,
        };
        let mut series: Vec<String> = engine.query_range(&tenants, request).await.unwrap().series.iter().map(|s| format!("{s:?}")).collect();
        series.sort();
        seen.push(format!("{query}: {series:?}"));
    }
    seen
}

async fn flushed(storage: &Storage, rows: &[Row], parts: usize) {
    for (number, part) in rows.chunks(rows.len().div_ceil(parts)).enumerate() {
        // What a block has columns for differs from block to block.
        let rows_min = [1, 8, 1_000_000][number % 3];
        let policy = PromotionPolicy { rows_min, ..PromotionPolicy::default() };
        let options = WriterOptions { row_group_rows: 40, page_rows: 8, packed_page_rows: 8, ..WriterOptions::default() };
        flush(storage, &blocks(part, number as u64 + 1, &policy, &options), number as i64 + 1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_changes() {
    for seed in 20..28 {
        let rows = rows(seed);
        let store = TestStore::new();
        let storage = open(&store).await;
        flushed(&storage, &rows, 7).await;
        let here = engine(&storage);
        let before = seen(&here, &rows).await;
        let blocks_before = snapshot(&storage).await.blocks.len();

        let compactor = Compactor::new(eager(), storage.clone());
        settle(&compactor).await;

        let after = snapshot(&storage).await;
        assert!(after.blocks.len() < blocks_before, "seed {seed}");
        // The same process at once, another one with its next query.
        for engine in [here, engine(&open(&store).await)] {
            for (before, after) in before.iter().zip(seen(&engine, &rows).await) {
                assert_eq!(*before, after, "seed {seed}");
            }
        }
        let found = ledger(&store.inner, &after).await;
        assert!(found.values().all(|count| *count == 1), "seed {seed}");
        assert_eq!(after.transactions["ingester-1"], 7);
        assert_eq!(compactor.stats().aside, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_in_another_process_learns_of_a_compaction() {
    let rows = rows(3);
    let store = TestStore::new();
    let storage = open(&store).await;
    flushed(&storage, &rows, 4).await;
    let elsewhere = engine(&open(&store).await);
    let before = seen(&elsewhere, &rows).await;
    let compactor = Compactor::new(eager(), storage.clone());
    settle(&compactor).await;
    // Its old snapshot's files are gone: only a new snapshot can answer.
    compactor.sweep(LATER_UNIX_MS, &CancellationToken::new()).await;
    assert_eq!(seen(&elsewhere, &rows).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn compactors_and_flushes_at_the_same_time_neither_lose_nor_double() {
    let all = rows(40);
    let (first, later) = all.split_at(all.len() / 2);
    let store = TestStore::new();
    let storage = open(&store).await;
    flushed(&storage, first, 8).await;
    let mut working = tokio::task::JoinSet::new();
    for patience in [true, true, false, false] {
        let storage = open(&store).await;
        working.spawn(async move {
            let mut config = eager();
            if !patience {
                // Claims that are over at once: all the work is done twice, and the commit decides.
                config.claim_lasts = std::time::Duration::ZERO;
            }
            let compactor = Compactor::new(config, storage);
            for _ in 0..20 {
                let round = compactor.round(LATER_UNIX_MS, &CancellationToken::new()).await;
                assert!(round.failures.is_empty(), "{:?}", round.failures);
            }
        });
    }
    for (number, part) in later.chunks(later.len().div_ceil(12)).enumerate() {
        let made = blocks(part, number as u64 + 100, &PromotionPolicy::default(), &WriterOptions::default());
        flush(&storage, &made, number as i64 + 100).await;
        // Whoever looks now finds all that was acknowledged until now.
        let found = ledger(&store.inner, &*snapshot(&storage).await).await;
        let sent = first.len() + later.chunks(later.len().div_ceil(12)).take(number + 1).map(<[Row]>::len).sum::<usize>();
        assert!(all[..sent].iter().all(|row| found.contains_key(&key(row))));
    }
    while let Some(done) = working.join_next().await {
        done.unwrap();
    }
    settle(&Compactor::new(eager(), storage.clone())).await;
    let found = ledger(&store.inner, &*snapshot(&storage).await).await;
    assert!(found.values().all(|count| *count == 1));
    assert!(all.iter().all(|row| found.contains_key(&key(row))));
}

fn key(row: &Row) -> (Vec<u8>, Vec<u8>, i32, i64) {
    let span = &row.span;
    // A kind of a later version is stored as none.
    let kind = if (0..=5).contains(&span.kind) { span.kind } else { 0 };
    (span.trace_id.clone(), span.span_id.clone(), kind, span.start_time_unix_nano as i64)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poison_block_is_set_aside_and_the_others_are_merged() {
    let rows = rows(60);
    let store = TestStore::new();
    let storage = open(&store).await;
    let in_one_window: Vec<Row> = rows
        .into_iter()
        .filter(|row| (BASE..BASE + 600 * SECOND).contains(&row.span.start_time_unix_nano))
        .collect();
    flushed(&storage, &in_one_window, 9).await;
    let poison = Arc::clone(&snapshot(&storage).await.blocks[4]);
    let path = format!("{}/traces/{}", tenant(), poison.path).as_str().into();
    let mut data = store.inner.get(&path).await.unwrap().bytes().await.unwrap().to_vec();
    let middle = data.len() / 3;
    data[middle] ^= 1;
    store.inner.put(&path, data.into()).await.unwrap();

    let compactor = Compactor::new(eager(), open(&store).await);
    let stop = CancellationToken::new();
    let failures = [(); 2].map(|()| ());
    for () in failures {
        let round = compactor.round(LATER_UNIX_MS, &stop).await;
        assert_eq!(round.failures.len(), 1, "{:?}", round.failures);
    }
    settle(&compactor).await;
    let left = snapshot(&storage).await;
    assert!(left.block(poison.id).is_some(), "it stays for whoever can read some of it");
    assert_eq!(left.blocks.len(), 3, "those before it, it, and those behind it");
    assert_eq!((compactor.stats().aside, compactor.stats().failures), (1, 2));
}

/// A table of six blocks in one hour, and the claims of processes that ended while they merged the first `merging` of them.
async fn cut_off(merging: &[usize]) -> (Arc<TestStore>, Storage) {
    let store = TestStore::new();
    let storage = open(&store).await;
    let in_one_window: Vec<Row> =
        rows(61).into_iter().filter(|row| (BASE..BASE + 600 * SECOND).contains(&row.span.start_time_unix_nano)).collect();
    flushed(&storage, &in_one_window, 6).await;
    let mut ids: Vec<_> = snapshot(&storage).await.blocks.iter().map(|block| (block.id, block.window().to_owned())).collect();
    ids.sort();
    assert_eq!(ids.len(), 6);
    for (number, merging) in merging.iter().enumerate() {
        let work: Vec<String> = ids[..*merging].iter().map(|(id, _)| id.to_string()).collect();
        let now = 1_000 * number as u64;
        let claimed = storage.claim(&tenant(), &ids[0].1, |_| Some(work.join(" ")), now, now + 1).await.unwrap();
        assert!(matches!(claimed, storage::ClaimOutcome::Ours(_)));
    }
    (store, storage)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_killed_while_they_merged_condemn_no_block() {
    for killed in [vec![6, 6], vec![6, 6, 6, 6], vec![6, 6, 2]] {
        let (store, storage) = cut_off(&killed).await;
        let compactor = Compactor::new(eager(), storage.clone());
        settle(&compactor).await;
        let left = snapshot(&storage).await;
        assert_eq!((left.blocks.len(), compactor.stats().aside), (1, 0), "{killed:?}");
        assert!(ledger(&store.inner, &left).await.values().all(|count| *count == 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pair_whose_own_merge_was_cut_off_twice_is_set_aside() {
    let (store, storage) = cut_off(&[6, 6, 2, 2]).await;
    // So it is for the next process, too.
    for _ in 0..2 {
        let compactor = Compactor::new(eager(), open(&store).await);
        settle(&compactor).await;
        assert_eq!((snapshot(&storage).await.blocks.len(), compactor.stats().aside), (3, 2));
    }
    // A day later the claims are swept, and it is tried once more.
    let compactor = Compactor::new(eager(), open(&store).await);
    compactor.sweep(LATER_UNIX_MS, &CancellationToken::new()).await;
    settle(&compactor).await;
    assert_eq!((snapshot(&storage).await.blocks.len(), compactor.stats().aside), (1, 0));
}

/// A trace whose spans came in three flushes: into one window, the next, and the first again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_across_the_hour_keeps_its_order() {
    let hour = (BASE / HOUR as u64 + 1) * HOUR as u64;
    let span = |id: u64, start: u64, name: &str| {
        let mut row = rows(1).swap_remove(0);
        row.span = Span {
            trace_id: vec![7; 16],
            span_id: id.to_be_bytes().into(),
            name: name.into(),
            kind: 1,
            start_time_unix_nano: start,
            end_time_unix_nano: start + SECOND,
            ..Default::default()
        };
        row
    };
    // All are roots: the last received is the trace's.
    let received = [
        span(1, hour - 3 * SECOND, "first"),
        span(2, hour + SECOND, "second"),
        span(3, hour - 2 * SECOND, "third"),
        span(4, hour + 2 * SECOND, "fourth"),
    ];
    let store = TestStore::new();
    let storage = open(&store).await;
    flushed(&storage, &received, 4).await;
    let engine = engine(&storage);
    let before = seen(&engine, &received).await;
    assert!(before.iter().any(|answer| answer.contains("fourth")));
    settle(&Compactor::new(eager(), storage.clone())).await;
    assert_eq!(seen(&engine, &received).await, before);
}
