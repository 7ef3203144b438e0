//! Indexes of trace ids: when they are made, of what, and that they are asked.

use std::{collections::BTreeSet, sync::Arc};

use block::{promotion::PromotionPolicy, writer::WriterOptions};
use compactor::{Compactor, CompactorConfig};
use model::TraceId;
use proto::otlp::{resource::v1::Resource, trace::v1::Span};
use query::TraceRequest;
use storage::{Commit, Storage, TraceIndexes};
use test_stores::{Kind, TestStore};

use crate::{
    fixture::{HOUR, blocks, eager, engine, flush, open, settle, snapshot, tenant},
    spans::{BASE, Row},
};

/// Traces of a block, each of one span.
const TRACES: u64 = 3;

fn id(hour: u64, trace: u64) -> TraceId {
    TraceId((u128::from(hour) << 64 | u128::from(trace) + 1).to_be_bytes())
}

/// A block for each of these hours.
async fn hours(storage: &Storage, hours: std::ops::Range<u64>) {
    for hour in hours {
        let row = |trace| {
            let start = BASE + hour * HOUR as u64;
            let span = Span {
                trace_id: id(hour, trace).0.into(),
                span_id: (trace + 1).to_be_bytes().into(),
                name: "n".to_owned(),
                kind: 1,
                start_time_unix_nano: start,
                end_time_unix_nano: start + 1,
                ..Default::default()
            };
            Row { resource: Resource::default(), scope: Default::default(), span }
        };
        let rows: Vec<Row> = (0..TRACES).map(row).collect();
        flush(storage, &blocks(&rows, hour + 1, &PromotionPolicy::default(), &WriterOptions::default()), hour as i64 + 1).await;
    }
}

fn config() -> CompactorConfig {
    CompactorConfig { index_blocks_min: 4, ..eager() }
}

/// The blocks of each index, oldest first, as another process finds them.
async fn sizes(store: &Arc<TestStore>) -> Vec<usize> {
    indexes(store).await.heads().iter().map(|head| head.blocks.len()).collect()
}

async fn indexes(store: &Arc<TestStore>) -> Arc<TraceIndexes> {
    open(store).await.trace_indexes(&tenant()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn indexes_grow_together_and_lose_what_is_gone() {
    let store = TestStore::new();
    let storage = open(&store).await;
    let compactor = Compactor::new(config(), storage.clone());
    // What each look makes of as many blocks as it finds.
    for (end, made) in [(3, vec![]), (4, vec![4]), (8, vec![4, 8]), (12, vec![4, 8, 4]), (16, vec![4, 8, 4, 16])] {
        let begin = snapshot(&storage).await.blocks.len() as u64;
        hours(&storage, begin..end).await;
        settle(&compactor).await;
        let mut found = sizes(&store).await;
        let mut made: Vec<usize> = made;
        found.sort_unstable();
        made.sort_unstable();
        assert_eq!(found, made, "{end} blocks");
    }
    assert_eq!(compactor.stats().indexes, 4);

    // Every trace is found by who asks nobody but an index and the one block.
    let elsewhere = engine(&open(&store).await);
    for hour in [0, 5, 15] {
        store.clear_log();
        let found = elsewhere.trace_by_id(&[tenant()], TraceRequest { id: id(hour, 2), range: None }).await.unwrap();
        assert_eq!(found.trace.unwrap().resource_spans.len(), 1, "hour {hour}");
        let sidecars = store.log().into_iter().filter(|asked| asked.kind == Kind::Get && asked.key.as_ref().contains("_side/"));
        let opened: BTreeSet<_> = sidecars.map(|asked| asked.key).collect();
        assert!(opened.len() <= 1, "hour {hour}: {opened:?}");
    }

    // Most blocks go: what is left is written anew.
    let table = storage.table(&tenant()).await.unwrap();
    let removes = snapshot(&storage).await.blocks[3..].to_vec();
    table.commit(Commit { removes, operation: "retain", ..Commit::default() }).await.unwrap();
    settle(&compactor).await;
    let left = snapshot(&storage).await.blocks.clone();
    let indexes = indexes(&store).await;
    let made: Vec<u64> = left.iter().map(|block| indexes.of(block).unwrap().entries).collect();
    assert_eq!(made, [3 * TRACES; 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_compactors_one_makes_the_index() {
    let store = TestStore::new();
    hours(&open(&store).await, 0..8).await;
    let mut working = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let compactor = Compactor::new(config(), open(&store).await);
        working.spawn(async move { settle(&compactor).await });
    }
    working.join_all().await;
    assert_eq!(sizes(&store).await, [8]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_that_cannot_be_read_keeps_no_other_out() {
    let store = TestStore::new();
    let storage = open(&store).await;
    hours(&storage, 0..8).await;
    let poisoned = snapshot(&storage).await.blocks[2].clone();
    let (path, side) = (poisoned.path.clone(), poisoned.id.to_string());
    store.rule(move |asked| match asked.key.as_ref().ends_with(&path) || asked.key.as_ref().contains(&format!("{side}.side")) {
        true => test_stores::Fault::Flip,
        false => test_stores::Fault::None,
    });
    let compactor = Compactor::new(config(), open(&store).await);
    let stop = tokio_util::sync::CancellationToken::new();
    for _ in 0..4 {
        compactor.round(crate::fixture::LATER_UNIX_MS, &stop).await;
    }
    assert_eq!(sizes(&store).await, [7]);
    assert!(indexes(&store).await.of(&poisoned).is_none());
}
