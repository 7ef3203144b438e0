//! Bits that flip at rest, in files of every kind: each is noticed, harmless, or mended, and none is believed.
//!
//! The log of the ingester has its own test, and so has what queries make of it.

use std::{io::Write, sync::Arc};

use bytes::Bytes;
use futures::TryStreamExt;
use model::ErrorKind;
use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory, path::Path};
use storage::{Backend, BlockEntry, ClaimOutcome, Commit, Snapshot, Storage, StorageConfig, StorageError, TableConfig};
use test_stores::Dice;

use crate::fixture::{block, padded_block, storage_with, tenant};

/// A table of three blocks with a checkpoint, commits after it, and claims.
struct Table {
    store: InMemory,
    snapshot: Arc<Snapshot>,
    data: Vec<(Arc<BlockEntry>, Bytes)>,
}

fn config() -> StorageConfig {
    let table = TableConfig { checkpoint_commits: 3, ..TableConfig::default() };
    let mut config = StorageConfig { backend: Backend::S3, table, ..StorageConfig::default() };
    config.cache.chunks_memory = bytesize::ByteSize::mib(1);
    config
}

async fn open(store: &InMemory) -> Storage {
    Storage::with_store(Arc::new(store.clone()), &config()).await.unwrap()
}

fn claiming(_: &[String]) -> Option<String> {
    Some("work".to_owned())
}

async fn table() -> Table {
    let store = InMemory::new();
    let storage = open(&store).await;
    let table = storage.table(&tenant()).await.unwrap();
    let mut data = vec![];
    for number in 0..5_u64 {
        let written = block(number * 3, 3, if number % 2 == 0 { "a" } else { "b" });
        let entry = storage.put_block(&tenant(), &written).await.unwrap();
        let transaction = Some(("ingester-0".to_owned(), number as i64));
        // The third takes the place of the second.
        let removes = (number == 2).then(|| table.snapshot().blocks[1].clone()).into_iter().collect();
        if number == 2 {
            data.pop();
        }
        data.push((Arc::new(entry.clone()), written.data.clone()));
        table.commit(Commit { adds: vec![entry], removes, transaction, operation: "flush", ..Commit::default() }).await.unwrap();
    }
    for now in [1_000, 3_000] {
        storage.claim(&tenant(), "2026-11-21T07", claiming, now, now + 1_000).await.unwrap();
    }
    let snapshot = storage.table(&tenant()).await.unwrap().snapshot();
    assert_eq!((snapshot.version, snapshot.blocks.len()), (4, 4));
    Table { store, snapshot, data }
}

impl Table {
    /// The objects whose keys contain `part`.
    async fn objects(&self, part: &str) -> Vec<(Path, Bytes)> {
        let listed: Vec<_> = self.store.list(None).try_collect().await.unwrap();
        let mut objects = vec![];
        for key in listed.into_iter().map(|object| object.location).filter(|key| key.as_ref().contains(part)) {
            let bytes = self.store.get(&key).await.unwrap().bytes().await.unwrap();
            objects.push((key, bytes));
        }
        assert!(!objects.is_empty(), "{part}");
        objects
    }

    /// A copy of the store in which one bit of one of `objects` is another; and which.
    async fn flipped(&self, objects: &[(Path, Bytes)], dice: &mut Dice) -> (InMemory, Path, String) {
        let (key, bytes) = &objects[dice.below(objects.len())];
        let mut damaged = bytes.to_vec();
        let bit = dice.flip(&mut damaged);
        let store = self.store.fork();
        store.put(key, damaged.into()).await.unwrap();
        (store, key.clone(), format!("bit {bit} of {key}"))
    }

    fn block_of(&self, key: &Path) -> &(Arc<BlockEntry>, Bytes) {
        self.data.iter().find(|(entry, _)| key.as_ref().contains(&entry.id.to_string())).unwrap()
    }
}

fn is_corrupt(error: &StorageError, context: &str) {
    assert!(matches!(error, StorageError::Corrupt { .. }), "{context}: {error}");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{context}");
}

#[tokio::test]
async fn of_a_block() {
    let table = table().await;
    let objects = table.objects(".parquet").await;
    let objects: Vec<_> = objects.into_iter().filter(|(key, _)| table.snapshot.blocks.iter().any(|b| key.as_ref().ends_with(&b.path))).collect();
    let mut dice = Dice::new(1);
    for _ in 0..3_000 {
        let (store, key, context) = table.flipped(&objects, &mut dice).await;
        let (entry, data) = table.block_of(&key);
        let open = open(&store).await.open_block(&tenant(), entry).await.unwrap();
        is_corrupt(&open.read(&[0..entry.size_bytes]).await.unwrap_err(), &context);
        is_corrupt(&open.read_once(0..data.len() as u64).await.unwrap_err(), &context);
    }
}

#[tokio::test]
async fn of_a_sidecar() {
    let table = table().await;
    let objects = table.objects("_side/").await;
    let objects: Vec<_> = objects.into_iter().filter(|(key, _)| table.data.iter().any(|(b, _)| key.as_ref().contains(&b.id.to_string()))).collect();
    let mut dice = Dice::new(2);
    for _ in 0..2_000 {
        let (store, key, context) = table.flipped(&objects, &mut dice).await;
        let (entry, data) = table.block_of(&key);
        let storage = open(&store).await;
        let open = storage.open_block(&tenant(), entry).await.unwrap();
        assert_eq!(open.read(&[0..entry.size_bytes]).await.unwrap()[0], data, "{context}");
        // Mended where it lies.
        assert_eq!(storage.metrics().sidecars_rebuilt.get(), 1, "{context}");
        let original = &objects.iter().find(|(other, _)| *other == key).unwrap().1;
        assert_eq!(store.get(&key).await.unwrap().bytes().await.unwrap(), original, "{context}");
    }
}

#[tokio::test]
async fn of_the_tables_log() {
    let table = table().await;
    let mut noticed = 0;
    for (part, flips, seed) in [(".json", 2_500, 3), (".checkpoint.parquet", 1_500, 4), ("_last_checkpoint", 300, 5)] {
        let objects = table.objects(part).await;
        let mut dice = Dice::new(seed);
        for _ in 0..flips {
            let (store, _, context) = table.flipped(&objects, &mut dice).await;
            match open(&store).await.table(&tenant()).await {
                Ok(found) => {
                    let (found, expected) = (found.snapshot(), &table.snapshot);
                    assert_eq!((found.version, &found.blocks), (expected.version, &expected.blocks), "{context}");
                    assert_eq!(found.transactions, expected.transactions, "{context}");
                }
                Err(error) => {
                    // A checkpoint and a hint can be done without.
                    assert_eq!(part, ".json", "{context}: {error}");
                    is_corrupt(&error, &context);
                    noticed += 1;
                }
            }
        }
    }
    // The commits before the checkpoint are not read.
    assert!(noticed > 400, "{noticed}");
}

#[tokio::test]
async fn of_the_log_before_a_damaged_checkpoint() {
    let table = table().await;
    let checkpoints = table.objects(".checkpoint.parquet").await;
    table.store.put(&checkpoints[0].0, "PAR1 no".into()).await.unwrap();
    let objects = table.objects(".json").await;
    let mut dice = Dice::new(6);
    for _ in 0..1_000 {
        let (store, _, context) = table.flipped(&objects, &mut dice).await;
        match open(&store).await.table(&tenant()).await {
            // In the name of the checksum.
            Ok(found) => assert_eq!(found.snapshot().blocks, table.snapshot.blocks, "{context}"),
            Err(error) => is_corrupt(&error, &context),
        }
    }
}

#[tokio::test]
async fn of_a_claim() {
    let table = table().await;
    let objects = table.objects("_claims/").await;
    let mut dice = Dice::new(7);
    for _ in 0..500 {
        let (store, _, context) = table.flipped(&objects, &mut dice).await;
        let storage = open(&store).await;
        // Whether one gets it or waits, it is an answer; and a sweep a day later makes it good.
        storage.claim(&tenant(), "2026-11-21T07", claiming, 5_000, 6_000).await.expect(&context);
        let ages = storage::SweepAges { removed_ms: 0, orphan_ms: 86_400_000 };
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
        let swept = storage.sweep(&tenant(), ages, now + 90_000_000).await.unwrap();
        assert!(swept.claims >= 2, "{context}: {swept:?}");
        let claimed = storage.claim(&tenant(), "2026-11-21T07", claiming, 5_000, 6_000).await.unwrap();
        assert!(matches!(claimed, ClaimOutcome::Ours(_)), "{context}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_the_disk_cache() {
    let folder = tempfile::TempDir::new().unwrap();
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let written = padded_block(0, 2_000, "a", 1_800);
    let entry = Arc::new(storage_with(&memory, config()).await.put_block(&tenant(), &written).await.unwrap());
    let config = || {
        let mut config = config();
        config.cache.disk_path = Some(folder.path().join("cache"));
        config.cache.disk_capacity = bytesize::ByteSize::mib(64);
        config
    };
    let mut dice = Dice::new(8);
    let (mut hits, mut noticed) = (0, 0);
    for round in 0..26 {
        let storage = storage_with(&memory, config()).await;
        let open = storage.open_block(&tenant(), &entry).await.unwrap();
        for _ in 0..2 {
            assert!(open.read(&[0..entry.size_bytes]).await.unwrap()[0] == written.data, "round {round}");
        }
        hits += storage.metrics().chunk_hits_disk.get();
        noticed += storage.metrics().chunk_checksum_failures.get();
        storage.close().await;
        for file in std::fs::read_dir(folder.path().join("cache")).unwrap() {
            flip_what_is_used(&file.unwrap().path(), 40, &mut dice);
        }
    }
    assert!(hits > 0, "the disk was never asked");
    println!("{hits} hits on the disk, {noticed} pieces with another checksum");
}

/// Flips bits among the pages of a file that are not empty.
fn flip_what_is_used(path: &std::path::Path, flips: usize, dice: &mut Dice) {
    const PAGE: usize = 4096;
    let mut bytes = std::fs::read(path).unwrap();
    let used: Vec<usize> = (0..bytes.len() / PAGE).filter(|page| bytes[page * PAGE..][..PAGE].iter().any(|byte| *byte != 0)).collect();
    if used.is_empty() {
        return;
    }
    for _ in 0..flips {
        let bit = used[dice.below(used.len())] * PAGE * 8 + dice.below(PAGE * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    std::fs::File::create(path).unwrap().write_all(&bytes).unwrap();
}
