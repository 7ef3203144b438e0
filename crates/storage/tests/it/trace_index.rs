//! Indexes of trace ids: what they say, what becomes of damaged ones, and which are deleted.

use std::{collections::HashSet, sync::Arc};

use futures::TryStreamExt;
use model::TraceId;
use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory};
use storage::{BlockEntry, Commit, IndexBuilder, Storage, StorageConfig, SweepAges};
use test_stores::Dice;
use ulid::Ulid;

use crate::fixture::{entry, storage_with, tenant};

async fn open(store: &InMemory) -> Storage {
    let store: Arc<dyn ObjectStore> = Arc::new(store.clone());
    storage_with(&store, StorageConfig::default()).await
}

/// Blocks that lie in the table as far as the log knows, each with traces of its own and one that all have.
async fn blocks(store: &InMemory, numbers: std::ops::Range<u128>) -> Vec<Arc<BlockEntry>> {
    let storage = open(store).await;
    let adds: Vec<BlockEntry> = numbers.map(|number| BlockEntry { chunks_crc32c: number as u32, ..entry(number + 1) }).collect();
    let table = storage.table(&tenant()).await.unwrap();
    table.commit(Commit { adds: adds.clone(), operation: "flush", ..Commit::default() }).await.unwrap();
    adds.into_iter().map(Arc::new).collect()
}

const COMMON: TraceId = TraceId([7; 16]);

fn traces(block: &BlockEntry, count: u64) -> Vec<TraceId> {
    let mut dice = Dice::new(block.id.0 as u64);
    let mut random = || (dice.below(1 << 30) as u128) << 64 | dice.below(1 << 30) as u128;
    (1..count).map(|_| TraceId(random().to_be_bytes())).chain([COMMON]).collect()
}

fn builder(blocks: &[Arc<BlockEntry>], count: u64) -> IndexBuilder {
    let mut builder = IndexBuilder::default();
    for block in blocks {
        let number = builder.block(block);
        traces(block, count).iter().for_each(|id| builder.trace(number, id));
    }
    builder
}

fn ids(blocks: &[Arc<BlockEntry>]) -> HashSet<Ulid> {
    blocks.iter().map(|block| block.id).collect()
}

/// The blocks of which the indexes do not say that they are without the trace.
async fn left(storage: &Storage, id: &TraceId, blocks: &[Arc<BlockEntry>]) -> HashSet<Ulid> {
    let without = storage.blocks_without(&tenant(), id, blocks).await;
    ids(blocks).difference(&without).copied().collect()
}

async fn objects(store: &InMemory, part: &str) -> Vec<object_store::path::Path> {
    let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
    listed.into_iter().map(|object| object.location).filter(|key| key.as_ref().contains(part)).collect()
}

#[tokio::test]
async fn of_every_trace_the_blocks_that_have_it_are_left() {
    // One range, and several.
    for count in [1, 50, 9_000] {
        let store = InMemory::new();
        let blocks = blocks(&store, 0..10).await;
        let head = open(&store).await.put_trace_index(&tenant(), builder(&blocks, count)).await.unwrap();
        assert_eq!((head.blocks.len(), head.entries), (10, 10 * count));
        assert!(head.blocks.iter().all(|block| u64::from(block.traces) == count));
        let storage = open(&store).await;
        assert_eq!(left(&storage, &COMMON, &blocks).await, ids(&blocks));
        for block in &blocks {
            for trace in traces(block, count).iter().take(40) {
                assert!(left(&storage, trace, &blocks).await.contains(&block.id));
            }
        }
        assert_eq!(left(&storage, &TraceId([8; 16]), &blocks).await, HashSet::new());
        assert_eq!(storage.metrics().trace_index_failures.get(), 0);
        // Blocks that it does not cover, or whose bytes are others, are left.
        let strange = Arc::new(entry(99));
        let other = Arc::new(BlockEntry { chunks_crc32c: 77, ..entry(3) });
        let asked: Vec<_> = blocks[3..].iter().cloned().chain([strange.clone(), other.clone()]).collect();
        assert_eq!(left(&storage, &TraceId([8; 16]), &asked).await, [strange.id, other.id].into());
    }
}

#[tokio::test]
async fn an_index_is_made_of_others() {
    let store = InMemory::new();
    let blocks = blocks(&store, 0..12).await;
    let storage = open(&store).await;
    let first = storage.put_trace_index(&tenant(), builder(&blocks[..8], 30)).await.unwrap();
    let mut both = builder(&blocks[8..], 30);
    // Two of its blocks are gone.
    storage.copy_trace_index(&tenant(), &first, &blocks[2..8], &mut both).await.unwrap();
    let second = storage.put_trace_index(&tenant(), both).await.unwrap();
    assert_eq!((second.blocks.len(), second.entries), (10, 300));
    let storage = open(&store).await;
    assert_eq!(left(&storage, &COMMON, &blocks).await, ids(&blocks));
    for block in &blocks {
        // The older index covers too few of them still to be asked.
        assert_eq!(left(&storage, &traces(block, 30)[0], &blocks).await, [blocks[0].id, blocks[1].id, block.id].into());
    }
    assert_eq!(storage.trace_indexes(&tenant()).await.of(&blocks[5]).unwrap().id, second.id);
    assert_eq!(storage.trace_indexes(&tenant()).await.of(&blocks[0]).unwrap().id, first.id);
    // A lost one adds nothing.
    store.delete(&objects(&store, &first.id.to_string()).await[0]).await.unwrap();
    let mut untouched = builder(&blocks[..1], 1);
    storage.copy_trace_index(&tenant(), &first, &blocks, &mut untouched).await.unwrap_err();
    assert_eq!(storage.put_trace_index(&tenant(), untouched).await.unwrap().entries, 1);
}

#[tokio::test]
async fn bits_that_flip_in_an_index_are_noticed() {
    let store = InMemory::new();
    let blocks = blocks(&store, 0..6).await;
    open(&store).await.put_trace_index(&tenant(), builder(&blocks, 40)).await.unwrap();
    let key = objects(&store, "_index/").await.remove(0);
    let bytes = store.get(&key).await.unwrap().bytes().await.unwrap();
    let mut dice = Dice::new(20);
    let absent = TraceId([8; 16]);
    for round in 0..2_000 {
        let damaged = store.fork();
        let mut flipped = bytes.to_vec();
        let bit = dice.flip(&mut flipped);
        // Cut short, now and then.
        if round % 10 == 0 {
            flipped.truncate(bit / 8);
        }
        damaged.put(&key, flipped.into()).await.unwrap();
        let storage = open(&damaged).await;
        // As good as not there, whether its head or its range is damaged; and no longer asked.
        for _ in 0..2 {
            assert_eq!(left(&storage, &COMMON, &blocks).await, ids(&blocks), "bit {bit}");
            assert_eq!(left(&storage, &absent, &blocks).await, ids(&blocks), "bit {bit}");
        }
        assert_eq!(storage.metrics().trace_index_failures.get(), 1, "bit {bit}");
        assert!(storage.trace_indexes(&tenant()).await.heads().is_empty(), "bit {bit}");
    }
}

#[tokio::test]
async fn needless_indexes_go_and_no_others() {
    let store = InMemory::new();
    let blocks = blocks(&store, 0..12).await;
    let storage = open(&store).await;
    let put = async |blocks: &[Arc<BlockEntry>]| storage.put_trace_index(&tenant(), builder(blocks, 5)).await.unwrap().id;
    let mut made = vec![];
    for covered in [&blocks[..4], &blocks[..8], &blocks[8..]] {
        made.push(put(covered).await);
    }
    assert!(made.is_sorted());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let ages = SweepAges { removed_ms: 900_000, orphan_ms: 86_400_000 };
    let damaged = objects(&store, &made[0].to_string()).await[0].to_string().replace(&made[0].to_string(), &Ulid(5).to_string());
    store.put(&damaged.as_str().into(), "no index".into()).await.unwrap();
    // Not before readers of older snapshots have done with them.
    assert_eq!(storage.sweep(&tenant(), ages, now + 60_000).await.unwrap().indexes, 0);
    assert_eq!(storage.sweep(&tenant(), ages, now + 1_000_000).await.unwrap().indexes, 1);
    assert_eq!(objects(&store, &made[0].to_string()).await, []);
    assert_eq!(storage.sweep(&tenant(), ages, now + 90_000_000).await.unwrap().indexes, 1);
    assert_eq!(objects(&store, "_index/").await.len(), 2);
    // Of whose blocks the table has none any more.
    let table = storage.table(&tenant()).await.unwrap();
    let removes = table.snapshot().blocks.iter().filter(|block| ids(&blocks[8..]).contains(&block.id)).cloned().collect();
    table.commit(Commit { removes, operation: "retain", ..Commit::default() }).await.unwrap();
    assert_eq!(storage.sweep(&tenant(), ages, now + 1_000_000).await.unwrap().indexes, 1);
    assert_eq!(objects(&store, &made[1].to_string()).await.len(), 1);
    assert_eq!(storage.trace_indexes(&tenant()).await.heads().len(), 1);
    assert_eq!(left(&open(&store).await, &TraceId([8; 16]), &blocks[..8]).await, HashSet::new());
}
