//! The store fails at every single operation of compaction and of the deletion after it, in four ways. Every time each
//! span is there once, readers of the snapshot before can read on, and a new process brings the work to its end.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use block::{promotion::PromotionPolicy, writer::WriterOptions};
use compactor::{Compactor, CompactorConfig};
use futures::TryStreamExt;
use model::TraceId;
use object_store::{ObjectStore, memory::InMemory};
use storage::{IndexHead, Snapshot};
use test_stores::{Outage, TestStore};
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use crate::{
    fixture::{LATER_UNIX_MS, blocks, eager, flush, ledger, open, settle, snapshot, tenant},
    spans::{Row, rows},
};

/// A table of small blocks, and what is in it.
struct Prepared {
    store: InMemory,
    ledger: BTreeMap<(Vec<u8>, Vec<u8>, i32, i64), usize>,
}

async fn prepared() -> Prepared {
    let store = TestStore::new();
    let storage = open(&store).await;
    // Few enough that hundreds of compactions are quick.
    let all: Vec<Row> = rows(5).into_iter().take(48).collect();
    for (number, part) in all.chunks(all.len().div_ceil(4)).enumerate() {
        let blocks = blocks(part, number as u64 + 1, &PromotionPolicy::default(), &WriterOptions::default());
        flush(&storage, &blocks, number as i64 + 1).await;
    }
    let mut ledger = ledger(&store.inner, &*snapshot(&storage).await).await;
    // Copies that came in different flushes are one span afterwards.
    ledger.values_mut().for_each(|count| *count = 1);
    Prepared { store: store.inner.fork(), ledger }
}

fn config() -> CompactorConfig {
    // A crashed process's claims must not keep the next one away for long: the tests' clock goes on.
    CompactorConfig { index_blocks_min: 1, ..eager() }
}

/// What anybody finds is either from before or from after each commit: no span is missing.
async fn nothing_is_missing(store: &Arc<TestStore>, prepared: &Prepared, context: &str) {
    let storage = open(store).await;
    let found = ledger(&store.inner, &*snapshot(&storage).await).await;
    assert_eq!(found.keys().collect::<Vec<_>>(), prepared.ledger.keys().collect::<Vec<_>>(), "{context}");
}

/// Each window is one block, each span is there once, and no file is left that is not needed.
async fn all_is_done(store: &Arc<TestStore>, prepared: &Prepared, context: &str) {
    // A day later, when claims and grace periods are over.
    let storage = open(store).await;
    let compactor = Compactor::new(config(), storage.clone());
    settle(&compactor).await;
    let done = snapshot(&storage).await;
    assert_eq!(ledger(&store.inner, &done).await, prepared.ledger, "{context}");
    assert_eq!(done.transactions["ingester-1"], 4, "{context}");
    compactor.sweep(LATER_UNIX_MS + 2 * 86_400_000, &CancellationToken::new()).await;
    let files = files(&store.inner).await;
    assert_eq!(files.len(), 2 * done.blocks.len(), "{context}: {files:?}");
    assert_eq!(ledger(&store.inner, &done).await, prepared.ledger, "{context}");
    indexed(store, prepared, context).await;
}

/// Every block is in an index, indexes say of every trace where it is, and none is left that is not needed.
async fn indexed(store: &Arc<TestStore>, prepared: &Prepared, context: &str) {
    let storage = open(store).await;
    let done = snapshot(&storage).await;
    let indexes = storage.trace_indexes(&tenant()).await;
    let objects: Vec<_> = store.inner.list(None).try_collect().await.expect("a listing");
    let objects = objects.iter().filter(|object| object.location.as_ref().ends_with(".traces")).count();
    assert_eq!(objects, indexes.heads().len(), "{context}");
    let needed: BTreeSet<_> = done.blocks.iter().map(|block| indexes.of(block).expect(context).id).collect();
    assert_eq!(needed.len(), objects, "{context}");
    let mut places: BTreeMap<TraceId, BTreeSet<Ulid>> = BTreeMap::new();
    for block in &done.blocks {
        let mut alone = Snapshot::clone(&done);
        alone.blocks = vec![block.clone()];
        for (trace, ..) in ledger(&store.inner, &alone).await.into_keys() {
            places.entry(TraceId::from_slice(&trace).expect("16 bytes")).or_default().insert(block.id);
        }
    }
    assert!(!places.is_empty() && places.len() <= prepared.ledger.len(), "{context}");
    let mut entries = 0;
    for (trace, holders) in &places {
        let without = storage.blocks_without(&tenant(), trace, &done.blocks).await;
        assert!(holders.iter().all(|block| !without.contains(block)), "{context}");
        entries += holders.len() as u64;
    }
    let alive = |head: &IndexHead| head.blocks.iter().filter(|block| done.block(block.id).is_some()).map(|block| u64::from(block.traces)).sum::<u64>();
    assert!(indexes.heads().iter().map(|head| alive(head)).sum::<u64>() >= entries, "{context}");
}

async fn files(store: &InMemory) -> Vec<String> {
    let objects: Vec<_> = store.list(None).try_collect().await.expect("a listing");
    let names = objects.into_iter().map(|object| object.location.to_string());
    names.filter(|name| name.ends_with(".parquet") && !name.contains("_delta_log") || name.ends_with(".side")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compaction_may_fail_at_every_operation() {
    let prepared = prepared().await;
    let mut points = 0;
    for fault in Outage::ALL {
        for number in 0.. {
            let store = TestStore::over(prepared.store.fork());
            let storage = open(&store).await;
            let before = snapshot(&storage).await;
            let compactor = Compactor::new(config(), storage);
            store.fail(number, fault);
            compactor.round(LATER_UNIX_MS - 86_400_000, &CancellationToken::new()).await;
            let reached = store.requests() > number;
            store.heal();
            let context = format!("{fault:?} at operation {number}");
            nothing_is_missing(&store, &prepared, &context).await;
            // Who reads the snapshot of before finds its files.
            assert!(ledger(&store.inner, &before).await.keys().eq(prepared.ledger.keys()), "{context}");
            all_is_done(&store, &prepared, &context).await;
            if !reached {
                break;
            }
            points += 1;
        }
    }
    println!("{points} points");
    assert!(points > 100, "{points} points are not every operation");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_may_fail_at_every_operation() {
    let prepared = prepared().await;
    let store = TestStore::over(prepared.store.fork());
    settle(&Compactor::new(config(), open(&store).await)).await;
    let compacted = store.inner.fork();
    for fault in Outage::ALL {
        for number in 0.. {
            let store = TestStore::over(compacted.fork());
            let compactor = Compactor::new(config(), open(&store).await);
            store.fail(number, fault);
            compactor.sweep(LATER_UNIX_MS + 86_400_000, &CancellationToken::new()).await;
            let reached = store.requests() > number;
            store.heal();
            let context = format!("{fault:?} at operation {number}");
            nothing_is_missing(&store, &prepared, &context).await;
            all_is_done(&store, &prepared, &context).await;
            if !reached {
                break;
            }
        }
    }
}
