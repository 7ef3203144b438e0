//! Reads that do not come back, and what they cost.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use object_store::{ObjectStore, memory::InMemory};
use storage::{ClientConfig, StorageConfig};
use test_stores::{Fault, Kind, TestStore};

use crate::fixture::{block, storage_over, storage_with, tenant};

/// The first read of a data file stalls.
fn stalling(memory: InMemory) -> Arc<TestStore> {
    let first = AtomicBool::new(true);
    TestStore::with_rule(memory, move |asked| match asked.kind == Kind::Get && asked.ends_with(".parquet") && first.swap(false, SeqCst) {
        true => Fault::Stall,
        false => Fault::None,
    })
}

#[tokio::test]
async fn a_read_that_stalls_is_asked_for_again_and_answered() {
    let memory = InMemory::new();
    let store: Arc<dyn ObjectStore> = Arc::new(memory.clone());
    let written = block(0, 10, "a");
    let entry = Arc::new(storage_over(&store).await.put_block(&tenant(), &written).await.unwrap());
    let stalling = stalling(memory);
    let store: Arc<dyn ObjectStore> = stalling.clone();
    let storage = storage_over(&store).await;
    let open = storage.open_block(&tenant(), &entry).await.unwrap();
    assert_eq!(open.read(&[0..entry.size_bytes]).await.unwrap()[0], written.data);
    assert_eq!((storage.metrics().hedges.get(), storage.metrics().hedges_won.get()), (1, 1));
    assert_eq!(stalling.count(Kind::Get, ".parquet"), 2);
    // The sidecar and two reads of the data; nothing was written by this process.
    assert_eq!((storage.metrics().gets.get(), storage.metrics().puts.get()), (3, 0));
}

/// For as long as the store stands still the reader waits, and then has its answer: nothing is asked twice.
#[tokio::test]
async fn without_hedging_a_store_that_stands_still_is_waited_for() {
    let memory = InMemory::new();
    let store: Arc<dyn ObjectStore> = Arc::new(memory.clone());
    let written = block(0, 10, "a");
    let entry = Arc::new(storage_over(&store).await.put_block(&tenant(), &written).await.unwrap());
    let stalling = stalling(memory);
    let store: Arc<dyn ObjectStore> = stalling.clone();
    let client = ClientConfig { hedge_percent_max: 0, ..ClientConfig::default() };
    let storage = storage_with(&store, StorageConfig { client, ..StorageConfig::default() }).await;
    let open = storage.open_block(&tenant(), &entry).await.unwrap();
    let ranges = [0..entry.size_bytes];
    let goes_on = async {
        stalling.asked(Kind::Get, ".parquet").await;
        stalling.go_on();
    };
    let (read, ()) = tokio::join!(open.read(&ranges), goes_on);
    assert_eq!(read.unwrap()[0], written.data);
    assert_eq!((storage.metrics().hedges.get(), stalling.count(Kind::Get, ".parquet")), (0, 1));
}

#[tokio::test]
async fn what_a_flush_stored_can_be_read_while_the_store_is_away() {
    let away = TestStore::new();
    let store: Arc<dyn ObjectStore> = away.clone();
    let storage = storage_over(&store).await;
    let (flushed, merged) = (block(0, 10, "a"), block(10, 10, "a"));
    let flushed_entry = Arc::new(storage.put_block(&tenant(), &flushed).await.unwrap());
    let merged_entry = Arc::new(storage.put_merged_block(&tenant(), &merged).await.unwrap());
    away.go_away();
    let open = storage.open_block(&tenant(), &flushed_entry).await.unwrap();
    assert_eq!(open.read(&[0..flushed_entry.size_bytes]).await.unwrap()[0], flushed.data);
    // A merged block's rows did not go through the cache, but it is open.
    let open = storage.open_block(&tenant(), &merged_entry).await.unwrap();
    assert_eq!(open.read(&[0..4]).await.unwrap_err().kind(), model::ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_lost_write_of_a_block_is_noticed_before_the_commit() {
    let lossy = TestStore::with_rule(InMemory::new(), |asked| match asked.kind == Kind::Put && asked.ends_with(".parquet") {
        true => Fault::Lost,
        false => Fault::None,
    });
    let store: Arc<dyn ObjectStore> = lossy;
    let error = storage_over(&store).await.put_block(&tenant(), &block(0, 3, "a")).await.unwrap_err();
    assert!(error.to_string().contains(".parquet"), "{error}");
}

#[tokio::test]
async fn a_listing_in_disorder_and_with_repeats_is_read_right() {
    let odd = TestStore::new();
    let store: Arc<dyn ObjectStore> = odd.clone();
    let storage = storage_over(&store).await;
    let table = storage.table(&tenant()).await.unwrap();
    for number in 1..30 {
        let adds = vec![crate::fixture::entry(number)];
        table.commit(storage::Commit { adds, operation: "flush", ..Default::default() }).await.unwrap();
    }
    odd.listing(test_stores::Listing::Disordered);
    let again = storage_over(&store).await;
    assert_eq!(again.table(&tenant()).await.unwrap().snapshot().blocks, table.snapshot().blocks);
    assert_eq!(again.tenants().await.unwrap(), [tenant()]);
    let ages = storage::SweepAges { removed_ms: 0, orphan_ms: 0 };
    assert_eq!(again.sweep(&tenant(), ages, 1_000).await.unwrap(), storage::Swept::default());
}
